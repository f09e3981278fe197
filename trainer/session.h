/* Owns one GRPO run inside the trainer process: what is open, how far it is, what it waits for.
 * Used by trainer.c, resume.c and step.c only. */
#ifndef HONE_TRAINER_SESSION_H
#define HONE_TRAINER_SESSION_H

#include "base/arena.h"
#include "base/message.h"
#include "base/status.h"
#include "trainer/checkpoint.h"
#include "trainer/grpo.h"
#include "trainer/link.h"
#include "trainer/sample_store.h"
#include "trainer/setup.h"
#include "trainer/speed.h"
#include "trainer/trainer.h"

/* A prompt of the step at hand. */
struct open_group {
    uint64_t id;
    int32_t *prompt; /* arena */
    size_t n_prompt;
    bool is_acknowledged; /* the reward service has its row on disk */
};

/* A manifest that the database holds and the newest checkpoint does not. */
struct stored_manifest {
    size_t step;
    char digest[DIGEST128_TEXT];
    uint64_t *sample_ids;
    float *advantages;
    size_t n;
    struct stored_manifest *next;
};

struct session {
    const struct run_config *config;
    const char *run_dir;
    char *checkpoints_dir;
    struct file_lock *lock; /* of the run's trainer */
    char config_sha[65];
    step_listener *listener;
    void *listener_context;

    struct setup_data data;
    struct backend *backend;
    struct policy *policy, *reference;
    struct learner *learner;
    struct schedule schedule;
    struct publisher *publisher;
    struct dispatch *dispatch;
    struct link *link;
    struct sample_store *store;
    struct arena *arena;        /* of the step */
    struct arena *resume_arena; /* manifests to replay */
    struct speed *speed;

    size_t step; /* steps done = version of the weights */
    struct open_group *groups;
    size_t n_groups;
    size_t n_groups_acknowledged;
    struct stored_manifest *first_manifest, *last_manifest;
    bool is_fetched, is_manifest_stored, is_step_stored;
    size_t awaited_step;                                 /* of MANIFEST_OK and STEP_OK */
    int64_t begin_us, sampled_us, stored_us, trained_us; /* marks of the step at hand */
    double trained_flops;                                /* of the step at hand */
    double trained_bytes;    /* that this process held when it had trained; NaN: not known */
    double seconds_per_step; /* running mean, for the estimate of the end */
};

MUST_CHECK enum status session_open(struct session *session);
void session_close(struct session *session);

/* Step of a group, and the position of its prompt in the order of the data: both follow from its
 * number. */
size_t session_group_step(const struct session *session, uint64_t group_id);

/* Loads the newest checkpoint (or the model's weights), then trains the stored manifests after it
 * again (resume.c). */
MUST_CHECK enum status session_resume(struct session *session);
/* Sampling, storing, learning, reporting of step session->step + 1 (step.c). */
MUST_CHECK enum status session_step(struct session *session);
/* Learns a batch whose manifest is stored and reports it; session->step goes up (step.c). */
MUST_CHECK enum status session_learn(struct session *session, const struct step_batch *batch);
/* Writes a checkpoint of the weights as they are, unless there is one (trainer.c). */
MUST_CHECK enum status session_checkpoint(struct session *session);

/* The prompt of a group, encoded, in the arena (prompts.c). */
MUST_CHECK enum status session_encode_prompt(struct session *session, uint64_t group_id,
                                             struct arena *arena, int32_t **prompt,
                                             size_t *n_prompt);
/* Opens the groups of a step: rows stored, leases ready, samples that are here already counted
 * (prompts.c). */
MUST_CHECK enum status session_open_groups(struct session *session, size_t step);
/* Fills WORK for a group of the step at hand (a link_work_filler). */
enum status session_fill_work(void *context, uint64_t group_id, struct message *work);

/* XXH3-128 over group, idx, tokens, log-probabilities and advantage of every sample in order, as
 * hexadecimal text (manifest.c). */
MUST_CHECK enum status manifest_digest(const struct step_batch *batch, struct arena *arena,
                                       char out[DIGEST128_TEXT]);

/* Metrics of a step under their public names (report.c). Caller destroys *out. */
MUST_CHECK enum status report_metrics(struct session *session, const struct step_batch *batch,
                                      const struct grpo_stats *stats, size_t n_without_signal,
                                      struct json **out);
/* Tells the listener, and fills what the running estimates need (report.c). */
void report_progress(struct session *session, const struct json *metrics);

#endif
