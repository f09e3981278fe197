/* Owns the gradient of attention (model.md 6.5), which reaches the keys of cached tokens too.
 * Probabilities are made again from the saved log-sum-exp.
 *
 *   D = <d_out, out>, dA = d_out . value, dS = scale P (dA - D)
 *   dq = dS . key, d value += P^T d_out, d key += dS^T q
 *
 * One thread does a whole span with one KV head, chunks of its rows ascending. A gradient in
 * the pages is one chain per element that starts from the value already there: for each chunk first
 * the value path, then the key path, (row, head) pairs ascending (with MLA both meet in the
 * latent). The size of a chunk depends on the number of heads alone, so the bits of a sequence do
 * not depend on its batch. Rows with a selection are chunks of their own over the selected keys,
 * copied together. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/attention_chunk.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <string.h>

/* One thread's memory. P = pairs of a chunk, D = key_dim + rope_dim, V = value_dim. */
struct workspace {
    float *q, *dq;    /* (P, D) */
    float *d_out;     /* (P, V) */
    float *p, *ds;    /* (P, KEY_BLOCK) probabilities; dA, then dS */
    float *keys;      /* (D, KEY_BLOCK) transposed */
    float *values;    /* (V, KEY_BLOCK) likewise, or a part of keys */
    float *lse, *dot; /* (P); dot is <d_out, out> */
    float *gathered;  /* keys and values of a selection */
    float *d_page;    /* (16, D) and (16, V) gradients of some of them */
};

struct backward_call {
    const struct attention_backward_args *args;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t total_work;
};

static size_t workspace_floats(const struct attention_args *f)
{
    const size_t pairs = max_pairs(group_heads(f)), width = key_width(f);
    const size_t n_transposed = width + (values_are_in_keys(f) ? 0 : f->value_dim);
    const size_t n_page = f->selected == NULL ? 0 : KV_STEP_TOKENS * n_transposed;

    return whole_lanes(pairs * (2 * width + f->value_dim + 2 * KEY_BLOCK + 2) +
                       n_transposed * KEY_BLOCK + gathered_floats(f) + n_page);
}

static struct workspace workspace_at(const struct attention_args *f, float *scratch)
{
    const size_t pairs = max_pairs(group_heads(f)), width = key_width(f);
    struct workspace w;

    w.keys = scratch;
    w.values = w.keys + (values_are_in_keys(f) ? f->value_at : width) * KEY_BLOCK;
    w.p = w.keys + (width + (values_are_in_keys(f) ? 0 : f->value_dim)) * KEY_BLOCK;
    w.ds = w.p + pairs * KEY_BLOCK;
    w.q = w.ds + pairs * KEY_BLOCK;
    w.dq = w.q + pairs * width;
    w.d_out = w.dq + pairs * width;
    w.lse = w.d_out + pairs * f->value_dim;
    w.dot = w.lse + pairs;
    w.gathered = w.dot + pairs;
    w.d_page = w.gathered + gathered_floats(f);
    return w;
}

static float dot_product(const float *a, const float *b, size_t n)
{
    f32x16 sum = vec_zero();

    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        sum = vec_fma(lanes_load(a + j, left), lanes_load(b + j, left), sum);
    }
    return vec_sum(sum);
}

static void gather_pair(const struct attention_backward_args *a, struct workspace *w, size_t pair,
                        size_t row, size_t head)
{
    const struct attention_args *f = &a->forward;
    const size_t width = key_width(f);
    const size_t at = row * f->out_stride + head * f->value_dim;

    gather_rounded_query(f, row, head, w->q + pair * width);
    memcpy(w->d_out + pair * f->value_dim, a->d_out + at, f->value_dim * sizeof(float));
    memset(w->dq + pair * width, 0, width * sizeof(float));
    w->lse[pair] = f->lse[row * f->n_heads + head];
    w->dot[pair] = dot_product(a->d_out + at, f->out + at, f->value_dim);
}

