/* Owns log-probability and entropy of target tokens under the sampling distribution, and their
 * gradient. Logits exist a chunk of rows at a time and are made again in the backward pass.
 *
 * A thread makes its own rows' logits, so the forward pass has one fork-join; the gradient of the
 * head is one chain over rows ascending (op_gemm_dw), so chunks end together in the backward pass.
 * The chunk's size has no influence on any bit. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"

#include <string.h>

#define CHUNK_ROWS_MIN ((size_t)64)
#define CHUNK_ROWS_MAX ((size_t)1024)
#define CHUNK_FLOATS ((size_t)262144) /* 1 MiB of logits, if that is more rows */

/* A thread's slice of the logits buffer. */
struct forward_call {
    const struct lm_head_args *args;
    float *logits;    /* (n_threads, chunk_rows, stride) */
    float *converted; /* (n_threads, chunk_rows, row_words) */
    size_t stride, chunk_rows, row_words;
    atomic_size_t bad_row;
};

/* logits of n rows of x; converted: room for them as the product reads them, unless F32. */
static void make_logits(const struct lm_head_args *a, const float *x, size_t x_stride, size_t n,
                        float *converted, float *logits, size_t logits_stride)
{
    struct gemm_block block = {.x = x,
                               .x_stride = x_stride,
                               .w = a->w,
                               .precision = a->precision,
                               .y_stride = logits_stride,
                               .n_rows = n,
                               .n_in = a->d,
                               .n_out = a->vocab};
    block.y = logits;
    if (a->precision != PRECISION_F32) {
        block.x = converted;
        block.x_stride = ISA(gemm_row_words)(a->precision, a->d);
        for (size_t i = 0; i < n; i++) {
            ISA(gemm_convert)(a->precision, x + i * x_stride, a->d, converted + i * block.x_stride);
        }
    }
    ISA(gemm_block)(&block);
}

/* Words of a converted row, 0 where none is needed. */
static size_t converted_words(const struct lm_head_args *a)
{
    return a->precision == PRECISION_F32 ? 0 : ISA(gemm_row_words)(a->precision, a->d);
}

static size_t chunk_rows_of(size_t vocab, size_t n_rows)
{
    size_t rows = CHUNK_FLOATS / vocab;

    rows = rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : rows;
    rows = rows > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : rows;
    return rows < n_rows ? rows : n_rows;
}

static void forward_row(struct forward_call *call, const float *logits, size_t row)
{
    const struct lm_head_args *a = call->args;
    struct distribution d;

    if (!ISA(distribution_init)(logits, a->vocab, &a->sampling, a->targets[row], &d)) {
        bad_row_note(&call->bad_row, row);
        return;
    }
    a->logp[row] = ISA(distribution_logp)(&d, a->targets[row]);
    a->lse[row] = d.lse;
    if (a->entropy != NULL) {
        a->entropy[row] = d.entropy;
    }
}

static void forward_task(void *context, size_t thread_index, size_t n_threads)
{
    struct forward_call *call = context;
    const struct lm_head_args *a = call->args;
    float *logits = call->logits + thread_index * call->chunk_rows * call->stride;
    float *converted = call->converted + thread_index * call->chunk_rows * call->row_words;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t first = begin; first < end; first += call->chunk_rows) {
        const size_t n = end - first < call->chunk_rows ? end - first : call->chunk_rows;
        make_logits(a, a->x + first * a->x_stride, a->x_stride, n, converted, logits, call->stride);
        for (size_t i = 0; i < n; i++) {
            forward_row(call, logits + i * call->stride, first + i);
        }
    }
}

static enum status check_targets(const struct lm_head_args *args)
{
    for (size_t row = 0; row < args->n_rows; row++) {
        if (args->targets[row] < 0 || (size_t)args->targets[row] >= args->vocab) {
            return status_set(STATUS_BAD_ARGUMENT, "target %d of row %zu is outside [0, %zu)",
                              args->targets[row], row, args->vocab);
        }
    }
    return STATUS_OK;
}

