/* Advantages, policy losses with KL, AdamW and schedules against numbers of other implementations
 * (golden/losses/README.md): every case that the options of this build reach; the others are
 * counted and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/memory.h"
#include "kernels/backend.h"
#include "tests/support/support.h"
#include "trainer/advantage.h"
#include "trainer/optimizer.h"
#include "trainer/policy_loss.h"
#include "trainer/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)64 << 20)
#define TOKENS_MAX 64
#define GROUP_MAX 64

static struct json *load(const char *name)
{
    char relative[128];
    char path[4096];
    struct json *value = NULL;
    assert_true(snprintf(relative, sizeof(relative), "golden/losses/%s", name) > 0);
    if (!support_shared_path(relative, path, sizeof(path))) {
        skip();
    }
    assert_ok(json_load(path, FILE_BYTES_MAX, 16, &value));
    return value;
}

static size_t read_floats(const struct json *array, float *out)
{
    const size_t n = json_count(array);
    assert_true(n <= TOKENS_MAX);
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)json_number(json_at(array, i), 0.0);
    }
    return n;
}

/* ---- policy losses ---- */

struct policy_case {
    const struct json *batch, *entry;
    struct loss_options options;
    struct loss_totals totals;
    double loss, to_hone, difference_max, gradient_max;
};

static bool text_is(const struct json *value, const char *text)
{
    return strcmp(json_text(value, ""), text) == 0;
}

/* false: an option that this build does not have. */
static bool read_options(const struct json *hone, struct loss_options *out)
{
    const struct json *agg = json_get(hone, "agg");
    if (!text_is(json_get(hone, "loss"), "ppo_clip") || json_get(hone, "ratio_level") != NULL) {
        return false;
    }
    *out = (struct loss_options){.epsilon = json_number(json_get(hone, "eps_low"), 0.0),
                                 .epsilon_high = json_number(json_get(hone, "eps_high"), 0.0),
                                 .beta = json_number(json_get(hone, "beta"), 0.0),
                                 .max_completion_length = 40};
    out->kl = text_is(json_get(hone, "kl"), "k3") ? KL_K3 : KL_K3U;
    out->type = text_is(agg, "seq_mean") ? LOSS_GRPO
                : text_is(agg, "const")  ? LOSS_DR_GRPO
                                         : LOSS_DAPO;
    return text_is(agg, "seq_mean") || text_is(agg, "const") || text_is(agg, "token_mean");
}

/* Loss mask of sequence i: the batch's, and nothing where the whole sequence is masked. */
static void read_mask(const struct policy_case *c, size_t i, size_t n, bool *mask)
{
    const struct json *hone = json_get(c->entry, "hone");
    const bool masks_truncated = text_is(json_get(hone, "truncation_mode"), "mask");
    const bool is_cut = text_is(json_at(json_get(c->batch, "finish"), i), "LENGTH");
    const struct json *row = json_at(json_get(c->batch, "mask"), i);
    for (size_t t = 0; t < n; t++) {
        mask[t] = row == NULL || json_number(json_at(row, t), 0.0) != 0.0;
        mask[t] = mask[t] && !(masks_truncated && is_cut);
    }
}

static void count(struct policy_case *c)
{
    const struct json *logp = json_get(c->batch, "logp");
    c->totals = (struct loss_totals){.n_sequences = json_count(logp)};
    for (size_t i = 0; i < json_count(logp); i++) {
        bool mask[TOKENS_MAX];
        size_t n_active = 0;
        const size_t n = json_count(json_at(logp, i));
        read_mask(c, i, n, mask);
        for (size_t t = 0; t < n; t++) {
            n_active += mask[t] ? 1 : 0;
        }
        c->totals.n_tokens += n_active;
        c->totals.n_active_sequences += n_active > 0 ? 1 : 0;
    }
}

