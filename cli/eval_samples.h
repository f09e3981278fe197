/* Owns the samples' file of `hone eval`: one JSON object a sample, in the rows' order, with what
 * the scorers gave. */
#ifndef HONE_CLI_EVAL_SAMPLES_H
#define HONE_CLI_EVAL_SAMPLES_H

#include "base/json.h"
#include "base/status.h"
#include "model/chat_template.h"
#include "reward/scoring.h"
#include "rollout/engine.h"
#include "trainer/dataset.h"

#include <stdbool.h>
#include <stddef.h>

struct eval_samples;

/* path is written over. n_samples: objects that will come. Errors: BAD_ARGUMENT (cannot be opened).
 */
MUST_CHECK enum status eval_samples_open(const char *path, size_t n_samples,
                                         const struct scoring *scoring, struct eval_samples **out);
/* Writes what is complete; NULL is legal. */
MUST_CHECK enum status eval_samples_close(struct eval_samples *samples);

/* A finished sample: row, line, source, sample, prompt, text, ids, logprobs, finish. Caller owns
 * *out. */
struct eval_sample {
    const struct dataset_row *row;
    const struct chat_prompt *prompt;
    const struct completion *completion;
    const char *text;
    size_t text_bytes;
    size_t row_index; /* in the order of evaluation */
};
MUST_CHECK enum status eval_samples_describe(const struct eval_sample *sample, struct json **out);
/* Adds reward, scores and passed to the object, which it takes, and hands it to the file at index:
 * row_index * samples of a row + sample. */
MUST_CHECK enum status eval_samples_add(struct eval_samples *samples, size_t index,
                                        struct json *object, const struct score_result *result,
                                        bool passes);

#endif
