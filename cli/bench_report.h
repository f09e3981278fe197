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

/* A line above the rates. */
void bench_report_heading(void);
MUST_CHECK enum status bench_report_rate(const struct bench_rate *rate, bool is_json);
/* What is not a model's rate: kernels, loading, tokenizing. */
MUST_CHECK enum status bench_report_result(const struct bench_result *result, bool is_json);

#endif
