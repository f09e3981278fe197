/* Owns the choice of experts, V3's noaux_tc and V2's greedy ones (model.md 7.1 to 7.3), in FP32.
 * Ties go to the lower index, for groups and experts alike; a score that is not finite counts as
 * -infinity, so indices are always K different experts. Sums run over slots ascending; a softmax
 * sums its row in sixteen lanes. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"

#include <math.h>
#include <stdatomic.h>

#define NORMALISE_EPSILON 1e-20F

struct router_call {
    const struct router_args *args;
    float *biased;        /* (n_threads, E) scratch */
    float *group_scores;  /* (n_threads, G) scratch */
    atomic_bool is_wrong; /* a replayed index is out of range */
};

static bool is_expert(int32_t index, size_t n_experts)
{
    return index >= 0 && (size_t)index < n_experts;
}

/* Index of the largest of n values that are not marked as taken by NaN; n if all are. */
static size_t arg_max(const float *values, size_t n)
{
    const f32x16 lowest = vec_set1(-INFINITY);
    f32x16 best = lowest;

    for (size_t i = 0; i < n; i += SIMD_LANES) {
        const size_t left = lanes_left(i, n);
        const f32x16 value = lanes_load(values + i, left);
        best = vec_max(vec_select(mask_first(left), value, lowest), best); /* NaN: best */
    }
    best = vec_set1(vec_hmax(best));
    for (size_t i = 0; i < n; i += SIMD_LANES) {
        const size_t left = lanes_left(i, n);
        const mask16 is_best = vec_eq(lanes_load(values + i, left), best);
        const uint32_t hits = mask_bits(mask_and(mask_first(left), is_best));
        if (hits != 0) {
            return i + (size_t)__builtin_ctz(hits);
        }
    }
    return n;
}

/* Of at most sixteen values, which stay in a register: a vector that is loaded just after one of
 * its lanes was stored has to wait. */
static void take_largest_few(float *values, size_t n, size_t k, int32_t *indices)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const f32x16 value = vec_load_n(values, n), lowest = vec_set1(-INFINITY);
    const i32x16 ids = ivec_load(lanes);
    mask16 left = mask_and(mask_first(n), vec_eq(value, value));

    for (size_t i = 0; i < k; i++) {
        const f32x16 best = vec_set1(vec_hmax(vec_select(left, value, lowest)));
        const uint32_t hits = mask_bits(mask_and(left, vec_eq(value, best)));
        const int32_t taken = __builtin_ctz(hits);
        indices[i] = taken;
        values[taken] = NAN;
        left = mask_and(left, mask_not(ivec_eq(ids, ivec_set1(taken))));
    }
}

void ISA(take_largest)(float *values, size_t n, size_t k, int32_t *indices)
{
    if (n <= SIMD_LANES) {
        take_largest_few(values, n, k, indices);
        return;
    }
    for (size_t i = 0; i < k; i++) {
        const size_t best = arg_max(values, n);

        indices[i] = (int32_t)best;
        values[best] = NAN; /* taken */
    }
}

static float two_largest(const float *values, size_t n)
{
    float first = -INFINITY, second = -INFINITY;

    for (size_t i = 0; i < n; i++) {
        if (values[i] > first) {
            second = first;
            first = values[i];
        } else if (values[i] > second) {
            second = values[i];
        }
    }
    return n == 1 ? first : first + second;
}

static float largest(const float *values, size_t n)
{
    float first = -INFINITY;

    for (size_t i = 0; i < n; i++) {
        first = values[i] > first ? values[i] : first;
    }
    return first;
}

/* Replaces the biased scores of all groups but the best top_groups by -infinity. */
static void drop_groups(const struct router_args *a, float *biased, float *group_scores)
{
    const size_t size = a->n_experts / a->n_groups;

    for (size_t g = 0; g < a->n_groups; g++) {
        group_scores[g] = a->scoring == ROUTER_SIGMOID ? two_largest(biased + g * size, size)
                                                       : largest(biased + g * size, size);
    }
    for (size_t kept = 0; kept < a->top_groups; kept++) {
        group_scores[arg_max(group_scores, a->n_groups)] = NAN; /* NaN: kept */
    }
    for (size_t g = 0; g < a->n_groups; g++) {
        for (size_t e = 0; e < size && !isnan(group_scores[g]); e++) {
            biased[g * size + e] = -INFINITY;
        }
    }
}

