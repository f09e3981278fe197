/* What the kernel tells of processes: memory of one's own and of children, and who they are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/process_info.h"
#include "tests/support/support.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static void memory_is_read_from_either_text(void **state)
{
    static const char rollup[] = "00400000-7ffd [rollup]\nRss:   9000 kB\nPss:     4321 kB\n"
                                 "Pss_Dirty:   77 kB\n";
    static const char status[] = "Name:\thone\nVmHWM:\t  9500 kB\nVmRSS:\t    9000 kB\n";
    struct process_memory memory;

    (void)state;
    assert_true(process_info_parse_memory(rollup, status, &memory));
    assert_int_equal(memory.bytes, 4321 * 1024);
    assert_true(memory.is_proportional);
    assert_true(process_info_parse_memory(NULL, status, &memory));
    assert_int_equal(memory.bytes, 9000 * 1024);
    assert_false(memory.is_proportional);
    assert_false(process_info_parse_memory(NULL, "Name:\tzombie\nState:\tZ\n", &memory));
    assert_false(process_info_parse_memory("\nPss: many", NULL, &memory));
    assert_false(process_info_parse_memory(NULL, NULL, &memory));
}

static void a_process_that_is_not_there_holds_nothing(void **state)
{
    struct process_memory memory = {.bytes = 1};
    pid_t child;

    (void)state;
    assert_false(process_info_memory(999999999, &memory));
    assert_int_equal(memory.bytes, 0);
    assert_int_equal(process_info_children(999999999, &child, 1), 0);
}

static void memory_grows_with_the_pages_that_are_touched(void **state)
{
    struct process_memory before;
    struct process_memory after;
    const size_t bytes = 32 * MIB;
    void *const pages =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(pages != MAP_FAILED);
    assert_true(process_info_memory(getpid(), &before));
    memset(pages, 1, bytes);
    assert_true(process_info_memory(getpid(), &after));
    assert_int_equal(munmap(pages, bytes), 0);
    assert_in_range(after.bytes - before.bytes, 31 * MIB, 34 * MIB);
}

/* A page that parent and child map counts half in each. */
static void what_two_processes_map_counts_once(void **state)
{
    struct process_memory of_parent;
    struct process_memory of_child;
    const size_t bytes = 32 * MIB;
    void *const pages =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int ends[2];

    (void)state;
    assert_true(pages != MAP_FAILED);
    memset(pages, 1, bytes);
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        memset(pages, 2, bytes); /* maps them */
        (void)!write(ends[1], "x", 1);
        (void)pause();
        _exit(0);
    }
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_true(process_info_memory(getpid(), &of_parent));
    assert_true(process_info_memory(child, &of_child));
    (void)kill(child, SIGKILL);
    struct process reaped = {.pid = child, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    process_stop(&reaped, 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
    assert_int_equal(munmap(pages, bytes), 0);
    if (!of_parent.is_proportional) {
        skip();
    }
    assert_in_range(of_parent.bytes + of_child.bytes, 31 * MIB, 48 * MIB);
}

static void children_are_listed(void **state)
{
    static const char *const argv[] = {"sh", "-c", "sleep 10 & sleep 10", NULL};
    const struct process_options options = {.argv = argv};
    const int64_t deadline_us = clock_now_us() + 5000000;
    struct process shell;
    pid_t pids[8];
    size_t n = 0;

    (void)state;
    if (access("/proc/thread-self/children", R_OK) != 0) {
        skip();
    }
    assert_ok(process_start(&options, &shell));
    assert_int_equal(process_info_children(getpid(), pids, 8), 1);
    assert_int_equal(pids[0], shell.pid);
    while ((n = process_info_children(shell.pid, pids, 8)) < 2 && clock_now_us() < deadline_us) {
        clock_sleep_us(1000);
    }
    assert_int_equal(n, 2);
    assert_int_equal(process_info_children(shell.pid, pids, 1), 1);
    process_stop(&shell, 0);
    assert_int_equal(process_info_children(getpid(), pids, 8), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_read_from_either_text),
        cmocka_unit_test(a_process_that_is_not_there_holds_nothing),
        cmocka_unit_test(memory_grows_with_the_pages_that_are_touched),
        cmocka_unit_test(what_two_processes_map_counts_once),
        cmocka_unit_test(children_are_listed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
