/* Loading a configuration: what is read, from where, in which order, and how it is printed. */
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
#include <stdlib.h>
#include <string.h>

static const char small[] = "model: {path: m}\n"
                            "data:\n"
                            "  train: d.jsonl\n"
                            "rewards:\n"
                            "  - {name: correct, source: \"builtin:numeric\"}\n";

/* A file with this text in a folder of its own, loaded for a run. */
struct fixture {
    char folder[256];
    char path[512];
    struct run_config *config;
    char *report;
};

static enum status load(struct fixture *fixture, const char *text, const char *const *sets,
                        size_t n_sets)
{
    support_temp_dir(fixture->folder, sizeof fixture->folder);
    (void)snprintf(fixture->path, sizeof fixture->path, "%s/run.yaml", fixture->folder);
    assert_ok(file_write_atomic(fixture->path, text, strlen(text)));
    const struct config_source source = {
        .path = fixture->path, .sets = sets, .n_sets = n_sets, .use = CONFIG_RUN};
    return config_load(&source, &fixture->config, &fixture->report);
}

static void end(struct fixture *fixture)
{
    config_destroy(fixture->config);
    memory_free(fixture->report);
    support_temp_dir_remove(fixture->folder);
    memset(fixture, 0, sizeof *fixture);
}

static void the_smallest_file_gets_every_default(void **state)
{
    (void)state;
    struct fixture f = {0};
    char want[300];
    assert_ok(load(&f, small, NULL, 0));
    assert_null(f.report);
    (void)snprintf(want, sizeof want, "%s/m", f.folder);
    assert_string_equal(f.config->model.path, want);
    (void)snprintf(want, sizeof want, "%s/d.jsonl", f.folder);
    assert_int_equal(f.config->data.train.count, 1);
    assert_string_equal(f.config->data.train.items[0], want);
    (void)snprintf(want, sizeof want, "%s/runs", f.folder);
    assert_string_equal(f.config->run.output_dir, want);
    assert_string_equal(f.config->run.name, "run");
    assert_string_equal(f.config->folder, f.folder);
    assert_int_equal(f.config->grpo.num_generations, 8);
    assert_int_equal(f.config->grpo.prompts_per_step, 64);
    assert_int_equal(f.config->grpo.loss_type, LOSS_DAPO);
    assert_true(f.config->grpo.epsilon_high == 0.28);
    assert_true(f.config->optim.learning_rate == 1e-6);
    assert_int_equal(f.config->optim.lr_scheduler_type, LR_CONSTANT_WITH_WARMUP);
    assert_int_equal(f.config->n_rewards, 1);
    assert_true(f.config->rewards[0].weight == 1.0);
    assert_true(f.config->rewards[0].timeout_s == 5.0);
    end(&f);
}

static void the_setting_decides_the_type_of_a_scalar(void **state)
{
    (void)state;
    struct fixture f = {0};
    assert_ok(load(&f,
                   "run: {name: no}\n"
                   "model: {path: m, parse_special: true}\n"
                   "data: {train: [\"-\", 'cmd:zcat x', 1.0]}\n"
                   "rollout: {kv_cache_bytes: 64 MiB}\n"
                   "rewards:\n"
                   "  - name: tests\n"
                   "    source: 'cmd:python3 s.py'\n"
                   "    timeout: 2m\n"
                   "    config: {n: 3, x: 1e-3, flag: true, text: '3', list: [a, -1], token: abc}\n"
                   "    env: [HOME]\n",
                   NULL, 0));
    assert_string_equal(f.config->run.name, "no");
    assert_true(f.config->model.parse_special);
    assert_string_equal(f.config->data.train.items[0], "-");
    assert_string_equal(f.config->data.train.items[1], "cmd:zcat x");
    assert_int_equal(f.config->rollout.kv_cache_bytes, (size_t)64 << 20);
    assert_true(f.config->rewards[0].timeout_s == 120.0);
    const struct json *const scorer = f.config->rewards[0].config;
    assert_int_equal(json_int(json_get(scorer, "n"), 0), 3);
    assert_true(json_number(json_get(scorer, "x"), 0) == 1e-3);
    assert_true(json_bool(json_get(scorer, "flag"), false));
    assert_string_equal(json_text(json_get(scorer, "text"), ""), "3");
    assert_int_equal(json_int(json_at(json_get(scorer, "list"), 1), 0), -1);
    assert_string_equal(f.config->rewards[0].env.items[0], "HOME");
    end(&f);
}

