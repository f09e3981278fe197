/* A whole worker in a thread, against a trainer and a reward service played by the test. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "base/socket.h"
#include "model/demo_tokenizer.h"
#include "model/weights.h"
#include "rollout/rollout.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define PATH_ROOM 512
#define WAIT_MS 5000
#define N_SAMPLES 2
#define N_VERSIONS 3
#define MAX_TOKENS 6

struct stage {
    char folder[PATH_ROOM];
    struct run_config *config;
    struct weight_table *table;
    float *weights[N_VERSIONS];
    struct socket_context *context;
    struct socket *work, *weights_socket, *results;
    struct peer_id worker_at_work, worker_at_results;
    pthread_t thread;
    enum status worker_status;
    char worker_message[PATH_ROOM];
};

static void *run_worker(void *context)
{
    struct stage *stage = context;

    stage->worker_status = rollout_main(stage->config, stage->folder, "w0");
    (void)snprintf(stage->worker_message, sizeof(stage->worker_message), "%s", status_message());
    return NULL;
}

static void write_model(struct stage *stage)
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

static void load_config(struct stage *stage)
{
    char model[PATH_ROOM + 16];
    const char *const sets[] = {model,
                                "run.name=test",
                                "data.max_prompt_length=8",
                                "rollout.max_completion_length=6",
                                "rollout.threads=1",
                                "grpo.num_generations=2",
                                "grpo.prompts_per_step=2"};
    const struct config_source source = {
        .sets = sets, .n_sets = sizeof(sets) / sizeof(sets[0]), .use = CONFIG_ANY};
    char *report = NULL;

    (void)snprintf(model, sizeof(model), "model.path=%s", stage->folder);
    assert_ok(config_load(&source, &stage->config, &report));
}

static void listen_at(struct stage *stage, enum run_endpoint which, struct socket **out)
{
    char *endpoint = NULL;

    assert_ok(run_endpoint(stage->folder, which, &endpoint));
    assert_ok(socket_listen(stage->context, endpoint, out));
    memory_free(endpoint);
}

static int setup(void **state)
{
    static struct stage stage;

    memset(&stage, 0, sizeof(stage));
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

static int teardown(void **state)
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
static struct message *expect(struct socket *socket, enum message_type type, struct peer_id *peer)
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

static void send_and_destroy(struct socket *socket, const struct peer_id *peer,
                             struct message *message)
{
    assert_ok(socket_send(socket, peer, message));
    message_destroy(message);
}

static struct message *make(enum message_type type)
{
    struct message *message = NULL;

    assert_ok(message_create(type, &message));
    return message;
}

static void welcome(struct socket *socket, struct peer_id *peer, int64_t inc)
{
    message_destroy(expect(socket, MESSAGE_HELLO, peer));
    struct message *answer = make(MESSAGE_HELLO_OK);

    message_put_int(answer, "inc", inc);
    send_and_destroy(socket, peer, answer);
}

static void expect_ready(struct stage *stage, int64_t credit)
{
    struct message *ready = expect(stage->work, MESSAGE_READY, NULL);

    assert_int_equal(message_int(ready, "credit", -1), credit);
    message_destroy(ready);
}

static const char *digest_text(const struct stage *stage, size_t version, char *out)
{
    const struct digest128 root = weights_digest(stage->weights[version], stage->table->n_floats);

    return hash_hex(root.bytes, sizeof(root.bytes), out);
}

static void send_work(struct stage *stage, int64_t group, int64_t attempt, size_t version)
{
    static const int32_t samples[N_SAMPLES] = {0, 1};
    static const int32_t prompt[] = {0, 3, 4, 13};
    char digest[DIGEST128_TEXT];
    struct message *work = make(MESSAGE_WORK);

    message_put_int(work, "group_id", group);
    message_put_int(work, "attempt", attempt);
    message_put_int(work, "inc", 7);
    message_put_hex64(work, "seed", 99);
    message_put_int(work, "weight_version", (int64_t)version);
    message_put_text(work, "weight_digest", digest_text(stage, version, digest));
    message_put_int(work, "max_tokens", MAX_TOKENS);
    message_put_number(work, "temperature", 1.0);
    message_put_int(work, "top_k", 0);
    message_put_number(work, "top_p", 1.0);
    message_put_number(work, "min_p", 0.0);
    message_put_int(work, "deadline_ms", 10000);
    message_put_array(work, "idx", DTYPE_I32, samples, N_SAMPLES);
    message_put_array(work, "prompt", DTYPE_I32, prompt, 4);
    send_and_destroy(stage->work, &stage->worker_at_work, work);
}

static void send_info(struct stage *stage, const struct peer_id *peer, size_t version)
{
    const size_t n_chunks = weights_chunks(stage->table->n_floats);
    struct digest128 digests[64];
    char digest[DIGEST128_TEXT];
    struct message *info = make(MESSAGE_W_INFO);

    assert_true(n_chunks <= 64);
    for (size_t i = 0; i < n_chunks; i++) {
        digests[i] = weights_chunk_digest(stage->weights[version], stage->table->n_floats, i);
    }
    message_put_int(info, "version", (int64_t)version);
    message_put_int(info, "bytes", (int64_t)(stage->table->n_floats * sizeof(float)));
    message_put_int(info, "chunk_bytes", (int64_t)WEIGHTS_CHUNK_BYTES);
    message_put_text(info, "root", digest_text(stage, version, digest));
    message_put_array(info, "digests", DTYPE_U8, digests, n_chunks * sizeof(digests[0]));
    send_and_destroy(stage->weights_socket, peer, info);
}

static void send_chunk(struct stage *stage, const struct peer_id *peer, size_t version,
                       size_t index)
{
    const size_t n_bytes = stage->table->n_floats * sizeof(float);
    const size_t offset = index * WEIGHTS_CHUNK_BYTES;
    const size_t n =
        n_bytes - offset < WEIGHTS_CHUNK_BYTES ? n_bytes - offset : WEIGHTS_CHUNK_BYTES;
    struct message *chunk = make(MESSAGE_W_CHUNK);

    message_put_int(chunk, "version", (int64_t)version);
    message_put_int(chunk, "index", (int64_t)index);
    message_put_array(chunk, "data", DTYPE_U8, (const char *)stage->weights[version] + offset, n);
    send_and_destroy(stage->weights_socket, peer, chunk);
}

static void serve_weights(struct stage *stage, size_t version)
{
    const size_t n_chunks = weights_chunks(stage->table->n_floats);
    struct peer_id peer;
    size_t n_sent = 0;

    while (n_sent < n_chunks) {
        struct message *get = expect(stage->weights_socket, MESSAGE_W_GET, &peer);
        const int64_t first = message_int(get, "first", 0);

        assert_int_equal(message_int(get, "version", -1), version);
        if (first < 0) {
            send_info(stage, &peer, version);
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

static void check_completion(const struct stage *stage, const struct message *message,
                             const struct result *want)
{
    char digest[DIGEST128_TEXT];
    size_t n_text = 0;

    assert_int_equal(message_int(message, "group_id", -1), want->group);
    assert_int_equal(message_int(message, "attempt", -1), want->attempt);
    assert_int_equal(message_int(message, "inc", -1), 7);
    assert_int_equal(message_int(message, "version_first", -1), want->version);
    assert_int_equal(message_hex64(message, "seed"), 99);
    assert_string_equal(message_text(message, "weight_digest", ""),
                        digest_text(stage, want->version, digest));
    assert_non_null(message_array(message, "text", &n_text));
}

/* Takes and acknowledges both samples of a group. */
static void collect(struct stage *stage, struct result want, struct result results[N_SAMPLES])
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
static void expect_sampling(struct stage *stage, const struct result results[N_SAMPLES],
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

static void say_bye_and_join(struct stage *stage)
{
    send_and_destroy(stage->work, &stage->worker_at_work, make(MESSAGE_BYE));
    assert_int_equal(pthread_join(stage->thread, NULL), 0);
    if (stage->worker_status != STATUS_OK) {
        fail_msg("the worker ended with: %s", stage->worker_message);
    }
}

static void work_of_each_version_is_sampled_with_its_weights(void **state)
{
    struct stage *stage = *state;
    struct result first[N_SAMPLES];
    struct result second[N_SAMPLES];
    struct result again[N_SAMPLES];

    welcome(stage->work, &stage->worker_at_work, 7);
    welcome(stage->results, &stage->worker_at_results, 7);
    expect_ready(stage, 4);
    send_work(stage, 1, 0, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 1, .version = 1}, first);
    expect_sampling(stage, first, 0);
    expect_ready(stage, 1);
    send_work(stage, 1, 1, 2);
    serve_weights(stage, 2);
    collect(stage, (struct result){.group = 1, .attempt = 1, .version = 2}, second);
    expect_ready(stage, 1);
    send_work(stage, 1, 2, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 1, .attempt = 2, .version = 1}, again);
    assert_memory_not_equal(first[0].logprobs, second[0].logprobs, sizeof(float));
    for (size_t i = 0; i < N_SAMPLES; i++) {
        assert_memory_equal(first[i].tokens, again[i].tokens, sizeof(first[i].tokens));
        assert_memory_equal(first[i].logprobs, again[i].logprobs, sizeof(first[i].logprobs));
    }
    say_bye_and_join(stage);
}

