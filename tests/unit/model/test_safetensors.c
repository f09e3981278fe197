/* safetensors: hostile headers, shards, conversions, and the canonical writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static char folder[256];
static char path[300];

static int make_folder(void **state)
{
    (void)state;
    support_temp_dir(folder, sizeof(folder));
    (void)snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    support_temp_dir_remove(folder);
    return 0;
}

/* Writes a file with this header, a claimed size (0: the true one) and n_data zero bytes. */
static void write_raw(const char *file, const char *header, uint64_t claimed, size_t n_data)
{
    unsigned char bytes[4096] = {0};
    const size_t n = strlen(header);
    const uint64_t size = claimed != 0 ? claimed : n;

    assert_true(8 + n + n_data <= sizeof(bytes));
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(size >> (8 * i));
    }
    for (size_t i = 0; i < n; i++) {
        bytes[8 + i] = (unsigned char)header[i];
    }
    assert_ok(file_write_atomic(file, bytes, 8 + n + n_data));
}

static void assert_refused(const char *header, size_t n_data, enum status wanted, const char *part)
{
    struct safetensors *file;

    write_raw(path, header, 0, n_data);
    assert_status(safetensors_open(path, &file), wanted, part);
    assert_null(file);
}

static void a_header_that_does_not_fit_is_refused(void **state)
{
    struct safetensors *file;

    (void)state;
    assert_ok(file_write_atomic(path, "abc", 3));
    assert_status(safetensors_open(path, &file), STATUS_BAD_FORMAT, "too few");
    write_raw(path, "{}", UINT64_MAX, 0);
    assert_status(safetensors_open(path, &file), STATUS_BAD_FORMAT, "does not fit");
    write_raw(path, "{}", 3, 0);
    assert_status(safetensors_open(path, &file), STATUS_BAD_FORMAT, "does not fit");
    assert_refused(" {}", 0, STATUS_BAD_FORMAT, "not a JSON object");
    assert_refused("{", 0, STATUS_BAD_FORMAT, "");
    assert_refused("{]", 0, STATUS_BAD_FORMAT, "header");
}

#define ENTRY(name, dtype, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end   \
    "]}"

static void a_tensor_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    assert_refused("{" ENTRY("a", "F32", "[2]", "0", "8") "}", 7, STATUS_BAD_FORMAT, "do not lie");
    assert_refused("{" ENTRY("a", "F32", "[2]", "8", "0") "}", 8, STATUS_BAD_FORMAT, "do not lie");
    assert_refused("{" ENTRY("a", "F32", "[3]", "0", "8") "}", 8, STATUS_BAD_FORMAT,
                   "fit its shape");
    assert_refused("{" ENTRY("a", "F33", "[2]", "0", "8") "}", 8, STATUS_UNSUPPORTED, "F33");
    assert_refused("{" ENTRY("a", "F32", "[-2]", "0", "8") "}", 8, STATUS_BAD_FORMAT,
                   "dimension 0");
    assert_refused("{" ENTRY("a", "F32", "[2.0]", "0", "8") "}", 8, STATUS_BAD_FORMAT,
                   "dimension 0");
    assert_refused("{" ENTRY("a", "F32", "2", "0", "8") "}", 8, STATUS_BAD_FORMAT, "shape");
    assert_refused("{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}", 8, STATUS_BAD_FORMAT,
                   "shape");
    assert_refused("{" ENTRY("a", "F32", "[4294967296,4294967296,4]", "0", "8") "}", 8,
                   STATUS_BAD_FORMAT, "too large");
    assert_refused("{" ENTRY("a", "F32", "[4611686018427387906]", "0", "8") "}", 8,
                   STATUS_BAD_FORMAT, "fit its shape");
    assert_refused("{\"a\":3}", 0, STATUS_BAD_FORMAT, "exactly");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}}", 0,
                   STATUS_BAD_FORMAT, "exactly");
    assert_refused("{" ENTRY("", "F32", "[0]", "0", "0") "}", 0, STATUS_BAD_FORMAT, "empty");
    assert_refused("{\"__metadata__\":{\"a\":1}}", 0, STATUS_BAD_FORMAT, "text to text");
}

