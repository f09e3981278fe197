/* The GRPO trainer from the outside: open, resume, step after step, close. */
#include "trainer/trainer.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "trainer/session.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WORKER_SILENCE_US INT64_C(3000000)
#define LEASE_US INT64_C(600000000)

static enum status take_sample(struct session *session, const struct message *scored)
{
    struct message *taken = NULL;
    const uint64_t group_id = (uint64_t)message_int(scored, "group_id", 0);
    const size_t step = group_id > 0 ? session_group_step(session, group_id) : 0;
    const size_t version = (size_t)message_int(scored, "version_first", 0);
    bool is_new = false;
    if (version + 1 != step) {
        return status_set(STATUS_PEER,
                          "group %llu was sampled with weights %zu, its step %zu wants %zu",
                          (unsigned long long)group_id, version, step, step - 1);
    }
    TRY(sample_store_add(session->store, scored, &is_new));
    if (is_new) {
        (void)dispatch_sample(session->dispatch, group_id, (size_t)message_int(scored, "idx", 0));
    }
    TRY(message_create(MESSAGE_TAKEN, &taken));
    message_put_int(taken, "sample_id", message_int(scored, "sample_id", 0));
    message_put_text(taken, "verdict", "ok");
    if (link_tell(session->link, taken) != STATUS_OK) {
        log_debug("trainer", "TAKEN not sent, the sample will come again");
    }
    message_destroy(taken);
    return STATUS_OK;
}

static enum status keep_manifest(struct session *session, const struct message *message)
{
    struct stored_manifest *manifest = NULL;
    size_t n_advantages = 0;
    struct arena *arena = session->resume_arena;
    TRY(arena_alloc(arena, 1, sizeof(*manifest), &manifest));
    const void *ids = message_array(message, "sample_ids", &manifest->n);
    const void *advantages = message_array(message, "advantages", &n_advantages);
    if (n_advantages != manifest->n) {
        return status_set(STATUS_BAD_FORMAT, "a manifest of %zu samples has %zu advantages",
                          manifest->n, n_advantages);
    }
    manifest->step = (size_t)message_int(message, "step", 0);
    TRY(arena_alloc(arena, manifest->n, sizeof(uint64_t), &manifest->sample_ids));
    TRY(arena_alloc(arena, manifest->n, sizeof(float), &manifest->advantages));
    if (manifest->n > 0) {
        memcpy(manifest->sample_ids, ids, manifest->n * sizeof(uint64_t));
        memcpy(manifest->advantages, advantages, manifest->n * sizeof(float));
    }
    const char *digest = message_text(message, "digest", "");
    const size_t n = strlen(digest);
    memcpy(manifest->digest, digest, n < DIGEST128_TEXT ? n : DIGEST128_TEXT - 1);
    if (session->last_manifest != NULL) {
        session->last_manifest->next = manifest;
    } else {
        session->first_manifest = manifest;
    }
    session->last_manifest = manifest;
    return STATUS_OK;
}

static void acknowledge_group(struct session *session, uint64_t group_id)
{
    for (size_t i = 0; i < session->n_groups; i++) {
        struct open_group *group = &session->groups[i];
        if (group->id == group_id && !group->is_acknowledged) {
            group->is_acknowledged = true;
            session->n_groups_acknowledged++;
        }
    }
}

/* Everything the reward service says. */
static enum status on_reward_message(void *context, const struct message *message)
{
    struct session *session = context;
    const enum message_type type = message_type_of(message);
    const bool is_awaited = message_int(message, "step", -1) == (int64_t)session->awaited_step;
    if (type == MESSAGE_SCORED) {
        return take_sample(session, message);
    }
    if (type == MESSAGE_MANIFEST) {
        return keep_manifest(session, message);
    }
    if (type == MESSAGE_GROUP_OK) {
        acknowledge_group(session, (uint64_t)message_int(message, "group_id", 0));
    } else if (type == MESSAGE_MANIFEST_OK) {
        session->is_manifest_stored = session->is_manifest_stored || is_awaited;
    } else if (type == MESSAGE_STEP_OK) {
        session->is_step_stored = session->is_step_stored || is_awaited;
    } else if (type == MESSAGE_FETCHED) {
        session->is_fetched = true;
    }
    return STATUS_OK;
}

/* Everything is sized here, once; a step allocates nothing more. */
static void log_memory(const struct session *session)
{
    const size_t mib = (size_t)1 << 20;
    const struct policy_memory memory = policy_memory(session->policy);
    const size_t moments = 2 * policy_table(session->policy)->n_floats * sizeof(float);
    log_info("trainer",
             "device=%s threads=%zu weights_mib=%zu packed_mib=%zu gradients_mib=%zu "
             "moments_mib=%zu activations_mib=%zu scratch_mib=%zu activation_checkpointing=%s",
             session->backend->name, session->backend->n_threads, memory.weights / mib,
             memory.packed / mib, memory.gradients / mib, moments / mib, memory.activations / mib,
             backend_scratch_bytes(session->backend) / mib,
             policy_recomputes(session->policy) ? "layer" : "none");
}

static enum status open_model(struct session *session)
{
    const struct run_config *config = session->config;
    const struct learner_options options = grpo_learner_options(config);
    struct policy_options sizes;
    TRY(setup_policy_options(config, &session->data.model, &options, &sizes));
    sizes.shares_weights = config->rollout.share_weights;
    TRY(backend_open(config->run.device, config->run.threads, &session->backend));
    TRY(speed_create(session->backend, sizes.precision, &session->speed));
    TRY(setup_rehearse(session->backend, &session->data.model, &options, &sizes,
                       config->grpo.beta > 0.0));
    TRY(setup_policy(&session->data.model, session->backend, NULL, &sizes, &session->policy));
    TRY(learner_create(session->backend, session->policy, &options, &session->learner));
    if (config->grpo.beta > 0.0) {
        const char *reference =
            config->model.ref_path[0] != '\0' ? config->model.ref_path : config->model.path;
        sizes = setup_reference_options(&sizes);
        TRY(setup_policy(&session->data.model, session->backend, reference, &sizes,
                         &session->reference));
    }
    log_memory(session);
    session->schedule = schedule_from_config(
        config, config->run.max_steps * config->grpo.num_iterations * config->grpo.num_minibatches);
    return STATUS_OK;
}