static void store_pair(const struct attention_backward_args *a, const struct workspace *w,
                       size_t pair, size_t row, size_t head)
{
    const struct attention_args *f = &a->forward;
    const float *dq = w->dq + pair * key_width(f);

    memcpy(a->dq + row * f->q_stride + head * f->q_head_stride, dq, f->key_dim * sizeof(float));
    if (f->rope_dim > 0) {
        memcpy(a->dq_rope + row * f->q_rope_stride + head * f->q_rope_head_stride, dq + f->key_dim,
               f->rope_dim * sizeof(float));
    }
}

/* Scores -> P and dA -> dS of one pair; n keys are seen, lanes behind them become 0. */
static void pair_gradient(float *p, float *ds, size_t n, size_t n_stored, float scale, float lse,
                          float dot)
{
    const f32x16 factor = vec_set1(scale);

    for (size_t k = 0; k < n_stored; k += SIMD_LANES) {
        const mask16 seen = mask_first(k < n ? lanes_left(k, n) : 0);
        const f32x16 s = vec_sub(vec_mul(vec_load(p + k), factor), vec_set1(lse));
        const f32x16 probability = vec_select(seen, vec_exp(s), vec_zero());
        const f32x16 error = vec_sub(vec_load(ds + k), vec_set1(dot));
        const f32x16 d = vec_mul(vec_mul(probability, error), factor);
        vec_store(p + k, probability);
        vec_store(ds + k, vec_select(seen, d, vec_zero()));
    }
}

/* P and dS of all pairs of the chunk with the keys of a block. */
static void block_gradient(const struct attention_args *f, const struct chunk *c,
                           struct workspace *w, size_t first_key, size_t n_keys)
{
    const size_t width = key_width(f), group = group_heads(f);
    const size_t n_stored = whole_lanes(n_keys);
    const float *keys[1] = {w->keys}, *values[1] = {w->values};
    struct tile_product product = {.x = w->q,
                                   .x_row_stride = width,
                                   .x_k_stride = 1,
                                   .blocks = keys,
                                   .block_rows = width,
                                   .w_stride = KEY_BLOCK,
                                   .y = w->p,
                                   .y_stride = KEY_BLOCK,
                                   .n_rows = c->n_rows * group,
                                   .n_k = width,
                                   .n_columns = n_stored};

    ISA(tile_multiply)(&product);
    product.x = w->d_out;
    product.x_row_stride = f->value_dim;
    product.blocks = values;
    product.block_rows = f->value_dim;
    product.y = w->ds;
    product.n_k = f->value_dim;
    ISA(tile_multiply)(&product);
    for (size_t pair = 0; pair < c->n_rows * group; pair++) {
        const size_t seen = chunk_seen(c, pair / group);
        pair_gradient(w->p + pair * KEY_BLOCK, w->ds + pair * KEY_BLOCK,
                      seen > first_key ? smaller(seen - first_key, n_keys) : 0, n_stored, f->scale,
                      w->lse[pair], w->dot[pair]);
    }
}

/* dq += dS . keys, each row over the keys it sees. */
static void add_query_gradients(const struct attention_args *f, const struct chunk *c,
                                struct workspace *w, size_t first_key, size_t n_keys,
                                const struct key_rows *keys)
{
    const size_t width = key_width(f), group = group_heads(f);
    /* Rows that see all of the block's keys are one product. */
    const bool is_joint = chunk_seen(c, 0) >= first_key + n_keys;
    const size_t step = is_joint ? c->n_rows : 1;

    for (size_t r = 0; r < c->n_rows; r += step) {
        const size_t seen = chunk_seen(c, r), pair = r * group;
        if (seen <= first_key) {
            continue;
        }
        const struct tile_product product = {.x = w->ds + pair * KEY_BLOCK,
                                             .x_row_stride = KEY_BLOCK,
                                             .x_k_stride = 1,
                                             .blocks = keys->steps,
                                             .block_rows = KV_STEP_TOKENS,
                                             .w_stride = keys->stride,
                                             .y = w->dq + pair * width,
                                             .y_stride = width,
                                             .n_rows = step * group,
                                             .n_k = smaller(seen - first_key, n_keys),
                                             .n_columns = width,
                                             .accumulate = true};
        ISA(tile_multiply)(&product);
    }
}

