/* Owns the plan of packed copies: what the files that pack weights share. The plan runs twice:
 * without a base it counts, with a base it assigns. */
#ifndef HONE_MODEL_POLICY_PLAN_INTERNAL_H
#define HONE_MODEL_POLICY_PLAN_INTERNAL_H

#include "model/policy_internal.h"

struct policy_plan {
    struct policy *policy;
    float *base;             /* NULL while counting */
    struct pack_args *packs; /* NULL while counting */
    size_t n_floats, n_packs;
};

/* Room for n matrices (n_out, n_in), one behind the other. */
float *plan_reserve(struct policy_plan *plan, size_t n, size_t n_in, size_t n_out);
/* One copy from the flat buffer; dst may be NULL while counting. */
void plan_add(struct policy_plan *plan, size_t offset, struct pack_args args);
float *plan_at(float *base, size_t floats);
/* A whole weight (n_out, n_in) as it is. */
float *plan_plain(struct policy_plan *plan, size_t offset, size_t n_in, size_t n_out);
/* The transpose of a weight stored as (n_in, n_out). */
float *plan_transposed(struct policy_plan *plan, size_t offset, size_t n_in, size_t n_out);

/* Weights (n, n_in) that read the same row, in ascending columns of y, each from a panel border. */
struct plan_part {
    size_t offset; /* in the flat buffer */
    size_t n, at;  /* columns, and where they begin */
};
struct plan_beside {
    struct plan_part parts[3];
    size_t n_parts, n_in;
};
float *plan_beside(struct policy_plan *plan, const struct plan_beside *beside);
/* The transpose: the gradients side by side are its input. */
float *plan_beside_transposed(struct policy_plan *plan, const struct plan_beside *beside);
/* Their biases as one row, laid out like the columns; parts of no columns are left out. */
float *plan_bias_row(struct policy_plan *plan, const struct plan_part *parts, size_t n_parts);

#endif
