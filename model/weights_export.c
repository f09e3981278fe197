/* Owns conversion of weights to the stored forms, shard by shard. */
#include "model/weights_export.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/quant.h"
#include "model/safetensors.h"
#include "model/weights_internal.h"

#include <stdio.h>
#include <string.h>

#define NAME_ROOM ((size_t)128)

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);

    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* Matrices that are never FP8. */
static bool stays_wide(const struct tensor *tensor)
{
    static const char *const ends[] = {
        "embed_tokens.weight", "lm_head.weight",          ".gate.weight",
        "eh_proj.weight",      "shared_head.head.weight", "indexer.weights_proj.weight",
    };

    if (tensor->n_dims != 2) {
        return true;
    }
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (ends_with(tensor->name, ends[i])) {
            return true;
        }
    }
    return false;
}

static enum tensor_dtype stored_dtype(const struct tensor *tensor, enum weights_format format)
{
    if (format == WEIGHTS_F32 || ends_with(tensor->name, ".e_score_correction_bias")) {
        return TENSOR_F32;
    }
    return format == WEIGHTS_BF16 || stays_wide(tensor) ? TENSOR_BF16 : TENSOR_F8_E4M3;
}

static size_t count_scales(const struct tensor *tensor)
{
    return quant_blocks(tensor->shape[0]) * quant_blocks(tensor->shape[1]);
}

/* Bytes of the tensor, its scales included. */
static size_t stored_bytes(const struct tensor *tensor, enum weights_format format)
{
    const enum tensor_dtype dtype = stored_dtype(tensor, format);

    return tensor->n_elements * tensor_dtype_bytes(dtype) +
           (dtype == TENSOR_F8_E4M3 ? count_scales(tensor) * sizeof(float) : 0);
}

size_t weights_export_bytes(const struct model_config *config, const struct weight_table *table,
                            enum weights_format format)
{
    const struct weight_row *embedding = weight_table_find(table, "model.embed_tokens.weight");
    size_t bytes = 0;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        const struct tensor tensor = {.name = row->name,
                                      .n_dims = row->n_dims,
                                      .shape = {row->shape[0], row->shape[1]},
                                      .n_elements = row->count};

