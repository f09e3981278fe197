/* Owns open files and folders of shards; headers are checked in safetensors_header.c, writing is
 * safetensors_write.c. */
#include "model/safetensors.h"

#include "base/memory.h"
#include "model/safetensors_internal.h"

#include <stdlib.h>
#include <string.h>

#define TENSORS_MAX ((size_t)500000) /* of one file, and of a whole checkpoint's index */
#define INDEX_BYTES_MAX ((size_t)64 << 20)
#define SHARDS_MAX ((size_t)4096)

struct shard {
    char *path;
    struct file_map map;
    struct json *header; /* owns the names of its tensors */
};

struct safetensors {
    char *path;
    struct shard *shards;
    size_t n_shards;
    struct tensor *tensors; /* sorted by name */
    size_t n_tensors, tensors_room;
};

/* Makes room for n more tensors. */
static enum status reserve_tensors(struct safetensors *file, size_t n)
{
    const size_t room = file->n_tensors + n;

    if (n > TENSORS_MAX || room > TENSORS_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s: more than %zu tensors", file->path, TENSORS_MAX);
    }
    if (room <= file->tensors_room) {
        return STATUS_OK;
    }
    TRY(memory_resize(file->tensors_room * sizeof(struct tensor), room, sizeof(struct tensor),
                      &file->tensors));
    file->tensors_room = room;
    return STATUS_OK;
}

/* Adds the tensors of an opened shard. */
static enum status read_shard(struct safetensors *file, struct shard *shard)
{
    size_t header_bytes = 0, n = 0;

    TRY(safetensors_read_header(shard->path, &shard->map, &shard->header, &header_bytes));
    TRY(reserve_tensors(file, json_count(shard->header)));
    TRY(safetensors_read_tensors(shard->path, &shard->map, shard->header, header_bytes,
                                 file->tensors + file->n_tensors, &n));
    file->n_tensors += n;
    return STATUS_OK;
}

static int compare_names(const void *a, const void *b)
{
    const struct tensor *left = a;
    const struct tensor *right = b;

    return strcmp(left->name, right->name);
}

static enum status sort_tensors(struct safetensors *file)
{
    if (file->n_tensors > 0) {
        qsort(file->tensors, file->n_tensors, sizeof(*file->tensors), compare_names);
    }
    for (size_t i = 1; i < file->n_tensors; i++) {
        if (strcmp(file->tensors[i - 1].name, file->tensors[i].name) == 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: tensor %s lies in two shards", file->path,
                              file->tensors[i].name);
        }
    }
    return STATUS_OK;
}

/* A file that an index names must be there. */
static enum status require_shard(const struct safetensors *file, const char *dir, const char *name)
{
    char *path;
    bool is_there;

    TRY(path_join(dir, name, &path));
    is_there = file_exists(path);
    memory_free(path);
    return is_there ? STATUS_OK
                    : status_set(STATUS_BAD_FORMAT, "%s: the index names %s, which is not there",
                                 file->path, name);
}

/* Opens dir/name as the next shard. */
static enum status add_shard(struct safetensors *file, const char *dir, const char *name)
{
    struct shard *shard = &file->shards[file->n_shards];

    TRY(path_join(dir, name, &shard->path));
    file->n_shards++;
    TRY(file_map_open(shard->path, &shard->map));
    return read_shard(file, shard);
}

static enum status create_file(const char *path, size_t n_shards, struct safetensors **out)
{
    struct safetensors *file;
    enum status status;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*file), &file));
    status = memory_copy_text(path, strlen(path), &file->path);
    if (status == STATUS_OK) {
        status = memory_alloc(n_shards, sizeof(struct shard), &file->shards);
    }
    if (status != STATUS_OK) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return STATUS_OK;
}

enum status safetensors_open(const char *path, struct safetensors **out)
{
    struct safetensors *file;
    enum status status;

    *out = NULL;
    TRY(create_file(path, 1, &file));
    status = add_shard(file, "", path);
    if (status == STATUS_OK) {
        status = sort_tensors(file);
    }
    if (status != STATUS_OK) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return STATUS_OK;
}

/* A shard's name in an index: a plain file name, so that an index cannot reach other folders. */
static bool is_plain_name(const char *name)
{
    return name != NULL && name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL &&
           strlen(name) < 256;
}

