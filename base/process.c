/* Owns child processes. posix_spawn cannot ask for PR_SET_PDEATHSIG, so a child is made by fork and
 * replaced by its program at once. Between the two it runs with a copy of a process whose other
 * threads (ZeroMQ's, the pool's) are gone, perhaps while they held locks: only async-signal-safe
 * calls are made there, and all that needs memory or text is prepared before. */
#include "base/process.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_NOT_STARTED 127
#define STANDARD_STREAMS 3
#define FIRST_FREE_FD 3
#define SPARE_FD 16 /* child ends of pipes are moved above this before 0, 1 and 2 are replaced */
#define POLL_US 2000

/* Everything the child needs, made before the fork. */
struct launch {
    const struct process_options *options;
    int child_ends[STANDARD_STREAMS]; /* -1 without pipes */
    int report_fd;                    /* takes errno when the program could not be started */
    char oom_text[16];                /* "" : leave */
    pid_t parent;
};

/* ---- In the child ---- */

static void reset_signals(void)
{
    struct sigaction action;
    sigset_t none;

    memset(&action, 0, sizeof(action));
    action.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; number++) {
        (void)sigaction(number, &action, NULL); /* KILL, STOP and reserved ones refuse */
    }
    action.sa_handler = SIG_IGN; /* a question that comes early must not end it */
    (void)sigaction(SIGUSR2, &action, NULL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Descriptors from 3 on end with exec; marking leaves the report's pipe usable until then. */
static void mark_descriptors(void)
{
    if (close_range(FIRST_FREE_FD, ~0U, CLOSE_RANGE_CLOEXEC) == 0) {
        return;
    }
    for (int fd = FIRST_FREE_FD; fd < 4096; fd++) { /* an old kernel; ours are marked anyway */
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
}

/* A parent that had closed 0, 1 or 2 may have got pipes there, hence the detour. */
static int place_streams(const int child_ends[STANDARD_STREAMS])
{
    int spare[STANDARD_STREAMS];

    for (int i = 0; i < STANDARD_STREAMS; i++) {
        if (child_ends[i] < 0) {
            return 0;
        }
        spare[i] = fcntl(child_ends[i], F_DUPFD_CLOEXEC, SPARE_FD);
        if (spare[i] < 0) {
            return -1;
        }
    }
    for (int i = 0; i < STANDARD_STREAMS; i++) {
        if (dup2(spare[i], i) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A wish: a container may forbid it. */
static void set_oom_score(const char *text)
{
    const int fd = text[0] == '\0' ? -1 : open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        const ssize_t n_written = write(fd, text, strlen(text));
        (void)n_written;
        (void)close(fd);
    }
}

static int prepare_child(const struct launch *launch)
{
    const struct rlimit no_core = {0, 0};

    if (setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
        return -1;
    }
    if (getppid() != launch->parent) {
        errno = ESRCH; /* the parent died before the line above */
        return -1;
    }
    if (setrlimit(RLIMIT_CORE, &no_core) != 0 || place_streams(launch->child_ends) != 0) {
        return -1;
    }
    set_oom_score(launch->oom_text);
    return launch->options->cwd == NULL ? 0 : chdir(launch->options->cwd);
}

static char **mutable_strings(const char *const *strings)
{
    char **result;

    memcpy(&result, &strings, sizeof(result)); /* exec takes no const, but changes nothing */
    return result;
}

static _Noreturn void run_child(const struct launch *launch)
{
    const struct process_options *options = launch->options;
    char **env = options->env == NULL ? environ : mutable_strings(options->env);

    if (prepare_child(launch) == 0) {
        mark_descriptors();
        reset_signals();
        (void)execvpe(options->argv[0], mutable_strings(options->argv), env);
    }
    const int reason = errno;
    const ssize_t n_written = write(launch->report_fd, &reason, sizeof(reason));
    (void)n_written; /* a parent that is gone needs no report */
    _exit(EXIT_NOT_STARTED);
}

/* ---- In the parent ---- */

static void close_if_open(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd); /* a pipe: nothing to lose */
        *fd = -1;
    }
}

static void close_all(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        close_if_open(&fds[i]);
    }
}

/* Pipes for 0, 1, 2: ours[] for us (non-blocking), child_ends[] for the child. */
static enum status open_pipes(const struct process_options *options, int ours[STANDARD_STREAMS],
                              int child_ends[STANDARD_STREAMS])
{
    for (int i = 0; options->wants_pipes && i < STANDARD_STREAMS; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) != 0) {
            return status_set(STATUS_IO, "%s: cannot make a pipe: %s", options->argv[0],
                              strerror(errno));
        }
        ours[i] = ends[i == 0 ? 1 : 0];
        child_ends[i] = ends[i == 0 ? 0 : 1];
        if (fcntl(ours[i], F_SETFL, O_NONBLOCK) != 0) {
            return status_set(STATUS_IO, "%s: cannot make a pipe non-blocking: %s",
                              options->argv[0], strerror(errno));
        }
    }
    return STATUS_OK;
}

/* Forks with all signals blocked, so that no handler of ours runs in the child. */
static pid_t fork_child(const struct launch *launch)
{
    sigset_t all;
    sigset_t old;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    const pid_t pid = fork();
    if (pid == 0) {
        run_child(launch);
    }
    const int reason = errno;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = reason;
    return pid;
}

