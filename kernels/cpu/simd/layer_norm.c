/* Owns LayerNorm, forward and backward (model.md 4.2).
 *
 * Order: sums take element j in lane j % 16, then the fixed tree; the variance is that of the
 * differences from the mean. The gradients of weight and bias are one chain over rows ascending
 * from the values already there, threads split over columns. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"

#include <math.h>

static float mean_of(const float *x, size_t d)
{
    f32x16 sum = vec_zero();

    for (size_t j = 0; j < d; j += SIMD_LANES) {
        sum = vec_add(sum, lanes_load(x + j, lanes_left(j, d)));
    }
    return vec_sum(sum) / (float)d;
}

static float rstd_of(const float *x, size_t d, float mean, float eps)
{
    f32x16 sum = vec_zero();

    for (size_t j = 0; j < d; j += SIMD_LANES) {
        const size_t n = lanes_left(j, d);
        const f32x16 off = vec_sub(lanes_load(x + j, n), vec_set1(mean));
        sum = vec_add(sum, vec_select(mask_first(n), vec_mul(off, off), vec_zero()));
    }
    return 1.0F / sqrtf(vec_sum(sum) / (float)d + eps);
}

/* (x - mean) rstd of n elements. */
SIMD_INLINE f32x16 normed_of(const float *x, size_t n, float mean, float rstd)
{
    return vec_mul(vec_sub(lanes_load(x, n), vec_set1(mean)), vec_set1(rstd));
}

static void norm_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct layer_norm_args *a = context;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        const float *x = a->x + row * a->x_stride;
        float *y = a->y + row * a->y_stride;
        const float mean = mean_of(x, a->d), rstd = rstd_of(x, a->d, mean, a->eps);
        for (size_t j = 0; j < a->d; j += SIMD_LANES) {
            const size_t n = lanes_left(j, a->d);
            const f32x16 normed = normed_of(x + j, n, mean, rstd);
            const f32x16 out = vec_fma(normed, lanes_load(a->w + j, n), lanes_load(a->b + j, n));
            lanes_store(y + j, out, n);
        }
        if (a->rstd != NULL) {
            a->mean[row] = mean;
            a->rstd[row] = rstd;
        }
    }
}

enum status ISA(op_layer_norm)(struct backend *backend, const struct layer_norm_args *args)
{
    struct layer_norm_args a = *args;

    cpu_run(backend, a.n_rows * a.d * 4, norm_task, &a);
    return STATUS_OK;
}

/* dx = r (g - mean(g) - n mean(g n)) with g = w dy, n = r (x - mean). */
static void backward_row(const struct layer_norm_backward_args *a, size_t row)
{
    const float *x = a->x + row * a->x_stride;
    const float *dy = a->dy + row * a->dy_stride;
    float *dx = a->dx + row * a->dx_stride;
    const float mean = a->mean[row], rstd = a->rstd[row];
    f32x16 sum = vec_zero(), normed_sum = vec_zero();

    for (size_t j = 0; j < a->d; j += SIMD_LANES) {
        const size_t n = lanes_left(j, a->d);
        const f32x16 g = vec_mul(lanes_load(a->w + j, n), lanes_load(dy + j, n));
        sum = vec_add(sum, g); /* lanes behind the row are 0 in g */
        normed_sum = vec_fma(g, normed_of(x + j, n, mean, rstd), normed_sum);
    }
    const f32x16 g_mean = vec_set1(vec_sum(sum) / (float)a->d);
    const f32x16 n_mean = vec_set1(vec_sum(normed_sum) / (float)a->d);
    for (size_t j = 0; j < a->d; j += SIMD_LANES) {
        const size_t n = lanes_left(j, a->d);
        const f32x16 g = vec_mul(lanes_load(a->w + j, n), lanes_load(dy + j, n));
        const f32x16 off = vec_fnma(normed_of(x + j, n, mean, rstd), n_mean, vec_sub(g, g_mean));
        lanes_store(dx + j, vec_mul(off, vec_set1(rstd)), n);
    }
}

static void backward_rows_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct layer_norm_backward_args *a = context;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        backward_row(a, row);
    }
}

static void backward_weight_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct layer_norm_backward_args *a = context;
    size_t begin, end;

    lanes_share(a->d, thread_index, n_threads, &begin, &end);
    for (size_t row = 0; row < a->n_rows; row++) {
        const float *x = a->x + row * a->x_stride;
        const float *dy = a->dy + row * a->dy_stride;
        for (size_t j = begin; j < end; j += SIMD_LANES) {
            const size_t n = lanes_left(j, end);
            const f32x16 normed = normed_of(x + j, n, a->mean[row], a->rstd[row]);
            const f32x16 g = lanes_load(dy + j, n);
            lanes_store(a->dw + j, vec_fma(g, normed, lanes_load(a->dw + j, n)), n);
            lanes_store(a->db + j, vec_add(lanes_load(a->db + j, n), g), n);
        }
    }
}

enum status ISA(op_layer_norm_backward)(struct backend *backend,
                                        const struct layer_norm_backward_args *args)
{
    struct layer_norm_backward_args a = *args;

    cpu_run(backend, a.n_rows * a.d * 4, backward_weight_task, &a); /* first: dx may be dy */
    cpu_run(backend, a.n_rows * a.d * 8, backward_rows_task, &a);
    return STATUS_OK;
}
