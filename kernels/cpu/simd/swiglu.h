/* Owns SwiGLU on vectors: h = silu(gate) up, and its gradient. Shared by the op of the dense layers
 * and the experts, which therefore agree bit for bit. */
#ifndef HONE_KERNELS_CPU_SIMD_SWIGLU_H
#define HONE_KERNELS_CPU_SIMD_SWIGLU_H

#include "kernels/cpu/simd/simd.h"

SIMD_INLINE f32x16 swiglu_vector(f32x16 gate, f32x16 up)
{
    return vec_mul(vec_silu(gate), up);
}

/* One row of f. */
static inline void swiglu_row(const float *gate, const float *up, float *h, size_t f)
{
    size_t i = 0;
    for (; i + SIMD_LANES <= f; i += SIMD_LANES) {
        vec_store(h + i, swiglu_vector(vec_load(gate + i), vec_load(up + i)));
    }
    if (i < f) {
        const size_t n = f - i;
        vec_store_n(h + i, swiglu_vector(vec_load_n(gate + i, n), vec_load_n(up + i, n)), n);
    }
}

struct swiglu_gradient {
    f32x16 h, d_gate, d_up;
};

/* h as above; silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g). */
SIMD_INLINE struct swiglu_gradient swiglu_gradient_vector(f32x16 gate, f32x16 up, f32x16 dh)
{
    const f32x16 one = vec_set1(1.0F);
    const f32x16 s = vec_sigmoid(gate);
    const f32x16 silu = vec_mul(gate, s);
    const f32x16 slope = vec_mul(s, vec_fma(gate, vec_sub(one, s), one));
    struct swiglu_gradient out;
    out.h = vec_mul(silu, up);
    out.d_gate = vec_mul(vec_mul(dh, up), slope);
    out.d_up = vec_mul(dh, silu);
    return out;
}

#endif
