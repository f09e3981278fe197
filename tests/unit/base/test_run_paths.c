/* Paths of a run: processes that start in different places agree on them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENDPOINTS 4

static void endpoints_of_a_short_run_are_below_it(void **state)
{
    char folder[128];
    char run[192];
    char wanted[256];
    char *endpoint;

    (void)state;
    support_temp_dir(folder, sizeof(folder));
    (void)snprintf(run, sizeof(run), "%s/r", folder);
    assert_ok(run_endpoint(run, ENDPOINT_WORK, &endpoint));
    (void)snprintf(wanted, sizeof(wanted), "ipc://%s/sock/work", run);
    assert_string_equal(endpoint, wanted);
    memory_free(endpoint);
    assert_true(folder_exists(run));
    support_temp_dir_remove(folder);
}

static void endpoints_of_a_long_run_are_short_and_the_same_for_all(void **state)
{
    char folder[128];
    char run[512];
    char *first[ENDPOINTS];
    char *again;
    struct stat info;

    (void)state;
    support_temp_dir(folder, sizeof(folder));
    (void)snprintf(run, sizeof(run), "%s/%0120d/%0120d", folder, 1, 2);
    for (int i = 0; i < ENDPOINTS; i++) {
        assert_ok(run_endpoint(run, (enum run_endpoint)i, &first[i]));
        assert_true(strlen(first[i]) - strlen("ipc://") <= 107);
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(first[i], first[j]);
        }
    }
    /* Another environment must not lead elsewhere. */
    assert_int_equal(setenv("XDG_RUNTIME_DIR", folder, 1), 0);
    assert_ok(run_endpoint(run, ENDPOINT_WORK, &again));
    assert_string_equal(again, first[0]);
    memory_free(again);
    char *short_folder;
    assert_ok(path_parent(first[0] + strlen("ipc://"), &short_folder));
    assert_int_equal(stat(short_folder, &info), 0);
    assert_int_equal(info.st_mode & 0777u, 0700);
    assert_int_equal(chmod(short_folder, 0755), 0);
    assert_status(run_endpoint(run, ENDPOINT_WORK, &again), STATUS_IO, "0700");
    assert_ok(folder_remove(short_folder));
    assert_ok(run_endpoint(run, ENDPOINT_WORK, &again)); /* made again after a reboot */
    assert_ok(folder_remove(short_folder));
    memory_free(again);
    memory_free(short_folder);
    for (int i = 0; i < ENDPOINTS; i++) {
        memory_free(first[i]);
    }
    support_temp_dir_remove(folder);
}

static void a_relative_run_gives_an_absolute_endpoint(void **state)
{
    char folder[128];
    char before[4096];
    char *relative;
    char *absolute;

    (void)state;
    support_temp_dir(folder, sizeof(folder));
    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(folder), 0);
    assert_ok(run_endpoint("r/../r", ENDPOINT_SCORED, &relative));
    assert_int_equal(chdir(before), 0);
    char run[192];
    (void)snprintf(run, sizeof(run), "%s/r", folder);
    assert_ok(run_endpoint(run, ENDPOINT_SCORED, &absolute));
    assert_string_equal(relative, absolute);
    memory_free(relative);
    memory_free(absolute);
    support_temp_dir_remove(folder);
}

static void files_of_a_run_have_their_documented_names(void **state)
{
    char *path;

    (void)state;
    assert_ok(run_database_path("runs/a", &path));
    assert_string_equal(path, "runs/a/run.db");
    memory_free(path);
    assert_ok(run_checkpoints_path("runs/a", &path));
    assert_string_equal(path, "runs/a/checkpoints");
    memory_free(path);
}

static void clocks_go_forward(void **state)
{
    const int64_t begin_us = clock_now_us();

    (void)state;
    clock_sleep_us(2000);
    clock_sleep_us(-5);
    assert_true(clock_now_us() - begin_us >= 2000);
    assert_true(clock_wall_ns() > INT64_C(1600000000) * 1000000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(endpoints_of_a_short_run_are_below_it),
        cmocka_unit_test(endpoints_of_a_long_run_are_short_and_the_same_for_all),
        cmocka_unit_test(a_relative_run_gives_an_absolute_endpoint),
        cmocka_unit_test(files_of_a_run_have_their_documented_names),
        cmocka_unit_test(clocks_go_forward),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
