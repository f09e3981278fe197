/* Owns the gradient of log-probability and entropy: dz, and from it those of the head's inputs and
 * weights. Logits are made again, all rows by a block of the vocabulary at a time, so that weights
 * and their gradient pass through the caches once; where a truncated distribution needs whole rows
 * of logits, it is chunks of rows by all of the vocabulary. Neither cut has an influence on a bit:
 * dx goes on from block to block (gemm_dx_piece), dw is one chain over rows ascending. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"
#include "kernels/cpu/simd/lm_head.h"

#include <string.h>

/* Floats of dz at a time, 4 MiB, if that is not less than VOCAB_BLOCK_MIN a row. */
#define BLOCK_FLOATS ((size_t)1 << 20)
#define VOCAB_STEP ((size_t)128) /* whole K blocks, panels, and blocks of FP8 */
#define ROWS_AT_A_TIME                                                                             \
    ((size_t)64) /* of a thread: dz follows logits that are still in its cache                     \
                  */

/* Rows that have a gradient by tokens [token, token_end). */
struct backward_call {
    const struct lm_head_backward_args *args;
    size_t *rows; /* of the batch, ascending */
    size_t n_rows;
    size_t token, token_end;
    bool has_whole_rows; /* logits of all tokens: the distribution may be truncated */
    float *x;            /* (n_rows, d) gathered */
    float *dx;           /* (n_rows, d) */
    float *converted;    /* (n_rows, row_words) x as the logits' product reads it, unless F32 */
    float *dz;           /* (n_rows, stride), first the logits */
    size_t stride, row_words;
    atomic_size_t bad_row;
};

/* logits -> dz = (g ([v = y] - p_v) - h p_v (log p_v + H)) / temperature. p of the first term is
 * over the kept set, of the second over the whole vocabulary (grpo.md 2.3). False if a logit is not
 * finite. */
static bool row_gradient(const struct lm_head_backward_args *a, size_t row,
                         const struct distribution *d, float *logits)
{
    const float h = a->h != NULL ? a->h[row] : 0.0F;
    const float entropy = h != 0.0F ? a->forward.entropy[row] : 0.0F;
    const f32x16 minus_g = vec_set1(-a->g[row]);
    const f32x16 lse = vec_set1(d->lse), lse_all = vec_set1(d->lse_all);
    const f32x16 inv = vec_set1(d->inv_temperature);
    f32x16 zero = vec_zero();

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const f32x16 u = distribution_u(d, v, n);
        const mask16 kept = distribution_kept(d, v, n, u);
        const f32x16 p = vec_select(kept, vec_exp(vec_sub(u, lse)), vec_zero());
        f32x16 dz = vec_mul(minus_g, p);
        zero = vec_fma(u, vec_zero(), zero); /* NaN as soon as a u is not finite */
        if (h != 0.0F) {
            const f32x16 log_p = vec_sub(u, lse_all);
            const f32x16 weighted = vec_mul(vec_exp(log_p), vec_add(log_p, vec_set1(entropy)));
            dz = vec_fnma(vec_set1(h), weighted, dz);
        }
        lanes_store(logits + v, vec_mul(dz, inv), n);
    }
    return vec_sum(zero) == 0.0F;
}

/* The distribution of a row: of whole rows found again, else what the forward pass left of it. */
static bool row_distribution(const struct backward_call *call, size_t row, const float *logits,
                             struct distribution *d)
{
    const struct lm_head_args *const f = &call->args->forward;

    if (call->has_whole_rows) {
        return ISA(distribution_init)(logits, f->vocab, &f->sampling, f->targets[row], d);
    }
    *d = (struct distribution){.logits = logits,
                               .vocab = call->token_end - call->token,
                               .inv_temperature = 1.0F / f->sampling.temperature,
                               .forced = -1,
                               .lse = f->lse[row],
                               .lse_all = f->lse[row]};
    return true;
}

static void gradient_row(struct backward_call *call, size_t i)
{
    const struct lm_head_backward_args *const a = call->args;
    const size_t row = call->rows[i];
    const size_t target = (size_t)a->forward.targets[row];
    float *const dz = call->dz + i * call->stride;
    struct distribution d;

    if (!row_distribution(call, row, dz, &d) || !row_gradient(a, row, &d, dz)) {
        bad_row_note(&call->bad_row, row);
        return;
    }
    if (target >= call->token && target < call->token_end) {
        dz[target - call->token] += a->g[row] * d.inv_temperature;
    }
}

static void gather_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct backward_call *const call = context;
    const struct lm_head_args *const f = &call->args->forward;
    size_t i = 0;
    size_t end = 0;

    pool_share(call->n_rows, thread_index, n_threads, &i, &end);
    for (; i < end; i++) {
        const float *const x = f->x + call->rows[i] * f->x_stride;
        memcpy(call->x + i * f->d, x, f->d * sizeof(float));
        if (f->precision != PRECISION_F32) {
            ISA(gemm_convert)(f->precision, x, f->d, call->converted + i * call->row_words);
        }
    }
}

static void gradient_task(void *context, size_t thread_index, size_t n_threads)
{
    struct backward_call *const call = context;
    const struct lm_head_args *const f = &call->args->forward;
    const bool is_plain = f->precision == PRECISION_F32;
    struct gemm_block block = {
        .x_stride = is_plain ? f->d : call->row_words,
        .w = f->w + packed_words(f->precision, f->d, call->token),
        .precision = f->precision,
        .y_stride = call->stride,
        .n_in = f->d,
        .n_out = call->token_end - call->token,
    };
    size_t begin = 0;
    size_t end = 0;

    pool_share(call->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t first = begin; first < end; first += block.n_rows) {
        block.n_rows = end - first < ROWS_AT_A_TIME ? end - first : ROWS_AT_A_TIME;
        block.x = (is_plain ? call->x : call->converted) + first * block.x_stride;
        block.y = call->dz + first * call->stride;
        ISA(gemm_block)(&block);
        for (size_t i = 0; i < block.n_rows; i++) {
            gradient_row(call, first + i);
        }
    }
}

