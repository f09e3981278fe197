/* Owns what the tests of attention share: cases of every shape, paged caches filled from them, and
 * whole sequences run forward and backward. */
#ifndef HONE_TESTS_OPS_ATTENTION_FIXTURE_H
#define HONE_TESTS_OPS_ATTENTION_FIXTURE_H

#include "base/hash.h"
#include "model/quant.h"
#include "tests/ops/paged_cache.h"

#include <math.h>

#define MAX_SPANS CACHE_SEQUENCES_MAX
#define SCALE 0.31F

/* n_kv 0: absorbed MLA, whose value is its key's first part. Else grouped heads, dr 0. n_selected
 * 0: every row sees all. */
struct shape {
    size_t n_heads, rk, dr;
    size_t n_kv;
    size_t n_selected;
    enum precision cache; /* BF16, FP8: queries and entries are values that it holds, too */
};

static inline size_t entry_width(struct shape s)
{
    return s.n_kv == 0 ? s.rk + s.dr : 2 * s.n_kv * s.rk;
}

static inline struct shape in_bf16(struct shape shape)
{
    shape.cache = PRECISION_BF16;
    return shape;
}

/* Where the key or the value of a query head begins in an entry. */
static inline size_t key_at(struct shape s, size_t head)
{
    return s.n_kv == 0 ? 0 : head / (s.n_heads / s.n_kv) * s.rk;
}

static inline size_t value_at(struct shape s, size_t head)
{
    return s.n_kv * s.rk + key_at(s, head);
}

/* Whole sequences packed one after another; rows of all operands are adjacent. */
struct attention_case {
    struct shape shape;
    enum precision products; /* of gradients */
    size_t n_sequences, lengths[MAX_SPANS];
    size_t n_rows;
    float *q_latent, *q_rope, *entries, *d_out; /* entries: (T, entry_width) */
    int32_t *selected;                          /* (T, n_selected), or NULL */
};

/* Of a row at position t: min(n_selected, t + 1) different positions up to t by chance, ascending.
 */
static inline void select_keys(size_t row, size_t t, size_t k, int32_t *selected)
{
    size_t n = 0;

    for (size_t key = 0; key <= t && n < k; key++) {
        const uint64_t number = row * 1000 + key;
        const size_t left = t + 1 - key;
        if (left <= k - n || hash_64(&number, sizeof(number)) % left < k - n) {
            selected[n++] = (int32_t)key;
        }
    }
    while (n < k) {
        selected[n++] = -1;
    }
}

static inline void make_selection(struct attention_case *c)
{
    const size_t k = c->shape.n_selected;
    size_t row = 0;

    assert_ok(memory_alloc(c->n_rows * k, sizeof(int32_t), &c->selected));
    for (size_t s = 0; s < c->n_sequences; s++) {
        for (size_t t = 0; t < c->lengths[s]; t++, row++) {
            select_keys(row, t, k, c->selected + row * k);
        }
    }
}

/* To nearest even; there are no subnormals among the operands. */
static inline void round_to_bf16(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &x[i], sizeof(bits));
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000U;
        memcpy(&x[i], &bits, sizeof(bits));
    }
}

/* Values that codes under a scale a tile hold (model.md 10.2). */
static inline void round_to_codes(float *x, size_t n)
{
    for (size_t at = 0; at < n; at += QUANT_BLOCK) {
        const size_t width = n - at < QUANT_BLOCK ? n - at : QUANT_BLOCK;
        uint8_t codes[QUANT_BLOCK];
        float scale;

        quant_matrix(x + at, 1, width, 1, codes, &scale);
        for (size_t i = 0; i < width; i++) {
            x[at + i] = quant_e4m3_value(codes[i]) * scale;
        }
    }
}

/* What FP8 pages hold of an entry: everything coded but MLA's rotary key. */
static inline void round_entry(struct shape s, float *entry)
{
    const size_t n_groups = s.n_kv == 0 ? 1 : 2 * s.n_kv;

    for (size_t i = 0; i < n_groups; i++) {
        round_to_codes(entry + i * s.rk, s.rk);
    }
    round_to_bf16(entry + n_groups * s.rk, s.dr);
}

static inline void round_operands(struct attention_case *c)
{
    const size_t n_pairs = c->n_rows * c->shape.n_heads, width = entry_width(c->shape);

    round_to_bf16(c->q_latent, n_pairs * c->shape.rk);
    round_to_bf16(c->q_rope, n_pairs * c->shape.dr);
    for (size_t i = 0; c->shape.cache == PRECISION_FP8 && i < c->n_rows; i++) {
        round_entry(c->shape, c->entries + i * width);
    }
    round_to_bf16(c->entries, c->n_rows * width);
}

