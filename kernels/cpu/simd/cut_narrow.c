/* Owns the fast way to a cut (cut.h). The cut's value is somewhere in [low, high): masses above
 * eight edges between the two, in one pass, leave an eighth of it. As soon as the tokens in there
 * are few enough they are listed, and what follows looks at the list alone, until sixteen are left
 * (or only equal ones), which are put in order and added one by one.
 *
 * Sums over edges are floats and only lead the way. What decides is in double: the mass above the
 * list, the tokens of the list before the cut, and the goal. Of n terms that are not negative any
 * order of additions is within (n - 1) 2^-53 of their sum, so where the prefix without the cut's
 * token is below the goal by n 2^-50 of the whole mass, and with it as much above, every order says
 * the same, and cut_search's among them. Counts are exact. */
#include "kernels/cpu/simd/cut.h"

#include <math.h>

#define N_EDGES ((size_t)8)
#define LIST_MAX ((size_t)4096)
#define FEW ((size_t)16)
#define STAGES_MAX ((size_t)10)
#define ROW_STAGES_MAX ((size_t)3) /* with more tokens than a list holds after them: ties */
/* How far below the maximum a cut is looked for. By mass: e^-20 of 129,280 tokens is 0.03 % of it;
 * by count: what is further below is forbidden rather than unlikely. */
#define DEPTH 20.0F
#define DEPTH_COUNTED 100.0F

/* Sixteen sums in double. */
struct wide {
    f64x8 lo, hi;
};

struct list {
    float u[LIST_MAX + SIMD_LANES];
    int32_t ids[LIST_MAX + SIMD_LANES];
    size_t n;
};

/* Where the cut is, and what is looked at: the whole row, or a list of what lies in [low, high). */
struct narrowing {
    const struct distribution *d;
    const struct list *list; /* NULL: the row */
    bool counts;             /* mass 1 a token, else e */
    double goal, margin;     /* goal below 0: not known yet */
    double above;            /* mass of what is above the list; 0 with the row */
    float low, high;
};

/* Sixteen tokens of what is looked at. */
struct some {
    f32x16 u;
    mask16 kept;
};

SIMD_INLINE void wide_add(struct wide *sums, f32x16 x)
{
    f64x8 lo, hi;

    vec_widen(x, &lo, &hi);
    sums->lo += lo;
    sums->hi += hi;
}

static double wide_sum(const struct wide *sums)
{
    double sum = 0.0;

    for (size_t i = 0; i < 8; i++) {
        sum += sums->lo[i] + sums->hi[i];
    }
    return sum;
}

static size_t n_tokens(const struct narrowing *x)
{
    return x->list != NULL ? x->list->n : x->d->vocab;
}

SIMD_INLINE struct some look(const struct narrowing *x, size_t at)
{
    const size_t n = lanes_left(at, n_tokens(x));

    if (x->list != NULL) {
        return (struct some){.u = vec_load(x->list->u + at), .kept = mask_first(n)};
    }
    const f32x16 u = distribution_u(x->d, at, n);
    return (struct some){.u = u, .kept = distribution_kept(x->d, at, n, u)};
}

/* What they weigh, 0 if not kept. */
SIMD_INLINE f32x16 some_mass(const struct narrowing *x, const struct some *some)
{
    const f32x16 mass = x->counts ? vec_set1(1.0F) : vec_exp(vec_sub(some->u, vec_set1(x->d->max)));
    return vec_select(some->kept, mass, vec_zero());
}

/* About the mass at or above each edge, and, where wants_all, all of it in double. */
static double weigh(const struct narrowing *x, const float edges[N_EDGES], float masses[N_EDGES],
                    bool wants_all)
{
    const size_t n = n_tokens(x);
    struct wide all = {.lo = {0.0}, .hi = {0.0}};
    f32x16 sums[N_EDGES];

    for (size_t i = 0; i < N_EDGES; i++) {
        sums[i] = vec_zero();
    }
    for (size_t at = 0; at < n; at += SIMD_LANES) {
        const struct some some = look(x, at);
        if (mask_bits(some.kept) == 0) {
            continue;
        }
        const f32x16 mass = some_mass(x, &some);
#pragma GCC unroll 8
        for (size_t i = 0; i < N_EDGES; i++) {
            const mask16 is_in = vec_le(vec_set1(edges[i]), some.u);
            sums[i] = vec_add(sums[i], vec_select(is_in, mass, vec_zero()));
        }
        if (wants_all) {
            wide_add(&all, mass);
        }
    }
    for (size_t i = 0; i < N_EDGES; i++) {
        masses[i] = vec_sum(sums[i]);
    }
    return wide_sum(&all);
}

/* Leaves an eighth of [low, high). False: the cut is not in there. */
static bool keep_eighth(struct narrowing *x, const float edges[N_EDGES],
                        const float masses[N_EDGES])
{
    for (size_t i = 0; i < N_EDGES; i++) {
        if (x->above + (double)masses[i] >= x->goal) {
            x->low = edges[i];
            x->high = i > 0 ? edges[i - 1] : x->high;
            return true;
        }
    }
    return false;
}

