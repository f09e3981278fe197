/* Owns the stage of the worker's tests: a whole worker in a thread, against a trainer and a reward
 * service played by the test. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_ROLLOUT_WORKER_STAGE_H
#define HONE_TESTS_UNIT_ROLLOUT_WORKER_STAGE_H

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "base/socket.h"
#include "model/demo_tokenizer.h"
#include "model/weights.h"
#include "rollout/rollout.h"
#include "tests/support/support.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define PATH_ROOM 512
#define WAIT_MS 5000
#define N_SAMPLES 2
#define N_VERSIONS 3  /* version v has the weights v % N_VERSIONS */
#define MAX_TOKENS 96 /* that a sample may have */

struct stage {
    char folder[PATH_ROOM];
    struct run_config *config;
    struct weight_table *table;
    float *weights[N_VERSIONS];
    struct socket_context *context;
    struct socket *work, *weights_socket, *results;
    struct peer_id worker_at_work, worker_at_results;
    pthread_t thread;
    int64_t inc;        /* of the trainer */
    int64_t max_tokens; /* of the work that is sent */
    enum status worker_status;
    char worker_message[PATH_ROOM];
};

static inline void *run_worker(void *context)
{
    struct stage *stage = context;

    stage->worker_status = rollout_main(stage->config, stage->folder, "w0");
    (void)snprintf(stage->worker_message, sizeof(stage->worker_message), "%s", status_message());
    return NULL;
}

static inline void write_model(struct stage *stage)
{
    struct model_config model;

    assert_ok(model_config_preset("tiny", &model));
    model.vocab_size = DEMO_VOCAB_SIZE;
    model.eos_ids[0] = 1;
    model.n_eos_ids = 1;
    assert_ok(weight_table_create(&model, &stage->table));
    for (size_t i = 0; i < N_VERSIONS; i++) {
        assert_ok(memory_alloc(stage->table->n_floats, sizeof(float), &stage->weights[i]));
        weights_init(&model, stage->table, i, stage->weights[i]);
    }
    assert_ok(model_config_save(&model, stage->folder));
    assert_ok(weights_save(stage->folder, &model, stage->table, stage->weights[0]));
    assert_ok(demo_tokenizer_write(stage->folder));
}

static inline void load_config(struct stage *stage)
{
    char model[PATH_ROOM + 16];
    const char *const sets[] = {model,
                                "run.name=test",
                                "data.max_prompt_length=8",
                                "rollout.max_completion_length=96",
                                "rollout.threads=1",
                                "grpo.num_generations=2",
                                "grpo.prompts_per_step=2"};
    const struct config_source source = {
        .sets = sets, .n_sets = sizeof(sets) / sizeof(sets[0]), .use = CONFIG_ANY};
    char *report = NULL;

    (void)snprintf(model, sizeof(model), "model.path=%s", stage->folder);
    assert_ok(config_load(&source, &stage->config, &report));
}

static inline void listen_at(struct stage *stage, enum run_endpoint which, struct socket **out)
{
    char *endpoint = NULL;

    assert_ok(run_endpoint(stage->folder, which, &endpoint));
    assert_ok(socket_listen(stage->context, endpoint, out));
    memory_free(endpoint);
}

static inline int setup(void **state)
{
    static struct stage stage;

    memset(&stage, 0, sizeof(stage));
    stage.inc = 7;
    stage.max_tokens = 6;
    log_setup("test", LOG_ERROR);
    support_temp_dir(stage.folder, sizeof(stage.folder));
    write_model(&stage);
    load_config(&stage);
    assert_ok(socket_context_create(&stage.context));
    listen_at(&stage, ENDPOINT_WORK, &stage.work);
    listen_at(&stage, ENDPOINT_WEIGHTS, &stage.weights_socket);
    listen_at(&stage, ENDPOINT_RESULTS, &stage.results);
    assert_int_equal(pthread_create(&stage.thread, NULL, run_worker, &stage), 0);
    *state = &stage;
    return 0;
}

static inline int teardown(void **state)
{
    struct stage *stage = *state;

    socket_close(stage->work);
    socket_close(stage->weights_socket);
    socket_close(stage->results);
    socket_context_destroy(stage->context);
    config_destroy(stage->config);
    for (size_t i = 0; i < N_VERSIONS; i++) {
        memory_free(stage->weights[i]);
    }
    weight_table_destroy(stage->table);
    support_temp_dir_remove(stage->folder);
    return 0;
}