static void check_sequence(struct policy_case *c, size_t i)
{
    float logp[TOKENS_MAX];
    float old_logp[TOKENS_MAX];
    float ref_logp[TOKENS_MAX];
    float g[TOKENS_MAX];
    bool mask[TOKENS_MAX];
    struct loss_stats stats;
    const bool is_on_policy = json_is(json_get(c->entry, "old_logp"), JSON_STRING);
    const struct json *want = json_at(json_get(c->entry, "dloss_dlogp"), i);
    const size_t n = read_floats(json_at(json_get(c->batch, "logp"), i), logp);
    (void)read_floats(json_at(json_get(c->batch, "old_logp"), i), old_logp);
    (void)read_floats(json_at(json_get(c->batch, "ref_logp"), i), ref_logp);
    read_mask(c, i, n, mask);
    const struct loss_sequence sequence = {
        .logp = logp,
        .old_logp = is_on_policy ? NULL : old_logp,
        .ref_logp = ref_logp,
        .mask = mask,
        .n = n,
        .advantage = (float)json_number(json_at(json_get(c->entry, "advantages"), i), 0.0)};
    assert_ok(loss_sequence_gradient(&c->options, &c->totals, &sequence, g, &stats));
    c->loss += stats.loss;
    for (size_t t = 0; t < n; t++) {
        const double wanted = c->to_hone * json_number(json_at(want, t), 0.0);
        c->difference_max = fmax(c->difference_max, fabs((double)g[t] - wanted));
        c->gradient_max = fmax(c->gradient_max, fabs(wanted));
    }
}

static void check_case(const struct json *batches, const struct json *entry)
{
    struct policy_case c = {.batch = json_get(batches, json_text(json_get(entry, "batch"), "")),
                            .entry = entry,
                            .to_hone = json_number(json_get(entry, "to_hone"), 1.0)};
    assert_true(read_options(json_get(entry, "hone"), &c.options));
    count(&c);
    for (size_t i = 0; i < c.totals.n_sequences; i++) {
        check_sequence(&c, i);
    }
    const double want = c.to_hone * json_number(json_get(entry, "loss"), 0.0);
    if (fabs(c.loss - want) > 1e-5 * (fabs(want) + 0.01) ||
        c.difference_max > 1e-5 * c.gradient_max) {
        fail_msg("%s: loss %.9g, wanted %.9g; gradient off by %.3g of %.3g",
                 json_text(json_get(entry, "name"), ""), c.loss, want, c.difference_max,
                 c.gradient_max);
    }
}

static void check_file(const char *name, size_t n_wanted)
{
    struct json *batches = load("batches.json");
    struct json *file = load(name);
    const struct json *cases = json_get(file, "cases");
    size_t n_checked = 0;
    for (size_t i = 0; i < json_count(cases); i++) {
        struct loss_options options;
        if (read_options(json_get(json_at(cases, i), "hone"), &options)) {
            check_case(batches, json_at(cases, i));
            n_checked++;
        }
    }
    print_message("%s: %zu of %zu cases are reached by this build's options\n", name, n_checked,
                  json_count(cases));
    assert_true(n_checked >= n_wanted);
    json_destroy(file);
    json_destroy(batches);
}

static void policy_losses_match_trl(void **state)
{
    (void)state;
    check_file("policy.json", 17);
}

static void kl_terms_match_trl(void **state)
{
    (void)state;
    check_file("kl.json", 8);
}

/* ---- advantages ---- */

/* Weighted sum of a row's rewards; a missing one counts as 0; false when all are missing. */
static bool total_reward(const struct json *row, const struct json *weights, double *out)
{
    bool has_any = false;
    *out = 0.0;
    for (size_t k = 0; k < json_count(row); k++) {
        const struct json *value = json_at(row, k);
        if (!json_is(value, JSON_NULL)) {
            has_any = true;
            *out += json_number(json_at(weights, k), 1.0) * json_number(value, 0.0);
        }
    }
    return has_any;
}

