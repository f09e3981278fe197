/* Owns the draw of tokens: the exponential race arg max over kept v of exp(u_v - max) / -log n_v
 * (cpu.md 5.14), n_v the noise of philox.h, so a draw depends on its row and key alone. A larger
 * score wins, then the lower id. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/distribution.h"
#include "kernels/cpu/simd/philox.h"

struct race {
    f32x16 best;
    i32x16 ids;
    f32x16 bar; /* a little less than the best of all lanes */
};

struct sample_call {
    const struct sample_args *args;
    atomic_size_t bad_row;
};

#define BAR_SHARE 0.999F

/* The sixteen tokens from v on. Since -log n >= 1 - n, a score is at most e / (1 - n): where that
 * is below what leads already, beyond any rounding, nothing more is computed. */
SIMD_INLINE void race_run(struct race *race, const struct distribution *d, size_t v, i32x16 words)
{
    const f32x16 noise = noise_uniform(words);
    const size_t n = lanes_left(v, d->vocab);
    const f32x16 u = distribution_u(d, v, n);
    const f32x16 e = vec_exp(vec_sub(u, vec_set1(d->max)));
    const mask16 kept = distribution_kept(d, v, n, u);
    const f32x16 need = vec_mul(race->bar, vec_sub(vec_set1(1.0F), noise));
    if (mask_bits(mask_and(kept, vec_le(need, e))) == 0) {
        return;
    }
    const f32x16 time = vec_neg(vec_log(noise));
    const f32x16 score = vec_select(kept, vec_div(e, time), vec_set1(-2.0F));
    const mask16 leads = vec_lt(race->best, score);
    race->best = vec_select(leads, score, race->best);
    race->ids = ivec_select(leads, lane_ids(v), race->ids);
    race->bar = vec_set1(BAR_SHARE * vec_hmax(race->best));
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

static int32_t draw(const struct distribution *d, const struct sample_row *row)
{
    const struct noise_key key = noise_key_make(row->seed, row->group, row->sample, row->position);
    struct race race = {.best = vec_set1(-1.0F), .ids = ivec_set1(0), .bar = vec_set1(-1.0F)};
    struct noise_words words;

    for (size_t first = 0; first < d->vocab; first += NOISE_TILE) {
        noise_tile(&key, first / NOISE_TILE, &words);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            if (first + i * SIMD_LANES < d->vocab) {
                race_run(&race, d, first + i * SIMD_LANES, words.c[i]);
            }
        }
    }
    return race_winner(&race);
}

static void sample_task(void *context, size_t thread_index, size_t n_threads)
{
    struct sample_call *call = context;
    const struct sample_args *a = call->args;
    struct distribution d;
    size_t begin, end;

    pool_share(a->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        if (!ISA(distribution_init)(a->logits + row * a->logits_stride, a->vocab,
                                    &a->rows[row].sampling, -1, &d)) {
            bad_row_note(&call->bad_row, row);
            continue;
        }
        a->tokens[row] = d.is_greedy ? d.cut.last : draw(&d, &a->rows[row]);
        a->logp[row] = ISA(distribution_logp)(&d, a->tokens[row]);
    }
}

enum status ISA(op_sample)(struct backend *backend, const struct sample_args *args)
{
    struct sample_call call = {.args = args, .bad_row = SIZE_MAX};

    cpu_run(backend, args->n_rows * args->vocab * 16, sample_task, &call);
    return bad_row_status(&call.bad_row);
}
