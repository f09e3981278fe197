/* Owns the definition of a cut (cut.h): a radix descent over the order-preserving bits of u, three
 * histograms of mass (11 + 11 + 10 bits, in double), then the tied tokens one by one. Top-k is the
 * same search with mass 1 a token. Masses are added token after token, v ascending. */
#include "kernels/cpu/simd/cut.h"

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

struct cut ISA(cut_search)(const struct distribution *d, struct cut_rule rule)
{
    struct search s = {.counts = rule.top_k > 0};
    double mass[RADIX_BUCKETS];

    s.goal = s.counts ? (double)rule.top_k : (double)rule.top_p * kept_mass(d);
    for (size_t level = 0; level < RADIX_LEVELS; level++) {
        histogram(d, &s, level, mass);
        descend(&s, level, mass);
    }
    const int32_t last = last_of_tied(d, &s);
    return (struct cut){.value = order_value(s.key), .last = last};
}
