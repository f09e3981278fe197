#include "reward/cmd_worker.h"

#include "base/log.h"
#include "base/memory.h"
#include "reward/cmd_messages.h"

#include <stdio.h>
#include <string.h>

#define BACKOFF_FIRST_US INT64_C(100000)
#define BACKOFF_MAX_US INT64_C(5000000)
#define STOP_GRACE_US INT64_C(100000)
#define STOP_POLL_US INT64_C(5000)
#define NEVER_US INT64_MAX
#define REPLY_DEPTH_MAX 32u
#define LAST_WORDS 256u
#define SIGNAL_CODES 128 /* process.h: the code of what a signal ended is beyond this */
#define EXIT_WAIT_MS 100 /* between the end of its output and its own */
/* Behind a deadline by more than this, it is this process that was not let run (stopped, suspended,
 * held by its disk), and perhaps the child with it. */
#define OVERSLEPT_US INT64_C(500000)
/* Samples of a failed call that are tried alone get so many deadlines together: a scorer that hangs
 * on every sample costs a few of them, not one for each sample. */
#define DEADLINES_ALONE 3

static int64_t seconds_us(double seconds)
{
    return (int64_t)(seconds * 1e6);
}

static const char *name_of(const struct cmd_team *team)
{
    return team->reward->name;
}

enum status cmd_worker_init(const struct reward_config *reward, struct cmd_worker *worker)
{
    *worker = (struct cmd_worker){.state = CMD_WORKER_OFF};
    TRY(memory_alloc(reward->batch_max, sizeof(struct cmd_job), &worker->batch));
    return memory_alloc(reward->batch_max, sizeof(struct score_sample *), &worker->samples);
}

void cmd_worker_dispose(struct cmd_worker *worker)
{
    cmd_child_dispose(&worker->child);
    memory_free(worker->batch);
    memory_free(worker->samples);
    *worker = (struct cmd_worker){.state = CMD_WORKER_OFF};
}

enum status cmd_worker_start(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    TRY(cmd_child_start(&worker->child, team->argv, team->env, team->config->folder));
    worker->state = CMD_WORKER_STARTING;
    worker->deadline_us = now_us + seconds_us(team->reward->start_timeout_s);
    return cmd_child_put(&worker->child, team->hello, team->hello_bytes);
}

void cmd_worker_stop(struct cmd_worker *worker, int64_t now_us)
{
    cmd_child_terminate(&worker->child);
    worker->state = CMD_WORKER_STOPPING;
    worker->deadline_us = now_us + STOP_GRACE_US;
    worker->backoff_us = worker->backoff_us == 0 ? BACKOFF_FIRST_US : 2 * worker->backoff_us;
    worker->backoff_us = worker->backoff_us > BACKOFF_MAX_US ? BACKOFF_MAX_US : worker->backoff_us;
    worker->restart_us = now_us + worker->backoff_us;
}

static void report(struct cmd_team *team, const struct cmd_worker *worker,
                   const struct cmd_job *job, struct score score, int64_t now_us)
{
    score.us = now_us - worker->sent_us;
    score.tries = job->tries + 1;
    team->result(team->context, job->ticket, &score);
}

/* Every sample of the call gets the same verdict. */
static void fail_all(struct cmd_team *team, struct cmd_worker *worker, const char *kind,
                     const char *message, int64_t now_us)
{
    for (size_t i = 0; i < worker->n_batch; i++) {
        report(team, worker, &worker->batch[i], cmd_error(SCORE_ERROR, kind, message), now_us);
    }
    worker->n_batch = 0;
}

/* A call that died or ran out of time: its samples are tried one by one, so that only the guilty
 * one is marked. */
static enum status fail_call(struct cmd_team *team, struct cmd_worker *worker,
                             enum score_status verdict, const char *message, int64_t now_us)
{
    const int64_t expires_us = now_us + DEADLINES_ALONE * seconds_us(team->reward->timeout_s);
    const bool is_alone = worker->n_batch == 1;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < worker->n_batch && status == STATUS_OK; i++) {
        struct cmd_job job = worker->batch[i];
        if (is_alone && (verdict == SCORE_TIMEOUT || job.tries >= team->reward->retries)) {
            report(team, worker, &job, cmd_error(verdict, "crash", message), now_us);
            continue;
        }
        job.tries += is_alone ? 1 : 0;
        job.expires_us = job.goes_alone ? job.expires_us : expires_us;
        job.goes_alone = true;
        job.verdict = verdict;
        status = cmd_queue_put(&team->queue, &job);
    }
    worker->n_batch = 0;
    return status;
}

