/* `hone data make TASK` writes rows from a seed; `hone data check FILE` is in data_check.c. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/data_check.h"
#include "cli/data_tasks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPTION_OUT = 'o',
    OPTION_SEED = 's',
    OPTION_PART = 256, /* + enum data_part: how many rows */
    OPTION_JSON = OPTION_PART + N_DATA_PARTS
};

static const struct cli_option options[] = {
    {OPTION_OUT, "out", "DIR", "folder for the files (required)"},
    {OPTION_SEED, "seed", "S", "the same seed makes the same files (0)"},
    {OPTION_PART + DATA_TRAIN, "train", "N", "rows of train.jsonl (20000)"},
    {OPTION_PART + DATA_HELDOUT, "heldout", "N", "rows of heldout.jsonl (1024)"},
    {OPTION_PART + DATA_SFT_WORKED, "sft-worked", "N", "rows of sft-worked.jsonl (modsum: 20000)"},
    {OPTION_PART + DATA_SFT_MIX, "sft-mix", "N", "rows of sft-mix.jsonl (modsum: 10000)"},
    {OPTION_JSON, "json", NULL, "one object: the files and their rows"},
};
static const struct cli_command command = {
    .name = "data make",
    .arguments = "TASK",
    .summary =
        "Writes DIR/train.jsonl and DIR/heldout.jsonl (prompt, answer, data_source; no prompt is "
        "in\nboth), for modsum also DIR/sft-worked.jsonl and DIR/sft-mix.jsonl (prompt, "
        "completion: all\nworked; 20 % worked and 80 % answer only).\n\n"
        "tasks: modsum, arith, parity, sort, reverse, countdown",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone data make modsum --out demo/data\n"
                "  hone data make countdown --out data --train 5000 --seed 7\n",
};

static const struct {
    const char *file;
    uint64_t n_default;
} parts[N_DATA_PARTS] = {
    [DATA_TRAIN] = {"train.jsonl", 20000},
    [DATA_HELDOUT] = {"heldout.jsonl", 1024},
    [DATA_SFT_WORKED] = {"sft-worked.jsonl", 20000},
    [DATA_SFT_MIX] = {"sft-mix.jsonl", 10000},
};

struct make_request {
    const struct data_task *task;
    const char *out;
    uint64_t seed;
    uint64_t n_rows[N_DATA_PARTS];
    bool wants_json;
};

/* --- Writing --- */

static enum status put_row(struct file_writer *writer, const struct make_request *request,
                           enum data_part part, uint64_t index)
{
    struct json *row = NULL;
    char *text = NULL;
    size_t n = 0;

    TRY(data_task_row(request->task, request->seed, part, index, &row));
    enum status status = json_print(row, &text, &n);
    json_destroy(row);
    if (status == STATUS_OK) {
        text[n] = '\n'; /* in place of the NUL */
        status = file_writer_put(writer, text, n + 1);
    }
    memory_free(text);
    return status;
}

static enum status write_rows(const char *path, const struct make_request *request,
                              enum data_part part)
{
    struct file_writer *writer = NULL;

    TRY(file_writer_open(path, &writer));
    for (uint64_t i = 0; i < request->n_rows[part]; i++) {
        const enum status status = put_row(writer, request, part, i);
        if (status != STATUS_OK) {
            file_writer_abandon(writer);
            return status;
        }
    }
    return file_writer_commit(writer);
}

/* Under another name until it is whole. */
static enum status write_part(const struct make_request *request, enum data_part part)
{
    char *path = NULL;
    char *partial = NULL;
    char name[64];

    (void)snprintf(name, sizeof(name), "%s.tmp", parts[part].file);
    enum status status = path_join(request->out, parts[part].file, &path);
    if (status == STATUS_OK) {
        status = path_join(request->out, name, &partial);
    }
    if (status == STATUS_OK) {
        status = write_rows(partial, request, part);
    }
    if (status == STATUS_OK && rename(partial, path) != 0) {
        status = status_set(STATUS_IO, "%s: cannot be renamed to %s: %s", partial, path,
                            strerror(errno));
    }
    if (status != STATUS_OK && partial != NULL) {
        (void)unlink(partial); /* it may not exist */
    }
    memory_free(partial);
    memory_free(path);
    return status;
}

