/* Owns loading of weights: Hugging Face names, shapes and types against the table. Loading is two
 * passes: every parameter's source is found and checked, then threads fill the buffer from the
 * mapped files, so nothing is held twice. Saving is weights_save.c. */
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "model/quant.h"
#include "model/safetensors.h"
#include "model/weight_source.h"
#include "model/weights.h"
#include "model/weights_internal.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

#define PIECE_FLOATS ((size_t)1 << 14)    /* checked while it is still in the cache */
#define FLOATS_A_THREAD ((size_t)1 << 20) /* fewer are not worth a thread */
#define THREADS_MAX ((size_t)16)

/* Shape of a tensor or row as text, for messages. */
static const char *shape_text(const size_t *shape, size_t n_dims, char *out, size_t room)
{
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < n_dims && n + 1 < room; i++) {
        const int added = snprintf(out + n, room - n, "%s%zu", i == 0 ? "" : "x", shape[i]);

        n += added < 0 ? 0 : (size_t)added;
    }
    return n_dims == 0 ? "scalar" : out;
}

static enum status check_shape(const char *path, const struct tensor *tensor, const size_t *shape,
                               size_t n_dims)
{
    char got[128];
    char want[64];

    if (tensor->n_dims == n_dims && memcmp(tensor->shape, shape, n_dims * sizeof(size_t)) == 0) {
        return STATUS_OK;
    }
    return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is %s, the configuration wants %s", path,
                      tensor->name, shape_text(tensor->shape, tensor->n_dims, got, sizeof(got)),
                      shape_text(shape, n_dims, want, sizeof(want)));
}

struct loader {
    const struct safetensors *file;
    bool *is_used; /* by tensor index */
    size_t n_experts;
    struct weight_source *sources; /* by row */
    size_t n_coded;                /* of them in FP8 */
};

static const struct tensor *take(struct loader *loader, const char *name)
{
    const struct tensor *tensor = safetensors_find(loader->file, name);

    if (tensor != NULL) {
        loader->is_used[tensor - safetensors_at(loader->file, 0)] = true;
    }
    return tensor;
}

/* The source of a row inside `tensor`, with the scales that go with it. */
static enum status connect(struct loader *loader, const struct tensor *tensor, size_t matrix,
                           size_t first_row, struct weight_source *out)
{
    char name[256];
    const struct tensor *scales = NULL;
    const int n = snprintf(name, sizeof(name), "%s_scale_inv", tensor->name);

    if (n > 0 && (size_t)n < sizeof(name)) {
        scales = take(loader, name);
    }
    loader->n_coded += tensor->dtype == TENSOR_F8_E4M3;
    return weight_source_create(safetensors_path(loader->file), tensor, scales, matrix, first_row,
                                out);
}

static enum status find_fused(struct loader *loader, const struct weight_row *row,
                              struct weight_source *out)
{
    const char *path = safetensors_path(loader->file);
    struct weights_fused_part part;
    const struct tensor *fused = NULL;

    if (weights_fused_part(row, loader->n_experts, &part)) {
        fused = take(loader, part.name);
    }
    if (fused == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is missing", path, row->name);
    }
    TRY(check_shape(path, fused, part.shape, part.n_dims));
    return connect(loader, fused, part.expert, part.first_row, out);
}

static enum status find_source(struct loader *loader, const struct weight_row *row,
                               struct weight_source *out)
{
    const struct tensor *tensor = take(loader, row->name);
    char name[sizeof(row->name)];