/* The next message of a type; others (PING, repeated HELLO) are skipped. */
static inline struct message *expect(struct socket *socket, enum message_type type,
                                     struct peer_id *peer)
{
    const int64_t deadline_us = clock_now_us() + WAIT_MS * INT64_C(1000);

    while (clock_now_us() < deadline_us) {
        struct wait_item item = {.socket = socket, .wants_read = true};
        struct message *message = NULL;

        assert_ok(socket_wait(&item, 1, 100));
        assert_ok(socket_receive(socket, peer, &message));
        if (message != NULL && message_type_of(message) == type) {
            return message;
        }
        message_destroy(message);
    }
    fail_msg("no %s came", message_type_name(type));
    return NULL;
}

static inline void send_and_destroy(struct socket *socket, const struct peer_id *peer,
                                    struct message *message)
{
    assert_ok(socket_send(socket, peer, message));
    message_destroy(message);
}

static inline struct message *make(enum message_type type)
{
    struct message *message = NULL;

    assert_ok(message_create(type, &message));
    return message;
}

static inline void welcome(struct socket *socket, struct peer_id *peer, int64_t inc)
{
    message_destroy(expect(socket, MESSAGE_HELLO, peer));
    struct message *answer = make(MESSAGE_HELLO_OK);

    message_put_int(answer, "inc", inc);
    send_and_destroy(socket, peer, answer);
}

static inline void expect_ready(struct stage *stage, int64_t credit)
{
    struct message *ready = expect(stage->work, MESSAGE_READY, NULL);

    assert_int_equal(message_int(ready, "credit", -1), credit);
    message_destroy(ready);
}

static inline const char *digest_text(const struct stage *stage, size_t version, char *out)
{
    const struct digest128 root =
        weights_digest(stage->weights[version % N_VERSIONS], stage->table->n_floats);

    return hash_hex(root.bytes, sizeof(root.bytes), out);
}

static inline void send_work(struct stage *stage, int64_t group, int64_t attempt, size_t version)
{
    static const int32_t samples[N_SAMPLES] = {0, 1};
    static const int32_t prompt[] = {0, 3, 4, 13};
    char digest[DIGEST128_TEXT];
    struct message *work = make(MESSAGE_WORK);

    message_put_int(work, "group_id", group);
    message_put_int(work, "attempt", attempt);
    message_put_int(work, "inc", stage->inc);
    message_put_hex64(work, "seed", 99);
    message_put_int(work, "weight_version", (int64_t)version);
    message_put_text(work, "weight_digest", digest_text(stage, version, digest));
    message_put_int(work, "max_tokens", stage->max_tokens);
    message_put_number(work, "temperature", 1.0);
    message_put_int(work, "top_k", 0);
    message_put_number(work, "top_p", 1.0);
    message_put_number(work, "min_p", 0.0);
    message_put_int(work, "deadline_ms", 10000);
    message_put_array(work, "idx", DTYPE_I32, samples, N_SAMPLES);
    message_put_array(work, "prompt", DTYPE_I32, prompt, 4);
    send_and_destroy(stage->work, &stage->worker_at_work, work);
}

static inline struct message *make_info(const struct stage *stage, size_t version)
{
    const size_t n_chunks = weights_chunks(stage->table->n_floats);
    struct digest128 digests[64];
    char digest[DIGEST128_TEXT];
    struct message *info = make(MESSAGE_W_INFO);

    assert_true(n_chunks <= 64);
    for (size_t i = 0; i < n_chunks; i++) {
        digests[i] =
            weights_chunk_digest(stage->weights[version % N_VERSIONS], stage->table->n_floats, i);
    }
    message_put_int(info, "version", (int64_t)version);
    message_put_int(info, "bytes", (int64_t)(stage->table->n_floats * sizeof(float)));
    message_put_int(info, "chunk_bytes", (int64_t)WEIGHTS_CHUNK_BYTES);
    message_put_text(info, "root", digest_text(stage, version, digest));
    message_put_array(info, "digests", DTYPE_U8, digests, n_chunks * sizeof(digests[0]));
    return info;
}

static inline void send_chunk(struct stage *stage, const struct peer_id *peer, size_t version,
                              size_t index)
{
    const size_t n_bytes = stage->table->n_floats * sizeof(float);
    const size_t offset = index * WEIGHTS_CHUNK_BYTES;
    const size_t n =
        n_bytes - offset < WEIGHTS_CHUNK_BYTES ? n_bytes - offset : WEIGHTS_CHUNK_BYTES;
    struct message *chunk = make(MESSAGE_W_CHUNK);

    message_put_int(chunk, "version", (int64_t)version);
    message_put_int(chunk, "index", (int64_t)index);
    message_put_array(chunk, "data", DTYPE_U8,
                      (const char *)stage->weights[version % N_VERSIONS] + offset, n);
    send_and_destroy(stage->weights_socket, peer, chunk);
}

