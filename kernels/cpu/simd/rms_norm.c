/* Owns RMSNorm, forward and backward (model.md 4.1).
 *
 * Order: the square sum takes element j in lane j % 16, then the fixed tree; the norm weight's
 * gradient is one fma chain over rows ascending, and heads ascending inside a row, from the value
 * already there, threads split over columns. Below a piece is one head of one row, counted in that
 * order. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"

#include <math.h>

/* Pieces whose square sums are formed side by side: each is a chain that waits for itself. */
#define SIDE_BY_SIDE ((size_t)4)

SIMD_INLINE void rstd_of(const float *const x[SIDE_BY_SIDE], const size_t n, size_t d, float eps,
                         float out[SIDE_BY_SIDE])
{
    f32x16 sums[SIDE_BY_SIDE];

    for (size_t i = 0; i < n; i++) {
        sums[i] = vec_zero();
    }
    for (size_t j = 0; j < d; j += SIMD_LANES) {
#pragma GCC unroll 4
        for (size_t i = 0; i < n; i++) {
            const f32x16 v = lanes_load(x[i] + j, lanes_left(j, d));
            sums[i] = vec_fma(v, v, sums[i]);
        }
    }
    for (size_t i = 0; i < n; i++) {
        out[i] = 1.0F / sqrtf(vec_sum(sums[i]) / (float)d + eps);
    }
}

/* Where piece i begins in a matrix. */
static size_t piece_at(size_t i, size_t n_heads, size_t stride, size_t d)
{
    return n_heads == 1 ? i * stride : i / n_heads * stride + i % n_heads * d;
}

static void scale_piece(const float *x, const float *w, float r, size_t d, float *y)
{
    const f32x16 rstd = vec_set1(r);

    for (size_t j = 0; j < d; j += SIMD_LANES) {
        const size_t n = lanes_left(j, d);
        const f32x16 normed = vec_mul(lanes_load(x + j, n), rstd);
        lanes_store(y + j, vec_mul(normed, lanes_load(w + j, n)), n);
    }
}

/* Pieces first .. first + n - 1. */
SIMD_INLINE void norm_pieces(const struct rms_norm_args *a, size_t first, const size_t n)
{
    const float *x[SIDE_BY_SIDE];
    float r[SIDE_BY_SIDE];

    for (size_t i = 0; i < n; i++) {
        x[i] = a->x + piece_at(first + i, a->n_heads, a->x_stride, a->d);
    }
    rstd_of(x, n, a->d, a->eps, r);
    for (size_t i = 0; i < n; i++) {
        float *const y = a->y + piece_at(first + i, a->n_heads, a->y_stride, a->d);
        scale_piece(x[i], a->w, r[i], a->d, y);
        if (a->rstd != NULL) {
            a->rstd[first + i] = r[i];
        }
    }
}

static void norm_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct rms_norm_args *a = context;
    size_t i, end;

    pool_share(a->n_rows * a->n_heads, thread_index, n_threads, &i, &end);
    for (; i + SIDE_BY_SIDE <= end; i += SIDE_BY_SIDE) {
        norm_pieces(a, i, SIDE_BY_SIDE);
    }
    for (; i < end; i++) {
        norm_pieces(a, i, 1);
    }
}

enum status ISA(op_rms_norm)(struct backend *backend, const struct rms_norm_args *args)
{
    struct rms_norm_args a = *args;

    a.n_heads = a.n_heads > 0 ? a.n_heads : 1;
    cpu_run(backend, a.n_rows * a.n_heads * a.d * 2, norm_task, &a);
    return STATUS_OK;
}

