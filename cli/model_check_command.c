/* Owns `hone model check`: a model folder verified by itself, or against known numbers. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/model_command.h"
#include "kernels/backend.h"
#include "model/model_check.h"
#include "model/model_config.h"
#include "model/tokenizer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPTION_AGAINST = 'a',
    OPTION_OUT = 'o',
    OPTION_DEVICE = 256,
    OPTION_NO_TOKENIZER,
    OPTION_JSON
};
static const struct cli_option options[] = {
    {OPTION_AGAINST, "against", "FILE", "a safetensors file with input_ids and known results"},
    {OPTION_OUT, "out", "FILE", "write what was computed, under the same names"},
    {OPTION_DEVICE, "device", "NAME",
     "auto, cpu, cpu-avx512bf16, cpu-avx512, cpu-avx2, cpu-portable (auto)"},
    {OPTION_NO_TOKENIZER, "no-tokenizer", NULL, "a folder without tokenizer.json is fine"},
    {OPTION_JSON, "json", NULL, "print one object"},
};
static const struct cli_command command = {
    .name = "model check",
    .arguments = "DIR",
    .summary = "Verifies a model folder: it loads, is finite, and survives saving bit for bit.\n"
               "With --against: compares logits, losses, hidden states, routes and gradients with\n"
               "the file's and exits 1 when something is out of tolerance; stored results of W8A8\n"
               "arithmetic are compared with FP8 runs, codes first.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone model check model\n"
                "  hone model check DIR --against DIR/io.safetensors\n",
};

struct request {
    const char *dir, *against, *out, *device;
    bool needs_tokenizer, wants_json;
};

/* One line a kind of tensor. */
static void print_lines(const struct model_check *check)
{
    for (size_t i = 0; i < check->n_lines; i++) {
        const struct model_check_line *line = &check->lines[i];

        (void)printf("%-4s %-23s %4zu %-8s worst %.3f of tolerance",
                     line->share <= 1 ? "ok" : "FAIL", line->kind, line->n_tensors,
                     line->n_tensors == 1 ? "tensor" : "tensors", line->share);
        if (line->share > 0) {
            (void)printf(" at %s: %.9g, want %.9g", line->where, line->got, line->want);
        }
        (void)printf("\n");
    }
}

static enum status describe_line(const struct model_check_line *line, struct json *object)
{
    TRY(json_put(object, "kind", json_from_text(line->kind, strlen(line->kind))));
    TRY(json_put(object, "tensors", json_from_int((int64_t)line->n_tensors)));
    /* null when it cannot be counted in tolerances: not a number, or a wrong index */
    TRY(json_put(object, "share", json_from_number(line->share)));
    TRY(json_put(object, "at", json_from_text(line->where, strlen(line->where))));
    TRY(json_put(object, "got", json_from_number(line->got)));
    TRY(json_put(object, "want", json_from_number(line->want)));
    return json_put(object, "ok", json_from_bool(line->share <= 1));
}

static enum status describe_lines(const struct model_check *check, struct json *list)
{
    for (size_t i = 0; i < check->n_lines; i++) {
        struct json *object = json_object_create();
        const enum status status = describe_line(&check->lines[i], object);

        if (status != STATUS_OK) {
            json_destroy(object);
            return status;
        }
        TRY(json_append(list, object));
    }
    return STATUS_OK;
}

static enum status print_json(const char *dir, const struct model_check *check)
{
    struct json *object = json_object_create();
    struct json *list = json_array_create();
    enum status status = describe_lines(check, list);

    if (status != STATUS_OK) {
        json_destroy(list);
    } else {
        status = json_put(object, "kinds", list);
    }
    if (status == STATUS_OK) {
        status = json_put(object, "dir", json_from_text(dir, strlen(dir)));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "ok", json_from_bool(check->has_passed));
    }
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

static enum status check_against(const struct request *request, bool *has_passed)
{
    struct model_check check;
    struct backend *backend;
    enum status status;

