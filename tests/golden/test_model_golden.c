/* Owns the golden model fixtures: logits, losses, hidden states, routes and every gradient against
 * float64 references (README of the golden folder). Made by an independent evaluation of the
 * formulas; the data lies outside the repository and the cases are skipped where it is absent. */
#include "base/file.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "model/model_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Path of a golden file; false (and a message) when the data is not there. */
static bool golden_path(const char *fixture, const char *file, char *out, size_t room)
{
    const char *shared = getenv("HONE_SHARED");

    (void)snprintf(out, room, "%s/golden/%s%s%s", shared == NULL ? "../shared" : shared, fixture,
                   file[0] == '\0' ? "" : "/", file);
    if (file[0] == '\0' ? folder_exists(out) : file_exists(out)) {
        return true;
    }
    print_message("no %s: skipped (set HONE_SHARED)\n", out);
    return false;
}

static void print_line(const char *device, const char *fixture, const struct model_check_line *line)
{
    print_message("%s %s %-15s %3zu tensors, worst %.3f of tolerance at %s: %.9g, want %.9g\n",
                  device, fixture, line->kind, line->n_tensors, line->share, line->where, line->got,
                  line->want);
}

static void check_fixture(const char *device, const char *fixture)
{
    char dir[512], io[512];
    struct backend *backend;
    struct model_check check;

    if (!golden_path(fixture, "", dir, sizeof(dir)) ||
        !golden_path(fixture, "io.safetensors", io, sizeof(io))) {
        skip();
    }
    if (backend_open(device, 2, &backend) != STATUS_OK) {
        print_message("%s: skipped\n", status_message());
        skip();
    }

    const enum status status = model_check_against(backend, dir, io, NULL, &check);

    backend_close(backend);
    if (status != STATUS_OK) {
        fail_msg("%s %s: %s", device, fixture, status_message());
    }
    for (size_t i = 0; i < check.n_lines; i++) {
        print_line(device, fixture, &check.lines[i]);
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

int main(void)
{
    static char v3_core[] = "v3-core", v3_yarn[] = "v3-yarn", moonlight[] = "moonlight",
                negative_bias[] = "negative-bias", mtp1[] = "mtp1";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance, v3_core),
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance, v3_yarn),
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance, moonlight),
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance, negative_bias),
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance, mtp1),
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance_on_avx2, mtp1),
        cmocka_unit_test_prestate(everything_in_the_file_is_within_tolerance_on_portable, mtp1),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
