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
 * copied together. The products are of floats or of bfloat16 pairs (attention_gradient.h). */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/attention_gradient.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <string.h>

struct backward_call {
    const struct attention_backward_args *args;
    const struct gradient_form *form;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t total_work;
};

static void store_pair(const struct attention_backward_args *a, const struct gradient_workspace *w,
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

/* Gradients of selected keys on their way from the pages (or back there). */
static void move_picked(const struct attention_backward_args *a, const struct chunk *c,
                        size_t first_key, const struct key_gradient *of, bool to_pages)
{
    const struct attention_args *f = &a->forward;
    const size_t at = c->kv_head * f->kv_head_stride;

    for (size_t k = 0; k < of->n; k++) {
        const size_t token = (size_t)c->picked[first_key + of->key + k];
        float *entry = entry_of(&a->d_pages, c->span, token) + at;
        float *key = of->d_key + k * of->key_stride, *value = of->d_value + k * of->value_stride;

        memcpy(to_pages ? entry : key, to_pages ? key : entry, key_width(f) * sizeof(float));
        if (!values_are_in_keys(f)) {
            entry += f->value_at;
            memcpy(to_pages ? entry : value, to_pages ? value : entry,
                   f->value_dim * sizeof(float));
        }
    }
}

/* Selected keys of the block from `key` on, up to 16, copied from the pages and back. */
static size_t add_picked(const struct backward_call *call, const struct chunk *c,
                         struct gradient_workspace *w, size_t first_key, size_t n_keys, size_t key)
{
    const struct attention_args *f = &call->args->forward;
    const size_t width = key_width(f);
    struct key_gradient to = {.key = key,
                              .n = smaller(n_keys - key, KV_STEP_TOKENS),
                              .d_key = w->d_page,
                              .d_value = w->d_page + f->value_at,
                              .key_stride = width,
                              .value_stride = width};

    if (!values_are_in_keys(f)) {
        to.d_value = w->d_page + KV_STEP_TOKENS * width;
        to.value_stride = f->value_dim;
    }
    move_picked(call->args, c, first_key, &to, false);
    call->form->add_keys(f, c->n_rows * group_heads(f), w, &to);
    move_picked(call->args, c, first_key, &to, true);
    return to.n;
}

/* Keys of the block from `key` on that lie in one page: of those that all rows see, all; else the
 * sixteen of a step, without the rows before the first of them. */
static size_t add_seen(const struct backward_call *call, const struct chunk *c,
                       struct gradient_workspace *w, size_t first_key, size_t n_keys, size_t key)
{
    const struct attention_backward_args *a = call->args;
    const struct attention_args *f = &a->forward;
    const size_t token = first_key + key, seen = chunk_seen(c, 0), group = group_heads(f);
    const size_t of_all = token < seen ? whole_lanes(seen - token) : KV_STEP_TOKENS;
    const size_t in_page = KV_BLOCK_TOKENS - token % KV_BLOCK_TOKENS;
    float *const entry = entry_of(&a->d_pages, c->span, token) + c->kv_head * f->kv_head_stride;
    const struct key_gradient to = {.key = key,
                                    .n = smaller(smaller(of_all, in_page), n_keys - key),
                                    .skipped = token < seen ? 0 : (token - seen + 1) * group,
                                    .d_key = entry,
                                    .d_value = entry + f->value_at,
                                    .key_stride = a->d_pages.entry_stride,
                                    .value_stride = a->d_pages.entry_stride};

    call->form->add_keys(f, c->n_rows * group, w, &to);
    return to.n;
}

static void backward_keys(const struct backward_call *call, const struct chunk *c,
                          struct gradient_workspace *w)
{
    const struct attention_args *f = &call->args->forward;
    const size_t group = group_heads(f), n_pairs = c->n_rows * group;

    call->form->gather(call->args, c, w);
    memset(w->dq, 0, n_pairs * key_width(f) * sizeof(float));
    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        const size_t n_keys = smaller(c->n_keys - first, KEY_BLOCK);
        call->form->add_block(f, c, w, first, n_keys);
        for (size_t key = 0; key < n_keys;) {
            key += c->picked == NULL ? add_seen(call, c, w, first, n_keys, key)
                                     : add_picked(call, c, w, first, n_keys, key);
        }
    }
    for (size_t pair = 0; pair < n_pairs; pair++) {
        store_pair(call->args, w, pair, pair_row(c, pair, group), pair_head(c, pair, group));
    }
}

