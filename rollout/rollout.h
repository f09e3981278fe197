/* Front door of the rollout worker: `hone rollout CONFIG`. */
#ifndef HONE_ROLLOUT_ROLLOUT_H
#define HONE_ROLLOUT_ROLLOUT_H

#include "base/status.h"
#include "configs/config.h"
#include "rollout/engine.h"

/* Samples for the trainer of run_dir until it says BYE or a signal comes. name: "w0", "w1"...;
 * unique among living workers. Weights come from the trainer; model.path gives the architecture
 * only. Errors as statuses of the cause; TIMEOUT when no trainer answers. */
MUST_CHECK enum status rollout_main(const struct run_config *config, const char *run_dir,
                                    const char *name);

/* Checks what a worker needs before any is started: positions for a whole sequence, and room for
 * one in rollout.kv_cache_bytes. */
MUST_CHECK enum status rollout_check(const struct run_config *config);
/* Threads of each worker. */
size_t rollout_thread_count(const struct run_config *config);
/* How large a worker of this configuration makes its engine. */
struct engine_options rollout_engine_options(const struct run_config *config);

#endif
