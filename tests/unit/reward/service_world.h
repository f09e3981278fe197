/* Owns a reward service in a process of its own, and a trainer and a worker that speak to it: what
 * they say, what they hear, and what the database then holds. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_REWARD_SERVICE_WORLD_H
#define HONE_TESTS_UNIT_REWARD_SERVICE_WORLD_H

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "base/socket.h"
#include "db/check.h"
#include "reward/reward.h"
#include "tests/support/support.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_US INT64_C(10000000)

struct world {
    char folder[200], run_dir[240], config_path[240], config_sha[65];
    struct run_config *config;
    pid_t service;
    struct socket_context *context;
    struct socket *trainer, *worker;
    int64_t inc;
};

static inline void load_config(struct world *w, const char *rewards)
{
    char text[1024];
    char *report = NULL;
    const int n = snprintf(text, sizeof(text),
                           "run: {name: toy, output_dir: %s}\n"
                           "grpo: {num_generations: 2, prompts_per_step: 1}\n"
                           "rewards:\n%s",
                           w->folder, rewards);
    const struct config_source source = {.path = w->config_path, .use = CONFIG_ANY};

    assert_ok(file_write_atomic(w->config_path, text, (size_t)n));
    const enum status status = config_load(&source, &w->config, &report);
    if (status != STATUS_OK) {
        fail_msg("%s", report != NULL ? report : status_message());
    }
    memory_free(report);
    assert_ok(config_digest(w->config, w->config_sha));
}

static inline void start_service(struct world *w)
{
    w->service = fork();
    assert_true(w->service >= 0);
    if (w->service == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
        log_setup("reward", LOG_ERROR);
        _exit((int)reward_main(w->config, w->run_dir));
    }
}

/* The service's status, once it has ended. */
static inline enum status end_of_service(struct world *w, int signal_number)
{
    int how = 0;

    if (signal_number != 0) {
        assert_int_equal(kill(w->service, signal_number), 0);
    }
    assert_int_equal(waitpid(w->service, &how, 0), w->service);
    w->service = 0;
    return WIFEXITED(how) ? (enum status)WEXITSTATUS(how) : STATUS_IO;
}

static inline void dial(struct world *w, enum run_endpoint which, struct socket **out)
{
    char *endpoint = NULL;

    assert_ok(run_endpoint(w->run_dir, which, &endpoint));
    assert_ok(socket_dial(w->context, endpoint, out));
    memory_free(endpoint);
}

static inline void world_create(struct world *w, const char *rewards)
{
    *w = (struct world){0};
    support_temp_dir(w->folder, sizeof(w->folder));
    (void)snprintf(w->run_dir, sizeof(w->run_dir), "%s/toy", w->folder);
    (void)snprintf(w->config_path, sizeof(w->config_path), "%s/run.yaml", w->folder);
    load_config(w, rewards);
    assert_ok(folder_create(w->run_dir));
    start_service(w); /* before the context: a fork must not inherit one */
    assert_ok(socket_context_create(&w->context));
    dial(w, ENDPOINT_SCORED, &w->trainer);
    dial(w, ENDPOINT_RESULTS, &w->worker);
}

static inline void world_destroy(struct world *w)
{
    if (w->service > 0) {
        (void)end_of_service(w, SIGKILL);
    }
    socket_close(w->trainer);
    socket_close(w->worker);
    socket_context_destroy(w->context);
    config_destroy(w->config);
    support_temp_dir_remove(w->folder);
}

/* A fork of a process that has a context is the one thing that must not be done: close, fork, dial.
 */
static inline void restart_service(struct world *w)
{
    socket_close(w->trainer);
    socket_close(w->worker);
    socket_context_destroy(w->context);
    start_service(w);
    assert_ok(socket_context_create(&w->context));
    dial(w, ENDPOINT_SCORED, &w->trainer);
    dial(w, ENDPOINT_RESULTS, &w->worker);
}

/* Sends, retrying while nobody listens yet. Takes message. */
static inline void say(struct socket *socket, struct message *message)
{
    const int64_t deadline = clock_now_us() + WAIT_US;
    enum status status = STATUS_TIMEOUT;

    while (status == STATUS_TIMEOUT && clock_now_us() < deadline) {
        status = socket_send(socket, NULL, message);
        if (status == STATUS_TIMEOUT) {
            clock_sleep_us(2000);
        }
    }
    assert_ok(status);
    message_destroy(message);
}

