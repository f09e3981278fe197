/* Owns the loop of `hone eval`: rows of data.eval through the engine and the rewards of a
 * configuration, in this process. */
#ifndef HONE_CLI_EVAL_RUN_H
#define HONE_CLI_EVAL_RUN_H

#include "base/status.h"
#include "cli/eval_tally.h"
#include "configs/config.h"

struct eval_request {
    const struct run_config *config;
    const char *pass_at;      /* "1,4", or NULL: chosen by eval.num_generations */
    const char *samples_path; /* one object a sample is written there; NULL: none */
    bool wants_json;
};

/* Evaluates and prints the report. Errors: BAD_CONFIG, BAD_ARGUMENT (a k that is none), what the
 * engine and the scorers give, CANCELLED after a signal. */
MUST_CHECK enum status eval_run(const struct eval_request *request);

#endif
