/* Owns the draw of tokens: the exponential race arg max over kept v of exp(u_v - max) / -log n_v
 * (cpu.md 5.14), n_v the noise of philox.h, so a draw depends on its row and key alone. A larger
 * score wins, then the lower id. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"
#include "kernels/cpu/simd/philox.h"

#define TILE_VECTORS (NOISE_TILE / SIMD_LANES)
#define BLOCK_TILES ((size_t)12) /* exponentials of 3 KB stay in the first cache */

struct race {
    f32x16 best;
    i32x16 ids;
    struct noise_key key;
    float bar; /* a little less than the best of all lanes; 0 where that is too small to scale */
};

/* Some tiles of a row, and which of them may change the race. */
struct block {
    float e[BLOCK_TILES * NOISE_TILE]; /* 0: not kept; it cannot win: a row's largest is kept */
    size_t open[BLOCK_TILES + NOISE_TILES_MAX];
    size_t n_open;
};

struct sample_call {
    const struct sample_args *args;
    atomic_size_t bad_row;
};

#define BAR_SHARE 0.999F
#define BAR_MIN 0x1p-60F

/* A bound for scores that is compared with near_limit(bar). Since -log n >= 1 - n, a score is at
 * most e / (1 - n), and 1 - n > 1 - 2^-22 - 2^-23 b, b the word's upper 23 bits: what is left of
 * bar and of 2^-22 covers every rounding. */
SIMD_INLINE f32x16 score_reach(f32x16 e, i32x16 word, float bar)
{
    return vec_fma(ivec_to_float(ivec_shift_right(word, 9)), vec_set1(0x1p-23F * bar), e);
}

SIMD_INLINE f32x16 near_limit(float bar)
{
    return vec_set1((1.0F - 0x1p-22F) * bar);
}

/* first: the token of e[0] and word. */
static void race_enter(struct race *race, size_t first, const float *e,
                       const struct noise_words *words)
{
    for (size_t i = 0; i < TILE_VECTORS; i++) {
        const f32x16 weight = vec_load(e + i * SIMD_LANES);
        const f32x16 reach = score_reach(weight, words->c[i], race->bar);
        if (mask_bits(vec_le(near_limit(race->bar), reach)) == 0) {
            continue;
        }
        const f32x16 time = vec_neg(vec_log(noise_uniform(words->c[i])));
        const f32x16 score = vec_div(weight, time);
        const mask16 leads = vec_lt(race->best, score);
        race->best = vec_select(leads, score, race->best);
        race->ids = ivec_select(leads, lane_ids(first + i * SIMD_LANES), race->ids);
        const float bar = BAR_SHARE * vec_hmax(race->best);
        race->bar = bar > BAR_MIN ? bar : 0.0F;
    }
}

/* NOISE_TILES_MAX open tiles of a block whose first token is `first`. */
static void race_tiles(struct race *race, const struct block *block, size_t first,
                       const size_t *open)
{
    struct noise_words words[NOISE_TILES_MAX];
    size_t tiles[NOISE_TILES_MAX];
    f32x16 most = vec_zero();

#pragma GCC unroll 3
    for (size_t i = 0; i < NOISE_TILES_MAX; i++) {
        tiles[i] = first / NOISE_TILE + open[i];
    }
    noise_tiles(&race->key, tiles, NOISE_TILES_MAX, words);
#pragma GCC unroll 12
    for (size_t i = 0; i < NOISE_TILES_MAX * TILE_VECTORS; i++) {
        const float *const e = block->e + open[i / TILE_VECTORS] * NOISE_TILE;
        const f32x16 weight = vec_load(e + i % TILE_VECTORS * SIMD_LANES);
        const i32x16 word = words[i / TILE_VECTORS].c[i % TILE_VECTORS];
        most = vec_max(score_reach(weight, word, race->bar), most);
    }
    if (mask_bits(vec_le(near_limit(race->bar), most)) == 0) {
        return;
    }
    for (size_t i = 0; i < NOISE_TILES_MAX; i++) {
        race_enter(race, first + open[i] * NOISE_TILE, block->e + open[i] * NOISE_TILE, &words[i]);
    }
}

/* Exponentials of tokens first .. first + n - 1 of a tile, written to e and added to sum. False: no
 * score of theirs reaches the bar even with the largest noise there is, -1 / log(1 - 2^-24).
 * is_filtered is d's, for the compiler. */
SIMD_INLINE bool tile_weigh(const struct distribution *d, size_t first, const size_t n,
                            const bool is_filtered, float bar, float *e, f32x16 *sum)
{
    mask16 kept[TILE_VECTORS], any = mask_first(is_filtered ? 0 : SIMD_LANES);
    f32x16 x[TILE_VECTORS];

#pragma GCC unroll 4
    for (size_t i = 0; i < TILE_VECTORS; i++) {
        const size_t at = i * SIMD_LANES, left = at < n ? lanes_left(at, n) : 0;
        const f32x16 u = left > 0 ? distribution_u(d, first + at, left) : vec_zero();
        kept[i] = is_filtered ? distribution_kept(d, first + at, left, u) : mask_first(left);
        any = is_filtered ? mask_or(any, kept[i]) : any;
        x[i] = vec_sub(u, vec_set1(d->max));
    }
    if (is_filtered && mask_bits(any) == 0) {
        return false;
    }
    vec_exp_all(x, TILE_VECTORS);
#pragma GCC unroll 4
    for (size_t i = 0; i < TILE_VECTORS; i++) {
        x[i] = vec_select(kept[i], x[i], vec_zero());
        *sum = vec_add(*sum, x[i]);
        vec_store(e + i * SIMD_LANES, x[i]);
    }
    const f32x16 most = vec_max(vec_max(x[0], x[1]), vec_max(x[2], x[3]));
    return mask_bits(vec_le(vec_set1(0x1p-25F * bar), most)) != 0;
}

/* Tokens first .. first + n - 1 of a row: first all exponentials, then the noise of what is open.
 */
SIMD_INLINE void race_block(struct race *race, const struct distribution *d, size_t first, size_t n,
                            const bool is_filtered, f32x16 *sum)
{
    struct block block;

    block.n_open = 0;
    for (size_t at = 0; at < n; at += NOISE_TILE) {
        float *const e = block.e + at;
        const bool is_open =
            n - at >= NOISE_TILE
                ? tile_weigh(d, first + at, NOISE_TILE, is_filtered, race->bar, e, sum)
                : tile_weigh(d, first + at, n - at, is_filtered, race->bar, e, sum);
        block.open[block.n_open] = at / NOISE_TILE;
        block.n_open += is_open ? 1 : 0;
    }
    for (size_t i = 0; i < block.n_open; i += NOISE_TILES_MAX) {
        for (; block.n_open % NOISE_TILES_MAX != 0; block.n_open++) { /* twice changes nothing */
            block.open[block.n_open] = block.open[i];
        }
        race_tiles(race, &block, first, block.open + i);
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
SIMD_INLINE int32_t race_run(struct distribution *d, const struct noise_key *key,
                             const bool is_filtered)
{
    struct race race = {.best = vec_set1(-1.0F), .ids = ivec_set1(0), .key = *key, .bar = 0.0F};
    f32x16 sum = vec_zero();

    for (size_t first = 0; first < d->vocab; first += BLOCK_TILES * NOISE_TILE) {
        const size_t left = d->vocab - first, most = BLOCK_TILES * NOISE_TILE;
        race_block(&race, d, first, left < most ? left : most, is_filtered, &sum);
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