/* Waits for exec, which closes the report's pipe, or for the errno that comes through it. */
static int read_report(int fd)
{
    int reason = 0;
    ssize_t n;

    do {
        n = read(fd, &reason, sizeof(reason));
    } while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(reason) ? reason : 0;
}

static enum status start_child(struct launch *launch, struct process *out)
{
    const char *program = launch->options->argv[0];
    int report[2];

    if (pipe2(report, O_CLOEXEC) != 0) {
        return status_set(STATUS_IO, "%s: cannot make a pipe: %s", program, strerror(errno));
    }
    launch->report_fd = report[1];
    const pid_t pid = fork_child(launch);
    const int fork_reason = errno;
    (void)close(report[1]);
    if (pid < 0) {
        (void)close(report[0]);
        return status_set(STATUS_IO, "%s: cannot start a process: %s", program,
                          strerror(fork_reason));
    }
    (void)setpgid(pid, pid); /* the child does it too; whoever is first */
    const int reason = read_report(report[0]);
    (void)close(report[0]);
    if (reason != 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
        return status_set(STATUS_IO, "%s: cannot start: %s", program, strerror(reason));
    }
    out->pid = pid;
    return STATUS_OK;
}

enum status process_start(const struct process_options *options, struct process *out)
{
    struct launch launch = {
        .options = options, .child_ends = {-1, -1, -1}, .report_fd = -1, .parent = getpid()};
    int ours[STANDARD_STREAMS] = {-1, -1, -1};

    *out = (struct process){.pid = 0, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    if (options->oom_score_adj != 0) {
        (void)snprintf(launch.oom_text, sizeof(launch.oom_text), "%d", options->oom_score_adj);
    }
    enum status status = open_pipes(options, ours, launch.child_ends);
    if (status == STATUS_OK) {
        status = start_child(&launch, out);
    }
    close_all(launch.child_ends, STANDARD_STREAMS);
    if (status != STATUS_OK) {
        close_all(ours, STANDARD_STREAMS);
        return status;
    }
    out->stdin_fd = ours[0];
    out->stdout_fd = ours[1];
    out->stderr_fd = ours[2];
    return STATUS_OK;
}

void process_signal(const struct process *process, int signal_number)
{
    if (process->pid > 0) {
        (void)kill(-process->pid, signal_number); /* ESRCH: the group is gone, as wanted */
    }
}

bool process_has_ended(struct process *process, int *exit_code)
{
    siginfo_t info = {.si_pid = 0};

    *exit_code = 0;
    if (process->pid <= 0) {
        return true;
    }
    if (waitid(P_PID, (id_t)process->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
        return errno == ECHILD; /* reaped by someone else: ended, its code unknown */
    }
    if (info.si_pid == 0) {
        return false;
    }
    *exit_code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    return true;
}

void process_stop(struct process *process, int grace_ms)
{
    const int64_t deadline_us = clock_now_us() + (int64_t)grace_ms * 1000;
    int exit_code;

    if (process->pid > 0) {
        if (!process_has_ended(process, &exit_code)) {
            process_signal(process, SIGTERM);
        }
        while (!process_has_ended(process, &exit_code) && clock_now_us() < deadline_us) {
            clock_sleep_us(POLL_US);
        }
        process_signal(process, SIGKILL); /* also what the child itself has started */
        while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        process->pid = 0;
    }
    close_if_open(&process->stdin_fd);
    close_if_open(&process->stdout_fd);
    close_if_open(&process->stderr_fd);
}

/* ---- Signals of our own ---- */

static volatile sig_atomic_t first_signal;
static volatile sig_atomic_t is_asked_to_stop;
static volatile sig_atomic_t are_waits_asked;

static void note_question(int number)
{
    (void)number;
    are_waits_asked = 1;
}

static void note_signal(int number)
{
    if (number != SIGUSR1) {
        if (is_asked_to_stop != 0 && number != SIGHUP) { /* kernel and shell both send that one */
            _exit(128 + number);                         /* asked twice: leave now */
        }
        is_asked_to_stop = 1;
    }
    if (first_signal == 0) {
        first_signal = number;
    }
}

void process_ignore_questions(void)
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    (void)sigemptyset(&action.sa_mask);
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGUSR2, &action, NULL);
}

void process_catch_signals(void)
{
    struct sigaction action;
    struct sigaction before;

    memset(&action, 0, sizeof(action));
    (void)sigemptyset(&action.sa_mask);
    (void)sigaddset(&action.sa_mask, SIGHUP);
    (void)sigaddset(&action.sa_mask, SIGTERM);
    (void)sigaddset(&action.sa_mask, SIGINT);
    (void)sigaddset(&action.sa_mask, SIGUSR1);
    action.sa_handler = note_signal; /* without SA_RESTART: waits end early */
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGUSR1, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) {
        (void)sigaction(SIGHUP, &action, NULL); /* else nohup: a terminal that goes is nothing */
    }
    action.sa_handler = note_question;
    (void)sigaction(SIGUSR2, &action, NULL);
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);
}

bool process_waits_asked(void)
{
    const bool is_asked = are_waits_asked != 0;

    are_waits_asked = 0;
    return is_asked;
}

int process_signal_caught(void)
{
    return (int)first_signal;
}
