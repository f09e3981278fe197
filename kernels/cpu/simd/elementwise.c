/* Owns loops over flat buffers: AdamW, the sum of squares, fill. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <math.h>
#include <string.h>

#define SUM_BLOCK ((size_t)4096)

/* Elements [*begin, *end) of n for one thread, cut at whole vectors. */
static void vector_share(size_t n, size_t thread_index, size_t n_threads, size_t *begin,
                         size_t *end)
{
    pool_share((n + SIMD_LANES - 1) / SIMD_LANES, thread_index, n_threads, begin, end);
    *begin *= SIMD_LANES;
    *end = *end * SIMD_LANES < n ? *end * SIMD_LANES : n;
}

/* What an AdamW step multiplies by, once a vector register. */
struct adamw_constants {
    f32x16 grad_scale, beta1, beta2, rest1, rest2, correction1, correction2, eps, decay, lr;
};

SIMD_INLINE void adamw_vector(const struct adamw_args *args, const struct adamw_constants *c,
                              size_t i, size_t n)
{
    const f32x16 g = vec_mul(vec_load_n(args->g + i, n), c->grad_scale);
    const f32x16 m = vec_add(vec_mul(c->beta1, vec_load_n(args->m + i, n)), vec_mul(c->rest1, g));
    const f32x16 v =
        vec_add(vec_mul(c->beta2, vec_load_n(args->v + i, n)), vec_mul(c->rest2, vec_mul(g, g)));
    const f32x16 w = vec_load_n(args->w + i, n);
    const f32x16 root = vec_sqrt(vec_div(v, c->correction2));
    const f32x16 step = vec_div(vec_div(m, c->correction1), vec_add(root, c->eps));
    const f32x16 change = vec_mul(c->lr, vec_add(step, vec_mul(c->decay, w)));
    vec_store_n(args->m + i, m, n);
    vec_store_n(args->v + i, v, n);
    vec_store_n(args->w + i, vec_sub(w, change), n);
}

static void adamw_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct adamw_args *const args = context;
    const struct adamw_constants constants = {
        .grad_scale = vec_set1(args->grad_scale),
        .beta1 = vec_set1(args->beta1),
        .beta2 = vec_set1(args->beta2),
        .rest1 = vec_set1(1.0F - args->beta1),
        .rest2 = vec_set1(1.0F - args->beta2),
        .correction1 = vec_set1(args->correction1),
        .correction2 = vec_set1(args->correction2),
        .eps = vec_set1(args->eps),
        .decay = vec_set1(args->weight_decay),
        .lr = vec_set1(args->lr),
    };
    size_t i = 0;
    size_t end = 0;
    vector_share(args->n, thread_index, n_threads, &i, &end);
    for (; i + SIMD_LANES <= end; i += SIMD_LANES) {
        adamw_vector(args, &constants, i, SIMD_LANES);
    }
    if (i < end) {
        adamw_vector(args, &constants, i, end - i);
    }
}

enum status ISA(op_adamw)(struct backend *backend, const struct adamw_args *args)
{
    struct adamw_args copy = *args;
    cpu_run(backend, 32 * args->n, adamw_task, &copy);
    return STATUS_OK;
}

/* Sixteen double lanes, lane j taking elements j, j + 16, ..., then the fixed tree. */
static double block_square_sum(const float *x, size_t n)
{
    double sums[SIMD_LANES] = {0.0};
    size_t i = 0;
    for (; i + SIMD_LANES <= n; i += SIMD_LANES) {
        for (size_t j = 0; j < SIMD_LANES; j++) {
            sums[j] += (double)x[i + j] * (double)x[i + j];
        }
    }
    for (; i < n; i++) {
        sums[i % SIMD_LANES] += (double)x[i] * (double)x[i];
    }
    for (size_t half = SIMD_LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            sums[j] += sums[j + half];
        }
    }
    return sums[0];
}

struct sum_squares_task {
    const float *x;
    size_t n;
    double *block_sums;
};

static void sum_squares_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct sum_squares_task *const task = context;
    size_t block = 0;
    size_t block_end = 0;
    pool_share((task->n + SUM_BLOCK - 1) / SUM_BLOCK, thread_index, n_threads, &block, &block_end);
    for (; block < block_end; block++) {
        const size_t begin = block * SUM_BLOCK;
        const size_t left = task->n - begin;
        task->block_sums[block] =
            block_square_sum(task->x + begin, left < SUM_BLOCK ? left : SUM_BLOCK);
    }
}

enum status ISA(op_sum_squares)(struct backend *backend, const float *x, size_t n, double *out)
{
    const size_t n_blocks = (n + SUM_BLOCK - 1) / SUM_BLOCK;
    struct sum_squares_task task = {x, n, NULL};
    double sum = 0.0;
    *out = 0.0;
    TRY(cpu_scratch_acquire(backend, n_blocks, sizeof(double), &task.block_sums));
    cpu_run(backend, 4 * n, sum_squares_task, &task);
    for (size_t i = 0; i < n_blocks; i++) {
        sum += task.block_sums[i];
    }
    cpu_scratch_release(backend, task.block_sums);
    *out = sum;
    return STATUS_OK;
}

struct fill_task {
    float *x;
    size_t n;
    float value;
};

static void fill_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct fill_task *const task = context;
    size_t i = 0;
    size_t end = 0;
    vector_share(task->n, thread_index, n_threads, &i, &end);
    if (i < end && task->value == 0.0F && !signbit(task->value)) {
        memset(task->x + i, 0, (end - i) * sizeof(float)); /* reads no line before writing it */
        return;
    }
    for (; i < end; i++) {
        task->x[i] = task->value;
    }
}

enum status ISA(op_fill)(struct backend *backend, float *x, size_t n, float value)
{
    struct fill_task task = {.n = n, .value = value};
    task.x = x;
    cpu_run(backend, 2 * n, fill_task, &task);
    return STATUS_OK;
}
