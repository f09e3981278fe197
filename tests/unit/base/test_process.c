/* Children: what they inherit, how they end, what is left of them, and what the caller sees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/socket.h"
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct process start_shell(const char *script, bool wants_pipes)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    const struct process_options options = {.argv = argv, .wants_pipes = wants_pipes};
    struct process process;

    assert_ok(process_start(&options, &process));
    return process;
}

/* Its exit code, waiting up to 5 s. */
static int wait_for_end(struct process *process)
{
    const int64_t deadline_us = clock_now_us() + 5000000;
    int exit_code = -1;

    while (!process_has_ended(process, &exit_code)) {
        assert_true(clock_now_us() < deadline_us);
        clock_sleep_us(1000);
    }
    return exit_code;
}

/* Reads fd until it is closed on the other side, up to 5 s. */
static size_t read_until_closed(int fd, char *out, size_t room)
{
    size_t used = 0;

    for (;;) {
        struct wait_item item = {.fd = fd, .wants_read = true};
        assert_ok(socket_wait(&item, 1, 5000));
        assert_true(item.can_read);
        const ssize_t n = read(fd, out + used, room - 1 - used);
        assert_true(n >= 0);
        if (n == 0) {
            out[used] = '\0';
            return used;
        }
        used += (size_t)n;
    }
}

static void exit_codes_and_signals_are_told_again_and_again(void **state)
{
    (void)state;
    struct process ended = start_shell("exit 7", false);
    assert_int_equal(wait_for_end(&ended), 7);
    assert_int_equal(wait_for_end(&ended), 7);
    process_stop(&ended, 0);
    process_stop(&ended, 0);
    struct process killed = start_shell("kill -SEGV $$", false);
    assert_int_equal(wait_for_end(&killed), 128 + SIGSEGV);
    process_stop(&killed, 0);
}

static void pipes_carry_all_three_streams(void **state)
{
    char text[64];

    (void)state;
    struct process process = start_shell("read line; echo \"got $line\"; echo oops >&2", true);
    assert_int_equal(write(process.stdin_fd, "hello\n", 6), 6);
    (void)read_until_closed(process.stdout_fd, text, sizeof(text));
    assert_string_equal(text, "got hello\n");
    (void)read_until_closed(process.stderr_fd, text, sizeof(text));
    assert_string_equal(text, "oops\n");
    assert_true((fcntl(process.stdout_fd, F_GETFL) & O_NONBLOCK) != 0);
    process_stop(&process, 1000);
    assert_int_equal(process.stdin_fd, -1);
}

static void only_the_standard_streams_are_inherited(void **state)
{
    char text[256];

    (void)state;
    const int leak = fcntl(STDERR_FILENO, F_DUPFD, 77); /* without FD_CLOEXEC */
    assert_true(leak >= 77);
    struct process process = start_shell("for i in /proc/$$/fd/*; do echo ${i##*/}; done", true);
    (void)read_until_closed(process.stdout_fd, text, sizeof(text));
    char name[16];
    (void)snprintf(name, sizeof(name), "\n%d\n", leak);
    assert_null(strstr(text, name));
    assert_ptr_equal(strstr(text, "0\n1\n2\n"), text);
    process_stop(&process, 1000);
    (void)close(leak);
}

static void a_program_that_cannot_start_is_named(void **state)
{
    const char *const argv[] = {"/nonexistent/program", NULL};
    const char *const shell[] = {"sh", NULL};
    struct process_options options = {.argv = argv, .wants_pipes = true};
    struct process process;

    (void)state;
    assert_status(process_start(&options, &process), STATUS_IO, "/nonexistent/program");
    assert_non_null(strstr(status_message(), "No such file"));
    assert_int_equal(process.stdin_fd, -1);
    options = (struct process_options){.argv = shell, .cwd = "/nonexistent"};
    assert_status(process_start(&options, &process), STATUS_IO, "sh");
}

static void environment_and_folder_are_as_asked(void **state)
{
    const char *const argv[] = {"sh", "-c", "pwd; echo $ONLY; env | wc -l; ulimit -c", NULL};
    const char *const env[] = {"ONLY=this", "PATH=/usr/bin:/bin", NULL};
    const struct process_options options = {
        .argv = argv, .env = env, .cwd = "/", .wants_pipes = true, .oom_score_adj = 500};
    struct process process;
    char text[64];

    (void)state;
    assert_ok(process_start(&options, &process));
    (void)read_until_closed(process.stdout_fd, text, sizeof(text));
    assert_ptr_equal(strstr(text, "/\nthis\n"), text);
    assert_ptr_equal(strstr(text, "0\n"), text + strlen(text) - 2);
    process_stop(&process, 1000);
}

/* false for a zombie too: whether init reaps at once is not ours to say. */
static bool is_running(pid_t pid)
{
    char path[64];
    char letter = 'Z';

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *stat = fopen(path, "r");
    if (stat != NULL) {
        if (fscanf(stat, "%*d %*s %c", &letter) != 1) {
            letter = 'Z';
        }
        (void)fclose(stat);
    }
    return letter != 'Z' && letter != 'X';
}