static enum status fill_json(const struct make_request *request, struct json *root)
{
    for (size_t i = 0; i < N_DATA_PARTS; i++) {
        if (request->n_rows[i] == 0) {
            continue;
        }
        TRY(json_put(root, parts[i].file, json_from_int((int64_t)request->n_rows[i])));
    }
    return STATUS_OK;
}

static enum status report(const struct make_request *request)
{
    if (request->wants_json) {
        struct json *root = json_object_create();
        const enum status status = fill_json(request, root);
        if (status != STATUS_OK) {
            json_destroy(root);
            return status;
        }
        return cli_print_json(root);
    }
    for (size_t i = 0; i < N_DATA_PARTS; i++) {
        if (request->n_rows[i] > 0) {
            (void)printf("%s/%s: %llu rows\n", request->out, parts[i].file,
                         (unsigned long long)request->n_rows[i]);
        }
    }
    return STATUS_OK;
}

static enum status make(const struct make_request *request)
{
    TRY(folder_create(request->out));
    for (size_t i = 0; i < N_DATA_PARTS; i++) {
        if (request->n_rows[i] == 0) {
            continue;
        }
        TRY(write_part(request, (enum data_part)i));
    }
    TRY(folder_sync(request->out));
    return report(request);
}

/* --- The command --- */

static bool parse_number(const char *text, uint64_t max, uint64_t *out)
{
    char *end = NULL;

    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    *out = value;
    return errno == 0 && text[0] >= '0' && text[0] <= '9' && *end == '\0' && value <= max;
}

/* false when the value is not what the option wants. */
static bool take_option(int code, const char *value, struct make_request *request, bool *given)
{
    if (code == OPTION_OUT) {
        request->out = value;
        return true;
    }
    if (code == OPTION_JSON) {
        request->wants_json = true;
        return true;
    }
    if (code == OPTION_SEED) {
        return parse_number(value, UINT64_MAX, &request->seed);
    }
    given[code - OPTION_PART] = true;
    return parse_number(value, DATA_ROWS_MAX, &request->n_rows[code - OPTION_PART]);
}

/* Rows that were not asked for by number get the defaults. Returns 0 or the exit code. */
static int complete(struct make_request *request, const char *task, const bool *given)
{
    request->task = data_task_find(task);
    if (request->task == NULL) {
        return cli_usage_error(
            &command, "\"%.64s\": tasks are modsum, arith, parity, sort, reverse, countdown", task);
    }
    if (request->out == NULL) {
        return cli_usage_error(&command, "want --out DIR");
    }
    for (size_t i = 0; i < N_DATA_PARTS; i++) {
        const bool is_there =
            request->task->has_worked || (i != DATA_SFT_WORKED && i != DATA_SFT_MIX);
        if (given[i] && request->n_rows[i] > 0 && !is_there) {
            return cli_usage_error(&command, "task %s has no worked examples", task);
        }
        if (!given[i]) {
            request->n_rows[i] = is_there ? parts[i].n_default : 0;
        }
    }
    return 0;
}

static int data_make(int argc, char **argv)
{
    struct make_request request = {0};
    bool given[N_DATA_PARTS] = {false};
    struct cli_parse parse;
    int code = 0;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (!take_option(code, parse.value, &request, given)) {
            return cli_usage_error(&command, "\"%.64s\" is no such number", parse.value);
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    const int exit_code = complete(&request, parse.arguments[0], given);
    if (exit_code != 0) {
        return exit_code;
    }
    const enum status status = make(&request);
    return status == STATUS_OK ? 0 : cli_fail("data", status);
}

static const struct cli_command overview = {
    .name = "data",
    .arguments = "make|check ...",
    .summary = "Makes rows of a task, or checks files of rows. hone data make --help and\n"
               "hone data check --help tell more.",
    .n_arguments_min = 1,
    .n_arguments_max = 1,
    .examples = "  hone data make modsum --out demo/data\n"
                "  hone data check demo/data/train.jsonl --tokenizer demo/model\n",
};

int cmd_data(int argc, char **argv)
{
    struct cli_parse parse;

    if (argc > 1 && strcmp(argv[1], "make") == 0) {
        return data_make(argc - 1, argv + 1);
    }
    if (argc > 1 && strcmp(argv[1], "check") == 0) {
        return data_check(argc - 1, argv + 1);
    }
    cli_parse_begin(&parse, &overview, argc, argv);
    if (cli_parse_next(&parse) < 0) {
        return parse.exit_code;
    }
    return cli_usage_error(&overview, "\"%.64s\": want make or check", parse.arguments[0]);
}
