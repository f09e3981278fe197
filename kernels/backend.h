/* Owns the vocabulary of computation: a backend and its const table of operations on device memory.
 * Everything above kernels/ calls `backend->ops->OP(backend, &args)` and never knows which backend
 * it is. kernels/cpu/ implements the table for the host; a CUDA object would fill the same table
 * through backend_open. The arguments of the ops, and with them what each computes, are in
 * kernels/op_*.h.
 *
 * Exactness (DESIGN section 3). Each output row is computed in an order that depends on that row
 * and fixed constants only:
 *  - gemm: each output is a chain of fmaf over ascending k inside K blocks of GEMM_K_BLOCK, each
 *    block from zero, blocks added ascending (first block assigned), then bias, then (accumulate)
 *    y + that.
 *  - row reductions (norms, log-sum-exp): 16 virtual lanes, lane j takes elements j, j + 16, ...;
 *    then a fixed tree.
 *  - gradients of parameters: ONE chain over rows ascending that starts from the value already
 *    there, so a batch may be cut into micro-batches anywhere without changing a bit (products of
 *    BF16 take rows in pairs, so that a cut may be seen: gemm_dw_args, moe_ffn_backward_args).
 *  - exp, log, sigmoid: the functions of kernels/cpu/simd/ only (cpu.md 5.15), never libm, in any
 *    forward path. The CPU's instruction sets (avx512, avx2, portable) give the same bits, so they
 *    share one numerics id.
 *
 * Matrices are row-major, strides are in elements. Letters: T rows (tokens), d width, H heads, V
 * vocabulary, rk = kv_lora_rank, dr = qk_rope_head_dim, E experts, K a token's, F their width. */
#ifndef HONE_KERNELS_BACKEND_H
#define HONE_KERNELS_BACKEND_H

#include "base/status.h"
#include "kernels/op_attention.h"
#include "kernels/op_experts.h"
#include "kernels/op_head.h"
#include "kernels/op_packing.h"
#include "kernels/op_products.h"
#include "kernels/op_rows.h"

#include <stdbool.h>
#include <stddef.h>

struct backend;

/* AdamW (grpo.md 14); gradients are multiplied by grad_scale first. correction1 = 1 - beta1^t. */
struct adamw_args {
    float *w, *m, *v;
    const float *g;
    size_t n;
    float lr, beta1, beta2, eps, weight_decay, grad_scale, correction1, correction2;
};

/* One of the parts of run_parts. `part` is a backend for what this part does alone: ops called with
 * it never wait for another part. It is lent for the call. */
typedef enum status backend_part(void *context, size_t index, struct backend *part);