static void later_layers_win_and_say_where_a_value_came_from(void **state)
{
    (void)state;
    struct fixture f = {0};
    const char *const sets[] = {"grpo.epsilon=0.3", "rewards.correct.weight=0.5",
                                "data.train=[a.jsonl, b.jsonl]", "run.name="};
    struct config_line *lines = NULL;
    size_t n = 0;
    assert_int_equal(setenv("HONE_SET_GRPO__EPSILON", "0.25", 1), 0);
    assert_int_equal(setenv("HONE_SET_GRPO__BETA", "0.01", 1), 0);
    assert_ok(load(&f, small, sets, 4));
    assert_true(f.config->grpo.epsilon == 0.3);
    assert_true(f.config->grpo.beta == 0.01);
    assert_true(f.config->rewards[0].weight == 0.5);
    assert_int_equal(f.config->data.train.count, 2);
    assert_string_equal(f.config->data.train.items[1], "b.jsonl"); /* as the user's folder has it */
    assert_string_equal(f.config->run.name, "run");
    assert_ok(config_lines(f.config, &lines, &n));
    size_t n_seen = 0;
    for (size_t i = 0; i < n; i++) {
        const char *const key = lines[i].key;
        const char *const origin = lines[i].origin;
        if (strcmp(key, "grpo.epsilon") == 0) {
            assert_string_equal(origin, "--set");
            assert_string_equal(lines[i].value, "0.3");
            n_seen++;
        } else if (strcmp(key, "grpo.beta") == 0) {
            assert_string_equal(origin, "env");
            n_seen++;
        } else if (strcmp(key, "model.path") == 0) {
            assert_non_null(strstr(origin, "run.yaml:1"));
            n_seen++;
        } else if (strcmp(key, "rewards.correct.source") == 0) {
            assert_non_null(strstr(origin, "run.yaml:5"));
            n_seen++;
        } else if (strcmp(key, "grpo.loss_type") == 0) {
            assert_string_equal(origin, "default");
            n_seen++;
        }
    }
    assert_int_equal(n_seen, 5);
    config_lines_free(lines);
    end(&f);
    assert_int_equal(unsetenv("HONE_SET_GRPO__EPSILON"), 0);
    assert_int_equal(unsetenv("HONE_SET_GRPO__BETA"), 0);
}

static void the_digest_counts_only_what_changes_a_result(void **state)
{
    (void)state;
    struct fixture f = {0};
    char base[65];
    char other[65];
    const char *const same[] = {"rollout.workers=7", "run.max_steps=9", "run.name=again",
                                "run.threads=2"};
    const char *const different[] = {"grpo.epsilon=0.21"};
    const char *const cut[] = {"optim.micro_batch_tokens=77", "optim.share_prompts=false"};
    const char *const scorer[] = {"rewards.correct.config={tolerance: 1}"};
    assert_ok(load(&f, small, NULL, 0));
    assert_ok(config_digest(f.config, base));
    end(&f);
    assert_ok(load(&f, small, same, 4)); /* in another folder, too */
    assert_ok(config_digest(f.config, other));
    assert_string_equal(base, other);
    end(&f);
    assert_ok(load(&f, small, different, 1));
    assert_ok(config_digest(f.config, other));
    assert_string_not_equal(base, other);
    end(&f);
    assert_ok(load(&f, small, scorer, 1));
    assert_ok(config_digest(f.config, other));
    assert_string_not_equal(base, other);
    end(&f);
    assert_ok(load(&f, small, cut, 1));
    assert_ok(config_digest(f.config, other));
    assert_string_not_equal(base, other); /* a group may be cut elsewhere */
    end(&f);
    assert_ok(load(&f, small, cut + 1, 1));
    assert_ok(config_digest(f.config, base));
    end(&f);
    assert_ok(load(&f, small, cut, 2));
    assert_ok(config_digest(f.config, other));
    assert_string_equal(base, other);
    end(&f);
}

static void the_stored_form_hides_secrets(void **state)
{
    (void)state;
    struct fixture f = {0};
    struct json *json = NULL;
    const char *const sets[] = {"rewards.correct.config={api_token: abc, max: 3}"};
    assert_ok(load(&f, small, sets, 1));
    assert_ok(config_to_json(f.config, &json));
    const struct json *const scorer = json_get(json_at(json_get(json, "rewards"), 0), "config");
    assert_string_equal(json_text(json_get(scorer, "api_token"), ""), "***");
    assert_int_equal(json_int(json_get(scorer, "max"), 0), 3);
    assert_true(json_number(json_path(json, "grpo.epsilon"), 0) == 0.2);
    assert_string_equal(json_text(json_path(json, "grpo.loss_type"), ""), "dapo");
    json_destroy(json);
    end(&f);
}

static void every_default_reads_back_as_itself(void **state)
{
    (void)state;
    char *yaml = NULL;
    char *again = NULL;
    char *report = NULL;
    char folder[256];
    char path[512];
    struct run_config *config = NULL;
    assert_ok(config_defaults_yaml(&yaml));
    support_temp_dir(folder, sizeof folder);
    (void)snprintf(path, sizeof path, "%s/defaults.yaml", folder);
    assert_ok(file_write_atomic(path, yaml, strlen(yaml)));
    const struct config_source source = {.path = path, .use = CONFIG_ANY};
    assert_ok(config_load(&source, &config, &report));
    assert_ok(config_defaults_yaml(&again));
    assert_string_equal(yaml, again);
    config_destroy(config);
    memory_free(yaml);
    memory_free(again);
    support_temp_dir_remove(folder);
}