/* Lists what lies in [low, high), in the order of ids; *above is what lies above it. False: too
 * many. The list may be the one that is looked at: no more is written than was read. */
static bool take(const struct narrowing *x, struct list *out, double *above)
{
    const f32x16 low = vec_set1(x->low), high = vec_set1(x->high);
    const size_t n_all = n_tokens(x);
    struct wide sums = {.lo = {0.0}, .hi = {0.0}};
    size_t n = 0;

    for (size_t at = 0; at < n_all; at += SIMD_LANES) {
        struct some some = look(x, at);
        const mask16 is_above = mask_and(some.kept, vec_le(high, some.u));
        const mask16 is_near = mask_and(some.kept, vec_le(low, some.u));
        const mask16 is_in = mask_and(is_near, mask_not(is_above));
        const i32x16 ids = x->list != NULL ? ivec_load(x->list->ids + at) : lane_ids(at);
        const size_t n_in = (size_t)__builtin_popcount(mask_bits(is_in));

        if (mask_bits(is_near) == 0) {
            continue;
        }
        some.kept = is_above;
        wide_add(&sums, some_mass(x, &some));
        if (n + n_in > LIST_MAX) {
            return false;
        }
        vec_store(out->u + n, vec_squeeze(some.u, is_in));
        ivec_store(out->ids + n, ivec_squeeze(ids, is_in));
        n += n_in;
    }
    out->n = n;
    *above = wide_sum(&sums);
    return true;
}

/* By descending u; equal ones keep the order of their ids. */
static void sort_few(struct list *list)
{
    for (size_t i = 1; i < list->n; i++) {
        const float u = list->u[i];
        const int32_t id = list->ids[i];
        size_t at = i;
        for (; at > 0 && list->u[at - 1] < u; at--) {
            list->u[at] = list->u[at - 1];
            list->ids[at] = list->ids[at - 1];
        }
        list->u[at] = u;
        list->ids[at] = id;
    }
}

static bool is_level(const struct list *list)
{
    size_t i = 1;

    while (i < list->n && list->u[i] == list->u[0]) {
        i++;
    }
    return i >= list->n;
}

/* Goes through a list that is in order. */
static bool walk(const struct narrowing *x, struct cut *cut)
{
    const struct list *const list = x->list;
    double before = x->above;
    float masses[SIMD_LANES] = {0.0F};

    for (size_t i = 0; i < list->n; i++) {
        if (i % SIMD_LANES == 0) {
            const struct some some = look(x, i);
            vec_store(masses, some_mass(x, &some));
        }
        const double after = before + (double)masses[i % SIMD_LANES];
        if (after >= x->goal) {
            *cut = (struct cut){.value = list->u[i], .last = list->ids[i]};
            return before + x->margin < x->goal && x->goal + x->margin <= after;
        }
        before = after;
    }
    return false;
}

static void make_edges(const struct narrowing *x, float edges[N_EDGES])
{
    const float top = x->high < x->d->max ? x->high : x->d->max;
    const float step = (top - x->low) / (float)N_EDGES;

    for (size_t i = 0; i < N_EDGES; i++) {
        edges[i] = i + 1 < N_EDGES ? top - step * (float)(i + 1) : x->low;
    }
}

/* One pass over edges and one that lists. False: there is nothing to find. */
static bool narrow(struct narrowing *x, float top_p, struct list *list)
{
    float edges[N_EDGES], masses[N_EDGES];
    double above;

    make_edges(x, edges);
    const double all = weigh(x, edges, masses, x->goal < 0.0);
    if (x->goal < 0.0) {
        x->goal = (double)top_p * all;
        x->margin = all * (double)x->d->vocab * 0x1p-50;
    }
    if (!keep_eighth(x, edges, masses)) {
        return false;
    }
    if (take(x, list, &above)) {
        x->above += above;
        x->list = list;
    }
    return true;
}

bool ISA(cut_narrow)(const struct distribution *d, struct cut_rule rule, struct cut *cut)
{
    struct list list;
    struct narrowing x = {.d = d, .counts = rule.top_k > 0, .high = INFINITY};

    list.n = 0;
    x.goal = x.counts ? (double)rule.top_k : -1.0;
    x.low = d->max - (x.counts ? DEPTH_COUNTED : DEPTH);
    x.low = x.low < d->min ? d->min : x.low;
    for (size_t stage = 0; stage < STAGES_MAX; stage++) {
        if (!narrow(&x, rule.top_p, &list) || (x.list == NULL && stage + 1 >= ROW_STAGES_MAX)) {
            return false;
        }
        if (x.list != NULL && (list.n <= FEW || is_level(&list))) {
            sort_few(&list);
            return walk(&x, cut);
        }
    }
    return false;
}
