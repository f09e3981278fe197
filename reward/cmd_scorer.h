/* Owns one `cmd:` component: long-lived children that speak JSON lines (rewards.md 5 and 7), a
 * queue in front of them, deadlines, kills and restarts. A stuck or crashing child costs its own
 * samples only. */
#ifndef HONE_REWARD_CMD_SCORER_H
#define HONE_REWARD_CMD_SCORER_H

#include "base/socket.h"
#include "base/status.h"
#include "configs/config.h"
#include "reward/scoring.h"

struct cmd_scorer;

/* A finished score of the sample submitted under `ticket`; detail passes to the callee. */
typedef void cmd_result(void *context, size_t ticket, const struct score *score);

/* Starts one child and waits for its hello, so that a wrong command is found at once; the others
 * start with the first work. Errors: BAD_CONFIG naming the reward, the command, how it ended and
 * its last line on stderr. */
MUST_CHECK enum status cmd_scorer_create(const struct run_config *config,
                                         const struct reward_config *reward, cmd_result *result,
                                         void *context, struct cmd_scorer **out);
void cmd_scorer_destroy(struct cmd_scorer *scorer); /* no child survives; NULL is legal */
/* sample: borrowed until its result. */
MUST_CHECK enum status cmd_scorer_submit(struct cmd_scorer *scorer,
                                         const struct score_sample *sample, size_t ticket);
/* Reads, writes, kills, restarts, reports results. */
MUST_CHECK enum status cmd_scorer_tick(struct cmd_scorer *scorer, int64_t now_us);
size_t cmd_scorer_wait_items(const struct cmd_scorer *scorer, struct wait_item *items, size_t room);
/* Milliseconds until a tick is due, at most `most`. */
int cmd_scorer_timeout_ms(const struct cmd_scorer *scorer, int64_t now_us, int most);
/* See scoring_tell_waits. */
void cmd_scorer_tell_waits(const struct cmd_scorer *scorer);
/* SHA-256 of the first word of the command that is a file, as hexadecimal; "" if none. */
const char *cmd_scorer_sha(const struct cmd_scorer *scorer);

#endif
