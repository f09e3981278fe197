/* Owns `hone model convert`: the same model stored in another form. The new folder is made under
 * another name and renamed when all of it is durable, so DST is whole or absent. */
#include "cli/model_convert.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/model_command.h"
#include "model/weights_export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_DTYPE = 'd', OPTION_SHARD_SIZE = 's', OPTION_JSON = 256 };
static const struct cli_option options[] = {
    {OPTION_DTYPE, "dtype", "NAME",
     "f32, bf16 or fp8 (E4M3 blocks with power-of-two scales); a GGUF file: f32"},
    {OPTION_SHARD_SIZE, "shard-size", "SIZE",
     "most bytes of tensors a file: 500MB, 4GiB ... (2GB)"},
    {OPTION_JSON, "json", NULL, "print one object"},
};
static const struct cli_command command = {
    .name = "model convert",
    .arguments = "SRC DST",
    .summary =
        "Writes the model folder SRC as DST in another storage type, tokenizer included. SRC "
        "may be a\nGGUF file of the llama architecture (F32, F16, BF16, Q8_0, Q4_0, Q4_1).",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 2,
    .n_arguments_max = 2,
    .examples = "  hone model convert model model-bf16 --dtype bf16\n"
                "  hone model convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2\n"
                "  hone model convert model model-fp8 --dtype fp8 --shard-size 5GB\n",
};

struct request {
    const char *from, *to, *dtype;
    struct weights_export_options export;
    bool is_file; /* from is a GGUF file, not a folder */
    bool wants_json;
};

static bool parse_dtype(const char *text, enum weights_format *out)
{
    static const char *const names[] = {"f32", "bf16", "fp8"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], text) == 0) {
            *out = (enum weights_format)i;
            return true;
        }
    }
    return false;
}

/* A whole number of B, KB, MB, GB, TB (powers of 1000) or KiB ... TiB. */
static bool parse_size(const char *text, size_t *out)
{
    static const struct {
        const char *unit;
        size_t bytes;
    } units[] = {
        {"", 1},
        {"B", 1},
        {"KB", 1000},
        {"MB", 1000000},
        {"GB", 1000000000},
        {"TB", 1000000000000},
        {"KiB", (size_t)1 << 10},
        {"MiB", (size_t)1 << 20},
        {"GiB", (size_t)1 << 30},
        {"TiB", (size_t)1 << 40},
    };
    char *unit = NULL;
    unsigned long long number;

    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    number = strtoull(text, &unit, 10);
    for (size_t i = 0; errno == 0 && i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(unit, units[i].unit) == 0) {
            return number > 0 && size_multiply((size_t)number, units[i].bytes, out);
        }
    }
    return false;
}

/* 0, or the exit code of a wrong option. */
static int take_option(int code, const char *value, struct request *request)
{
    switch (code) {
    case OPTION_DTYPE:
        request->dtype = value;
        return parse_dtype(value, &request->export.format)
                   ? 0
                   : cli_usage_error(&command, "--dtype %.50s: want f32, bf16 or fp8", value);
    case OPTION_SHARD_SIZE:
        return parse_size(value, &request->export.shard_bytes)
                   ? 0
                   : cli_usage_error(&command, "--shard-size %.50s: want a size like 2GB", value);
    default:
        request->wants_json = true;
        return 0;
    }
}

static enum status report(const struct request *request, const struct weights_export_stats *stats)
{
    struct json *object;
    enum status status;

    if (!request->wants_json) {
        (void)printf("%s: %s, %zu tensors (%zu parameters in FP8 blocks), %.1f MB in %zu %s\n",
                     request->to, request->dtype, stats->n_tensors, stats->n_coded,
                     (double)stats->bytes / 1e6, stats->n_files,
                     stats->n_files == 1 ? "file" : "files");
        return STATUS_OK;
    }
    object = json_object_create();
    status = json_put(object, "dir", json_from_text(request->to, strlen(request->to)));
    if (status == STATUS_OK) {
        status = json_put(object, "dtype", json_from_text(request->dtype, strlen(request->dtype)));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "tensors", json_from_int((int64_t)stats->n_tensors));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "fp8_parameters", json_from_int((int64_t)stats->n_coded));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "bytes", json_from_int((int64_t)stats->bytes));
    }
    if (status == STATUS_OK) {
        status = json_put(object, "files", json_from_int((int64_t)stats->n_files));
    }
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

