/* Builds a worker from the configuration, connects it and runs it. */
#include "rollout/rollout.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/run_paths.h"
#include "model/precision.h"
#include "model/weights.h"
#include "rollout/worker_internal.h"

#include <unistd.h>

#define TRAINER_SILENCE_US INT64_C(5000000) /* while it trains it answers nobody */
#define REWARD_SILENCE_US INT64_C(3000000)
#define MEBI ((size_t)1 << 20)

/* A step's samples and prompts bound what can run at once; nothing is kept for more. */
struct engine_options rollout_engine_options(const struct run_config *config)
{
    const size_t n_samples = config->grpo.prompts_per_step * config->grpo.num_generations;
    const size_t n_seqs =
        n_samples < config->rollout.max_num_seqs ? n_samples : config->rollout.max_num_seqs;

    const size_t n_rows = n_seqs + config->grpo.prompts_per_step * config->data.max_prompt_length;

    return (struct engine_options){
        .max_num_seqs = n_seqs > 0 ? n_seqs : 1,
        .max_batch_tokens =
            n_rows < config->rollout.max_batch_tokens ? n_rows : config->rollout.max_batch_tokens,
        .max_sequence = config->data.max_prompt_length + config->rollout.max_completion_length,
        .kv_cache_bytes = config->rollout.kv_cache_bytes,
        .n_drafts = config->rollout.speculate,
        .spec_max_batch = config->rollout.spec_max_batch,
        .precision = precision_of(config->model.dtype),
        .cache = precision_cache(config->model.kv_cache_dtype, precision_of(config->model.dtype))};
}

/* 0: the machine's cores divided among the workers that run.yaml starts on it. */
size_t rollout_thread_count(const struct run_config *config)
{
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    const size_t n_workers = config->rollout.workers > 0 ? config->rollout.workers : 1;

    if (config->rollout.threads > 0) {
        return config->rollout.threads;
    }
    return n_cores > 0 && (size_t)n_cores > n_workers ? (size_t)n_cores / n_workers : 1;
}

/* The architecture of the folder, which must have a position for every token. */
static enum status read_model(const char *dir, size_t max_sequence, struct model_config *model)
{
    TRY(model_config_load(dir, model));
    TRY(weights_probe_mtp(dir, model));
    if (max_sequence > model->max_positions) {
        return status_set(STATUS_BAD_CONFIG,
                          "data.max_prompt_length + rollout.max_completion_length is %zu, %s has "
                          "%zu positions",
                          max_sequence, dir, model->max_positions);
    }
    return STATUS_OK;
}

enum status rollout_check(const struct run_config *config)
{
    const struct engine_options options = rollout_engine_options(config);
    const struct policy_options policy_options = engine_policy_options(&options);
    struct policy_memory memory;
    struct model_config model;
    size_t n_pages = 0;

    TRY(read_model(config->model.path, options.max_sequence, &model));
    TRY(policy_measure(&model, &policy_options, &memory));
    return engine_pages(&options, memory.cache_page, &n_pages);
}

static enum status open_model(struct worker *worker, const struct engine_options *options)
{
    const struct policy_options policy_options = engine_policy_options(options);
    const char *dir = worker->config->model.path;
    struct model_config model;

    TRY(read_model(dir, options->max_sequence, &model));
    TRY(tokenizer_load(dir, &worker->tokenizer));
    TRY(backend_open(worker->config->run.device, rollout_thread_count(worker->config),
                     &worker->backend));
    TRY(engine_rehearse(worker->backend, &model, options));
    TRY(policy_create(worker->backend, &model, &policy_options, &worker->policy));
    TRY(weights_fetch_create(policy_table(worker->policy)->n_floats, policy_weights(worker->policy),
                             &worker->fetch));
    return engine_create(worker->policy, options, &worker->engine);
}

static void log_memory(const struct worker *worker)
{
    const struct policy_memory memory = policy_memory(worker->policy);

    log_info("rollout",
             "device=%s threads=%zu weights_mib=%zu packed_mib=%zu arriving_mib=%zu "
             "activations_mib=%zu kv_cache_mib=%zu scratch_mib=%zu",
             worker->backend->name, worker->backend->n_threads, memory.weights / MEBI,
             memory.packed / MEBI, (memory.arriving + FETCH_WINDOW * WEIGHTS_CHUNK_BYTES) / MEBI,
             memory.activations / MEBI, engine_cache_bytes(worker->engine) / MEBI,
             backend_scratch_bytes(worker->backend) / MEBI);
}

static enum status open_outbox(struct worker *worker, size_t max_num_seqs)
{
    const size_t n_generations =
        worker->config->grpo.num_generations > 0 ? worker->config->grpo.num_generations : 1;
    const size_t n_groups = (max_num_seqs + n_generations - 1) / n_generations;

    worker->credit = 2 * n_groups; /* one set runs, one waits */
    worker->outbox_window = 2 * worker->credit * n_generations;
    return outbox_create(worker->outbox_window + max_num_seqs, &worker->outbox);
}

static enum status dial(struct worker *worker, const char *run_dir, enum run_endpoint which,
                        struct socket **out)
{
    char *endpoint = NULL;

    TRY(run_endpoint(run_dir, which, &endpoint));
    const enum status status = socket_dial(worker->context, endpoint, out);
    memory_free(endpoint);
    return status;
}

static enum status connect_all(struct worker *worker, const char *run_dir)
{
    TRY(socket_context_create(&worker->context));
    TRY(dial(worker, run_dir, ENDPOINT_WORK, &worker->trainer));
    TRY(dial(worker, run_dir, ENDPOINT_WEIGHTS, &worker->weights));
    TRY(dial(worker, run_dir, ENDPOINT_RESULTS, &worker->reward));
    contact_init(&worker->trainer_contact, TRAINER_SILENCE_US, clock_now_us());
    contact_init(&worker->reward_contact, REWARD_SILENCE_US, clock_now_us());
    return STATUS_OK;
}

static void close_all(struct worker *worker)
{
    socket_close(worker->reward);
    socket_close(worker->weights);
    socket_close(worker->trainer);
    socket_context_destroy(worker->context);
    work_queue_clear(&worker->queue);
    outbox_destroy(worker->outbox);
    engine_destroy(worker->engine);
    weights_fetch_destroy(worker->fetch);
    policy_destroy(worker->policy);
    shared_weights_unmap(&worker->shared);
    backend_close(worker->backend);
    tokenizer_destroy(worker->tokenizer);
}

static enum status open_and_run(struct worker *worker, const char *run_dir)
{
    const struct engine_options options = rollout_engine_options(worker->config);

    TRY(config_digest(worker->config, worker->config_sha));
    TRY(open_model(worker, &options));
    TRY(open_outbox(worker, options.max_num_seqs));
    log_memory(worker);
    TRY(connect_all(worker, run_dir));
    return worker_run(worker);
}

enum status rollout_main(const struct run_config *config, const char *run_dir, const char *name)
{
    struct worker worker = {.config = config, .name = name, .held = {.version = -1}};

    process_catch_signals();
    work_queue_init(&worker.queue);
    const enum status status = open_and_run(&worker, run_dir);
    close_all(&worker);
    return status;
}
