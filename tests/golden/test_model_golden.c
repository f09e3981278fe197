/* Owns the golden model fixtures: logits, losses, hidden states, routes and every gradient against
 * float64 references (README of the golden folder). Made by an independent evaluation of the
 * formulas; the data lies outside the repository and the cases are skipped where it is absent. */
#include "base/memory.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "model/model_check.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "model/weights_export.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/support.h"

static void print_line(const char *device, const char *fixture, const struct model_check_line *line)
{
    print_message("%s %s %-15s %3zu tensors, worst %.3f of tolerance at %s: %.9g, want %.9g\n",
                  device, fixture, line->kind, line->n_tensors, line->share, line->where, line->got,
                  line->want);
}

static void check_fixture(const char *device, const char *fixture)
{
    char name[64], dir[512], io[544];
    struct backend *backend;
    struct model_check check;

    (void)snprintf(name, sizeof(name), "golden/%s", fixture);
    if (!support_shared_path(name, dir, sizeof(dir))) {
        skip();
    }
    (void)snprintf(io, sizeof(io), "%s/io.safetensors", dir);
    if (backend_open(device, 2, &backend) != STATUS_OK) {
        print_message("%s: skipped\n", status_message());
        skip();
    }

    assert_ok(model_check_against(backend, dir, io, NULL, &check));
    backend_close(backend);
    for (size_t i = 0; i < check.n_lines; i++) {
        print_line(device, fixture, &check.lines[i]);
    }
    for (size_t i = 0; i < check.n_lines; i++) {
        assert_true(check.lines[i].share <= 1);
    }
    assert_true(check.has_passed);
}

/* state is the fixture's name. */
static void everything_in_the_file_is_within_tolerance(void **state)
{
    check_fixture("cpu", *state);
}

static void everything_in_the_file_is_within_tolerance_on_avx2(void **state)
{
    check_fixture("cpu-avx2", *state);
}

static void everything_in_the_file_is_within_tolerance_on_portable(void **state)
{
    check_fixture("cpu-portable", *state);
}

/* state is the fixture's name. */
static void saving_and_loading_again_changes_no_bit(void **state)
{
    char name[64], dir[512], scratch[256];

    (void)snprintf(name, sizeof(name), "golden/%s", (const char *)*state);
    if (!support_shared_path(name, dir, sizeof(dir))) {
        skip();
    }
    support_temp_dir(scratch, sizeof(scratch));
    assert_ok(model_check_round_trip(dir, scratch));
    support_temp_dir_remove(scratch);
}

struct model {
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static void model_load(const char *dir, struct model *out)
{
    assert_ok(model_config_load(dir, &out->config));
    assert_ok(weights_probe_mtp(dir, &out->config));
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
    assert_ok(weights_load(dir, out->table, out->data));
}

static void model_dispose(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
}

/* Every value of these fixtures is one of BF16. state is the fixture's name. */
static void bf16_shards_hold_the_same_bits(void **state)
{
    const struct weights_export_options options = {.format = WEIGHTS_BF16, .shard_bytes = 20000};
    struct weights_export_stats stats;
    char name[64], dir[512], scratch[256];
    struct model first, second;

    (void)snprintf(name, sizeof(name), "golden/%s", (const char *)*state);
    if (!support_shared_path(name, dir, sizeof(dir))) {
        skip();
    }
    support_temp_dir(scratch, sizeof(scratch));
    model_load(dir, &first);
    assert_ok(model_config_save(&first.config, scratch));
    assert_ok(weights_export(scratch, &first.config, first.table, first.data, &options, &stats));
    assert_true(stats.n_files > 1);
    model_load(scratch, &second);
    assert_int_equal(first.table->n_floats, second.table->n_floats);
    assert_memory_equal(first.data, second.data, first.table->n_floats * sizeof(float));
    model_dispose(&first);
    model_dispose(&second);
    support_temp_dir_remove(scratch);
}

/* A case of the fixture with this name, which prestate carries. */
#define FIXTURE(test, name)                                                                        \
    {                                                                                              \
        "the model of " name, test, NULL, NULL, (char[])                                           \
        {                                                                                          \
            name                                                                                   \
        }                                                                                          \
    }

#define SAVED(name)                                                                                \
    FIXTURE(saving_and_loading_again_changes_no_bit, name),                                        \
        FIXTURE(bf16_shards_hold_the_same_bits, name)

static const struct CMUnitTest tests[] = {
    FIXTURE(everything_in_the_file_is_within_tolerance, "v3-core"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "v3-yarn"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "v3-fused"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "v2-lite"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "v2"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "moonlight"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "kimi-yarn-step"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "kimi-yarn-degenerate"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "attention-bias"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "rope-half"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "tied-head"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "no-norm-topk"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "options"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "negative-bias"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "mtp1"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "mtp1-prenorm"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "fp8"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "fp8-ue8m0"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "fp8-e8m0"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "mtp2"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "dsa"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "dsa"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "dsa"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "llama-gqa"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "llama-mqa"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "llama-mha"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "qwen2"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "qwen2-yarn"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "qwen3"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "mixtral"),
    FIXTURE(everything_in_the_file_is_within_tolerance, "qwen3-moe"),
    SAVED("v3-core"),
    SAVED("v3-yarn"),
    SAVED("v3-fused"),
    SAVED("v2-lite"),
    SAVED("v2"),
    SAVED("moonlight"),
    SAVED("kimi-yarn-step"),
    SAVED("kimi-yarn-degenerate"),
    SAVED("attention-bias"),
    SAVED("rope-half"),
    SAVED("tied-head"),
    SAVED("no-norm-topk"),
    SAVED("options"),
    SAVED("negative-bias"),
    SAVED("dsa"),
    SAVED("llama-gqa"),
    SAVED("llama-mqa"),
    SAVED("llama-mha"),
    SAVED("qwen2"),
    SAVED("qwen2-yarn"),
    SAVED("qwen3"),
    SAVED("mixtral"),
    SAVED("qwen3-moe"),
    SAVED("mtp1"),
    SAVED("mtp1-prenorm"),
    SAVED("mtp2"),
    FIXTURE(saving_and_loading_again_changes_no_bit, "fp8"),
    FIXTURE(saving_and_loading_again_changes_no_bit, "fp8-ue8m0"),
    FIXTURE(saving_and_loading_again_changes_no_bit, "fp8-e8m0"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "mtp1"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "qwen3"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "qwen3"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "fp8"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "fp8"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "v2"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "mtp1"),
    FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "v2"),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
