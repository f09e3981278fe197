/* Owns what tests of the head share: a case, its operands and logits in double. Include it after
 * cmocka.h. */
#ifndef HONE_TESTS_OPS_HEAD_FIXTURE_H
#define HONE_TESTS_OPS_HEAD_FIXTURE_H

#include "tests/ops/distribution_oracle.h"
#include "tests/ops/op_fixture.h"

#define SAMPLING_PLAIN                                                                             \
    {                                                                                              \
        .temperature = 1.0F, .top_p = 1.0F                                                         \
    }

static const struct sampling_params samplings[] = {
    SAMPLING_PLAIN,
    {.temperature = 0.7F, .top_p = 1.0F},
    {.temperature = 1.3F, .top_k = 5, .top_p = 1.0F},
    {.temperature = 1.0F, .top_p = 0.6F},
    {.temperature = 0.9F, .top_p = 1.0F, .min_p = 0.2F},
    {.temperature = 1.1F, .top_k = 9, .top_p = 0.8F, .min_p = 0.1F},
    {.temperature = 1.0F, .top_k = 1, .top_p = 1e-9F, .min_p = 1.0F},
};

#define N_SAMPLINGS (sizeof(samplings) / sizeof(samplings[0]))

struct head_case {
    size_t n_rows, d, vocab;
    float *x, *w; /* (T, d), (V, d) */
    int32_t *targets;
    float *g, *h;
    struct sampling_params sampling;
};

static inline float *pack_head(struct backend *b, const struct head_case *c)
{
    float *packed = new_floats(packed_floats(c->d, c->vocab));

    assert_ok(b->ops->pack(
        b, &(struct pack_args){
               .src = c->w, .src_stride = c->d, .n_in = c->d, .n_out = c->vocab, .dst = packed}));
    return packed;
}

/* logp, entropy, lse. */
static inline struct lm_head_args head_args(const struct head_case *c, const float *w, float *out)
{
    return (struct lm_head_args){.x = c->x,
                                 .x_stride = c->d,
                                 .w = w,
                                 .targets = c->targets,
                                 .logp = out,
                                 .entropy = out + c->n_rows,
                                 .lse = out + 2 * c->n_rows,
                                 .n_rows = c->n_rows,
                                 .d = c->d,
                                 .vocab = c->vocab,
                                 .sampling = c->sampling};
}

static inline void run_forward(struct backend *b, const void *context, float *out)
{
    const struct head_case *c = context;
    float *w = pack_head(b, c);
    const struct lm_head_args args = head_args(c, w, out);

    assert_ok(b->ops->lm_head_logprob(b, &args));
    memory_free(w);
}

/* logp, entropy, lse, then dx (T, d), dw (V, d). */
static inline void run_backward(struct backend *b, const void *context, float *out)
{
    const struct head_case *c = context;
    float *w = pack_head(b, c);
    const struct lm_head_backward_args args = {.forward = head_args(c, w, out),
                                               .weights = c->w,
                                               .g = c->g,
                                               .h = c->h,
                                               .dx = out + 3 * c->n_rows,
                                               .dx_stride = c->d,
                                               .dw = out + c->n_rows * (3 + c->d)};

    assert_ok(b->ops->lm_head_logprob(b, &args.forward));
    assert_ok(b->ops->lm_head_backward(b, &args));
    memory_free(w);
}

static inline void make_case(struct head_case *c, size_t n_rows, size_t d, size_t vocab)
{
    int32_t *targets;

    assert_ok(memory_alloc(n_rows, sizeof(*targets), &targets));
    for (size_t i = 0; i < n_rows; i++) {
        targets[i] = (int32_t)random_below(7, RANDOM_TEST, i, 0, vocab);
    }
    *c = (struct head_case){.n_rows = n_rows,
                            .d = d,
                            .vocab = vocab,
                            .x = random_floats(n_rows * d, 1, 1.0F),
                            .w = random_floats(vocab * d, 2, 2.0F / sqrtf((float)d)),
                            .targets = targets,
                            .g = random_floats(n_rows, 3, 1.0F),
                            .h = random_floats(n_rows, 4, 1.0F),
                            .sampling = SAMPLING_PLAIN};
}

static inline void drop_case(const struct head_case *c)
{
    memory_free(c->x);
    memory_free(c->w);
    memory_free(c->targets);
    memory_free(c->g);
    memory_free(c->h);
}

/* Logits of one row at parameters x (T, d), w (V, d) in double. */
static inline void oracle_logits(const struct head_case *c, const double *parameters, size_t row,
                                 double *logits)
{
    const double *x = parameters + row * c->d, *w = parameters + c->n_rows * c->d;
    for (size_t v = 0; v < c->vocab; v++) {
        logits[v] = 0.0;
        for (size_t j = 0; j < c->d; j++) {
            logits[v] += x[j] * w[v * c->d + j];
        }
    }
}

static inline double *parameters_of(const struct head_case *c)
{
    const size_t n = c->n_rows * c->d;
    double *out = new_doubles(n + c->vocab * c->d);

    for (size_t i = 0; i < n + c->vocab * c->d; i++) {
        out[i] = (double)(i < n ? c->x[i] : c->w[i - n]);
    }
    return out;
}

#endif