static void select_experts(const struct router_args *a, const float *scores, float *biased,
                           float *group_scores, int32_t *indices)
{
    for (size_t e = 0; e < a->n_experts; e++) {
        const float value = a->bias != NULL ? scores[e] + a->bias[e] : scores[e];
        biased[e] = isfinite(value) ? value : -INFINITY;
    }
    if (a->n_groups > 1 && a->top_groups < a->n_groups) {
        drop_groups(a, biased, group_scores);
    }
    ISA(take_largest)(biased, a->n_experts, a->top_k, indices);
}

static void weigh(const struct router_args *a, const float *scores, const int32_t *indices,
                  float *weights)
{
    float sum = 0.0F;

    for (size_t k = 0; k < a->top_k; k++) {
        weights[k] = scores[indices[k]];
        sum += weights[k];
    }
    for (size_t k = 0; k < a->top_k; k++) {
        const float w = a->normalise ? weights[k] / (sum + NORMALISE_EPSILON) : weights[k];
        weights[k] = w * a->scaling;
    }
}

/* Copies the replayed experts of a row; false if one does not exist. */
static bool replay_experts(const struct router_args *a, size_t row, int32_t *indices)
{
    for (size_t k = 0; k < a->top_k; k++) {
        indices[k] = a->replay[row * a->top_k + k];
        if (!is_expert(indices[k], a->n_experts)) {
            return false;
        }
    }
    return true;
}

static void score_sigmoid(const float *logits, size_t n_experts, float *scores)
{
    for (size_t e = 0; e < n_experts; e += SIMD_LANES) {
        const size_t n = lanes_left(e, n_experts);
        lanes_store(scores + e, vec_sigmoid(lanes_load(logits + e, n)), n);
    }
}

static void score_softmax(const float *logits, size_t n_experts, float *scores)
{
    f32x16 max = vec_set1(-INFINITY), sum = vec_zero();

    for (size_t e = 0; e < n_experts; e += SIMD_LANES) {
        const size_t n = lanes_left(e, n_experts);
        max =
            vec_max(max, vec_select(mask_first(n), lanes_load(logits + e, n), vec_set1(-INFINITY)));
    }
    max = vec_set1(vec_hmax(max));
    for (size_t e = 0; e < n_experts; e += SIMD_LANES) {
        const size_t n = lanes_left(e, n_experts);
        const f32x16 value =
            vec_select(mask_first(n), vec_exp(vec_sub(lanes_load(logits + e, n), max)), vec_zero());
        lanes_store(scores + e, value, n);
        sum = vec_add(sum, value);
    }
    const f32x16 total = vec_set1(vec_sum(sum));
    for (size_t e = 0; e < n_experts; e += SIMD_LANES) {
        const size_t n = lanes_left(e, n_experts);
        lanes_store(scores + e, vec_div(lanes_load(scores + e, n), total), n);
    }
}

static void route_row(struct router_call *call, size_t row, size_t thread_index)
{
    const struct router_args *a = call->args;
    const float *logits = a->logits + row * a->logits_stride;
    float *scores = a->scores + row * a->n_experts;
    int32_t *indices = a->indices + row * a->top_k;

    if (a->scoring == ROUTER_SIGMOID) {
        score_sigmoid(logits, a->n_experts, scores);
    } else {
        score_softmax(logits, a->n_experts, scores);
    }
    if (a->replay == NULL) {
        select_experts(a, scores, call->biased + thread_index * a->n_experts,
                       call->group_scores + thread_index * a->n_groups, indices);
    } else if (!replay_experts(a, row, indices)) {
        atomic_store(&call->is_wrong, true);
        return;
    }
    weigh(a, scores, indices, a->weights + row * a->top_k);
}