/* The next message of a type; others are dropped. Caller destroys. */
static inline struct message *hear(struct socket *socket, enum message_type type)
{
    const int64_t deadline = clock_now_us() + WAIT_US;

    while (clock_now_us() < deadline) {
        struct wait_item item = {.socket = socket, .fd = -1, .wants_read = true};
        struct message *message = NULL;
        assert_ok(socket_wait(&item, 1, 100));
        assert_ok(socket_receive(socket, NULL, &message));
        if (message == NULL) {
            continue;
        }
        if (message_type_of(message) == type) {
            return message;
        }
        message_destroy(message);
    }
    fail_msg("no %s came", message_type_name(type));
    return NULL;
}

static inline void hear_and_drop(struct socket *socket, enum message_type type)
{
    message_destroy(hear(socket, type));
}

static inline void say_hello(struct world *w, struct socket *socket, const char *role, int64_t pid,
                             const char *sha)
{
    struct message *hello = NULL;
    char host[256] = "";

    assert_int_equal(gethostname(host, sizeof(host) - 1), 0);
    assert_ok(message_create(MESSAGE_HELLO, &hello));
    message_put_text(hello, "role", role);
    message_put_text(hello, "name", role);
    message_put_int(hello, "pid", pid);
    message_put_text(hello, "host", host);
    message_put_text(hello, "run", "toy");
    message_put_text(hello, "build", "test");
    message_put_text(hello, "numerics", "cpu");
    message_put_text(hello, "config_sha", sha != NULL ? sha : w->config_sha);
    say(socket, hello);
}

static inline void greet(struct world *w)
{
    say_hello(w, w->trainer, "trainer", (int64_t)getpid(), NULL);
    struct message *const welcome = hear(w->trainer, MESSAGE_HELLO_OK);
    w->inc = message_int(welcome, "inc", 0);
    message_destroy(welcome);
    say_hello(w, w->worker, "rollout", (int64_t)getpid(), NULL);
    hear_and_drop(w->worker, MESSAGE_HELLO_OK);
}

static inline void announce(struct world *w, int64_t group_id, const char *prompt)
{
    struct message *group = NULL;
    static const int32_t ids[] = {1, 2, 3};

    assert_ok(message_create(MESSAGE_GROUP, &group));
    message_put_int(group, "group_id", group_id);
    message_put_int(group, "step", 1);
    message_put_text(group, "kind", "train");
    message_put_int(group, "n", 2);
    message_put_text(group, "row_sha", "00");
    message_put_array(group, "row", DTYPE_U8, "{\"answer\":\"7\"}", 14);
    message_put_array(group, "prompt_text", DTYPE_U8, prompt, strlen(prompt));
    message_put_array(group, "answer", DTYPE_U8, "\"7\"", 3);
    message_put_array(group, "prompt", DTYPE_I32, ids, 3);
    say(w->trainer, group);
}

static inline struct message *completion(const struct world *w, int64_t group_id, int64_t idx,
                                         const char *text)
{
    struct message *message = NULL;
    const int32_t ids[] = {4, (int32_t)idx};
    static const float logprobs[] = {-0.5F, -1.0F};

    assert_ok(message_create(MESSAGE_COMPLETION, &message));
    message_put_int(message, "group_id", group_id);
    message_put_int(message, "idx", idx);
    message_put_int(message, "attempt", 0);
    message_put_int(message, "inc", w->inc);
    message_put_hex64(message, "seed", 77);
    message_put_int(message, "version_first", 0);
    message_put_int(message, "version_last", 0);
    message_put_text(message, "weight_digest", "00112233445566778899aabbccddeeff");
    message_put_text(message, "finish", "stop");
    message_put_int(message, "gen_us", 10);
    message_put_array(message, "tokens", DTYPE_I32, ids, 2);
    message_put_array(message, "logprobs", DTYPE_F32, logprobs, 2);
    message_put_array(message, "text", DTYPE_U8, text, strlen(text));
    return message;
}

static inline void say_taken(struct world *w, int64_t sample_id)
{
    struct message *taken = NULL;

    assert_ok(message_create(MESSAGE_TAKEN, &taken));
    message_put_int(taken, "sample_id", sample_id);
    message_put_text(taken, "verdict", "ok");
    say(w->trainer, taken);
}

