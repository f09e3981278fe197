/* After a start: the newest checkpoint, then every step that has a committed manifest but came
 * after it, trained again from the database alone. Equal inputs and one code path give equal bits,
 * so the run goes on as if nothing had happened. */
#include "trainer/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#include <assert.h>
#include <string.h>

#define FETCH_DEADLINE_S INT64_C(300)

static enum status check_info(const struct session *session, const char *path,
                              const struct checkpoint_info *info)
{
    if (strcmp(info->config_sha, session->config_sha) != 0) {
        return status_set(STATUS_BAD_CONFIG,
                          "%s was written under other settings; use another run.name, or the "
                          "settings in %s/config.json",
                          path, session->run_dir);
    }
    const char *numerics = policy_numerics(session->policy);
    if (strcmp(info->numerics, numerics) != 0) {
        return status_set(STATUS_PEER, "%s was written by backend %s, this is %s", path,
                          info->numerics, numerics);
    }
    return STATUS_OK;
}

static enum status load_start(struct session *session)
{
    const struct weight_table *table = policy_table(session->policy);
    TRY(weights_load(session->config->model.path, table, policy_weights(session->policy)));
    return policy_refresh(session->policy);
}

static enum status load_checkpoint(struct session *session)
{
    char *path = NULL;
    struct checkpoint_info info;
    TRY(checkpoint_find(session->checkpoints_dir, &path, &info));
    const enum resume_mode mode = session->config->run.resume;
    if (path == NULL) {
        return mode == RESUME_MUST
                   ? status_set(STATUS_BAD_CONFIG, "run.resume is must, but %s has no checkpoint",
                                session->checkpoints_dir)
                   : load_start(session);
    }
    enum status status =
        mode == RESUME_NEVER
            ? status_set(STATUS_BAD_CONFIG, "run.resume is never, but %s exists", path)
            : check_info(session, path, &info);
    if (status == STATUS_OK) {
        status = checkpoint_load(path, &info, session->learner);
    }
    if (status == STATUS_OK) {
        session->step = info.step;
        log_info("resume", "checkpoint=%s step=%zu", path, info.step);
    }
    memory_free(path);
    return status;
}

static enum status fetch(struct session *session)
{
    struct message *message = NULL;
    TRY(message_create(MESSAGE_FETCH, &message));
    message_put_int(message, "after_step", (int64_t)session->step);
    session->is_fetched = false;
    enum status status = link_tell(session->link, message);
    message_destroy(message);
    const int64_t deadline = clock_now_us() + FETCH_DEADLINE_S * 1000000;
    link_expect(session->link, "what is stored since the checkpoint", FETCH_DEADLINE_S);
    while (status == STATUS_OK && !session->is_fetched) {
        status = clock_now_us() > deadline
                     ? status_set(STATUS_TIMEOUT, "the reward service did not answer FETCH")
                     : link_turn(session->link, "resuming", 50);
    }
    link_expect(session->link, NULL, 0);
    return status;
}

/* Extends the batch by a sample; a new group begins where the group id changes. */
static enum status append_sample(struct session *session, const struct stored_sample *stored,
                                 float advantage, struct step_batch *batch)
{
    assert(batch->groups != NULL);
    struct sample_group *group = batch->n_groups > 0 ? &batch->groups[batch->n_groups - 1] : NULL;
    if (group == NULL || group->group_id != stored->group_id) {
        int32_t *prompt = NULL;
        group = &batch->groups[batch->n_groups++];
        *group = (struct sample_group){.group_id = stored->group_id};
        TRY(session_encode_prompt(session, stored->group_id, session->arena, &prompt,
                                  &group->n_prompt));
        group->prompt = prompt;
        TRY(arena_alloc(session->arena, session->config->grpo.num_generations,
                        sizeof(*group->samples), &group->samples));
    }
    if (group->n_samples == session->config->grpo.num_generations) {
        return status_set(STATUS_BAD_FORMAT, "group %llu has too many samples in its manifest",
                          (unsigned long long)stored->group_id);
    }
    group->samples[group->n_samples] = stored->sample;
    group->samples[group->n_samples++].advantage = advantage;
    return STATUS_OK;
}

static enum status rebuild(struct session *session, const struct stored_manifest *manifest,
                           struct step_batch *batch)
{
    char digest[DIGEST128_TEXT];
    *batch = (struct step_batch){.step = manifest->step};
    TRY(arena_alloc(session->arena, manifest->n, sizeof(*batch->groups), &batch->groups));
    for (size_t i = 0; i < manifest->n; i++) {
        const struct stored_sample *stored =
            sample_store_find_id(session->store, (int64_t)manifest->sample_ids[i]);
        const enum status status =
            stored == NULL ? status_set(STATUS_BAD_FORMAT,
                                        "sample %llu of the manifest of step %zu is missing",
                                        (unsigned long long)manifest->sample_ids[i], manifest->step)
                           : append_sample(session, stored, manifest->advantages[i], batch);
        if (status != STATUS_OK) {
            return status;
        }
    }
    TRY(manifest_digest(batch, session->arena, digest));
    if (strcmp(digest, manifest->digest) != 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "the samples of step %zu are not those of its manifest", manifest->step);
    }
    return STATUS_OK;
}

static enum status replay(struct session *session, const struct stored_manifest *manifest)
{
    struct step_batch batch;
    if (manifest->step != session->step + 1) {
        return status_set(STATUS_BAD_FORMAT,
                          "the database has a manifest for step %zu, not for %zu", manifest->step,
                          session->step + 1);
    }
    arena_reset(session->arena);
    session->begin_us = clock_now_us();
    session->sampled_us = session->begin_us;
    TRY(rebuild(session, manifest, &batch));
    return session_learn(session, &batch);
}

enum status session_resume(struct session *session)
{
    TRY(load_checkpoint(session));
    publisher_offer(session->publisher, session->step);
    TRY(link_hello(session->link));
    TRY(fetch(session));
    size_t n_replayed = 0;
    for (const struct stored_manifest *m = session->first_manifest; m != NULL; m = m->next) {
        const enum status status = replay(session, m);
        if (status != STATUS_OK) {
            return status_wrap(status, "replay of step %zu", m->step);
        }
        n_replayed++;
    }
    if (n_replayed > 0) {
        log_info("resume", "replayed=%zu steps from the database, step=%zu", n_replayed,
                 session->step);
    }
    session->first_manifest = NULL;
    arena_reset(session->resume_arena);
    return STATUS_OK;
}
