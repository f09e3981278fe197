/* Owns what loading and saving of weights share. */
#ifndef HONE_MODEL_WEIGHTS_INTERNAL_H
#define HONE_MODEL_WEIGHTS_INTERNAL_H

#include "model/safetensors.h"
#include "model/weights.h"

/* The row that serves as the head: the embedding's when they are tied. */
const struct weight_row *weights_head_row(const struct weight_table *table);

/* An expert's matrix inside the fused tensors of newer files: mlp.experts.gate_up_proj (E, 2 F, d)
 * and mlp.experts.down_proj (E, d, F), for all families. */
struct weights_fused_part {
    char name[96];
    size_t expert, first_row; /* rows of the fused matrix before this part */
    size_t n_dims, shape[3];
};

/* Where newer files have an expert's row; false for rows of no expert. */
bool weights_fused_part(const struct weight_row *row, size_t n_experts,
                        struct weights_fused_part *out);
/* Newer files call Mixtral's block as all the others do; false for names that stay. */
bool weights_newer_name(const char *name, char *out, size_t room);

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