/* Hears SCORED of both samples of group 1, which must be 1 for idx 0 and 0 for idx 1. */
static inline void take_both(struct world *w, uint64_t ids[2], const char *wanted_status)
{
    bool is_here[2] = {false, false};

    while (!is_here[0] || !is_here[1]) {
        struct message *const scored = hear(w->trainer, MESSAGE_SCORED);
        const size_t idx = (size_t)message_int(scored, "idx", 9);
        size_t n = 0;

        assert_true(idx < 2);
        ids[idx] = (uint64_t)message_int(scored, "sample_id", 0);
        is_here[idx] = true;
        assert_string_equal(message_text(scored, "status", ""), wanted_status);
        if (strcmp(wanted_status, "ok") == 0) {
            assert_true(message_number(scored, "reward", -1.0) == (idx == 0 ? 1.0 : 0.0));
        }
        const int32_t *const tokens = message_array(scored, "tokens", &n);
        assert_int_equal(n, 2);
        assert_int_equal(tokens[0], 4);
        assert_non_null(json_get(message_json(scored, "scores"), "exact"));
        say_taken(w, (int64_t)ids[idx]);
        message_destroy(scored);
    }
}

static inline void say_manifest(struct world *w, const uint64_t ids[2], const char *digest)
{
    struct message *manifest = NULL;
    static const float advantages[] = {1.0F, -1.0F};

    assert_ok(message_create(MESSAGE_MANIFEST, &manifest));
    message_put_int(manifest, "step", 1);
    message_put_int(manifest, "inc", w->inc);
    message_put_int(manifest, "version_in", 0);
    message_put_text(manifest, "digest", digest);
    message_put_array(manifest, "sample_ids", DTYPE_U64, ids, 2);
    message_put_array(manifest, "advantages", DTYPE_F32, advantages, 2);
    say(w->trainer, manifest);
}

static inline void say_step(struct world *w, const uint64_t ids[2])
{
    struct message *step = NULL;
    struct json *const metrics = json_object_create();
    static const float stats[10] = {0};

    assert_ok(json_put(metrics, "loss", json_from_number(0.5)));
    assert_ok(json_put(metrics, "reward", json_from_number(0.5)));
    assert_ok(message_create(MESSAGE_STEP, &step));
    message_put_int(step, "step", 1);
    message_put_int(step, "inc", w->inc);
    message_put_text(step, "status", "trained");
    message_put_int(step, "version_out", 1);
    message_put_text(step, "weight_digest", "ffeeddccbbaa99887766554433221100");
    message_put_json(step, "metrics", metrics);
    message_put_array(step, "sample_ids", DTYPE_U64, ids, 2);
    message_put_array(step, "sample_stats", DTYPE_F32, stats, 10);
    say(w->trainer, step);
}

/* What the worker's sampling for step 1 came to: tokens, and as much of everything else. */
static inline void say_sampling(struct world *w, int64_t n)
{
    static const char *const counts[] = {"tokens",         "turns",         "turn_tokens",
                                         "drafts",         "drafts_right",  "preempted",
                                         "resumed_tokens", "prompt_tokens", "prefix_tokens"};
    struct message *message = NULL;

    assert_ok(message_create(MESSAGE_SAMPLING, &message));
    message_put_int(message, "weight_version", 0);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        message_put_int(message, counts[i], n + (int64_t)i);
    }
    message_put_int(message, "memory_bytes", n << 20);
    say(w->worker, message);
}

static inline int64_t read_int(const struct world *w, const char *sql)
{
    char path[300];
    struct db *db = NULL;
    struct query *query = NULL;
    bool has_row = false;

    (void)snprintf(path, sizeof(path), "%s/run.db", w->run_dir);
    assert_ok(db_open_readonly(path, DB_TRUSTED, &db));
    assert_ok(query_open(db, sql, &query));
    assert_ok(query_next(query, &has_row));
    assert_true(has_row);
    const int64_t value = query_int(query, 0);
    query_close(query);
    db_close(db);
    return value;
}

static inline void tell(void *context, const char *invariant, const char *what)
{
    (void)context;
    print_error("violated: %s: %s\n", invariant, what);
}

static inline void assert_sound(const struct world *w)
{
    char path[300];
    struct db *db = NULL;
    size_t n = 1;

    (void)snprintf(path, sizeof(path), "%s/run.db", w->run_dir);
    assert_ok(db_open_readonly(path, DB_TRUSTED, &db));
    assert_ok(db_check(db, tell, NULL, &n));
    assert_int_equal(n, 0);
    db_close(db);
}

static const char exact_reward[] = "  - {name: exact, source: 'builtin:exact'}\n";
static const char digest_a[] = "000102030405060708090a0b0c0d0e0f";
static const char digest_b[] = "ff0102030405060708090a0b0c0d0e0f";

#endif
