/* Owns what loading and saving of weights share. */
#ifndef HONE_MODEL_WEIGHTS_INTERNAL_H
#define HONE_MODEL_WEIGHTS_INTERNAL_H

#include "model/weights.h"

/* The row that serves as the head: the embedding's when they are tied. */
const struct weight_row *weights_head_row(const struct weight_table *table);

#endif
