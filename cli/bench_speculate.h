/* Owns what drafts are worth: decoding of a model's own prompts with MTP drafts and without. */
#ifndef HONE_CLI_BENCH_SPECULATE_H
#define HONE_CLI_BENCH_SPECULATE_H

#include "cli/bench_model.h"

struct bench_prompts {
    const char *file;  /* rows as `hone generate --file` reads them; NULL: none */
    size_t max_tokens; /* of a completion */
};

/* At each batch of the subject, whose dir is set: waves of so many prompts, drawn at temperature 1
 * with up to n_drafts drafts where they pay, and without. Errors: BAD_ARGUMENT (no MTP module, no
 * rows), INEXACT (a token or log-probability differs), and what reading gives. */
MUST_CHECK enum status bench_speculate(const struct bench_subject *subject,
                                       const struct bench_prompts *prompts);

#endif