        bytes += stored_bytes(&tensor, format);
    }
    /* embedding and head have one shape, and are wide in every format */
    return bytes + 2 * config->n_mtp_modules * embedding->count *
                       (format == WEIGHTS_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* Tensors of one file, as they are stored. */
struct shard {
    struct tensor *tensors;   /* room for two a source */
    char (*names)[NAME_ROOM]; /* of scales */
    size_t count, n_names;
    unsigned char *values; /* converted; 8-byte aligned pieces */
    size_t used;
};

static void shard_dispose(struct shard *shard)
{
    memory_free(shard->tensors);
    memory_free(shard->names);
    memory_free(shard->values);
}

/* Room for a converted tensor. */
static unsigned char *shard_take(struct shard *shard, size_t bytes)
{
    unsigned char *begin = shard->values + shard->used;

    shard->used += (bytes + 7) / 8 * 8;
    return begin;
}

static enum status refuse_large(const struct tensor *source, const char *format)
{
    return status_set(STATUS_UNSUPPORTED, "tensor %s holds a value too large for %s", source->name,
                      format);
}

static enum status add_bf16(struct shard *shard, const struct tensor *source)
{
    unsigned char *const bytes = shard_take(shard, source->n_elements * sizeof(uint16_t));
    uint16_t *const bits = (uint16_t *)(void *)bytes;
    struct tensor *out = &shard->tensors[shard->count++];

    quant_bf16_row(source->data, source->n_elements, bits);
    for (size_t i = 0; i < source->n_elements; i++) {
        if ((bits[i] & 0x7f80u) == 0x7f80u) {
            return refuse_large(source, "BF16");
        }
    }
    *out = *source;
    out->dtype = TENSOR_BF16;
    out->data = bits;
    return STATUS_OK;
}

static enum status add_coded(struct shard *shard, const struct tensor *source)
{
    const size_t n_scales = count_scales(source);
    unsigned char *const codes = shard_take(shard, source->n_elements);
    float *const scales = (float *)(void *)shard_take(shard, n_scales * sizeof(float));
    struct tensor *out = &shard->tensors[shard->count];
    char *name = shard->names[shard->n_names++];

    quant_matrix(source->data, source->shape[0], source->shape[1], QUANT_BLOCK, codes, scales);
    for (size_t i = 0; i < n_scales; i++) {
        if (scales[i] > QUANT_SCALE_MAX) {
            return refuse_large(source, "FP8");
        }
    }
    (void)snprintf(name, NAME_ROOM, "%s_scale_inv", source->name);
    out[0] = *source;
    out[0].dtype = TENSOR_F8_E4M3;
    out[0].data = codes;
    out[1] = (struct tensor){
        .name = name,
        .dtype = TENSOR_F32,
        .n_dims = 2,
        .shape = {quant_blocks(source->shape[0]), quant_blocks(source->shape[1])},
        .n_elements = n_scales,
        .data = scales,
    };
    shard->count += 2;
    return STATUS_OK;
}

static enum status add_tensor(struct shard *shard, const struct tensor *source,
                              enum weights_format format)
{
    const enum tensor_dtype dtype = stored_dtype(source, format);

    if (dtype == TENSOR_BF16) {
        return add_bf16(shard, source);
    }
    if (dtype == TENSOR_F8_E4M3) {
        return add_coded(shard, source);
    }
    shard->tensors[shard->count++] = *source;
    return STATUS_OK;
}

struct export
{
    const char *dir;
    enum weights_format format;
    size_t n_files;
    struct json *map; /* of the index: tensor to file */
    struct weights_export_stats *stats;
};

static enum status fill_shard(const struct export *export, const struct tensor *sources, size_t n,
                              struct shard *shard)
{
    size_t room = 0;

    for (size_t i = 0; i < n; i++) {
        if (stored_dtype(&sources[i], export->format) != TENSOR_F32) {
            room += stored_bytes(&sources[i], export->format) + 16;
        }
    }
    TRY(memory_alloc(2 * n, sizeof(struct tensor), &shard->tensors));
    TRY(memory_alloc(n, sizeof(*shard->names), &shard->names));
    TRY(memory_alloc(room, 1, &shard->values));
    for (size_t i = 0; i < n; i++) {
        TRY(add_tensor(shard, &sources[i], export->format));
    }
    return STATUS_OK;
}

/* Notes the shard's tensors for the index and writes it as file number `index`. */
static enum status write_shard(const struct export *export, size_t index, const struct shard *shard)
{
    char file[64] = "model.safetensors";
    char *path;
    enum status status;

    if (export->n_files > 1) {
        (void)snprintf(file, sizeof(file), "model-%05zu-of-%05zu.safetensors", index + 1,
                       export->n_files);
    }
    for (size_t i = 0; i < shard->count; i++) {
        export->stats->bytes +=
            shard->tensors[i].n_elements * tensor_dtype_bytes(shard->tensors[i].dtype);
        TRY(json_put(export->map, shard->tensors[i].name, json_from_text(file, strlen(file))));
    }
    export->stats->n_tensors += shard->count;
    export->stats->n_coded += shard->n_names;
    TRY(path_join(export->dir, file, &path));
    status = safetensors_write(path, shard->tensors, shard->count, true);
    memory_free(path);
    return status;
}

/* How many of the sources go into the next file: at least one. */
static size_t next_count(const struct tensor *sources, size_t n, enum weights_format format,
                         size_t shard_bytes)
{
    size_t bytes = 0, count = 0;

    while (count < n) {
        const size_t added = stored_bytes(&sources[count], format);

        if (count > 0 && (added > shard_bytes || bytes > shard_bytes - added)) {
            break;
        }
        bytes += added;
        count++;
    }
    return count;
}

static enum status write_shards(struct export *export, const struct weights_list *list,
                                size_t shard_bytes)
{
    size_t done = 0;

    for (size_t i = 0; i < export->n_files; i++) {
        struct shard shard = {.count = 0};
        const size_t n =
            next_count(list->tensors + done, list->count - done, export->format, shard_bytes);
        enum status status = fill_shard(export, list->tensors + done, n, &shard);

        if (status == STATUS_OK) {
            status = write_shard(export, i, &shard);
        }
        shard_dispose(&shard);
        TRY(status);
        done += n;
    }
    return STATUS_OK;
}

/* {"metadata": {"total_size": N}, "weight_map": {...}} */
static enum status write_index(const struct export *export)
{
    struct json *root = json_object_create(), *metadata = json_object_create();
    char *path = NULL, *text = NULL;
    size_t n = 0;
    enum status status =
        json_put(metadata, "total_size", json_from_int((int64_t) export->stats->bytes));
    const enum status added = json_put(root, "metadata", metadata);

    status = status == STATUS_OK ? added : status;
    if (status == STATUS_OK) {
        status = json_put(root, "weight_map", json_retain(export->map));
    }
    if (status == STATUS_OK) {
        status = json_print(root, &text, &n);
    }
    if (status == STATUS_OK) {
        status = path_join(export->dir, "model.safetensors.index.json", &path);
    }
    if (status == STATUS_OK) {
        status = file_write_atomic(path, text, n);
    }
    memory_free(path);
    memory_free(text);
    json_destroy(root);
    return status;
}

static size_t count_files(const struct weights_list *list, enum weights_format format,
                          size_t shard_bytes)
{
    size_t n_files = 0;

    for (size_t done = 0; done < list->count; n_files++) {
        done += next_count(list->tensors + done, list->count - done, format, shard_bytes);
    }
    return n_files;
}

enum status weights_export(const char *dir, const struct model_config *config,
                           const struct weight_table *table, const float *data,
                           const struct weights_export_options *options,
                           struct weights_export_stats *out)
{
    struct export export = {.dir = dir, .format = options->format, .stats = out};
    struct weights_list list;
    enum status status;

    *out = (struct weights_export_stats){.n_files = 0};
    TRY(weights_list_create(config, table, data, &list));
    export.n_files = count_files(&list, options->format, options->shard_bytes);
    out->n_files = export.n_files;
    export.map = json_object_create();
    status = write_shards(&export, &list, options->shard_bytes);
    if (status == STATUS_OK && export.n_files > 1) {
        status = write_index(&export);
    }
    json_destroy(export.map);
    weights_list_dispose(&list);
    return status;
}
