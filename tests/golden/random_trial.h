/* Owns one trial of the random configurations: a model on both engines, values compared, and every
 * tensor's gradient against finite differences. Include it after cmocka.h. */
#ifndef HONE_TESTS_GOLDEN_RANDOM_TRIAL_H
#define HONE_TESTS_GOLDEN_RANDOM_TRIAL_H

#include "base/memory.h"
#include "kernels/backend.h"
#include "model/policy.h"
#include "tests/support/random_batch.h"
#include "tests/support/support.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ATTEMPTS_MAX ((size_t)500)
/* A case nearer to another selection is drawn again: FP32 might select differently. */
#define MARGIN 1e-4
/* Of the oracle's finite differences: far below MARGIN, far above double rounding. */
#define STEP 2e-6
#define GRADIENT_TOLERANCE 1e-4
/* What cancels (the queries of a lone token) leaves roundings of FP32, a
 * few of the model's largest gradient or of what the rows put into it. */
#define GRADIENT_ROUNDING 5e-7
/* Of each tensor; the largest element is one of them. */
#define N_DIRECTIONS ((size_t)2)
#define N_ELEMENTS ((size_t)4)
#define FAILURES_SHOWN ((size_t)5)

/* Over all cases. */
static struct {
    struct backend *backend;
    uint64_t seed;
    size_t n_failures, n_attempts, n_tensors;
    double worst_value, worst_gradient;
    size_t n_by_family[N_RANDOM_FAMILIES];
    size_t n_by_branch[N_CONFIG_BRANCHES], n_by_batch_branch[N_BATCH_BRANCHES];
    size_t n_negative_routes, n_idle_experts, n_dropped_keys;
    bool is_verbose;
} all;

/* One configuration with both engines. */
struct trial {
    size_t number;
    struct random_config config;
    struct oracle_batch batch;
    struct policy *policy;
    struct oracle *oracle;
    struct oracle_result result;
    double *data;
    double rounding; /* what FP32 may leave of a gradient that cancels */
};

/* The line that reproduces it, for the first failures. */
static inline void report(const struct trial *trial, const char *what, double got, double want,
                          double share)
{
    char *text = NULL;

    if (all.n_failures++ >= FAILURES_SHOWN) {
        return;
    }
    assert_ok(json_print(trial->config.json, &text, NULL));
    /* Not print_error, which cuts long lines. */
    (void)fprintf(stderr,
                  "case %zu of seed %" PRIu64
                  " (%s): %s is %.9g, want %.9g: %.3g of the tolerance\n  %s\n",
                  trial->number, all.seed, random_family_names[trial->config.family], what, got,
                  want, share, text);
    memory_free(text);
}

static const struct tolerance value_tolerance = {.absolute = 2e-5, .relative = 1e-4};
static const struct tolerance indexer_loss_tolerance = {.absolute = 1e-5, .relative = 1e-5};

/* Compares one value in the style of the golden files. */
static inline void check_value(const struct trial *trial, const char *what, size_t row,
                               struct tolerance tolerance, double got, double want)
{
    const double share = fabs(got - want) / (tolerance.absolute + tolerance.relative * fabs(want));
    char label[64];

    all.worst_value = share > all.worst_value ? share : all.worst_value;
    if (!(share <= 1)) {
        (void)snprintf(label, sizeof(label), "%s %zu", what, row);
        report(trial, label, got, want, share);
    }
}

/* Whether some target is not almost certain: 1 - p of a certain one is all rounding. */
static inline bool has_doubt(const struct trial *trial)
{
    double lowest = 0;

    for (size_t i = 0; i < ORACLE_ROWS_MAX; i++) {
        lowest = fmin(lowest, trial->result.logp[i]);
    }
    return lowest < -0.1;
}