enum status ISA(op_lm_head_logprob)(struct backend *backend, const struct lm_head_args *args)
{
    struct forward_call call = {.args = args,
                                .stride = cpu_padded_stride(args->vocab),
                                .chunk_rows = chunk_rows_of(args->vocab, args->n_rows),
                                .row_words = converted_words(args),
                                .bad_row = SIZE_MAX};
    const size_t n_rows = backend->n_threads * call.chunk_rows;

    TRY(check_targets(args));
    TRY(cpu_scratch_acquire(backend, n_rows * (call.stride + call.row_words), sizeof(float),
                            &call.logits));
    call.converted = call.logits + n_rows * call.stride;
    cpu_run(backend, args->n_rows * args->vocab * (2 * args->d + 16), forward_task, &call);
    cpu_scratch_release(backend, call.logits);
    return bad_row_status(&call.bad_row);
}

/* One chunk of the rows that have a gradient. */
struct backward_call {
    const struct lm_head_backward_args *args;
    size_t *rows; /* of the batch, ascending */
    size_t n_rows;
    float *x;         /* (n_rows, d) gathered */
    float *logits;    /* (n_rows, stride), becomes dz */
    float *dx;        /* (n_rows, d) */
    float *converted; /* (n_rows, row_words) */
    size_t stride, row_words;
    atomic_size_t bad_row;
};

/* logits -> dz = (g ([v = y] - p_v) - h p_v (log p_v + H)) / temperature. p of the first term is
 * over the kept set, of the second over the whole vocabulary (grpo.md 2.3). */
static void row_gradient(const struct lm_head_backward_args *a, size_t row,
                         const struct distribution *d, float *logits)
{
    const float h = a->h != NULL ? a->h[row] : 0.0F;
    const float entropy = h != 0.0F ? a->forward.entropy[row] : 0.0F;
    const f32x16 minus_g = vec_set1(-a->g[row]);
    const f32x16 lse = vec_set1(d->lse), lse_all = vec_set1(d->lse_all);
    const f32x16 inv = vec_set1(d->inv_temperature);

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const f32x16 u = distribution_u(d, v, n);
        const mask16 kept = distribution_kept(d, v, n, u);
        const f32x16 p = vec_select(kept, vec_exp(vec_sub(u, lse)), vec_zero());
        f32x16 dz = vec_mul(minus_g, p);
        if (h != 0.0F) {
            const f32x16 log_p = vec_sub(u, lse_all);
            const f32x16 weighted = vec_mul(vec_exp(log_p), vec_add(log_p, vec_set1(entropy)));
            dz = vec_fnma(vec_set1(h), weighted, dz);
        }
        lanes_store(logits + v, vec_mul(dz, inv), n);
    }
}

static void gradient_row(struct backward_call *call, size_t i)
{
    const struct lm_head_backward_args *a = call->args;
    const struct lm_head_args *f = &a->forward;
    const size_t row = call->rows[i];
    const int32_t target = f->targets[row];
    float *logits = call->logits + i * call->stride;
    struct distribution d;

    if (!ISA(distribution_init)(logits, f->vocab, &f->sampling, target, &d)) {
        bad_row_note(&call->bad_row, row);
        return;
    }
    row_gradient(a, row, &d, logits);
    logits[target] += a->g[row] * d.inv_temperature;
}

