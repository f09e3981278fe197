/* Owns the run configuration: one table of every setting, bound to this struct (config_table.c).
 * Loader, --set, range errors, `hone config`, the stored dump and the README's table all come from
 * it. Keys are TRL's names (data-and-ui.md 5). */
#ifndef HONE_CONFIGS_CONFIG_H
#define HONE_CONFIGS_CONFIG_H

#include "base/arena.h"
#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_list {
    char **items;
    size_t count;
};

enum resume_mode { RESUME_AUTO, RESUME_NEVER, RESUME_MUST };
enum model_dtype { DTYPE_FP32, DTYPE_BF16, DTYPE_FP8 };
enum kv_cache_dtype { KV_CACHE_AUTO, KV_CACHE_FP32, KV_CACHE_BF16, KV_CACHE_FP8 };
enum activation_checkpointing { ACTIVATIONS_AUTO, ACTIVATIONS_NONE, ACTIVATIONS_LAYER };
enum kl_estimator { KL_K3, KL_K3U };
enum loss_type {
    LOSS_GRPO,
    LOSS_DAPO,
    LOSS_DR_GRPO
}; /* aggregation: seq_mean, token_mean, const */
enum router_aux_loss {
    AUX_LOSS_BATCH,
    AUX_LOSS_LAYER,
    AUX_LOSS_SEQUENCE,
    AUX_LOSS_SEQUENCE_ROUTED
};
enum indexer_loss { INDEXER_LOSS_NONE, INDEXER_LOSS_DENSE, INDEXER_LOSS_SPARSE };
enum scale_rewards { SCALE_GROUP, SCALE_NONE }; /* advantages "grpo" and "mean" of grpo.md 3 */
enum lr_schedule { LR_CONSTANT, LR_CONSTANT_WITH_WARMUP, LR_LINEAR, LR_COSINE, LR_WSD };
enum on_error { ON_ERROR_MASK, ON_ERROR_ZERO, ON_ERROR_FAIL };

struct reward_config {
    char *name;   /* [a-z0-9_]{1,32}, unique */
    char *source; /* builtin:NAME | cmd:ARGV */
    double weight;
    struct json *config; /* object handed to the scorer, or NULL */
    enum on_error on_error;
    double timeout_s; /* default 5 for builtin, 30 for cmd */
    double start_timeout_s;
    size_t workers; /* children of cmd: */
    size_t batch_max;
    size_t retries;
    struct text_list env; /* variable names let through to cmd: */
    const char **origins; /* of each row of the table; NULL in a hand-made configuration */
};

struct run_config {
    int64_t version;
    struct {
        char *name, *output_dir; /* run folder = output_dir/name */
        uint64_t seed;
        size_t max_steps;
        enum resume_mode resume;
        char *device;   /* auto, cpu, cpu-avx512bf16, ... (kernels/backend.h) */
        size_t threads; /* of the trainer; 0 = all cores */
    } run;
    struct {
        char *path, *ref_path, *chat_template;
        enum model_dtype dtype; /* of products, in sampling and training alike */
        enum kv_cache_dtype kv_cache_dtype;
        bool parse_special;
        enum router_aux_loss router_aux_loss;
        double router_aux_loss_coef; /* 0: none */
        enum indexer_loss indexer_loss;
        double indexer_loss_coef;
        double router_bias_update; /* gamma */
        bool mtp_train;
        double mtp_coef;
    } model;
    struct {
        struct text_list train, eval;
        char *prompt_key, *answer_key, *completion_key, *system_prompt;
        size_t max_prompt_length;
        bool shuffle;
    } data;
    struct {
        size_t num_generations, prompts_per_step, num_iterations, num_minibatches;
        double beta;
        enum kl_estimator kl_estimator;
        double epsilon, epsilon_high;
        enum loss_type loss_type;
        enum scale_rewards scale_rewards;
        size_t std_ddof;
        double adv_eps;
        bool mask_truncated_completions;
    } grpo;
    struct {
        size_t max_completion_length;
        double temperature, top_p;
        size_t top_k;
        double min_p;
        size_t max_num_seqs, max_batch_tokens,
            kv_cache_bytes;               /* kv_cache_bytes 0: what max_num_seqs need */
        size_t speculate, spec_max_batch; /* MTP drafts; 0 spec_max_batch = measured at start */
        size_t workers, threads; /* threads of each worker; 0 = cores / workers, at least 1 */
        bool share_weights;      /* workers map the trainer's weights where they can */
    } rollout;
    struct {
        double learning_rate;
        enum lr_schedule lr_scheduler_type;
        size_t warmup_steps;
        double decay_ratio;  /* wsd: share of the steps that decay */
        double min_lr_ratio; /* final lr / learning_rate */
        double adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm;
        size_t micro_batch_tokens;
        bool share_prompts;
        enum activation_checkpointing activation_checkpointing;
    } optim;
    struct {
        size_t batch_size, max_steps;
        double stop_loss,
            stop_mtp_loss; /* end early when both running losses are below; 0 = never */
        char *output;      /* folder for the trained model */
    } sft;
    struct {
        enum on_error on_error;
        double max_error_rate;
    } scoring;
    struct reward_config *rewards;
    size_t n_rewards;
    struct {
        double temperature;
        size_t num_generations, max_rows; /* max_rows 0 = all */
    } eval;
    struct {
        size_t every_steps, keep_last;
    } checkpoint;
    struct {
        char *level;
        size_t every_steps;
    } log;
    char *folder;         /* of the file; "." for the working directory: the cwd of cmd: sources */
    struct arena *arena;  /* every text above lives here; override with `sets`, never by freeing */
    const char **origins; /* as in reward_config */
};

