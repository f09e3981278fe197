#include "reward/cmd_scorer.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "reward/cmd_child.h"
#include "reward/cmd_messages.h"
#include "reward/words.h"

#include <stdio.h>
#include <string.h>

#define BACKOFF_FIRST_US INT64_C(100000)
#define BACKOFF_MAX_US INT64_C(5000000)
#define REPLY_DEPTH_MAX 32u
#define LAST_WORDS 256u

struct job {
    const struct score_sample *sample;
    size_t ticket;
    unsigned tries;  /* failed calls so far */
    bool goes_alone; /* a batch with it failed: find the guilty one */
    int64_t submit_us;
};

enum worker_state { WORKER_OFF, WORKER_STARTING, WORKER_IDLE, WORKER_BUSY };

struct worker {
    struct cmd_child child;
    enum worker_state state;
    int64_t deadline_us; /* of the start or the call */
    int64_t restart_us;  /* not before */
    int64_t backoff_us;
    struct job *batch; /* (batch_max) */
    size_t n_batch;
    int64_t batch_id, sent_us;
};

struct cmd_scorer {
    const struct run_config *config;
    const struct reward_config *reward;
    struct arena *arena;
    const char **argv, **env;
    char *hello; /* line */
    size_t hello_bytes;
    char sha[65];
    cmd_result *result;
    void *context;
    struct worker *workers;
    size_t n_workers;
    struct job *queue;
    size_t n_queue, queue_room;
    int64_t next_id;
};

static int64_t seconds_us(double seconds)
{
    return (int64_t)(seconds * 1e6);
}

static const char *name_of(const struct cmd_scorer *scorer)
{
    return scorer->reward->name;
}

static enum status start(struct cmd_scorer *scorer, struct worker *worker, int64_t now_us)
{
    TRY(cmd_child_start(&worker->child, scorer->argv, scorer->env, scorer->config->folder));
    worker->state = WORKER_STARTING;
    worker->deadline_us = now_us + seconds_us(scorer->reward->start_timeout_s);
    return cmd_child_put(&worker->child, scorer->hello, scorer->hello_bytes);
}

static void stop(struct worker *worker, int64_t now_us)
{
    cmd_child_stop(&worker->child);
    worker->state = WORKER_OFF;
    worker->backoff_us = worker->backoff_us == 0 ? BACKOFF_FIRST_US : 2 * worker->backoff_us;
    worker->backoff_us = worker->backoff_us > BACKOFF_MAX_US ? BACKOFF_MAX_US : worker->backoff_us;
    worker->restart_us = now_us + worker->backoff_us;
}

static void report(struct cmd_scorer *scorer, const struct job *job, struct score score, int64_t us)
{
    score.us = us;
    score.tries = job->tries + 1;
    scorer->result(scorer->context, job->ticket, &score);
}

static enum status requeue(struct cmd_scorer *scorer, const struct job *job)
{
    if (scorer->n_queue == scorer->queue_room) {
        const size_t room = 2 * scorer->queue_room + 64;
        TRY(memory_resize(scorer->n_queue * sizeof(*job), room, sizeof(*job), &scorer->queue));
        scorer->queue_room = room;
    }
    scorer->queue[scorer->n_queue++] = *job;
    return STATUS_OK;
}

/* Every sample of the call gets the same verdict. */
static void fail_all(struct cmd_scorer *scorer, struct worker *worker, const char *kind,
                     const char *message, int64_t now_us)
{
    for (size_t i = 0; i < worker->n_batch; i++) {
        report(scorer, &worker->batch[i], cmd_error(SCORE_ERROR, kind, message),
               now_us - worker->sent_us);
    }
    worker->n_batch = 0;
}

/* A call that died or ran out of time: its samples are tried one by one, so that only the guilty
 * one is marked. */