static void backward_task(void *context, size_t thread_index, size_t n_threads)
{
    struct backward_call *call = context;
    const struct lm_head_backward_args *a = call->args;
    const struct lm_head_args *f = &a->forward;
    size_t begin, end;

    pool_share(call->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        memcpy(call->x + i * f->d, f->x + call->rows[i] * f->x_stride, f->d * sizeof(float));
    }
    make_logits(f, call->x + begin * f->d, f->d, end - begin,
                call->converted + begin * call->row_words, call->logits + begin * call->stride,
                call->stride);
    for (size_t i = begin; i < end; i++) {
        gradient_row(call, i);
    }
    const struct gemm_block backward = {.x = call->logits + begin * call->stride,
                                        .x_stride = call->stride,
                                        .w = a->w_t,
                                        .panel_stride = PANEL_COLUMNS * f->vocab,
                                        .y = call->dx + begin * f->d,
                                        .y_stride = f->d,
                                        .n_rows = end - begin,
                                        .n_in = f->vocab,
                                        .n_out = f->d};
    ISA(gemm_block)(&backward);
    for (size_t i = begin; i < end; i++) {
        memcpy(a->dx + call->rows[i] * a->dx_stride, call->dx + i * f->d, f->d * sizeof(float));
    }
}

/* Rows with a gradient, ascending; the others' dx is zero. */
static size_t compact(const struct lm_head_backward_args *a, size_t *rows)
{
    size_t n = 0;

    for (size_t row = 0; row < a->forward.n_rows; row++) {
        if (a->g[row] != 0.0F || (a->h != NULL && a->h[row] != 0.0F)) {
            rows[n++] = row;
        } else {
            memset(a->dx + row * a->dx_stride, 0, a->forward.d * sizeof(float));
        }
    }
    return n;
}

static enum status backward_chunk(struct backend *backend, struct backward_call *call)
{
    const struct lm_head_backward_args *a = call->args;
    const size_t d = a->forward.d, vocab = a->forward.vocab;

    cpu_run(backend, call->n_rows * vocab * (4 * d + 32), backward_task, call);
    TRY(bad_row_status(&call->bad_row));
    if (a->dw == NULL) {
        return STATUS_OK;
    }
    return ISA(op_gemm_dw)(backend, &(struct gemm_dw_args){.dy = call->logits,
                                                           .dy_stride = call->stride,
                                                           .x = call->x,
                                                           .x_stride = d,
                                                           .dw = a->dw,
                                                           .dw_stride = d,
                                                           .n_rows = call->n_rows,
                                                           .n_in = d,
                                                           .n_out = vocab});
}

static enum status backward_chunks(struct backend *backend, struct backward_call *call,
                                   size_t n_rows, size_t chunk_rows)
{
    size_t *const rows = call->rows;

    for (size_t first = 0; first < n_rows; first += chunk_rows) {
        call->rows = rows + first;
        call->n_rows = n_rows - first < chunk_rows ? n_rows - first : chunk_rows;
        TRY(backward_chunk(backend, call));
    }
    return STATUS_OK;
}

enum status ISA(op_lm_head_backward)(struct backend *backend,
                                     const struct lm_head_backward_args *args)
{
    const struct lm_head_args *f = &args->forward;
    struct backward_call call = {.args = args,
                                 .stride = cpu_padded_stride(f->vocab),
                                 .row_words = converted_words(f),
                                 .bad_row = SIZE_MAX};
    size_t *rows;
    enum status status;

    if (f->sampling.temperature == 0.0F) {
        return status_set(STATUS_BAD_ARGUMENT, "temperature 0 has no gradient");
    }
    TRY(check_targets(f));
    TRY(cpu_scratch_acquire(backend, f->n_rows, sizeof(*rows), &rows));
    const size_t n_rows = compact(args, rows);
    const size_t chunk_rows = chunk_rows_of(f->vocab, n_rows);
    call.rows = rows;
    status = cpu_scratch_acquire(backend, chunk_rows * (call.stride + 2 * f->d + call.row_words),
                                 sizeof(float), &call.logits);
    if (status == STATUS_OK) {
        call.x = call.logits + chunk_rows * call.stride;
        call.dx = call.x + chunk_rows * f->d;
        call.converted = call.dx + chunk_rows * f->d;
        status = backward_chunks(backend, &call, n_rows, chunk_rows);
        cpu_scratch_release(backend, call.logits);
    }
    cpu_scratch_release(backend, rows);
    return status;
}
