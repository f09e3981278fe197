/* hone bench: how fast the shipped code is here, as a share of what this machine can do. */
#include "cli/bench_files.h"
#include "cli/bench_model.h"
#include "cli/bench_speculate.h"
#include "cli/cli.h"
#include "cli/commands.h"

#include "base/log.h"
#include "base/memory.h"
#include "model/precision.h"
#include "rollout/engine.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPTION_BATCH = 'b',
    OPTION_DEVICE = 'd',
    OPTION_DTYPE = 'y',
    OPTION_THREADS = 't',
    OPTION_MODEL = 'm',
    OPTION_PRESET = 'p',
    OPTION_SECONDS = 's',
    OPTION_JSON = 'j',
    OPTION_SCRATCH = 256,
    OPTION_SPECULATE,
    OPTION_PROMPTS,
    OPTION_MAX_TOKENS,
    OPTION_RECOMPUTE,
    OPTION_KV_CACHE,
    OPTION_CONTEXT
};

static const struct cli_option options[] = {
    {OPTION_PRESET, "preset", "NAME", "shape of engine and train: small, medium, demo ... (small)"},
    {OPTION_MODEL, "model", "DIR", "this folder in place of a preset, and of what load makes"},
    {OPTION_DTYPE, "dtype", "NAME", "of engine and train: fp32, bf16 or fp8 (fp32)"},
    {OPTION_KV_CACHE, "kv-cache-dtype", "NAME",
     "auto, fp32, bf16, fp8; auto: fp32 with dtype fp32 (auto)"},
    {OPTION_BATCH, "batch", "N", "of decoding, repeatable (1, 8, 32, 64, 256)"},
    {OPTION_CONTEXT, "context", "N", "tokens before the ones that engine decodes (128)"},
    {OPTION_SPECULATE, "speculate", "N", "decode with as many MTP drafts too (0; --prompts: 4)"},
    {OPTION_PROMPTS, "prompts", "F.jsonl",
     "engine: answer these with and without drafts, at batch 1 and 8"},
    {OPTION_MAX_TOKENS, "max-tokens", "N", "of an answer to --prompts at most (256)"},
    {OPTION_RECOMPUTE, "recompute", NULL, "train with activations made again, layer by layer"},
    {OPTION_SECONDS, "seconds", "S", "for each measurement of a model, about (1)"},
    {OPTION_DEVICE, "device", "NAME",
     "auto, cpu-avx512bf16, cpu-avx512, cpu-avx2, cpu-portable (auto)"},
    {OPTION_THREADS, "threads", "N", "of kernels and models; 0: every core (0)"},
    {OPTION_SCRATCH, "scratch", "DIR", "where load makes files and removes them again (/tmp)"},
    {OPTION_JSON, "json", NULL, "one object a measurement"},
};
static const struct cli_command command = {
    .name = "bench",
    .arguments = "[engine] [train] [kernels] [load] [tokenize]",
    .summary =
        "Measures what is named, or everything (half a minute):\n"
        "  engine    prefill, and decoding at several batch sizes at a context of 128 tokens or N\n"
        "  train     forward, backward and AdamW over 16 x 128 tokens; log-probabilities alone\n"
        "  kernels   matrix products, experts, memory and exp\n"
        "  load      checkpoints from the page cache\n"
        "  tokenize  text on one core\n"
        "Shares are of the rate of the dtype's products (fp32 FMA, or bf16 pairs) or of memory,\n"
        "measured in the same run. Weights of a preset are random and in memory alone; medium\n"
        "takes 6 GB for engine, 18 GB for train. With --prompts (rows as of hone generate --file)\n"
        "engine tells what MTP drafts are worth: the same answers with them, where they pay, and\n"
        "without, in turns.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_max = 5,
    .examples = "  hone bench engine train --preset small\n"
                "  hone bench engine --preset medium --batch 1 --batch 64 --json\n"
                "  hone bench load --model DIR\n"
                "  hone bench engine --model demo/sft --prompts demo/data/heldout.jsonl\n",
};

enum part { PART_ENGINE, PART_TRAIN, PART_KERNELS, PART_LOAD, PART_TOKENIZE, N_PARTS };
static const char *const part_names[N_PARTS] = {"engine", "train", "kernels", "load", "tokenize"};
static const size_t batches_default[] = {1, 8, 32, 64, 256};
#define BATCHES_DEFAULT (sizeof(batches_default) / sizeof(batches_default[0]))
#define PROMPT_BATCHES ((size_t)2) /* of these with --prompts */
#define PROMPT_DRAFTS ((size_t)4)
#define TOKENS_MAX ((size_t)1048576)
#define CONTEXT_MIN ((size_t)32)

