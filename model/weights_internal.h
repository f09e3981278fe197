/* Owns what loading and saving of weights share. */
#ifndef HONE_MODEL_WEIGHTS_INTERNAL_H
#define HONE_MODEL_WEIGHTS_INTERNAL_H

#include "model/safetensors.h"
#include "model/weights.h"

/* The row that serves as the head: the embedding's when they are tied. */
const struct weight_row *weights_head_row(const struct weight_table *table);

/* The tensors of a file: every row, then for each MTP module its copies of embedding and head. */
struct weights_list {
    struct tensor *tensors; /* F32, data borrowed */
    size_t count;
    char (*names)[96]; /* of the copies */
};
MUST_CHECK enum status weights_list_create(const struct model_config *config,
                                           const struct weight_table *table, const float *data,
                                           struct weights_list *out);
void weights_list_dispose(struct weights_list *list);

#endif