/* Where the gradients of up to 16 keys stand. */
struct page_gradient {
    float *key, *value;
    size_t key_stride, value_stride;
};

/* n_keys keys: value += P^T d_out, then key += dS^T q. key: the first, counted in the block. */
static void add_page_gradient(const struct attention_args *f, const struct chunk *c,
                              const struct workspace *w, size_t first_key, size_t key,
                              size_t n_keys, const struct page_gradient *to)
{
    const size_t width = key_width(f), group = group_heads(f);
    const size_t page_key = first_key + key, seen = chunk_seen(c, 0);
    /* Earlier rows than the first key see nothing of these. */
    const size_t skipped = page_key >= seen ? (page_key - seen + 1) * group : 0;
    const float *d_out[1] = {w->d_out + skipped * f->value_dim};
    const float *q[1] = {w->q + skipped * width};
    struct tile_product product = {.x = w->p + skipped * KEY_BLOCK + key,
                                   .x_row_stride = 1,
                                   .x_k_stride = KEY_BLOCK,
                                   .blocks = d_out,
                                   .block_rows = c->n_rows * group,
                                   .w_stride = f->value_dim,
                                   .y = to->value,
                                   .y_stride = to->value_stride,
                                   .n_rows = n_keys,
                                   .n_k = c->n_rows * group - skipped,
                                   .n_columns = f->value_dim,
                                   .accumulate = true};

    ISA(tile_multiply)(&product);
    product.x = w->ds + skipped * KEY_BLOCK + key;
    product.blocks = q;
    product.w_stride = width;
    product.y = to->key;
    product.y_stride = to->key_stride;
    product.n_columns = width;
    ISA(tile_multiply)(&product);
}

/* Gradients of selected keys on their way from the pages (or back there). */
static void move_picked(const struct attention_backward_args *a, const struct chunk *c,
                        size_t first_key, size_t n_keys, const struct page_gradient *page,
                        bool to_pages)
{
    const struct attention_args *f = &a->forward;
    const size_t at = c->kv_head * f->kv_head_stride;

    for (size_t k = 0; k < n_keys; k++) {
        float *entry = entry_of(&a->d_pages, c->span, (size_t)c->picked[first_key + k]) + at;
        float *key = page->key + k * page->key_stride,
              *value = page->value + k * page->value_stride;

        memcpy(to_pages ? entry : key, to_pages ? key : entry, key_width(f) * sizeof(float));
        if (!values_are_in_keys(f)) {
            entry += f->value_at;
            memcpy(to_pages ? entry : value, to_pages ? value : entry,
                   f->value_dim * sizeof(float));
        }
    }
}

/* Gradients of 16 keys of the block, in the pages or copied from there and back. */
static void add_key_gradients(const struct attention_backward_args *a, const struct chunk *c,
                              const struct workspace *w, size_t first_key, size_t key,
                              size_t n_keys)
{
    const struct attention_args *f = &a->forward;
    const size_t width = key_width(f);
    struct page_gradient page = {w->d_page, w->d_page + f->value_at, width, width};

    if (c->picked == NULL) {
        page.key = entry_of(&a->d_pages, c->span, first_key + key) + c->kv_head * f->kv_head_stride;
        page.value = page.key + f->value_at;
        page.key_stride = a->d_pages.entry_stride;
        page.value_stride = a->d_pages.entry_stride;
        add_page_gradient(f, c, w, first_key, key, n_keys, &page);
        return;
    }
    if (!values_are_in_keys(f)) {
        page.value = w->d_page + KV_STEP_TOKENS * width;
        page.value_stride = f->value_dim;
    }
    move_picked(a, c, first_key + key, n_keys, &page, false);
    add_page_gradient(f, c, w, first_key, key, n_keys, &page);
    move_picked(a, c, first_key + key, n_keys, &page, true);
}