static void overlaps_holes_and_duplicates_are_refused(void **state)
{
    (void)state;
    assert_refused("{" ENTRY("a", "U8", "[4]", "0", "4") "," ENTRY("b", "U8", "[4]", "3", "7") "}",
                   7, STATUS_BAD_FORMAT, "begins at byte 3");
    assert_refused("{" ENTRY("a", "U8", "[4]", "0", "4") "," ENTRY("b", "U8", "[4]", "5", "9") "}",
                   9, STATUS_BAD_FORMAT, "begins at byte 5");
    assert_refused("{" ENTRY("a", "U8", "[4]", "0", "4") "}", 5, STATUS_BAD_FORMAT, "truncated");
    assert_refused("{" ENTRY("a", "U8", "[4]", "1", "5") "}", 5, STATUS_BAD_FORMAT,
                   "begins at byte 1");
    assert_refused("{" ENTRY("a", "U8", "[4]", "0", "4") "," ENTRY("a", "U8", "[4]", "4", "8") "}",
                   8, STATUS_BAD_FORMAT, "header");
}

static void scalars_empty_tensors_and_spaces_are_legal(void **state)
{
    struct safetensors *file;
    const struct tensor *scalar;

    (void)state;
    write_raw(path,
              "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("s", "F32", "[]", "0", "4") "," ENTRY(
                  "z", "F32", "[3,0]", "4", "4") "," ENTRY("a", "U8", "[1]", "4", "5") "}   ",
              0, 5);
    assert_ok(safetensors_open(path, &file));
    assert_int_equal(safetensors_count(file), 3);
    assert_string_equal(safetensors_at(file, 0)->name, "a");
    scalar = safetensors_find(file, "s");
    assert_non_null(scalar);
    assert_int_equal(scalar->n_elements, 1);
    assert_int_equal(safetensors_find(file, "z")->n_elements, 0);
    assert_null(safetensors_find(file, "b"));
    safetensors_close(file);
}

static void halves_become_floats_exactly(void **state)
{
    static const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x8000,
                                      0x7bff, 0x7c00, 0x0400, 0x03ff};
    static const float want[] = {1,     -2,       0x1p-24f, -0.0f,
                                 65504, INFINITY, 0x1p-14f, 1023 * 0x1p-24f};
    static const uint16_t brains[] = {0x3f80, 0xc000, 0x0001, 0x7f7f};
    static const uint32_t brain_bits[] = {0x3f800000, 0xc0000000, 0x00010000, 0x7f7f0000};
    const struct tensor half = {.name = "h", .dtype = TENSOR_F16, .n_elements = 8, .data = halves};
    const struct tensor brain = {
        .name = "b", .dtype = TENSOR_BF16, .n_elements = 4, .data = brains};
    const struct tensor bytes = {.name = "u", .dtype = TENSOR_U8, .n_elements = 4, .data = brains};
    float out[8];

    (void)state;
    assert_ok(tensor_read_floats(&half, out));
    assert_memory_equal(out, want, sizeof(want));
    assert_ok(tensor_read_floats(&brain, out));
    assert_memory_equal(out, brain_bits, sizeof(brain_bits));
    assert_status(tensor_read_floats(&bytes, out), STATUS_UNSUPPORTED, "tensor u is U8");
}