/* Says before an hour's work what the disk would say after it. */
static enum status check_space(const struct request *request, const struct model_source *source,
                               const char *folder)
{
    const size_t n_bytes =
        weights_export_bytes(&source->config, source->table, request->export.format);
    uint64_t n_free;

    TRY(file_free_bytes(folder, &n_free));
    if (n_bytes > n_free) {
        return status_set(STATUS_NO_SPACE, "%s: needs %zu bytes, %llu are free", request->to,
                          n_bytes, (unsigned long long)n_free);
    }
    return STATUS_OK;
}

/* Fills the folder `temporary` and gives it its name. */
static enum status write_folder(const struct request *request, const char *temporary,
                                struct weights_export_stats *stats)
{
    struct model_source source;
    enum status status;

    TRY(model_source_open(request->from, request->is_file, &source));
    status = check_space(request, &source, temporary);
    if (status == STATUS_OK) {
        status = weights_export(temporary, &source.config, source.table, source.data,
                                &request->export, stats);
    }
    if (status == STATUS_OK) {
        status = model_source_carry(&source, temporary, request->export.format);
    }
    model_source_close(&source);
    TRY(status);
    TRY(folder_sync(temporary));
    return file_rename_new(temporary, request->to);
}

/* The folder beside DST that becomes it; caller frees. */
static enum status make_temporary(const char *to, char **out)
{
    const size_t n = strlen(to);
    char *parent = NULL;
    enum status status = path_parent(to, &parent);

    if (status == STATUS_OK) {
        status = folder_create(parent);
    }
    memory_free(parent);
    TRY(status);
    TRY(memory_alloc(n + sizeof(".partial-XXXXXX"), 1, out));
    (void)snprintf(*out, n + sizeof(".partial-XXXXXX"), "%s.partial-XXXXXX", to);
    if (mkdtemp(*out) == NULL) {
        const int reason = errno;

        memory_free(*out);
        *out = NULL;
        return status_set(reason == ENOSPC || reason == EDQUOT ? STATUS_NO_SPACE : STATUS_IO,
                          "%s: cannot make a folder beside it: %s", to, strerror(reason));
    }
    return STATUS_OK;
}

/* Removes what a failed conversion left; its message stays the one to tell. */
static enum status clean_up(const char *temporary, enum status status)
{
    char message[1024];

    (void)snprintf(message, sizeof(message), "%s", status_message());
    if (folder_remove(temporary) != STATUS_OK) {
        return status_set(status, "%s (%s is left)", message, temporary);
    }
    return status_set(status, "%s", message);
}

static enum status convert(const struct request *request)
{
    struct weights_export_stats stats = {.n_files = 0};
    char *temporary;
    enum status status;

    if (!request->is_file) {
        TRY(cli_check_model(request->from, false));
    }
    if (file_exists(request->to) || folder_exists(request->to)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: is there already and is not written over",
                          request->to);
    }
    TRY(make_temporary(request->to, &temporary));
    status = write_folder(request, temporary, &stats);
    if (status != STATUS_OK) {
        status = clean_up(temporary, status);
    }
    memory_free(temporary);
    TRY(status);
    return report(request, &stats);
}

int model_convert_command(int argc, char **argv)
{
    struct request request = {.export = {.shard_bytes = 2000000000}};
    struct cli_parse parse;
    int code;

    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        const int wrong = take_option(code, parse.value, &request);

        if (wrong != 0) {
            return wrong;
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    request.from = parse.arguments[0];
    request.is_file = file_exists(request.from) && !folder_exists(request.from);
    if (request.dtype == NULL && !request.is_file) {
        return cli_usage_error(&command, "want --dtype f32, bf16 or fp8");
    }
    request.dtype = request.dtype == NULL ? "f32" : request.dtype; /* WEIGHTS_F32 is 0 */
    for (size_t n = strlen(parse.arguments[1]); n > 1 && parse.arguments[1][n - 1] == '/'; n--) {
        parse.arguments[1][n - 1] = '\0'; /* what stands beside DST/ is not inside it */
    }
    request.to = parse.arguments[1];

    const enum status status = convert(&request);

    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