static bool ends_within_2_s(pid_t pid)
{
    for (int i = 0; i < 400 && is_running(pid); i++) {
        clock_sleep_us(5000);
    }
    return !is_running(pid);
}

static void stop_kills_what_ignores_a_request_and_its_children(void **state)
{
    char text[16] = "";

    (void)state;
    struct process process =
        start_shell("trap '' TERM; (trap '' TERM; sleep 60) & echo $!; sleep 60", true);
    const pid_t group = process.pid;
    assert_int_equal(getpgid(group), group);
    struct wait_item item = {.fd = process.stdout_fd, .wants_read = true};
    assert_ok(socket_wait(&item, 1, 5000));
    assert_true(read(process.stdout_fd, text, sizeof(text) - 1) > 0);
    const pid_t grandchild = (pid_t)strtol(text, NULL, 10);
    assert_true(is_running(grandchild));
    assert_int_equal(getpgid(grandchild), group);
    const int64_t begin_us = clock_now_us();
    process_stop(&process, 50);
    assert_true(clock_now_us() - begin_us >= 50000);
    assert_true(clock_now_us() - begin_us < 2000000);
    assert_true(ends_within_2_s(grandchild));
}

static void stop_leaves_time_to_end_by_itself(void **state)
{
    char text[16];

    (void)state;
    struct process process =
        start_shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done", true);
    struct wait_item item = {.fd = process.stdout_fd, .wants_read = true};
    assert_ok(socket_wait(&item, 1, 5000));
    assert_int_equal(read(process.stdout_fd, text, sizeof(text)), 3);
    const int kept = dup(process.stdout_fd);
    process_stop(&process, 3000);
    assert_int_equal(read(kept, text, sizeof(text)), 4);
    assert_memory_equal(text, "bye\n", 4);
    (void)close(kept);
}

/* A parent of its own that starts a child, tells its pid and waits to be killed. */
static _Noreturn void be_a_parent(int out_fd)
{
    const char *const argv[] = {"sleep", "60", NULL};
    const struct process_options options = {.argv = argv};
    struct process process;

    if (process_start(&options, &process) != STATUS_OK ||
        write(out_fd, &process.pid, sizeof(process.pid)) != (ssize_t)sizeof(process.pid)) {
        _exit(1);
    }
    for (;;) {
        (void)pause();
    }
}

static void a_child_dies_with_its_parent(void **state)
{
    int ends[2];
    pid_t grandchild = 0;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    const pid_t parent = fork();
    if (parent == 0) {
        be_a_parent(ends[1]);
    }
    assert_true(parent > 0);
    assert_int_equal(read(ends[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
    assert_true(is_running(grandchild));
    assert_int_equal(kill(parent, SIGKILL), 0);
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    assert_true(ends_within_2_s(grandchild));
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void a_question_is_heard_once_and_ends_nothing(void **state)
{
    int status = 0;

    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        process_catch_signals();
        const bool was_asked = process_waits_asked();
        (void)raise(SIGUSR2);
        (void)raise(SIGUSR2);
        const bool is_asked = process_waits_asked();
        _exit(!was_asked && is_asked && !process_waits_asked() && process_signal_caught() == 0 ? 7
                                                                                               : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

static void a_first_signal_is_noted_and_a_second_ends_the_process(void **state)
{
    int status = 0;

    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        process_catch_signals();
        (void)raise(SIGPIPE);
        (void)raise(SIGTERM);
        if (process_signal_caught() != SIGTERM) {
            _exit(1);
        }
        (void)raise(SIGINT);
        _exit(2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + SIGINT);
}

/* How a process ends that hears SIGHUP twice; 7: it noted the first and went on. */
static int end_after_hang_ups(void (*before)(int))
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        (void)signal(SIGHUP, before);
        process_catch_signals();
        (void)raise(SIGHUP);
        (void)raise(SIGHUP);
        _exit(process_signal_caught() == SIGHUP ? 7 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_terminal_that_goes_asks_to_stop_unless_that_is_ignored(void **state)
{
    (void)state;
    assert_int_equal(end_after_hang_ups(SIG_DFL), 7);
    assert_int_equal(end_after_hang_ups(SIG_IGN), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_codes_and_signals_are_told_again_and_again),
        cmocka_unit_test(pipes_carry_all_three_streams),
        cmocka_unit_test(only_the_standard_streams_are_inherited),
        cmocka_unit_test(a_program_that_cannot_start_is_named),
        cmocka_unit_test(environment_and_folder_are_as_asked),
        cmocka_unit_test(stop_kills_what_ignores_a_request_and_its_children),
        cmocka_unit_test(stop_leaves_time_to_end_by_itself),
        cmocka_unit_test(a_child_dies_with_its_parent),
        cmocka_unit_test(a_terminal_that_goes_asks_to_stop_unless_that_is_ignored),
        cmocka_unit_test(a_question_is_heard_once_and_ends_nothing),
        cmocka_unit_test(a_first_signal_is_noted_and_a_second_ends_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