static inline void make_case(struct attention_case *c, struct shape shape, size_t n_sequences,
                             const size_t *lengths)
{
    *c = (struct attention_case){.shape = shape, .n_sequences = n_sequences};
    for (size_t s = 0; s < n_sequences; s++) {
        c->lengths[s] = lengths[s];
        c->n_rows += lengths[s];
    }
    c->q_latent = random_floats(c->n_rows * shape.n_heads * shape.rk, 1, 1.0F);
    c->q_rope = random_floats(c->n_rows * shape.n_heads * shape.dr, 2, 1.0F);
    c->entries = random_floats(c->n_rows * entry_width(shape), 3, 1.0F);
    c->d_out = random_floats(c->n_rows * shape.n_heads * shape.rk, 4, 1.0F);
    if (shape.cache != PRECISION_F32) {
        round_operands(c);
    }
    if (shape.n_selected > 0) {
        make_selection(c);
    }
}

static inline void drop_case(struct attention_case *c)
{
    memory_free(c->q_latent);
    memory_free(c->q_rope);
    memory_free(c->entries);
    memory_free(c->d_out);
    memory_free(c->selected);
}

/* Fresh slots hold NaN, of either width: what no token wrote must not be used. */
static inline void make_cache(const struct attention_case *c, enum precision precision,
                              struct cache *cache)
{
    const size_t n_coded = c->shape.n_kv == 0 ? c->shape.rk : entry_width(c->shape);
    struct kv_pages pages = {.precision = precision};

    if (precision == PRECISION_FP8) {
        pages.n_coded = n_coded;
        pages.coded_group = c->shape.rk;
    }
    pages.entry_stride = kv_entry_words(&pages, entry_width(c->shape)) + 3;
    cache_allocate(pages, c->n_sequences, c->lengths, cache);
    memset(cache->pages.data, 0xff, cache_floats(cache) * sizeof(float));
}

/* Gradients of the pages of a case: floats, from zero on. */
static inline void make_gradient_cache(const struct attention_case *c, struct cache *cache)
{
    make_cache(c, PRECISION_F32, cache);
    memset(cache->pages.data, 0, cache_floats(cache) * sizeof(float));
}

static inline void copy_entries(struct backend *b, const struct attention_case *c,
                                const struct kv_span *spans, size_t n_spans,
                                const struct cache *cache, float *entries, bool to_pages)
{
    const size_t width = entry_width(c->shape);
    const size_t first = c->shape.n_kv == 0 ? c->shape.rk : c->shape.n_kv * c->shape.rk;
    assert_ok(b->ops->kv_copy(b, &(struct kv_copy_args){.latent = entries,
                                                        .latent_stride = width,
                                                        .rope_key = entries + first,
                                                        .rope_key_stride = width,
                                                        .spans = spans,
                                                        .n_spans = n_spans,
                                                        .pages = cache->pages,
                                                        .rk = first,
                                                        .dr = width - first,
                                                        .to_pages = to_pages}));
}

static inline struct attention_args forward_args(const struct attention_case *c,
                                                 const struct cache *cache,
                                                 const struct kv_span *spans, size_t n_spans,
                                                 float *out)
{
    const struct shape s = c->shape;
    return (struct attention_args){.q = c->q_latent,
                                   .q_stride = s.n_heads * s.rk,
                                   .q_head_stride = s.rk,
                                   .q_rope = s.dr == 0 ? NULL : c->q_rope,
                                   .q_rope_stride = s.n_heads * s.dr,
                                   .q_rope_head_stride = s.dr,
                                   .pages = cache->pages,
                                   .spans = spans,
                                   .n_spans = n_spans,
                                   .out = out,
                                   .out_stride = s.n_heads * s.rk,
                                   .lse = out + c->n_rows * s.n_heads * s.rk,
                                   .n_heads = s.n_heads,
                                   .n_kv_heads = s.n_kv == 0 ? 1 : s.n_kv,
                                   .key_dim = s.rk,
                                   .rope_dim = s.dr,
                                   .kv_head_stride = s.n_kv == 0 ? 0 : s.rk,
                                   .value_at = s.n_kv * s.rk,
                                   .value_dim = s.rk,
                                   .scale = SCALE,
                                   .selected = c->selected,
                                   .n_selected = s.n_selected};
}

