/* What a wrong configuration is told: one line for each mistake, with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "configs/config.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define GOOD "model: {path: m}\ndata: {train: d}\nrewards: [{name: a, source: \"builtin:exact\"}]\n"

struct bad_file {
    const char *text;
    const char *want; /* part of the report, after "run.yaml" */
};

static const struct bad_file bad_files[] = {
    {GOOD "grpo: {clip_ratio_high: 0.3}\n",
     ":4:8: grpo.clip_ratio_high: unknown key; here it is grpo.epsilon_high\n"},
    {GOOD "grpo:\n  epsilonn: 0.3\n",
     ":5:3: grpo.epsilonn: unknown key; nearest is grpo.epsilon\n"},
    {GOOD "grpo: {num_gen: 4}\n",
     ":4:8: grpo.num_gen: unknown key; nearest is grpo.num_generations\n"},
    {GOOD "grop: {epsilon: 0.3}\n", ":4:1: grop: unknown key; nearest is grpo\n"},
    {GOOD "grpo: {learning_rate: 1}\n",
     ":4:8: grpo.learning_rate: unknown key; here it is optim.learning_rate\n"},
    {GOOD "trainer: {save_freq: 1}\n", ":4:1: trainer: unknown key; nearest is "},
    {GOOD "grpo: {epsilon: abc}\n", ":4:17: grpo.epsilon: \"abc\" is not a number (0..100)\n"},
    {GOOD "grpo: {epsilon: nan}\n", "\"nan\" is not a number"},
    {GOOD "grpo: {epsilon: 0x1p3}\n", "\"0x1p3\" is not a number"},
    {GOOD "grpo: {beta: 11}\n", ":4:14: grpo.beta: 11 is outside 0..10\n"},
    {GOOD "grpo: {num_generations: 2.5}\n", "\"2.5\" is not a whole number (1..4096)\n"},
    {GOOD "grpo: {num_generations: -2}\n", "\"-2\" is not a whole number"},
    {GOOD "grpo: {num_generations: 99999999999999999999}\n", "is not a whole number"},
    {GOOD "grpo: {loss_type: ppo}\n", "\"ppo\" is not one of grpo | dapo | dr_grpo\n"},
    {GOOD "grpo: {mask_truncated_completions: yes}\n", "\"yes\" is neither true nor false\n"},
    {GOOD "grpo: {epsilon: [1]}\n", "grpo.epsilon: want one value, not a list\n"},
    {GOOD "grpo: 3\n", ":4:7: grpo: want a mapping of settings\n"},
    {GOOD "run: {seed: 1, seed: 2}\n", ":4:16: seed: given twice\n"},
    {GOOD "run:\n\tseed: 1\n", ":5:1: tab in the indentation; use spaces\n"},
    {GOOD "run: &a {seed: 1}\n", "anchors (&) are not used here\n"},
    {GOOD "run: {name: *a}\n", "aliases (*) are not used here"},
    {GOOD "run: {name: !!str a}\n", "tags (!) are not used here\n"},
    {GOOD "run: {<<: 3}\n", "merge keys (<<) are not used here\n"},
    {GOOD "---\nrun: {}\n", "only one document is read\n"},
    {"%YAML 1.1\n---\n" GOOD, "directives (%) are not used here\n"},
    {GOOD "run: {name: \"a\\0b\"}\n", "the text contains a NUL character\n"},
    {GOOD "run: {name: a\n", "run.yaml:5:1: "},
    {GOOD "run: {name: [[[[[[[[a]]]]]]]]}\n", "nested deeper than 8 levels\n"},
    {"- a\n", "want a mapping of settings"},
    {"", ": model.path: hone run needs it"},
    {"model: {path: m}\ndata: {train: d}\n", ": rewards: hone run needs it"},
    {GOOD "run: {name: a/b}\n", ":4: run.name: want 1 to 64 of"},
    {GOOD "run: {device: gpu}\n", ":4: run.device: want auto, cpu,"},
    {GOOD "grpo: {num_generations: 1}\n", ":4: grpo.num_generations: a group of 1"},
    {GOOD "grpo: {num_minibatches: 3}\n",
     ":4: grpo.num_minibatches: 3 does not divide grpo.prompts_per_step 64\n"},
    {GOOD "grpo: {num_iterations: 2}\nrollout: {top_k: 3}\n", "only one update a step is defined"},
    {GOOD "rollout: {temperature: 0}\n", ":4: rollout.temperature: 0 draws the same completion"},
    {GOOD "grpo: {loss_type: dr_grpo, scale_rewards: group}\n",
     "loss_type dr_grpo needs scale_rewards none\n"},
    {"model: {path: m}\ndata: {train: d}\nrewards: [{name: a, source: \"builtin:exact\", "
     "weight: 0}]\n",
     "every weight is 0"},
    {"model: {path: m}\ndata: {train: d}\nrewards: [{name: a, source: exact}]\n",
     ":3: rewards.a.source: \"exact\": want builtin:NAME or cmd:PROGRAM\n"},
    {"model: {path: m}\ndata: {train: d}\nrewards: [{name: a, source: \"cmd:x\", timeout: 5x}]\n",
     "rewards.a.timeout: \"5x\" is not a duration"},
    {"model: {path: m}\ndata: {train: d}\nrewards: [{name: a, source: \"cmd:x\", wieght: 5}]\n",
     "rewards.a.wieght: unknown key; nearest is rewards[].weight\n"},
    {"model: {path: m}\ndata: {train: d}\nrewards: [{name: A, source: \"cmd:x\"}]\n",
     "reward 1: name: want 1 to 32 of a-z 0-9 _\n"},
    {"model: {path: m}\ndata: {train: d}\n"
     "rewards: [{name: a, source: \"cmd:x\"}, {name: a, source: \"cmd:y\"}]\n",
     "the name \"a\" is given twice\n"},
    {"model: {path: m}\ndata: {train: [a, {b: 1}]}\nrewards: [{name: a, source: \"cmd:x\"}]\n",
     "data.train: item 2 is not a text\n"},
    {"model: {path: m}\ndata: {train: d}\nrewards: {a: 1}\n", "rewards: want a list of at most"},
    {"model: {path: m}\ndata: {train: d}\nrewards: [{name: a, source: \"cmd:x\", config: 3}]\n",
     "rewards.a.config: want a mapping"},
};