/* dx = r (g - n mean(g n)) with g = w dy, n = r x. */
static void backward_piece(const struct rms_norm_backward_args *a, size_t i)
{
    const float *x = a->x + piece_at(i, a->n_heads, a->x_stride, a->d);
    const float *dy = a->dy + piece_at(i, a->n_heads, a->dy_stride, a->d);
    float *dx = a->dx + piece_at(i, a->n_heads, a->dx_stride, a->d);
    const f32x16 rstd = vec_set1(a->rstd[i]);
    f32x16 sum = vec_zero();

    for (size_t j = 0; j < a->d; j += SIMD_LANES) {
        const size_t n = lanes_left(j, a->d);
        const f32x16 g = vec_mul(lanes_load(a->w + j, n), lanes_load(dy + j, n));
        sum = vec_fma(g, vec_mul(lanes_load(x + j, n), rstd), sum);
    }
    const f32x16 mean = vec_set1(vec_sum(sum) / (float)a->d);
    for (size_t j = 0; j < a->d; j += SIMD_LANES) {
        const size_t n = lanes_left(j, a->d);
        const f32x16 g = vec_mul(lanes_load(a->w + j, n), lanes_load(dy + j, n));
        const f32x16 normed = vec_mul(lanes_load(x + j, n), rstd);
        f32x16 out = vec_mul(vec_fnma(normed, mean, g), rstd);
        if (a->accumulate) {
            out = vec_add(lanes_load(dx + j, n), out);
        }
        lanes_store(dx + j, out, n);
    }
}

static void backward_rows_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct rms_norm_backward_args *a = context;
    size_t begin, end;

    pool_share(a->n_rows * a->n_heads, thread_index, n_threads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        backward_piece(a, i);
    }
}

/* Vectors of the weight's gradient that stay in registers while all rows pass. */
#define WEIGHT_VECTORS ((size_t)8)
/* Rows ahead that are asked for: another thread may have written them. */
#define ROWS_AHEAD ((size_t)8)

/* Columns column .. of `vectors` vectors, the last of `lanes` lanes. */
SIMD_INLINE void backward_columns(const struct rms_norm_backward_args *a, size_t column,
                                  const size_t vectors, size_t lanes)
{
    f32x16 dw[WEIGHT_VECTORS];
    const size_t n = a->n_rows * a->n_heads;

#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; v++) {
        dw[v] = lanes_load(a->dw + column + v * SIMD_LANES, v + 1 < vectors ? SIMD_LANES : lanes);
    }
    for (size_t i = 0; i < n; i++) {
        const float *x = a->x + piece_at(i, a->n_heads, a->x_stride, a->d) + column;
        const float *dy = a->dy + piece_at(i, a->n_heads, a->dy_stride, a->d) + column;
        const f32x16 rstd = vec_set1(a->rstd[i]);
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) {
            const size_t left = v + 1 < vectors ? SIMD_LANES : lanes;
            const f32x16 normed = vec_mul(lanes_load(x + v * SIMD_LANES, left), rstd);
            dw[v] = vec_fma(lanes_load(dy + v * SIMD_LANES, left), normed, dw[v]);
            __builtin_prefetch(x + ROWS_AHEAD * a->x_stride + v * SIMD_LANES, 0, 3);
            __builtin_prefetch(dy + ROWS_AHEAD * a->dy_stride + v * SIMD_LANES, 0, 3);
        }
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; v++) {
        lanes_store(a->dw + column + v * SIMD_LANES, dw[v], v + 1 < vectors ? SIMD_LANES : lanes);
    }
}

static void backward_weight_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct rms_norm_backward_args *a = context;
    size_t column, end;

    lanes_share(a->d, thread_index, n_threads, &column, &end);
    for (; column + WEIGHT_VECTORS * SIMD_LANES <= end; column += WEIGHT_VECTORS * SIMD_LANES) {
        backward_columns(a, column, WEIGHT_VECTORS, SIMD_LANES);
    }
    for (; column < end; column += SIMD_LANES) {
        backward_columns(a, column, 1, lanes_left(column, end));
    }
}

enum status ISA(op_rms_norm_backward)(struct backend *backend,
                                      const struct rms_norm_backward_args *args)
{
    struct rms_norm_backward_args a = *args;

    a.n_heads = a.n_heads > 0 ? a.n_heads : 1;
    if (a.dw != NULL) { /* first: dx may overwrite dy */
        cpu_run(backend, a.n_rows * a.n_heads * a.d * 2, backward_weight_task, &a);
    }
    cpu_run(backend, a.n_rows * a.n_heads * a.d * 4, backward_rows_task, &a);
    return STATUS_OK;
}
