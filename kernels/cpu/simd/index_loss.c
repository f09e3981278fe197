/* Owns the losses of the indexer (model.md 11.2) and their gradients, for whole sequences.
 *
 *   p = head sum of attention's probabilities, made again from the saved log-sum-exp, normalised
 *   loss = sum p (log p - log softmax(I)), dI = coefficient (softmax(I) - p)
 *   dz_h = scale dI w_h [z_h > 0], dw_h = scale sum dI ReLU(z_h), dq_h = sum dz_h k, dk += dz_h q_h
 *
 * One thread does a whole sequence, chunks of its rows ascending; a row with a selection is a chunk
 * of its own over the selected keys. A gradient in the pages is one chain per element from the
 * value already there: chunks, rows, heads ascending. The cut into chunks depends on the numbers of
 * heads and positions alone. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/index_loss_row.h"
#include "kernels/cpu/simd/index_tile.h"

/* One thread's memory. R rows a chunk, H and HI heads, D and DI widths of keys. */
struct workspace {
    float *q, *keys;        /* attention: (R H, D), (D, KEY_BLOCK) transposed */
    float *products;        /* (R H, KEY_BLOCK) */
    float *index_q, *dq;    /* (R HI, DI) */
    float *index_keys;      /* (DI, KEY_BLOCK) transposed */
    float *z;               /* (R HI, KEY_BLOCK), then its gradient */
    float *dw;              /* (R HI) */
    float *gathered;        /* (KEY_BLOCK, the wider of D and DI) of a selection */
    float *d_page;          /* (16, DI) gradients of some of them */
    float *target, *scores; /* (R, row_stride): p; I, then its gradient */
};

struct loss_call {
    const struct index_loss_args *args;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t row_stride;     /* whole key blocks of the longest sequence */
    size_t total_work;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t rows_of_chunk(const struct index_loss_args *a)
{
    return chunk_rows(larger(a->attention.n_heads, a->index.n_heads));
}

/* Assigns parts of one block; only counts when scratch is NULL. */
static float *part(float *scratch, size_t *at, size_t n)
{
    float *begin = scratch == NULL ? NULL : scratch + *at;

    *at += whole_lanes(n);
    return begin;
}

static size_t workspace_at(const struct loss_call *call, float *scratch, struct workspace *w)
{
    const struct index_loss_args *a = call->args;
    const size_t rows = rows_of_chunk(a), width = key_width(&a->attention);
    const size_t dim = a->index.dim, pairs = rows * a->attention.n_heads;
    const size_t index_pairs = rows * a->index.n_heads;
    size_t n = 0;

    w->q = part(scratch, &n, pairs * width);
    w->keys = part(scratch, &n, width * KEY_BLOCK);
    w->products = part(scratch, &n, pairs * KEY_BLOCK);
    w->index_q = part(scratch, &n, index_pairs * dim);
    w->dq = part(scratch, &n, index_pairs * dim);
    w->index_keys = part(scratch, &n, dim * KEY_BLOCK);
    w->z = part(scratch, &n, index_pairs * KEY_BLOCK);
    w->dw = part(scratch, &n, index_pairs);
    w->gathered = part(scratch, &n, KEY_BLOCK * larger(width, dim));
    w->d_page = part(scratch, &n, KV_STEP_TOKENS * dim);
    w->target = part(scratch, &n, rows * call->row_stride);
    w->scores = part(scratch, &n, rows * call->row_stride);
    return n;
}

/* Head sum of one row's attention probabilities with a block's keys, `seen` of which it sees. */
static void sum_heads(const struct attention_args *f, const float *products, const float *lse,
                      size_t n_keys, size_t seen, float *target)
{
    const f32x16 factor = vec_set1(f->scale);

    for (size_t k = 0; k < n_keys; k += SIMD_LANES) {
        const mask16 is_seen = mask_first(k < seen ? lanes_left(k, seen) : 0);
        f32x16 sum = vec_zero();
        for (size_t h = 0; h < f->n_heads; h++) {
            const f32x16 s = vec_mul(vec_load(products + h * KEY_BLOCK + k), factor);
            sum = vec_add(sum, vec_exp(vec_sub(s, vec_set1(lse[h]))));
        }
        vec_store(target + k, vec_select(is_seen, sum, vec_zero()));
    }
}

/* What attention did with a block of keys: target, not yet normalised. */
static void target_block(const struct loss_call *call, const struct chunk *c, struct workspace *w,
                         size_t first_key, size_t n_keys)
{
    const struct attention_args *f = &call->args->attention;
    const size_t width = key_width(f);
    const struct key_part part = {first_key, n_keys, 0, width};
    const float *blocks[1] = {w->keys};
    struct key_rows keys;

    locate_keys(&f->pages, c, &part, w->gathered, &keys);
    transpose_block(keys.steps, n_keys, keys.stride, width, w->keys);
    const struct tile_product product = {.x = w->q,
                                         .x_row_stride = width,
                                         .x_k_stride = 1,
                                         .blocks = blocks,
                                         .block_rows = width,
                                         .w_stride = KEY_BLOCK,
                                         .y = w->products,
                                         .y_stride = KEY_BLOCK,
                                         .n_rows = c->n_rows * f->n_heads,
                                         .n_k = width,
                                         .n_columns = whole_lanes(n_keys)};
    ISA(tile_multiply)(&product);
    for (size_t r = 0; r < c->n_rows; r++) {
        const size_t seen = chunk_seen(c, r);
        sum_heads(f, w->products + r * f->n_heads * KEY_BLOCK,
                  f->lse + (c->span->first_row + c->i + r) * f->n_heads, n_keys,
                  seen > first_key ? smaller(seen - first_key, n_keys) : 0,
                  w->target + r * call->row_stride + first_key);
    }
}

/* The indexer's keys of a block, and z of all pairs. */
static void index_block(const struct loss_call *call, const struct chunk *c, struct workspace *w,
                        size_t first_key, size_t n_keys, struct key_rows *keys)
{
    const struct index_args *a = &call->args->index;
    const struct key_part part = {first_key, n_keys, a->key_at, a->dim};

    locate_keys(&a->pages, c, &part, w->gathered, keys);
    index_products(a, c->n_rows * a->n_heads, w->index_q, keys, n_keys, w->index_keys, w->z);
}

/* Adds dz^T q to the gradients of up to 16 keys at y. */
static void add_index_keys(const struct index_args *a, const struct chunk *c,
                           const struct workspace *w, size_t key, size_t n_keys, float *y,
                           size_t y_stride)
{
    const float *q[1] = {w->index_q};
    struct tile_product product = {.x = w->z + key,
                                   .x_row_stride = 1,
                                   .x_k_stride = KEY_BLOCK,
                                   .blocks = q,
                                   .block_rows = c->n_rows * a->n_heads,
                                   .w_stride = a->dim,
                                   .y_stride = y_stride,
                                   .n_rows = n_keys,
                                   .n_k = c->n_rows * a->n_heads,
                                   .n_columns = a->dim,
                                   .accumulate = true};

    product.y = y;
    ISA(tile_multiply)(&product);
}

/* 16 keys of the block: in the pages, or copied from there and back. */
static void key_gradients(const struct index_loss_args *l, const struct chunk *c,
                          struct workspace *w, size_t first_key, size_t key, size_t n_keys)
{
    const struct index_args *a = &l->index;