static enum status fail_call(struct cmd_scorer *scorer, struct worker *worker,
                             enum score_status verdict, const char *message, int64_t now_us)
{
    const bool is_single = worker->n_batch == 1;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < worker->n_batch && status == STATUS_OK; i++) {
        struct job job = worker->batch[i];
        const bool is_final =
            is_single && (verdict == SCORE_TIMEOUT || job.tries >= scorer->reward->retries);
        if (is_final) {
            report(scorer, &job, cmd_error(verdict, "crash", message), now_us - worker->sent_us);
            continue;
        }
        job.tries += is_single ? 1 : 0;
        job.goes_alone = true;
        status = requeue(scorer, &job);
    }
    worker->n_batch = 0;
    return status;
}

static void answer_scores(struct cmd_scorer *scorer, struct worker *worker,
                          const struct json *scores, int64_t now_us)
{
    if (json_count(scores) != worker->n_batch || !json_is(scores, JSON_ARRAY)) {
        char message[96];
        const int n = snprintf(message, sizeof(message), "%zu scores for %zu samples",
                               json_count(scores), worker->n_batch);
        fail_all(scorer, worker, "count", n < 0 ? "" : message, now_us);
        return;
    }
    for (size_t i = 0; i < worker->n_batch; i++) {
        struct score score;
        cmd_read_score(json_at(scores, i), &score);
        report(scorer, &worker->batch[i], score, now_us - worker->sent_us);
    }
    worker->n_batch = 0;
}

/* One reply; false when the child does not keep to the protocol. */
static bool on_reply(struct cmd_scorer *scorer, struct worker *worker, const struct json *reply,
                     int64_t now_us)
{
    const char *type = json_text(json_get(reply, "t"), "");
    if (strcmp(type, "log") == 0) {
        const char *message = json_text(json_get(reply, "msg"), "");
        char shown[512];
        log_info("scorer", "%s: %s", name_of(scorer),
                 log_escape(message, strlen(message), shown, sizeof(shown)));
        return true;
    }
    if (strcmp(type, "hello") == 0 && worker->state == WORKER_STARTING) {
        worker->state = WORKER_IDLE;
        return true;
    }
    if (strcmp(type, "scores") != 0 || worker->state != WORKER_BUSY) {
        return false;
    }
    if (json_int(json_get(reply, "id"), -1) != worker->batch_id) {
        return true; /* late: its call is over */
    }
    answer_scores(scorer, worker, json_get(reply, "scores"), now_us);
    worker->state = WORKER_IDLE;
    worker->backoff_us = 0;
    return true;
}

static void reject_line(struct cmd_scorer *scorer, struct worker *worker, const char *line,
                        size_t n, int64_t now_us)
{
    enum { SHOWN_BYTES = 200 };
    char shown[SHOWN_BYTES * 4 + 8];
    const bool is_not_finite =
        memmem(line, n, "NaN", 3) != NULL || memmem(line, n, "Infinity", 8) != NULL;
    (void)log_escape(line, n < SHOWN_BYTES ? n : SHOWN_BYTES, shown, sizeof(shown));
    log_warn("scorer", "%s: not a reply: %s", name_of(scorer), shown);
    fail_all(scorer, worker, is_not_finite ? "nonfinite" : "protocol", shown, now_us);
    stop(worker, now_us);
}

static void read_lines(struct cmd_scorer *scorer, struct worker *worker, int64_t now_us)
{
    size_t n = 0;
    size_t taken = 0;
    char *line = cmd_child_line(&worker->child, &n, &taken);
    while (line != NULL) {
        struct json *reply = NULL;
        const bool is_kept = json_parse(line, n, REPLY_DEPTH_MAX, &reply) == STATUS_OK &&
                             on_reply(scorer, worker, reply, now_us);
        json_destroy(reply);
        if (!is_kept) {
            reject_line(scorer, worker, line, n, now_us);
            return;
        }
        cmd_child_take(&worker->child, taken);
        line = cmd_child_line(&worker->child, &n, &taken);
    }
}

