/* Owns the paged cache of a layer and the arguments of the ops that read and write it: copies of
 * entries, attention, and the indexer of sparse attention. */
#ifndef HONE_KERNELS_OP_ATTENTION_H
#define HONE_KERNELS_OP_ATTENTION_H

#include "kernels/op_packing.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_BLOCK_TOKENS ((size_t)64) /* tokens in a page of the latent cache */
#define KV_STEP_TOKENS ((size_t)16)  /* of those, what is taken together */

/* A paged cache of one layer: page p holds KV_BLOCK_TOKENS entries, one a token: [latent rk][rotary
 * key dr] (MLA) or [keys][values] of all KV heads (GQA), then what else is kept of a token; floats,
 * bfloat16, two to a word, or FP8; offsets into an entry count values. Entries that no row of a
 * call sees are not read.
 * Coded values, the first n_coded of an entry, are of groups of coded_group (MLA: the latent; GQA:
 * a KV head's key, or its value), each cut into tiles of FP8_BLOCK, the last one shorter: E4M3
 * codes times a power of two that is the tile's (model.md 10.2), values that bfloat16 holds. FP8
 * pages hold the codes and what bfloat16 holds of the others; BF16 pages that have coded values
 * hold the same values as bfloat16, so that attention reads the same from both. */
struct kv_pages {
    float *data;
    size_t entry_stride; /* words of 4 bytes from entry to entry: kv_entry_words at least */
    size_t page_stride;  /* words from page number to page number; pages may begin at any entry */
    enum precision precision;    /* kv_copy rounds to it. Of gradients always F32 */
    size_t n_coded, coded_group; /* BF16 and FP8; n_coded 0: none, else whole groups */
};
/* Words of an entry of n_values values in pages of this precision and these coded values. */
size_t kv_entry_words(const struct kv_pages *pages, size_t n_values);
/* Tiles of the coded values of an entry, each with a scale. */
static inline size_t kv_group_tiles(const struct kv_pages *pages)
{
    return (pages->coded_group + FP8_BLOCK - 1) / FP8_BLOCK;
}
static inline size_t kv_tiles(const struct kv_pages *pages)
{
    return pages->n_coded == 0 ? 0 : pages->n_coded / pages->coded_group * kv_group_tiles(pages);
}
/* New rows of one sequence: rows first_row .. first_row + n_rows - 1 of the batch are its tokens
 * n_cached, n_cached + 1, ... Entry of token t lies in page blocks[t / KV_BLOCK_TOKENS]. Row i
 * attends to tokens 0 .. n_cached + i. */
struct kv_span {
    size_t first_row, n_rows, n_cached;
    const int32_t *blocks;
};
/* Stores two parts of the entries of all rows, one behind the other (to_pages), or reads them back
 * (gradients of pages). GQA: latent is the keys, rope_key the values. Spans may share rows that are
 * read (to_pages), and rows that are added to (accumulate): spans in order. */
struct kv_copy_args {
    float *latent; /* (T, rk) */
    size_t latent_stride;
    float *rope_key; /* (T, dr) */
    size_t rope_key_stride;
    const struct kv_span *spans;
    size_t n_spans;
    struct kv_pages pages;
    size_t rk, dr;
    size_t entry_at; /* values into the entry where the first part begins */
    bool to_pages;
    bool accumulate; /* without to_pages: rows += entries */
};
/* Softmax attention over the paged cache: S = scale (q . key + q_rope . key's second part), out =
 * softmax(S) . values. Training, prefill and decode are this one op. Query head h reads KV head h /
 * (n_heads / n_kv_heads), whose key is entry[kv * kv_head_stride .. + key_dim + rope_dim) and whose
 * value is entry[value_at + kv * kv_head_stride .. + value_dim).
 *   absorbed MLA (model.md 6.2): one KV head, key [latent rk | rotary key dr], the value is the
 *     latent again (value_at 0);
 *   GQA: entry [keys of all KV heads | values of all KV heads], rope_dim 0.
 * With BF16 or FP8 pages queries and exp(S - max) are rounded to bfloat16 too, and both products
 * are chains over pairs as of enum precision: pairs of dimensions, and of keys 2 j and 2 j + 1 (of
 * the selected ones), an odd last one paired with zero. Gradients pass straight through these. */
