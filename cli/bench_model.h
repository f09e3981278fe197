/* Owns measuring whole models: tokens per second of prefill, decoding, training and the
 * log-probability pass, with random weights of a preset's shape in memory or with a folder's own,
 * against the FMA and memory rates of the same run. */
#ifndef HONE_CLI_BENCH_MODEL_H
#define HONE_CLI_BENCH_MODEL_H

#include "cli/bench_report.h"
#include "model/model_config.h"
#include "model/policy.h"

#include <stdbool.h>
#include <stddef.h>

#define BENCH_BATCHES_MAX ((size_t)8)
/* Samples of one case that count; later ones take the place of earlier ones. */
#define BENCH_SAMPLES_MAX ((size_t)512)

/* What is measured, and with what. */
struct bench_subject {
    struct backend *backend;
    struct bench_meter *meter;
    const char *label;
    enum precision precision, cache;
    const char *dir;            /* weights from here; NULL: random ones */
    struct model_config config; /* of dir or the preset */
    double memory;              /* byte/s of the machine */
    double seconds;             /* for each case, about */
    size_t batches[BENCH_BATCHES_MAX];
    size_t n_batches;
    size_t context;  /* tokens of a prompt to prefill, and mean keys of decoding */
    size_t n_drafts; /* 0, or decoding is measured with as many too */
    bool is_json;
    bool recomputes; /* training makes activations again (policy_options) */
};

/* Seconds a token of each sample. */
struct bench_times {
    double seconds[BENCH_SAMPLES_MAX];
    size_t count;
};
void bench_times_add(struct bench_times *times, double seconds_per_token);
/* Median, best and peak into rate, whose other members are set. Sorts. */
void bench_times_rate(struct bench_times *times, const struct bench_subject *subject,
                      struct bench_rate *rate);

/* Label and shape: of the folder, or (dir is NULL) the preset; both borrowed. */
MUST_CHECK enum status bench_subject_load(const char *preset, const char *dir,
                                          struct bench_subject *subject);
/* Bytes of weights, as its precision packs them, that a forward pass of n_rows rows reads. */
double bench_weight_bytes(const struct bench_subject *subject, size_t n_rows);
/* A policy of the subject with its weights. */
MUST_CHECK enum status bench_open_policy(const struct bench_subject *subject,
                                         const struct policy_options *options, struct policy **out);

/* Prefill of prompts, and decoding at each batch, at the context. Reports each rate. Errors:
 * BAD_ARGUMENT (the model has not enough positions). */
MUST_CHECK enum status bench_engine(const struct bench_subject *subject);
/* Forward, backward and AdamW over 16 x 128 tokens, and the forward pass alone. */
MUST_CHECK enum status bench_train(const struct bench_subject *subject);

#endif