static enum status on_end(struct cmd_scorer *scorer, struct worker *worker, int64_t now_us)
{
    char words[LAST_WORDS];
    char message[LAST_WORDS + 64];
    cmd_child_last_words(&worker->child, words, sizeof(words));
    const int n = snprintf(message, sizeof(message), "the scorer ended: %s", words);
    log_warn("scorer", "%s: %s", name_of(scorer), n < 0 ? "ended" : message);
    stop(worker, now_us);
    return fail_call(scorer, worker, SCORE_ERROR, n < 0 ? "" : message, now_us);
}

static enum status advance(struct cmd_scorer *scorer, struct worker *worker, int64_t now_us)
{
    bool has_ended = false;
    if (worker->state == WORKER_OFF) {
        return scorer->n_queue > 0 && now_us >= worker->restart_us ? start(scorer, worker, now_us)
                                                                   : STATUS_OK;
    }
    const enum status pumped = cmd_child_pump(&worker->child, name_of(scorer), &has_ended);
    if (pumped != STATUS_OK) {
        fail_all(scorer, worker, "protocol", status_message(), now_us);
        stop(worker, now_us);
        return pumped == STATUS_NO_MEMORY ? pumped : STATUS_OK;
    }
    read_lines(scorer, worker, now_us);
    if (worker->state == WORKER_OFF) {
        return STATUS_OK;
    }
    if (has_ended) {
        return on_end(scorer, worker, now_us);
    }
    if (worker->state != WORKER_IDLE && now_us > worker->deadline_us) {
        log_warn("scorer", "%s: no answer before the deadline, %zu samples; the child is killed",
                 name_of(scorer), worker->n_batch);
        stop(worker, now_us);
        return fail_call(scorer, worker, SCORE_TIMEOUT, "no answer before the deadline", now_us);
    }
    return STATUS_OK;
}

static void take_batch(struct cmd_scorer *scorer, struct worker *worker)
{
    const size_t most = scorer->queue[0].goes_alone ? 1 : scorer->reward->batch_max;
    size_t n = 0;
    while (n < scorer->n_queue && n < most && (n == 0 || !scorer->queue[n].goes_alone)) {
        worker->batch[n] = scorer->queue[n];
        n++;
    }
    worker->n_batch = n;
    scorer->n_queue -= n;
    memmove(scorer->queue, scorer->queue + n, scorer->n_queue * sizeof(*scorer->queue));
}

static enum status send_batch(struct cmd_scorer *scorer, struct worker *worker, int64_t now_us)
{
    const struct score_sample **samples = NULL;
    char *line = NULL;
    size_t n = 0;
    bool has_ended = false;
    take_batch(scorer, worker);
    TRY(memory_alloc(worker->n_batch, sizeof(*samples), &samples));
    for (size_t i = 0; i < worker->n_batch; i++) {
        samples[i] = worker->batch[i].sample;
    }
    worker->batch_id = ++scorer->next_id;
    worker->sent_us = now_us;
    worker->deadline_us = now_us + seconds_us(scorer->reward->timeout_s);
    worker->state = WORKER_BUSY;
    enum status status = cmd_request(samples, worker->n_batch, worker->batch_id,
                                     (int64_t)(scorer->reward->timeout_s * 1e3), &line, &n);
    if (status == STATUS_OK) {
        status = cmd_child_put(&worker->child, line, n);
    }
    if (status == STATUS_OK) {
        status = cmd_child_pump(&worker->child, name_of(scorer), &has_ended);
    }
    memory_free(line);
    memory_free(samples);
    return status;
}

/* A sample that waited longer than a start and a call may take: its component does not come up. */
static void expire_queue(struct cmd_scorer *scorer, int64_t now_us)
{
    const int64_t most =
        seconds_us(scorer->reward->timeout_s) + seconds_us(scorer->reward->start_timeout_s);
    for (size_t i = 0; i < scorer->n_workers; i++) {
        if (scorer->workers[i].state == WORKER_IDLE || scorer->workers[i].state == WORKER_BUSY) {
            return;
        }
    }
    while (scorer->n_queue > 0 && now_us - scorer->queue[0].submit_us > most) {
        const struct job job = scorer->queue[0];
        scorer->n_queue--;
        memmove(scorer->queue, scorer->queue + 1, scorer->n_queue * sizeof(job));
        report(scorer, &job, cmd_error(SCORE_TIMEOUT, "crash", "the scorer does not start"),
               now_us - job.submit_us);
    }
}

