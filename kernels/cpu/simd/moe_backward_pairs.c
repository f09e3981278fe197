/* Owns the gradients of some rows of one expert in BF16, two rows at a time: what products read is
 * made of values that are in registers anyway, once each. The bits are those of
 * moe_backward_rows.c. */
#include "kernels/cpu/simd/moe_backward.h"
#include "kernels/cpu/simd/pair_rows.h"
#include "kernels/cpu/simd/swiglu.h"

/* Slots at a position and the next one. */
struct two_slots {
    size_t even, odd;
    bool has_odd; /* else odd is even again */
};

static struct two_slots slots_at(const struct moe_backward_job *job, const struct moe_item *item,
                                 size_t position)
{
    const uint32_t *const slot_at = job->groups.slot_at + position;
    const bool has_odd = position + 1 < item->end;

    return (struct two_slots){slot_at[0], slot_at[has_odd ? 1 : 0], has_odd};
}

/* Rows of pairs of the item's position `position`: the row behind a last one exists, unused. */
static struct pair_rows pairs_at(const struct moe_backward_job *job, const struct moe_item *item,
                                 size_t position, float *pairs, float *joined)
{
    float *const even = pairs + (position - item->begin) * job->row_words;

    return (struct pair_rows){even, even + job->row_words, joined};
}

/* x and dy. */
static void gather_two(const struct moe_backward_job *job, const struct moe_rows *rows,
                       const struct moe_item *item, size_t position, float *pairs)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const struct two_slots slots = slots_at(job, item, position);
    const size_t even = slots.even / args->top_k, odd = slots.odd / args->top_k;
    const size_t at = (position - rows->first) / 2 * job->stride_d;
    const struct pair_rows to_x = {.joined = rows->x + at};
    const struct pair_rows to_dy = pairs_at(job, item, position, pairs, rows->dy + at);
    const float *const x = args->x + odd * args->x_stride;
    const float *const dy = args->dy + odd * args->dy_stride;

    pair_rows_convert(args->x + even * args->x_stride, slots.has_odd ? x : NULL, args->d, &to_x);
    pair_rows_convert(args->dy + even * args->dy_stride, slots.has_odd ? dy : NULL, args->d,
                      &to_dy);
}

/* What slots ahead read: rows lie anywhere. */
static void ask_for(const float *row, size_t n)
{
    for (size_t i = 0; i < n; i += SIMD_LANES) {
        __builtin_prefetch(row + i, 0, 2);
    }
}

static void gather(const struct moe_backward_job *job, const struct moe_rows *rows,
                   const struct moe_item *item, float *pairs)
{
    const struct moe_ffn_backward_args *const args = &job->args;

    for (size_t position = item->begin; position < item->end; position += 2) {
        for (size_t i = position + MOE_ROWS_AHEAD; i < position + MOE_ROWS_AHEAD + 2; i++) {
            if (i < item->end) {
                const size_t row = job->groups.slot_at[i] / args->top_k;
                ask_for(args->x + row * args->x_stride, args->d);
                ask_for(args->dy + row * args->dy_stride, args->d);
            }
        }
        gather_two(job, rows, item, position, pairs);
    }
}

/* Up to 32 values of a slot: gradients, with h times the slot's weight. */
struct slot_values {
    f32x16 h[2], d_gate[2], d_up[2];
};

/* gate and dh begin at values of which n exist; product += dh h. */
SIMD_INLINE struct slot_values slot_gradient(const float *gate, const float *up, const float *dh,
                                             size_t n, f32x16 weight, f32x16 *product)
{
    struct slot_values out;
    f32x16 gates[2], ups[2], dhs[2];

    pair_values_load(gate, n, true, gates);
    pair_values_load(up, n, true, ups);
    pair_values_load(dh, n, true, dhs);
#pragma GCC unroll 2
    for (size_t v = 0; v < 2; v++) {
        const struct swiglu_gradient g =
            swiglu_gradient_vector(gates[v], ups[v], vec_mul(weight, dhs[v]));
        *product = vec_fma(dhs[v], g.h, *product);
        out.h[v] = vec_mul(weight, g.h);
        out.d_gate[v] = g.d_gate;
        out.d_up[v] = g.d_up;
    }
    return out;
}

