/* Owns the two nouns of the scheduler: a group (one prompt, the samples wanted of it) and a
 * sequence (one sample while it is being drawn). Plain data; only the scheduler changes it. */
#ifndef HONE_ROLLOUT_SEQUENCE_H
#define HONE_ROLLOUT_SEQUENCE_H

#include "base/hash.h"
#include "rollout/engine.h"

/* Pages of a group's prompt. All but the last are shared by its samples, and with other groups
 * whose prompts begin with the same tokens; the last one, which holds the prompt's last token, is
 * copied for each sample, because samples go on writing there and because that token is fed again
 * when samples are admitted after the prefill. */
struct group {
    struct group *next; /* in order of arrival */
    uint64_t seed, id;
    void *tag;
    size_t max_tokens;
    struct sampling_params sampling;
    struct digest256 *names; /* (group_shared_pages) of what the shared pages hold */
    int32_t *prompt;         /* (n_prompt) */
    int32_t *samples;        /* (n_samples) idx of each */
    int32_t *blocks;         /* pages of the prompt */
    size_t n_prompt, n_samples;
    size_t n_cached;   /* prompt tokens whose entries are in the cache */
    size_t n_blocks;   /* pages held now */
    size_t n_admitted; /* samples that were given a sequence */
    size_t n_begun;    /* ... and have their first token */
    size_t n_finished;
    int64_t since_us; /* first admission */
    bool is_drafted;  /* the modules get entries of its tokens, without which nothing is drafted */
};

enum sequence_state {
    SEQUENCE_FREE,
    SEQUENCE_ADMITTED, /* has the copy of the prompt's last page, waits for the prompt's end */
    SEQUENCE_RUNNING,
    SEQUENCE_PREEMPTED, /* its pages went to older ones; what it drew is here */
    SEQUENCE_RESUMING,  /* has pages again; its entries are computed anew */
    SEQUENCE_FINISHED   /* its arrays are being looked at until the next tick */
};

struct sequence {
    struct group *group;
    struct sequence *older, *younger; /* in order of admission, until it is finished */
    enum sequence_state state;
    uint32_t sample;
    int32_t *tokens; /* completion: room for the engine's longest sequence */
    float *logprobs;
    size_t n_tokens;
    int32_t *blocks; /* pages of prompt and completion; until the prompt's end its own page alone */
    size_t n_blocks;
    size_t n_cached; /* while it resumes: tokens whose entries are in the cache */
    size_t n_drafts;
    size_t n_fed;               /* drafts that the last schedule fed behind its last token */
    size_t n_new;               /* tokens that its last draws gave */
    int32_t drafts[DRAFTS_MAX]; /* (n_drafts) what its next tokens may be */
    enum finish finish;
};

/* Copies a request into a group of its own, one block of memory. Free with memory_free. */
MUST_CHECK enum status group_create(const struct engine_request *request, struct group **out);

/* Pages that the samples share, those of the prompt in all, and those a sample needs of its own.
 * The last token of a completion is never fed, so it needs no entry. */
size_t group_shared_pages(const struct group *group);
size_t group_prompt_pages(const struct group *group);
size_t group_sample_pages(const struct group *group);

/* Before the group has pages: those with entries of modules have other names. */
void group_set_drafted(struct group *group, bool is_drafted);

/* The token at a position of the prompt or, behind it, of what was drawn. */
int32_t group_token(const struct group *group, const int32_t *drawn, size_t position);

/* Tokens of prompt and completion. */
size_t sequence_length(const struct sequence *sequence);
/* Appends a drawn token; true when the sequence ends with it (finish is then set). */
bool sequence_append(struct sequence *sequence, int32_t token, float logp, bool is_end_token);

#endif
