/* Owns the list of operations of one instruction set: every .c of this folder is compiled once for
 * each, and cpu_ops.c gathers the op_* functions below into `ISA(cpu_ops)`, which cpu_backend.c
 * picks from. What each op does is in kernels/op_*.h. */
#ifndef HONE_KERNELS_CPU_SIMD_CPU_OPS_H
#define HONE_KERNELS_CPU_SIMD_CPU_OPS_H

#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/simd.h"

enum status ISA(op_pack)(struct backend *backend, const struct pack_args *args);
enum status ISA(op_gemm)(struct backend *backend, const struct gemm_args *args);
enum status ISA(op_gemm_dx)(struct backend *backend, const struct gemm_dx_args *args);
enum status ISA(op_gemm_dw)(struct backend *backend, const struct gemm_dw_args *args);
enum status ISA(op_column_sums)(struct backend *backend, const struct column_sums_args *args);
enum status ISA(op_embedding)(struct backend *backend, const struct embedding_args *args);
enum status ISA(op_embedding_backward)(struct backend *backend,
                                       const struct embedding_backward_args *args);
enum status ISA(op_rms_norm)(struct backend *backend, const struct rms_norm_args *args);
enum status ISA(op_rms_norm_backward)(struct backend *backend,
                                      const struct rms_norm_backward_args *args);
enum status ISA(op_layer_norm)(struct backend *backend, const struct layer_norm_args *args);
enum status ISA(op_layer_norm_backward)(struct backend *backend,
                                        const struct layer_norm_backward_args *args);
enum status ISA(op_rope)(struct backend *backend, const struct rope_args *args);
enum status ISA(op_kv_copy)(struct backend *backend, const struct kv_copy_args *args);
enum status ISA(op_attention)(struct backend *backend, const struct attention_args *args);
enum status ISA(op_attention_backward)(struct backend *backend,
                                       const struct attention_backward_args *args);
enum status ISA(op_index_select)(struct backend *backend, const struct index_args *args);
enum status ISA(op_index_loss)(struct backend *backend, const struct index_loss_args *args);
enum status ISA(op_router)(struct backend *backend, const struct router_args *args);
enum status ISA(op_router_backward)(struct backend *backend,
                                    const struct router_backward_args *args);
enum status ISA(op_balance_loss)(struct backend *backend, const struct balance_loss_args *args);
enum status ISA(op_moe_ffn)(struct backend *backend, const struct moe_ffn_args *args);
enum status ISA(op_moe_ffn_backward)(struct backend *backend,
                                     const struct moe_ffn_backward_args *args);
enum status ISA(op_swiglu)(struct backend *backend, const struct swiglu_args *args);
enum status ISA(op_swiglu_backward)(struct backend *backend,
                                    const struct swiglu_backward_args *args);
enum status ISA(op_lm_head_logprob)(struct backend *backend, const struct lm_head_args *args);
enum status ISA(op_lm_head_backward)(struct backend *backend,
                                     const struct lm_head_backward_args *args);
enum status ISA(op_sample)(struct backend *backend, const struct sample_args *args);
enum status ISA(op_gather_rows)(struct backend *backend, const struct rows_args *args);
enum status ISA(op_scatter_add_rows)(struct backend *backend, const struct rows_args *args);
enum status ISA(op_adamw)(struct backend *backend, const struct adamw_args *args);
enum status ISA(op_sum_squares)(struct backend *backend, const float *x, size_t n, double *out);
enum status ISA(op_fill)(struct backend *backend, float *x, size_t n, float value);

/* The building block other ops of this folder share with gemm: y (n_rows, n_out) = x . w^T on the
 * calling thread alone, w packed (panel_stride words from panel to panel, 0 = adjacent), the bits
 * of op_gemm; n_out may stop inside the last panel. Unless precision is F32, x has rows of
 * gemm_convert. */
struct gemm_block {
    const float *x;
    size_t x_stride; /* words */
    const float *w;
    size_t panel_stride;
    enum precision precision;
    float *y;
    size_t y_stride;
    size_t n_rows, n_in, n_out;
    const float *bias; /* (n_out) or NULL */
    const float *next; /* weights that are read after these, to be fetched ahead; or NULL */
    bool is_fetched;   /* w was somebody's next */
    bool accumulate;   /* y + that instead of that */
    bool continues;    /* F32, BF16: the chains go on from y; n_in so far: whole K blocks */
};
void ISA(gemm_block)(const struct gemm_block *block);
/* A row of n_in floats as products of BF16 or FP8 read it, and its stride in words. */
size_t ISA(gemm_row_words)(enum precision precision, size_t n_in);
void ISA(gemm_convert)(enum precision precision, const float *x, size_t n_in, float *row);

/* op_gemm; continues: as in gemm_block. */
enum status ISA(gemm_piece)(struct backend *backend, const struct gemm_args *args, bool continues);
/* op_gemm_dx; continues: the chains over n_out go on from dx, after whole K blocks. */
enum status ISA(gemm_dx_piece)(struct backend *backend, const struct gemm_dx_args *args,
                               bool continues);

/* op_pack of n matrices, whose panels threads take one at a time. */
enum status ISA(pack_all)(struct backend *backend, const struct pack_args *args, size_t n);

/* dw (n_out, n_in) += sum over rows ascending of dy[row]^T x[row] on the calling thread alone; one
 * chain a element, starting from dw, the bits of op_gemm_dw: of BF16 pairs of rows from the block's
 * first. */
struct dw_block {
    const float *dy;
    size_t dy_stride;
    const float *x;
    size_t x_stride;
    float *dw;
    size_t dw_stride;
    size_t n_rows, n_in, n_out;
    float *joined;               /* dw_joined_words of scratch, unless is_joined */
    const struct dw_block *next; /* what comes after it: its first rows are asked for; or NULL */
    enum precision precision;
    bool is_joined; /* BF16: dy and x are words of two rows (pairs_join), whole vectors of them */
};
void ISA(dw_block)(const struct dw_block *block);
/* Enough for blocks of no more inputs and outputs either; 0 for F32. */
size_t ISA(dw_joined_words)(enum precision precision, size_t n_in, size_t n_out);

/* The k largest of n values to indices, largest first, ties to the lower index; what is taken
 * becomes NaN. NaN is never taken, so the values must hold k numbers. */
void ISA(take_largest)(float *values, size_t n, size_t k, int32_t *indices);

/* About n_rounds * 8 dependent steps of independent register-only FMA chains; returns the flop
 * done. *sink is read and written, so that nothing is optimised away. */
size_t ISA(fma_burst)(size_t n_rounds, float *sink);
/* The sum of n floats (whole rounds of 128), in any order: reads memory as fast as there is. */
float ISA(read_sum)(const float *x, size_t n);
/* fma_burst for products of bfloat16 pairs. */
size_t ISA(pair_burst)(size_t n_rounds, float *sink);

void ISA(math_map)(enum cpu_math function, const float *x, float *y, size_t n);

/* One instruction set's table. */
extern const struct backend_ops ISA(cpu_ops);

#endif
