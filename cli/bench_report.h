/* Owns how measurements are shown: lines of a table, or one JSON object each with the same keys for
 * whole models and for single products. */
#ifndef HONE_CLI_BENCH_REPORT_H
#define HONE_CLI_BENCH_REPORT_H

#include "base/status.h"
#include "kernels/bench/bench.h"

#include <stdbool.h>
#include <stddef.h>

/* A rate of a whole model. */
struct bench_rate {
    const char *bench;  /* "decode", "prefill", "train", "logprob" */
    const char *preset; /* or the model's folder */
    const char *dtype;
    size_t batch;          /* sequences */
    size_t context;        /* tokens of each, or keys that a decoded token sees on average */
    double tokens_per_s;   /* median */
    double best;           /* of the shortest sample */
    double flop_per_token; /* model/model_cost.h */
    double byte_per_token; /* 0: not known */
    double peak;           /* flop/s, measured between the samples */
    double memory;         /* byte/s, measured in the same run; 0: not known */
};

/* The same prompts answered with drafts and without. */
struct bench_speculation {
    const char *preset; /* the model's folder */
    const char *dtype;
    size_t batch;
    size_t n_drafts;       /* of a sequence at most */
    size_t n_rows;         /* prompts answered by both */
    size_t n_tokens;       /* that they drew */
    size_t n_turns;        /* of sequences with drafts, behind their first token */
    size_t n_turn_tokens;  /* that these gave */
    size_t n_fed, n_right; /* drafts that were judged, and that were what was drawn */
    double context;        /* keys that a token sees on average */
    /* Turns that computed no prompt; all turns. */
    double tokens_per_s, plain_tokens_per_s;
    double all_tokens_per_s, plain_all_tokens_per_s;
    double flop_per_token; /* of the model itself, without drafts */
    double peak;           /* flop/s, measured between the waves */
};

/* A line above the rates. */
void bench_report_heading(void);
MUST_CHECK enum status bench_report_rate(const struct bench_rate *rate, bool is_json);
MUST_CHECK enum status bench_report_speculation(const struct bench_speculation *result,
                                                bool is_json);
/* What is not a model's rate: kernels, loading, tokenizing. */
MUST_CHECK enum status bench_report_result(const struct bench_result *result, bool is_json);

#endif
