/* Owns the golden model fixtures: logits, losses, hidden states, routes and every gradient against
 * float64 references (README of the golden folder). Made by an independent evaluation of the
 * formulas; the data lies outside the repository and the cases are skipped where it is absent. */
#include "base/status.h"
#include "kernels/backend.h"
#include "model/model_check.h"

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
    assert_int_equal(check.n_not_computed > 0, strncmp(fixture, "fp8", 3) == 0);
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

/* A case of the fixture with this name, which prestate carries. */
#define FIXTURE(test, name)                                                                        \
    {                                                                                              \
        "the model of " name, test, NULL, NULL, (char[])                                           \
        {                                                                                          \
            name                                                                                   \
        }                                                                                          \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        FIXTURE(everything_in_the_file_is_within_tolerance, "llama-gqa"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "llama-mqa"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "llama-mha"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "qwen2"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "qwen2-yarn"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "qwen3"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "mixtral"),
        FIXTURE(everything_in_the_file_is_within_tolerance, "qwen3-moe"),
        FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "mtp1"),
        FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "qwen3"),
        FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "qwen3"),
        FIXTURE(everything_in_the_file_is_within_tolerance_on_avx2, "v2"),
        FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "mtp1"),
        FIXTURE(everything_in_the_file_is_within_tolerance_on_portable, "v2"),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
