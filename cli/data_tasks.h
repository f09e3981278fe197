/* Owns the tasks of `hone data make` (grpo.md 15.5): rows that are a function of task, seed, part
 * and index, so that any count of one file leaves the others as they are. */
#ifndef HONE_CLI_DATA_TASKS_H
#define HONE_CLI_DATA_TASKS_H

#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum data_part { DATA_TRAIN, DATA_HELDOUT, DATA_SFT_WORKED, DATA_SFT_MIX, N_DATA_PARTS };

struct data_task {
    const char *name, *summary;
    bool has_worked; /* has the two SFT parts */
};
/* All tasks, *n of them. */
const struct data_task *data_tasks(size_t *n);
/* NULL: no such task. */
const struct data_task *data_task_find(const char *name);

#define DATA_ROWS_MAX ((uint64_t)5000000) /* of a part */
/* Row index of a part: {prompt, answer, data_source} or, in SFT parts, {prompt, completion}. No
 * prompt of one part is in another; prompts of modsum are distinct within a part too. Caller
 * destroys *out. Errors: NO_MEMORY. */
MUST_CHECK enum status data_task_row(const struct data_task *task, uint64_t seed,
                                     enum data_part part, uint64_t index, struct json **out);

#endif
