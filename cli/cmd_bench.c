/* hone bench: how fast the shipped code is here, as a share of what this machine can do. */
#include "cli/bench_model.h"
#include "cli/cli.h"
#include "cli/commands.h"

#include "base/json.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_option options[] = {
    {'d', "device", "NAME", "auto, cpu-avx512, cpu-avx2 or cpu-portable (default: auto)"},
    {'t', "threads", "N", "0: every core (default)"},
    {'j', "json", NULL, "one object a measurement"},
};
static const struct cli_command command = {
    .name = "bench",
    .arguments = "",
    .summary =
        "Measures the kernels, decoding and training of the demo's model. Takes ten seconds.\n"
        "Shares are of the fp32 FMA rate or memory rate measured in the same run.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
};

static enum status fill(struct json *object, const struct bench_result *result)
{
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

static enum status bench(const char *device, size_t n_threads, bool is_json)
{
    struct backend *backend = NULL;
    TRY(backend_open(device, n_threads, &backend));
    if (!is_json) {
        (void)printf("%s, %zu threads\n", backend->name, backend->n_threads);
    }
    enum status status = bench_kernel_results(backend, is_json);
    if (status == STATUS_OK) {
        status = bench_model_results(backend, is_json);
    }
    backend_close(backend);
    return status;
}

int cmd_bench(int argc, char **argv)
{
    struct cli_parse parse;
    const char *device = "auto";
    unsigned long n_threads = 0;
    bool is_json = false;
    int code = 0;
    cli_parse_begin(&parse, &command, argc, argv);
    while ((code = cli_parse_next(&parse)) > 0) {
        char *end = NULL;
        if (code == 'd') {
            device = parse.value;
        } else if (code == 'j') {
            is_json = true;
        } else {
            n_threads = strtoul(parse.value, &end, 10);
        }
        if (end != NULL && (end == parse.value || *end != '\0' || n_threads > 1024)) {
            return cli_usage_error(&command, "--threads: want 0 to 1024");
        }
    }
    if (code < 0) {
        return parse.exit_code;
    }
    const enum status status = bench(device, n_threads, is_json);
    return status == STATUS_OK ? 0 : cli_fail(command.name, status);
}
