/* `hone generate MODEL --prompt TEXT`: completions of one prompt, to look at a model. */
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/local_engine.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEQUENCES_MAX ((size_t)64) /* that run at once */
#define BATCH_TOKENS ((size_t)512)
#define SAMPLES_MAX 4096u
#define TOKENS_MAX 1048576u

enum {
    OPTION_PROMPT = 'p',
    OPTION_COUNT = 'n',
    OPTION_MAX_TOKENS = 256,
    OPTION_TEMPERATURE,
    OPTION_TOP_K,
    OPTION_TOP_P,
    OPTION_MIN_P,
    OPTION_SEED,
    OPTION_CHAT,
    OPTION_DEVICE,
    OPTION_JSON
};

static const struct cli_option options[] = {
    {OPTION_PROMPT, "prompt", "TEXT", "what to continue or answer"},
    {OPTION_COUNT, "count", "N", "completions to draw (1)"},
    {OPTION_MAX_TOKENS, "max-tokens", "N", "tokens of a completion at most (256)"},
    {OPTION_TEMPERATURE, "temperature", "T", "0 is greedy (1)"},
    {OPTION_TOP_K, "top-k", "K", "draw among the K most likely tokens; 0: off (0)"},
    {OPTION_TOP_P, "top-p", "P", "draw among the likeliest tokens of mass P; 1: off (1)"},
    {OPTION_MIN_P, "min-p", "P", "drop tokens below P times the likeliest; 0: off (0)"},
    {OPTION_SEED, "seed", "S", "the same seed draws the same completions (0)"},
    {OPTION_CHAT, "chat", "NAME", "auto, raw, deepseek-v3, chatml, ... (auto)"},
    {OPTION_DEVICE, "device", "NAME", "auto, cpu, cpu-avx512, cpu-avx2, cpu-portable (auto)"},
    {OPTION_JSON, "json", NULL, "one object a completion: text, tokens, logprobs, finish"},
};
static const struct cli_command command = {
    .name = "generate",
    .arguments = "MODEL",
    .summary = "Draws completions of a prompt from a model folder.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone generate demo/model --prompt 1234567890= -n 4\n",
};

struct request {
    const char *model, *prompt, *chat, *device;
    size_t n_samples, max_tokens;
    struct sampling_params sampling;
    uint64_t seed;
    bool wants_json;
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

/* false when the value is not what the option wants. */
static bool take_option(int code, const char *value, struct request *request)
{
    uint64_t count = 0;
    bool is_valid = true;

    if (code == OPTION_PROMPT) {
        request->prompt = value;
    } else if (code == OPTION_CHAT) {
        request->chat = value;
    } else if (code == OPTION_DEVICE) {
        request->device = value;
    } else if (code == OPTION_JSON) {
        request->wants_json = true;
    } else if (code == OPTION_SEED) {
        is_valid = parse_count(value, 0, UINT64_MAX, &request->seed);
    } else if (code == OPTION_COUNT) {
        is_valid = parse_count(value, 1, SAMPLES_MAX, &count);
        request->n_samples = (size_t)count;
    } else if (code == OPTION_MAX_TOKENS) {
        is_valid = parse_count(value, 1, TOKENS_MAX, &count);
        request->max_tokens = (size_t)count;
    } else {
        is_valid = take_sampling_option(code, value, &request->sampling);
    }
    return is_valid;
}

static enum status encode_prompt(const struct request *request, const struct tokenizer *tokenizer,
                                 struct chat_prompt *out)
{
    enum chat_template chat = CHAT_TEMPLATE_RAW;

    TRY(chat_template_choose(request->chat, request->model, &chat));
    struct json *prompt = json_from_text(request->prompt, strlen(request->prompt));
    if (prompt == NULL) {
        return status_set(STATUS_NO_MEMORY, "no memory for the prompt");
    }
    const enum status status = chat_encode(tokenizer, chat, prompt, "", false, out);
    json_destroy(prompt);
    if (status == STATUS_OK && out->ids.n_dropped > 0) {
        const size_t n_dropped = out->ids.n_dropped;

        chat_prompt_dispose(out);
        return status_set(STATUS_BAD_ARGUMENT,
                          "%zu characters of the prompt have no token in this model's vocabulary",
                          n_dropped);
    }
    return status;
}

static struct json *json_of_tokens(const struct completion *completion)
{
    struct json *array = json_array_create();

    for (size_t i = 0; array != NULL && i < completion->n_tokens; i++) {
        if (json_append(array, json_from_int(completion->tokens[i])) != STATUS_OK) {
            json_destroy(array);
            return NULL;
        }
    }
    return array;
}

static struct json *json_of_logprobs(const struct completion *completion)
{
    struct json *array = json_array_create();