static void route_task(void *context, size_t thread_index, size_t n_threads)
{
    struct router_call *call = context;
    size_t begin, end;

    pool_share(call->args->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        route_row(call, row, thread_index);
    }
}

enum status ISA(op_router)(struct backend *backend, const struct router_args *args)
{
    struct router_call call = {.args = args};

    if (args->top_k > args->n_experts || args->n_groups == 0 ||
        args->n_experts % args->n_groups != 0) {
        return status_set(STATUS_BAD_ARGUMENT, "router: %zu of %zu experts in %zu groups",
                          args->top_k, args->n_experts, args->n_groups);
    }
    const size_t row_floats = args->n_experts + args->n_groups;
    TRY(cpu_scratch_acquire(backend, backend->n_threads * row_floats, sizeof(float), &call.biased));
    call.group_scores = call.biased + backend->n_threads * args->n_experts;
    cpu_run(backend, args->n_rows * (16 * args->n_experts + 512 * args->top_k), route_task, &call);
    cpu_scratch_release(backend, call.biased);
    if (atomic_load(&call.is_wrong)) {
        return status_set(STATUS_BAD_ARGUMENT, "a replayed expert is not one of %zu",
                          args->n_experts);
    }
    return STATUS_OK;
}

/* Through the softmax of a row: d_logits holds the gradient of the scores and becomes the logits'.
 * With d_scores every score has one; else the chosen ones alone, zero elsewhere. */
static void backward_softmax(const struct router_backward_args *a, const float *scores,
                             const int32_t *indices, float *d_logits)
{
    float dot = 0.0F;

    for (size_t k = 0; k < a->top_k && a->d_scores == NULL; k++) {
        dot += d_logits[indices[k]] * scores[indices[k]];
    }
    for (size_t e = 0; e < a->n_experts && a->d_scores != NULL; e++) {
        dot += d_logits[e] * scores[e];
    }
    for (size_t e = 0; e < a->n_experts; e++) {
        d_logits[e] = scores[e] * (d_logits[e] - dot);
    }
}

/* Adds the gradient of a row's scores through its weights (model.md 7.3). */
static void add_score_gradients(const struct router_backward_args *a, const float *scores,
                                const int32_t *indices, const float *d_weights, float *d_scores)
{
    float sum = 0.0F, dot = 0.0F;

    for (size_t k = 0; k < a->top_k; k++) {
        sum += scores[indices[k]];
    }
    const float total = sum + NORMALISE_EPSILON;
    for (size_t k = 0; k < a->top_k; k++) {
        dot += d_weights[k] * (scores[indices[k]] / total);
    }
    for (size_t k = 0; k < a->top_k; k++) {
        d_scores[indices[k]] +=
            a->normalise ? a->scaling / total * (d_weights[k] - dot) : a->scaling * d_weights[k];
    }
}

/* d_logits of one row: first the gradient of its scores, then through sigmoid or softmax. */
static void backward_row(const struct router_backward_args *a, size_t row)
{
    const float *scores = a->scores + row * a->n_experts;
    const int32_t *indices = a->indices + row * a->top_k;
    float *d_logits = a->d_logits + row * a->d_logits_stride;

    for (size_t e = 0; e < a->n_experts; e++) {
        d_logits[e] = a->d_scores != NULL ? a->d_scores[row * a->n_experts + e] : 0.0F;
    }
    add_score_gradients(a, scores, indices, a->d_weights + row * a->top_k, d_logits);
    if (a->scoring == ROUTER_SOFTMAX) {
        backward_softmax(a, scores, indices, d_logits);
        return;
    }
    for (size_t e = 0; e < a->n_experts; e++) {
        d_logits[e] = d_logits[e] * scores[e] * (1.0F - scores[e]);
    }
}

static void backward_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct router_backward_args *a = context;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        backward_row(a, row);
    }
}

enum status ISA(op_router_backward)(struct backend *backend,
                                    const struct router_backward_args *args)
{
    struct router_backward_args a = *args;

    cpu_run(backend, a.n_rows * (a.n_experts + 16 * a.top_k), backward_task, &a);
    return STATUS_OK;
}