/* Which command reads the configuration: decides what is required (model.path, data.train, one
 * reward ...). */
enum config_use { CONFIG_RUN, CONFIG_SFT, CONFIG_EVAL, CONFIG_ANY };

struct config_source {
    const char *path; /* YAML file, or NULL: defaults only */
    const char *const
        *sets; /* "key=value", later wins; applied after HONE_SET_* of the environment */
    size_t n_sets;
    enum config_use use;
};
/* Loads, checks and resolves (paths become relative to the working directory, from being relative
 * to the file). Up to 20 errors are printed to *report, one a line with file:line:column, caller
 * frees with memory_free (NULL when none); then the status is BAD_CONFIG and the message is the
 * first of them. Caller disposes *out with config_destroy. */
MUST_CHECK enum status config_load(const struct config_source *source, struct run_config **out,
                                   char **report);
void config_destroy(struct run_config *config);
/* Resolved values as a nested JSON object; secrets redacted. For runs.config_json and digests. */
MUST_CHECK enum status config_to_json(const struct run_config *config, struct json **out);
/* SHA-256 hex (65 bytes) over the settings that must agree between processes and over a resume:
 * everything that can change a bit of the result. Not in it: run.name, run.output_dir,
 * run.max_steps, run.resume, device, threads, workers, batching of samples,
 * optim.micro_batch_tokens unless optim.share_prompts is set, eval, checkpoint, log. Paths count as
 * written, so a run folder may move with its configuration. */
MUST_CHECK enum status config_digest(const struct run_config *config, char out[65]);

/* For `hone config`: a setting with its value as YAML text and where it came from ("default",
 * "run.yaml:12", "env", "--set"). All text lives in the block that config_lines_free frees. */
struct config_line {
    const char *key; /* "grpo.epsilon", "rewards.correct.weight" */
    const char *value, *origin;
    const char *help, *range, *peers; /* peers: names elsewhere, "" if none */
};
MUST_CHECK enum status config_lines(const struct run_config *config, struct config_line **out,
                                    size_t *n_out);
void config_lines_free(struct config_line *lines); /* NULL is legal */
/* The table's row of a key or of a name that another system has for it, its default as value;
 * caller frees *out with config_lines_free. Unknown: *out is NULL and *nearest (borrowed) the key
 * that looks most like it. */
MUST_CHECK enum status config_explain(const char *key, struct config_line **out,
                                      const char **nearest);
/* Markdown rows "| key | default | range | meaning |" of every setting, for the README (caller
 * frees). */
MUST_CHECK enum status config_table_markdown(char **out);
/* The YAML of every default, commented (caller frees). */
MUST_CHECK enum status config_defaults_yaml(char **out);

#endif