enum status cmd_scorer_tick(struct cmd_scorer *scorer, int64_t now_us)
{
    for (size_t i = 0; i < scorer->n_workers; i++) {
        struct worker *worker = &scorer->workers[i];
        enum status status = advance(scorer, worker, now_us);
        if (status == STATUS_IO) {
            log_warn("scorer", "%s: %s", name_of(scorer), status_message());
            stop(worker, now_us);
            status = STATUS_OK;
        }
        if (status == STATUS_OK && worker->state == WORKER_IDLE && scorer->n_queue > 0) {
            status = send_batch(scorer, worker, now_us);
        }
        if (status != STATUS_OK) {
            return status;
        }
    }
    expire_queue(scorer, now_us);
    return STATUS_OK;
}

enum status cmd_scorer_submit(struct cmd_scorer *scorer, const struct score_sample *sample,
                              size_t ticket)
{
    const struct job job = {.sample = sample, .ticket = ticket, .submit_us = clock_now_us()};
    return requeue(scorer, &job);
}

size_t cmd_scorer_wait_items(const struct cmd_scorer *scorer, struct wait_item *items, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < scorer->n_workers; i++) {
        const struct cmd_child *child = &scorer->workers[i].child;
        if (scorer->workers[i].state == WORKER_OFF || n + 3 > room) {
            continue;
        }
        items[n++] = (struct wait_item){.fd = child->process.stdout_fd, .wants_read = true};
        items[n++] = (struct wait_item){.fd = child->process.stderr_fd, .wants_read = true};
        if (child->out_done < child->out_bytes) {
            items[n++] = (struct wait_item){.fd = child->process.stdin_fd, .wants_write = true};
        }
    }
    return n;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int cmd_scorer_timeout_ms(const struct cmd_scorer *scorer, int64_t now_us, int most)
{
    int64_t due = now_us + (int64_t)most * 1000;
    for (size_t i = 0; i < scorer->n_workers; i++) {
        const struct worker *worker = &scorer->workers[i];
        if (worker->state == WORKER_OFF && scorer->n_queue > 0) {
            due = earlier(due, worker->restart_us);
        } else if (worker->state == WORKER_IDLE && scorer->n_queue > 0) {
            due = now_us;
        } else if (worker->state == WORKER_STARTING || worker->state == WORKER_BUSY) {
            due = earlier(due, worker->deadline_us + 1000);
        }
    }
    return due <= now_us ? 0 : (int)((due - now_us + 999) / 1000);
}

const char *cmd_scorer_sha(const struct cmd_scorer *scorer)
{
    return scorer->sha;
}

/* The scorer's identity: its first argument that is a file of the configuration's folder. */
static void identify(struct cmd_scorer *scorer, size_t n_words)
{
    for (size_t i = 0; i < n_words && scorer->sha[0] == '\0'; i++) {
        char *path = NULL;
        char *text = NULL;
        size_t n = 0;
        if (path_join(scorer->config->folder, scorer->argv[i], &path) == STATUS_OK &&
            file_exists(path) && file_read(path, (size_t)64 << 20, &text, &n) == STATUS_OK) {
            const struct digest256 digest = hash_sha256(text, n);
            (void)hash_hex(digest.bytes, sizeof(digest.bytes), scorer->sha);
        }
        memory_free(path);
        memory_free(text);
    }
}

