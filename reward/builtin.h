/* Owns the built-in scorers' table (rewards.md 4): deterministic, bounded, never raising. A
 * completion that cannot be parsed is a judgement (ok, 0, with the reason in detail); a missing
 * gold answer is n/a. */
#ifndef HONE_REWARD_BUILTIN_H
#define HONE_REWARD_BUILTIN_H

#include "base/json.h"
#include "base/status.h"
#include "reward/scoring.h"

struct builtin;

/* name: what follows "builtin:"; config: its object or NULL. Errors: BAD_CONFIG (no such scorer,
 * lists them; an unknown or bad option, named). */
MUST_CHECK enum status builtin_create(const char *name, const struct json *config,
                                      struct builtin **out);
void builtin_destroy(struct builtin *builtin);
/* Fills *score; detail is a JSON object text (memory_free) or NULL. Never fails: internal trouble
 * is SCORE_ERROR. */
void builtin_score(const struct builtin *builtin, const struct score_sample *sample,
                   struct score *score);
/* Names of all scorers, one after another, for messages and help. */
const char *builtin_names(void);

#endif