static void backward_chunk(const struct backward_call *call, const struct chunk *c,
                           struct gradient_workspace *w)
{
    const struct attention_args *f = &call->args->forward;

    if (!has_selection(f, c)) {
        backward_keys(call, c, w);
        return;
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const struct chunk row = chunk_row(c, r, f->selected, f->n_selected);
        backward_keys(call, &row, w);
    }
}

/* Rows that begin at x, of which the heads of a KV head are asked for. */
static struct dw_fetch heads_of(const struct chunk *c, size_t group, const float *x, size_t stride,
                                size_t head_stride)
{
    return (struct dw_fetch){.row = x + (c->span->first_row + c->i) * stride +
                                    c->kv_head * group * head_stride,
                             .stride = stride,
                             .n_rows = c->n_rows,
                             .width = group * head_stride};
}

static void plan_next(const struct attention_backward_args *a, const struct chunk *c,
                      struct gradient_workspace *w)
{
    const struct attention_args *f = &a->forward;
    const size_t group = group_heads(f);

    w->next[0] = heads_of(c, group, f->q, f->q_stride, f->q_head_stride);
    w->next[1] = f->rope_dim == 0
                     ? (struct dw_fetch){0}
                     : heads_of(c, group, f->q_rope, f->q_rope_stride, f->q_rope_head_stride);
    w->next[2] = heads_of(c, group, a->d_out, f->out_stride, f->value_dim);
    w->next[3] = heads_of(c, group, f->out, f->out_stride, f->value_dim);
}

/* The first chunk of a span with a KV head. */
static struct chunk first_chunk(const struct attention_args *f, const struct kv_span *span,
                                size_t kv_head)
{
    struct chunk c = chunk_at(span, 0, chunk_rows(group_heads(f)));

    c.kv_head = kv_head;
    return c;
}

/* The chunk behind c; false if c is the last one of all. */
static bool next_chunk(const struct attention_args *f, struct chunk *io)
{
    const size_t kv_head = io->kv_head, end = io->i + io->n_rows;

    if (end < io->span->n_rows) {
        *io = chunk_at(io->span, end, chunk_rows(group_heads(f)));
        io->kv_head = kv_head;
        return true;
    }
    if (kv_head + 1 < f->n_kv_heads) {
        *io = first_chunk(f, io->span, kv_head + 1);
        return true;
    }
    if (io->span + 1 < f->spans + f->n_spans) {
        *io = first_chunk(f, io->span + 1, 0);
        return true;
    }
    return false;
}

static void backward_sequence(const struct backward_call *call, struct gradient_workspace *w,
                              const struct kv_span *span, size_t kv_head)
{
    const struct attention_args *f = &call->args->forward;
    struct chunk c = first_chunk(f, span, kv_head), next = c;

    while (c.n_rows > 0) {
        const bool is_last = !next_chunk(f, &next);
        if (!is_last) {
            plan_next(call->args, &next, w);
        }
        backward_chunk(call, &c, w);
        if (is_last || next.span != span || next.kv_head != kv_head) {
            return;
        }
        c = next;
    }
}

/* Sequences in order, KV heads inside; a thread takes those that begin in its share of the work. */
static void backward_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct backward_call *call = context;
    const struct attention_args *f = &call->args->forward;
    struct gradient_workspace w;
    size_t done = 0;

    (void)call->form->place(f, call->scratch + thread_index * call->scratch_floats, &w);
    for (size_t s = 0; s < f->n_spans; s++) {
        for (size_t kv = 0; kv < f->n_kv_heads; kv++) {
            if (work_owner(done, call->total_work * f->n_kv_heads, n_threads) == thread_index) {
                backward_sequence(call, &w, &f->spans[s], kv);
            }
            done += attention_work(f, &f->spans[s], f->spans[s].n_rows);
        }
    }
}

enum status ISA(op_attention_backward)(struct backend *backend,
                                       const struct attention_backward_args *args)
{
    const struct attention_args *f = &args->forward;
    const bool has_pairs = args->precision != PRECISION_F32 && f->pages.precision != PRECISION_F32;
    struct gradient_workspace unused;
    struct backward_call call = {
        .args = args, .form = has_pairs ? &ISA(gradient_in_pairs) : &ISA(gradient_in_floats)};

    call.scratch_floats = call.form->place(f, NULL, &unused);
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