static void writing_is_canonical_and_reads_back(void **state)
{
    static const float values[] = {1, 2, 3, 4, 5, 6};
    static const int32_t ids[] = {7, 8};
    const struct tensor tensors[] = {
        {.name = "ids", .dtype = TENSOR_I32, .n_dims = 1, .shape = {2}, .data = ids},
        {.name = "b", .dtype = TENSOR_F32, .n_dims = 2, .shape = {2, 2}, .data = values},
        {.name = "a", .dtype = TENSOR_F32, .n_dims = 0, .data = values + 4},
    };
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "F32", "[]", "0", "4") "," ENTRY(
            "b", "F32", "[2,2]", "4", "20") "," ENTRY("ids", "I32", "[2]", "20", "28") "}";
    struct safetensors *file;
    int32_t got[2];
    char *bytes;
    size_t n;

    (void)state;
    assert_ok(safetensors_write(path, tensors, 3, false));
    assert_ok(file_read(path, 65536, &bytes, &n));
    assert_memory_equal(bytes + 8, header, sizeof(header) - 1);
    assert_int_equal(n, 8 + (sizeof(header) - 1 + 7) / 8 * 8 + 28);
    memory_free(bytes);
    assert_ok(safetensors_open(path, &file));
    assert_ok(tensor_read_integers(safetensors_find(file, "ids"), got));
    assert_int_equal(got[1], 8);
    assert_status(tensor_read_integers(safetensors_find(file, "a"), got), STATUS_UNSUPPORTED,
                  "F32");
    safetensors_close(file);
}

static void writing_refuses_bad_names(void **state)
{
    static const unsigned char byte[1];
    const struct tensor twice[] = {
        {.name = "a", .dtype = TENSOR_U8, .n_dims = 0, .data = byte},
        {.name = "a", .dtype = TENSOR_U8, .n_dims = 0, .data = byte},
    };
    const struct tensor quoted[] = {{.name = "a\"b", .dtype = TENSOR_U8, .data = byte}};

    (void)state;
    assert_status(safetensors_write(path, twice, 2, false), STATUS_BAD_ARGUMENT, "twice");
    assert_status(safetensors_write(path, quoted, 1, false), STATUS_BAD_ARGUMENT, "byte 0x22");
    assert_false(file_exists(path));
}

static void a_golden_file_is_written_again_bit_for_bit(void **state)
{
    char golden[600];
    struct safetensors *file;
    char *before, *after;
    size_t n_before, n_after;

    (void)state;
    if (!support_shared_path("golden/v3-core/io.safetensors", golden, sizeof(golden))) {
        skip();
    }
    assert_ok(safetensors_open(golden, &file));
    assert_ok(safetensors_write(path, safetensors_at(file, 0), safetensors_count(file), false));
    safetensors_close(file);
    assert_ok(file_read(golden, (size_t)1 << 26, &before, &n_before));
    assert_ok(file_read(path, (size_t)1 << 26, &after, &n_after));
    assert_int_equal(n_before, n_after);
    assert_memory_equal(before, after, n_before);
    memory_free(before);
    memory_free(after);
}

static void write_shard(const char *name, const char *tensor)
{
    static const float value = 3;
    char file[600];
    const struct tensor tensors[] = {
        {.name = tensor, .dtype = TENSOR_F32, .n_dims = 0, .data = &value}};

    (void)snprintf(file, sizeof(file), "%s/%s", folder, name);
    assert_ok(safetensors_write(file, tensors, 1, false));
}

static enum status open_with_index(const char *weight_map, struct safetensors **out)
{
    char file[600], text[1024];
    const int n = snprintf(text, sizeof(text), "{\"metadata\":{},\"weight_map\":%s}", weight_map);

    (void)snprintf(file, sizeof(file), "%s/model.safetensors.index.json", folder);
    assert_ok(file_write_atomic(file, text, (size_t)n));
    return safetensors_open_folder(folder, out);
}

static void an_index_names_its_shards(void **state)
{
    struct safetensors *file;

    (void)state;
    write_shard("s1.safetensors", "a");
    write_shard("s2.safetensors", "b");
    assert_ok(open_with_index("{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}", &file));
    assert_int_equal(safetensors_count(file), 2);
    safetensors_close(file);
    assert_status(open_with_index("{\"a\":\"s1.safetensors\",\"c\":\"s2.safetensors\"}", &file),
                  STATUS_BAD_FORMAT, "b is in a shard");
    assert_status(open_with_index("{\"a\":\"s1.safetensors\",\"d\":\"s1.safetensors\"}", &file),
                  STATUS_BAD_FORMAT, "names 2 tensors");
    assert_status(open_with_index("{\"a\":\"../s1.safetensors\"}", &file), STATUS_BAD_FORMAT,
                  "plain file name");
    assert_status(open_with_index("{\"a\":\"s3.safetensors\"}", &file), STATUS_BAD_FORMAT,
                  "names s3.safetensors, which is not there");
    assert_status(open_with_index("[]", &file), STATUS_BAD_FORMAT, "weight_map");
    write_shard("s2.safetensors", "a");
    assert_status(open_with_index("{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}", &file),
                  STATUS_BAD_FORMAT, "two shards");
}