static enum status open_publisher(struct session *session)
{
    TRY(publisher_create(policy_weights(session->policy), policy_table(session->policy)->n_floats,
                         &session->publisher));
    return publisher_share(session->publisher, session->policy);
}

static enum status open_link(struct session *session)
{
    const struct dispatch_limits limits = {.max_groups = session->config->grpo.prompts_per_step,
                                           .group_size = session->config->grpo.num_generations,
                                           .silence_us = WORKER_SILENCE_US,
                                           .lease_us = LEASE_US};
    TRY(dispatch_create(&limits, &session->dispatch));
    const struct link_options options = {.config = session->config,
                                         .run_dir = session->run_dir,
                                         .numerics_id = policy_numerics(session->policy),
                                         .dispatch = session->dispatch,
                                         .publisher = session->publisher};
    TRY(link_open(&options, on_reward_message, session, &session->link));
    link_set_work_filler(session->link, session_fill_work, session);
    return STATUS_OK;
}

/* Two trainers of one run would tread on each other's checkpoints before the reward service could
 * tell the second one so. */
static enum status take_run(struct session *session)
{
    char holder[64];
    char *path = NULL;
    TRY(folder_create(session->run_dir));
    TRY(path_join(session->run_dir, "trainer.lock", &path));
    (void)snprintf(holder, sizeof(holder), "a trainer, pid %ld", (long)getpid());
    const enum status status = file_lock_acquire(path, holder, &session->lock);
    memory_free(path);
    return status;
}

enum status session_open(struct session *session)
{
    TRY(take_run(session));
    TRY(config_digest(session->config, session->config_sha));
    TRY(run_checkpoints_path(session->run_dir, &session->checkpoints_dir));
    TRY(arena_create((size_t)4 << 20, &session->arena));
    TRY(arena_create((size_t)1 << 20, &session->resume_arena));
    TRY(sample_store_create(&session->store));
    TRY(setup_data_open(session->config, DATASET_PROMPTS, &session->data));
    TRY(open_model(session));
    TRY(open_publisher(session));
    return open_link(session);
}

void session_close(struct session *session)
{
    link_close(session->link);
    dispatch_destroy(session->dispatch);
    publisher_destroy(session->publisher);
    speed_destroy(session->speed);
    learner_destroy(session->learner);
    policy_destroy(session->reference);
    policy_destroy(session->policy);
    backend_close(session->backend);
    setup_data_close(&session->data);
    sample_store_destroy(session->store);
    arena_destroy(session->resume_arena);
    arena_destroy(session->arena);
    memory_free(session->checkpoints_dir);
    file_lock_release(session->lock);
}

enum status session_checkpoint(struct session *session)
{
    struct checkpoint_info info = {.step = session->step,
                                   .weight_digest = publisher_digest(session->publisher)};
    memcpy(info.config_sha, session->config_sha, sizeof(info.config_sha));
    const char *numerics = policy_numerics(session->policy);
    const size_t n = strlen(numerics);
    memcpy(info.numerics, numerics, n < sizeof(info.numerics) ? n : sizeof(info.numerics) - 1);
    return checkpoint_save(session->checkpoints_dir, session->learner, &info,
                           session->config->model.path, session->config->checkpoint.keep_last);
}

static enum status train(struct session *session)
{
    const struct run_config *config = session->config;
    while (session->step < config->run.max_steps) {
        enum status status = session_step(session);
        if (status != STATUS_OK) {
            return status_wrap(status, "step %zu", session->step + 1);
        }
        if (session->step % config->checkpoint.every_steps == 0 ||
            session->step == config->run.max_steps) {
            status = session_checkpoint(session);
        }
        if (status != STATUS_OK) {
            return status_wrap(status, "checkpoint of step %zu", session->step);
        }
    }
    return STATUS_OK;
}

/* A signal: what has been trained is saved, and the same command goes on from there. */
static enum status save_on_signal(struct session *session)
{
    if (session->step > 0) {
        TRY(session_checkpoint(session));
    }
    return status_set(STATUS_CANCELLED, "interrupted after step %zu; the same command continues",
                      session->step);
}

enum status trainer_main(const struct run_config *config, const char *run_dir,
                         step_listener *listener, void *context)
{
    struct session session = {
        .config = config, .run_dir = run_dir, .listener = listener, .listener_context = context};
    enum status status = session_open(&session);
    if (status == STATUS_OK) {
        status = session_resume(&session);
    }
    if (status == STATUS_OK) {
        status = train(&session);
    }
    if (status == STATUS_CANCELLED) {
        status = save_on_signal(&session);
    }
    if (session.link != NULL && (status == STATUS_OK || status == STATUS_CANCELLED)) {
        link_say_bye(session.link, status == STATUS_OK ? "done" : "interrupted");
    }
    session_close(&session);
    return status;
}

enum status trainer_check(const struct run_config *config)
{
    struct setup_data data;
    enum status status = setup_data_open(config, DATASET_PROMPTS, &data);
    if (status == STATUS_OK) {
        status = setup_check_weights(config->model.path, &data.model, true);
    }
    setup_data_close(&data);
    return status;
}
