/* Owns the JSON lines of a cmd: scorer (rewards.md 5): what is said to a child and what its answers
 * mean. Pure. */
#ifndef HONE_REWARD_CMD_MESSAGES_H
#define HONE_REWARD_CMD_MESSAGES_H

#include "base/json.h"
#include "base/status.h"
#include "configs/config.h"
#include "reward/scoring.h"

/* {"t":"hello",...} for a component. Caller frees *out. */
MUST_CHECK enum status cmd_hello(const struct run_config *config,
                                 const struct reward_config *reward, char **out, size_t *n_out);
/* {"t":"score","id":id,"samples":[...]}. Caller frees *out. */
MUST_CHECK enum status cmd_request(const struct score_sample *const *samples, size_t n, int64_t id,
                                   int64_t deadline_ms, char **out, size_t *n_out);
/* One entry of "scores": a number, null, or an object with v or error (and detail). Fills status,
 * value and detail. */
void cmd_read_score(const struct json *entry, struct score *out);
/* An error score with detail {"kind": kind, "msg": message}. */
struct score cmd_error(enum score_status status, const char *kind, const char *message);

#endif
