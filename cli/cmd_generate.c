/* `hone generate MODEL`: completions of a prompt or of a file of prompts, or a conversation. */
#include "base/log.h"
#include "base/process.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/generate.h"
#include "model/precision.h"
#include "rollout/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAMPLES_MAX 4096u
#define TOKENS_MAX 1048576u
#define SEQUENCES_MAX 65536u
#define THREADS_MAX 1024u

enum {
    OPTION_PROMPT = 'p',
    OPTION_FILE = 'f',
    OPTION_COUNT = 'n',
    OPTION_JSON = 'j',
    OPTION_MAX_TOKENS = 256,
    OPTION_TEMPERATURE,
    OPTION_TOP_K,
    OPTION_TOP_P,
    OPTION_MIN_P,
    OPTION_SEED,
    OPTION_CHAT,
    OPTION_RAW,
    OPTION_SYSTEM,
    OPTION_SPECIAL,
    OPTION_LOGPROBS,
    OPTION_BATCH,
    OPTION_SPECULATE,
    OPTION_DTYPE,
    OPTION_KV_CACHE,
    OPTION_DEVICE,
    OPTION_THREADS
};

static const struct cli_option options[] = {
    {OPTION_PROMPT, "prompt", "TEXT", "what to answer or continue"},
    {OPTION_FILE, "file", "F.jsonl",
     "rows of {\"messages\": [...]} or {\"prompt\": ...}; -: stdin"},
    {OPTION_COUNT, "n", "N", "completions of each prompt (1)"},
    {OPTION_MAX_TOKENS, "max-tokens", "N", "tokens of a completion at most (256)"},
    {OPTION_TEMPERATURE, "temperature", "T", "0 is greedy (1)"},
    {OPTION_TOP_K, "top-k", "K", "draw among the K most likely tokens; 0: off (0)"},
    {OPTION_TOP_P, "top-p", "P", "draw among the likeliest tokens of mass P; 1: off (1)"},
    {OPTION_MIN_P, "min-p", "P", "drop tokens below P times the likeliest; 0: off (0)"},
    {OPTION_SEED, "seed", "S", "the same seed draws the same completions (0)"},
    {OPTION_CHAT, "chat", "NAME", "auto, raw, deepseek-v3, ... or FILE.jinja (auto: the model's)"},
    {OPTION_RAW, "raw", NULL, "no chat template: the text itself is continued"},
    {OPTION_SYSTEM, "system", "TEXT", "system message where the prompt has none"},
    {OPTION_SPECIAL, "parse-special", NULL, "special tokens in prompts are tokens, not text"},
    {OPTION_LOGPROBS, "logprobs", NULL, "as --json, with the log-probability of every token"},
    {OPTION_JSON, "json", NULL, "one object a completion (always so with --file)"},
    {OPTION_BATCH, "batch", "N", "completions drawn at once; changes no result (64)"},
    {OPTION_SPECULATE, "speculate", "N",
     "tokens an MTP module guesses ahead at most; changes no result (4)"},
    {OPTION_DTYPE, "dtype", "NAME", "products in fp32, bf16 or fp8 (fp32)"},
    {OPTION_KV_CACHE, "kv-cache-dtype", "NAME",
     "auto, fp32, bf16, fp8; auto: fp32 with dtype fp32 (auto)"},
    {OPTION_DEVICE, "device", "NAME",
     "auto, cpu, cpu-avx512bf16, cpu-avx512, cpu-avx2, cpu-portable (auto)"},
    {OPTION_THREADS, "threads", "N", "0: every core (0)"},
};
static const struct cli_command command = {
    .name = "generate",
    .arguments = "MODEL",
    .summary =
        "Draws completions from a model folder. Without --prompt and --file: a conversation on a\n"
        "terminal, else standard input is the prompt. A single completion is shown as it grows; "
        "of\n"
        "several each is a line. An object has row, sample, text, prompt_ids, ids, finish (stop "
        "or\n"
        "length), and logprobs if asked for: of the distribution that was drawn from, and at\n"
        "temperature 0 the model's own.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone generate model\n"
                "  hone generate demo/model --prompt 1234567890= -n 4\n"
                "  hone generate model --file rows.jsonl --temperature 0 --logprobs > out.jsonl\n",
};

static bool parse_count(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end = NULL;

    errno = 0;
    const unsigned long long value = strtoull(text, &end, 0);
    *out = value;
    return errno == 0 && end != text && *end == '\0' && text[0] != '-' && value >= min &&
           value <= max;
}

static bool parse_real(const char *text, double min, double max, float *out)
{
    char *end = NULL;

    errno = 0;
    const double value = strtod(text, &end);
    *out = (float)value;
    return errno == 0 && end != text && *end == '\0' && value >= min && value <= max;
}

static bool take_sampling_option(int code, const char *value, struct sampling_params *sampling)
{
    uint64_t count = 0;

    if (code == OPTION_TEMPERATURE) {
        return parse_real(value, 0.0, 100.0, &sampling->temperature);
    }
    if (code == OPTION_TOP_P) {
        return parse_real(value, 1e-6, 1.0, &sampling->top_p);
    }
    if (code == OPTION_MIN_P) {
        return parse_real(value, 0.0, 1.0, &sampling->min_p);
    }
    const bool is_valid = parse_count(value, 0, TOKENS_MAX, &count);
    sampling->top_k = (int32_t)count;
    return is_valid;
}

