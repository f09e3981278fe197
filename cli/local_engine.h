/* Owns an engine in this process, for commands that sample without workers. */
#ifndef HONE_CLI_LOCAL_ENGINE_H
#define HONE_CLI_LOCAL_ENGINE_H

#include "base/status.h"
#include "kernels/backend.h"
#include "model/policy.h"
#include "rollout/engine.h"

struct local_engine {
    struct backend *backend;
    struct policy *policy;
    struct engine *engine;
};

/* Opens the device, the model of a Hugging Face folder and an engine over it. Close *out, also
 * after a failure. */
MUST_CHECK enum status local_engine_open(const char *model_dir, const char *device,
                                         size_t n_threads, const struct engine_options *options,
                                         struct local_engine *out);
void local_engine_close(struct local_engine *local);

#endif
