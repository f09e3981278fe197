/* Owns the exactness of random configurations: tokens that are drawn while a batch grows in random
 * chunks must have the log-probabilities of one forward over the whole, bit for bit. */
#ifndef HONE_TESTS_GOLDEN_RANDOM_CHUNKS_H
#define HONE_TESTS_GOLDEN_RANDOM_CHUNKS_H

#include "base/random.h"
#include "tests/golden/random_trial.h"

#define SEQUENCE_PAGES ((ORACLE_TOKENS_MAX + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS)
#define N_PAGES (ORACLE_SEQUENCES_MAX * SEQUENCE_PAGES)

static const struct sampling_params chunk_sampling = {.temperature = 0.8F, .top_p = 0.95F};

/* A batch on its way into the cache. */
struct growing {
    size_t n_cached[ORACLE_SEQUENCES_MAX];
    int32_t blocks[ORACLE_SEQUENCES_MAX][SEQUENCE_PAGES];
    struct random_draws draws;
    int32_t drawn[ORACLE_ROWS_MAX]; /* by row of the batch */
    float logp[ORACLE_ROWS_MAX];
};

/* One call's rows. */
struct turn {
    int32_t tokens[ORACLE_ROWS_MAX], positions[ORACLE_ROWS_MAX], rows[ORACLE_ROWS_MAX];
    int32_t drawn[ORACLE_ROWS_MAX], where[ORACLE_ROWS_MAX];
    float logp[ORACLE_ROWS_MAX];
    struct sample_row draws[ORACLE_ROWS_MAX];
    struct kv_span spans[ORACLE_SEQUENCES_MAX];
    size_t n, n_spans;
};

/* The next n tokens of a sequence, a draw behind each. */
static inline void add_chunk(const struct oracle_batch *batch, struct growing *growing,
                             size_t sequence, size_t n, struct turn *turn)
{
    const size_t first = growing->n_cached[sequence];

    turn->spans[turn->n_spans++] = (struct kv_span){
        .first_row = turn->n, .n_rows = n, .n_cached = first, .blocks = growing->blocks[sequence]};
    for (size_t i = first; i < first + n; i++) {
        const size_t row = batch->offsets[sequence] + i;

        turn->where[turn->n] = (int32_t)row;
        turn->tokens[turn->n] = batch->tokens[row];
        turn->positions[turn->n] = (int32_t)i;
        turn->rows[turn->n] = (int32_t)turn->n;
        turn->draws[turn->n++] = (struct sample_row){.seed = all.seed,
                                                     .group = sequence,
                                                     .position = (uint32_t)i,
                                                     .sampling = chunk_sampling};
    }
    growing->n_cached[sequence] += n;
}

/* 0 to 7 more tokens of every sequence; false when all are in. */
static inline bool grow(const struct trial *trial, struct policy_cache *cache,
                        struct growing *growing)
{
    const struct oracle_batch *batch = &trial->batch;
    struct turn turn = {.n = 0};
    bool is_done = true;

    for (size_t i = 0; i < batch->n_sequences; i++) {
        const size_t left = batch->offsets[i + 1] - batch->offsets[i] - growing->n_cached[i];
        const size_t wanted = random_draw(&growing->draws, 8);

        is_done = is_done && left == 0;
        if (left > 0 && wanted > 0) {
            add_chunk(batch, growing, i, wanted < left ? wanted : left, &turn);
        }
    }
    if (turn.n > 0) {
        assert_ok(policy_extend(trial->policy, cache,
                                &(struct policy_extend_args){.tokens = turn.tokens,
                                                             .positions = turn.positions,
                                                             .n_rows = turn.n,
                                                             .spans = turn.spans,
                                                             .n_spans = turn.n_spans,
                                                             .draw_rows = turn.rows,
                                                             .draws = turn.draws,
                                                             .n_draws = turn.n,
                                                             .drawn = turn.drawn,
                                                             .logp = turn.logp}));
    }
    for (size_t i = 0; i < turn.n; i++) {
        growing->drawn[turn.where[i]] = turn.drawn[i];
        growing->logp[turn.where[i]] = turn.logp[i];
    }
    return !is_done;
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* What was drawn in chunks has the log-probabilities of one forward. */
static inline void check_chunks(const struct trial *trial)
{
    const struct oracle_batch *batch = &trial->batch;
    const size_t n_rows = batch->offsets[batch->n_sequences];
    struct growing growing = {.draws = {.seed = all.seed + 3, .index = trial->number}};
    struct policy_cache *cache;
    int32_t rows[ORACLE_ROWS_MAX];
    float logp[ORACLE_ROWS_MAX], entropy[ORACLE_ROWS_MAX];

    assert_ok(policy_cache_create(trial->policy, N_PAGES, &cache));
    for (size_t i = 0; i < N_PAGES; i++) {
        growing.blocks[i / SEQUENCE_PAGES][i % SEQUENCE_PAGES] =
            (int32_t)random_permute(all.seed, trial->number, i, N_PAGES);
    }
    while (grow(trial, cache, &growing)) {
    }
    policy_cache_destroy(cache);
    for (size_t i = 0; i < n_rows; i++) {
        rows[i] = (int32_t)i;
    }
    assert_ok(policy_forward(trial->policy,
                             &(struct policy_batch){.tokens = batch->tokens,
                                                    .n_rows = n_rows,
                                                    .offsets = batch->offsets,
                                                    .n_sequences = batch->n_sequences,
                                                    .target_rows = rows,
                                                    .targets = growing.drawn,
                                                    .n_targets = n_rows,
                                                    .sampling = chunk_sampling},
                             logp, entropy));
    for (size_t i = 0; i < n_rows; i++) {
        if (bits_of(logp[i]) != bits_of(growing.logp[i])) {
            report(trial, "log-probability of a token drawn in chunks", (double)growing.logp[i],
                   (double)logp[i], HUGE_VAL);
        }
    }
}

#endif
