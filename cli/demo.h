/* Owns "R1-Zero in miniature": the ordinary commands of hone one after another. A model that was
 * shown a few worked examples among many bare answers is rewarded for correct answers only, and
 * finds that thinking pays.
 *
 *   DIR/data/{train,heldout,sft-worked,sft-mix}.jsonl   hone data make modsum
 *   DIR/model                                           hone model init
 *   DIR/sft-phase1, DIR/sft                             hone sft, twice
 *   DIR/runs/rl                                         hone run
 *
 * demo_files.c writes the YAML files, demo_command.c runs a command, demo_result.c reads and shows
 * what came out, cmd_demo.c is the order. */
#ifndef HONE_CLI_DEMO_H
#define HONE_CLI_DEMO_H

#include "base/json.h"
#include "base/status.h"
#include "kernels/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEMO_WORDS_MAX 16u
#define DEMO_STEPS_MAX 1000u

struct demo {
    const char *dir;
    uint64_t seed;
    size_t steps;
    enum precision precision; /* model.dtype of every configuration */
    bool is_json;             /* one object at the end and nothing else on stdout */
    bool keeps;               /* goes on with what is in dir */
    char *own_path;
    const char *shown_path; /* own_path as a person would type it here */
    int exit_code;          /* of the command that failed */
};

/* --- Files (demo_files.c) --- */

/* DIR/sft-phase1.yaml, DIR/sft.yaml, DIR/run.yaml */
MUST_CHECK enum status demo_write_files(const struct demo *demo);
/* Removes what a demo leaves in dir, and nothing else. */
MUST_CHECK enum status demo_clear(const char *dir);
/* true when dir holds anything that a demo leaves. */
MUST_CHECK enum status demo_is_there(const char *dir, bool *out);

/* --- Commands (demo_command.c) --- */

/* Shows and runs `hone words...` (NULL-terminated). captured: its stdout (caller frees), or NULL to
 * let it write to ours, or to stderr when is_json. A failure sets exit_code and is CANCELLED after
 * a signal, else IO. */
MUST_CHECK enum status demo_command(struct demo *demo, const char *const *words, char **captured);

/* --- Result (demo_result.c) --- */

struct demo_result {
    double pass_before, pass_after, length_before, length_after;
    double acceptance_before, acceptance_after; /* of the MTP module's drafts; NaN: none */
    double mismatch_max, tokens_per_s, share_of_peak, max_violation, seconds;
    double trainer_bytes, workers_bytes;  /* most memory after a step; NaN: not known */
    double thinking_first, thinking_last; /* share of samples that think, first and last step */
    size_t n_samples;
    double rewards[DEMO_STEPS_MAX];
    size_t n_rewards;
};
/* Numbers of an evaluation's JSON text. Errors: BAD_FORMAT. */
MUST_CHECK enum status demo_read_eval(const char *text, double *pass, double *length,
                                      double *acceptance);
/* The run's numbers, from its database. */
MUST_CHECK enum status demo_read_run(const char *database, struct demo_result *out);
MUST_CHECK enum status demo_print_result(const struct demo *demo, const struct demo_result *result);
MUST_CHECK enum status demo_print_json(const struct demo *demo, const struct demo_result *result);

#endif
