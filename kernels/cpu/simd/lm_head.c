/* Owns log-probability and entropy of target tokens under the sampling distribution. Logits exist a
 * chunk of rows at a time; a thread makes its own rows', so there is one fork-join. The chunk's
 * size has no influence on any bit. */
#include "kernels/cpu/simd/lm_head.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"

#include <string.h>

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

enum status ISA(op_lm_head_logprob)(struct backend *backend, const struct lm_head_args *args)
{
    struct forward_call call = {.args = args,
                                .stride = cpu_padded_stride(args->vocab),
                                .chunk_rows = lm_head_chunk_rows(args->vocab, args->n_rows),
                                .row_words = converted_words(args),
                                .bad_row = SIZE_MAX};
    const size_t n_rows = backend->n_threads * call.chunk_rows;

    TRY(lm_head_check_targets(args));
    TRY(cpu_scratch_acquire(backend, n_rows * (call.stride + call.row_words), sizeof(float),
                            &call.logits));
    call.converted = call.logits + n_rows * call.stride;
    cpu_run(backend, args->n_rows * args->vocab * (2 * args->d + 16), forward_task, &call);
    cpu_scratch_release(backend, call.logits);
    return bad_row_status(&call.bad_row);
}