/* Both sides on the same weights, drawn again while a selection is close. */
static inline void draw_weights(struct trial *trial)
{
    const struct weight_table *table = policy_table(trial->policy);
    size_t attempt = 0;

    do {
        assert_true(attempt++ < ATTEMPTS_MAX);
        random_weights_fill(table, all.seed * 1000000 + 1000 * trial->number + attempt,
                            policy_weights(trial->policy));
        for (size_t i = 0; i < table->n_floats; i++) {
            trial->data[i] = (double)policy_weights(trial->policy)[i];
        }
        oracle_evaluate(trial->oracle, trial->data, &trial->batch, &trial->result);
    } while (trial->result.margin < MARGIN || !has_doubt(trial));
    all.n_attempts += attempt;
    assert_ok(policy_refresh(trial->policy));
}

static inline void count_branches(const struct trial *trial, const bool *batch_branches)
{
    const struct oracle_config *o = &trial->config.oracle;

    all.n_by_family[trial->config.family]++;
    for (size_t i = 0; i < N_CONFIG_BRANCHES; i++) {
        all.n_by_branch[i] += trial->config.branches[i];
    }
    for (size_t i = 0; i < N_BATCH_BRANCHES; i++) {
        all.n_by_batch_branch[i] += batch_branches[i];
    }
    all.n_negative_routes += trial->result.n_negative_routes > 0;
    all.n_dropped_keys += trial->result.n_dropped_keys > 0;
    for (size_t i = 0; i < o->n_layers + o->n_modules; i++) {
        for (size_t j = 0; j < o->n_experts && o->is_moe[i]; j++) {
            all.n_idle_experts += trial->result.expert_rows[i][j] == 0;
        }
    }
}

/* The configuration as hone writes it is read as the same one. */
static inline void check_round_trip(const struct trial *trial, const struct model_config *config)
{
    struct model_config again;
    struct json *json[2];
    char *texts[2];

    assert_ok(model_config_print(config, &json[0]));
    assert_ok(model_config_parse(json[0], "written", &again));
    assert_ok(model_config_print(&again, &json[1]));
    for (size_t i = 0; i < 2; i++) {
        assert_ok(json_print(json[i], &texts[i], NULL));
        json_destroy(json[i]);
    }
    if (strcmp(texts[0], texts[1]) != 0 ||
        model_config_attention_scale(config) != model_config_attention_scale(&again)) {
        report(trial, "what is written and read again", 0, 0, 0);
    }
    memory_free(texts[0]);
    memory_free(texts[1]);
}

static inline void trial_open(enum random_family family, size_t number, struct trial *trial)
{
    struct random_draws draws = {.seed = all.seed, .index = number};
    struct model_config config;
    struct policy_options options = {.max_draws = ORACLE_ROWS_MAX, .is_trainable = true};
    bool batch_branches[N_BATCH_BRANCHES];

    memset(trial, 0, sizeof(*trial));
    trial->number = number;
    random_config_draw(family, &draws, &trial->config);
    random_batch_draw(&draws, &trial->config.oracle, &trial->batch, batch_branches);
    options.max_rows = trial->batch.offsets[trial->batch.n_sequences];
    if (model_config_parse(trial->config.json, "config", &config) != STATUS_OK) {
        report(trial, status_message(), 0, 0, 0);
        fail_msg("%s", status_message());
    }
    check_round_trip(trial, &config);
    assert_ok(policy_create(all.backend, &config, &options, &trial->policy));
    trial->oracle = oracle_create(&trial->config.oracle, policy_table(trial->policy));
    assert_ok(memory_alloc(policy_table(trial->policy)->n_floats, sizeof(double), &trial->data));
    draw_weights(trial);
    count_branches(trial, batch_branches);
}

static inline void trial_close(struct trial *trial)
{
    oracle_destroy(trial->oracle);
    policy_destroy(trial->policy);
    memory_free(trial->data);
    json_destroy(trial->config.json);
}

/* Rows that predict something, packed as the policy takes them. */
struct asked {
    int32_t rows[ORACLE_ROWS_MAX], targets[ORACLE_ROWS_MAX];
    float g[ORACLE_ROWS_MAX], h[ORACLE_ROWS_MAX];
    size_t n;
};

static inline void ask(const struct oracle_batch *batch, const int32_t *targets, const double *g,
                       struct asked *out)
{
    out->n = 0;
    for (size_t i = 0; i < batch->offsets[batch->n_sequences]; i++) {
        if (targets[i] >= 0) {
            out->rows[out->n] = (int32_t)i;
            out->targets[out->n] = targets[i];
            out->g[out->n] = (float)g[i];
            out->h[out->n++] = (float)batch->h[i];
        }
    }
}