static inline void serve_weights(struct stage *stage, size_t version)
{
    const size_t n_chunks = weights_chunks(stage->table->n_floats);
    struct peer_id peer;
    size_t n_sent = 0;

    while (n_sent < n_chunks) {
        struct message *get = expect(stage->weights_socket, MESSAGE_W_GET, &peer);
        const int64_t first = message_int(get, "first", 0);

        assert_int_equal(message_int(get, "version", -1), version);
        if (first < 0) {
            send_and_destroy(stage->weights_socket, &peer, make_info(stage, version));
        }
        for (int64_t i = 0; first >= 0 && i < message_int(get, "count", 0); i++) {
            send_chunk(stage, &peer, version, (size_t)(first + i));
            n_sent++;
        }
        message_destroy(get);
    }
}

struct result {
    int64_t group, attempt;
    size_t version, n_tokens;
    int32_t tokens[MAX_TOKENS];
    float logprobs[MAX_TOKENS];
    bool is_here;
};

static inline void check_completion(const struct stage *stage, const struct message *message,
                                    const struct result *want)
{
    char digest[DIGEST128_TEXT];
    size_t n_text = 0;

    assert_int_equal(message_int(message, "group_id", -1), want->group);
    assert_int_equal(message_int(message, "attempt", -1), want->attempt);
    assert_int_equal(message_int(message, "inc", -1), stage->inc);
    assert_int_equal(message_int(message, "version_first", -1), want->version);
    assert_int_equal(message_hex64(message, "seed"), 99);
    assert_string_equal(message_text(message, "weight_digest", ""),
                        digest_text(stage, want->version, digest));
    assert_non_null(message_array(message, "text", &n_text));
}

/* Takes and acknowledges both samples of a group. */
static inline void collect(struct stage *stage, struct result want,
                           struct result results[N_SAMPLES])
{
    memset(results, 0, N_SAMPLES * sizeof(results[0]));
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct message *message =
            expect(stage->results, MESSAGE_COMPLETION, &stage->worker_at_results);
        const int64_t idx = message_int(message, "idx", -1);
        struct message *ack = make(MESSAGE_ACK);
        size_t n = 0;

        check_completion(stage, message, &want);
        assert_in_range(idx, 0, N_SAMPLES - 1);
        assert_false(results[idx].is_here);
        results[idx] = want;
        results[idx].is_here = true;
        const int32_t *tokens = message_array(message, "tokens", &n);
        const float *logprobs = message_array(message, "logprobs", &results[idx].n_tokens);
        assert_int_equal(n, results[idx].n_tokens);
        memcpy(results[idx].tokens, tokens, n * sizeof(int32_t));
        memcpy(results[idx].logprobs, logprobs, n * sizeof(float));
        message_put_int(ack, "group_id", want.group);
        message_put_int(ack, "idx", idx);
        message_put_int(ack, "attempt", want.attempt);
        send_and_destroy(stage->results, &stage->worker_at_results, ack);
        message_destroy(message);
    }
}

/* The reward service hears what the group came to. */
static inline void expect_sampling(struct stage *stage, const struct result results[N_SAMPLES],
                                   size_t n_before)
{
    struct message *message = expect(stage->results, MESSAGE_SAMPLING, &stage->worker_at_results);
    size_t n_tokens = n_before;

    for (size_t i = 0; i < N_SAMPLES; i++) {
        n_tokens += results[i].n_tokens;
    }
    assert_int_equal(message_int(message, "weight_version", -1), results[0].version);
    assert_int_equal(message_int(message, "tokens", -1), n_tokens);
    assert_in_range(message_int(message, "turn_tokens", -1), 0, n_tokens - N_SAMPLES);
    assert_int_equal(message_int(message, "preempted", -1), 0);
    assert_true(message_int(message, "prompt_tokens", 0) > 0);
    message_destroy(message);
}

static inline void say_bye_and_join(struct stage *stage)
{
    send_and_destroy(stage->work, &stage->worker_at_work, make(MESSAGE_BYE));
    assert_int_equal(pthread_join(stage->thread, NULL), 0);
    if (stage->worker_status != STATUS_OK) {
        fail_msg("the worker ended with: %s", stage->worker_message);
    }
}

#endif
