/* Owns what the files of the reward service share: its state, and the ways between sockets, intake,
 * scorers and database.
 *
 * A message that writes stays in the inbox until the transaction that holds its rows is committed;
 * its answer leaves after that. When the disk is full or the database is held, the transaction is
 * rolled back, memory is rebuilt from the database, and the messages in the inbox are done again:
 * nothing is lost and nothing is answered too early. */
#ifndef HONE_REWARD_REWARD_SERVICE_INTERNAL_H
#define HONE_REWARD_REWARD_SERVICE_INTERNAL_H

#include "base/arena.h"
#include "base/message.h"
#include "base/socket.h"
#include "configs/config.h"
#include "db/blob.h"
#include "db/reader.h"
#include "db/writer.h"
#include "reward/intake.h"
#include "reward/scoring.h"

enum source { SOURCE_RESULTS, SOURCE_SCORED }; /* from workers, from the trainer */

/* What a group needs to be scored and stored; the payload of an intake_group. */
struct group_data {
    struct json *row, *answer; /* answer may be NULL */
    char *prompt_text, *data_source;
    size_t prompt_bytes;
    int32_t *prompt; /* (n_prompt) */
    size_t n_prompt;
};

struct inbox_entry {
    enum source source;
    struct peer_id peer;
    struct message *message;
};
struct answer {
    enum source source;
    struct peer_id peer;
    struct message *message;
};
/* What waits to go to the trainer, in order. */
enum parcel_kind {
    PARCEL_MESSAGE,  /* ready as it is */
    PARCEL_SCORED,   /* the sample `id`, once it is committed; watched until TAKEN */
    PARCEL_REPLAY,   /* the sample `id` of a manifest; not watched */
    PARCEL_MANIFEST, /* the manifest of step `id` */
};
struct parcel {
    enum parcel_kind kind;
    int64_t id;
    struct message *message; /* built on first use */
};

#define WORKERS_MAX 1024u
struct worker_peer {
    struct peer_id peer;
    int64_t worker_id; /* row */
    int64_t seen_us;
    char numerics[129];
    char name[65];
    bool is_refused;
};

/* When the newest step's last completion came and its last score was known: what lies between is
 * the time that the step waited for its rewards alone. */
struct reward_wait {
    int64_t step; /* 0: none yet */
    int64_t completed_us, scored_us;
};

#define FN_MAX 64u
#define INBOX_MAX 256u

#define FULL_MAX_US INT64_C(20000000)
#define BUSY_MAX_US INT64_C(120000000)

struct service {
    const struct run_config *config;
    char config_sha[65];
    char database[1024]; /* path, for messages */

    struct writer *writer;
    struct scoring *scoring;
    struct intake *intake;
    struct error_budget budget;
    struct socket_context *context;
    struct socket *results, *scored;
    struct arena *arena;        /* of one message or one row */
    struct byte_buffer scratch; /* prompt and completion ids together; digests */
    int64_t run_id;
    int64_t fn_ids[FN_MAX];
    const struct scoring_component *components;
    size_t n_components;
    int64_t next_sample_id;
    struct reward_wait reward_wait;

    struct holder holder; /* the trainer */
    struct peer_id trainer;
    char trainer_numerics[129];
    bool has_trainer;
    struct worker_peer workers[WORKERS_MAX];
    size_t n_workers;

    struct inbox_entry inbox[INBOX_MAX];
    size_t n_inbox, n_done; /* done: their rows are in the open transaction */
    struct answer *answers;
    size_t n_answers, answers_room;
    struct parcel *parcels; /* [parcel_head, n_parcels) are to be sent */
    size_t parcel_head, n_parcels, parcels_room;

    bool is_urgent;        /* somebody waits for the commit */
    bool wants_checkpoint; /* a step ended: move the log into the database when idle */
    bool is_over;          /* the trainer said BYE */
    bool is_wal_told;
    int64_t resend_due_us;
    int64_t paused_since_us; /* 0: working */
    int64_t pause_ends_us;   /* then it is a failure */
    int64_t retry_due_us;
    size_t n_malformed;
};

/* --- reward_service_open.c --- */
/* service: zeros. Close it whatever this returns. */
MUST_CHECK enum status service_open(struct service *service, const struct run_config *config,
                                    const char *run_dir);
