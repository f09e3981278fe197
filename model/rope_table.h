/* Owns rotary angles: plain frequencies or scaled ones, as tables of cosines and sines that already
 * carry the attention factor (model.md 5.1). */
#ifndef HONE_MODEL_ROPE_TABLE_H
#define HONE_MODEL_ROPE_TABLE_H

#include "model/model_config.h"

#include <stddef.h>

/* Frequency of pair i < model_config_rope_dim / 2, in radians a position. */
double rope_frequency(const struct model_config *config, size_t i);
/* The multiplier of cosines and sines: 1 without YaRN. */
double rope_attention_factor(const struct model_config *config);
/* cos_table, sin_table (n_positions, model_config_rope_dim / 2) out. Computed in double, rounded
 * once.
 */
void rope_table_fill(const struct model_config *config, size_t n_positions, float *cos_table,
                     float *sin_table);

#endif
