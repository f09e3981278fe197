/* Owns child processes: started in a group of their own, dying with their parent, killed as a
 * group. */
#ifndef HONE_BASE_PROCESS_H
#define HONE_BASE_PROCESS_H

#include "base/status.h"

#include <stdbool.h>
#include <sys/types.h>

struct process_options {
    const char *const *argv; /* argv[0] is looked up in PATH */
    const char *const *env;  /* NULL: inherit */
    const char *cwd;         /* NULL: inherit */
    bool wants_pipes;  /* stdin, stdout and stderr as pipes to us (non-blocking on our side) */
    int oom_score_adj; /* 0: leave */
};
struct process {
    pid_t pid;                          /* also its process group */
    int stdin_fd, stdout_fd, stderr_fd; /* -1 without pipes */
};
/* Starts a child in its own process group with PR_SET_PDEATHSIG SIGKILL, default signal mask and
 * dispositions (but SIGUSR2 is ignored), no core file, and no inherited descriptor but 0, 1, 2.
 * Errors: IO when it cannot be started (message: argv[0] and why). The kernel ties PR_SET_PDEATHSIG
 * to the *thread* that calls this: call it from one that lives as long as the process, or the child
 * is killed with the thread.
 */
MUST_CHECK enum status process_start(const struct process_options *options, struct process *out);
/* SIGTERM, SIGKILL or SIGUSR2 to the whole group. */
void process_signal(const struct process *process, int signal_number);
/* true when it has ended; *exit_code is its code, or 128 + signal. Never blocks. The child is not
 * reaped, so that its pid and group cannot become someone else's: process_stop does that, and must
 * be called for a child that ended by itself too. Repeated calls tell the same. */
bool process_has_ended(struct process *process, int *exit_code);
/* SIGTERM, up to grace_ms, then SIGKILL to the group (whatever is left of it); reaps; closes the
 * pipes. A second call does nothing. */
void process_stop(struct process *process, int grace_ms);

/* First thing in a program: SIGUSR2 is ignored until process_catch_signals, so that a question that
 * comes early ends nothing. */
void process_ignore_questions(void);
/* Turns SIGTERM, SIGINT, SIGUSR1 and SIGHUP (unless it was ignored, as below nohup) into a flag for
 * the main loop (and a second SIGTERM/SIGINT into immediate exit 128+n), SIGUSR2 into a question
 * (base/waits.h); SIGPIPE is ignored. */
void process_catch_signals(void);
/* 0, or the first signal caught. */
int process_signal_caught(void);
/* true once after a SIGUSR2. */
bool process_waits_asked(void);

#endif