static void backward_block(const struct attention_backward_args *a, const struct chunk *c,
                           struct workspace *w, size_t first_key, size_t n_keys)
{
    const struct attention_args *f = &a->forward;
    struct key_rows keys, values;

    locate_block(f, c, first_key, n_keys, w->gathered, &keys, &values);
    transpose_block(keys.steps, n_keys, keys.stride, key_width(f), w->keys);
    if (!values_are_in_keys(f)) {
        transpose_block(values.steps, n_keys, values.stride, f->value_dim, w->values);
    }
    block_gradient(f, c, w, first_key, n_keys);
    add_query_gradients(f, c, w, first_key, n_keys, &keys);
    for (size_t key = 0; key < n_keys; key += KV_STEP_TOKENS) {
        add_key_gradients(a, c, w, first_key, key, smaller(n_keys - key, KV_STEP_TOKENS));
    }
}

static void backward_keys(const struct attention_backward_args *a, const struct chunk *c,
                          struct workspace *w)
{
    const size_t group = group_heads(&a->forward), n_pairs = c->n_rows * group;

    for (size_t pair = 0; pair < n_pairs; pair++) {
        gather_pair(a, w, pair, pair_row(c, pair, group), pair_head(c, pair, group));
    }
    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        backward_block(a, c, w, first, smaller(c->n_keys - first, KEY_BLOCK));
    }
    for (size_t pair = 0; pair < n_pairs; pair++) {
        store_pair(a, w, pair, pair_row(c, pair, group), pair_head(c, pair, group));
    }
}

static void backward_chunk(const struct attention_backward_args *a, const struct chunk *c,
                           struct workspace *w)
{
    const struct attention_args *f = &a->forward;

    if (!has_selection(f, c)) {
        backward_keys(a, c, w);
        return;
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const struct chunk row = chunk_row(c, r, f->selected, f->n_selected);
        backward_keys(a, &row, w);
    }
}

static void backward_sequence(const struct attention_backward_args *a, struct workspace *w,
                              const struct kv_span *span, size_t kv_head)
{
    const size_t step = chunk_rows(group_heads(&a->forward));

    for (size_t i = 0; i < span->n_rows; i += step) {
        struct chunk c = chunk_at(span, i, step);
        c.kv_head = kv_head;
        backward_chunk(a, &c, w);
    }
}

/* Sequences in order, KV heads inside; a thread takes those that begin in its share of the work. */
static void backward_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct backward_call *call = context;
    const struct attention_args *f = &call->args->forward;
    struct workspace w = workspace_at(f, call->scratch + thread_index * call->scratch_floats);
    size_t done = 0;

    for (size_t s = 0; s < f->n_spans; s++) {
        for (size_t kv = 0; kv < f->n_kv_heads; kv++) {
            if (work_owner(done, call->total_work * f->n_kv_heads, n_threads) == thread_index) {
                backward_sequence(call->args, &w, &f->spans[s], kv);
            }
            done += attention_work(f, &f->spans[s], f->spans[s].n_rows);
        }
    }
}

enum status ISA(op_attention_backward)(struct backend *backend,
                                       const struct attention_backward_args *args)
{
    const struct attention_args *f = &args->forward;
    struct backward_call call = {.args = args, .scratch_floats = workspace_floats(f)};

    for (size_t s = 0; s < f->n_spans; s++) {
        call.total_work += attention_work(f, &f->spans[s], f->spans[s].n_rows);
    }
    TRY(cpu_scratch_acquire(backend, backend->n_threads * call.scratch_floats, sizeof(float),
                            &call.scratch));
    cpu_run(backend, call.total_work * f->n_heads * (6 * key_width(f) + 4 * f->value_dim),
            backward_task, &call);
    cpu_scratch_release(backend, call.scratch);
    return STATUS_OK;
}