static void every_cut_of_a_file_is_refused(void **state)
{
    static const float values[4];
    const struct tensor tensors[] = {
        {.name = "a", .dtype = TENSOR_F32, .n_dims = 1, .shape = {4}, .data = values}};
    struct safetensors *file;
    char *bytes;
    size_t n;

    (void)state;
    assert_ok(safetensors_write(path, tensors, 1, false));
    assert_ok(file_read(path, 65536, &bytes, &n));
    for (size_t i = 0; i < n; i += 17) {
        assert_ok(file_write_atomic(path, bytes, i));
        if (safetensors_open(path, &file) == STATUS_OK) {
            fail_msg("a file cut to %zu bytes was accepted", i);
        }
    }
    memory_free(bytes);
}

static void a_digest_finds_every_flipped_bit(void **state)
{
    static const float values[2] = {1, 2};
    const struct tensor tensors[] = {
        {.name = "a", .dtype = TENSOR_F32, .n_dims = 1, .shape = {2}, .data = values},
        {.name = "b", .dtype = TENSOR_F32, .n_dims = 0, .data = values}};
    struct safetensors *file;
    char *bytes;
    size_t n;

    (void)state;
    assert_ok(safetensors_write(path, tensors, 2, true));
    assert_ok(safetensors_open(path, &file));
    assert_ok(safetensors_verify(file));
    safetensors_close(file);
    assert_ok(file_read(path, 65536, &bytes, &n));
    for (size_t bit = 0; bit < (size_t)12 * 8; bit += 7) {
        const size_t at = n - 12 + bit / 8;

        bytes[at] = (char)(bytes[at] ^ (1 << bit % 8));
        assert_ok(file_write_atomic(path, bytes, n));
        bytes[at] = (char)(bytes[at] ^ (1 << bit % 8));
        assert_ok(safetensors_open(path, &file));
        assert_status(safetensors_verify(file), STATUS_BAD_FORMAT, "damaged");
        safetensors_close(file);
    }
    memory_free(bytes);
}

static enum status open_and_close(void *context)
{
    struct safetensors *file;

    (void)context;
    TRY(safetensors_open(path, &file));
    safetensors_close(file);
    return STATUS_OK;
}

static enum status write_one(void *context)
{
    static const float value = 1;
    const struct tensor tensors[] = {
        {.name = "a", .dtype = TENSOR_F32, .n_dims = 0, .data = &value}};

    (void)context;
    return safetensors_write(path, tensors, 1, true);
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    (void)support_fail_allocations(write_one, NULL);
    (void)support_fail_allocations(open_and_close, NULL);
}

int main(void)
{
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(a_header_that_does_not_fit_is_refused),
        WITH_FOLDER(a_tensor_that_does_not_fit_is_refused),
        WITH_FOLDER(overlaps_holes_and_duplicates_are_refused),
        WITH_FOLDER(scalars_empty_tensors_and_spaces_are_legal),
        WITH_FOLDER(halves_become_floats_exactly),
        WITH_FOLDER(writing_is_canonical_and_reads_back),
        WITH_FOLDER(writing_refuses_bad_names),
        WITH_FOLDER(a_golden_file_is_written_again_bit_for_bit),
        WITH_FOLDER(an_index_names_its_shards),
        WITH_FOLDER(every_cut_of_a_file_is_refused),
        WITH_FOLDER(a_digest_finds_every_flipped_bit),
        WITH_FOLDER(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
