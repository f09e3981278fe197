/* Owns the report on data files: columns, counts, quantiles of prompt lengths, three prompts. */
#include "cli/data_check.h"

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"
#include "trainer/dataset.h"

#include <stdlib.h>
#include <string.h>

#define FILES_MAX 4096u
#define SHOWN_PROMPTS 3u
#define SHOWN_BYTES 600u

enum {
    OPTION_TOKENIZER = 't',
    OPTION_CHAT = 256,
    OPTION_SYSTEM,
    OPTION_PROMPT_KEY,
    OPTION_ANSWER_KEY,
    OPTION_COMPLETION_KEY,
    OPTION_SFT,
    OPTION_JSON
};

static const struct cli_option options[] = {
    {OPTION_TOKENIZER, "tokenizer", "DIR", "model folder: count tokens and render prompts"},
    {OPTION_CHAT, "chat", "NAME", "auto, raw, deepseek-v3, chatml, ... (auto)"},
    {OPTION_SYSTEM, "system-prompt", "TEXT", "put in front of rows that have none"},
    {OPTION_PROMPT_KEY, "prompt-key", "KEY", "column of prompts, dots descend (detected)"},
    {OPTION_ANSWER_KEY, "answer-key", "KEY", "column of answers (detected)"},
    {OPTION_COMPLETION_KEY, "completion-key", "KEY", "column of completions (detected)"},
    {OPTION_SFT, "sft", NULL, "rows are prompts with completions"},
    {OPTION_JSON, "json", NULL, "one object"},
};
static const struct cli_command command = {
    .name = "data check",
    .arguments = "FILE...",
    .summary = "Reads rows as training would, and tells what is in them.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = FILES_MAX,
    .examples = "  hone data check demo/data/train.jsonl --tokenizer demo/model\n"
                "  hone data check 'rows/*.jsonl' --answer-key reward_model.ground_truth --json\n",
};

struct check_request {
    struct text_list paths;
    struct dataset_options data;
    const char *tokenizer, *chat, *system_prompt;
    bool wants_json;
};

struct check_report {
    struct dataset *dataset;
    bool wants_answers;
    struct tokenizer *tokenizer; /* NULL: lengths and prompts are not known */
    struct dataset_counts counts;
    size_t *lengths; /* (n_lengths) tokens of each prompt that is not empty, ascending */
    size_t n_lengths;
    char *prompts[SHOWN_PROMPTS];
    size_t n_prompts;
};

/* --- Finding out --- */

static enum status keep_prompt(struct check_report *report, const struct chat_prompt *prompt)
{
    if (report->n_prompts == SHOWN_PROMPTS) {
        return STATUS_OK;
    }
    TRY(memory_copy_text(prompt->text, prompt->text_bytes, &report->prompts[report->n_prompts]));
    report->n_prompts++;
    return STATUS_OK;
}

static enum status measure_row(struct check_report *report, size_t index)
{
    struct dataset_row row;
    struct chat_prompt prompt = {0};

    TRY(dataset_row_read(report->dataset, index, &row));
    enum status status = dataset_encode_prompt(report->dataset, &row, &prompt);
    if (status == STATUS_OK) {
        report->lengths[report->n_lengths++] = prompt.ids.count;
        status = keep_prompt(report, &prompt);
    }
    chat_prompt_dispose(&prompt);
    dataset_row_dispose(&row);
    return status;
}

