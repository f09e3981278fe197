#include "reward/cmd_scorer.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/waits.h"
#include "reward/cmd_messages.h"
#include "reward/cmd_worker.h"
#include "reward/words.h"

#include <string.h>

#define HELLO_WAIT_MS 50

struct cmd_scorer {
    struct cmd_team team;
    struct arena *arena;
    char sha[65];
    struct cmd_worker *workers;
    size_t n_workers;
};

static bool is_up(const struct cmd_scorer *scorer)
{
    for (size_t i = 0; i < scorer->n_workers; i++) {
        const enum cmd_worker_state state = scorer->workers[i].state;
        if (state == CMD_WORKER_IDLE || state == CMD_WORKER_BUSY) {
            return true;
        }
    }
    return false;
}

static void give_up(struct cmd_scorer *scorer, const struct cmd_job *job, struct score score,
                    int64_t now_us)
{
    score.us = now_us - job->submit_us;
    score.tries = job->tries + 1;
    scorer->team.result(scorer->team.context, job->ticket, &score);
}

/* Samples that waited too long: behind calls that keep failing, or for a component that does not
 * come up. */
static void expire_queue(struct cmd_scorer *scorer, int64_t now_us)
{
    const struct reward_config *reward = scorer->team.reward;
    const int64_t most_us = (int64_t)((reward->timeout_s + reward->start_timeout_s) * 1e6);
    struct cmd_job job;
    while (cmd_queue_take_expired(&scorer->team.queue, now_us, &job)) {
        give_up(scorer, &job, cmd_error(job.verdict, "crash", "calls of the scorer keep failing"),
                now_us);
    }
    while (!is_up(scorer) && cmd_queue_take_older(&scorer->team.queue, now_us - most_us, &job)) {
        give_up(scorer, &job, cmd_error(SCORE_TIMEOUT, "crash", "the scorer does not start"),
                now_us);
    }
}

enum status cmd_scorer_tick(struct cmd_scorer *scorer, int64_t now_us)
{
    for (size_t i = 0; i < scorer->n_workers; i++) {
        struct cmd_worker *worker = &scorer->workers[i];
        enum status status = cmd_worker_tick(&scorer->team, worker, now_us);
        if (status == STATUS_IO) {
            log_warn("scorer", "%s: %s", scorer->team.reward->name, status_message());
            cmd_worker_stop(worker, now_us);
            status = STATUS_OK;
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
    const struct cmd_job job = {.sample = sample, .ticket = ticket, .submit_us = clock_now_us()};
    return cmd_queue_put(&scorer->team.queue, &job);
}

size_t cmd_scorer_wait_items(const struct cmd_scorer *scorer, struct wait_item *items, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < scorer->n_workers; i++) {
        const struct cmd_worker *worker = &scorer->workers[i];
        const struct cmd_child *child = &worker->child;
        const bool is_silent =
            worker->state == CMD_WORKER_OFF || worker->state == CMD_WORKER_STOPPING;
        if (is_silent || n + 3 > room) {
            continue;
        }
        items[n++] = (struct wait_item){.fd = child->process.stdout_fd, .wants_read = true};
        if (child->has_stderr) { /* a closed one would end every wait at once */
            items[n++] = (struct wait_item){.fd = child->process.stderr_fd, .wants_read = true};
        }
        if (child->out_done < child->out_bytes) {
            items[n++] = (struct wait_item){.fd = child->process.stdin_fd, .wants_write = true};
        }
    }
    return n;
}

int cmd_scorer_timeout_ms(const struct cmd_scorer *scorer, int64_t now_us, int most)
{
    int64_t due_us = now_us + (int64_t)most * 1000;
    for (size_t i = 0; i < scorer->n_workers; i++) {
        const int64_t worker_us = cmd_worker_due_us(&scorer->team, &scorer->workers[i], now_us);
        due_us = worker_us < due_us ? worker_us : due_us;
    }
    return due_us <= now_us ? 0 : (int)((due_us - now_us + 999) / 1000);
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
        if (path_join(scorer->team.config->folder, scorer->team.argv[i], &path) == STATUS_OK &&
            file_exists(path) && file_read(path, (size_t)64 << 20, &text, &n) == STATUS_OK) {
            const struct digest256 digest = hash_sha256(text, n);
            (void)hash_hex(digest.bytes, sizeof(digest.bytes), scorer->sha);
        }
        memory_free(path);
        memory_free(text);
    }
}

/* What the child may see of our environment. */
static enum status pick_environment(struct cmd_scorer *scorer)
{
    static const char *const always[] = {"PATH", "HOME", "LANG", "TMPDIR"};
    const struct text_list *more = &scorer->team.reward->env;
    const size_t n_always = sizeof(always) / sizeof(always[0]);
    const char **names = NULL;
    TRY(arena_alloc(scorer->arena, n_always + more->count, sizeof(char *), &names));
    for (size_t i = 0; i < n_always; i++) {
        names[i] = always[i];
    }
    for (size_t i = 0; i < more->count; i++) {
        names[n_always + i] = more->items[i];
    }
    return environment_pick(names, n_always + more->count, scorer->arena, &scorer->team.env);
}