static enum status prepare(struct cmd_scorer *scorer)
{
    static const char *const always[] = {"PATH", "HOME", "LANG", "TMPDIR"};
    const struct text_list *more = &scorer->reward->env;
    const size_t n_always = sizeof(always) / sizeof(always[0]);
    const char **names = NULL;
    size_t n_words = 0;
    TRY(arena_create(4096, &scorer->arena));
    TRY(words_split(scorer->reward->source + strlen("cmd:"), scorer->arena, &scorer->argv,
                    &n_words));
    TRY(arena_alloc(scorer->arena, n_always + more->count, sizeof(char *), &names));
    for (size_t i = 0; i < n_always; i++) {
        names[i] = always[i];
    }
    for (size_t i = 0; i < more->count; i++) {
        names[n_always + i] = more->items[i];
    }
    TRY(environment_pick(names, n_always + more->count, scorer->arena, &scorer->env));
    identify(scorer, n_words);
    scorer->n_workers = scorer->reward->workers > 0 ? scorer->reward->workers : 1;
    TRY(memory_alloc(scorer->n_workers, sizeof(struct worker), &scorer->workers));
    for (size_t i = 0; i < scorer->n_workers; i++) {
        TRY(memory_alloc(scorer->reward->batch_max, sizeof(struct job), &scorer->workers[i].batch));
    }
    return cmd_hello(scorer->config, scorer->reward, &scorer->hello, &scorer->hello_bytes);
}

/* The first child must say hello before anything else begins. */
static enum status await_hello(struct cmd_scorer *scorer)
{
    struct worker *worker = &scorer->workers[0];
    TRY(start(scorer, worker, clock_now_us()));
    while (worker->state == WORKER_STARTING) {
        struct wait_item items[3];
        bool has_ended = false;
        const size_t n = cmd_scorer_wait_items(scorer, items, 3);
        enum status status = socket_wait(items, n, 50);
        if (status == STATUS_OK) {
            status = cmd_child_pump(&worker->child, name_of(scorer), &has_ended);
        }
        if (status != STATUS_OK) {
            return status;
        }
        read_lines(scorer, worker, clock_now_us());
        if (worker->state != WORKER_STARTING) {
            break;
        }
        if (has_ended) {
            return status_set(STATUS_BAD_CONFIG, "it ended before saying hello");
        }
        if (clock_now_us() > worker->deadline_us) {
            return status_set(STATUS_BAD_CONFIG, "no hello within %.0f s",
                              scorer->reward->start_timeout_s);
        }
    }
    return worker->state == WORKER_IDLE
               ? STATUS_OK
               : status_set(STATUS_BAD_CONFIG, "its first line is not a hello");
}

enum status cmd_scorer_create(const struct run_config *config, const struct reward_config *reward,
                              cmd_result *result, void *context, struct cmd_scorer **out)
{
    struct cmd_scorer *scorer = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*scorer), &scorer));
    scorer->config = config;
    scorer->reward = reward;
    scorer->result = result;
    scorer->context = context;
    enum status status = prepare(scorer);
    if (status == STATUS_OK) {
        status = await_hello(scorer);
    }
    if (status == STATUS_OK) {
        *out = scorer;
        return STATUS_OK;
    }
    char words[LAST_WORDS] = "";
    if (scorer->workers != NULL) {
        cmd_child_last_words(&scorer->workers[0].child, words, sizeof(words));
    }
    status = status == STATUS_NO_MEMORY ? status
                                        : status_set(STATUS_BAD_CONFIG, "reward %s: %s: %s%s%s",
                                                     reward->name, reward->source, status_message(),
                                                     words[0] != '\0' ? ": " : "", words);
    cmd_scorer_destroy(scorer);
    return status;
}

void cmd_scorer_destroy(struct cmd_scorer *scorer)
{
    if (scorer == NULL) {
        return;
    }
    for (size_t i = 0; scorer->workers != NULL && i < scorer->n_workers; i++) {
        cmd_child_dispose(&scorer->workers[i].child);
        memory_free(scorer->workers[i].batch);
    }
    memory_free(scorer->workers);
    memory_free(scorer->queue);
    memory_free(scorer->hello);
    arena_destroy(scorer->arena);
    memory_free(scorer);
}
