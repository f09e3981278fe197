/* Owns writing run.db: the one read-write connection in the world (SQLite before 3.51.3 can corrupt
 * a WAL database that two connections write or checkpoint), which is also the only checkpointer. A
 * lock beside the file keeps a second writer out. Every put begins a transaction when none is open;
 * nothing is safe before writer_commit returned OK.
 *
 * Errors of every put and of commit: NO_SPACE and BUSY (roll back, wait, do it again), IO (a failed
 * fsync among them: leave), BAD_FORMAT (damaged), NO_MEMORY, BAD_ARGUMENT (a constraint). */
#ifndef HONE_DB_WRITER_H
#define HONE_DB_WRITER_H

#include "base/status.h"
#include "db/db.h"
#include "db/run_rows.h"

struct writer;

/* Opens or creates the database and its schema. Caller closes *out. Errors: BUSY when another
 * process writes it, BAD_FORMAT when the file is something else, UNSUPPORTED when it is newer. */
MUST_CHECK enum status writer_open(const char *path, struct writer **out);
/* Drops what is not committed, moves the log into the database. NULL is legal. */
void writer_close(struct writer *writer);
/* The connection, for db/reader.h; it sees what is not committed yet. Borrowed. */
struct db *writer_db(struct writer *writer);

MUST_CHECK enum status writer_begin(struct writer *writer);  /* no-op inside a transaction */
MUST_CHECK enum status writer_commit(struct writer *writer); /* no-op outside */
void writer_rollback(struct writer *writer);
/* A place inside the transaction to go back to: mark, then keep (forget the place) or undo. */
MUST_CHECK enum status writer_mark(struct writer *writer);
MUST_CHECK enum status writer_keep(struct writer *writer);
MUST_CHECK enum status writer_undo(struct writer *writer);
/* Rows put since the transaction began, and when it did (0 outside). */
size_t writer_pending(const struct writer *writer);
int64_t writer_pending_since_us(const struct writer *writer);
/* At a step boundary: moves the log into the database when it has grown past a few MiB and no
 * reader is in the way. *wal_bytes is its size afterwards. */
MUST_CHECK enum status writer_checkpoint(struct writer *writer, int64_t *wal_bytes);

/* The run by name, made or found. Errors: BAD_CONFIG when it exists with another configuration. */
MUST_CHECK enum status writer_put_run(struct writer *writer, const struct run_row *run,
                                      int64_t *run_id);
/* Errors: BAD_CONFIG when the component was recorded with another digest. */
MUST_CHECK enum status writer_put_fn(struct writer *writer, int64_t run_id, const struct fn_row *fn,
                                     int64_t *fn_id);
/* The next incarnation. resumed_from_step: the newest trained step, or none. */
MUST_CHECK enum status writer_put_incarnation(struct writer *writer, int64_t run_id,
                                              const char *host, int64_t pid, int64_t *inc);
MUST_CHECK enum status writer_end_incarnation(struct writer *writer, int64_t inc,
                                              const char *reason);
/* A worker by name, host and pid, made or found; sets last_seen. */
MUST_CHECK enum status writer_put_worker(struct writer *writer, int64_t run_id, const char *name,
                                         const char *host, int64_t pid, int64_t *worker_id);
/* A prompt by its digest, made or found. */
MUST_CHECK enum status writer_put_prompt(struct writer *writer, const struct prompt_row *prompt,
                                         int64_t *prompt_id);
MUST_CHECK enum status writer_put_group(struct writer *writer, const struct group_row *group);
/* *is_new is false, and nothing is written, when (group, idx, attempt) exists. */
MUST_CHECK enum status writer_put_sample(struct writer *writer, const struct sample_row *sample,
                                         bool *is_new);
MUST_CHECK enum status writer_set_sample(struct writer *writer, int64_t sample_id,
                                         enum row_status status, bool has_reward, double reward);
/* Records that the trainer refused a scored sample; a sample of a manifest keeps its status. */
MUST_CHECK enum status writer_retire_sample(struct writer *writer, int64_t sample_id,
                                            enum row_status status);
MUST_CHECK enum status writer_put_reward(struct writer *writer, const struct reward_row *reward);
/* Aggregates; an open group becomes scored when complete. */
MUST_CHECK enum status writer_set_totals(struct writer *writer, int64_t group_id,
                                         const struct group_totals *totals);
MUST_CHECK enum status writer_put_event(struct writer *writer, const struct event_row *event);

enum manifest_verdict {
    MANIFEST_WRITTEN,
    MANIFEST_SAME,    /* this step has it already */
    MANIFEST_DIFFERS, /* this step has another one */
    MANIFEST_UNFIT,   /* holds a sample that is unknown, not ok, or of another manifest */
};
/* All or nothing. *sample_id is the unfit one. */
MUST_CHECK enum status writer_put_manifest(struct writer *writer, int64_t run_id,
                                           const struct manifest_row *manifest,
                                           enum manifest_verdict *verdict, int64_t *sample_id);

/* Columns of steps that take their value from the metric of the same name. */
extern const char *const step_columns[];
extern const size_t n_step_columns;
enum step_verdict {
    STEP_WRITTEN,
    STEP_SAME, /* was trained to these weights before: the first report stays, nothing is written */
    STEP_DIFFERS, /* was trained to other weights before: replaced */
};
/* columns: n_step_columns values, NaN for none. The step's groups become trained or dropped. */
MUST_CHECK enum status writer_put_step(struct writer *writer, int64_t run_id,
                                       const struct step_row *step, const double *columns,
                                       enum step_verdict *verdict);
/* A value that is not finite is stored as NULL. */
MUST_CHECK enum status writer_put_metric(struct writer *writer, int64_t run_id, int64_t step,
                                         const char *name, double value);
/* stats: (n, TRAIN_STATS). */
MUST_CHECK enum status writer_put_train_stats(struct writer *writer, const uint64_t *sample_ids,
                                              const float *stats, size_t n);
MUST_CHECK enum status writer_put_experts(struct writer *writer, int64_t run_id, int64_t step,
                                          const struct expert_rows *experts);
/* In the place of what the worker said of the step before. */
MUST_CHECK enum status writer_put_sampling(struct writer *writer, int64_t run_id,
                                           const struct sampling_row *row);

#endif
