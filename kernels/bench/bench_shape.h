/* Owns one case of the bench of matrix products: what it computes, on which operands, and what that
 * counts as. */
#ifndef HONE_KERNELS_BENCH_BENCH_SHAPE_H
#define HONE_KERNELS_BENCH_BENCH_SHAPE_H

#include "base/status.h"
#include "kernels/backend.h"

#include <stddef.h>
#include <stdint.h>

enum bench_form {
    FORM_Y,      /* y = x w^T */
    FORM_STREAM, /* the same of one row, by the bytes of its weights */
    FORM_DX,     /* dx = dy w, packing included */
    FORM_DW,     /* dw += dy^T x */
    FORM_EXPERTS,
    FORM_EXPERTS_BACKWARD,
};

/* n_rows tokens, n_in -> n_out; experts: d = n_in, width n_out. */
struct bench_shape {
    size_t n_rows, n_in, n_out;
    enum bench_form form;
    enum precision precision;
};

/* Operands all cases share, each as large as the largest case needs; one block, which x starts. */
struct bench_operands {
    float *x, *y, *w, *dw, *saved, *weights, *d_weights;
    int32_t *indices;
};

/* One block for the largest of n shapes; the caller frees x. Errors: NO_MEMORY. */
MUST_CHECK enum status bench_operands_make(const struct bench_shape *shapes, size_t n,
                                           struct bench_operands *out);

/* Words of a case's packed weights; experts have three matrices each, in both directions. */
size_t bench_shape_words(const struct bench_shape *shape);
/* Floats of a case's gradients, which start from zero each time. */
size_t bench_shape_gradients(const struct bench_shape *shape);
double bench_shape_flop(const struct bench_shape *shape);
MUST_CHECK enum status bench_shape_run(struct backend *backend, const struct bench_shape *shape,
                                       const struct bench_operands *operands);

#endif
