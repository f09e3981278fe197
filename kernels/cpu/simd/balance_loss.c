/* Owns the load-balance term of a router's scores and its gradient (model.md 8). Counting, sums and
 * the loss are scalar and in double, in the order that kernels/op_experts.h states, so the result
 * depends neither on threads nor on where a batch is cut; rows are shared out. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <math.h>
#include <string.h>

#define SUM_EPSILON 1e-20 /* a row of zeros divides by this */

struct balance_call {
    const struct balance_loss_args *args;
    const int32_t *indices; /* (T, K) what the rows took */
    int32_t *best;          /* the same as scratch, where the K best scores count; else NULL */
    float *ranked;          /* (n_threads, E) scratch */
    double *frequencies;    /* (n_spans, E) f of each sequence, where load is not given */
    uint32_t *span_of_row;  /* (T) */
    double *values;         /* (T) weight_t v_t */
};

/* The K largest scores of a row; one that is no number counts as the smallest. */
static void rank_row(const struct balance_call *call, size_t row, size_t thread_index)
{
    const struct balance_loss_args *a = call->args;
    const float *scores = a->scores + row * a->n_experts;
    float *ranked = call->ranked + thread_index * a->n_experts;

    for (size_t e = 0; e < a->n_experts; e++) {
        ranked[e] = isfinite(scores[e]) ? scores[e] : -INFINITY;
    }
    ISA(take_largest)(ranked, a->n_experts, a->top_k, call->best + row * a->top_k);
}

static void rank_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct balance_call *call = context;
    size_t begin, end;

    pool_share(call->args->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        rank_row(call, row, thread_index);
    }
}

/* f of one sequence. */
static void count_span(const struct balance_call *call, size_t span_index)
{
    const struct balance_loss_args *a = call->args;
    const struct kv_span *span = &a->spans[span_index];
    const size_t first = span->first_row * a->top_k, n = span->n_rows * a->top_k;
    double *f = call->frequencies + span_index * a->n_experts;

    memset(f, 0, a->n_experts * sizeof(*f));
    for (size_t i = first; i < first + n; i++) {
        f[call->indices[i]] += 1.0;
    }
    for (size_t e = 0; e < a->n_experts; e++) {
        f[e] = f[e] * (double)a->n_experts / (double)n;
    }
    for (size_t i = 0; i < span->n_rows; i++) {
        call->span_of_row[span->first_row + i] = (uint32_t)span_index;
    }
}

static void differentiate_row(const struct balance_call *call, size_t row)
{
    const struct balance_loss_args *a = call->args;
    const float *scores = a->scores + row * a->n_experts;
    const double *f = a->load;
    double weight = a->weight, sum = 0.0, dot = 0.0;

    if (f != NULL) {
        weight *= a->uses != NULL ? (double)a->uses[row] : 1.0;
    } else {
        const size_t span_index = call->span_of_row[row];

        f = call->frequencies + span_index * a->n_experts;
        weight = a->weight / (double)a->spans[span_index].n_rows;
    }
    for (size_t e = 0; e < a->n_experts; e++) {
        sum += (double)scores[e];
        dot += f[e] * (double)scores[e];
    }
    sum += SUM_EPSILON;

    const double value = dot / sum, slope = weight / sum;

    for (size_t e = 0; e < a->n_experts; e++) {
        a->d_scores[row * a->n_experts + e] = (float)(slope * (f[e] - value));
    }
    call->values[row] = weight * value;
}

static void differentiate_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct balance_call *call = context;
    size_t begin, end;

    pool_share(call->args->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        differentiate_row(call, row);
    }
}

/* Spans cover the rows in order. */
static enum status check_spans(const struct balance_loss_args *a)
{
    size_t row = 0;

    for (size_t i = 0; i < a->n_spans; i++) {
        if (a->spans[i].first_row != row) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "balance loss: span %zu begins at row %zu not %zu", i,
                              a->spans[i].first_row, row);
        }
        row += a->spans[i].n_rows;
    }
    if (row != a->n_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "balance loss: spans of %zu rows, there are %zu",
                          row, a->n_rows);
    }
    return STATUS_OK;
}

static enum status check_indices(const struct balance_loss_args *a)
{
    for (size_t i = 0; i < a->n_rows * a->top_k; i++) {
        if (a->indices[i] < 0 || (size_t)a->indices[i] >= a->n_experts) {
            return status_set(STATUS_BAD_ARGUMENT, "balance loss: expert %d is not one of %zu",
                              (int)a->indices[i], a->n_experts);
        }
    }
    return STATUS_OK;
}

static enum status check_args(const struct balance_loss_args *a)
{
    if (a->top_k == 0 || a->top_k > a->n_experts) {
        return status_set(STATUS_BAD_ARGUMENT, "balance loss: %zu of %zu experts", a->top_k,
                          a->n_experts);
    }
    if (a->load != NULL) {
        return STATUS_OK;
    }
    TRY(check_spans(a));
    return a->indices == NULL ? STATUS_OK : check_indices(a);
}

/* f of every sequence into call->frequencies. */
static void count(struct backend *backend, struct balance_call *call)
{
    const struct balance_loss_args *a = call->args;

    if (a->indices == NULL) {
        cpu_run(backend, a->n_rows * a->n_experts * (1 + a->top_k), rank_task, call);
    }
    for (size_t i = 0; i < a->n_spans; i++) {
        count_span(call, i);
    }
}

/* One block of scratch, the doubles first. */
static enum status acquire(struct backend *backend, struct balance_call *call, void *out_block)
{
    const struct balance_loss_args *a = call->args;
    const size_t n_f = a->load == NULL ? a->n_spans * a->n_experts : 0;
    const size_t n_best = a->load == NULL && a->indices == NULL ? a->n_rows * a->top_k : 0;
    const size_t n_ranked = backend->n_threads * a->n_experts;
    double *block = NULL;

    TRY(cpu_scratch_acquire(backend, n_f + a->n_rows + (n_ranked + n_best + a->n_rows + 1) / 2,
                            sizeof(double), &block));
    call->frequencies = block;
    call->values = block + n_f;
    call->ranked = (float *)(void *)(call->values + a->n_rows);
    call->span_of_row = (uint32_t *)(void *)(call->ranked + n_ranked);
    call->best = (int32_t *)(void *)(call->span_of_row + a->n_rows);
    call->indices = a->indices != NULL ? a->indices : call->best;
    memcpy(out_block, &block, sizeof(block));
    return STATUS_OK;
}

enum status ISA(op_balance_loss)(struct backend *backend, const struct balance_loss_args *args)
{
    struct balance_call call = {.args = args};
    double *block = NULL;

    TRY(check_args(args));
    TRY(acquire(backend, &call, &block));
    if (args->load == NULL) {
        count(backend, &call);
    }
    cpu_run(backend, args->n_rows * args->n_experts * 8, differentiate_task, &call);
    for (size_t row = 0; row < args->n_rows; row++) {
        *args->loss += call.values[row];
    }
    cpu_scratch_release(backend, block);
    return STATUS_OK;
}
