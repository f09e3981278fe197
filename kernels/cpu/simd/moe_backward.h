/* Owns what one block of rows of the routed experts' backward pass is computed from, and what its
 * two halves leave to each other: scheduling and memory (moe_backward.c), and the gradients of an
 * item's rows (moe_backward_rows.c). */
#ifndef HONE_KERNELS_CPU_SIMD_MOE_BACKWARD_H
#define HONE_KERNELS_CPU_SIMD_MOE_BACKWARD_H

#include "kernels/cpu/moe_group.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <stdatomic.h>
#include <stdbool.h>

#define MOE_N_MATRICES ((size_t)3) /* gate, up, down */
#define MOE_DOWN ((size_t)2)
/* Rows that are asked for ahead: they lie anywhere. */
#define MOE_ROWS_AHEAD ((size_t)4)

/* What items leave to the weights' gradients, by position from `first` on; or by pair of positions,
 * as words of both. */
struct moe_rows {
    size_t first;
    float *x, *dy;            /* (rows, stride_d) */
    float *h, *d_gate, *d_up; /* (rows, stride_f); h times the slot's weight */
};

/* The backward pass of one block of rows. */
struct moe_backward_job {
    struct moe_ffn_backward_args args; /* of this block's rows */
    struct moe_groups groups;
    atomic_size_t next_item, next_weights;
    size_t n_parts;          /* output ranges each weight gradient is cut into */
    float *dx;               /* (n_slots, d) by position */
    float *rows;             /* moe_rows of n_rows rows, of a thread that takes whole experts */
    float *dh;               /* (a thread's item, f) */
    float *converted;        /* (a thread's two items, row_words) as products of BF16 read rows */
    float *gate, *up, *down; /* packed for the gradients' products, expert after expert */
    uint32_t *order;         /* (n_experts) the order in which experts are taken: longest first */
    size_t n_rows, stride_d, stride_f, row_words;
    float *joined; /* of a thread: (n_threads, joined_words) for the weights' gradients in BF16 */
    size_t joined_words;
    size_t words_d, words_f; /* of a packed expert's gate or up; of its down */
    bool takes_experts;
    bool has_pairs; /* rows are words of two positions: BF16, where a thread takes whole experts */
};

static inline size_t moe_rows_floats(const struct moe_backward_job *job)
{
    return job->n_rows / (job->has_pairs ? 2 : 1) * (2 * job->stride_d + 3 * job->stride_f);
}

static inline struct moe_rows moe_rows_at(const struct moe_backward_job *job, float *base,
                                          size_t first)
{
    const size_t n = job->n_rows / (job->has_pairs ? 2 : 1);
    struct moe_rows rows = {.first = first};
    rows.x = base;
    rows.dy = rows.x + n * job->stride_d;
    rows.h = rows.dy + n * job->stride_d;
    rows.d_gate = rows.h + n * job->stride_f;
    rows.d_up = rows.d_gate + n * job->stride_f;
    return rows;
}

/* Gathers the item's rows, fills theirs of `rows`, d_weights and job->dx. thread_index: whose dh
 * and converted. */
void ISA(moe_item_gradients)(const struct moe_backward_job *job, const struct moe_rows *rows,
                             const struct moe_item *item, size_t thread_index);
/* The same for has_pairs: an item begins an even number of rows behind rows->first. */
void ISA(moe_item_pairs)(const struct moe_backward_job *job, const struct moe_rows *rows,
                         const struct moe_item *item, size_t thread_index);
/* The gradient of one matrix of an expert from positions begin to end of `of`, all outputs;
 * `joined` and `next` are the caller's to set. */
struct dw_block ISA(moe_weight_gradient)(const struct moe_backward_job *job,
                                         const struct moe_rows *rows, const struct moe_item *of,
                                         size_t matrix);

#endif