    if (tensor == NULL && weights_newer_name(row->name, name, sizeof(name))) {
        tensor = take(loader, name);
    }
    if (tensor == NULL) {
        return find_fused(loader, row, out);
    }
    TRY(check_shape(safetensors_path(loader->file), tensor, row->shape, row->n_dims));
    return connect(loader, tensor, 0, 0, out);
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* The layer number of "model.layers.N.REST", and REST; false for other names. */
static bool split_layer_name(const char *name, size_t *layer, const char **rest)
{
    int end = 0;

    /* NOLINTNEXTLINE(cert-err34-c): an absurd number only makes the name unknown */
    if (sscanf(name, "model.layers.%9zu.%n", layer, &end) != 1 || end == 0) {
        return false;
    }
    *rest = name + end;
    return true;
}

const struct weight_row *weights_head_row(const struct weight_table *table)
{
    const struct weight_row *row = weight_table_find(table, "lm_head.weight");

    return row != NULL ? row : weight_table_find(table, "model.embed_tokens.weight");
}

/* The row that a tensor without one of its own must be a copy of, or NULL. */
static const struct weight_row *original_of(const struct weight_table *table, const char *name)
{
    const char *rest = "";
    size_t layer;

    if (strcmp(name, "lm_head.weight") == 0) {
        return weights_head_row(table); /* some writers store a tied head */
    }
    if (!split_layer_name(name, &layer, &rest)) {
        return NULL;
    }
    if (strcmp(rest, "embed_tokens.weight") == 0) {
        return weight_table_find(table, "model.embed_tokens.weight");
    }
    return strcmp(rest, "shared_head.head.weight") == 0 ? weights_head_row(table) : NULL;
}

/* A tensor without a row: a tied head, and an MTP module's copy of embedding or head, must have the
 * original's shape; rotary tables of old files say nothing; anything else is an error. */
static enum status check_extra(const struct safetensors *file, const struct weight_table *table,
                               const struct tensor *tensor)
{
    const char *path = safetensors_path(file);
    const struct weight_row *row = original_of(table, tensor->name);

    if (ends_with(tensor->name, ".rotary_emb.inv_freq")) {
        return STATUS_OK;
    }
    if (row == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is not of this architecture", path,
                          tensor->name);
    }
    return check_shape(path, tensor, row->shape, row->n_dims);
}

/* Finds and checks the source of every row; what is left over must be harmless. */
static enum status find_sources(struct loader *loader, const struct weight_table *table)
{
    const size_t n = safetensors_count(loader->file);

    for (size_t i = 0; i < table->n_rows; i++) {
        TRY(find_source(loader, &table->rows[i], &loader->sources[i]));
    }
    for (size_t i = 0; i < n; i++) {
        if (loader->is_used[i]) {
            continue;
        }
        TRY(check_extra(loader->file, table, safetensors_at(loader->file, i)));
    }
    return STATUS_OK;
}

/* Copies that are none: told once the bytes are known to be as they were written. */
static void compare_copies(const struct loader *loader, const struct weight_table *table)
{
    const struct safetensors *file = loader->file;

    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor *copy = safetensors_at(file, i);
        const struct weight_row *row = loader->is_used[i] ? NULL : original_of(table, copy->name);
        const struct tensor *original = row == NULL ? NULL : safetensors_find(file, row->name);

        if (original != NULL && original->dtype == copy->dtype &&
            memcmp(original->data, copy->data,
                   copy->n_elements * tensor_dtype_bytes(copy->dtype)) != 0) {
            log_warn("model",
                     "%s: %s differs from %s, of which it should be a copy; the latter is used",
                     safetensors_path(file), copy->name, row->name);
        }
    }
}

/* Filling of the buffer; each thread has a share of its floats. */
struct filling {
    const struct weight_table *table;
    const struct weight_source *sources;
    float *data;                     /* NULL: the values are only looked at */
    size_t broken_rows[THREADS_MAX]; /* by thread: the first row with a value that is not finite */
};

/* Floats [begin, end) of the row; false when one is not finite. */
static bool fill_row(const struct filling *filling, size_t row, size_t begin, size_t end)
{
    const bool is_kept = filling->data != NULL;
    float *out = is_kept ? filling->data + filling->table->rows[row].offset + begin : NULL;
    float piece[PIECE_FLOATS];
    bool is_finite = true;

    while (begin < end) {
        const size_t n = end - begin < PIECE_FLOATS ? end - begin : PIECE_FLOATS;
        /* cppcheck-suppress legacyUninitvar ; it is written next */
        float *values = is_kept ? out : piece;

        weight_source_read(&filling->sources[row], begin, n, values);
        is_finite = quant_all_finite(values, n) && is_finite;
        out = is_kept ? out + n : NULL;
        begin += n;
    }
    return is_finite;
}

static void fill_share(void *context, size_t thread_index, size_t n_threads)
{
    struct filling *filling = context;
    const struct weight_table *table = filling->table;
    size_t begin, end;

    pool_share(table->n_floats, thread_index, n_threads, &begin, &end);
    filling->broken_rows[thread_index] = SIZE_MAX;
    for (size_t i = 0; i < table->n_rows; i++) {
        const size_t row_begin = table->rows[i].offset;
        const size_t row_end = row_begin + table->rows[i].count;
        const size_t from = begin > row_begin ? begin - row_begin : 0;
        const size_t to = (end < row_end ? end : row_end) - row_begin;

        if (end > row_begin && from < to && !fill_row(filling, i, from, to) &&
            filling->broken_rows[thread_index] == SIZE_MAX) {
            filling->broken_rows[thread_index] = i;
        }
    }
}

