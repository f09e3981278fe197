/* Owns sampling without sockets: groups in, completions out. Continuous batching over a paged
 * latent cache; the prompt of a group is prefilled once, its full pages are shared, also with later
 * groups whose prompts begin alike; when pages run out the youngest sequences are put off and
 * computed anew. A worker is an engine plus messages; `hone eval` and `hone generate` are an engine
 * plus a loop. */
#ifndef HONE_ROLLOUT_ENGINE_H
#define HONE_ROLLOUT_ENGINE_H

#include "base/status.h"
#include "kernels/backend.h"
#include "model/policy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;

/* Drafts of one sequence at most. */
#define DRAFTS_MAX ((size_t)8)

struct engine_options {
    size_t max_num_seqs;      /* sequences that run at once */
    size_t max_batch_tokens;  /* rows of one forward: prefill chunk budget */
    size_t max_sequence;      /* prompt + completion tokens of one sequence at most */
    size_t kv_cache_bytes;    /* at least of one full sequence; 0: of max_num_seqs of them */
    size_t n_drafts;          /* tokens that the MTP modules guess ahead of a sequence at most, up
                                 to DRAFTS_MAX and what the policy was made for; 0: none */
    size_t spec_max_batch;    /* sequences at once with n_drafts each; 0: see engine_measure */
    enum precision precision; /* that the policy is made with; the engine itself does not look */
    enum precision cache;     /* likewise: policy_options.cache */
};

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_ABORT };
const char *finish_name(enum finish finish); /* "stop" ... */

/* What one tick of the engine finished; arrays borrowed until the next tick. */
struct completion {
    uint64_t group;
    uint32_t sample;       /* idx in the group */
    void *tag;             /* of the request */
    const int32_t *tokens; /* end token included */
    const float *logprobs;
    size_t n_tokens;
    enum finish finish;
    int64_t gen_us;
};
struct engine_request {
    uint64_t seed, group;
    const int32_t *prompt;
    size_t n_prompt;
    const int32_t *samples; /* idx of each wanted sample */
    size_t n_samples;
    size_t max_tokens;
    struct sampling_params sampling;
    void *tag;
};

/* Pages of page_bytes that an engine of these options has. Errors: BAD_CONFIG when kv_cache_bytes
 * does not hold one sequence. */
MUST_CHECK enum status engine_pages(const struct engine_options *options, size_t page_bytes,
                                    size_t *n_pages);
/* What the policy of such an engine is made for. */
struct policy_options engine_policy_options(const struct engine_options *options);
/* The backend takes what its ops need for an engine of these options, before its first tick does.
 */
MUST_CHECK enum status engine_rehearse(struct backend *backend, const struct model_config *model,
                                       const struct engine_options *options);
/* policy: borrowed, from policy_create with max_rows >= max_batch_tokens and n_drafts of the same
 * number. The end tokens are the model's. */
MUST_CHECK enum status engine_create(struct policy *policy, const struct engine_options *options,
                                     struct engine **out);
void engine_destroy(struct engine *engine);
/* Queues a group (copied). Errors: BAD_ARGUMENT when it can never fit. */
MUST_CHECK enum status engine_submit(struct engine *engine, const struct engine_request *request);
/* One forward over what is scheduled; *completions (count *n) are those that finished. No work: *n
 * = 0 and nothing happens. */
MUST_CHECK enum status engine_tick(struct engine *engine, const struct completion **completions,
                                   size_t *n);
/* Tokens that an unfinished sample has so far, into *tokens (borrowed until the next tick); 0 when
 * it has none yet. */
size_t engine_drawn(const struct engine *engine, uint64_t group, uint32_t sample,
                    const int32_t **tokens);
/* Other weights are in the policy: no page of the old ones is used again. Until the first time,
 * drafts are made whatever the batch is; then (it takes some milliseconds, the first few times)
 * only where they are measured to be faster. The engine must be idle. */
MUST_CHECK enum status engine_measure(struct engine *engine);
/* No page of a prompt that came before is used again. The engine must be idle. */
void engine_forget_prompts(struct engine *engine);
/* There is nothing to sample in the near future: memory that is large goes back (policy_rest,
 * policy_cache_rest), with it what the prompts' pages held. The engine must be idle. */
void engine_rest(struct engine *engine);
/* What that gives back of a cache of so many bytes. */
size_t engine_resting_bytes(size_t cache_bytes);
/* Since engine_create. */
struct engine_stats {
    uint64_t n_tokens;         /* drawn */
    uint64_t n_turns;          /* of sequences, behind their first token */
    uint64_t n_turn_tokens;    /* that these gave */
    uint64_t n_fed, n_right;   /* drafts that the model judged, and that were what it drew */
    uint64_t n_preempted;      /* sequences put off for want of pages */
    uint64_t n_prompt_tokens;  /* of prompts, computed */
    uint64_t n_prefix_tokens;  /* ... found in pages of others that begin alike */
    uint64_t n_resumed_tokens; /* computed anew after n_preempted */
};
struct engine_stats engine_stats(const struct engine *engine);
bool engine_is_idle(const struct engine *engine);
/* Drops every group with this id, running or waiting. */
void engine_cancel(struct engine *engine, uint64_t group);
size_t engine_queued(const struct engine *engine); /* sequences running and waiting */
uint64_t engine_tokens_drawn(const struct engine *engine);
size_t engine_cache_bytes(const struct engine *engine);

#endif
