/* Owns the selection of keys by the indexer of sparse attention (model.md 11.1).
 *
 * Order for one row, which depends on key positions alone: a product with a key is one fma chain
 * over dimensions ascending, heads are one chain ascending. The largest are found by their bits, a
 * byte at a time, so that ties and order do not depend on how the row came here. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/index_tile.h"

#define DIGITS ((size_t)256)

/* One thread's memory. P = pairs of a chunk. */
struct workspace {
    float *q;      /* (P, dim) */
    float *keys;   /* (dim, KEY_BLOCK) transposed */
    float *z;      /* (P, KEY_BLOCK) */
    float *wide;   /* (KEY_BLOCK, dim) keys of pages that hold no floats */
    float *scores; /* (rows, score_stride) */
};

struct select_call {
    const struct index_args *args;
    float *scratch;
    size_t scratch_floats; /* a thread */
    size_t score_stride;   /* whole key blocks of the longest span */
    size_t total_work;
};

static size_t product_floats(const struct index_args *a, size_t pairs)
{
    const size_t n_copies = a->pages.precision == PRECISION_F32 ? 1 : 2;

    return whole_lanes(pairs * (a->dim + KEY_BLOCK) + n_copies * a->dim * KEY_BLOCK);
}

static size_t workspace_floats(const struct index_args *a, size_t score_stride)
{
    const size_t pairs = max_pairs(a->n_heads);

    return product_floats(a, pairs) + chunk_rows(a->n_heads) * score_stride;
}

static struct workspace workspace_at(const struct index_args *a, float *scratch)
{
    const size_t pairs = max_pairs(a->n_heads);
    struct workspace w;

    w.keys = scratch;
    w.z = w.keys + a->dim * KEY_BLOCK;
    w.q = w.z + pairs * KEY_BLOCK;
    w.wide = w.q + pairs * a->dim;
    w.scores = scratch + product_floats(a, pairs);
    return w;
}

/* Bits whose order as whole numbers is the order of the floats; both zeros are one. */
static uint32_t order_of(float x)
{
    const float value = x + 0.0F;
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/* The order of the k-th largest of n; *n_equal: how many of that order are among the k largest. */
static uint32_t find_threshold(const float *scores, size_t n, size_t k, size_t *n_equal)
{
    uint32_t prefix = 0, mask = 0;

    for (uint32_t shift = 32; shift > 0; shift -= 8) {
        size_t counts[DIGITS] = {0};
        size_t digit = DIGITS - 1;
        for (size_t i = 0; i < n; i++) {
            const uint32_t order = order_of(scores[i]);
            counts[order >> (shift - 8) & (DIGITS - 1)] += (order & mask) == prefix;
        }
        for (; counts[digit] < k; digit--) {
            k -= counts[digit];
        }
        prefix |= (uint32_t)digit << (shift - 8);
        mask |= (uint32_t)(DIGITS - 1) << (shift - 8);
    }
    *n_equal = k;
    return prefix;
}

/* selected (n_selected) of a row that sees n keys; scores are read only if there is a choice. */
static void select_row(const float *scores, size_t n, size_t n_selected, int32_t *selected)
{
    size_t n_equal = 0, n_taken = 0;
    const bool has_choice = n > n_selected;
    const uint32_t threshold = has_choice ? find_threshold(scores, n, n_selected, &n_equal) : 0;

    for (size_t i = 0; i < n && n_taken < n_selected; i++) {
        const uint32_t order = has_choice ? order_of(scores[i]) : 1;
        if (order > threshold) {
            selected[n_taken++] = (int32_t)i;
        } else if (order == threshold && n_equal > 0) {
            selected[n_taken++] = (int32_t)i;
            n_equal--;
        }
    }
    while (n_taken < n_selected) {
        selected[n_taken++] = -1;
    }
}

/* Scores of the chunk's rows with all keys they see. */
static void score_chunk(const struct index_args *a, const struct chunk *c, struct workspace *w,
                        size_t score_stride)
{
    struct key_rows keys;

    gather_index_queries(a, c, w->q);
    for (size_t first = 0; first < c->n_keys; first += KEY_BLOCK) {
        const size_t n_keys = smaller(c->n_keys - first, KEY_BLOCK);
        const struct key_part part = {first, n_keys, a->key_at, a->dim};
        locate_keys(&a->pages, c, &part, w->wide, &keys);
        index_products(a, c->n_rows * a->n_heads, w->q, &keys, n_keys, w->keys, w->z);
        for (size_t r = 0; r < c->n_rows; r++) {
            const float *weights = a->w + (c->span->first_row + c->i + r) * a->w_stride;
            index_combine(a, w->z + r * a->n_heads * KEY_BLOCK, weights, n_keys,
                          w->scores + r * score_stride + first);
        }
    }
}

static void select_chunk(const struct select_call *call, const struct chunk *c, struct workspace *w)
{
    const struct index_args *a = call->args;

    if (a->scores != NULL || c->n_keys > a->n_selected) {
        score_chunk(a, c, w, call->score_stride);
    }
    for (size_t r = 0; r < c->n_rows; r++) {
        const size_t row = c->span->first_row + c->i + r;
        const float *scores = w->scores + r * call->score_stride;
        select_row(scores, chunk_seen(c, r), a->n_selected, a->selected + row * a->n_selected);
        if (a->scores != NULL) {
            memcpy(a->scores + row * a->scores_stride, scores, chunk_seen(c, r) * sizeof(*scores));
        }
    }
}

/* Chunks in order; a thread takes those that begin in its share of the work. */
static void select_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct select_call *call = context;
    const struct index_args *a = call->args;
    const size_t step = chunk_rows(a->n_heads);
    struct workspace w = workspace_at(a, call->scratch + thread_index * call->scratch_floats);
    size_t before = 0;

    for (size_t s = 0; s < a->n_spans; s++) {
        const struct kv_span *span = &a->spans[s];
        for (size_t i = 0; i < span->n_rows; i += step) {
            const struct chunk c = chunk_at(span, i, step);
            const size_t done = before + span_work(span, i);
            if (work_owner(done, call->total_work, n_threads) == thread_index) {
                select_chunk(call, &c, &w);
            }
        }
        before += span_work(span, span->n_rows);
    }
}

enum status ISA(op_index_select)(struct backend *backend, const struct index_args *args)
{
    struct select_call call = {.args = args};

    for (size_t s = 0; s < args->n_spans; s++) {
        const struct kv_span *span = &args->spans[s];
        const size_t n_blocks = (span->n_cached + span->n_rows + KEY_BLOCK - 1) / KEY_BLOCK;

        call.total_work += span_work(span, span->n_rows);
        if (n_blocks * KEY_BLOCK > call.score_stride) {
            call.score_stride = n_blocks * KEY_BLOCK;
        }
    }
    call.scratch_floats = workspace_floats(args, call.score_stride);
    TRY(cpu_scratch_acquire(backend, backend->n_threads * call.scratch_floats, sizeof(float),
                            &call.scratch));
    cpu_run(backend, call.total_work * args->n_heads * 2 * args->dim, select_task, &call);
    cpu_scratch_release(backend, call.scratch);
    return STATUS_OK;
}
