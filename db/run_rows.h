/* Owns the plain rows that go into and come out of a run's database, and the closed sets of its
 * status columns. Texts are UTF-8 and need not end in NUL where a length stands beside them. */
#ifndef HONE_DB_RUN_ROWS_H
#define HONE_DB_RUN_ROWS_H

#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum row_status { ROW_WAITING, ROW_OK, ROW_MASKED, ROW_LATE, ROW_STALE, ROW_ABORTED };
const char *row_status_name(enum row_status status); /* "waiting" ... */
bool row_status_parse(const char *text, enum row_status *out);
/* stop | length | stop_string | abort | timeout */
bool row_finish_is_valid(const char *finish);

struct text_span {
    const char *data; /* NULL: SQL NULL */
    size_t bytes;
};

struct run_row {
    const char *name, *config_json, *model, *build_json; /* model and build_json may be NULL */
    struct digest256 config_sha;
    int64_t created_ns;
};
/* One component of the score. */
struct fn_row {
    const char *name, *source, *scope, *config_json; /* config_json may be NULL */
    const char *sha_hex;                             /* 64 digits, or "" for none */
    double weight;
};
struct incarnation_row {
    int64_t inc, started_ns, pid;
    const char *host;
    bool has_ended;
};
struct prompt_row {
    struct digest256 sha; /* of everything below */
    const char *data_source;
    struct text_span text, answer, answer_json, row_json;
    const int32_t *tokens; /* (n_tokens) */
    size_t n_tokens;
};
struct group_row {
    int64_t group_id, run_id, prompt_id, step, n;
    bool is_eval;
    bool is_closed; /* trained, no_signal, dropped or late: nothing more is expected */
};
struct sample_row {
    int64_t sample_id, group_id, idx, attempt;
    int64_t worker_id; /* 0: unknown */
    uint64_t seed;
    int64_t version_first, version_last, gen_us;
    enum row_status status;
    const char *finish;
    struct text_span completion;
    const int32_t *tokens; /* (n_prompt + n_tokens): prompt, then completion */
    const float *logprobs; /* (n_tokens) */
    size_t n_prompt, n_tokens;
    bool has_reward;
    double reward;
};
struct reward_row {
    int64_t sample_id, fn_id;
    const char *component; /* set by reads */
    const char *status;    /* ok | n/a | error | timeout */
    double value;          /* meaningful when ok */
    int64_t us, tries;
    const char *isolation, *detail; /* may be NULL */
};
struct group_totals {
    int64_t n_scored; /* ok and masked */
    bool has_mean, has_std, is_complete;
    double mean, std; /* over the scorable members, ddof 1 */
};
struct manifest_row {
    int64_t step, version_in;
    struct digest128 digest;
    const uint64_t *sample_ids; /* (n) in order */
    const float *advantages;    /* (n) */
    size_t n;
};
/* What a trained step reports. Columns that no metric names stay NULL. */
struct step_row {
    int64_t step, version_out, ended_ns;
    bool is_skipped;
    struct digest128 weight_digest;
};
#define TRAIN_STATS 5u /* kl entropy clip_frac mismatch_kl ratio_max */
struct expert_rows {
    const int32_t *layers;  /* (n_layers) layer index of each row */
    const uint32_t *tokens; /* (n_layers, n_experts) */
    const float *bias;      /* (n_layers, n_experts) or NULL */
    size_t n_layers, n_experts;
};
/* What a worker's sampling for a step came to so far; counts as in sampling_columns. */
#define SAMPLING_COLUMNS 9u
extern const char *const sampling_columns[SAMPLING_COLUMNS];
struct sampling_row {
    int64_t step, worker_id;
    int64_t counts[SAMPLING_COLUMNS];
};
struct event_row {
    const char *level, *kind, *json; /* json may be NULL */
    int64_t inc, step, group_id;     /* negative: none */
};

#endif