static int compare_sizes(const void *a, const void *b)
{
    size_t x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

static enum status measure_prompts(const struct check_request *request, struct check_report *report)
{
    struct dataset_encoding encoding = {.eos_id = -1, .system_prompt = request->system_prompt};

    TRY(tokenizer_load(request->tokenizer, &report->tokenizer));
    TRY(chat_template_open(request->chat, request->tokenizer, report->tokenizer, &encoding.chat));
    encoding.tokenizer = report->tokenizer;
    TRY(dataset_prepare(report->dataset, &encoding, &report->counts));
    const size_t n = dataset_usable(report->dataset);
    TRY(memory_alloc(n, sizeof(*report->lengths), &report->lengths));
    for (size_t i = 0; i < n; i++) {
        TRY(measure_row(report, dataset_row_at(report->dataset, 0, i, false)));
    }
    qsort(report->lengths, n, sizeof(*report->lengths), compare_sizes);
    return STATUS_OK;
}

/* What can be told without a tokenizer. */
static enum status count_rows(struct check_report *report)
{
    struct dataset_row row;

    report->counts = (struct dataset_counts){.n_rows = dataset_rows(report->dataset),
                                             .n_duplicates = dataset_duplicates(report->dataset)};
    for (size_t i = 0; i < report->counts.n_rows; i++) {
        TRY(dataset_row_read(report->dataset, i, &row));
        report->counts.n_without_answer += report->wants_answers && row.answer == NULL ? 1 : 0;
        dataset_row_dispose(&row);
    }
    return STATUS_OK;
}

static size_t quantile(const struct check_report *report, double share)
{
    return report->lengths[(size_t)((double)(report->n_lengths - 1) * share + 0.5)];
}

/* --- Telling --- */

static void print_key(const char *what, const char *key)
{
    if (*key != '\0') {
        (void)printf("  %-11s %s\n", what, key);
    }
}

static void print_count(const char *what, size_t n)
{
    (void)printf("%-12s %zu\n", what, n);
}

static void print_files(const struct check_report *report)
{
    for (size_t i = 0; i < dataset_files(report->dataset); i++) {
        const struct dataset_file file = dataset_file_at(report->dataset, i);
        (void)printf("%s: %zu rows\n", file.path, file.n_rows);
        print_key("prompt", file.prompt_key);
        print_key("answer", file.answer_key);
        print_key("completion", file.completion_key);
        print_key("source", file.source_key);
    }
}

static void print_prompts(const struct check_report *report)
{
    char text[SHOWN_BYTES];

    (void)printf("tokens       min %zu  p50 %zu  p90 %zu  p99 %zu  max %zu\n",
                 quantile(report, 0.0), quantile(report, 0.5), quantile(report, 0.9),
                 quantile(report, 0.99), quantile(report, 1.0));
    for (size_t i = 0; i < report->n_prompts; i++) {
        const char *prompt = report->prompts[i];
        (void)printf("prompt %zu     %s\n", i + 1,
                     log_escape(prompt, strlen(prompt), text, sizeof(text)));
    }
}

static void print_report(const struct check_report *report)
{
    print_files(report);
    print_count("rows", report->counts.n_rows);
    print_count("duplicates", report->counts.n_duplicates);
    if (report->wants_answers) {
        print_count("no answer", report->counts.n_without_answer);
    }
    if (report->tokenizer != NULL) {
        print_count("empty", report->counts.n_empty);
        print_count("unencodable", report->counts.n_unencodable);
        print_prompts(report);
    }
}

static enum status put_text(struct json *object, const char *key, const char *text)
{
    return json_put(object, key, json_from_text(text, strlen(text)));
}

static enum status put_count(struct json *object, const char *key, size_t n)
{
    return json_put(object, key, json_from_int((int64_t)n));
}

static enum status fill_file(struct json *object, const struct dataset_file *file)
{
    TRY(put_text(object, "path", file->path));
    TRY(put_count(object, "rows", file->n_rows));
    TRY(put_text(object, "prompt_key", file->prompt_key));
    TRY(put_text(object, "answer_key", file->answer_key));
    TRY(put_text(object, "completion_key", file->completion_key));
    return put_text(object, "source_key", file->source_key);
}

/* Lists are put into their owner while empty, so that one owner frees all of it on failure. */
static enum status fill_files(struct json *root, const struct check_report *report)
{
    TRY(json_put(root, "files", json_array_create()));
    for (size_t i = 0; i < dataset_files(report->dataset); i++) {
        const struct dataset_file file = dataset_file_at(report->dataset, i);
        struct json *list = json_get(root, "files");
        TRY(json_append(list, json_object_create()));
        TRY(fill_file(json_at(list, i), &file));
    }
    return STATUS_OK;
}

static enum status fill_prompts(struct json *root, const struct check_report *report)
{
    static const struct {
        const char *name;
        double share;
    } quantiles[] = {{"min", 0.0}, {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1.0}};

    TRY(json_put(root, "tokens", json_object_create()));
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        TRY(put_count(json_get(root, "tokens"), quantiles[i].name,
                      quantile(report, quantiles[i].share)));
    }
    TRY(json_put(root, "prompts", json_array_create()));
    for (size_t i = 0; i < report->n_prompts; i++) {
        const char *text = report->prompts[i];
        TRY(json_append(json_get(root, "prompts"), json_from_text(text, strlen(text))));
    }
    TRY(put_count(root, "empty", report->counts.n_empty));
    return put_count(root, "unencodable", report->counts.n_unencodable);
}

