/* Owns what the tests of the indexer share: cases, paged index keys, selections of whole sequences
 * and in steps, and scores in double. */
#ifndef HONE_TESTS_OPS_INDEX_FIXTURE_H
#define HONE_TESTS_OPS_INDEX_FIXTURE_H

#include "tests/ops/paged_cache.h"

#include <math.h>

#define MAX_SPANS 4
#define SCALE 0.31F
#define COEFFICIENT 0.7F

/* Indexer: heads of dim, n_selected of each row; attention: main_heads with keys of width. */
struct shape {
    size_t heads, dim, n_selected, main_heads, width;
};

struct index_case {
    struct shape shape;
    size_t n_sequences, lengths[MAX_SPANS], n_rows, longest;
    float *q, *w, *main_q, *entries; /* entries: (T, width + dim) */
};

static inline size_t entry_width(const struct index_case *c)
{
    return c->shape.width + c->shape.dim;
}

static inline void make_case(struct index_case *c, struct shape shape, size_t n_sequences,
                             const size_t *lengths)
{
    *c = (struct index_case){.shape = shape, .n_sequences = n_sequences};
    for (size_t s = 0; s < n_sequences; s++) {
        c->lengths[s] = lengths[s];
        c->n_rows += lengths[s];
        c->longest = lengths[s] > c->longest ? lengths[s] : c->longest;
    }
    c->q = random_floats(c->n_rows * shape.heads * shape.dim, 1, 1.0F);
    c->w = random_floats(c->n_rows * shape.heads, 2, 1.0F);
    c->main_q = random_floats(c->n_rows * shape.main_heads * shape.width, 3, 1.0F);
    c->entries = random_floats(c->n_rows * entry_width(c), 4, 1.0F);
}

static inline void drop_case(struct index_case *c)
{
    memory_free(c->q);
    memory_free(c->w);
    memory_free(c->main_q);
    memory_free(c->entries);
}

/* Slots that no token wrote hold `fresh`. */
static inline void make_cache(const struct index_case *c, float fresh, struct cache *cache)
{
    const struct kv_pages pages = {.entry_stride = entry_width(c) + 3};

    cache_allocate(pages, c->n_sequences, c->lengths, cache);
    for (size_t i = 0; i < cache_floats(cache); i++) {
        cache->pages.data[i] = fresh;
    }
}

static inline void copy_entries(struct backend *b, const struct index_case *c,
                                const struct kv_span *spans, size_t n_spans,
                                const struct cache *cache, float *entries, bool to_pages)
{
    const size_t width = entry_width(c);
    assert_ok(b->ops->kv_copy(b, &(struct kv_copy_args){.latent = entries,
                                                        .latent_stride = width,
                                                        .rope_key = entries + c->shape.width,
                                                        .rope_key_stride = width,
                                                        .spans = spans,
                                                        .n_spans = n_spans,
                                                        .pages = cache->pages,
                                                        .rk = c->shape.width,
                                                        .dr = c->shape.dim,
                                                        .to_pages = to_pages}));
}

static inline struct index_args index_args(const struct index_case *c, const struct cache *cache,
                                           const struct kv_span *spans, size_t n_spans,
                                           int32_t *selected)
{
    const struct shape s = c->shape;
    return (struct index_args){.q = c->q,
                               .q_stride = s.heads * s.dim,
                               .w = c->w,
                               .w_stride = s.heads,
                               .pages = cache->pages,
                               .key_at = s.width,
                               .spans = spans,
                               .n_spans = n_spans,
                               .n_heads = s.heads,
                               .dim = s.dim,
                               .scale = SCALE,
                               .selected = selected,
                               .n_selected = s.n_selected};
}

static inline size_t select_floats(const struct index_case *c)
{
    return c->n_rows * (c->longest + c->shape.n_selected);
}

/* Pieces of `step` rows, all sequences side by side: scores (T, longest) then selections as floats.
 */
static inline void select_in_steps(struct backend *b, const struct index_case *c, size_t step,
                                   float *out)
{
    const size_t n = c->n_rows * c->shape.n_selected;
    struct kv_span spans[MAX_SPANS];
    struct cache cache;
    int32_t *selected;

    make_cache(c, NAN, &cache);
    assert_ok(memory_alloc(n, sizeof(*selected), &selected));
    for (size_t at = 0; at < c->longest; at += step) {
        const size_t n_spans = step_spans(c->n_sequences, c->lengths, &cache, at, step, spans);
        copy_entries(b, c, spans, n_spans, &cache, c->entries, true);
        struct index_args args = index_args(c, &cache, spans, n_spans, selected);
        args.scores = out;
        args.scores_stride = c->longest;
        assert_ok(b->ops->index_select(b, &args));
    }
    for (size_t i = 0; i < n; i++) {
        out[c->n_rows * c->longest + i] = (float)selected[i];
    }
    memory_free(selected);
    drop_cache(&cache);
}

static inline void run_select(struct backend *b, const void *context, float *out)
{
    const struct index_case *c = context;
    select_in_steps(b, c, c->longest, out);
}

/* x: q, w, index keys of all rows. */
struct oracle_view {
    const double *q, *w, *keys;
};

static inline struct oracle_view view_of(const struct index_case *c, const double *x)
{
    const size_t n_q = c->n_rows * c->shape.heads * c->shape.dim;
    return (struct oracle_view){x, x + n_q, x + n_q + c->n_rows * c->shape.heads};
}

static inline double oracle_score(const struct index_case *c, const struct oracle_view *v,
                                  size_t row, size_t key)
{
    const struct shape s = c->shape;
    double score = 0.0;

    for (size_t h = 0; h < s.heads; h++) {
        double z = 0.0;
        for (size_t j = 0; j < s.dim; j++) {
            z += v->q[(row * s.heads + h) * s.dim + j] * v->keys[key * s.dim + j];
        }
        score += z > 0.0 ? z * v->w[row * s.heads + h] : 0.0;
    }
    return (double)SCALE * score;
}

static inline double *operands(const struct index_case *c, size_t *n)
{
    const struct shape s = c->shape;
    double *x = new_doubles(c->n_rows * (s.heads * s.dim + s.heads + s.dim)), *at = x;

    for (size_t i = 0; i < c->n_rows * s.heads * s.dim; i++) {
        *at++ = (double)c->q[i];
    }
    for (size_t i = 0; i < c->n_rows * s.heads; i++) {
        *at++ = (double)c->w[i];
    }
    for (size_t i = 0; i < c->n_rows * s.dim; i++) {
        *at++ = (double)c->entries[i / s.dim * entry_width(c) + s.width + i % s.dim];
    }
    *n = (size_t)(at - x);
    return x;
}

static const struct shape shapes[] = {
    {1, 1, 1, 1, 1}, {2, 7, 5, 1, 1}, {4, 16, 6, 1, 1}, {70, 8, 16, 1, 1}, {3, 129, 40, 1, 1}};

#endif
