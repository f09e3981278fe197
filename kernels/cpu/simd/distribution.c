/* Owns how a row's distribution is made: maximum, cut of the filters, sums. See distribution.h.
 *
 * A cut is found by a radix descent over the order-preserving bits of u: three histograms of mass
 * (11 + 11 + 10 bits, in double), then the tied tokens one by one. Top-k is the same search with
 * mass 1 a token. min_p compares e_v = p_v / p_max directly, which no renormalisation changes. */
#include "kernels/cpu/simd/distribution.h"

#include <math.h>
#include <string.h>

#define RADIX_BUCKETS ((size_t)2048)
#define RADIX_LEVELS ((size_t)3)

static const uint32_t radix_shift[RADIX_LEVELS] = {21, 10, 0};
static const uint32_t radix_mask[RADIX_LEVELS] = {2047, 2047, 1023};

/* Sixteen tokens spelled out for scalar code. */
struct lanes {
    float u[16], e[16];
    uint32_t key[16]; /* larger u, larger key */
    uint32_t kept;    /* bit per lane */
};

struct search {
    bool counts; /* mass 1 a token, else e */
    double goal; /* the shortest prefix whose mass reaches it */
    double above;
    uint32_t key, key_mask; /* the digits that are known */
};

static float float_log(float x)
{
    return vec_hmax(vec_log(vec_set1(x)));
}

static uint32_t order_key(float u)
{
    const float positive_zero = u + 0.0F; /* -0 and 0 are tied */
    uint32_t bits;

    memcpy(&bits, &positive_zero, sizeof(bits));
    return bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
}

static float order_value(uint32_t key)
{
    const uint32_t bits = key & UINT32_C(0x80000000) ? key & UINT32_C(0x7FFFFFFF) : ~key;
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void spell_out(const struct distribution *d, size_t v, size_t n, struct lanes *lanes)
{
    const f32x16 u = distribution_u(d, v, n);

    vec_store(lanes->u, u);
    vec_store(lanes->e, vec_exp(vec_sub(u, vec_set1(d->max))));
    lanes->kept = mask_bits(distribution_kept(d, v, n, u));
    for (size_t j = 0; j < n; j++) {
        lanes->key[j] = order_key(lanes->u[j]);
    }
}

static double mass_of(const struct search *s, const struct lanes *lanes, size_t j)
{
    return s->counts ? 1.0 : (double)lanes->e[j];
}

static bool is_candidate(const struct search *s, const struct lanes *lanes, size_t j)
{
    return (lanes->kept >> j & 1) != 0 && (lanes->key[j] & s->key_mask) == s->key;
}

/* Mass of every value of one digit among the candidates. */
static void histogram(const struct distribution *d, const struct search *s, size_t level,
                      double mass[RADIX_BUCKETS])
{
    struct lanes lanes;

    memset(mass, 0, RADIX_BUCKETS * sizeof(*mass));
    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        spell_out(d, v, n, &lanes);
        for (size_t j = 0; j < n; j++) {
            if (is_candidate(s, &lanes, j)) {
                mass[lanes.key[j] >> radix_shift[level] & radix_mask[level]] +=
                    mass_of(s, &lanes, j);
            }
        }
    }
}

/* Fixes one digit: the highest bucket at which the mass reaches the goal, or the last with mass. */
static void descend(struct search *s, size_t level, const double mass[RADIX_BUCKETS])
{
    double above = s->above;
    uint32_t digit = 0;

    for (uint32_t bucket = radix_mask[level] + 1; bucket-- > 0;) {
        if (mass[bucket] <= 0.0) {
            continue;
        }
        digit = bucket;
        s->above = above;
        above += mass[bucket];
        if (above >= s->goal) {
            break;
        }
    }
    s->key |= digit << radix_shift[level];
    s->key_mask |= radix_mask[level] << radix_shift[level];
}

/* Among tokens of one value, lower ids first. */
static int32_t last_of_tied(const struct distribution *d, struct search *s)
{
    int32_t last = 0;
    struct lanes lanes;

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        spell_out(d, v, n, &lanes);
        for (size_t j = 0; j < n; j++) {
            if (!is_candidate(s, &lanes, j)) {
                continue;
            }
            last = (int32_t)(v + j);
            s->above += mass_of(s, &lanes, j);
            if (s->above >= s->goal) {
                return last;
            }
        }
    }
    return last;
}

static void cut_at(struct distribution *d, struct search s)
{
    double mass[RADIX_BUCKETS];

    for (size_t level = 0; level < RADIX_LEVELS; level++) {
        histogram(d, &s, level, mass);
        descend(&s, level, mass);
    }
    const int32_t last = last_of_tied(d, &s);
    d->cut = (struct cut){.value = order_value(s.key), .last = last};
    d->is_filtered = true;
}

static double kept_mass(const struct distribution *d)
{
    double mass = 0.0;
    struct lanes lanes;

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        spell_out(d, v, n, &lanes);
        for (size_t j = 0; j < n; j++) {
            mass += (lanes.kept >> j & 1) != 0 ? (double)lanes.e[j] : 0.0;
        }
    }
    return mass;
}

static void cut_min_p(struct distribution *d, float min_p)
{
    f32x16 lowest = vec_set1(d->max);

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const f32x16 u = distribution_u(d, v, n);
        const mask16 enough = vec_le(vec_set1(min_p), vec_exp(vec_sub(u, vec_set1(d->max))));
        const mask16 stays = mask_and(enough, distribution_kept(d, v, n, u));
        lowest = vec_min(vec_select(stays, u, lowest), lowest);
    }
    const float value = -vec_hmax(vec_neg(lowest));
    if (!d->is_filtered || value > d->cut.value) {
        d->cut = (struct cut){.value = value, .last = (int32_t)d->vocab - 1};
        d->is_filtered = true;
    }
}

