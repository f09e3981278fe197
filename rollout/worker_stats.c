/* What sampling under the present weights has come to: for the log when they go, and for the
 * database whenever the engine has nothing more to do. */
#include "base/log.h"
#include "base/process_info.h"
#include "rollout/worker_internal.h"

#include <unistd.h>

/* Since these weights came. */
static struct engine_stats stats_now(const struct worker *worker)
{
    struct engine_stats stats = engine_stats(worker->engine);
    const struct engine_stats *before = &worker->stats;

    stats.n_tokens -= before->n_tokens;
    stats.n_turns -= before->n_turns;
    stats.n_turn_tokens -= before->n_turn_tokens;
    stats.n_fed -= before->n_fed;
    stats.n_right -= before->n_right;
    stats.n_preempted -= before->n_preempted;
    stats.n_prompt_tokens -= before->n_prompt_tokens;
    stats.n_prefix_tokens -= before->n_prefix_tokens;
    stats.n_resumed_tokens -= before->n_resumed_tokens;
    return stats;
}

void worker_log_stats(struct worker *worker)
{
    const struct engine_stats stats = stats_now(worker);

    if (stats.n_fed > 0 && stats.n_turns > 0) {
        log_info("rollout", "drafts=%llu accepted=%.3f tokens_per_turn=%.3f",
                 (unsigned long long)stats.n_fed, (double)stats.n_right / (double)stats.n_fed,
                 (double)stats.n_turn_tokens / (double)stats.n_turns);
    }
    if (stats.n_preempted > 0 || stats.n_prefix_tokens > 0) {
        log_info(
            "rollout", "preempted=%llu resumed_tokens=%llu prompt_tokens=%llu prefix_tokens=%llu",
            (unsigned long long)stats.n_preempted, (unsigned long long)stats.n_resumed_tokens,
            (unsigned long long)stats.n_prompt_tokens, (unsigned long long)stats.n_prefix_tokens);
    }
    worker->stats = engine_stats(worker->engine);
    worker->n_tokens_told = 0;
}

static enum status sampling_message(const struct worker *worker, const struct engine_stats *stats,
                                    struct message **out)
{
    const struct {
        const char *key;
        uint64_t value;
    } counts[] = {
        {"tokens", stats->n_tokens},
        {"turns", stats->n_turns},
        {"turn_tokens", stats->n_turn_tokens},
        {"drafts", stats->n_fed},
        {"drafts_right", stats->n_right},
        {"preempted", stats->n_preempted},
        {"resumed_tokens", stats->n_resumed_tokens},
        {"prompt_tokens", stats->n_prompt_tokens},
        {"prefix_tokens", stats->n_prefix_tokens},
    };

    struct process_memory memory;

    TRY(message_create(MESSAGE_SAMPLING, out));
    if (process_info_memory(getpid(), &memory)) {
        message_put_int(*out, "memory_bytes", (int64_t)memory.bytes);
    }
    message_put_int(*out, "weight_version", worker->held.version);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        message_put_int(*out, counts[i].key, (int64_t)counts[i].value);
    }
    return STATUS_OK;
}

enum status worker_tell_stats(struct worker *worker)
{
    struct message *message = NULL;
    bool was_sent = false;

    if (!engine_is_idle(worker->engine) || worker->held.version < 0 ||
        !worker->reward_contact.is_up) {
        return STATUS_OK;
    }
    const struct engine_stats stats = stats_now(worker);
    if (stats.n_tokens == worker->n_tokens_told) {
        return STATUS_OK;
    }
    TRY(sampling_message(worker, &stats, &message));
    TRY(worker_send(worker->reward, message, &was_sent));
    worker->n_tokens_told = was_sent ? stats.n_tokens : 0;
    return STATUS_OK;
}