static char folder[256];
static char path[512];

static enum status load(const char *text, const char *set, struct run_config **out, char **report)
{
    assert_ok(file_write_atomic(path, text, strlen(text)));
    const struct config_source source = {
        .path = path, .sets = &set, .n_sets = set != NULL ? 1 : 0, .use = CONFIG_RUN};
    return config_load(&source, out, report);
}

static void each_mistake_has_its_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        struct run_config *config = NULL;
        char *report = NULL;
        const enum status status = load(bad_files[i].text, NULL, &config, &report);
        const char *const got = report != NULL ? report : status_message();
        if (strstr(got, bad_files[i].want) == NULL) {
            print_error("file %zu: want \"%s\", got \"%s\"\n", i, bad_files[i].want, got);
        }
        assert_int_equal(status, STATUS_BAD_CONFIG);
        assert_null(config);
        assert_non_null(strstr(got, bad_files[i].want));
        memory_free(report);
    }
}

static void a_bad_set_is_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"grpo.epsilonn=1", "--set: grpo.epsilonn: unknown key; nearest is grpo.epsilon\n"},
        {"grpo.epsilon=x", "--set: grpo.epsilon: \"x\" is not a number"},
        {"grpo.epsilon", "--set: grpo.epsilon: want KEY=VALUE\n"},
        {"rewards.b.weight=1", "no reward has the name \"b\"\n"},
        {"grpo.epsilon=[", "--set:"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct run_config *config = NULL;
        char *report = NULL;
        assert_status(load(GOOD, cases[i][0], &config, &report), STATUS_BAD_CONFIG, NULL);
        if (strstr(report, cases[i][1]) == NULL) {
            print_error("want \"%s\", got \"%s\"\n", cases[i][1], report);
        }
        assert_non_null(strstr(report, cases[i][1]));
        memory_free(report);
    }
}

static void twenty_mistakes_are_shown_and_the_rest_counted(void **state)
{
    (void)state;
    char text[4096] = GOOD "grpo:\n";
    size_t n = strlen(text);
    struct run_config *config = NULL;
    char *report = NULL;
    for (int i = 0; i < 25; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "  wrong_%d: 1\n", i);
    }
    assert_status(load(text, NULL, &config, &report), STATUS_BAD_CONFIG, "wrong_0: unknown key");
    assert_non_null(strstr(report, ":24:3: grpo.wrong_19:"));
    assert_null(strstr(report, "wrong_20"));
    assert_non_null(strstr(report, "... and 5 more\n"));
    memory_free(report);
}

static void a_missing_or_huge_file_is_one_line(void **state)
{
    (void)state;
    struct run_config *config = NULL;
    char *report = NULL;
    const struct config_source absent = {.path = "/nonexistent/run.yaml", .use = CONFIG_RUN};
    assert_status(config_load(&absent, &config, &report), STATUS_BAD_CONFIG,
                  "/nonexistent/run.yaml");
    memory_free(report);
    char *text = NULL;
    const size_t n = ((size_t)1 << 20) + 10;
    assert_ok(memory_alloc(n + 1, 1, &text));
    memset(text, '#', n);
    assert_status(load(text, NULL, &config, &report), STATUS_BAD_CONFIG, "run.yaml");
    memory_free(report);
    memory_free(text);
}

static int set_up(void **state)
{
    (void)state;
    support_temp_dir(folder, sizeof folder);
    (void)snprintf(path, sizeof path, "%s/run.yaml", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    support_temp_dir_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_mistake_has_its_line),
        cmocka_unit_test(a_bad_set_is_named),
        cmocka_unit_test(twenty_mistakes_are_shown_and_the_rest_counted),
        cmocka_unit_test(a_missing_or_huge_file_is_one_line),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
