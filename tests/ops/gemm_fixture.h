/* Owns what tests of the products share: a problem with its operands, and what computes it. Include
 * it after cmocka.h. */
#ifndef HONE_TESTS_OPS_GEMM_FIXTURE_H
#define HONE_TESTS_OPS_GEMM_FIXTURE_H

#include "tests/ops/op_fixture.h"

/* One problem with its operands; rows are padded so that strides differ from widths. */
struct problem {
    enum precision precision; /* of the product */
    size_t n_rows, n_in, n_out, n_batch;
    size_t x_stride, y_stride;
    bool has_bias, accumulate;
    float *x, *w, *y, *bias;
};

static inline struct problem problem_make(size_t n_rows, size_t n_in, size_t n_out, size_t n_batch)
{
    struct problem p = {.n_rows = n_rows, .n_in = n_in, .n_out = n_out, .n_batch = n_batch};
    p.x_stride = n_in + 3;
    p.y_stride = n_out + 5;
    p.x = random_floats(n_batch * n_rows * p.x_stride, 1, 1.0F);
    p.w = random_floats(n_batch * n_out * n_in, 2, 1.0F);
    p.y = random_floats(n_batch * n_rows * p.y_stride, 3, 1.0F);
    p.bias = random_floats(n_out, 4, 1.0F);
    return p;
}

static inline void problem_free(struct problem *p)
{
    memory_free(p->x);
    memory_free(p->w);
    memory_free(p->y);
    memory_free(p->bias);
}

static inline size_t y_floats(const struct problem *p)
{
    return p->n_batch * p->n_rows * p->y_stride;
}

static inline size_t w_floats(const struct problem *p)
{
    return p->n_batch * p->n_out * p->n_in;
}

static inline void run_gemm(struct backend *backend, const void *context, float *out)
{
    const struct problem *p = context;
    const size_t words = packed_words(p->precision, p->n_in, p->n_out);
    float *packed = new_floats(p->n_batch * words);
    for (size_t b = 0; b < p->n_batch; b++) {
        assert_ok(backend->ops->pack(backend, &(struct pack_args){
                                                  .src = p->w + b * p->n_out * p->n_in,
                                                  .src_stride = p->n_in,
                                                  .n_in = p->n_in,
                                                  .n_out = p->n_out,
                                                  .dst = packed + b * words,
                                                  .precision = p->precision,
                                              }));
    }
    memcpy(out, p->y, y_floats(p) * sizeof(*out));
    assert_ok(backend->ops->gemm(backend, &(struct gemm_args){
                                              .x = p->x,
                                              .x_stride = p->x_stride,
                                              .w = packed,
                                              .precision = p->precision,
                                              .bias = p->has_bias ? p->bias : NULL,
                                              .next = p->accumulate ? NULL : packed,
                                              .y = out,
                                              .y_stride = p->y_stride,
                                              .n_rows = p->n_rows,
                                              .n_in = p->n_in,
                                              .n_out = p->n_out,
                                              .n_batch = p->n_batch,
                                              .x_batch = p->n_rows * p->x_stride,
                                              .w_batch = words,
                                              .y_batch = p->n_rows * p->y_stride,
                                              .accumulate = p->accumulate,
                                          }));
    memory_free(packed);
}

/* The bits of `exact` on every backend. */
static inline void check_products(const struct problem *p,
                                  void (*exact)(const struct problem *p, float *out))
{
    float *got = new_floats(y_floats(p));
    float *want = new_floats(y_floats(p));
    char what[96];
    (void)snprintf(what, sizeof(what), "precision %d, %zu x %zu x %zu, %zu batches",
                   (int)p->precision, p->n_rows, p->n_in, p->n_out, p->n_batch);
    exact(p, want);
    run_everywhere(run_gemm, p, y_floats(p), got);
    assert_same_bits(what, got, want, y_floats(p));
    memory_free(got);
    memory_free(want);
}

#endif
