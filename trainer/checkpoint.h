/* Owns checkpoints: what is in the folder, how it becomes durable, how damage is found
 * (reliability.md I5).
 *
 *   checkpoints/step_N/
 *     config.json model.safetensors tokenizer files   loads elsewhere as it is
 *     state/optimizer.bin   "HONEOPT1", u64 floats, u64 updates, f32 m[], f32 v[]; little-endian
 *     MANIFEST              JSON, written last: step, configuration, numerics id, weight digest,
 *                           size of every file and digest of its 4 MiB blocks
 *
 * A folder is written as step_N.tmp and renamed when everything in it is on disk. The newest
 * checkpoint is the highest N whose MANIFEST verifies; there is no pointer file. A damaged one is
 * renamed step_N.corrupt and the one before is used. */
#ifndef HONE_TRAINER_CHECKPOINT_H
#define HONE_TRAINER_CHECKPOINT_H

#include "base/hash.h"
#include "base/status.h"
#include "trainer/learner.h"

#include <stddef.h>

struct checkpoint_info {
    size_t step; /* steps done; the weights are version `step` */
    char config_sha[65];
    char numerics[64];
    struct digest128 weight_digest;
};

/* Writes checkpoints_dir/step_N, verifies it, and then removes all but the keep_last newest.
 * model_dir: where the tokenizer files are. Errors: NO_SPACE, IO, NO_MEMORY; older checkpoints are
 * untouched then. */
MUST_CHECK enum status checkpoint_save(const char *checkpoints_dir, struct learner *learner,
                                       const struct checkpoint_info *info, const char *model_dir,
                                       size_t keep_last);

/* Path of the newest whole checkpoint (caller frees *path; NULL when there is none) and its info.
 * Removes leftovers (*.tmp). */
MUST_CHECK enum status checkpoint_find(const char *checkpoints_dir, char **path,
                                       struct checkpoint_info *info);

/* Fills the learner's weights, moments and update count; checks the weight digest. Errors:
 * BAD_FORMAT, IO. */
MUST_CHECK enum status checkpoint_load(const char *path, const struct checkpoint_info *info,
                                       struct learner *learner);

#endif