static enum status fill_json(struct json *root, const struct check_report *report)
{
    TRY(fill_files(root, report));
    TRY(put_count(root, "rows", report->counts.n_rows));
    TRY(put_count(root, "duplicates", report->counts.n_duplicates));
    TRY(put_count(root, "without_answer", report->counts.n_without_answer));
    return report->tokenizer == NULL ? STATUS_OK : fill_prompts(root, report);
}

static enum status print_report_json(const struct check_report *report)
{
    struct json *root = json_object_create();
    const enum status status = fill_json(root, report);

    if (status != STATUS_OK) {
        json_destroy(root);
        return status;
    }
    return cli_print_json(root);
}

/* --- The command --- */

static void take_option(int code, const char *value, struct check_request *request)
{
    const struct {
        int code;
        const char **where;
    } texts[] = {
        {OPTION_TOKENIZER, &request->tokenizer},
        {OPTION_CHAT, &request->chat},
        {OPTION_SYSTEM, &request->system_prompt},
        {OPTION_PROMPT_KEY, &request->data.prompt_key},
        {OPTION_ANSWER_KEY, &request->data.answer_key},
        {OPTION_COMPLETION_KEY, &request->data.completion_key},
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (texts[i].code == code) {
            *texts[i].where = value;
        }
    }
    if (code == OPTION_SFT) {
        request->data.use = DATASET_SFT;
    }
    request->wants_json = request->wants_json || code == OPTION_JSON;
}

static enum status check(const struct check_request *request, struct check_report *report)
{
    report->wants_answers = request->data.use == DATASET_PROMPTS;
    TRY(dataset_open(&request->paths, &request->data, &report->dataset));
    if (request->tokenizer == NULL) {
        TRY(count_rows(report));
    } else {
        TRY(measure_prompts(request, report));
    }
    if (request->wants_json) {
        return print_report_json(report);
    }
    print_report(report);
    return STATUS_OK;
}

static void dispose_report(struct check_report *report)
{
    for (size_t i = 0; i < report->n_prompts; i++) {
        memory_free(report->prompts[i]);
    }
    memory_free(report->lengths);
    dataset_close(report->dataset);
    tokenizer_destroy(report->tokenizer);
}

int data_check(int argc, char **argv)
{
    struct check_request request = {.chat = "auto", .system_prompt = ""};
    struct check_report report = {0};
    struct cli_parse parse;
    int code = 0;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        take_option(code, parse.value, &request);
    }
    if (code < 0) {
        return parse.exit_code;
    }
    request.paths = (struct text_list){parse.arguments, parse.n_arguments};
    enum status status = check(&request, &report);
    dispose_report(&report);
    if (status == STATUS_IO) { /* all it reads was named by the user */
        status = status_set(STATUS_BAD_ARGUMENT, "%s", status_message());
    }
    return status == STATUS_OK ? 0 : cli_fail("data check", status);
}