static inline void run_main(const struct trial *trial, struct asked *asked)
{
    const struct oracle_batch *batch = &trial->batch;
    float logp[ORACLE_ROWS_MAX], entropy[ORACLE_ROWS_MAX];

    ask(batch, batch->targets, batch->g, asked);
    assert_ok(policy_forward(
        trial->policy,
        &(struct policy_batch){.tokens = batch->tokens,
                               .n_rows = batch->offsets[batch->n_sequences],
                               .offsets = batch->offsets,
                               .n_sequences = batch->n_sequences,
                               .target_rows = asked->rows,
                               .targets = asked->targets,
                               .n_targets = asked->n,
                               .sampling = {.temperature = (float)batch->temperature, .top_p = 1}},
        logp, entropy));
    for (size_t i = 0; i < asked->n; i++) {
        const size_t row = (size_t)asked->rows[i];

        check_value(trial, "log-probability of row", row, value_tolerance, (double)logp[i],
                    trial->result.logp[row]);
        check_value(trial, "entropy of row", row, value_tolerance, (double)entropy[i],
                    trial->result.entropy[row]);
    }
}

static inline void run_module(const struct trial *trial, size_t module, struct asked *asked)
{
    float logp[ORACLE_ROWS_MAX];

    ask(&trial->batch, trial->batch.mtp_targets[module], trial->batch.mtp_g[module], asked);
    assert_ok(policy_mtp_forward(trial->policy,
                                 &(struct policy_mtp_args){.module = module,
                                                           .target_rows = asked->rows,
                                                           .targets = asked->targets,
                                                           .n_targets = asked->n,
                                                           .detached = trial->batch.is_detached},
                                 logp));
    for (size_t i = 0; i < asked->n; i++) {
        const size_t row = (size_t)asked->rows[i];

        check_value(trial, "MTP log-probability of row", row, value_tolerance, (double)logp[i],
                    trial->result.mtp_logp[module][row]);
    }
}

static inline void set_indexer_loss(const struct trial *trial)
{
    if (trial->batch.indexer_coefficient != 0) {
        assert_ok(policy_set_indexer_loss(
            trial->policy, trial->batch.is_warmup ? POLICY_INDEXER_DENSE : POLICY_INDEXER_SPARSE,
            (float)trial->batch.indexer_coefficient));
    }
}

static inline void check_indexer_losses(const struct trial *trial)
{
    double losses[ORACLE_LAYERS_MAX];

    policy_indexer_losses(trial->policy, losses);
    for (size_t i = 0; i < trial->config.oracle.n_layers + trial->config.oracle.n_modules; i++) {
        check_value(trial, "indexer loss of layer", i, indexer_loss_tolerance, losses[i],
                    trial->batch.indexer_coefficient != 0 ? trial->result.indexer_loss[i] : 0);
    }
}

/* Forward with its comparison, then backward. */
static inline void run_policy(const struct trial *trial)
{
    const size_t n_modules = trial->config.oracle.n_modules;
    struct asked main_rows, module_rows[ORACLE_MODULES_MAX];

    set_indexer_loss(trial);
    run_main(trial, &main_rows);
    for (size_t m = 0; m < n_modules; m++) {
        run_module(trial, m, &module_rows[m]);
    }
    for (size_t m = n_modules; m-- > 0;) {
        assert_ok(policy_mtp_backward(trial->policy, module_rows[m].g));
    }
    assert_ok(policy_backward(trial->policy, main_rows.g, main_rows.h));
    assert_ok(policy_finish_gradients(trial->policy));
    check_indexer_losses(trial);
}

static inline double largest_of(const float *x, size_t n)
{
    double largest = 0;

    for (size_t i = 0; i < n; i++) {
        largest = fabs((double)x[i]) > largest ? fabs((double)x[i]) : largest;
    }
    return largest;
}

/* What the tensor's gradient is of: an indexer learns from its own loss only, the rest from the
 * other. */