void service_close(struct service *service);
/* After a rollback: scorers, groups and the holder as the database knows them. */
MUST_CHECK enum status service_rebuild(struct service *service);

/* --- reward_service_store.c: rows and memory --- */
/* The group in memory or from the database (its scored samples then count as taken); NULL when it
 * is unknown. */
MUST_CHECK enum status service_group(struct service *service, int64_t group_id,
                                     struct intake_group **out);
/* Loads every open group and every waiting sample: at start and after a rollback. */
MUST_CHECK enum status service_load(struct service *service);
/* Open groups after a step into memory, their scored samples queued for the trainer in order. */
MUST_CHECK enum status service_load_open(struct service *service, int64_t after_step,
                                         int64_t *n_queued);
void group_data_destroy(void *data);
/* Parses and copies; *out owned by the caller. */
MUST_CHECK enum status group_data_create(const struct prompt_row *prompt, struct group_data **out);
MUST_CHECK enum status service_submit(struct service *service, const struct intake_group *group,
                                      const struct sample_row *sample);
MUST_CHECK enum status service_event(struct service *service, const char *level, const char *kind,
                                     int64_t step, int64_t group_id, const char *text);

/* --- reward_service_waits.c --- */
/* If SIGUSR2 came: the list of waits. */
void service_tell_waits(const struct service *service);

/* --- reward_service_score.c: results of scorers --- */
MUST_CHECK enum status service_score(struct service *service, int64_t now_us);
/* A completion of the group was stored, or got its last score. */
void service_note_completed(struct service *service, const struct intake_group *group);
void service_note_scored(struct service *service, const struct intake_group *group);
/* From the step's last completion to its last score, 0 when no score came later; NaN when this
 * service has not seen both. */
double service_reward_us(const struct service *service, int64_t step);
/* After a manifest: is the budget of its step used up? */
MUST_CHECK enum status service_check_budget(struct service *service, int64_t step);

/* --- reward_service_mail.c: answers and parcels --- */
/* Takes message. The answer leaves after the next commit. */
MUST_CHECK enum status service_answer(struct service *service, const struct inbox_entry *to,
                                      struct message *message);
MUST_CHECK enum status service_answer_int(struct service *service, const struct inbox_entry *to,
                                          enum message_type type, const char *key, int64_t value);
MUST_CHECK enum status service_refuse(struct service *service, const struct inbox_entry *to,
                                      const char *reason);
/* Takes message (may be NULL). */
MUST_CHECK enum status service_post(struct service *service, enum parcel_kind kind, int64_t id,
                                    struct message *message);
void service_drop_answers(struct service *service);
void service_drop_parcels(struct service *service);
/* Sends what may be sent; nothing of an open transaction is ever passed here. */
MUST_CHECK enum status service_send_answers(struct service *service);
MUST_CHECK enum status service_send_parcels(struct service *service, int64_t now_us);
/* Tells the trainer now, whatever is open: the service is about to leave. */
void service_tell_end(struct service *service, const char *reason);

/* --- reward_service_worker.c, reward_service_trainer.c, reward_service_steps.c: handlers --- */
MUST_CHECK enum status service_on_results(struct service *service, const struct inbox_entry *entry,
                                          int64_t now_us);
MUST_CHECK enum status service_on_scored(struct service *service, const struct inbox_entry *entry,
                                         int64_t now_us);
MUST_CHECK enum status service_on_manifest(struct service *service,
                                           const struct inbox_entry *entry);
MUST_CHECK enum status service_on_step(struct service *service, const struct inbox_entry *entry);
MUST_CHECK enum status service_on_fetch(struct service *service, const struct inbox_entry *entry);
/* service_refuse and an event. */
MUST_CHECK enum status service_refuse_trainer(struct service *service,
                                              const struct inbox_entry *entry, const char *problem);
/* Why a HELLO cannot be welcomed (in the arena), or NULL. numerics: what the other side runs on, ""
 * when not known. */
MUST_CHECK enum status service_hello_problem(struct service *service, const struct message *message,
                                             const char *numerics, const char *other,
                                             const char **problem);

#endif