static void a_trainer_that_forgot_the_worker_gets_its_credit_again(void **state)
{
    struct stage *stage = *state;
    struct message *refuse = make(MESSAGE_REFUSE);
    struct result results[N_SAMPLES];

    welcome(stage->work, &stage->worker_at_work, 6);
    welcome(stage->results, &stage->worker_at_results, 6);
    expect_ready(stage, 4);
    message_put_text(refuse, "reason", "HELLO comes first");
    send_and_destroy(stage->work, &stage->worker_at_work, refuse);
    welcome(stage->work, &stage->worker_at_work, 7);
    expect_ready(stage, 4);
    send_work(stage, 5, 0, 1);
    serve_weights(stage, 1);
    collect(stage, (struct result){.group = 5, .version = 1}, results);
    say_bye_and_join(stage);
}

static void a_refused_worker_ends_with_the_reason(void **state)
{
    struct stage *stage = *state;
    struct message *refuse = make(MESSAGE_REFUSE);

    message_destroy(expect(stage->work, MESSAGE_HELLO, &stage->worker_at_work));
    message_put_text(refuse, "reason", "config_sha differs");
    send_and_destroy(stage->work, &stage->worker_at_work, refuse);
    assert_int_equal(pthread_join(stage->thread, NULL), 0);
    assert_int_equal(stage->worker_status, STATUS_PEER);
    assert_non_null(strstr(stage->worker_message, "config_sha differs"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(work_of_each_version_is_sampled_with_its_weights, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_trainer_that_forgot_the_worker_gets_its_credit_again,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_worker_ends_with_the_reason, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