static inline double objective(const struct trial *trial, const struct weight_row *row)
{
    if (row->is_indexer) {
        return trial->batch.indexer_coefficient *
               oracle_indexer_objective(trial->oracle, trial->data, row);
    }
    return oracle_objective(trial->oracle, trial->data, row);
}

static inline bool has_no_gradient(const struct trial *trial, const struct weight_row *row)
{
    return row->is_indexer ? trial->batch.indexer_coefficient == 0 : trial->batch.is_warmup;
}

/* The oracle's derivative along direction (n values from offset), by central differences. */
static inline double slope(const struct trial *trial, const struct weight_row *row,
                           const double *direction)
{
    double values[2], *const data = trial->data + row->offset;

    for (size_t side = 0; side < 2; side++) {
        const double step = side == 0 ? STEP : -STEP;

        for (size_t i = 0; i < row->count; i++) {
            data[i] += step * direction[i];
        }
        values[side] = objective(trial, row);
        for (size_t i = 0; i < row->count; i++) {
            data[i] = (double)policy_weights(trial->policy)[row->offset + i];
        }
    }
    return (values[0] - values[1]) / (2 * STEP);
}

/* gradient . direction against the oracle's slope. */
static inline void check_direction(const struct trial *trial, const struct weight_row *row,
                                   const double *direction, const char *how, double tolerance)
{
    const float *const gradient = policy_gradients(trial->policy) + row->offset;
    const double want = slope(trial, row, direction);
    double got = 0, share;
    char label[160];

    for (size_t i = 0; i < row->count; i++) {
        got += (double)gradient[i] * direction[i];
    }
    share = fabs(got - want) / tolerance;
    all.worst_gradient = share > all.worst_gradient ? share : all.worst_gradient;
    if (all.is_verbose) {
        print_message("%-60s %-12s %12.5g %12.5g  %.4f\n", row->name, how, got, want, share);
    }
    if (!(share <= 1)) {
        (void)snprintf(label, sizeof(label), "gradient of %s (%s)", row->name, how);
        report(trial, label, got, want, share);
    }
}

/* Of all that the policy has, and of the factors of log-probabilities and entropies. */
static inline double rounding_of(const struct trial *trial)
{
    const size_t n = policy_table(trial->policy)->n_floats;
    double largest = largest_of(policy_gradients(trial->policy), n);

    for (size_t i = 0; i < ORACLE_ROWS_MAX; i++) {
        largest = fmax(largest, fmax(fabs(trial->batch.g[i]), fabs(trial->batch.h[i])));
    }
    return GRADIENT_ROUNDING * largest;
}

/* Two directions of random signs with norm 1, the largest element, and elements at random. */
static inline void check_tensor(const struct trial *trial, size_t index, double *direction)
{
    const struct weight_row *row = &policy_table(trial->policy)->rows[index];
    const float *const gradient = policy_gradients(trial->policy) + row->offset;
    const double largest = largest_of(gradient, row->count);
    const double tolerance = fmax(GRADIENT_TOLERANCE * largest, trial->rounding);
    struct random_draws draws = {.seed = all.seed + 2, .index = trial->number, .n = 4096 * index};
    size_t at = 0;

    all.n_tensors++;
    if (has_no_gradient(trial, row)) {
        if (largest != 0) {
            report(trial, row->name, largest, 0, HUGE_VAL);
        }
        return;
    }
    for (size_t n = 0; n < N_DIRECTIONS; n++) {
        for (size_t i = 0; i < row->count; i++) {
            direction[i] = (random_chance(&draws, 50) ? 1 : -1) / sqrt((double)row->count);
        }
        check_direction(trial, row, direction, "direction", tolerance);
    }
    for (size_t i = 0; i < row->count; i++) {
        at = fabs((double)gradient[i]) > fabs((double)gradient[at]) ? i : at;
        direction[i] = 0;
    }
    for (size_t n = 0; n < N_ELEMENTS; n++) {
        direction[at] = 1;
        check_direction(trial, row, direction, n == 0 ? "largest" : "element", tolerance);
        direction[at] = 0;
        at = random_draw(&draws, row->count);
    }
}

#endif
