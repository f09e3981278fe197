/* Owns the queue in front of every scorer: submit samples, get scores, whatever the transport
 * (rewards.md 1). Used by the reward service and by `hone eval`. One owner thread; the owner's loop
 * waits on the descriptors that scoring_wait_items gives. */
#ifndef HONE_REWARD_SCORING_H
#define HONE_REWARD_SCORING_H

#include "base/json.h"
#include "base/socket.h"
#include "base/status.h"
#include "configs/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum score_status { SCORE_OK, SCORE_NA, SCORE_ERROR, SCORE_TIMEOUT };
const char *score_status_name(enum score_status status); /* "ok" "n/a" "error" "timeout" */

struct score {
    enum score_status status;
    double value; /* SCORE_OK only, finite */
    char *detail; /* JSON object text or NULL; owned by the result */
    int64_t us;
    unsigned tries;
};

/* What a scorer sees of a sample; copied by scoring_submit. */
struct score_sample {
    int64_t sample_id; /* or any key that is unique among those in flight */
    int64_t group_id;
    int32_t idx;
    int64_t step;
    const char *finish; /* "stop" | "length" ... */
    int64_t version;
    const char *prompt;
    size_t prompt_bytes;
    const char *completion; /* raw bytes */
    size_t completion_bytes;
    struct json *row;        /* dataset row, or NULL; scoring_submit takes a reference */
    struct json *answer;     /* value of the answer column, or NULL; likewise */
    const char *data_source; /* "" if none */
    size_t n_tokens;
};
struct score_result {
    int64_t sample_id;
    struct score *scores; /* one per reward of the configuration, in its order */
    bool is_masked;       /* on_error: mask applied */
    bool has_total;       /* false: masked, or every weighted component n/a */
    double total; /* sum of weight * value over ok components, in component order, in double */
};

struct scoring;
/* Starts scorers (cmd: children). Errors: BAD_CONFIG naming the reward. */
MUST_CHECK enum status scoring_create(const struct run_config *config, struct scoring **out);
void scoring_destroy(struct scoring *scoring); /* no child survives it */
MUST_CHECK enum status scoring_submit(struct scoring *scoring, const struct score_sample *sample);
/* Descriptors to wait for (cap: room in items) and how long at most until scoring_tick is due. */
size_t scoring_wait_items(const struct scoring *scoring, struct wait_item *items, size_t room);
int scoring_timeout_ms(const struct scoring *scoring, int64_t now_us);
/* Moves everything forward: writes, reads, deadlines, restarts. Finished samples (borrowed until
 * the next tick) come in *results. Errors: SCORING when a scorer with on_error: fail failed.
 * The error budget is the caller's (intake.h). */
MUST_CHECK enum status scoring_tick(struct scoring *scoring, int64_t now_us,
                                    const struct score_result **results, size_t *n);
size_t scoring_in_flight(const struct scoring *scoring);
/* A line for each call that is under way and each queue that somebody waits in (base/waits.h). */
void scoring_tell_waits(const struct scoring *scoring);
/* For reward_fns: name, source, weight, config as JSON text, SHA-256 of the scorer's file or "" per
 * component. */
struct scoring_component {
    const char *name, *source, *scope, *config_json;
    char sha[65];
    double weight;
};
size_t scoring_components(const struct scoring *scoring, const struct scoring_component **out);

#endif
