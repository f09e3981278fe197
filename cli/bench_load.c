/* Loading of weights, as often as gives a steady number. */
#include "cli/bench_files.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "cli/bench_folder.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "model/weights_export.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define REPEATS 5u
#define SEED 1u
#define MADE_LAYERS ((size_t)24) /* of preset small: 46 M parameters */

struct loading {
    const char *dir, *label;
    const struct weight_table *table;
    size_t file_bytes;
};

static double gb_per_s(const struct loading *loading, int64_t us)
{
    return 1e-3 * (double)loading->file_bytes / (double)(us > 0 ? us : 1);
}

/* Into memory that was never touched, as at every start. */
static enum status load_once(const struct loading *loading, int64_t *us)
{
    float *data = NULL;
    const int64_t since_us = clock_now_us();

    TRY(memory_alloc(loading->table->n_floats, sizeof(*data), &data));
    const enum status status = weights_load(loading->dir, loading->table, data);
    *us = clock_now_us() - since_us;
    memory_free(data);
    return status;
}

static void sort(int64_t *values, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        for (size_t j = i; j > 0 && values[j] < values[j - 1]; j--) {
            const int64_t value = values[j];

            values[j] = values[j - 1];
            values[j - 1] = value;
        }
    }
}

static enum status measure(const struct loading *loading, double memory_gb_per_s,
                           struct bench_result *out)
{
    const double file_bytes = (double)loading->file_bytes;
    const double all_bytes = file_bytes + (double)(loading->table->n_floats * sizeof(float));
    int64_t us[REPEATS] = {0};

    TRY(load_once(loading, &us[0])); /* brings the files into the page cache */
    for (size_t i = 0; i < REPEATS; i++) {
        TRY(load_once(loading, &us[i]));
    }
    sort(us, REPEATS);
    *out = (struct bench_result){.unit = "GB/s",
                                 .value = gb_per_s(loading, us[REPEATS / 2]),
                                 .best = gb_per_s(loading, us[0]),
                                 .limit = memory_gb_per_s * file_bytes / all_bytes};
    out->share = out->limit > 0 ? out->value / out->limit : 0;
    (void)snprintf(out->name, sizeof(out->name), "load %s, %.0f MB", loading->label,
                   1e-6 * file_bytes);
    return STATUS_OK;
}

/* --- Folders made for it --- */

struct made {
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static enum status make_weights(struct made *made)
{
    TRY(model_config_preset("small", &made->config));
    made->config.n_layers = MADE_LAYERS;
    made->config.n_mtp_modules = 0;
    TRY(weight_table_create(&made->config, &made->table));
    TRY(memory_alloc(made->table->n_floats, sizeof(float), &made->data));
    weights_init(&made->config, made->table, SEED, made->data);
    return STATUS_OK;
}

static void made_dispose(struct made *made)
{
    weight_table_destroy(made->table);
    memory_free(made->data);
}

static enum status write_and_measure(const struct made *made, const char *dir, size_t format,
                                     double memory_gb_per_s, struct bench_result *out)
{
    static const char *const labels[] = {
        [WEIGHTS_F32] = "f32", [WEIGHTS_BF16] = "bf16", [WEIGHTS_FP8] = "fp8"};
    const struct weights_export_options options = {.format = (enum weights_format)format,
                                                   .shard_bytes = (size_t)1 << 30};
    struct weights_export_stats stats;

    TRY(folder_create(dir));
    TRY(weights_export(dir, &made->config, made->table, made->data, &options, &stats));
    const struct loading loading = {
        .dir = dir, .label = labels[format], .table = made->table, .file_bytes = stats.bytes};
    return measure(&loading, memory_gb_per_s, out);
}

static enum status measure_made(const struct made *made, const char *folder, double memory_gb_per_s,
                                bench_report *report, void *context)
{
    for (size_t format = WEIGHTS_F32; format <= WEIGHTS_FP8; format++) {
        struct bench_result result;
        char name[16];
        char *dir = NULL;

        (void)snprintf(name, sizeof(name), "%zu", format);
        TRY(path_join(folder, name, &dir));
        const enum status status = write_and_measure(made, dir, format, memory_gb_per_s, &result);
        memory_free(dir);
        TRY(status);
        TRY(report(context, &result));
    }
    return STATUS_OK;
}

static enum status load_made(const char *scratch, double memory_gb_per_s, bench_report *report,
                             void *context)
{
    struct made made = {.data = NULL};
    char *folder = NULL;

    TRY(bench_folder_make(scratch, &folder));
    enum status status = make_weights(&made);
    if (status == STATUS_OK) {
        status = measure_made(&made, folder, memory_gb_per_s, report, context);
    }
    made_dispose(&made);
    return bench_folder_remove(folder, status);
}

/* --- A folder of the user's --- */

static bool is_weights_file(const char *name)
{
    static const char end[] = ".safetensors";
    const size_t n = strlen(name);

    return n >= sizeof(end) - 1 && strcmp(name + n - (sizeof(end) - 1), end) == 0;
}

static enum status add_file_bytes(const char *dir, const char *name, size_t *bytes)
{
    struct stat info;
    char *path = NULL;

    TRY(path_join(dir, name, &path));
    *bytes += stat(path, &info) == 0 && info.st_size > 0 ? (size_t)info.st_size : 0;
    memory_free(path);
    return STATUS_OK;
}

static enum status count_file_bytes(const char *dir, size_t *bytes)
{
    struct file_list list;
    enum status status = STATUS_OK;

    *bytes = 0;
    TRY(file_list(dir, &list));
    for (size_t i = 0; i < list.count && status == STATUS_OK; i++) {
        if (is_weights_file(list.names[i])) {
            status = add_file_bytes(dir, list.names[i], bytes);
        }
    }
    file_list_free(&list);
    return status;
}

static enum status load_given(const char *dir, double memory_gb_per_s, struct bench_result *out)
{
    struct loading loading = {.dir = dir, .label = "model"};
    struct model_config config;
    struct weight_table *table = NULL;

    TRY(model_config_load(dir, &config));
    TRY(weights_probe_mtp(dir, &config));
    TRY(count_file_bytes(dir, &loading.file_bytes));
    TRY(weight_table_create(&config, &table));
    loading.table = table;
    const enum status status = measure(&loading, memory_gb_per_s, out);
    weight_table_destroy(table);
    return status;
}

enum status bench_load(const struct bench_places *places, double memory_gb_per_s,
                       bench_report *report, void *context)
{
    struct bench_result result;

    if (places->model_dir == NULL) {
        return load_made(places->scratch, memory_gb_per_s, report, context);
    }
    TRY(load_given(places->model_dir, memory_gb_per_s, &result));
    return report(context, &result);
}