/* Writes the lines of a configuration as --set would take them and loads them again. */
static void printed_values_are_a_fixed_point(void **state)
{
    (void)state;
    struct fixture f = {0};
    struct fixture g = {0};
    struct config_line *lines = NULL;
    struct config_line *again = NULL;
    size_t n = 0;
    size_t n_again = 0;
    const char *const sets[] = {"data.system_prompt='a: \"b\" #c, [d]'", "optim.learning_rate=3e-4",
                                "rewards.correct.config={pattern: \"<a>([0-9])</a>$\", group: 1}"};
    assert_ok(load(&f, small, sets, 3));
    assert_ok(config_lines(f.config, &lines, &n));
    char **texts = NULL;
    assert_ok(memory_alloc(n, sizeof *texts, &texts));
    for (size_t i = 0; i < n; i++) {
        const size_t room = strlen(lines[i].key) + strlen(lines[i].value) + 2;
        assert_ok(memory_alloc(room, 1, &texts[i]));
        (void)snprintf(texts[i], room, "%s=%s", lines[i].key, lines[i].value);
    }
    assert_ok(load(&g, small, (const char *const *)texts, n));
    assert_ok(config_lines(g.config, &again, &n_again));
    assert_int_equal(n, n_again);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(lines[i].value, again[i].value);
        memory_free(texts[i]);
    }
    memory_free(texts);
    config_lines_free(lines);
    config_lines_free(again);
    end(&f);
    end(&g);
}

static void a_key_is_explained_also_by_a_peers_name(void **state)
{
    (void)state;
    struct config_line *line = NULL;
    const char *nearest = NULL;
    assert_ok(config_explain("grpo.epsilon_high", &line, &nearest));
    assert_non_null(line);
    assert_string_equal(line->value, "0.28");
    assert_non_null(strstr(line->peers, "clip_ratio_high"));
    config_lines_free(line);
    assert_ok(config_explain("rewards.correct.weight", &line, &nearest));
    assert_string_equal(line->key, "rewards[].weight");
    config_lines_free(line);
    assert_ok(config_explain("train_batch_size", &line, &nearest));
    assert_string_equal(line->key, "grpo.prompts_per_step");
    config_lines_free(line);
    assert_ok(config_explain("grpo.epsilonn", &line, &nearest));
    assert_null(line);
    assert_string_equal(nearest, "grpo.epsilon");
}

static void the_markdown_has_a_row_for_every_setting(void **state)
{
    (void)state;
    char *table = NULL;
    assert_ok(config_table_markdown(&table));
    assert_non_null(strstr(table, "| `grpo.epsilon` | `0.2` | 0..100 |"));
    assert_non_null(strstr(table, "group \\| none"));
    memory_free(table);
}

/* Written by `hone config --markdown`; this test says when it must be pasted again. */
static void the_readme_shows_the_table_as_it_is(void **state)
{
    (void)state;
    char *table = NULL;
    char *readme = NULL;
    size_t n = 0;
    assert_ok(config_table_markdown(&table));
    assert_ok(file_read("README.md", (size_t)1 << 20, &readme, &n));
    assert_non_null(strstr(readme, table));
    memory_free(readme);
    memory_free(table);
}

static enum status attempt_load(void *context)
{
    const char *const sets[] = {"rewards.correct.config={a: [1, b]}", "grpo.epsilon=0.1"};
    const struct config_source source = {
        .path = context, .sets = sets, .n_sets = 2, .use = CONFIG_RUN};
    struct run_config *config = NULL;
    struct config_line *lines = NULL;
    size_t n = 0;
    char *report = NULL;
    char digest[65];
    enum status status = config_load(&source, &config, &report);
    if (status == STATUS_OK) {
        status = config_digest(config, digest);
    }
    if (status == STATUS_OK) {
        status = config_lines(config, &lines, &n);
    }
    config_lines_free(lines);
    config_destroy(config);
    memory_free(report);
    return status;
}

static void load_fails_cleanly_at_every_allocation(void **state)
{
    (void)state;
    struct fixture f = {0};
    assert_ok(load(&f, small, NULL, 0));
    assert_true(support_fail_allocations(attempt_load, f.path) > 10);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_file_gets_every_default),
        cmocka_unit_test(the_setting_decides_the_type_of_a_scalar),
        cmocka_unit_test(later_layers_win_and_say_where_a_value_came_from),
        cmocka_unit_test(the_digest_counts_only_what_changes_a_result),
        cmocka_unit_test(the_stored_form_hides_secrets),
        cmocka_unit_test(every_default_reads_back_as_itself),
        cmocka_unit_test(printed_values_are_a_fixed_point),
        cmocka_unit_test(a_key_is_explained_also_by_a_peers_name),
        cmocka_unit_test(the_markdown_has_a_row_for_every_setting),
        cmocka_unit_test(the_readme_shows_the_table_as_it_is),
        cmocka_unit_test(load_fails_cleanly_at_every_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
