/* 200 damaged copies each of a safetensors file, an FP8 file with scales and an index of shards:
 * one line that names the file and the tensor or place, exit code 5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "model/safetensors.h"
#include "model/weights_export.h"
#include "tests/support/support.h"
#include "tests/unit/model/corrupt_fixture.h"
#include "tests/unit/model/header_edits.h"

#include <math.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static struct corruption plain, coded, sharded; /* F32 in a file; FP8 in a file; BF16 in shards */

static bool is_square(const struct tensor *tensor)
{
    return tensor->n_dims < 2 || tensor->shape[0] == tensor->shape[1];
}

static struct safetensors *open_original(const struct corruption *c)
{
    struct safetensors *file = NULL;
    char path[512];

    corrupt_path(c, SINGLE, path, sizeof(path));
    write_bytes(path, c->original, c->original_bytes);
    assert_ok(safetensors_open(path, &file));
    return file;
}

/* Every edit of one tensor's entry; want_name: messages name it. The mapped file must not change
 * while it is read, so the copies are written elsewhere first. */
static void try_entries(struct corruption *c, const char *name)
{
    struct text_buffer copies[N_ENTRY_EDITS] = {{0}};
    struct safetensors *file = open_original(c);
    const struct tensor *tensor = safetensors_find(file, name);
    char kept[128];

    assert_non_null(tensor);
    const bool is_symmetric = is_square(tensor);
    (void)snprintf(kept, sizeof(kept), "%s", name);
    for (size_t i = 0; i < N_ENTRY_EDITS; i++) {
        rebuild(file, (size_t)(tensor - safetensors_at(file, 0)), entry_edits[i].text, &copies[i]);
    }
    safetensors_close(file);
    for (size_t i = 0; i < N_ENTRY_EDITS; i++) {
        const char *part = entry_edits[i].part;
        const bool is_same = is_symmetric && strstr(entry_edits[i].text, "@r") != NULL;
        const struct expected want = {.what = entry_edits[i].text,
                                      .is_right = is_same,
                                      .part =
                                          part == NULL || strcmp(part, "@n") == 0 ? kept : part};

        corrupt_try(c, copies[i].bytes, copies[i].count, &want);
        text_buffer_dispose(&copies[i]);
    }
}

/* --- Bytes --- */

static size_t header_bytes(const struct corruption *c)
{
    return (unsigned char)c->original[0] + ((size_t)(unsigned char)c->original[1] << 8) +
           ((size_t)(unsigned char)c->original[2] << 16);
}

/* The file cut at n places of its header and n of its data. */
static void try_cuts(struct corruption *c, size_t n)
{
    const size_t header = 8 + header_bytes(c);
    const struct expected want = {.what = "cut"};

    for (size_t i = 0; i < n; i++) {
        corrupt_try(c, c->original, i * header / n, &want);
        corrupt_try(c, c->original, header + i * (c->original_bytes - header) / n, &want);
    }
}

/* A bit of the byte at `at` flipped. */
static void try_flip(struct corruption *c, size_t at, unsigned bit, const struct expected *want)
{
    char *copy = NULL;

    assert_ok(memory_copy_text(c->original, c->original_bytes, &copy));
    copy[at] = (char)((unsigned char)copy[at] ^ (1U << bit));
    corrupt_try(c, copy, c->original_bytes, want);
    memory_free(copy);
}

static void try_size_flips(struct corruption *c)
{
    const struct expected want = {.what = "bit of the header's size"};

    for (unsigned i = 0; i < 64; i += 3) {
        try_flip(c, i / 8, i % 8, &want);
    }
}

/* Bits of entries; what stands before the first one is metadata. */
static void try_header_flips(struct corruption *c, size_t n)
{
    const size_t begin = (size_t)(strstr(c->original + 8, "\"data_offsets\"") - c->original);
    const char *last = c->original + 8 + header_bytes(c);
    const struct expected want = {.what = "bit of the header"};

    while (*last != '}') {
        last--;
    }
    for (size_t i = 0; i < n; i++) {
        const size_t at = begin + (size_t)random_below(i, RANDOM_TEST, 0, 0,
                                                       (uint64_t)(last - c->original) - begin);
        try_flip(c, at, (unsigned)(random_bits(i, RANDOM_TEST, 1, 0) % 7), &want);
    }
}

/* JSON damage of the header, whose size is then right. */
static void try_header_damage(struct corruption *c, size_t n)
{
    const size_t header = header_bytes(c);
    struct text_buffer data = {0};

    assert_ok(text_buffer_put(&data, c->original + 8 + header, c->original_bytes - 8 - header));
    for (size_t i = 0; i < n * JSON_DAMAGES; i++) {
        const enum json_damage damage = (enum json_damage)(i % JSON_DAMAGES);
        const struct expected want = {.what = json_damage_name(damage), .part = "header"};
        struct text_buffer text = {0}, file = {0};

        assert_ok(json_damage(c->original + 8, header, damage, i, &text));
        finish_file(&text, &data, &file);
        corrupt_try(c, file.bytes, file.count, &want);
        text_buffer_dispose(&text);
        text_buffer_dispose(&file);
    }
    text_buffer_dispose(&data);
}

