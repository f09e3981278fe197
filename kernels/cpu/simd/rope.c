/* Owns the rotation of queries and keys by their positions (model.md 5.3), in place; both pair
 * layouts, forward and transposed. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

/* sign is -1 for the transpose. */
static void rotate_interleaved(float *x, const float *c, const float *s, size_t half, float sign)
{
    for (size_t i = 0; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        const float sine = sign * s[i];
        x[2 * i] = a * c[i] - b * sine;
        x[2 * i + 1] = b * c[i] + a * sine;
    }
}

static void rotate_halves(float *x, const float *c, const float *s, size_t half, float sign)
{
    float *y = x + half;

    for (size_t i = 0; i < half; i++) {
        const float a = x[i], b = y[i];
        const float sine = sign * s[i];
        x[i] = a * c[i] - b * sine;
        y[i] = b * c[i] + a * sine;
    }
}

static void rope_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct rope_args *a = context;
    const size_t half = a->dr / 2;
    const float sign = a->inverse ? -1.0F : 1.0F;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        const float *c = a->cos_table + (size_t)a->positions[row] * half;
        const float *s = a->sin_table + (size_t)a->positions[row] * half;
        for (size_t head = 0; head < a->n_heads; head++) {
            float *x = a->x + row * a->row_stride + head * a->head_stride;
            if (a->interleaved) {
                rotate_interleaved(x, c, s, half, sign);
            } else {
                rotate_halves(x, c, s, half, sign);
            }
        }
    }
}

enum status ISA(op_rope)(struct backend *backend, const struct rope_args *args)
{
    struct rope_args a = *args;

    cpu_run(backend, a.n_rows * a.n_heads * a.dr * 4, rope_task, &a);
    return STATUS_OK;
}
