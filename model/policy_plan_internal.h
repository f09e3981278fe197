/* Owns the plan of packed copies: what the files that pack weights share. The plan runs twice:
 * without a base it counts, with a base it assigns. */
#ifndef HONE_MODEL_POLICY_PLAN_INTERNAL_H
#define HONE_MODEL_POLICY_PLAN_INTERNAL_H

#include "model/policy_internal.h"

struct policy_plan {
    struct policy *policy;
    float *base;             /* NULL while counting */
    struct pack_args *packs; /* NULL while counting */
    size_t n_words, n_packs;
};

/* How copies of a weight are packed, and what its values are rounded to. */
struct plan_form {
    enum precision precision, rounding;
};
struct plan_form plan_linear(const struct policy_plan *plan);
/* Of what FP8 leaves as it is. */
struct plan_form plan_unquantised(const struct policy_plan *plan);
/* Floats as they are, in every profile. */
struct plan_form plan_exact(void);

/* Room for n matrices (n_out, n_in), one behind the other. */
float *plan_reserve(struct policy_plan *plan, enum precision precision, size_t n, size_t n_in,
                    size_t n_out);
/* One copy from the flat buffer; dst may be NULL while counting. */
void plan_add(struct policy_plan *plan, size_t offset, struct pack_args args);
float *plan_at(float *base, size_t words);
/* A whole weight (n_out, n_in) as it is. */
float *plan_plain(struct policy_plan *plan, struct plan_form form, size_t offset, size_t n_in,
                  size_t n_out);

/* Weights (n, n_in) that read the same row, in ascending columns of y, each from a panel border. */
struct plan_part {
    size_t offset; /* in the flat buffer */
    size_t n, at;  /* columns, and where they begin */
    bool is_exact; /* its values are not rounded (packed as floats alone) */
};
struct plan_beside {
    struct plan_part parts[3];
    size_t n_parts, n_in;
    struct plan_form form;
};
float *plan_beside(struct policy_plan *plan, const struct plan_beside *beside);
/* Their biases as one row, laid out like the columns; parts of no columns are left out. */
float *plan_bias_row(struct policy_plan *plan, const struct plan_part *parts, size_t n_parts);

#endif