/* Where a tensor's data begins in the original. */
static size_t place_of(const struct corruption *c, const char *name)
{
    struct safetensors *file = open_original(c);
    const char *lowest = safetensors_at(file, 0)->data;
    const struct tensor *tensor = safetensors_find(file, name);

    assert_non_null(tensor);
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const char *data = safetensors_at(file, i)->data;
        lowest = data < lowest ? data : lowest;
    }
    const size_t place = 8 + header_bytes(c) + (size_t)((const char *)tensor->data - lowest);
    safetensors_close(file);
    return place;
}

/* n bytes of the tensor from its element's place on. */
static void try_value(struct corruption *c, const char *name, size_t offset, const void *bytes,
                      size_t n, const struct expected *want)
{
    const size_t place = place_of(c, name) + offset;
    char *copy = NULL;

    assert_ok(memory_copy_text(c->original, c->original_bytes, &copy));
    memcpy(copy + place, bytes, n);
    corrupt_try(c, copy, c->original_bytes, want);
    memory_free(copy);
}

/* Takes the file without its metadata, as others write it, for the original. */
static void drop_metadata(struct corruption *c)
{
    struct text_buffer copy = {0};
    struct safetensors *file = open_original(c);

    rebuild(file, SIZE_MAX, "", &copy);
    safetensors_close(file);
    memory_free(c->original);
    assert_ok(memory_copy_text(copy.bytes, copy.count, &c->original));
    c->original_bytes = copy.count;
    text_buffer_dispose(&copy);
}

/* --- The kinds --- */

static const char *const names[] = {"model.embed_tokens.weight",
                                    "model.layers.0.mlp.up_proj.weight", "model.norm.weight"};

static void damaged_files_are_refused(void **state)
{
    static const float values[] = {NAN, INFINITY, -INFINITY, 1e-30f};

    (void)state;
    corrupt_begin(&plain, SINGLE);
    for (size_t i = 0; i < 3; i++) {
        try_entries(&plain, names[i]);
        for (size_t k = 0; k < 4; k++) { /* what hone wrote has a digest: any other value shows */
            const struct expected want = {.what = "another value", .part = "digest"};
            try_value(&plain, names[i], 8 * k, &values[k], sizeof(float), &want);
        }
    }
    try_cuts(&plain, 12);
    try_size_flips(&plain);
    try_header_flips(&plain, 30);
    try_header_damage(&plain, 4);
    corrupt_end(&plain);
}

static void try_scale_values(const char *name)
{
    static const float wrong[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, -1.0f};
    const float other = 0x1p-20f;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const struct expected want = {.what = "a wrong scale", .part = name};
        try_value(&coded, name, 0, &wrong[i], sizeof(float), &want);
    }
    try_value(&coded, name, 0, &other, sizeof(other),
              &(struct expected){.what = "another scale", .is_right = true});
}

static void damaged_fp8_files_are_refused(void **state)
{
    static const char *const matrices[] = {"model.layers.0.mlp.up_proj.weight",
                                           "model.layers.0.self_attn.o_proj.weight",
                                           "model.layers.1.mlp.experts.0.down_proj.weight"};
    static const unsigned char not_numbers[] = {0x7F, 0xFF};
    static const uint16_t bf16_nan = 0x7FC0;

    (void)state;
    corrupt_begin(&coded, SINGLE);
    drop_metadata(&coded);
    for (size_t i = 0; i < 8; i++) {
        const struct expected want = {.what = "a value that is NaN", .part = names[0]};
        try_value(&coded, names[0], 4 * i, &bf16_nan, sizeof(bf16_nan), &want);
    }
    for (size_t i = 0; i < 3; i++) {
        char scale[128];
        (void)snprintf(scale, sizeof(scale), "%s_scale_inv", matrices[i]);
        try_scale_values(scale);
        for (size_t k = 0; k < 6; k++) {
            const struct expected want = {.what = "a code that is NaN", .part = matrices[i]};
            try_value(&coded, matrices[i], 7 * k, &not_numbers[k % 2], 1, &want);
        }
        try_entries(&coded, i == 2 ? matrices[i] : scale);
    }
    try_cuts(&coded, 8);
    try_header_flips(&coded, 20);
    corrupt_end(&coded);
}

/* The index with `from` replaced, refused with `part`. */
static void try_index(const char *from, const char *by, const char *part)
{
    corrupt_replace(&sharded, from, by, &(struct expected){.what = by, .part = part});
}

