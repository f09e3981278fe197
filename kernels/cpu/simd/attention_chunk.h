/* Owns how attention and the indexer cut their work: chunks of rows, where the keys of a chunk lie
 * (pages in order, or the selected entries gathered), and which thread does what. */
#ifndef HONE_KERNELS_CPU_SIMD_ATTENTION_CHUNK_H
#define HONE_KERNELS_CPU_SIMD_ATTENTION_CHUNK_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/attention_tile.h"
#include "kernels/cpu/simd/kv_codes.h"

#include <string.h>

#define CHUNK_PAIRS ((size_t)64) /* (query, head) pairs a chunk holds, if a row has no more */

/* Rows i .. i + n_rows - 1 of a span with the heads of one KV head. A pair is one row and one of
 * these heads: pair = r * group + head. */
struct chunk {
    const struct kv_span *span;
    size_t i, n_rows;
    size_t kv_head;
    const int32_t *picked; /* (n_keys) positions of the only row's keys; NULL: all up to its own */
    size_t n_keys;         /* of the last row */
};

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Query heads of a KV head. */
static inline size_t group_heads(const struct attention_args *a)
{
    return a->n_heads / a->n_kv_heads;
}

/* Floats of a key. */
static inline size_t key_width(const struct attention_args *a)
{
    return a->key_dim + a->rope_dim;
}

/* Whether a value is a part of its key. */
static inline bool values_are_in_keys(const struct attention_args *a)
{
    return a->value_at + a->value_dim <= key_width(a);
}

/* Rows of a span that are worked on together, by the heads that share a key. */
static inline size_t chunk_rows(size_t group)
{
    return group < CHUNK_PAIRS ? CHUNK_PAIRS / group : 1;
}

static inline size_t max_pairs(size_t group)
{
    return chunk_rows(group) * group;
}

/* Rows from i on, as many as a chunk takes. */
static inline struct chunk chunk_at(const struct kv_span *span, size_t i, size_t max_rows)
{
    const size_t n_rows = smaller(span->n_rows - i, max_rows);

    return (struct chunk){
        .span = span, .i = i, .n_rows = n_rows, .n_keys = span->n_cached + i + n_rows};
}

/* Row r of a chunk alone, with the keys that were selected for it: all it sees if those are few. */
static inline struct chunk chunk_row(const struct chunk *c, size_t r, const int32_t *selected,
                                     size_t n_selected)
{
    struct chunk row = *c;
    const size_t seen = c->span->n_cached + c->i + r + 1;

    row.i = c->i + r;
    row.n_rows = 1;
    row.n_keys = smaller(seen, n_selected);
    row.picked = seen > n_selected ? selected + (c->span->first_row + row.i) * n_selected : NULL;
    return row;
}

/* Keys that row r of the chunk sees. */
static inline size_t chunk_seen(const struct chunk *c, size_t r)
{
    return c->n_keys - (c->n_rows - 1 - r);
}

/* The row of the batch, and the query head, of a pair. */
static inline size_t pair_row(const struct chunk *c, size_t pair, size_t group)
{
    return c->span->first_row + c->i + pair / group;
}

static inline size_t pair_head(const struct chunk *c, size_t pair, size_t group)
{
    return c->kv_head * group + pair % group;
}

static inline void copy_floats(const float *from, size_t n, float *to)
{
    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        lanes_store(to + j, lanes_load(from + j, left), left);
    }
}

/* One query as adjacent floats [first part | second part]. */
static inline void gather_query(const struct attention_args *a, size_t row, size_t head, float *to)
{
    copy_floats(a->q + row * a->q_stride + head * a->q_head_stride, a->key_dim, to);
    if (a->rope_dim > 0) {
        copy_floats(a->q_rope + row * a->q_rope_stride + head * a->q_rope_head_stride, a->rope_dim,
                    to + a->key_dim);
    }
}

/* The same as the forward's products take it: rounded where the keys are. */
static inline void gather_rounded_query(const struct attention_args *a, size_t row, size_t head,
                                        float *to)
{
    const size_t n = key_width(a);

    gather_query(a, row, head, to);
    for (size_t j = 0; a->pages.precision != PRECISION_F32 && j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        lanes_store(to + j, vec_round_bf16(lanes_load(to + j, left)), left);
    }
}

