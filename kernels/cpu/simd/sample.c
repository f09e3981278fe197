/* Owns the draw of tokens: the exponential race arg max over kept v of exp(u_v - max) / -log n_v
 * (cpu.md 5.14), n_v the noise of philox.h, so a draw depends on its row and key alone. A larger
 * score wins, then the lower id. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"
#include "kernels/cpu/simd/philox.h"

#define TILE_VECTORS (NOISE_TILE / SIMD_LANES)

struct race {
    f32x16 best;
    i32x16 ids;
    float bar; /* a little less than the best of all lanes; 0 where that is too small to scale */
};

struct sample_call {
    const struct sample_args *args;
    atomic_size_t bad_row;
};

#define BAR_SHARE 0.999F
#define BAR_MIN 0x1p-60F

/* Scores of the tokens from first on, whose exponentials are e (0: not kept; it cannot win, since
 * the largest of a row is kept). */
static void race_enter(struct race *race, size_t first, const f32x16 e[TILE_VECTORS],
                       const struct noise_words *words)
{
    for (size_t i = 0; i < TILE_VECTORS; i++) {
        const f32x16 time = vec_neg(vec_log(noise_uniform(words->c[i])));
        const f32x16 score = vec_div(e[i], time);
        const mask16 leads = vec_lt(race->best, score);
        race->best = vec_select(leads, score, race->best);
        race->ids = ivec_select(leads, lane_ids(first + i * SIMD_LANES), race->ids);
    }
    const float bar = BAR_SHARE * vec_hmax(race->best);
    race->bar = bar > BAR_MIN ? bar : 0.0F;
}

/* Whether a score of the tile may reach the bar. Since -log n >= 1 - n, a score is at most
 * e / (1 - n), and 1 - n > 1 - 2^-22 - 2^-23 b, b the word's upper 23 bits: what is left of bar and
 * of 2^-22 covers every rounding. */
SIMD_INLINE bool race_is_near(const struct race *race, const f32x16 e[TILE_VECTORS],
                              const struct noise_words *words)
{
    const f32x16 slope = vec_set1(0x1p-23F * race->bar);
    f32x16 reach[TILE_VECTORS];

#pragma GCC unroll 4
    for (size_t i = 0; i < TILE_VECTORS; i++) {
        reach[i] = vec_fma(ivec_to_float(ivec_shift_right(words->c[i], 9)), slope, e[i]);
    }
    const f32x16 most = vec_max(vec_max(reach[0], reach[1]), vec_max(reach[2], reach[3]));
    const f32x16 want = vec_set1((1.0F - 0x1p-22F) * race->bar);
    return mask_bits(vec_le(want, most)) != 0;
}

/* Tokens first .. first + n - 1 of a row; their exponentials are added to sum. Noise of tokens that
 * could not win with the largest there is, -1 / log(1 - 2^-24), is not made. */
SIMD_INLINE void race_tile(struct race *race, const struct distribution *d,
                           const struct noise_key *key, size_t first, size_t n, bool is_filtered,
                           f32x16 *sum)
{
    struct noise_words words;
    f32x16 e[TILE_VECTORS];

#pragma GCC unroll 4
    for (size_t i = 0; i < TILE_VECTORS; i++) {
        const size_t at = i * SIMD_LANES;
        e[i] = vec_zero();
        if (at < n) {
            e[i] = distribution_mass(d, first + at, lanes_left(at, n), is_filtered);
            *sum = vec_add(*sum, e[i]);
        }
    }
    const f32x16 most = vec_max(vec_max(e[0], e[1]), vec_max(e[2], e[3]));
    if (mask_bits(vec_le(vec_set1(0x1p-25F * race->bar), most)) == 0) {
        return;
    }
    noise_tile(key, first / NOISE_TILE, &words);
    if (race_is_near(race, e, &words)) {
        race_enter(race, first, e, &words);
    }
}

static int32_t race_winner(const struct race *race)
{
    const float best = vec_hmax(race->best);
    const uint32_t tied = mask_bits(vec_eq(race->best, vec_set1(best)));
    int32_t ids[16];
    int32_t winner = INT32_MAX;

    ivec_store(ids, race->ids);
    for (size_t j = 0; j < 16; j++) {
        if ((tied >> j & 1) != 0 && ids[j] < winner) {
            winner = ids[j];
        }
    }
    return winner;
}

/* The winner, and what is left to do of d. */
SIMD_INLINE int32_t race_run(struct distribution *d, const struct noise_key *key, bool is_filtered)
{
    const size_t whole = d->vocab - d->vocab % NOISE_TILE;
    struct race race = {.best = vec_set1(-1.0F), .ids = ivec_set1(0), .bar = 0.0F};
    f32x16 sum = vec_zero();

    for (size_t first = 0; first < whole; first += NOISE_TILE) {
        race_tile(&race, d, key, first, NOISE_TILE, is_filtered, &sum);
    }
    if (whole < d->vocab) {
        race_tile(&race, d, key, whole, d->vocab - whole, is_filtered, &sum);
    }
    ISA(distribution_close)(d, vec_sum(sum));
    return race_winner(&race);
}

static int32_t draw(struct distribution *d, const struct sample_row *row)
{
    const struct noise_key key = noise_key_make(row->seed, row->group, row->sample, row->position);

    if (d->is_filtered) {
        return race_run(d, &key, true);
    }
    return race_run(d, &key, false);
}

static bool sample_row(const float *logits, size_t vocab, const struct sample_row *row,
                       int32_t *token, float *logp)
{
    struct distribution d;

    if (row->sampling.temperature == 0.0F) {
        if (!ISA(distribution_init)(logits, vocab, &row->sampling, -1, &d)) {
            return false;
        }
        *token = d.cut.last;
    } else {
        if (!ISA(distribution_begin)(logits, vocab, &row->sampling, -1, &d)) {
            return false;
        }
        *token = draw(&d, row);
    }
    *logp = ISA(distribution_logp)(&d, *token);
    return true;
}

static void sample_task(void *context, size_t thread_index, size_t n_threads)
{
    struct sample_call *call = context;
    const struct sample_args *a = call->args;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        if (!sample_row(a->logits + row * a->logits_stride, a->vocab, &a->rows[row],
                        &a->tokens[row], &a->logp[row])) {
            bad_row_note(&call->bad_row, row);
        }
    }
}

enum status ISA(op_sample)(struct backend *backend, const struct sample_args *args)
{
    struct sample_call call = {.args = args, .bad_row = SIZE_MAX};

    cpu_run(backend, args->n_rows * args->vocab * 16, sample_task, &call);
    return bad_row_status(&call.bad_row);
}