static size_t choose_threads(size_t n_floats)
{
    const size_t wanted = n_floats / FLOATS_A_THREAD;
    cpu_set_t set;
    size_t n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;

    n = n < THREADS_MAX ? n : THREADS_MAX;
    n = n < wanted ? n : wanted;
    return n > 0 ? n : 1;
}

static enum status fill(const struct loader *loader, const struct weight_table *table, float *data)
{
    struct filling filling = {.table = table, .sources = loader->sources};
    const size_t n_threads = choose_threads(table->n_floats);
    struct pool *pool = NULL;

    filling.data = data;
    if (n_threads > 1) {
        TRY(pool_create(n_threads, &pool));
        pool_run(pool, fill_share, &filling);
        pool_destroy(pool);
    } else {
        fill_share(&filling, 0, 1);
    }
    for (size_t i = 0; i < n_threads; i++) {
        if (filling.broken_rows[i] != SIZE_MAX) {
            return status_set(STATUS_BAD_FORMAT, "%s: tensor %s holds a value that is not finite",
                              safetensors_path(loader->file),
                              table->rows[filling.broken_rows[i]].name);
        }
    }
    return STATUS_OK;
}

/* Experts of a layer, from the shape of the first router in the table. */
static size_t count_experts(const struct weight_table *table)
{
    for (size_t i = 0; i < table->n_rows; i++) {
        if (ends_with(table->rows[i].name, ".gate.weight")) {
            return table->rows[i].shape[0];
        }
    }
    return 0;
}

/* All that the headers and scales tell. */
static enum status prepare(struct loader *loader, const struct weight_table *table)
{
    TRY(memory_alloc(safetensors_count(loader->file), sizeof(bool), &loader->is_used));
    TRY(memory_alloc(table->n_rows, sizeof(struct weight_source), &loader->sources));
    return find_sources(loader, table);
}

static enum status check_from(struct loader *loader, const struct weight_table *table,
                              bool with_values)
{
    TRY(prepare(loader, table));
    if (!with_values) {
        return STATUS_OK;
    }
    TRY(safetensors_verify(loader->file));
    return fill(loader, table, NULL);
}

static enum status load_from(struct loader *loader, const struct weight_table *table, float *data)
{
    TRY(prepare(loader, table));
    TRY(safetensors_verify(loader->file));
    compare_copies(loader, table);
    if (loader->n_coded > 0) {
        log_info("model", "%s: %zu of %zu parameters are FP8 blocks; read as floats",
                 safetensors_path(loader->file), loader->n_coded, table->n_rows);
    }
    return fill(loader, table, data);
}

static void dispose(struct loader *loader, struct safetensors *file)
{
    memory_free(loader->sources);
    memory_free(loader->is_used);
    safetensors_close(file);
}

enum status weights_load(const char *dir, const struct weight_table *table, float *data)
{
    struct loader loader = {.n_experts = count_experts(table)};
    struct safetensors *file;

    TRY(safetensors_open_folder(dir, &file));
    loader.file = file;
    const enum status status = load_from(&loader, table, data);
    dispose(&loader, file);
    return status;
}

enum status weights_check(const char *dir, const struct weight_table *table, bool with_values)
{
    struct loader loader = {.n_experts = count_experts(table)};
    struct safetensors *file;

    TRY(safetensors_open_folder(dir, &file));
    loader.file = file;
    const enum status status = check_from(&loader, table, with_values);
    dispose(&loader, file);
    return status;
}

enum status weights_probe_mtp(const char *dir, struct model_config *config)
{
    struct safetensors *file;
    char name[96];
    size_t n = 0;

    TRY(safetensors_open_folder(dir, &file));
    do {
        (void)snprintf(name, sizeof(name), "model.layers.%zu.eh_proj.weight", config->n_layers + n);
        n++;
    } while (safetensors_find(file, name) != NULL);
    safetensors_close(file);
    n--;
    if (n > MODEL_MTP_MAX) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: %zu MTP modules; this build computes at most %zu", dir, n,
                          MODEL_MTP_MAX);
    }
    if (config->n_mtp_modules > n) {
        log_warn("model", "%s: config.json promises %zu MTP modules, the tensors hold %zu", dir,
                 config->n_mtp_modules, n);
    }
    config->n_mtp_modules = n;
    return STATUS_OK;
}