    if (c->picked == NULL) {
        float *page = entry_of(&l->d_pages, c->span, first_key + key) + a->key_at;
        add_index_keys(a, c, w, key, n_keys, page, l->d_pages.entry_stride);
        return;
    }
    for (size_t k = 0; k < n_keys; k++) {
        const size_t token = (size_t)c->picked[first_key + key + k];
        memcpy(w->d_page + k * a->dim, entry_of(&l->d_pages, c->span, token) + a->key_at,
               a->dim * sizeof(float));
    }
    add_index_keys(a, c, w, key, n_keys, w->d_page, a->dim);
    for (size_t k = 0; k < n_keys; k++) {
        const size_t token = (size_t)c->picked[first_key + key + k];
        memcpy(entry_of(&l->d_pages, c->span, token) + a->key_at, w->d_page + k * a->dim,
               a->dim * sizeof(float));
    }
}

/* Gradients through one block of keys, scores holding theirs. */
static void gradient_block(const struct loss_call *call, const struct chunk *c, struct workspace *w,
                           size_t first_key, size_t n_keys)
{
    const struct index_args *a = &call->args->index;
    const size_t n_pairs = c->n_rows * a->n_heads;
    struct key_rows keys;

    index_block(call, c, w, first_key, n_keys, &keys);
    for (size_t pair = 0; pair < n_pairs; pair++) {
        const size_t row = c->span->first_row + c->i + pair / a->n_heads;
        w->dw[pair] += index_head_gradient(
            w->z + pair * KEY_BLOCK, w->scores + pair / a->n_heads * call->row_stride + first_key,
            n_keys, a->w[row * a->w_stride + pair % a->n_heads], a->scale);
    }
    const struct tile_product product = {.x = w->z,
                                         .x_row_stride = KEY_BLOCK,
                                         .x_k_stride = 1,
                                         .blocks = keys.steps,
                                         .block_rows = KV_STEP_TOKENS,
                                         .w_stride = keys.stride,
                                         .y = w->dq,
                                         .y_stride = a->dim,
                                         .n_rows = n_pairs,
                                         .n_k = n_keys,
                                         .n_columns = a->dim,
                                         .accumulate = true};
    ISA(tile_multiply)(&product);
    for (size_t key = 0; key < n_keys; key += KV_STEP_TOKENS) {
        key_gradients(call->args, c, w, first_key, key, smaller(n_keys - key, KV_STEP_TOKENS));
    }
}

/* Targets and scores of all keys, then the rows' losses. */
static void chunk_losses(const struct loss_call *call, const struct chunk *c, struct workspace *w)
{
    const struct index_args *a = &call->args->index;
    struct key_rows keys;

    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        const size_t n_keys = smaller(c->n_keys - first, KEY_BLOCK);
        target_block(call, c, w, first, n_keys);
        index_block(call, c, w, first, n_keys, &keys);
        for (size_t r = 0; r < c->n_rows; r++) {
            const float *weights = a->w + (c->span->first_row + c->i + r) * a->w_stride;
            index_combine(a, w->z + r * a->n_heads * KEY_BLOCK, weights, n_keys,
                          w->scores + r * call->row_stride + first);
        }
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        float *scores = w->scores + r * call->row_stride;
        const size_t seen = chunk_seen(c, r);
        call->args->loss[c->span->first_row + c->i + r] =
            index_row_loss(w->target + r * call->row_stride, scores, seen, call->args->coefficient);
        for (size_t k = seen; k < c->n_keys; k++) { /* later rows see these */
            scores[k] = 0.0F;
        }
    }
}