    if (!file_exists(request->against)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such file", request->against);
    }
    TRY(backend_open(request->device, 0, &backend));
    status = model_check_against(backend, request->dir, request->against, request->out, &check);
    backend_close(backend);
    TRY(status);
    *has_passed = check.has_passed;
    if (request->wants_json) {
        return print_json(request->dir, &check);
    }
    print_lines(&check);
    return STATUS_OK;
}

static enum status require_tokenizer(const char *dir)
{
    char *path;
    bool is_there;

    TRY(path_join(dir, "tokenizer.json", &path));
    is_there = file_exists(path);
    memory_free(path);
    if (!is_there) {
        return status_set(
            STATUS_BAD_FORMAT,
            "%s: no tokenizer.json, so it cannot be run (--no-tokenizer accepts that)", dir);
    }
    return STATUS_OK;
}

/* The tokenizer loads and its ids fit the model. */
static enum status check_tokenizer(const char *dir)
{
    struct model_config config;
    struct tokenizer *tokenizer;
    size_t n;

    TRY(model_config_load(dir, &config));
    TRY(require_tokenizer(dir));
    TRY(tokenizer_load(dir, &tokenizer));
    n = tokenizer_vocab_size(tokenizer);
    tokenizer_destroy(tokenizer);
    if (n > config.vocab_size) {
        return status_set(STATUS_BAD_FORMAT, "%s: the tokenizer has %zu ids, the model %zu", dir, n,
                          config.vocab_size);
    }
    return STATUS_OK;
}

/* An empty folder for the copy; the caller removes it and frees *out. */
static enum status make_scratch(char **out)
{
    TRY(path_join(P_tmpdir, "hone-check-XXXXXX", out));
    if (mkdtemp(*out) == NULL) {
        const enum status status =
            status_set(STATUS_IO, "%s: cannot make this folder: %s", *out, strerror(errno));

        memory_free(*out);
        *out = NULL;
        return status;
    }
    return STATUS_OK;
}

static enum status check_alone(const struct request *request)
{
    char *scratch;
    enum status status, removed;

    if (request->needs_tokenizer) {
        TRY(check_tokenizer(request->dir));
    }
    TRY(make_scratch(&scratch));
    status = model_check_round_trip(request->dir, scratch);
    removed = status == STATUS_OK ? folder_remove(scratch) : STATUS_OK;
    if (status != STATUS_OK && folder_exists(scratch)) {
        char message[1024]; /* what went wrong matters more than what the removal says */

        (void)snprintf(message, sizeof(message), "%s", status_message());
        removed = folder_remove(scratch);
        status = status_set(status, "%s", message);
    }
    memory_free(scratch);
    TRY(status);
    TRY(removed);
    if (request->wants_json) {
        const struct model_check check = {.has_passed = true};

        return print_json(request->dir, &check);
    }
    (void)printf("ok   %s: configuration, tensors%s; saving and loading gives the same bits\n",
                 request->dir, request->needs_tokenizer ? ", tokenizer" : "");
    return STATUS_OK;
}

static void take_option(int code, const char *value, struct request *request)
{
    switch (code) {
    case OPTION_AGAINST:
        request->against = value;
        break;
    case OPTION_OUT:
        request->out = value;
        break;
    case OPTION_DEVICE:
        request->device = value;
        break;
    case OPTION_NO_TOKENIZER:
        request->needs_tokenizer = false;
        break;
    default:
        request->wants_json = true;
        break;
    }
}

int model_check_command(int argc, char **argv)
{
    struct request request = {.device = "auto", .needs_tokenizer = true};
    struct cli_parse parse;
    bool has_passed = true;
    int code;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        take_option(code, parse.value, &request);
    }
    if (code < 0) {
        return parse.exit_code;
    }
    if (request.out != NULL && request.against == NULL) {
        return cli_usage_error(&command, "--out wants --against");
    }
    request.dir = parse.arguments[0];

    enum status status = cli_check_model(request.dir, false);

    if (status == STATUS_OK) {
        status =
            request.against != NULL ? check_against(&request, &has_passed) : check_alone(&request);
    }
    if (status != STATUS_OK) {
        return cli_fail(command.name, status);
    }
    return has_passed ? 0 : 1;
}