static inline size_t out_floats(const struct attention_case *c)
{
    return c->n_rows * c->shape.n_heads * (c->shape.rk + 1);
}

static inline void run_whole(struct backend *b, const void *context, float *out)
{
    const struct attention_case *c = context;
    struct kv_span spans[MAX_SPANS];
    struct cache cache;

    make_cache(c, c->shape.cache, &cache);
    whole_spans(c->n_sequences, c->lengths, &cache, spans);
    copy_entries(b, c, spans, c->n_sequences, &cache, c->entries, true);
    const struct attention_args args = forward_args(c, &cache, spans, c->n_sequences, out);
    assert_ok(b->ops->attention(b, &args));
    drop_cache(&cache);
}

/* out then dq_latent, dq_rope, d_entries. */
static inline void run_backward(struct backend *b, const void *context, float *out)
{
    const struct attention_case *c = context;
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    float *const dq_latent = out + out_floats(c), *const dq_rope =
                                                      dq_latent + n_pairs * c->shape.rk;
    struct kv_span spans[MAX_SPANS];
    struct cache cache, d_cache;

    make_cache(c, c->shape.cache, &cache);
    make_gradient_cache(c, &d_cache);
    whole_spans(c->n_sequences, c->lengths, &cache, spans);
    copy_entries(b, c, spans, c->n_sequences, &cache, c->entries, true);
    const struct attention_backward_args args = {
        .forward = forward_args(c, &cache, spans, c->n_sequences, out),
        .d_out = c->d_out,
        .dq = dq_latent,
        .dq_rope = c->shape.dr == 0 ? NULL : dq_rope,
        .d_pages = d_cache.pages,
        .precision = c->products};
    assert_ok(b->ops->attention(b, &args.forward));
    assert_ok(b->ops->attention_backward(b, &args));
    copy_entries(b, c, spans, c->n_sequences, &d_cache, dq_rope + n_pairs * c->shape.dr, false);
    drop_cache(&d_cache);
    drop_cache(&cache);
}

static inline double *operands(const struct attention_case *c, size_t *n)
{
    const size_t n_pairs = c->n_rows * c->shape.n_heads, width = entry_width(c->shape);
    double *x = new_doubles(n_pairs * (c->shape.rk + c->shape.dr) + c->n_rows * width), *at = x;

    for (size_t i = 0; i < n_pairs * c->shape.rk; i++) {
        *at++ = (double)c->q_latent[i];
    }
    for (size_t i = 0; i < n_pairs * c->shape.dr; i++) {
        *at++ = (double)c->q_rope[i];
    }
    for (size_t i = 0; i < c->n_rows * width; i++) {
        *at++ = (double)c->entries[i];
    }
    *n = (size_t)(at - x);
    return x;
}

static const struct shape shapes[] = {
    {1, 1, 2, 0, 0, PRECISION_F32},   {3, 7, 2, 0, 0, PRECISION_F32},
    {4, 64, 16, 0, 0, PRECISION_F32}, {8, 17, 6, 0, 0, PRECISION_F32},
    {2, 127, 8, 0, 0, PRECISION_F32}, {5, 129, 4, 0, 0, PRECISION_F32},
    {70, 8, 2, 0, 0, PRECISION_F32},  {8, 64, 32, 0, 0, PRECISION_F32}};
/* MHA, GQA, MQA. */
static const struct shape grouped[] = {
    {1, 1, 0, 1, 0, PRECISION_F32},   {4, 7, 0, 4, 0, PRECISION_F32},
    {6, 8, 0, 3, 0, PRECISION_F32},   {4, 17, 0, 1, 0, PRECISION_F32},
    {8, 64, 0, 2, 0, PRECISION_F32},  {2, 127, 0, 2, 0, PRECISION_F32},
    {6, 129, 0, 2, 0, PRECISION_F32}, {70, 8, 0, 70, 0, PRECISION_F32},
    {130, 8, 0, 2, 0, PRECISION_F32}};
/* The same with a selection. */
static const struct shape sparse[] = {{1, 1, 2, 0, 1, PRECISION_F32},
                                      {3, 7, 2, 0, 4, PRECISION_F32},
                                      {4, 64, 16, 0, 17, PRECISION_F32},
                                      {70, 8, 2, 0, 6, PRECISION_F32},
                                      {6, 8, 0, 3, 16, PRECISION_F32}};

#endif