static void try_index_edits(void)
{
    static const char *const files[] = {"1",          "null",         "[]",      "{}",
                                        "true",       "\"\"",         "\"..\"",  "\"/etc/passwd\"",
                                        "\".\"",      "\"../model\"", "\"a/b\"", "0.5",
                                        "\"\\u0000\""};
    char from[256], by[600];
    const char *at = strstr(sharded.original, "\"model.embed_tokens.weight\"");

    assert_non_null(at);
    (void)snprintf(from, sizeof(from), "%.*s", (int)strcspn(at, ",\n}"), at);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        (void)snprintf(by, sizeof(by), "\"model.embed_tokens.weight\":%s", files[i]);
        try_index(from, by, strchr(files[i], '\\') != NULL ? ":" : "model.embed_tokens.weight");
    }
    (void)snprintf(by, sizeof(by), "\"x\":1,%s", from);
    try_index(from, by, "x");
    (void)snprintf(by, sizeof(by), "%s,%s", from, from);
    try_index(from, by, ":");
    try_index("\"weight_map\"", "\"weight_maps\"", "weight_map");
    try_index("\"weight_map\":", "\"weight_map\":[],\"x\":", "weight_map");
    try_index("\"weight_map\":", "\"weight_map\":null,\"x\":", "weight_map");
    try_index("\"weight_map\":", "\"weight_map\":{},\"x\":", NULL);
}

/* A letter of a tensor's or file's name at each of n places. */
static void try_index_names(size_t n)
{
    const size_t begin =
        (size_t)(strstr(sharded.original, "\"weight_map\"") - sharded.original) + 12;
    const struct expected want = {.what = "a letter of a name"};

    for (size_t i = 0, tries = 0; i < n; tries++) {
        const size_t at =
            begin + (size_t)random_below(tries, RANDOM_TEST, 2, 0, sharded.original_bytes - begin);
        const char c = sharded.original[at];
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            try_flip(&sharded, at, 0, &want);
            i++;
        }
    }
}

/* A shard that is cut, empty, absent or another one. */
static void try_shards(void)
{
    char path[512], other[512];
    char *text = NULL;
    size_t n = 0;
    const struct expected want = {.what = "a shard", .file = "model-00001-of-"};
    const struct expected absent = {.what = "an absent shard", .part = "model-00001-of-"};
    const char *name = strstr(sharded.original, "model-00001-of-");

    assert_non_null(name);
    (void)snprintf(path, sizeof(path), "%s/%.*s", sharded.dir, (int)strcspn(name, "\""), name);
    (void)snprintf(other, sizeof(other), "%s/kept", sharded.dir);
    assert_ok(file_read(path, (size_t)1 << 24, &text, &n));
    for (size_t i = 0; i < 30; i++) {
        write_bytes(path, text, i * n / 30);
        corrupt_check(&sharded, &want);
    }
    assert_int_equal(rename(path, other), 0);
    corrupt_check(&sharded, &absent);
    write_bytes(path, text, n);
    memory_free(text);
    assert_int_equal(remove(other), 0);
}

static void damaged_indexes_are_refused(void **state)
{
    (void)state;
    corrupt_begin(&sharded, INDEX);
    corrupt_json(&sharded, 12);
    try_index_edits();
    try_index_names(30);
    corrupt_try(&sharded, sharded.original, sharded.original_bytes,
                &(struct expected){.what = "nothing", .is_right = true});
    try_shards();
    corrupt_end(&sharded);
}

/* --- Folders --- */

static void make_exported(struct corruption *c, enum weights_format format, size_t shard_bytes)
{
    const struct weights_export_options options = {.format = format, .shard_bytes = shard_bytes};
    struct weights_export_stats stats;
    struct model_config config;
    struct weight_table *table = NULL;
    float *data = NULL;

    corrupt_make(c, &config, &table, &data);
    assert_ok(weights_export(c->dir, &config, table, data, &options, &stats));
    memory_free(data);
    weight_table_destroy(table);
}

static int make_folders(void **state)
{
    struct model_config config;
    struct weight_table *table = NULL;
    float *data = NULL;

    (void)state;
    corrupt_make(&plain, &config, &table, &data);
    assert_ok(weights_save(plain.dir, &config, table, data));
    memory_free(data);
    weight_table_destroy(table);
    make_exported(&coded, WEIGHTS_FP8, (size_t)1 << 30);
    make_exported(&sharded, WEIGHTS_BF16, (size_t)1 << 14);
    return 0;
}

static int remove_folders(void **state)
{
    (void)state;
    corrupt_dispose(&plain);
    corrupt_dispose(&coded);
    corrupt_dispose(&sharded);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(damaged_fp8_files_are_refused),
        cmocka_unit_test(damaged_indexes_are_refused),
    };

    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