    for (size_t i = 0; array != NULL && i < completion->n_tokens; i++) {
        const double logp = (double)completion->logprobs[i];

        if (json_append(array, json_from_number(logp)) != STATUS_OK) {
            json_destroy(array);
            return NULL;
        }
    }
    return array;
}

static enum status fill_result(struct json *result, const struct completion *completion,
                               const char *text, size_t text_bytes)
{
    TRY(json_put(result, "sample", json_from_int(completion->sample)));
    TRY(json_put(result, "text", json_from_text(text, text_bytes)));
    TRY(json_put(result, "tokens", json_of_tokens(completion)));
    TRY(json_put(result, "logprobs", json_of_logprobs(completion)));
    const char *finish = finish_name(completion->finish);
    return json_put(result, "finish", json_from_text(finish, strlen(finish)));
}

/* A completion as the JSON object that --json prints; text without the end token. */
static enum status describe(const struct tokenizer *tokenizer, const struct completion *completion,
                            struct json **out)
{
    const size_t n_end = completion->finish == FINISH_STOP ? 1 : 0;
    char *text = NULL;
    size_t text_bytes = 0;

    TRY(tokenizer_decode(tokenizer, completion->tokens, completion->n_tokens - n_end, false, true,
                         &text, &text_bytes));
    *out = json_object_create();
    const enum status status = fill_result(*out, completion, text, text_bytes);
    memory_free(text);
    return status;
}

static enum status print_text(const struct json *result)
{
    const struct json *text = json_get(result, "text");
    const size_t room = 8 * json_text_bytes(text) + 8; /* every byte may become an escape */
    char *line = NULL;

    TRY(memory_alloc(room, 1, &line));
    (void)puts(log_escape(json_text(text, ""), json_text_bytes(text), line, room));
    memory_free(line);
    return STATUS_OK;
}

/* Draws everything into results (n_samples), in the samples' order. */
static enum status draw_all(const struct request *request, const struct tokenizer *tokenizer,
                            const struct chat_prompt *prompt, struct engine *engine,
                            struct json **results)
{
    int32_t *samples = NULL;

    TRY(memory_alloc(request->n_samples, sizeof(*samples), &samples));
    for (size_t i = 0; i < request->n_samples; i++) {
        samples[i] = (int32_t)i;
    }
    const struct engine_request work = {.seed = request->seed,
                                        .prompt = prompt->ids.ids,
                                        .n_prompt = prompt->ids.count,
                                        .samples = samples,
                                        .n_samples = request->n_samples,
                                        .max_tokens = request->max_tokens,
                                        .sampling = request->sampling};
    enum status status = engine_submit(engine, &work);
    memory_free(samples);
    while (status == STATUS_OK && !engine_is_idle(engine)) {
        const struct completion *completions = NULL;
        size_t n = 0;

        status = engine_tick(engine, &completions, &n);
        for (size_t i = 0; status == STATUS_OK && i < n; i++) {
            status = describe(tokenizer, &completions[i], &results[completions[i].sample]);
        }
    }
    return status;
}

static enum status print_all(const struct request *request, struct json **results)
{
    enum status status = STATUS_OK;

    for (size_t i = 0; status == STATUS_OK && i < request->n_samples; i++) {
        status =
            request->wants_json ? cli_print_json(json_retain(results[i])) : print_text(results[i]);
    }
    return status;
}

static enum status generate(const struct request *request, const struct tokenizer *tokenizer,
                            const struct chat_prompt *prompt, struct local_engine *local)
{
    const struct engine_options engine_options = {
        .max_num_seqs = request->n_samples < SEQUENCES_MAX ? request->n_samples : SEQUENCES_MAX,
        .max_batch_tokens = BATCH_TOKENS,
        .max_sequence = prompt->ids.count + request->max_tokens};
    struct json **results = NULL;

    TRY(local_engine_open(request->model, request->device, 0, &engine_options, local));
    TRY(memory_alloc(request->n_samples, sizeof(struct json *), &results));
    enum status status = draw_all(request, tokenizer, prompt, local->engine, results);
    if (status == STATUS_OK) {
        status = print_all(request, results);
    }
    for (size_t i = 0; i < request->n_samples; i++) {
        json_destroy(results[i]);
    }
    memory_free(results);
    return status;
}

static enum status run(const struct request *request)
{
    struct local_engine local = {.backend = NULL};
    struct tokenizer *tokenizer = NULL;
    struct chat_prompt prompt = {.text = NULL};

    TRY(cli_check_model(request->model, true));
    TRY(tokenizer_load(request->model, &tokenizer));
    enum status status = encode_prompt(request, tokenizer, &prompt);
    if (status == STATUS_OK) {
        status = generate(request, tokenizer, &prompt, &local);
        chat_prompt_dispose(&prompt);
    }
    local_engine_close(&local);
    tokenizer_destroy(tokenizer);
    return status;
}

int cmd_generate(int argc, char **argv)
{
    struct request request = {.chat = "auto",
                              .device = "auto",
                              .n_samples = 1,
                              .max_tokens = 256,
                              .sampling = {.temperature = 1.0F, .top_p = 1.0F}};
    struct cli_parse parse;
    int code = 0;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (!take_option(code, parse.value, &request)) {
            return cli_usage_error(&command, "\"%.100s\" is not a value of that option",
                                   parse.value);
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    if (request.prompt == NULL) {
        return cli_usage_error(&command, "--prompt is missing");
    }
    request.model = parse.arguments[0];
    log_setup("generate", LOG_WARN);
    const enum status status = run(&request);
    return status == STATUS_OK ? 0 : cli_fail("generate", status);
}
