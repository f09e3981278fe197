/* Groups and sequences: sizes, and the end conditions of a sample. */
#include "rollout/sequence.h"

#include "base/memory.h"
#include "rollout/kv_cache.h"

#include <string.h>

const char *finish_name(enum finish finish)
{
    static const char *const names[] = {"stop", "length", "abort"};

    return names[finish];
}

/* What group_create needs in one block: the struct (a multiple of 8 bytes), then three arrays. */
static bool group_bytes(const struct engine_request *request, size_t *n_ids, size_t *bytes)
{
    size_t id_bytes = 0;

    return size_add(request->n_prompt, request->n_samples, n_ids) &&
           size_add(*n_ids, kv_cache_pages_for(request->n_prompt), n_ids) &&
           size_multiply(*n_ids, sizeof(int32_t), &id_bytes) &&
           size_add(id_bytes, sizeof(struct group), bytes);
}

enum status group_create(const struct engine_request *request, struct group **out)
{
    struct group *group = NULL;
    size_t n_ids = 0;
    size_t bytes = 0;

    *out = NULL;
    if (!group_bytes(request, &n_ids, &bytes)) {
        return status_set(STATUS_BAD_ARGUMENT, "a group of %zu tokens and %zu samples is too large",
                          request->n_prompt, request->n_samples);
    }
    TRY(memory_alloc(1, bytes, &group));
    group->seed = request->seed;
    group->id = request->group;
    group->tag = request->tag;
    group->max_tokens = request->max_tokens;
    group->sampling = request->sampling;
    group->n_prompt = request->n_prompt;
    group->n_samples = request->n_samples;
    group->prompt = (int32_t *)(void *)(group + 1);
    group->samples = group->prompt + group->n_prompt;
    group->blocks = group->samples + group->n_samples;
    memcpy(group->prompt, request->prompt, group->n_prompt * sizeof(int32_t));
    memcpy(group->samples, request->samples, group->n_samples * sizeof(int32_t));
    *out = group;
    return STATUS_OK;
}

size_t group_shared_pages(const struct group *group)
{
    return (group->n_prompt - 1) / KV_BLOCK_TOKENS;
}

size_t group_prompt_pages(const struct group *group)
{
    return kv_cache_pages_for(group->n_prompt);
}

size_t group_sample_pages(const struct group *group)
{
    return kv_cache_pages_for(group->n_prompt + group->max_tokens - 1) - group_shared_pages(group);
}

size_t sequence_length(const struct sequence *sequence)
{
    return sequence->group->n_prompt + sequence->n_tokens;
}

bool sequence_append(struct sequence *sequence, int32_t token, float logp, bool is_end_token)
{
    sequence->tokens[sequence->n_tokens] = token;
    sequence->logprobs[sequence->n_tokens] = logp;
    sequence->n_tokens++;
    if (is_end_token) {
        sequence->finish = FINISH_STOP;
        return true;
    }
    sequence->finish = FINISH_LENGTH;
    return sequence->n_tokens == sequence->group->max_tokens;
}
