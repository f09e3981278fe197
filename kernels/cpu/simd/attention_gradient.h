/* Owns what the two forms of attention's gradient share: a thread's memory, and what a form is. In
 * floats (attention_gradient_floats.c) every product is a chain of fma; in pairs
 * (attention_gradient_pairs.c) of products of bfloat16 pairs. */
#ifndef HONE_KERNELS_CPU_SIMD_ATTENTION_GRADIENT_H
#define HONE_KERNELS_CPU_SIMD_ATTENTION_GRADIENT_H

#include "kernels/cpu/simd/attention_chunk.h"
#include "kernels/cpu/simd/gemm_dw_tile.h"

/* Words from a row of probabilities to the next: an odd number of cache lines. */
#define SCORE_STRIDE (KEY_BLOCK + SIMD_LANES)

/* Keys of a block whose copies are made: those of the chunks that follow are added to them. */
struct prepared_keys {
    const struct kv_span *span; /* NULL: none */
    size_t kv_head, first_key;
    size_t n_keys; /* whole steps, or up to the span's end */
};

/* One thread's memory. P = pairs of a chunk, D = key_dim + rope_dim, V = value_dim; strides are in
 * words. Floats: keys and values are floats. Pairs: words of two, see the file. */
struct gradient_workspace {
    float *q;        /* (P, q_stride) */
    float *d_out;    /* (P, d_out_stride) */
    float *dq;       /* (P, D) */
    float *p, *ds;   /* (P, SCORE_STRIDE) probabilities; dA, then dS */
    float *keys;     /* (D, KEY_BLOCK) transposed */
    float *values;   /* (V, KEY_BLOCK) likewise, or a part of keys */
    float *lse;      /* (P) */
    float *dot;      /* (P) <d_out, out> */
    float *gathered; /* keys and values that do not lie in pages as they are needed */
    float *d_page;   /* (16, D) and (16, V) gradients of some of them */
    /* Pairs only. */
    float *q_joined;     /* (P / 2, joined_q): words of two rows */
    float *d_out_joined; /* (P / 2, joined_d_out) */
    float *key_pairs;    /* (KEY_BLOCK / 2, joined_q): words of two keys */
    float *rows;         /* copies of two rows of q */
    size_t q_stride, d_out_stride, joined_q, joined_d_out;
    struct key_rows key_rows; /* floats only: where the block's keys lie */
    struct prepared_keys prepared;
    /* What the next chunk gathers: q, q_rope, d_out and out. Asked for by the first products of
     * add_keys. */
    struct dw_fetch next[4];
};

/* Keys [key, key + n) of a block, whose first is first_key, and where their gradients stand. Pairs
 * before `skipped` see none of them. */
struct key_gradient {
    size_t key, n, skipped;
    float *d_key, *d_value;
    size_t key_stride, value_stride;
};

struct gradient_form {
    /* Returns the floats of a workspace; only counts when scratch is NULL. */
    size_t (*place)(const struct attention_args *f, float *scratch, struct gradient_workspace *w);
    /* Queries, gradients of results, lse and dot of a chunk. */
    void (*gather)(const struct attention_backward_args *a, const struct chunk *c,
                   struct gradient_workspace *w);
    /* Copies of the block's keys; P and dS of all pairs with them; dq += dS . keys. */
    void (*add_block)(const struct attention_args *f, const struct chunk *c,
                      struct gradient_workspace *w, size_t first_key, size_t n_keys);
    /* d value += P^T d_out, then d key += dS^T q. */
    void (*add_keys)(const struct attention_args *f, size_t n_pairs, struct gradient_workspace *w,
                     const struct key_gradient *to);
};
extern const struct gradient_form ISA(gradient_in_floats);
extern const struct gradient_form ISA(gradient_in_pairs);

/* The products of add_keys, value and key, ask for what is to come. */
static inline void take_next(struct gradient_workspace *w, struct dw_columns *value,
                             struct dw_columns *key)
{
    memcpy(value->next, w->next, sizeof(value->next));
    memcpy(key->next, w->next + 2, sizeof(key->next));
    memset(w->next, 0, sizeof(w->next));
}

/* Takes n floats of scratch from *at on. */
static inline float *gradient_part(float *scratch, size_t *at, size_t n)
{
    float *const begin = scratch == NULL ? NULL : scratch + *at;

    *at += whole_lanes(n);
    return begin;
}

/* Floats that gradients of 16 selected keys and values take. */
static inline size_t page_floats(const struct attention_args *f)
{
    const size_t width = key_width(f) + (values_are_in_keys(f) ? 0 : f->value_dim);

    return f->selected == NULL ? 0 : KV_STEP_TOKENS * width;
}

/* Keys of the block that have been prepared for this chunk; remembers that those up to the end of
 * the steps of n_keys are. *out_end: how many there are to prepare now. */
static inline size_t prepare_keys(const struct chunk *c, size_t first_key, size_t n_keys,
                                  struct prepared_keys *io, size_t *out_end)
{
    const size_t in_span = c->span->n_cached + c->span->n_rows - first_key;
    const bool goes_on = c->picked == NULL && io->span == c->span && io->kv_head == c->kv_head &&
                         io->first_key == first_key;
    const size_t done = goes_on ? io->n_keys : 0;
    const size_t end = c->picked == NULL ? smaller(whole_lanes(n_keys), in_span) : n_keys;

    *out_end = end > done ? end : done;
    *io =
        (struct prepared_keys){c->picked == NULL ? c->span : NULL, c->kv_head, first_key, *out_end};
    return done;
}

/* Rows of a chunk that are worked on together with the keys that the last of them sees: tiles
 * enough, and few keys in vain. */
#define TOGETHER_PAIRS ((size_t)16)
static inline size_t rows_together(const struct attention_args *f)
{
    const size_t group = group_heads(f);

    return group < TOGETHER_PAIRS ? TOGETHER_PAIRS / group : 1;
}

/* Of n_keys keys of a block, those that row r of the chunk sees. */
static inline size_t block_seen(const struct chunk *c, size_t r, size_t first_key, size_t n_keys)
{
    const size_t seen = chunk_seen(c, r);

    return seen > first_key ? smaller(seen - first_key, n_keys) : 0;
}

static inline float dot_product(const float *a, const float *b, size_t n)
{
    f32x16 sum = vec_zero();

    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        sum = vec_fma(lanes_load(a + j, left), lanes_load(b + j, left), sum);
    }
    return vec_sum(sum);
}

/* What a pair brings to its probabilities. */
struct pair_terms {
    float scale, lse, dot;
};

/* Scores -> P and dA -> dS of sixteen keys, of which n are seen; the others become 0. */
SIMD_INLINE void key_gradients(f32x16 *p, f32x16 *ds, size_t n, const struct pair_terms *of)
{
    const mask16 seen = mask_first(n);
    const f32x16 factor = vec_set1(of->scale);
    const f32x16 s = vec_sub(vec_mul(*p, factor), vec_set1(of->lse));
    const f32x16 probability = vec_select(seen, vec_exp(s), vec_zero());
    const f32x16 error = vec_sub(*ds, vec_set1(of->dot));
    const f32x16 d = vec_mul(vec_mul(probability, error), factor);

    *p = probability;
    *ds = vec_select(seen, d, vec_zero());
}

#endif
