#include "cli/local_engine.h"

#include "base/log.h"

enum status local_engine_open(const char *model_dir, const char *device, size_t n_threads,
                              const struct engine_options *options, struct local_engine *out)
{
    const struct policy_options policy_options = engine_policy_options(options);

    *out = (struct local_engine){.backend = NULL};
    TRY(backend_open(device, n_threads, &out->backend));
    TRY(policy_load(out->backend, model_dir, &policy_options, &out->policy));
    const size_t n_positions = policy_config(out->policy)->max_positions;
    if (options->max_sequence > n_positions) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "prompt and completion may have %zu tokens, %s has %zu positions",
                          options->max_sequence, model_dir, n_positions);
    }
    TRY(engine_rehearse(out->backend, policy_config(out->policy), options));
    TRY(engine_create(out->policy, options, &out->engine));
    return engine_measure(out->engine);
}

static void log_stats(const struct engine *engine)
{
    const struct engine_stats stats = engine_stats(engine);

    log_debug(
        "engine",
        "tokens=%llu turns=%llu turn_tokens=%llu drafts=%llu drafts_right=%llu preempted=%llu "
        "resumed_tokens=%llu prompt_tokens=%llu prefix_tokens=%llu",
        (unsigned long long)stats.n_tokens, (unsigned long long)stats.n_turns,
        (unsigned long long)stats.n_turn_tokens, (unsigned long long)stats.n_fed,
        (unsigned long long)stats.n_right, (unsigned long long)stats.n_preempted,
        (unsigned long long)stats.n_resumed_tokens, (unsigned long long)stats.n_prompt_tokens,
        (unsigned long long)stats.n_prefix_tokens);
}

void local_engine_close(struct local_engine *local)
{
    if (local->engine != NULL) {
        log_stats(local->engine);
    }
    engine_destroy(local->engine);
    policy_destroy(local->policy);
    backend_close(local->backend);
    *local = (struct local_engine){.backend = NULL};
}
