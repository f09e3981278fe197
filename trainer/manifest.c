/* The identity of a step's data: replaying equal bytes gives equal weights. */
#include "trainer/session.h"

#include <string.h>

struct sample_key {
    uint64_t group_id;
    uint32_t idx, n_tokens;
    struct digest128 tokens, logprobs;
    float advantage;
    uint32_t zero;
};

enum status manifest_digest(const struct step_batch *batch, struct arena *arena,
                            char out[DIGEST128_TEXT])
{
    struct sample_key *keys = NULL;
    size_t n = 0;
    TRY(arena_alloc(arena, step_batch_samples(batch), sizeof(*keys), &keys));
    for (size_t g = 0; g < batch->n_groups; g++) {
        const struct sample_group *group = &batch->groups[g];
        for (size_t i = 0; i < group->n_samples; i++) {
            const struct sample *sample = &group->samples[i];
            keys[n++] = (struct sample_key){
                .group_id = group->group_id,
                .idx = (uint32_t)sample->idx,
                .n_tokens = (uint32_t)sample->n_tokens,
                .tokens = hash_128(sample->tokens, sample->n_tokens * sizeof(int32_t)),
                .logprobs = hash_128(sample->logprobs, sample->n_tokens * sizeof(float)),
                .advantage = sample->advantage,
            };
        }
    }
    const struct digest128 digest = hash_128(keys, n * sizeof(*keys));
    (void)hash_hex(digest.bytes, sizeof(digest.bytes), out);
    return STATUS_OK;
}