/* First entry of the page that holds token `token`. */
static inline float *page_of(const struct kv_pages *pages, const struct kv_span *span, size_t token)
{
    return pages->data + (size_t)span->blocks[token / KV_BLOCK_TOKENS] * pages->page_stride;
}

static inline float *entry_of(const struct kv_pages *pages, const struct kv_span *span,
                              size_t token)
{
    return page_of(pages, span, token) + token % KV_BLOCK_TOKENS * pages->entry_stride;
}

static inline uint16_t *halves_at(float *words)
{
    void *const values = words;

    return values;
}

/* A part of the entries of one key block: key k is steps[k / 16] + k % 16 * stride. What is there
 * are floats, or words of two halves. */
struct key_rows {
    const float *steps[STEPS_PER_BLOCK];
    size_t stride;
};

/* Keys first .. first + n - 1 of a chunk, and of their entries `width` floats from `at` on. */
struct key_part {
    size_t first, n;
    size_t at, width;
};

/* A part of keys where they are: of a chunk that picks none. */
static inline void locate_seen_keys(const struct kv_pages *pages, const struct chunk *c,
                                    const struct key_part *part, struct key_rows *out)
{
    out->stride = pages->entry_stride;
    for (size_t k = 0; k < part->n; k += KV_STEP_TOKENS) {
        out->steps[k / KV_STEP_TOKENS] = entry_of(pages, c->span, part->first + k) + part->at;
    }
}

/* A part of picked keys, copied to gathered (KEY_BLOCK, width). */
static inline void gather_keys(const struct kv_pages *pages, const struct chunk *c,
                               const struct key_part *part, float *gathered, struct key_rows *out)
{
    out->stride = part->width;
    for (size_t k = 0; k < part->n; k++) {
        const size_t token = (size_t)c->picked[part->first + k];
        float *row = gathered + k * part->width;

        memcpy(row, entry_of(pages, c->span, token) + part->at, part->width * sizeof(float));
        if (k % KV_STEP_TOKENS == 0) {
            out->steps[k / KV_STEP_TOKENS] = row;
        }
    }
}

/* Values [at, at + width) of an entry as floats. */
static inline void widen_entry(const struct kv_pages *pages, const float *entry, size_t at,
                               size_t width, float *to)
{
    for (size_t done = 0; done < width;) {
        const struct code_run run = page_run_at(pages, at + done, at + width);

        for (size_t j = 0; j < run.n; j += SIMD_LANES) {
            const size_t left = lanes_left(j, run.n);
            lanes_store(to + done + j, code_run_load(&run, entry, j, left), left);
        }
        done += run.n;
    }
}

/* Token of key k of a part. */
static inline size_t part_token(const struct chunk *c, const struct key_part *part, size_t k)
{
    return c->picked == NULL ? part->first + k : (size_t)c->picked[part->first + k];
}

/* A part of keys of bfloat16 or FP8 pages as floats, in gathered (KEY_BLOCK, width). */
static inline void widen_keys(const struct kv_pages *pages, const struct chunk *c,
                              const struct key_part *part, float *gathered, struct key_rows *out)
{
    out->stride = part->width;
    for (size_t k = 0; k < part->n; k++) {
        const float *entry = entry_of(pages, c->span, part_token(c, part, k));
        float *row = gathered + k * part->width;

        widen_entry(pages, entry, part->at, part->width, row);
        if (k % KV_STEP_TOKENS == 0) {
            out->steps[k / KV_STEP_TOKENS] = row;
        }
    }
}

/* As floats, in pages of any precision. */
static inline void locate_keys(const struct kv_pages *pages, const struct chunk *c,
                               const struct key_part *part, float *gathered, struct key_rows *out)
{
    if (pages->precision != PRECISION_F32) {
        widen_keys(pages, c, part, gathered, out);
    } else if (c->picked == NULL) {
        locate_seen_keys(pages, c, part, out);
    } else {
        gather_keys(pages, c, part, gathered, out);
    }
}

/* Whether the words of a part lie in the pages as they are: else they are gathered. */
static inline bool has_words(const struct kv_pages *pages, const struct chunk *c,
                             const struct key_part *part)
{
    return pages->precision == PRECISION_BF16 && c->picked == NULL && part->at % 2 == 0;
}