struct request {
    const char *device, *preset;
    enum precision precision;
    enum kv_cache_dtype cache;
    struct bench_places places;
    struct bench_prompts prompts;
    size_t n_threads;
    bool wants[N_PARTS];
    bool is_json, recomputes, has_drafts;
    double seconds, memory_gb_per_s;
    size_t batches[BENCH_BATCHES_MAX];
    size_t n_batches, n_drafts, context;
};

static enum status kernel_results(struct backend *backend, bool is_json)
{
    struct bench_result *results = NULL;
    size_t n = 0;
    TRY(memory_alloc(BENCH_RESULTS_MAX, sizeof(results[0]), &results));
    enum status status = bench_kernels(backend, results, &n);
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        status = bench_report_result(&results[i], is_json);
    }
    memory_free(results);
    return status;
}

static enum status subject_results(const struct request *request, struct bench_subject *subject)
{
    subject->memory = 1e9 * request->memory_gb_per_s;
    subject->seconds = request->seconds;
    subject->n_batches = request->n_batches;
    subject->n_drafts = request->n_drafts;
    subject->context = request->context;
    subject->is_json = request->is_json;
    subject->recomputes = request->recomputes;
    memcpy(subject->batches, request->batches, sizeof(subject->batches));
    if (request->wants[PART_ENGINE] && request->prompts.file != NULL) {
        TRY(bench_speculate(subject, &request->prompts));
    }
    const bool wants_rates = request->wants[PART_ENGINE] && request->prompts.file == NULL;
    if (!request->is_json && (wants_rates || request->wants[PART_TRAIN])) {
        bench_report_heading();
    }
    if (wants_rates) {
        TRY(bench_engine(subject));
    }
    return request->wants[PART_TRAIN] ? bench_train(subject) : STATUS_OK;
}

static enum status model_results(const struct request *request, struct backend *backend,
                                 struct bench_subject *subject)
{
    subject->backend = backend;
    subject->precision = request->precision;
    subject->cache = precision_cache(request->cache, request->precision);
    TRY(bench_meter_create(backend, subject->precision, &subject->meter));
    bench_find_peak(subject->meter);
    const enum status status = subject_results(request, subject);
    bench_meter_destroy(subject->meter);
    return status;
}

static enum status backend_parts(struct request *request, struct backend *backend,
                                 struct bench_subject *subject)
{
    if (!request->is_json) {
        (void)printf("%s, %zu threads\n", backend->name, backend->n_threads);
    }
    TRY(bench_memory_rate(backend, &request->memory_gb_per_s));
    if (request->wants[PART_ENGINE] || request->wants[PART_TRAIN]) {
        TRY(model_results(request, backend, subject));
    }
    return request->wants[PART_KERNELS] ? kernel_results(backend, request->is_json) : STATUS_OK;
}

static enum status report(void *context, const struct bench_result *result)
{
    const struct request *request = context;
    return bench_report_result(result, request->is_json);
}

static enum status bench(struct request *request)
{
    struct backend *backend = NULL;
    struct bench_subject subject = {.label = NULL};
    if (request->places.model_dir != NULL) {
        TRY(cli_check_model(request->places.model_dir,
                            request->wants[PART_TOKENIZE] || request->prompts.file != NULL));
    }
    TRY(bench_subject_load(request->preset, request->places.model_dir, &subject));
    if (request->wants[PART_ENGINE] && request->context > subject.config.max_positions) {
        return status_set(STATUS_BAD_ARGUMENT, "--context %zu: the model has %zu positions",
                          request->context, subject.config.max_positions);
    }
    TRY(backend_open(request->device, request->n_threads, &backend));
    const enum status status = backend_parts(request, backend, &subject);
    backend_close(backend); /* its threads would disturb the rest */
    TRY(status);
    if (request->wants[PART_LOAD]) {
        TRY(bench_load(&request->places, request->memory_gb_per_s, report, request));
    }
    return request->wants[PART_TOKENIZE] ? bench_tokenize(&request->places, report, request)
                                         : STATUS_OK;
}

/* --- Options --- */

static bool take_size(const char *value, size_t max, size_t *out)
{
    char *end = NULL;
    *out = strtoul(value, &end, 10);
    return end != value && *end == '\0' && value[0] != '-' && *out <= max;
}

static bool take_batch(const char *value, struct request *request)
{
    size_t batch = 0;
    if (request->n_batches == BENCH_BATCHES_MAX || !take_size(value, 4096, &batch) || batch == 0) {
        return false;
    }
    request->batches[request->n_batches++] = batch;
    return true;
}

static bool take_seconds(const char *value, struct request *request)
{
    char *end = NULL;
    request->seconds = strtod(value, &end);
    return end != value && *end == '\0' && request->seconds > 0 && request->seconds <= 3600;
}

