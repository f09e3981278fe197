/* Owns typed reads of a run: what a restarted reward service, a fetching trainer and `hone show`
 * need. Results live in the caller's arena. Works on any connection. */
#ifndef HONE_DB_READER_H
#define HONE_DB_READER_H

#include "base/arena.h"
#include "base/status.h"
#include "db/db.h"
#include "db/run_rows.h"

struct id_list {
    int64_t *ids;
    size_t count;
};

/* Errors of all: NO_MEMORY, IO, BUSY, BAD_FORMAT (a damaged blob, naming the sample). */

/* inc 0: the run has none. */
MUST_CHECK enum status reader_incarnation(struct db *db, int64_t run_id, struct arena *arena,
                                          struct incarnation_row *out);
MUST_CHECK enum status reader_sample_id_max(struct db *db, int64_t *out);
/* prompt may be NULL. */
MUST_CHECK enum status reader_group(struct db *db, int64_t group_id, struct arena *arena,
                                    struct group_row *group, struct prompt_row *prompt,
                                    bool *found);
/* Every sample ever stored for the group, with its arrays, by idx, then attempt. */
MUST_CHECK enum status reader_group_samples(struct db *db, int64_t group_id, struct arena *arena,
                                            struct sample_row **out, size_t *n);
MUST_CHECK enum status reader_sample(struct db *db, int64_t sample_id, struct arena *arena,
                                     struct sample_row *out, bool *found);
/* Scores in component order. */
MUST_CHECK enum status reader_rewards(struct db *db, int64_t sample_id, struct arena *arena,
                                      struct reward_row **out, size_t *n);
/* Training groups after after_step whose step has no manifest yet, by id. */
MUST_CHECK enum status reader_open_groups(struct db *db, int64_t run_id, int64_t after_step,
                                          struct arena *arena, struct id_list *out);
/* Groups of any kind that hold a sample that was never scored. */
MUST_CHECK enum status reader_waiting_groups(struct db *db, int64_t run_id, struct arena *arena,
                                             struct id_list *out);
/* Steps after after_step that have a manifest, ascending. */
MUST_CHECK enum status reader_manifest_steps(struct db *db, int64_t run_id, int64_t after_step,
                                             struct arena *arena, struct id_list *out);
MUST_CHECK enum status reader_manifest(struct db *db, int64_t run_id, int64_t step,
                                       struct arena *arena, struct manifest_row *out, bool *found);

#endif
