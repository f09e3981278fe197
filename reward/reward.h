/* Front door of the reward service: `hone reward CONFIG`. It scores completions and is the only
 * writer of run.db. */
#ifndef HONE_REWARD_REWARD_H
#define HONE_REWARD_REWARD_H

#include "base/status.h"
#include "configs/config.h"

/* Serves run_dir until the trainer says BYE or a signal comes. Errors: SCORING (error budget),
 * NO_SPACE, IO (database), BAD_CONFIG (a scorer cannot start). */
MUST_CHECK enum status reward_main(const struct run_config *config, const char *run_dir);
/* Starts every scorer of the configuration once and stops it: the check before anything else runs.
 * Errors: BAD_CONFIG naming the reward and why. */
MUST_CHECK enum status reward_check(const struct run_config *config);

#endif