static bool take_count(const char *value, uint64_t min, uint64_t max, size_t *out)
{
    uint64_t count = 0;
    const bool is_valid = parse_count(value, min, max, &count);

    *out = (size_t)count;
    return is_valid;
}

static bool take_number_option(int code, const char *value, struct generate_request *request)
{
    switch (code) {
    case OPTION_SEED:
        return parse_count(value, 0, UINT64_MAX, &request->seed);
    case OPTION_COUNT:
        return take_count(value, 1, SAMPLES_MAX, &request->n_samples);
    case OPTION_BATCH:
        return take_count(value, 1, SEQUENCES_MAX, &request->max_num_seqs);
    case OPTION_SPECULATE:
        return take_count(value, 0, DRAFTS_MAX, &request->n_drafts);
    case OPTION_THREADS:
        return take_count(value, 0, THREADS_MAX, &request->n_threads);
    case OPTION_MAX_TOKENS:
        request->has_max_tokens = true;
        return take_count(value, 1, TOKENS_MAX, &request->max_tokens);
    default:
        return take_sampling_option(code, value, &request->sampling);
    }
}

/* false when the value is not what the option wants. */
static bool take_option(int code, const char *value, struct generate_request *request)
{
    switch (code) {
    case OPTION_PROMPT:
        request->prompt = value;
        return true;
    case OPTION_FILE:
        request->file = value;
        request->wants_json = true;
        return true;
    case OPTION_CHAT:
        request->chat = value;
        return true;
    case OPTION_SYSTEM:
        request->system_prompt = value;
        return true;
    case OPTION_DEVICE:
        request->device = value;
        return true;
    case OPTION_DTYPE:
        return precision_parse(value, &request->precision);
    case OPTION_KV_CACHE:
        return precision_parse_cache(value, &request->kv_cache);
    default:
        return take_number_option(code, value, request);
    }
}

/* Options without a value; false for others. */
static bool take_flag(int code, struct generate_request *request)
{
    switch (code) {
    case OPTION_RAW:
        request->chat = "raw";
        return true;
    case OPTION_SPECIAL:
        request->parse_special = true;
        return true;
    case OPTION_LOGPROBS:
        request->wants_logprobs = true;
        request->wants_json = true;
        return true;
    case OPTION_JSON:
        request->wants_json = true;
        return true;
    default:
        return false;
    }
}

static bool is_conversation(const struct generate_request *request)
{
    return request->prompt == NULL && request->file == NULL && isatty(STDIN_FILENO) == 1;
}

static enum status draw_rows(const struct generate_request *request,
                             const struct generate_texts *texts)
{
    struct generate_rows rows;
    enum status status = generate_rows_read(request, texts, &rows);

    if (status == STATUS_OK) {
        status = generate_draw(request, texts, &rows);
    }
    generate_rows_dispose(&rows);
    return status;
}

static enum status run(const struct generate_request *request)
{
    struct generate_texts texts = {.tokenizer = NULL};

    TRY(cli_check_model(request->model, true));
    enum status status = generate_texts_open(request, &texts);
    if (status == STATUS_OK) {
        process_catch_signals();
        status =
            is_conversation(request) ? generate_chat(request, &texts) : draw_rows(request, &texts);
    }
    generate_texts_close(&texts);
    return status;
}

static int check_usage(const struct generate_request *request)
{
    if (request->prompt != NULL && request->file != NULL) {
        return cli_usage_error(&command, "want --prompt or --file, not both");
    }
    if (is_conversation(request) && (request->wants_json || request->n_samples > 1)) {
        return cli_usage_error(&command, "--prompt or --file is missing; a conversation has "
                                         "neither --json nor --n");
    }
    return 0;
}

int cmd_generate(int argc, char **argv)
{
    struct generate_request request = {.chat = "auto",
                                       .device = "auto",
                                       .system_prompt = "",
                                       .n_samples = 1,
                                       .max_tokens = 256,
                                       .max_num_seqs = 64,
                                       .n_drafts = 4,
                                       .sampling = {.temperature = 1.0F, .top_p = 1.0F}};
    struct cli_parse parse;
    int code = 0;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (!take_flag(code, &request) && !take_option(code, parse.value, &request)) {
            const struct cli_option *option = cli_option_of(&command, code);
            return cli_usage_error(&command, "\"%.100s\" is no value of --%s: %s", parse.value,
                                   option->name, option->help);
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    code = check_usage(&request);
    if (code != 0) {
        return code;
    }
    request.model = parse.arguments[0];
    log_setup("generate", LOG_WARN);
    const enum status status = run(&request);
    if (status == STATUS_CANCELLED) {
        (void)fflush(stdout);
        return 128 + process_signal_caught(); /* what is complete has been printed */
    }
    return status == STATUS_OK ? 0 : cli_fail("generate", status);
}