/* 0, or the exit code of a wrong value. */
static int take_number(int code, const char *value, struct request *request)
{
    if (code == OPTION_BATCH && !take_batch(value, request)) {
        return cli_usage_error(&command, "--batch: want 1 to 4096, at most %zu times",
                               BENCH_BATCHES_MAX);
    }
    if (code == OPTION_SECONDS && !take_seconds(value, request)) {
        return cli_usage_error(&command, "--seconds: want more than 0, at most 3600");
    }
    if (code == OPTION_SPECULATE && !take_size(value, DRAFTS_MAX, &request->n_drafts)) {
        return cli_usage_error(&command, "--speculate: want 0 to %zu", DRAFTS_MAX);
    }
    request->has_drafts = request->has_drafts || code == OPTION_SPECULATE;
    if (code == OPTION_MAX_TOKENS && (!take_size(value, TOKENS_MAX, &request->prompts.max_tokens) ||
                                      request->prompts.max_tokens == 0)) {
        return cli_usage_error(&command, "--max-tokens: want 1 to %zu", TOKENS_MAX);
    }
    if (code == OPTION_CONTEXT &&
        (!take_size(value, TOKENS_MAX, &request->context) || request->context < CONTEXT_MIN)) {
        return cli_usage_error(&command, "--context: want %zu to %zu", CONTEXT_MIN, TOKENS_MAX);
    }
    if (code == OPTION_THREADS && !take_size(value, 1024, &request->n_threads)) {
        return cli_usage_error(&command, "--threads: want 0 to 1024");
    }
    return 0;
}

static int take_option(int code, const char *value, struct request *request)
{
    switch (code) {
    case OPTION_DEVICE:
        request->device = value;
        return 0;
    case OPTION_MODEL:
        request->places.model_dir = value;
        return 0;
    case OPTION_PRESET:
        request->preset = value;
        return 0;
    case OPTION_PROMPTS:
        request->prompts.file = value;
        return 0;
    case OPTION_SCRATCH:
        request->places.scratch = value;
        return 0;
    case OPTION_JSON:
        request->is_json = true;
        return 0;
    case OPTION_RECOMPUTE:
        request->recomputes = true;
        return 0;
    case OPTION_DTYPE:
        return precision_parse(value, &request->precision)
                   ? 0
                   : cli_usage_error(&command, "--dtype: want fp32, bf16 or fp8");
    case OPTION_KV_CACHE:
        return precision_parse_cache(value, &request->cache)
                   ? 0
                   : cli_usage_error(&command, "--kv-cache-dtype: want auto, fp32, bf16 or fp8");
    default:
        return take_number(code, value, request);
    }
}

static bool take_part(const char *name, bool wants[N_PARTS])
{
    for (size_t i = 0; i < N_PARTS; i++) {
        if (strcmp(name, part_names[i]) == 0) {
            wants[i] = true;
            return true;
        }
    }
    return false;
}

/* Parts that are named, or all. */
static int take_parts(const struct cli_parse *parse, struct request *request)
{
    for (size_t i = 0; i < parse->n_arguments; i++) {
        if (!take_part(parse->arguments[i], request->wants)) {
            return cli_usage_error(
                &command, "there is no part \"%s\": engine, train, kernels, load, tokenize",
                parse->arguments[i]);
        }
    }
    for (size_t i = 0; i < N_PARTS && parse->n_arguments == 0; i++) {
        request->wants[i] = true;
    }
    return 0;
}

/* What --prompts needs and what depends on it; 0, or the exit code of what does not fit. */
static int settle(struct request *request)
{
    const bool has_prompts = request->prompts.file != NULL;
    if (request->n_batches == 0) {
        request->n_batches = has_prompts ? PROMPT_BATCHES : BATCHES_DEFAULT;
        memcpy(request->batches, batches_default, sizeof(batches_default));
    }
    if (!has_prompts) {
        return 0;
    }
    if (!request->wants[PART_ENGINE] || request->places.model_dir == NULL) {
        return cli_usage_error(&command, "--prompts is of engine, and wants --model DIR");
    }
    if (!request->has_drafts) {
        request->n_drafts = PROMPT_DRAFTS;
    }
    return request->n_drafts > 0
               ? 0
               : cli_usage_error(&command, "--prompts wants --speculate 1 to %zu", DRAFTS_MAX);
}

int cmd_bench(int argc, char **argv)
{
    struct cli_parse parse;
    struct request request = {.device = "auto",
                              .preset = "small",
                              .places = {.scratch = "/tmp"},
                              .prompts = {.max_tokens = 256},
                              .context = 128,
                              .seconds = 1};
    int code = 0;
    int wrong = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while (wrong == 0 && (code = cli_parse_next(&parse)) > 0) {
        wrong = take_option(code, parse.value, &request);
    }
    if (code < 0) {
        return parse.exit_code;
    }
    wrong = wrong == 0 ? take_parts(&parse, &request) : wrong;
    wrong = wrong == 0 ? settle(&request) : wrong;
    if (wrong != 0) {
        return wrong;
    }
    log_setup("bench", LOG_WARN);
    const enum status status = bench(&request);
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
