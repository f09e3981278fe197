/* One GRPO step. Sampling and scoring happen in other processes: the trainer asks for groups and
 * takes back samples that are scored and already stored; it learns from nothing that is not in a
 * committed manifest. */
#include "trainer/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/process_info.h"
#include "trainer/advantage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_DEADLINE_S INT64_C(60)

static enum status collect(struct session *session)
{
    while (!dispatch_is_complete(session->dispatch)) {
        const enum status status = link_turn(session->link, "sampling", 50);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

/* The samples of a group that count: masked ones are left out, and with fewer than two scorable
 * ones the group is. */
static enum status gather_group(struct session *session, const struct open_group *open,
                                struct sample_group *out)
{
    const size_t n = session->config->grpo.num_generations;
    size_t n_scorable = 0;
    *out = (struct sample_group){
        .group_id = open->id, .prompt = open->prompt, .n_prompt = open->n_prompt};
    TRY(arena_alloc(session->arena, n, sizeof(*out->samples), &out->samples));
    for (size_t idx = 0; idx < n; idx++) {
        const struct stored_sample *stored =
            sample_store_find(session->store, open->id, (int32_t)idx);
        if (stored == NULL) {
            return status_set(STATUS_BAD_FORMAT, "group %llu sample %zu is not here",
                              (unsigned long long)open->id, idx);
        }
        if (!stored->is_masked) {
            out->samples[out->n_samples++] = stored->sample;
            n_scorable += stored->sample.has_reward ? 1 : 0;
        }
    }
    if (n_scorable < 2) {
        log_warn("step", "group %llu has %zu scorable samples and is dropped",
                 (unsigned long long)open->id, n_scorable);
        out->n_samples = 0;
    }
    return STATUS_OK;
}

static enum status gather(struct session *session, struct step_batch *batch)
{
    *batch = (struct step_batch){.step = session->step + 1, .n_groups = session->n_groups};
    TRY(arena_alloc(session->arena, session->n_groups, sizeof(*batch->groups), &batch->groups));
    for (size_t i = 0; i < session->n_groups; i++) {
        const enum status status = gather_group(session, &session->groups[i], &batch->groups[i]);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

struct flat_ids {
    uint64_t *sample_ids;
    float *advantages;
    size_t n;
};

static enum status flatten_ids(struct session *session, const struct step_batch *batch,
                               struct flat_ids *out)
{
    const size_t n = step_batch_samples(batch);
    *out = (struct flat_ids){0};
    TRY(arena_alloc(session->arena, n, sizeof(uint64_t), &out->sample_ids));
    TRY(arena_alloc(session->arena, n, sizeof(float), &out->advantages));
    for (size_t g = 0; g < batch->n_groups; g++) {
        for (size_t i = 0; i < batch->groups[g].n_samples; i++) {
            out->sample_ids[out->n] = (uint64_t)batch->groups[g].samples[i].sample_id;
            out->advantages[out->n++] = batch->groups[g].samples[i].advantage;
        }
    }
    return STATUS_OK;
}

static enum status store_manifest(struct session *session, const struct step_batch *batch)
{
    struct message *message = NULL;
    struct flat_ids ids;
    char digest[DIGEST128_TEXT];
    TRY(flatten_ids(session, batch, &ids));
    TRY(manifest_digest(batch, session->arena, digest));
    TRY(message_create(MESSAGE_MANIFEST, &message));
    message_put_int(message, "step", (int64_t)batch->step);
    message_put_int(message, "inc", link_incarnation(session->link));
    message_put_int(message, "version_in", (int64_t)session->step);
    message_put_text(message, "digest", digest);
    message_put_array(message, "sample_ids", DTYPE_U64, ids.sample_ids, ids.n);
    message_put_array(message, "advantages", DTYPE_F32, ids.advantages, ids.n);
    session->is_manifest_stored = false;
    session->awaited_step = batch->step;
    const enum status status = link_request(session->link, message, &session->is_manifest_stored,
                                            "MANIFEST", ANSWER_DEADLINE_S);
    message_destroy(message);
    return status;
}

/* The balancing bias of each expert of each MoE layer, as it is after the step. */
static enum status gather_bias(struct session *session, const int32_t *layers, size_t n_layers,
                               float **out)
{
    const size_t n_experts = session->data.model.n_experts;
    const struct weight_table *table = policy_table(session->policy);
    TRY(arena_alloc(session->arena, n_layers * n_experts, sizeof(float), out));
    for (size_t i = 0; i < n_layers; i++) {
        char name[96];
        const int n = snprintf(name, sizeof(name),
                               "model.layers.%d.mlp.gate.e_score_correction_bias", (int)layers[i]);
        const struct weight_row *row = n > 0 ? weight_table_find(table, name) : NULL;
        if (row != NULL && row->count == n_experts) {
            memcpy(*out + i * n_experts, policy_weights(session->policy) + row->offset,
                   n_experts * sizeof(float));
        }
    }
    return STATUS_OK;
}

static enum status put_experts(struct session *session, const struct grpo_stats *stats,
                               struct message *message)
{
    const int32_t *layers = NULL;
    float *bias = NULL;
    const size_t n_layers = policy_moe_layers(session->policy, &layers);
    const size_t n = n_layers * session->data.model.n_experts;
    if (stats->expert_counts == NULL) {
        return STATUS_OK;
    }
    TRY(gather_bias(session, layers, n_layers, &bias));
    message_put_array(message, "expert_load", DTYPE_U32, stats->expert_counts, n);
    message_put_array(message, "expert_bias", DTYPE_F32, bias, n);
    message_put_array(message, "moe_layers", DTYPE_I32, layers, n_layers);
    return STATUS_OK;
}

/* The step is trained: its numbers and the digest of the new weights go to the database. */
static enum status store_step(struct session *session, const struct step_batch *batch,
                              const struct grpo_stats *stats, struct json *metrics)
{
    struct message *message = NULL;
    struct flat_ids ids;
    char text[DIGEST128_TEXT];
    const struct digest128 digest = publisher_digest(session->publisher);
    TRY(flatten_ids(session, batch, &ids));
    TRY(message_create(MESSAGE_STEP, &message));
    message_put_int(message, "step", (int64_t)batch->step);
    message_put_int(message, "inc", link_incarnation(session->link));
    message_put_text(message, "status", ids.n > 0 ? "trained" : "skipped");
    message_put_int(message, "version_out", (int64_t)batch->step);
    message_put_text(message, "weight_digest", hash_hex(digest.bytes, sizeof(digest.bytes), text));
    message_put_json(message, "metrics", json_retain(metrics));
    message_put_array(message, "sample_ids", DTYPE_U64, ids.sample_ids, ids.n);
    message_put_array(message, "sample_stats", DTYPE_F32, stats->sample_stats,
                      ids.n * SAMPLE_STATS);
    session->is_step_stored = false;
    session->awaited_step = batch->step;
    enum status status = put_experts(session, stats, message);
    if (status == STATUS_OK) {
        status = link_request(session->link, message, &session->is_step_stored, "STEP",
                              ANSWER_DEADLINE_S);
    }
    message_destroy(message);
    return status;
}

static enum status check_weights(struct session *session)
{
    const struct weight_row *row = NULL;
    if (!weights_are_finite(policy_table(session->policy), policy_weights(session->policy), &row)) {
        return status_set(STATUS_NUMERICS, "tensor %s is not finite after step %zu", row->name,
                          session->step + 1);
    }
    return STATUS_OK;
}

static size_t count_without_signal(const struct step_batch *batch)
{
    size_t n = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        bool has_signal = false;
        for (size_t i = 0; i < batch->groups[g].n_samples; i++) {
            has_signal = has_signal || batch->groups[g].samples[i].advantage != 0.0F;
        }
        n += has_signal ? 0 : 1;
    }
    return n;
}

/* Until the next samples are here nothing is learned: the workers may have the memory. */
static void rest(struct session *session)
{
    const struct policy_memory memory = policy_memory(session->policy);

    if (!setup_rests(&memory)) {
        return;
    }
    log_debug("trainer", "nothing to learn, memory goes back");
    policy_rest(session->policy);
    if (session->reference != NULL) {
        policy_rest(session->reference);
    }
}

static double bytes_held(void)
{
    struct process_memory memory;
    return process_info_memory(getpid(), &memory) ? (double)memory.bytes : (double)NAN;
}

enum status session_learn(struct session *session, const struct step_batch *batch)
{
    struct grpo_stats stats;
    struct json *metrics = NULL;
    const double flops_before = learner_flops(session->learner);
    speed_look(session->speed);
    session->stored_us = clock_now_us();
    publisher_withdraw(session->publisher);
    TRY(grpo_learn(session->learner, session->reference, session->config, &session->schedule, batch,
                   session->arena, &stats));
    TRY(check_weights(session));
    session->trained_us = clock_now_us();
    session->trained_bytes = bytes_held();
    session->trained_flops = learner_flops(session->learner) - flops_before;
    publisher_offer(session->publisher, batch->step);
    rest(session);
    TRY(report_metrics(session, batch, &stats, count_without_signal(batch), &metrics));
    const enum status status = store_step(session, batch, &stats, metrics);
    if (status == STATUS_OK) {
        session->step = batch->step;
        report_progress(session, metrics);
    }
    json_destroy(metrics);
    return status;
}

enum status session_step(struct session *session)
{
    const struct run_config *config = session->config;
    const struct advantage_options options = {
        .scale = config->grpo.loss_type == LOSS_DR_GRPO ? SCALE_NONE : config->grpo.scale_rewards,
        .ddof = config->grpo.std_ddof,
        .eps = config->grpo.adv_eps};
    struct step_batch batch;

    arena_reset(session->arena); /* the last step's groups end here */
    session->begin_us = clock_now_us();
    TRY(session_open_groups(session, session->step + 1));
    TRY(collect(session));
    session->sampled_us = clock_now_us();
    TRY(gather(session, &batch));
    (void)advantages_fill(&options, &batch);
    TRY(store_manifest(session, &batch)); /* replayable from here */
    TRY(session_learn(session, &batch));
    dispatch_close_all(session->dispatch);
    sample_store_clear(session->store);
    return STATUS_OK;
}
