/* Owns the progress of training as a person sees it: one rewritten line on a terminal, one
 * key=value line a step in a pipe, one JSON object a step with --json. */
#ifndef HONE_CLI_PROGRESS_H
#define HONE_CLI_PROGRESS_H

#include "base/json.h"
#include "trainer/trainer.h"

#include <stdbool.h>
#include <stddef.h>

enum progress_form { PROGRESS_TERMINAL, PROGRESS_PIPE, PROGRESS_JSON };

#define PROGRESS_HISTORY 64u
struct progress {
    enum progress_form form;
    size_t every_steps;               /* steps from line to line; the last step always has one */
    double rewards[PROGRESS_HISTORY]; /* the last ones, oldest first */
    size_t n_rewards;
    bool has_line; /* the cursor stands at the end of a line that will be rewritten */
};
/* The form that fits stdout. */
void progress_begin(struct progress *progress, bool is_json, size_t every_steps);
/* A step_listener and an sft_listener; context is the struct progress. */
void progress_step(void *context, const struct step_report *report);
void progress_sft(void *context, const struct sft_report *report);
/* Ends a rewritten line, so that what follows begins on its own; lines that could not be written
 * are forgotten. */
void progress_end(struct progress *progress);

/* The lines themselves, without line end; pure. Each returns out. */
const char *progress_step_text(const struct progress *progress, const struct step_report *report,
                               char *out, size_t room);
const char *progress_step_pairs(const struct step_report *report, char *out, size_t room);
const char *progress_sft_text(const struct sft_report *report, char *out, size_t room);
const char *progress_sft_pairs(const struct sft_report *report, char *out, size_t room);
/* The numbers as an object; NULL when memory is short. */
struct json *progress_step_json(const struct step_report *report);
struct json *progress_sft_json(const struct sft_report *report);

#endif
