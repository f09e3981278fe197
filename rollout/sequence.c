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

static size_t shared_pages(size_t n_prompt)
{
    return (n_prompt - 1) / KV_BLOCK_TOKENS;
}

/* What group_create needs in one block: the struct and the names (multiples of 8 bytes), then three
 * arrays. */
static bool group_bytes(const struct engine_request *request, size_t *bytes)
{
    size_t n_ids = 0, id_bytes = 0, name_bytes = 0;

    return size_add(request->n_prompt, request->n_samples, &n_ids) &&
           size_add(n_ids, kv_cache_pages_for(request->n_prompt), &n_ids) &&
           size_multiply(n_ids, sizeof(int32_t), &id_bytes) &&
           size_multiply(shared_pages(request->n_prompt), sizeof(struct digest256), &name_bytes) &&
           size_add(id_bytes, name_bytes, bytes) && size_add(*bytes, sizeof(struct group), bytes);
}

/* A page's name: of all tokens up to its end, and of the one behind it, which the modules that
 * draft read there. */
static void name_pages(struct group *group)
{
    struct {
        struct digest256 before;
        int32_t tokens[KV_BLOCK_TOKENS + 1];
    } block;

    memset(&block, 0, sizeof(block));
    for (size_t i = 0; i < group_shared_pages(group); i++) {
        memcpy(block.tokens, group->prompt + i * KV_BLOCK_TOKENS, sizeof(block.tokens));
        group->names[i] = hash_sha256(&block, sizeof(block));
        block.before = group->names[i];
    }
}

enum status group_create(const struct engine_request *request, struct group **out)
{
    struct group *group = NULL;
    size_t bytes = 0;

    *out = NULL;
    if (request->n_prompt == 0 || !group_bytes(request, &bytes)) {
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
    group->names = (struct digest256 *)(void *)(group + 1);
    group->prompt = (int32_t *)(void *)(group->names + group_shared_pages(group));
    group->samples = group->prompt + group->n_prompt;
    group->blocks = group->samples + group->n_samples;
    memcpy(group->prompt, request->prompt, group->n_prompt * sizeof(int32_t));
    memcpy(group->samples, request->samples, group->n_samples * sizeof(int32_t));
    name_pages(group);
    *out = group;
    return STATUS_OK;
}

size_t group_shared_pages(const struct group *group)
{
    return shared_pages(group->n_prompt);
}

size_t group_prompt_pages(const struct group *group)
{
    return kv_cache_pages_for(group->n_prompt);
}

size_t group_sample_pages(const struct group *group)
{
    return kv_cache_pages_for(group->n_prompt + group->max_tokens - 1) - group_shared_pages(group);
}

void group_set_drafted(struct group *group, bool is_drafted)
{
    for (size_t i = 0; is_drafted != group->is_drafted && i < group_shared_pages(group); i++) {
        group->names[i].bytes[0] ^= 1;
    }
    group->is_drafted = is_drafted;
}

int32_t group_token(const struct group *group, const int32_t *drawn, size_t position)
{
    return position < group->n_prompt ? group->prompt[position] : drawn[position - group->n_prompt];
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