/* One run of a part's keys as bfloat16, rows of `to` twice `stride` halves apart. */
static inline void expand_keys(const struct kv_pages *pages, const struct chunk *c,
                               const struct key_part *part, const struct code_run *run,
                               uint16_t *to, size_t stride)
{
    const size_t entry_bytes = pages->entry_stride * sizeof(float), n_keys = part->n;
    const size_t step = c->picked == NULL ? KV_STEP_TOKENS : 1;

    for (size_t k = 0; k < n_keys; k += step) {
        expand_run(*run, entry_of(pages, c->span, part_token(c, part, k)), entry_bytes,
                   smaller(n_keys - k, step), to + 2 * k * stride, 2 * stride);
    }
}

/* A part of bfloat16 or FP8 keys as words of two values. gathered (KEY_BLOCK, half of the width).
 */
static inline void locate_words(const struct kv_pages *pages, const struct chunk *c,
                                const struct key_part *part, float *gathered, struct key_rows *out)
{
    const struct key_part words = {part->first, part->n, part->at / 2, (part->width + 1) / 2};
    const size_t end = part->at + part->width;
    struct code_run run;

    if (has_words(pages, c, part)) {
        locate_seen_keys(pages, c, &words, out);
        return;
    }
    out->stride = words.width;
    for (size_t at = part->at; at < end; at += run.n) {
        run = page_run_at(pages, at, end);
        expand_keys(pages, c, part, &run, halves_at(gathered) + (at - part->at), words.width);
    }
    for (size_t k = 0; k < part->n; k += KV_STEP_TOKENS) {
        out->steps[k / KV_STEP_TOKENS] = gathered + k * words.width;
    }
}

/* Keys and values of a block as floats; gathered holds gathered_floats. */
static inline void locate_block(const struct attention_args *a, const struct chunk *c,
                                size_t first_key, size_t n_keys, float *gathered,
                                struct key_rows *keys, struct key_rows *values)
{
    struct key_part part = {first_key, n_keys, c->kv_head * a->kv_head_stride, key_width(a)};

    locate_keys(&a->pages, c, &part, gathered, keys);
    if (!values_are_in_keys(a)) {
        part.at += a->value_at;
        part.width = a->value_dim;
        locate_keys(&a->pages, c, &part, gathered + KEY_BLOCK * key_width(a), values);
        return;
    }
    *values = *keys;
    for (size_t k = 0; k < n_keys; k += KV_STEP_TOKENS) {
        values->steps[k / KV_STEP_TOKENS] += a->value_at;
    }
}

static inline size_t gathered_floats(const struct attention_args *a)
{
    const size_t width = key_width(a) + (values_are_in_keys(a) ? 0 : a->value_dim);

    return a->selected == NULL && a->pages.precision == PRECISION_F32 ? 0 : KEY_BLOCK * width;
}

/* Whether the rows of a chunk differ in more than their own position: then each goes alone. */
static inline bool has_selection(const struct attention_args *a, const struct chunk *c)
{
    return a->selected != NULL && c->n_keys > a->n_selected;
}

/* Keys that rows [0, i] of a span see together, in multiply-adds. */
static inline size_t span_work(const struct kv_span *span, size_t n_rows)
{
    return n_rows * span->n_cached + n_rows * (n_rows + 1) / 2;
}

/* The same where no row reads more than it has selected. */
static inline size_t attention_work(const struct attention_args *a, const struct kv_span *span,
                                    size_t n_rows)
{
    const size_t limit = a->n_selected;
    const size_t below = limit > span->n_cached ? smaller(limit - span->n_cached, n_rows) : 0;

    return a->selected == NULL ? span_work(span, n_rows)
                               : span_work(span, below) + (n_rows - below) * limit;
}

/* The thread whose share of `total` work holds the work unit number `done`. */
static inline size_t work_owner(size_t done, size_t total, size_t n_threads)
{
    return total == 0 || n_threads == 1 ? 0 : done * n_threads / total;
}

/* Whole lanes. */
static inline size_t whole_lanes(size_t n)
{
    return (n + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES;
}

#endif