/* top_k, top_p, min_p in this order, each on what the one before left. */
static void cut_filters(struct distribution *d, const struct sampling_params *sampling)
{
    if (sampling->top_k > 0 && (size_t)sampling->top_k < d->vocab) {
        cut_at(d, (struct search){.counts = true, .goal = (double)sampling->top_k});
    }
    if (sampling->top_p < 1.0F) {
        cut_at(d, (struct search){.goal = (double)sampling->top_p * kept_mass(d)});
    }
    if (sampling->min_p > 0.0F) {
        cut_min_p(d, sampling->min_p);
    }
}

/* Four vectors a step, so that one maximum need not wait for the last. */
#define MAX_STEP ((size_t)4)

struct extremes {
    f32x16 best, zero;
};

SIMD_INLINE void extremes_add(struct extremes *x, const struct distribution *d, size_t v, size_t n)
{
    const f32x16 u = distribution_u(d, v, n);

    x->best = vec_max(vec_select(mask_first(n), u, x->best), x->best);
    x->zero = vec_fma(u, vec_zero(), x->zero); /* NaN as soon as a u is not finite */
}

/* Maximum of u; false if a u is not finite. */
static bool find_max(struct distribution *d)
{
    const size_t whole = d->vocab - d->vocab % (MAX_STEP * SIMD_LANES);
    struct extremes x[MAX_STEP];

    for (size_t i = 0; i < MAX_STEP; i++) {
        x[i] = (struct extremes){.best = vec_set1(-INFINITY), .zero = vec_zero()};
    }
    for (size_t v = 0; v < whole; v += MAX_STEP * SIMD_LANES) {
#pragma GCC unroll 4
        for (size_t i = 0; i < MAX_STEP; i++) {
            extremes_add(&x[i], d, v + i * SIMD_LANES, SIMD_LANES);
        }
    }
    for (size_t v = whole; v < d->vocab; v += SIMD_LANES) {
        extremes_add(&x[0], d, v, lanes_left(v, d->vocab));
    }
    d->max = vec_hmax(vec_max(vec_max(x[0].best, x[1].best), vec_max(x[2].best, x[3].best)));
    return vec_sum(vec_add(vec_add(x[0].zero, x[1].zero), vec_add(x[2].zero, x[3].zero))) == 0.0F;
}

static void cut_greedy(struct distribution *d)
{
    uint32_t found = 0;
    size_t v = 0;

    for (; found == 0; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const mask16 equal = vec_eq(distribution_u(d, v, n), vec_set1(d->max));
        found = mask_bits(mask_and(mask_first(n), equal));
    }
    const size_t arg_max = v - SIMD_LANES + (size_t)__builtin_ctz(found);
    d->cut = (struct cut){.value = d->max, .last = (int32_t)arg_max};
    d->is_filtered = true;
}

/* One pass: the sum of the kept set, and the entropy log s + sum e (max - u) / s of all. */
SIMD_INLINE float add_up(struct distribution *d, bool is_filtered)
{
    const f32x16 max = vec_set1(d->max);
    f32x16 kept = vec_zero(), all = vec_zero(), weighted = vec_zero();

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const f32x16 u = distribution_u(d, v, n);
        const f32x16 below = vec_sub(u, max);
        const f32x16 e = vec_select(mask_first(n), vec_exp(below), vec_zero());
        all = vec_add(all, e);
        weighted = vec_fma(e, below, weighted);
        if (is_filtered) {
            kept = vec_add(kept, vec_select(distribution_kept(d, v, n, u), e, vec_zero()));
        }
    }
    const float total = vec_sum(all);
    const float log_total = float_log(total);
    d->lse_all = d->max + log_total;
    d->entropy = log_total - vec_sum(weighted) / total;
    return is_filtered ? vec_sum(kept) : total;
}

bool ISA(distribution_begin)(const float *logits, size_t vocab,
                             const struct sampling_params *sampling, int32_t forced,
                             struct distribution *d)
{
    const bool is_greedy = sampling->temperature == 0.0F;

    *d = (struct distribution){.logits = logits,
                               .vocab = vocab,
                               .inv_temperature = is_greedy ? 1.0F : 1.0F / sampling->temperature,
                               .is_greedy = is_greedy,
                               .forced = -1};
    if (!find_max(d)) {
        return false;
    }
    if (is_greedy) {
        cut_greedy(d);
    } else {
        cut_filters(d, sampling);
        d->forced = forced;
    }
    return true;
}

void ISA(distribution_close)(struct distribution *d, float sum)
{
    d->sum = sum;
    d->lse = d->max + float_log(d->sum);
}

bool ISA(distribution_init)(const float *logits, size_t vocab,
                            const struct sampling_params *sampling, int32_t forced,
                            struct distribution *d)
{
    if (!ISA(distribution_begin)(logits, vocab, sampling, forced, d)) {
        return false;
    }
    if (d->is_greedy) {
        ISA(distribution_close)(d, 1.0F);
    } else if (d->is_filtered) {
        ISA(distribution_close)(d, add_up(d, true));
    } else {
        ISA(distribution_close)(d, add_up(d, false));
    }
    return true;
}

float ISA(distribution_logp)(const struct distribution *d, int32_t v)
{
    if (d->is_greedy && v != d->cut.last) {
        return -INFINITY;
    }
    return d->logits[v] * d->inv_temperature - d->lse;
}