static void check_advantages(const struct json *rows, const struct json *entry)
{
    const size_t n_group = (size_t)json_int(json_get(entry, "num_generations"), 0);
    const struct json *weights = json_get(entry, "reward_weights");
    const struct json *want = json_get(entry, "advantages");
    const struct advantage_options options = {
        .scale = text_is(json_get(entry, "scale_rewards"), "group") ? SCALE_GROUP : SCALE_NONE,
        .ddof = 1,
        .eps = 1e-4};
    assert_true(n_group > 0 && n_group <= GROUP_MAX);
    for (size_t first = 0; first < json_count(rows); first += n_group) {
        struct sample samples[GROUP_MAX] = {0};
        for (size_t i = 0; i < n_group; i++) {
            samples[i].has_reward =
                total_reward(json_at(rows, first + i), weights, &samples[i].reward);
        }
        (void)advantages_fill_group(&options, samples, n_group);
        for (size_t i = 0; i < n_group; i++) {
            const double wanted = json_number(json_at(want, first + i), 0.0);
            assert_true(fabs((double)samples[i].advantage - wanted) <= 1e-5);
        }
    }
}

static void advantages_match_trl(void **state)
{
    struct json *file = load("advantages.json");
    const struct json *cases = json_get(file, "cases");
    size_t n_checked = 0;
    (void)state;
    for (size_t i = 0; i < json_count(cases); i++) {
        const struct json *entry = json_at(cases, i);
        const struct json *scale = json_get(entry, "scale_rewards");
        if (text_is(json_get(entry, "multi_objective_aggregation"), "sum_then_normalize") &&
            (text_is(scale, "group") || text_is(scale, "none"))) {
            const char *name = json_text(json_get(entry, "rewards_of"), "");
            check_advantages(json_get(json_get(file, "rewards"), name), entry);
            n_checked++;
        }
    }
    print_message("advantages.json: %zu of %zu cases\n", n_checked, json_count(cases));
    assert_int_equal(n_checked, 18);
    json_destroy(file);
}

/* ---- optimizer ---- */

#define N_DECAYED 12
#define N_PLAIN 5
#define OFFSET_PLAIN 16 /* the second row of the table */
#define N_FLOATS 24

static void scatter(const struct json *pair, float *out)
{
    memset(out, 0, N_FLOATS * sizeof(float));
    (void)read_floats(json_get(pair, "decayed"), out);
    (void)read_floats(json_get(pair, "not_decayed"), out + OFFSET_PLAIN);
}

static void check_trajectory(struct backend *backend, const struct json *entry)
{
    static struct weight_row rows[2] = {
        {.name = "decayed", .offset = 0, .count = N_DECAYED, .decays = true, .is_trainable = true},
        {.name = "not_decayed", .offset = OFFSET_PLAIN, .count = N_PLAIN, .is_trainable = true}};
    const struct weight_table table = {.rows = rows, .n_rows = 2, .n_floats = N_FLOATS};
    const struct json *options_json = json_get(entry, "options");
    const struct json *betas = json_get(options_json, "betas");
    const struct optimizer_options options = {
        .beta1 = json_number(json_at(betas, 0), 0.0),
        .beta2 = json_number(json_at(betas, 1), 0.0),
        .epsilon = json_number(json_get(options_json, "eps"), 0.0),
        .weight_decay = json_number(json_get(options_json, "weight_decay"), 0.0),
        .max_grad_norm = json_number(json_get(options_json, "max_grad_norm"), 0.0)};
    struct optimizer *optimizer = NULL;
    float *weights = NULL;
    float *gradients = NULL;
    assert_ok(memory_alloc(N_FLOATS, sizeof(float), &weights));
    assert_ok(memory_alloc(N_FLOATS, sizeof(float), &gradients));
    assert_ok(optimizer_create(backend, &table, &options, &optimizer));
    scatter(json_get(entry, "start"), weights);
    const struct json *steps = json_get(entry, "steps");
    for (size_t i = 0; i < json_count(steps); i++) {
        const struct json *step = json_at(steps, i);
        const struct tolerance close = {2e-6, 2e-5};
        float want[N_FLOATS];
        double grad_norm = 0.0;
        scatter(json_get(step, "grad"), gradients);
        assert_ok(optimizer_step(optimizer, weights, gradients,
                                 json_number(json_get(step, "lr"), 0.0), &grad_norm));
        assert_true(fabs(grad_norm - json_number(json_get(step, "grad_norm"), 0.0)) <=
                    1e-5 * (grad_norm + 1e-3));
        scatter(json_get(step, "param"), want);
        support_compare("param", weights, want, N_FLOATS, close);
        if (json_get(step, "exp_avg") != NULL) { /* the moments are in the file now and then */
            scatter(json_get(step, "exp_avg"), want);
            support_compare("exp_avg", optimizer_first_moment(optimizer), want, N_FLOATS, close);
            scatter(json_get(step, "exp_avg_sq"), want);
            support_compare("exp_avg_sq", optimizer_second_moment(optimizer), want, N_FLOATS,
                            close);
        }
    }
    optimizer_destroy(optimizer);
    memory_free(gradients);
    memory_free(weights);
}