static void answer_scores(struct cmd_team *team, struct cmd_worker *worker,
                          const struct json *scores, int64_t now_us)
{
    if (json_count(scores) != worker->n_batch || !json_is(scores, JSON_ARRAY)) {
        char message[96];
        const int n = snprintf(message, sizeof(message), "%zu scores for %zu samples",
                               json_count(scores), worker->n_batch);
        fail_all(team, worker, "count", n < 0 ? "" : message, now_us);
        return;
    }
    for (size_t i = 0; i < worker->n_batch; i++) {
        struct score score;
        cmd_read_score(json_at(scores, i), &score);
        report(team, worker, &worker->batch[i], score, now_us);
    }
    worker->n_batch = 0;
}

static void on_hello(struct cmd_team *team, struct cmd_worker *worker, const struct json *hello)
{
    const int64_t most = json_int(json_get(hello, "max_batch"), 0);
    if (most > 0 && (size_t)most < team->batch_max) {
        team->batch_max = (size_t)most;
    }
    worker->state = CMD_WORKER_IDLE;
}

static void on_log(const struct cmd_team *team, const struct json *reply)
{
    const char *message = json_text(json_get(reply, "msg"), "");
    char shown[512];
    log_info("scorer", "%s: %s", name_of(team),
             log_escape(message, strlen(message), shown, sizeof(shown)));
}

/* One reply; false when the child does not keep to the protocol. */
static bool on_reply(struct cmd_team *team, struct cmd_worker *worker, const struct json *reply,
                     int64_t now_us)
{
    const char *type = json_text(json_get(reply, "t"), "");
    const int64_t id = json_int(json_get(reply, "id"), -1);
    if (strcmp(type, "log") == 0) {
        on_log(team, reply);
        return true;
    }
    if (worker->state == CMD_WORKER_STARTING) {
        if (strcmp(type, "hello") != 0) {
            return false;
        }
        on_hello(team, worker, reply);
        return true;
    }
    if (strcmp(type, "scores") != 0 || id < 0 || id > team->last_id) {
        return false;
    }
    if (worker->state == CMD_WORKER_BUSY && id == worker->batch_id) { /* else late: it is over */
        answer_scores(team, worker, json_get(reply, "scores"), now_us);
        worker->state = CMD_WORKER_IDLE;
        worker->backoff_us = 0;
    }
    return true;
}

/* Puts "what: last line of stderr" into worker->failure, and into the log. */
static void explain(const struct cmd_team *team, struct cmd_worker *worker, const char *what)
{
    char words[LAST_WORDS];
    cmd_child_last_words(&worker->child, words, sizeof(words));
    const int n = snprintf(worker->failure, sizeof(worker->failure), "%s%s%s", what,
                           words[0] != '\0' ? ": " : "", words);
    log_warn("scorer", "%s: %s", name_of(team), n < 0 ? what : worker->failure);
}

static void reject_line(struct cmd_team *team, struct cmd_worker *worker, const char *line,
                        size_t n, int64_t now_us)
{
    enum { SHOWN_BYTES = 200 };
    char shown[SHOWN_BYTES + 8];
    char what[SHOWN_BYTES + 64];
    const bool is_not_finite =
        memmem(line, n, "NaN", 3) != NULL || memmem(line, n, "Infinity", 8) != NULL;
    const bool is_starting = worker->state == CMD_WORKER_STARTING;
    (void)log_escape(line, n < SHOWN_BYTES ? n : SHOWN_BYTES, shown, sizeof(shown));
    const int m = snprintf(what, sizeof(what), "%s: %s",
                           is_starting ? "its first line is not a hello" : "not a reply", shown);
    explain(team, worker, m < 0 ? "not a reply" : what);
    fail_all(team, worker, is_not_finite ? "nonfinite" : "protocol", worker->failure, now_us);
    cmd_worker_stop(worker, now_us);
}

static enum status read_lines(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    size_t n = 0;
    const char *line = cmd_child_line(&worker->child, &n);
    while (line != NULL) {
        struct json *reply = NULL;
        const enum status status = json_parse(line, n, REPLY_DEPTH_MAX, &reply);
        const bool is_kept = status == STATUS_OK && on_reply(team, worker, reply, now_us);
        json_destroy(reply);
        if (status == STATUS_NO_MEMORY) {
            return status;
        }
        if (!is_kept) {
            reject_line(team, worker, line, n, now_us);
            return STATUS_OK;
        }
        line = cmd_child_line(&worker->child, &n);
    }
    return STATUS_OK;
}