static void loss_keys(const struct loss_call *call, const struct chunk *c, struct workspace *w)
{
    const struct index_loss_args *l = call->args;
    const struct attention_args *f = &l->attention;
    const struct index_args *a = &l->index;
    const size_t n_pairs = c->n_rows * a->n_heads, width = a->n_heads * a->dim;

    for (size_t pair = 0; pair < c->n_rows * f->n_heads; pair++) {
        gather_rounded_query(f, pair_row(c, pair, f->n_heads), pair % f->n_heads,
                             w->q + pair * key_width(f));
    }
    gather_index_queries(a, c, w->index_q);
    memset(w->dq, 0, n_pairs * a->dim * sizeof(*w->dq));
    memset(w->dw, 0, n_pairs * sizeof(*w->dw));
    chunk_losses(call, c, w);
    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        gradient_block(call, c, w, first, smaller(c->n_keys - first, KEY_BLOCK));
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const size_t row = c->span->first_row + c->i + r;
        memcpy(l->dq + row * a->q_stride, w->dq + r * width, width * sizeof(*w->dq));
        memcpy(l->dw + row * a->w_stride, w->dw + r * a->n_heads, a->n_heads * sizeof(*w->dw));
    }
}

static void loss_chunk(const struct loss_call *call, const struct chunk *c, struct workspace *w)
{
    const struct attention_args *f = &call->args->attention;

    if (!has_selection(f, c)) {
        loss_keys(call, c, w);
        return;
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const struct chunk row = chunk_row(c, r, f->selected, f->n_selected);
        loss_keys(call, &row, w);
    }
}

/* Sequences in order; a thread takes those that begin in its share of the work. */
static void loss_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct loss_call *call = context;
    const struct attention_args *f = &call->args->attention;
    const size_t step = rows_of_chunk(call->args);
    struct workspace w;
    size_t done = 0;

    (void)workspace_at(call, call->scratch + thread_index * call->scratch_floats, &w);
    for (size_t s = 0; s < f->n_spans; s++) {
        const struct kv_span *span = &f->spans[s];
        const bool is_mine = work_owner(done, call->total_work, n_threads) == thread_index;
        for (size_t i = 0; is_mine && i < span->n_rows; i += step) {
            const struct chunk c = chunk_at(span, i, step);
            loss_chunk(call, &c, &w);
        }
        done += attention_work(f, span, span->n_rows);
    }
}

enum status ISA(op_index_loss)(struct backend *backend, const struct index_loss_args *args)
{
    const struct attention_args *f = &args->attention;
    const size_t work = f->n_heads * key_width(f) + 4 * args->index.n_heads * args->index.dim;
    struct loss_call call = {.args = args};
    struct workspace unused;

    if (f->n_kv_heads != 1) {
        return status_set(STATUS_UNSUPPORTED, "an indexer beside %zu KV heads", f->n_kv_heads);
    }
    for (size_t s = 0; s < f->n_spans; s++) {
        const struct kv_span *span = &f->spans[s];

        if (span->n_cached != 0) {
            return status_set(STATUS_UNSUPPORTED,
                              "span %zu has %zu cached tokens: no gradient reaches them", s,
                              span->n_cached);
        }
        call.total_work += attention_work(f, span, span->n_rows);
        call.row_stride =
            larger(call.row_stride, (span->n_rows + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK);
    }
    call.scratch_floats = workspace_at(&call, NULL, &unused);
    TRY(cpu_scratch_acquire(backend, backend->n_threads * call.scratch_floats, sizeof(float),
                            &call.scratch));
    cpu_run(backend, call.total_work * 2 * work, loss_task, &call);
    cpu_scratch_release(backend, call.scratch);
    return STATUS_OK;
}