static enum status make_workers(struct cmd_scorer *scorer)
{
    const struct reward_config *reward = scorer->team.reward;
    scorer->team.batch_max = reward->batch_max;
    TRY(memory_alloc(reward->workers > 0 ? reward->workers : 1, sizeof(struct cmd_worker),
                     &scorer->workers));
    scorer->n_workers = reward->workers > 0 ? reward->workers : 1;
    for (size_t i = 0; i < scorer->n_workers; i++) {
        const enum status status = cmd_worker_init(reward, &scorer->workers[i]);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status prepare(struct cmd_scorer *scorer)
{
    struct cmd_team *team = &scorer->team;
    size_t n_words = 0;
    TRY(arena_create(4096, &scorer->arena));
    TRY(words_split(team->reward->source + strlen("cmd:"), scorer->arena, &team->argv, &n_words));
    TRY(pick_environment(scorer));
    identify(scorer, n_words);
    TRY(make_workers(scorer));
    return cmd_hello(team->config, team->reward, &team->hello, &team->hello_bytes);
}

/* The first child must say hello before anything else begins. */
static enum status await_hello(struct cmd_scorer *scorer)
{
    struct cmd_worker *worker = &scorer->workers[0];
    TRY(cmd_worker_start(&scorer->team, worker, clock_now_us()));
    while (worker->state == CMD_WORKER_STARTING) {
        struct wait_item items[3];
        const int64_t now_us = clock_now_us();
        const int wait_ms = cmd_scorer_timeout_ms(scorer, now_us, HELLO_WAIT_MS);
        enum status status = socket_wait(items, cmd_scorer_wait_items(scorer, items, 3), wait_ms);
        if (status == STATUS_OK) {
            status = cmd_worker_tick(&scorer->team, worker, clock_now_us());
        }
        if (status != STATUS_OK) {
            return status;
        }
    }
    return worker->state == CMD_WORKER_IDLE ? STATUS_OK
                                            : status_set(STATUS_BAD_CONFIG, "%s", worker->failure);
}

enum status cmd_scorer_create(const struct run_config *config, const struct reward_config *reward,
                              cmd_result *result, void *context, struct cmd_scorer **out)
{
    struct cmd_scorer *scorer = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*scorer), &scorer));
    scorer->team =
        (struct cmd_team){.config = config, .reward = reward, .result = result, .context = context};
    enum status status = prepare(scorer);
    if (status == STATUS_OK) {
        status = await_hello(scorer);
    }
    if (status == STATUS_OK) {
        *out = scorer;
        return STATUS_OK;
    }
    status = status == STATUS_NO_MEMORY
                 ? status
                 : status_set(STATUS_BAD_CONFIG, "reward %s: %s: %s", reward->name, reward->source,
                              status_message());
    cmd_scorer_destroy(scorer);
    return status;
}

void cmd_scorer_destroy(struct cmd_scorer *scorer)
{
    if (scorer == NULL) {
        return;
    }
    for (size_t i = 0; i < scorer->n_workers; i++) {
        cmd_child_terminate(&scorer->workers[i].child); /* all at once, then each is waited for */
    }
    for (size_t i = 0; i < scorer->n_workers; i++) {
        cmd_worker_dispose(&scorer->workers[i]);
    }
    memory_free(scorer->workers);
    cmd_queue_dispose(&scorer->team.queue);
    memory_free(scorer->team.hello);
    arena_destroy(scorer->arena);
    memory_free(scorer);
}

/* What a child was asked for last. */
static void tell_child(const struct cmd_scorer *scorer, size_t index)
{
    const struct cmd_worker *worker = &scorer->workers[index];
    const char *name = scorer->team.reward->name;

    switch (worker->state) {
    case CMD_WORKER_STARTING:
        waits_tell(name, 0, worker->deadline_us, "the hello of process %d",
                   (int)worker->child.process.pid);
        return;
    case CMD_WORKER_BUSY:
        waits_tell(name, worker->sent_us, worker->deadline_us, "scores of %zu samples, process %d",
                   worker->n_batch, (int)worker->child.process.pid);
        return;
    case CMD_WORKER_STOPPING:
        waits_tell(name, 0, worker->deadline_us, "the end of process %d",
                   (int)worker->child.process.pid);
        return;
    case CMD_WORKER_OFF:
    case CMD_WORKER_IDLE:
        return;
    }
}

void cmd_scorer_tell_waits(const struct cmd_scorer *scorer)
{
    const struct cmd_queue *queue = &scorer->team.queue;

    for (size_t i = 0; i < scorer->n_workers; i++) {
        tell_child(scorer, i);
    }
    if (queue->count > 0) {
        waits_tell(scorer->team.reward->name, queue->jobs[0].submit_us, 0,
                   "a process that is free, for %zu samples", queue->count);
    }
}