/* Of two slots, from dh (of the unweighted output): d_weights, d_gate, d_up and the weighted h. */
static void gradient_two(const struct moe_backward_job *job, const struct moe_rows *rows,
                         const struct moe_item *item, size_t position, const float *dh,
                         float *pairs)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    const struct two_slots slots = slots_at(job, item, position);
    const size_t f = args->f, at = (position - rows->first) / 2 * job->stride_f;
    const float *const even = args->saved_gate_up + slots.even * 2 * f;
    const float *const odd = args->saved_gate_up + slots.odd * 2 * f;
    const float *const odd_dh = dh + (slots.has_odd ? job->stride_f : 0);
    const struct pair_rows to_h = {.joined = rows->h + at};
    const struct pair_rows to_gate = pairs_at(job, item, position, pairs, rows->d_gate + at);
    const struct pair_rows to_up =
        pairs_at(job, item, position, pairs + MOE_ITEM_ROWS * job->row_words, rows->d_up + at);
    f32x16 even_product = vec_zero(), odd_product = vec_zero();

    for (size_t i = 0; i < f; i += PAIR_VALUES) {
        const size_t n = f - i < PAIR_VALUES ? f - i : PAIR_VALUES;
        const struct slot_values a = slot_gradient(
            even + i, even + f + i, dh + i, n, vec_set1(args->weights[slots.even]), &even_product);
        /* Zeros where there is no odd row: its values times nothing. */
        struct slot_values b = {0};
        if (slots.has_odd) {
            b = slot_gradient(odd + i, odd + f + i, odd_dh + i, n,
                              vec_set1(args->weights[slots.odd]), &odd_product);
        }
        pair_rows_store(&to_h, i, n, a.h, b.h);
        pair_rows_store(&to_gate, i, n, a.d_gate, b.d_gate);
        pair_rows_store(&to_up, i, n, a.d_up, b.d_up);
    }
    args->d_weights[slots.even] = vec_sum(even_product);
    if (slots.has_odd) {
        args->d_weights[slots.odd] = vec_sum(odd_product);
    }
}

static void item_gradients(const struct moe_backward_job *job, const struct moe_rows *rows,
                           const struct moe_item *item, const float *dh, float *pairs)
{
    const struct moe_ffn_backward_args *const args = &job->args;

    for (size_t position = item->begin; position < item->end; position += 2) {
        for (size_t i = position + MOE_ROWS_AHEAD; i < position + MOE_ROWS_AHEAD + 2; i++) {
            if (i < item->end) {
                const size_t slot = job->groups.slot_at[i];
                ask_for(args->saved_gate_up + 2 * slot * args->f, 2 * args->f);
            }
        }
        gradient_two(job, rows, item, position, dh + (position - item->begin) * job->stride_f,
                     pairs);
    }
}

void ISA(moe_item_pairs)(const struct moe_backward_job *job, const struct moe_rows *rows,
                         const struct moe_item *item, size_t thread_index)
{
    const struct moe_ffn_backward_args *const args = &job->args;
    float *const dh = job->dh + thread_index * MOE_ITEM_ROWS * job->stride_f;
    float *const pairs = job->converted + 2 * thread_index * MOE_ITEM_ROWS * job->row_words;
    const float *const gate = job->gate + item->expert * job->words_d;
    const float *const up = job->up + item->expert * job->words_d;
    const struct gemm_block to_dh = {.x = pairs,
                                     .x_stride = job->row_words,
                                     .w = job->down + item->expert * job->words_f,
                                     .next = gate,
                                     .y = dh,
                                     .y_stride = job->stride_f,
                                     .n_rows = item->end - item->begin,
                                     .n_in = args->d,
                                     .n_out = args->f,
                                     .precision = args->precision};
    struct gemm_block to_dx = {.x = pairs,
                               .x_stride = job->row_words,
                               .w = gate,
                               .next = up,
                               .is_fetched = true,
                               .y = job->dx + item->begin * job->stride_d,
                               .y_stride = job->stride_d,
                               .n_rows = item->end - item->begin,
                               .n_in = args->f,
                               .n_out = args->d,
                               .precision = args->precision};

    gather(job, rows, item, pairs);
    ISA(gemm_block)(&to_dh);
    item_gradients(job, rows, item, dh, pairs);
    ISA(gemm_block)(&to_dx);
    to_dx.x = pairs + MOE_ITEM_ROWS * job->row_words;
    to_dx.w = up;
    to_dx.next = NULL;
    to_dx.accumulate = true;
    ISA(gemm_block)(&to_dx);
}
