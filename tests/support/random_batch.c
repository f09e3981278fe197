/* Owns random batches and weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "tests/support/random_batch.h"

#include <math.h>
#include <string.h>

#define ROWS_MAX ((size_t)32)

const char *const random_batch_branch_names[N_BATCH_BRANCHES] = {
    [BRANCH_SINGLE_TOKEN] = "a sequence of one token",
    [BRANCH_PACKED] = "several sequences",
    [BRANCH_LONGEST] = "more than 16 tokens",
    [BRANCH_MASKED] = "rows without a target",
    [BRANCH_MEAN_LOSS] = "mean loss",
    [BRANCH_ENTROPY] = "entropy in the objective",
    [BRANCH_TEMPERATURE] = "temperature not 1",
    [BRANCH_DETACHED] = "MTP detached",
    [BRANCH_JOINT_MTP] = "MTP joined",
    [BRANCH_INDEXER_SPARSE] = "indexer's sparse loss",
    [BRANCH_INDEXER_WARMUP] = "indexer's warm-up",
};

static double draw_normal(struct random_draws *draws)
{
    return (double)random_normal(draws->seed + 1, RANDOM_TEST, draws->index, draws->n++);
}

static void draw_lengths(struct random_draws *draws, struct oracle_batch *out, bool *branches)
{
    const size_t n = 1 + random_draw(draws, ORACLE_SEQUENCES_MAX);
    size_t rows = 0;

    for (size_t i = 0; i < n && rows < ROWS_MAX; i++) {
        size_t length = random_chance(draws, 15) ? 1 : 1 + random_draw(draws, ORACLE_TOKENS_MAX);

        length = length > ROWS_MAX - rows ? ROWS_MAX - rows : length;
        branches[BRANCH_SINGLE_TOKEN] |= length == 1;
        branches[BRANCH_LONGEST] |= length > 16;
        rows += length;
        out->offsets[++out->n_sequences] = rows;
    }
    branches[BRANCH_PACKED] = out->n_sequences > 1;
}

/* Main targets and their share of the objective. */
static void draw_targets(struct random_draws *draws, size_t vocab, struct oracle_batch *out,
                         bool *branches)
{
    const size_t rows = out->offsets[out->n_sequences];
    size_t n = 0;

    branches[BRANCH_MASKED] = rows > 1 && random_chance(draws, 50);
    branches[BRANCH_MEAN_LOSS] = random_chance(draws, 30);
    branches[BRANCH_ENTROPY] = !branches[BRANCH_MEAN_LOSS] && random_chance(draws, 60);
    for (size_t i = 0; i < rows; i++) {
        const bool is_masked = branches[BRANCH_MASKED] && i > 0 && random_chance(draws, 40);

        out->targets[i] = is_masked ? -1 : (int32_t)random_draw(draws, vocab);
        out->g[i] = draw_normal(draws);
        out->h[i] = branches[BRANCH_ENTROPY] ? 0.2 * draw_normal(draws) : 0;
        n += is_masked ? 0 : 1;
    }
    for (size_t i = 0; i < rows && branches[BRANCH_MEAN_LOSS]; i++) {
        out->g[i] = -1 / (double)n;
    }
}

/* Row i of a module needs module + 1 tokens behind it. */
static void draw_mtp_targets(struct random_draws *draws, size_t vocab, size_t module,
                             struct oracle_batch *out)
{
    for (size_t s = 0; s < out->n_sequences; s++) {
        for (size_t i = out->offsets[s]; i < out->offsets[s + 1]; i++) {
            const bool has_row = i + module + 1 < out->offsets[s + 1];
            const bool is_asked = has_row && random_chance(draws, 80);

            out->mtp_targets[module][i] = is_asked ? (int32_t)random_draw(draws, vocab) : -1;
            out->mtp_g[module][i] = 0.5 * draw_normal(draws);
        }
    }
}

/* Loss of the indexers: none, sparse, or the warm-up's. */
static void draw_indexer_loss(struct random_draws *draws, struct oracle_batch *out, bool *branches)
{
    const size_t kind = random_draw(draws, 3);

    out->indexer_coefficient = kind == 0 ? 0 : RANDOM_PICK(draws, 1, 0.25);
    out->is_warmup = kind == 2;
    branches[BRANCH_INDEXER_SPARSE] = kind == 1;
    branches[BRANCH_INDEXER_WARMUP] = kind == 2;
}

/* What a float holds, so that both sides get the same number. */
static void round_to_float(double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (double)(float)x[i];
    }
}

void random_batch_draw(struct random_draws *draws, const struct oracle_config *config,
                       struct oracle_batch *out, bool branches[N_BATCH_BRANCHES])
{
    memset(out, 0, sizeof(*out));
    memset(branches, 0, N_BATCH_BRANCHES * sizeof(bool));
    draw_lengths(draws, out, branches);
    for (size_t i = 0; i < out->offsets[out->n_sequences]; i++) {
        out->tokens[i] = (int32_t)random_draw(draws, config->vocab);
    }
    draw_targets(draws, config->vocab, out, branches);
    for (size_t m = 0; m < config->n_modules; m++) {
        draw_mtp_targets(draws, config->vocab, m, out);
        round_to_float(out->mtp_g[m], ORACLE_ROWS_MAX);
    }
    round_to_float(out->g, ORACLE_ROWS_MAX);
    round_to_float(out->h, ORACLE_ROWS_MAX);
    branches[BRANCH_TEMPERATURE] = random_chance(draws, 30);
    out->temperature = branches[BRANCH_TEMPERATURE] ? 0.75 : 1;
    out->is_detached = config->n_modules > 0 && random_chance(draws, 50);
    if (config->index_heads > 0) {
        draw_indexer_loss(draws, out, branches);
    }
    branches[BRANCH_DETACHED] = out->is_detached;
    branches[BRANCH_JOINT_MTP] = config->n_modules > 0 && !out->is_detached;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* Mean and spread of a tensor's values. */
static void values_of(const struct weight_row *row, uint64_t seed, float *mean, float *spread)
{
    const bool is_norm = row->n_dims == 1 && ends_with(row->name, ".weight");

    *mean = is_norm ? 1.0F : 0.0F;
    *spread = is_norm ? 0.2F : 0.3F;
    if (row->n_dims == 2) {
        *spread = 1.0F / sqrtf((float)row->shape[1]);
    }
    if (strstr(row->name, "embed_tokens") != NULL) {
        *spread = 1.0F;
    }
    if (ends_with(row->name, "e_score_correction_bias") && seed % 3 == 0) {
        *mean = -0.5F;
    }
}

void random_weights_fill(const struct weight_table *table, uint64_t seed, float *data)
{
    memset(data, 0, table->n_floats * sizeof(float));
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        float mean, spread;

        values_of(row, seed, &mean, &spread);
        for (size_t j = 0; j < row->count; j++) {
            data[row->offset + j] = mean + spread * random_normal(seed, RANDOM_TEST, i, j);
        }
    }
}
