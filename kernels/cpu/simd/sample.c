/* Owns the draw of tokens: the exponential race arg max over kept v of exp(u_v - max) / -log n_v
 * (cpu.md 5.14), n_v the noise of philox.h, so a draw depends on its row and key alone. A larger
 * score wins, then the lower id. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"
#include "kernels/cpu/simd/philox.h"

#define TILE_VECTORS (NOISE_TILE / SIMD_LANES)
#define STEP_TILES_MAX ((size_t)2)
#define STEP_VECTORS_MAX (STEP_TILES_MAX * TILE_VECTORS)

struct race {
    f32x16 best;
    i32x16 ids;
    struct noise_key key;
    float bar; /* a little less than the best of all lanes; 0 where that is too small to scale */
};

struct sample_call {
    const struct sample_args *args;
    atomic_size_t bad_row;
};

#define BAR_SHARE 0.999F
#define BAR_MIN 0x1p-60F

/* What is known of some tiles of a row. */
struct step {
    f32x16 e[STEP_VECTORS_MAX]; /* 0: not kept; it cannot win, since the largest of a row is kept */
    mask16 kept[STEP_VECTORS_MAX];
    struct noise_words words[STEP_TILES_MAX];
};

static void race_enter(struct race *race, size_t first, const struct step *step, size_t n_tiles)
{
    for (size_t i = 0; i < n_tiles * TILE_VECTORS; i++) {
        const i32x16 words = step->words[i / TILE_VECTORS].c[i % TILE_VECTORS];
        const f32x16 time = vec_neg(vec_log(noise_uniform(words)));
        const f32x16 score = vec_div(step->e[i], time);
        const mask16 leads = vec_lt(race->best, score);
        race->best = vec_select(leads, score, race->best);
        race->ids = ivec_select(leads, lane_ids(first + i * SIMD_LANES), race->ids);
    }
    const float bar = BAR_SHARE * vec_hmax(race->best);
    race->bar = bar > BAR_MIN ? bar : 0.0F;
}

/* Largest of all lanes' at least want? n is 4 or 8. */
SIMD_INLINE bool any_reaches(f32x16 *x, size_t n, float want)
{
#pragma GCC unroll 3
    for (; n > 1; n /= 2) {
#pragma GCC unroll 4
        for (size_t i = 0; i < n / 2; i++) {
            x[i] = vec_max(x[i], x[i + n / 2]);
        }
    }
    return mask_bits(vec_le(vec_set1(want), x[0])) != 0;
}

/* Whether a score may reach the bar with the largest noise there is, -1 / log(1 - 2^-24). */
SIMD_INLINE bool step_is_open(const struct step *step, size_t n_vectors, float bar)
{
    f32x16 e[STEP_VECTORS_MAX];

#pragma GCC unroll 8
    for (size_t i = 0; i < n_vectors; i++) {
        e[i] = step->e[i];
    }
    return any_reaches(e, n_vectors, 0x1p-25F * bar);
}

/* Whether a score may reach the bar. Since -log n >= 1 - n, a score is at most e / (1 - n), and
 * 1 - n > 1 - 2^-22 - 2^-23 b, b the word's upper 23 bits: what is left of bar and of 2^-22 covers
 * every rounding. */
SIMD_INLINE bool step_is_near(const struct step *step, size_t n_vectors, float bar)
{
    const f32x16 slope = vec_set1(0x1p-23F * bar);
    f32x16 reach[STEP_VECTORS_MAX];

#pragma GCC unroll 8
    for (size_t i = 0; i < n_vectors; i++) {
        const i32x16 words = step->words[i / TILE_VECTORS].c[i % TILE_VECTORS];
        reach[i] = vec_fma(ivec_to_float(ivec_shift_right(words, 9)), slope, step->e[i]);
    }
    return any_reaches(reach, n_vectors, (1.0F - 0x1p-22F) * bar);
}

/* u and what is kept of tokens first .. first + n - 1. False: nothing is. */
SIMD_INLINE bool step_look(struct step *step, const struct distribution *d, size_t first, size_t n,
                           size_t n_vectors, bool is_filtered)
{
    mask16 any = mask_first(is_filtered ? 0 : SIMD_LANES);

#pragma GCC unroll 8
    for (size_t i = 0; i < n_vectors; i++) {
        const size_t at = i * SIMD_LANES, left = at < n ? lanes_left(at, n) : 0;
        step->e[i] = left > 0 ? distribution_u(d, first + at, left) : vec_zero();
        step->kept[i] = mask_first(left);
        if (is_filtered) {
            step->kept[i] = distribution_kept(d, first + at, left, step->e[i]);
            any = mask_or(any, step->kept[i]);
        }
    }
    return mask_bits(any) != 0;
}

/* u become exponentials, and are added to sum. */
SIMD_INLINE void step_weigh(struct step *step, const struct distribution *d, size_t n_vectors,
                            f32x16 *sum)
{
#pragma GCC unroll 8
    for (size_t i = 0; i < n_vectors; i++) {
        step->e[i] = vec_sub(step->e[i], vec_set1(d->max));
    }
    vec_exp_all(step->e, n_vectors);
#pragma GCC unroll 8
    for (size_t i = 0; i < n_vectors; i++) {
        step->e[i] = vec_select(step->kept[i], step->e[i], vec_zero());
        *sum = vec_add(*sum, step->e[i]);
    }
}

/* Tokens first .. first + n - 1 of a row, in n_tiles tiles; is_filtered is d's, for the compiler.
 */
SIMD_INLINE void race_step(struct race *race, const struct distribution *d, size_t first, size_t n,
                           size_t n_tiles, bool is_filtered, f32x16 *sum)
{
    const size_t n_vectors = n_tiles * TILE_VECTORS;
    struct step step;

    if (!step_look(&step, d, first, n, n_vectors, is_filtered)) {
        return;
    }
    step_weigh(&step, d, n_vectors, sum);
    if (!step_is_open(&step, n_vectors, race->bar)) {
        return;
    }
    noise_tiles(&race->key, first / NOISE_TILE, n_tiles, step.words);
    if (step_is_near(&step, n_vectors, race->bar)) {
        race_enter(race, first, &step, n_tiles);
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
SIMD_INLINE int32_t race_run(struct distribution *d, const struct noise_key *key, size_t n_tiles,
                             bool is_filtered)
{
    const size_t whole = d->vocab - d->vocab % (n_tiles * NOISE_TILE);
    struct race race = {.best = vec_set1(-1.0F), .ids = ivec_set1(0), .key = *key, .bar = 0.0F};
    f32x16 sum = vec_zero();

    for (size_t first = 0; first < whole; first += n_tiles * NOISE_TILE) {
        race_step(&race, d, first, n_tiles * NOISE_TILE, n_tiles, is_filtered, &sum);
    }
    for (size_t first = whole; first < d->vocab; first += NOISE_TILE) {
        race_step(&race, d, first, d->vocab - first, 1, is_filtered, &sum);
    }
    ISA(distribution_close)(d, vec_sum(sum));
    return race_winner(&race);
}

static int32_t draw(struct distribution *d, const struct sample_row *row)
{
    const struct noise_key key = noise_key_make(row->seed, row->group, row->sample, row->position);

    if (d->is_filtered) { /* most tiles may have no token left */
        return race_run(d, &key, 1, true);
    }
    return race_run(d, &key, STEP_TILES_MAX, false);
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