static enum status on_end(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    char what[64];
    const int exit_code = cmd_child_exit_code(&worker->child, EXIT_WAIT_MS);
    int n;

    if (exit_code < 0) {
        n = snprintf(what, sizeof(what), "it closed its stdout");
    } else if (exit_code > SIGNAL_CODES) { /* a shell tells of its children in the same way */
        n = snprintf(what, sizeof(what), "it was killed by signal %d", exit_code - SIGNAL_CODES);
    } else {
        n = snprintf(what, sizeof(what), "it ended with code %d", exit_code);
    }
    explain(team, worker, n < 0 ? "it ended" : what);
    cmd_worker_stop(worker, now_us);
    return fail_call(team, worker, SCORE_ERROR, worker->failure, now_us);
}

static enum status on_deadline(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    const bool is_starting = worker->state == CMD_WORKER_STARTING;
    const double seconds = is_starting ? team->reward->start_timeout_s : team->reward->timeout_s;
    char what[64];
    if (now_us - worker->deadline_us > OVERSLEPT_US) {
        worker->deadline_us = now_us + seconds_us(seconds);
        return STATUS_OK;
    }
    const int n = snprintf(what, sizeof(what), "no %s within %g s",
                           is_starting ? "hello" : "answer", seconds);
    explain(team, worker, n < 0 ? "no answer" : what);
    cmd_worker_stop(worker, now_us);
    return fail_call(team, worker, SCORE_TIMEOUT, worker->failure, now_us);
}

/* What a running child has to say, and whether it still may. */
static enum status listen(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    bool has_ended = false;
    const enum status pumped = cmd_child_pump(&worker->child, name_of(team), &has_ended);
    if (pumped != STATUS_OK) {
        explain(team, worker, status_message());
        fail_all(team, worker, "protocol", worker->failure, now_us);
        cmd_worker_stop(worker, now_us);
        return pumped == STATUS_NO_MEMORY ? pumped : STATUS_OK;
    }
    TRY(read_lines(team, worker, now_us));
    if (worker->state == CMD_WORKER_STOPPING) {
        return STATUS_OK;
    }
    if (has_ended) {
        return on_end(team, worker, now_us);
    }
    const bool is_late = worker->state != CMD_WORKER_IDLE && now_us > worker->deadline_us;
    return is_late ? on_deadline(team, worker, now_us) : STATUS_OK;
}

static enum status send_call(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    const int64_t deadline_ms = (int64_t)(team->reward->timeout_s * 1e3);
    char *line = NULL;
    size_t n = 0;
    worker->n_batch = cmd_queue_take(&team->queue, team->batch_max, worker->batch);
    for (size_t i = 0; i < worker->n_batch; i++) {
        worker->samples[i] = worker->batch[i].sample;
    }
    worker->batch_id = ++team->last_id;
    worker->sent_us = now_us;
    worker->deadline_us = now_us + seconds_us(team->reward->timeout_s);
    worker->state = CMD_WORKER_BUSY;
    TRY(cmd_request(worker->samples, worker->n_batch, worker->batch_id, deadline_ms, &line, &n));
    const enum status status = cmd_child_put(&worker->child, line, n);
    memory_free(line);
    TRY(status);
    cmd_child_flush(&worker->child);
    return STATUS_OK;
}

enum status cmd_worker_tick(struct cmd_team *team, struct cmd_worker *worker, int64_t now_us)
{
    if (worker->state == CMD_WORKER_STOPPING) {
        if (now_us < worker->deadline_us && !cmd_child_is_gone(&worker->child)) {
            return STATUS_OK;
        }
        cmd_child_stop(&worker->child, 0);
        worker->state = CMD_WORKER_OFF;
    }
    if (worker->state == CMD_WORKER_OFF) {
        return team->queue.count > 0 && now_us >= worker->restart_us
                   ? cmd_worker_start(team, worker, now_us)
                   : STATUS_OK;
    }
    TRY(listen(team, worker, now_us));
    return worker->state == CMD_WORKER_IDLE && team->queue.count > 0
               ? send_call(team, worker, now_us)
               : STATUS_OK;
}

int64_t cmd_worker_due_us(const struct cmd_team *team, const struct cmd_worker *worker,
                          int64_t now_us)
{
    switch (worker->state) {
    case CMD_WORKER_OFF:
        return team->queue.count > 0 ? worker->restart_us : NEVER_US;
    case CMD_WORKER_IDLE:
        return team->queue.count > 0 ? now_us : NEVER_US;
    case CMD_WORKER_STOPPING: /* its end is seen by looking */
        return worker->deadline_us < now_us + STOP_POLL_US ? worker->deadline_us
                                                           : now_us + STOP_POLL_US;
    case CMD_WORKER_STARTING:
    case CMD_WORKER_BUSY:
        break;
    }
    return worker->deadline_us + 1000;
}