static void scatter_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct backward_call *const call = context;
    const struct lm_head_backward_args *const a = call->args;
    const size_t d = a->forward.d;
    size_t i = 0;
    size_t end = 0;

    pool_share(call->n_rows, thread_index, n_threads, &i, &end);
    for (; i < end; i++) {
        memcpy(a->dx + call->rows[i] * a->dx_stride, call->dx + i * d, d * sizeof(float));
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

/* dz of a block of tokens, its part of dx, and the gradient of those tokens' weights. */
static enum status backward_block(struct backend *backend, struct backward_call *call)
{
    const struct lm_head_backward_args *const a = call->args;
    const size_t d = a->forward.d, n = call->token_end - call->token;

    cpu_run(backend, call->n_rows * n * (2 * d + 32), gradient_task, call);
    TRY(bad_row_status(&call->bad_row));
    TRY(ISA(gemm_dx_piece)(backend,
                           &(struct gemm_dx_args){.dy = call->dz,
                                                  .dy_stride = call->stride,
                                                  .parts = {{.w = a->weights + call->token * d,
                                                             .n = n,
                                                             .row_at = call->token,
                                                             .whole_rows = a->forward.vocab}},
                                                  .n_parts = 1,
                                                  .w_stride = d,
                                                  .precision = a->precision,
                                                  .rounding = a->rounding,
                                                  .dx = call->dx,
                                                  .dx_stride = d,
                                                  .n_rows = call->n_rows,
                                                  .n_in = d,
                                                  .n_out = n},
                           call->token > 0));
    if (a->dw == NULL) {
        return STATUS_OK;
    }
    return ISA(op_gemm_dw)(backend, &(struct gemm_dw_args){.dy = call->dz,
                                                           .dy_stride = call->stride,
                                                           .x = call->x,
                                                           .x_stride = d,
                                                           .dw = a->dw + call->token * d,
                                                           .dw_stride = d,
                                                           .n_rows = call->n_rows,
                                                           .n_in = d,
                                                           .n_out = n,
                                                           .precision = a->precision});
}

/* All tokens, for call->rows. */
static enum status backward_rows(struct backend *backend, struct backward_call *call,
                                 size_t block_tokens)
{
    const struct lm_head_args *const f = &call->args->forward;

    cpu_run(backend, 4 * call->n_rows * f->d, gather_task, call);
    for (call->token = 0; call->token < f->vocab; call->token = call->token_end) {
        const size_t left = f->vocab - call->token;
        call->token_end = call->token + (left < block_tokens ? left : block_tokens);
        TRY(backward_block(backend, call));
    }
    cpu_run(backend, 4 * call->n_rows * f->d, scatter_task, call);
    return STATUS_OK;
}

/* Rows and tokens of a block. */
struct block_size {
    size_t rows, tokens;
};

static struct block_size choose_block(const struct lm_head_args *f, size_t n_rows, bool whole_rows)
{
    if (whole_rows || n_rows == 0) {
        return (struct block_size){lm_head_chunk_rows(f->vocab, n_rows), f->vocab};
    }
    const size_t n_steps = BLOCK_FLOATS / n_rows / VOCAB_STEP;
    const size_t tokens = (n_steps > 0 ? n_steps : 1) * VOCAB_STEP;
    return (struct block_size){n_rows, tokens < f->vocab ? tokens : f->vocab};
}

static enum status backward_all(struct backend *backend, struct backward_call *call, size_t n_rows)
{
    const struct lm_head_args *const f = &call->args->forward;
    const struct block_size size = choose_block(f, n_rows, call->has_whole_rows);
    size_t *const rows = call->rows;
    enum status status = STATUS_OK;

    call->stride = cpu_padded_stride(size.tokens);
    TRY(cpu_scratch_acquire(backend, size.rows * (call->stride + 2 * f->d + call->row_words),
                            sizeof(float), &call->dz));
    call->x = call->dz + size.rows * call->stride;
    call->dx = call->x + size.rows * f->d;
    call->converted = call->dx + size.rows * f->d;
    for (size_t first = 0; status == STATUS_OK && first < n_rows; first += size.rows) {
        call->rows = rows + first;
        call->n_rows = n_rows - first < size.rows ? n_rows - first : size.rows;
        status = backward_rows(backend, call, size.tokens);
    }
    cpu_scratch_release(backend, call->dz);
    return status;
}

enum status ISA(op_lm_head_backward)(struct backend *backend,
                                     const struct lm_head_backward_args *args)
{
    const struct lm_head_args *const f = &args->forward;
    const struct sampling_params *const sampling = &f->sampling;
    struct backward_call call = {
        .args = args,
        .has_whole_rows = sampling->top_k > 0 || sampling->top_p < 1.0F || sampling->min_p > 0.0F,
        .row_words = f->precision == PRECISION_F32 ? 0 : ISA(gemm_row_words)(f->precision, f->d),
        .bad_row = SIZE_MAX,
    };

    if (sampling->temperature == 0.0F) {
        return status_set(STATUS_BAD_ARGUMENT, "temperature 0 has no gradient");
    }
    TRY(lm_head_check_targets(f));
    TRY(cpu_scratch_acquire(backend, f->n_rows, sizeof(*call.rows), &call.rows));
    size_t *const rows = call.rows;
    const enum status status = backward_all(backend, &call, compact(args, rows));
    cpu_scratch_release(backend, rows);
    return status;
}