struct attention_args {
    const float *q; /* (T, H, key_dim) */
    size_t q_stride, q_head_stride;
    const float *q_rope; /* (T, H, rope_dim), or NULL with rope_dim 0 */
    size_t q_rope_stride, q_rope_head_stride;
    struct kv_pages pages;
    const struct kv_span *spans;
    size_t n_spans;
    float *out; /* (T, H, value_dim), heads adjacent */
    size_t out_stride;
    float *lse;                 /* (T, H), or NULL */
    size_t n_heads, n_kv_heads; /* n_heads is a multiple of n_kv_heads */
    size_t key_dim, rope_dim;
    size_t kv_head_stride; /* values from one KV head to the next inside an entry */
    size_t value_at, value_dim;
    float scale;
    /* (T, n_selected): the only keys of each row, positions ascending, as index_select gives them.
     * NULL: every row sees all. */
    const int32_t *selected;
    size_t n_selected;
};
/* d_pages (same layout as pages) is added to, by keys and by values: those of cached tokens too, so
 * no two spans may share a block. dq and dq_rope are assigned for the rows of spans.
 * precision BF16, with BF16 or FP8 pages: d_out, probabilities and gradients of scores are rounded
 * to bfloat16 too, and every product is one of pairs: of dimensions, of keys 2 j and 2 j + 1, and
 * of a chunk's (row, head) pairs 2 i and 2 i + 1. With F32 pages it counts for nothing. */
struct attention_backward_args {
    struct attention_args forward; /* as it was called, out and lse filled */
    const float *d_out;            /* (T, H, value_dim), out_stride */
    float *dq;                     /* strides of q */
    float *dq_rope;                /* strides of q_rope, or NULL with rope_dim 0 */
    struct kv_pages d_pages;
    enum precision precision; /* of the products: F32 or BF16 */
};

/* The indexer of sparse attention (model.md 11.1): I[t][s] = scale sum over heads of w[t][h]
 * ReLU(q[t][h] . key[s]), one key a token at key_at of its entry, behind the coded values: a
 * float, or a bfloat16 (of BF16 and FP8 pages) widened to one. selected: the n_selected largest of
 * each row, ties to the lower position, as positions ascending; where a row sees no more than
 * n_selected keys, all of them and -1 behind. */
struct index_args {
    const float *q; /* (T, H, dim), heads adjacent */
    size_t q_stride;
    const float *w; /* (T, H) */
    size_t w_stride;
    struct kv_pages pages;
    size_t key_at;
    const struct kv_span *spans;
    size_t n_spans;
    size_t n_heads, dim;
    float scale;
    int32_t *selected; /* (T, n_selected) out */
    size_t n_selected;
    float *scores; /* (T, scores_stride) out: I of every key that a row sees; or NULL */
    size_t scores_stride;
};
/* How far the indexer is from attention (model.md 11.2): loss[t] = KL(p[t] || softmax(I[t])), p the
 * head sum of attention's probabilities, normalised; over the keys that attention saw (selected or
 * all). Gradients are those of coefficient times the sum of the losses; p is a constant. Needs
 * n_cached == 0 in every span. */
struct index_loss_args {
    struct attention_args attention; /* as it was called, lse filled */
    struct index_args index;         /* as it was called; spans, selected are attention's */
    float coefficient;
    float *loss;             /* (T) out */
    float *dq;               /* q_stride, assigned */
    float *dw;               /* w_stride, assigned */
    struct kv_pages d_pages; /* the index keys' parts are added to */
};

#endif