static void adamw_follows_the_reference_trajectories(void **state)
{
    struct json *file = load("optim.json");
    struct backend *backend = NULL;
    (void)state;
    assert_ok(backend_open("auto", 1, &backend));
    for (size_t i = 0; i < json_count(json_get(file, "adamw")); i++) {
        check_trajectory(backend, json_at(json_get(file, "adamw"), i));
    }
    backend_close(backend);
    json_destroy(file);
}

static void an_infinite_gradient_changes_nothing(void **state)
{
    static struct weight_row row = {.name = "w", .count = 4, .is_trainable = true};
    const struct weight_table table = {.rows = &row, .n_rows = 1, .n_floats = 4};
    const struct optimizer_options options = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8};
    const float before[4] = {1, 2, 3, 4};
    const float gradients[4] = {0, INFINITY, 0, 0};
    float weights[4] = {1, 2, 3, 4};
    struct backend *backend = NULL;
    struct optimizer *optimizer = NULL;
    double grad_norm = 0.0;
    (void)state;
    assert_ok(backend_open("auto", 1, &backend));
    assert_ok(optimizer_create(backend, &table, &options, &optimizer));
    assert_status(optimizer_step(optimizer, weights, gradients, 0.1, &grad_norm), STATUS_NUMERICS,
                  "gradient norm");
    assert_memory_equal(weights, before, sizeof(before));
    assert_int_equal(optimizer_updates(optimizer), 0);
    optimizer_destroy(optimizer);
    backend_close(backend);
}

static bool read_schedule(const struct json *entry, struct schedule *out)
{
    static const struct {
        const char *name;
        enum lr_schedule kind;
    } kinds[] = {{"constant", LR_CONSTANT_WITH_WARMUP},
                 {"linear", LR_LINEAR},
                 {"cosine", LR_COSINE},
                 {"wsd_linear", LR_WSD}};
    *out = (struct schedule){.learning_rate = json_number(json_get(entry, "lr"), 0.0),
                             .n_steps = (size_t)json_int(json_get(entry, "N"), 0),
                             .warmup_steps = (size_t)json_int(json_get(entry, "W"), 0),
                             .decay_steps = (size_t)json_int(json_get(entry, "D"), 0),
                             .final_ratio = json_number(json_get(entry, "f"), 0.0)};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (text_is(json_get(entry, "kind"), kinds[i].name)) {
            out->kind = kinds[i].kind;
            return true;
        }
    }
    return false;
}

static void schedules_match_at_every_step(void **state)
{
    struct json *file = load("optim.json");
    const struct json *schedules = json_get(file, "schedules");
    size_t n_checked = 0;
    (void)state;
    for (size_t i = 0; i < json_count(schedules); i++) {
        const struct json *entry = json_at(schedules, i);
        const struct json *values = json_get(entry, "values");
        struct schedule schedule;
        if (!read_schedule(entry, &schedule)) {
            continue;
        }
        for (size_t t = 0; t < json_count(values); t++) {
            const double want = json_number(json_at(values, t), 0.0);
            assert_true(fabs(schedule_rate(&schedule, t) - want) <= 1e-8 * (want + 1e-3));
        }
        n_checked++;
    }
    print_message("optim.json: %zu of %zu schedules\n", n_checked, json_count(schedules));
    assert_int_equal(n_checked, 21);
    json_destroy(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policy_losses_match_trl),
        cmocka_unit_test(kl_terms_match_trl),
        cmocka_unit_test(advantages_match_trl),
        cmocka_unit_test(adamw_follows_the_reference_trajectories),
        cmocka_unit_test(an_infinite_gradient_changes_nothing),
        cmocka_unit_test(schedules_match_at_every_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