struct backend_ops {
    enum status (*pack)(struct backend *, const struct pack_args *);
    enum status (*gemm)(struct backend *, const struct gemm_args *);
    enum status (*gemm_dx)(struct backend *, const struct gemm_dx_args *);
    enum status (*gemm_dw)(struct backend *, const struct gemm_dw_args *);
    enum status (*column_sums)(struct backend *, const struct column_sums_args *);
    enum status (*embedding)(struct backend *, const struct embedding_args *);
    enum status (*embedding_backward)(struct backend *, const struct embedding_backward_args *);
    enum status (*rms_norm)(struct backend *, const struct rms_norm_args *);
    enum status (*rms_norm_backward)(struct backend *, const struct rms_norm_backward_args *);
    enum status (*layer_norm)(struct backend *, const struct layer_norm_args *);
    enum status (*layer_norm_backward)(struct backend *, const struct layer_norm_backward_args *);
    enum status (*rope)(struct backend *, const struct rope_args *);
    enum status (*kv_copy)(struct backend *, const struct kv_copy_args *);
    enum status (*attention)(struct backend *, const struct attention_args *);
    enum status (*attention_backward)(struct backend *, const struct attention_backward_args *);
    enum status (*index_select)(struct backend *, const struct index_args *);
    enum status (*index_loss)(struct backend *, const struct index_loss_args *);
    enum status (*router)(struct backend *, const struct router_args *);
    enum status (*router_backward)(struct backend *, const struct router_backward_args *);
    enum status (*balance_loss)(struct backend *, const struct balance_loss_args *);
    enum status (*moe_ffn)(struct backend *, const struct moe_ffn_args *);
    enum status (*moe_ffn_backward)(struct backend *, const struct moe_ffn_backward_args *);
    enum status (*swiglu)(struct backend *, const struct swiglu_args *);
    enum status (*swiglu_backward)(struct backend *, const struct swiglu_backward_args *);
    enum status (*lm_head_logprob)(struct backend *, const struct lm_head_args *);
    enum status (*lm_head_backward)(struct backend *, const struct lm_head_backward_args *);
    enum status (*sample)(struct backend *, const struct sample_args *);
    enum status (*gather_rows)(struct backend *, const struct rows_args *);
    enum status (*scatter_add_rows)(struct backend *, const struct rows_args *);
    enum status (*adamw)(struct backend *, const struct adamw_args *);
    /* *out = sum of x[i]^2 in double: blocks of 4096 elements, block sums added ascending. */
    enum status (*sum_squares)(struct backend *, const float *x, size_t n, double *out);
    enum status (*fill)(struct backend *, float *x, size_t n, float value);
    /* Device memory. alloc: zeroed, 64-byte aligned. upload/download: host <-> device, n bytes. */
    enum status (*alloc)(struct backend *, size_t n, size_t size, void *out_pointer);
    void (*release)(struct backend *, void *block);
    /* n bytes in a block are needed no more: they read as zeros, and whole pages of them go back.
     */
    void (*forget)(struct backend *, void *device, size_t n);
    enum status (*upload)(struct backend *, void *device, const void *host, size_t n);
    enum status (*download)(struct backend *, void *host, const void *device, size_t n);
    /* function(context, i, part) for every i < n_parts, backend->n_parts of them at a time, and
     * returns when all are done: with the status and message of the first part, by index, that
     * failed. Parts may read what others read, and nothing that another one writes; every write
     * before the call is seen by all, and theirs after it. Not from inside a part. */
    enum status (*run_parts)(struct backend *, size_t n_parts, backend_part *function,
                             void *context);
};

struct backend {
    const struct backend_ops *ops;
    const char *name; /* "cpu-avx512" */
    /* By enum precision: equal ids give equal bits: "cpu-f32-1", "cpu-bf16-2", "cpu-fp8-2" */
    const char *numerics_ids[3];
    size_t n_threads;
    size_t n_parts; /* that run side by side: the CPU's threads. 1: cutting work gains nothing */
    bool is_host;   /* device memory is the host's: ops read what another process has mapped */
};

/* device: "cpu", or "cpu-avx512bf16", "cpu-avx512", "cpu-avx2", "cpu-portable" to force an
 * instruction set; "auto" is the best there is. n_threads 0: all online cores. Errors: UNSUPPORTED
 * (no such device here, names what there is), NO_MEMORY. */
MUST_CHECK enum status backend_open(const char *device, size_t n_threads, struct backend **out);
void backend_close(struct backend *backend); /* NULL is legal */

/* Ops need memory of their own beside what they are given; it grows with the largest call and
 * stays. While a backend rehearses, an op plans its call, takes what it needs of that memory and
 * computes nothing (of what it is given only ids, rows' lists and upstream gradients are read), and
 * parts run one after the other: calls of these sizes then take no more. */
void backend_rehearse(struct backend *backend, bool is_rehearsing);
size_t backend_scratch_bytes(const struct backend *backend);
/* No op is asked for in the near future: pages of that memory go back where it is large
 * (MEMORY_HUGE_BYTES), and come again with the ops. */
void backend_rest(struct backend *backend);

#endif
