#include "trainer/checkpoint_manifest.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)4 << 20)
#define MANIFEST_BYTES_MAX ((size_t)64 << 20)
#define MANIFEST_DEPTH_MAX 6u

static enum status block_digests(const char *path, struct json *blocks, size_t *n_bytes)
{
    struct file_map map;
    TRY(file_map_open(path, &map));
    enum status status = STATUS_OK;
    for (size_t begin = 0; begin < map.bytes && status == STATUS_OK; begin += BLOCK_BYTES) {
        const size_t n = map.bytes - begin < BLOCK_BYTES ? map.bytes - begin : BLOCK_BYTES;
        const struct digest128 digest = hash_128(map.data + begin, n);
        file_map_forget(&map, begin, begin + n);
        char text[DIGEST128_TEXT];
        hash_hex(digest.bytes, sizeof(digest.bytes), text);
        status = json_append(blocks, json_from_text(text, strlen(text)));
    }
    *n_bytes = map.bytes;
    file_map_close(&map);
    return status;
}

static enum status describe_file(const char *folder, const char *name, struct json *files)
{
    char *path = NULL;
    size_t n_bytes = 0;
    struct json *file = json_object_create();
    struct json *blocks = json_array_create();
    enum status status = path_join(folder, name, &path);
    if (status == STATUS_OK) {
        status = block_digests(path, blocks, &n_bytes);
    }
    if (status == STATUS_OK) {
        status = json_put(file, "name", json_from_text(name, strlen(name)));
    }
    if (status == STATUS_OK) {
        status = json_put(file, "bytes", json_from_int((int64_t)n_bytes));
    }
    if (status == STATUS_OK) {
        status = json_put(file, "blocks", json_retain(blocks));
    }
    if (status == STATUS_OK) {
        status = json_append(files, json_retain(file));
    }
    json_destroy(blocks);
    json_destroy(file);
    memory_free(path);
    return status;
}

/* prefix: "" or "sub/", put in front of the names. */
static enum status describe_folder(const char *root, const char *prefix, struct json *files)
{
    struct file_list list = {0};
    char *folder = NULL;
    enum status status = path_join(root, prefix, &folder);
    if (status == STATUS_OK) {
        status = file_list(folder, &list);
    }
    for (size_t i = 0; i < list.count && status == STATUS_OK; i++) {
        char name[512];
        char *path = NULL;
        const int n = snprintf(name, sizeof(name), "%s%s", prefix, list.names[i]);
        if (n < 0 || (size_t)n + 2 >= sizeof(name)) {
            status = status_set(STATUS_BAD_FORMAT, "%s: a file name is too long", folder);
            break;
        }
        status = path_join(root, name, &path);
        if (status == STATUS_OK && folder_exists(path)) {
            name[n] = '/';
            name[n + 1] = '\0';
            status = prefix[0] == '\0' ? describe_folder(root, name, files) : STATUS_OK;
        } else if (status == STATUS_OK) {
            status = describe_file(root, name, files);
        }
        memory_free(path);
    }
    file_list_free(&list);
    memory_free(folder);
    return status;
}

static enum status put_info(const struct checkpoint_info *info, struct json *manifest)
{
    char digest[DIGEST128_TEXT];
    hash_hex(info->weight_digest.bytes, sizeof(info->weight_digest.bytes), digest);
    TRY(json_put(manifest, "format", json_from_int(1)));
    TRY(json_put(manifest, "step", json_from_int((int64_t)info->step)));
    TRY(json_put(manifest, "config_sha",
                 json_from_text(info->config_sha, strlen(info->config_sha))));
    TRY(json_put(manifest, "numerics", json_from_text(info->numerics, strlen(info->numerics))));
    return json_put(manifest, "weight_digest", json_from_text(digest, strlen(digest)));
}

enum status checkpoint_manifest_write(const char *folder, const struct checkpoint_info *info)
{
    struct json *manifest = json_object_create();
    struct json *files = json_array_create();
    char *path = NULL;
    char *text = NULL;
    size_t n = 0;
    enum status status = put_info(info, manifest);
    if (status == STATUS_OK) {
        status = describe_folder(folder, "", files);
    }
    if (status == STATUS_OK) {
        status = json_put(manifest, "files", json_retain(files));
    }
    if (status == STATUS_OK) {
        status = json_print(manifest, &text, &n);
    }
    if (status == STATUS_OK) {
        status = path_join(folder, "MANIFEST", &path);
    }
    if (status == STATUS_OK) {
        status = file_write_atomic(path, text, n);
    }
    memory_free(path);
    memory_free(text);
    json_destroy(files);
    json_destroy(manifest);
    return status;
}

static enum status compare_file(const char *folder, const struct json *file)
{
    const char *name = json_text(json_get(file, "name"), "");
    const struct json *expected = json_get(file, "blocks");
    struct json *blocks = json_array_create();
    char *path = NULL;
    size_t n_bytes = 0;
    enum status status = path_join(folder, name, &path);
    if (status == STATUS_OK) {
        status = block_digests(path, blocks, &n_bytes);
    }
    if (status == STATUS_OK && ((int64_t)n_bytes != json_int(json_get(file, "bytes"), -1) ||
                                json_count(blocks) != json_count(expected))) {
        status = status_set(STATUS_BAD_FORMAT, "%s: %zu bytes, MANIFEST says %lld", path, n_bytes,
                            (long long)json_int(json_get(file, "bytes"), -1));
    }
    for (size_t i = 0; status == STATUS_OK && i < json_count(blocks); i++) {
        if (strcmp(json_text(json_at(blocks, i), ""), json_text(json_at(expected, i), "-")) != 0) {
            status = status_set(STATUS_BAD_FORMAT, "%s: block %zu of 4 MiB is damaged", path, i);
        }
    }
    memory_free(path);
    json_destroy(blocks);
    return status;
}

static enum status read_info(const char *path, const struct json *manifest,
                             struct checkpoint_info *info)
{
    *info = (struct checkpoint_info){.step = (size_t)json_int(json_get(manifest, "step"), 0)};
    const char *sha = json_text(json_get(manifest, "config_sha"), "");
    const char *numerics = json_text(json_get(manifest, "numerics"), "");
    const char *digest = json_text(json_get(manifest, "weight_digest"), "");
    const int n = snprintf(info->config_sha, sizeof(info->config_sha), "%s", sha);
    const int m = snprintf(info->numerics, sizeof(info->numerics), "%s", numerics);
    if (json_int(json_get(manifest, "format"), 0) != 1 || n < 0 || m < 0 ||
        !hash_unhex(digest, info->weight_digest.bytes, sizeof(info->weight_digest.bytes))) {
        return status_set(STATUS_BAD_FORMAT, "%s: not a manifest of this version", path);
    }
    return STATUS_OK;
}

enum status checkpoint_manifest_verify(const char *folder, struct checkpoint_info *info)
{
    struct json *manifest = NULL;
    char *path = NULL;
    TRY(path_join(folder, "MANIFEST", &path));
    enum status status = json_load(path, MANIFEST_BYTES_MAX, MANIFEST_DEPTH_MAX, &manifest);
    if (status == STATUS_OK) {
        status = read_info(path, manifest, info);
    }
    const struct json *files = json_get(manifest, "files");
    if (status == STATUS_OK && json_count(files) == 0) {
        status = status_set(STATUS_BAD_FORMAT, "%s: lists no files", path);
    }
    for (size_t i = 0; status == STATUS_OK && i < json_count(files); i++) {
        status = compare_file(folder, json_at(files, i));
    }
    json_destroy(manifest);
    memory_free(path);
    return status;
}