static bool has_shard(const struct safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->n_shards; i++) {
        const char *slash = strrchr(file->shards[i].path, '/');

        if (strcmp(slash == NULL ? file->shards[i].path : slash + 1, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Opens every file that the index names, and compares both lists of tensors. */
static enum status read_index(struct safetensors *file, const char *dir, const struct json *map)
{
    struct json_iterator entry = {.object = map};

    if (!json_is(map, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "%s: no weight_map in the index", file->path);
    }
    while (json_next(&entry)) {
        const char *name = json_text(entry.value, NULL);

        if (!is_plain_name(name)) {
            return status_set(STATUS_BAD_FORMAT, "%s: the file of tensor %s is no plain file name",
                              file->path, entry.key);
        }
        if (has_shard(file, name)) {
            continue;
        }
        if (file->n_shards == SHARDS_MAX) {
            return status_set(STATUS_BAD_FORMAT, "%s: more than %zu shards", file->path,
                              SHARDS_MAX);
        }
        TRY(require_shard(file, dir, name));
        TRY(add_shard(file, dir, name));
    }
    TRY(sort_tensors(file));
    for (size_t i = 0; i < file->n_tensors; i++) {
        if (json_get(map, file->tensors[i].name) == NULL) {
            return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is in a shard, not in the index",
                              file->path, file->tensors[i].name);
        }
    }
    if (file->n_tensors != json_count(map)) {
        return status_set(STATUS_BAD_FORMAT, "%s: the index names %zu tensors, the shards hold %zu",
                          file->path, json_count(map), file->n_tensors);
    }
    return STATUS_OK;
}

static enum status open_sharded(const char *dir, const char *index_path, struct safetensors **out)
{
    struct json *index = NULL;
    struct safetensors *file = NULL;
    enum status status = json_load(index_path, INDEX_BYTES_MAX, HEADER_DEPTH_MAX, &index);

    if (status == STATUS_OK) {
        status = create_file(index_path, SHARDS_MAX, &file);
    }
    if (status == STATUS_OK) {
        status = read_index(file, dir, json_get(index, "weight_map"));
    }
    json_destroy(index);
    if (status != STATUS_OK) {
        safetensors_close(file);
        return status;
    }
    *out = file;
    return STATUS_OK;
}

enum status safetensors_open_folder(const char *dir, struct safetensors **out)
{
    char *path = NULL;
    enum status status;

    *out = NULL;
    TRY(path_join(dir, "model.safetensors.index.json", &path));
    if (file_exists(path)) {
        status = open_sharded(dir, path, out);
        memory_free(path);
        return status;
    }
    memory_free(path);
    TRY(path_join(dir, "model.safetensors", &path));
    status = safetensors_open(path, out);
    memory_free(path);
    return status;
}

/* The shard's tensors are those its header names. */
static enum status verify_shard(const struct safetensors *file, const struct shard *shard)
{
    const char *text =
        json_text(json_get(json_get(shard->header, "__metadata__"), DIGEST_KEY), NULL);
    struct digest128 want, sum = {{0}};

    if (text == NULL) {
        return STATUS_OK;
    }
    for (size_t i = 0; i < file->n_tensors; i++) {
        if (json_get(shard->header, file->tensors[i].name) != NULL) {
            tensor_digest_add(&file->tensors[i], &sum);
        }
    }
    if (!hash_unhex(text, want.bytes, sizeof(want.bytes)) || !digest128_equal(&want, &sum)) {
        return status_set(STATUS_BAD_FORMAT, "%s: damaged: its content does not match its digest",
                          shard->path);
    }
    return STATUS_OK;
}

enum status safetensors_verify(const struct safetensors *file)
{
    for (size_t i = 0; i < file->n_shards; i++) {
        TRY(verify_shard(file, &file->shards[i]));
    }
    return STATUS_OK;
}

void safetensors_close(struct safetensors *file)
{
    if (file == NULL) {
        return;
    }
    for (size_t i = 0; i < file->n_shards; i++) {
        json_destroy(file->shards[i].header);
        file_map_close(&file->shards[i].map);
        memory_free(file->shards[i].path);
    }
    memory_free(file->shards);
    memory_free(file->tensors);
    memory_free(file->path);
    memory_free(file);
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->n_tensors;
}

const struct tensor *safetensors_at(const struct safetensors *file, size_t index)
{
    return &file->tensors[index];
}

const struct tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    const struct tensor key = {.name = name};

    if (file->n_tensors == 0) {
        return NULL;
    }
    return bsearch(&key, file->tensors, file->n_tensors, sizeof(key), compare_names);
}

const char *safetensors_path(const struct safetensors *file)
{
    return file->path;
}
