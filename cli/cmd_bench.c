/* hone bench: how fast the shipped code is here, as a share of what this machine can do. */
#include "cli/bench_files.h"
#include "cli/bench_model.h"
#include "cli/cli.h"
#include "cli/commands.h"

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPTION_DEVICE = 'd',
    OPTION_THREADS = 't',
    OPTION_MODEL = 'm',
    OPTION_ONLY = 'o',
    OPTION_JSON = 'j',
    OPTION_SCRATCH = 256
};

static const struct cli_option options[] = {
    {OPTION_DEVICE, "device", "NAME", "auto, cpu-avx512, cpu-avx2 or cpu-portable (auto)"},
    {OPTION_THREADS, "threads", "N", "of kernels and models; 0: every core (0)"},
    {OPTION_MODEL, "model", "DIR", "load this folder, and tokenize with its tokenizer too"},
    {OPTION_SCRATCH, "scratch", "DIR", "where files are made and removed again (/tmp)"},
    {OPTION_ONLY, "only", "PART", "kernels, models, load or tokenize"},
    {OPTION_JSON, "json", NULL, "one object a measurement"},
};
static const struct cli_command command = {
    .name = "bench",
    .arguments = "",
    .summary =
        "Measures the kernels, decoding and training of the demo's model, loading of checkpoints\n"
        "from the page cache, and the tokenizer on one core. Takes fifteen seconds. Shares are of\n"
        "the fp32 FMA rate or memory rate measured in the same run.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .examples = "  hone bench --model DIR --only load\n",
};

enum part { PART_KERNELS, PART_MODELS, PART_LOAD, PART_TOKENIZE, N_PARTS };
static const char *const part_names[N_PARTS] = {"kernels", "models", "load", "tokenize"};

struct request {
    const char *device;
    struct bench_places places;
    size_t n_threads;
    bool wants[N_PARTS];
    bool is_json;
};

/* "gemm" of "gemm 8 x 1024 x 1024". */
static struct json *first_word(const char *name)
{
    return json_from_text(name, strcspn(name, " ,"));
}

/* A rate under its unit, for those who look for one number. */
static enum status put_rate(struct json *object, const struct bench_result *result)
{
    if (strcmp(result->unit, "GB/s") == 0) {
        return json_put(object, "gb_per_s", json_from_number(result->value));
    }
    return strcmp(result->unit, "MB/s") == 0
               ? json_put(object, "mb_per_s", json_from_number(result->value))
               : STATUS_OK;
}

static enum status fill(struct json *object, const struct bench_result *result)
{
    TRY(json_put(object, "bench", first_word(result->name)));
    TRY(put_rate(object, result));
    TRY(json_put(object, "name", json_from_text(result->name, strlen(result->name))));
    TRY(json_put(object, "unit", json_from_text(result->unit, strlen(result->unit))));
    TRY(json_put(object, "value", json_from_number(result->value)));
    TRY(json_put(object, "best", json_from_number(result->best)));
    TRY(json_put(object, "limit", json_from_number(result->limit)));
    return json_put(object, "share", json_from_number(result->share));
}

static enum status print_json(const struct bench_result *result)
{
    struct json *object = json_object_create();
    const enum status status = fill(object, result);
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

static enum status print_result(const struct bench_result *result, bool is_json)
{
    char share[16] = "";
    if (is_json) {
        return print_json(result);
    }
    if (result->limit > 0) {
        (void)snprintf(share, sizeof share, "%5.1f %%", 100 * result->share);
    }
    (void)printf("%-36s %12.5g %-9s %8s   best %.5g\n", result->name, result->value, result->unit,
                 share, result->best);
    (void)fflush(stdout);
    return STATUS_OK;
}

static enum status bench_kernel_results(struct backend *backend, bool is_json)
{
    struct bench_result *results = NULL;
    size_t n = 0;
    TRY(memory_alloc(BENCH_RESULTS_MAX, sizeof results[0], &results));
    enum status status = bench_kernels(backend, results, &n);
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        status = print_result(&results[i], is_json);
    }
    memory_free(results);
    return status;
}

static enum status bench_model_results(struct backend *backend, bool is_json)
{
    static const size_t batches[] = {1, 64};
    struct bench_result result = {0};
    double peak = 0;
    TRY(bench_fma_peak(backend, &peak));
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        TRY(bench_decode(backend, "demo", batches[i], peak, &result));
        TRY(print_result(&result, is_json));
    }
    TRY(bench_training(backend, "demo", peak, &result));
    return print_result(&result, is_json);
}

static enum status bench_backend(const struct request *request, double *memory_gb_per_s)
{
    struct backend *backend = NULL;
    TRY(backend_open(request->device, request->n_threads, &backend));
    if (!request->is_json) {
        (void)printf("%s, %zu threads\n", backend->name, backend->n_threads);
    }
    enum status status = bench_memory_rate(backend, memory_gb_per_s);
    if (status == STATUS_OK && request->wants[PART_KERNELS]) {
        status = bench_kernel_results(backend, request->is_json);
    }
    if (status == STATUS_OK && request->wants[PART_MODELS]) {
        status = bench_model_results(backend, request->is_json);
    }
    backend_close(backend);
    return status;
}

static enum status report(void *context, const struct bench_result *result)
{
    const struct request *request = context;
    return print_result(result, request->is_json);
}

static enum status bench(struct request *request)
{
    double memory_gb_per_s = 0;
    if (request->places.model_dir != NULL) {
        TRY(cli_check_model(request->places.model_dir, request->wants[PART_TOKENIZE]));
    }
    TRY(bench_backend(request, &memory_gb_per_s));
    if (request->wants[PART_LOAD]) {
        TRY(bench_load(&request->places, memory_gb_per_s, report, request));
    }
    return request->wants[PART_TOKENIZE] ? bench_tokenize(&request->places, report, request)
                                         : STATUS_OK;
}

static bool take_threads(const char *value, struct request *request)
{
    char *end = NULL;
    request->n_threads = strtoul(value, &end, 10);
    return end != value && *end == '\0' && request->n_threads <= 1024;
}

/* The first --only leaves the other parts out, further ones add theirs. */
static bool take_part(const char *value, struct request *request, bool *is_chosen)
{
    bool is_known = false;
    for (size_t i = 0; i < N_PARTS; i++) {
        const bool is_it = strcmp(value, part_names[i]) == 0;
        request->wants[i] = is_it || (*is_chosen && request->wants[i]);
        is_known = is_known || is_it;
    }
    *is_chosen = true;
    return is_known;
}

int cmd_bench(int argc, char **argv)
{
    struct cli_parse parse;
    struct request request = {
        .device = "auto", .places = {.scratch = "/tmp"}, .wants = {true, true, true, true}};
    bool is_chosen = false;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        if (code == OPTION_DEVICE) {
            request.device = parse.value;
        } else if (code == OPTION_MODEL) {
            request.places.model_dir = parse.value;
        } else if (code == OPTION_SCRATCH) {
            request.places.scratch = parse.value;
        } else if (code == OPTION_JSON) {
            request.is_json = true;
        } else if (code == OPTION_ONLY && !take_part(parse.value, &request, &is_chosen)) {
            return cli_usage_error(&command, "--only: want kernels, models, load or tokenize");
        } else if (code == OPTION_THREADS && !take_threads(parse.value, &request)) {
            return cli_usage_error(&command, "--threads: want 0 to 1024");
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    log_setup("bench", LOG_WARN);
    const enum status status = bench(&request);
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
