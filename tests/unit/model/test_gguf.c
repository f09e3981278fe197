/* GGUF files: every coding, and headers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/gguf.h"
#include "tests/support/support.h"
#include "tests/unit/model/gguf_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A copy of exactly n bytes, so that a sanitizer sees a byte too many. */
static enum status parse_copy(size_t n, struct gguf **out)
{
    unsigned char *copy;
    enum status status;

    assert_ok(memory_alloc(n, 1, &copy));
    memcpy(copy, made.bytes, n);
    status = gguf_parse("t.gguf", copy, n, out);
    if (status == STATUS_OK) {
        gguf_close(*out);
        *out = NULL;
    }
    memory_free(copy);
    return status;
}

static void assert_refused(enum status wanted, const char *part)
{
    struct gguf *file = NULL;

    assert_status(parse_copy(made.n, &file), wanted, part);
    assert_null(file);
}

/* --- An independent reading of the codings --- */

static double half_at(const unsigned char *at)
{
    const unsigned bits = at[0] | (unsigned)at[1] << 8;
    const double sign = (bits & 0x8000u) != 0 ? -1 : 1;

    return sign * ldexp(1024 + (double)(bits & 1023u), (int)(bits >> 10 & 31u) - 25);
}

static double expected_at(unsigned type, const unsigned char *data, size_t i)
{
    const unsigned char *block;
    float number;
    unsigned code;

    switch (type) {
    case 0:
        memcpy(&number, data + 4 * i, 4);
        return (double)number;
    case 1:
        return half_at(data + 2 * i);
    case 30:
        code = (unsigned)data[2 * i] << 16 | (unsigned)data[2 * i + 1] << 24;
        memcpy(&number, &code, 4);
        return (double)number;
    case 8:
        block = data + i / 32 * 34;
        return half_at(block) * (double)(int8_t)block[2 + i % 32];
    default:
        break;
    }
    block = data + i / 32 * (type == 3 ? 20 : 18);
    code = block[(type == 3 ? 4 : 2) + i % 16];
    code = i % 32 < 16 ? code & 15u : code >> 4;
    return type == 3 ? half_at(block) * code + half_at(block + 2)
                     : half_at(block) * ((double)code - 8);
}

static void every_coding_is_read_as_documented(void **state)
{
    struct gguf *file;
    float values[N_TOKENS * WIDTH];

    (void)state;
    make_file(3, "smollm");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_int_equal(gguf_tensor_count(file), N_TENSORS);
    for (size_t t = 0; t < N_TENSORS; t++) {
        const struct gguf_tensor *tensor = gguf_tensor_find(file, plan[t].name);

        assert_non_null(tensor);
        assert_int_equal(tensor->bytes, plan[t].bytes);
        assert_int_equal(tensor->shape[0], plan[t].rows);
        assert_int_equal((tensor->data - made.bytes) % 64, 0);
        gguf_read_floats(tensor, 0, tensor->n_elements, values);
        for (size_t i = 0; i < tensor->n_elements; i++) {
            const double want = expected_at(plan[t].type, tensor->data, i);

            assert_true(fabs((double)values[i] - want) <= 1e-6 * (1 + fabs(want)));
        }
    }
    gguf_close(file);
}

static void values_are_read_with_their_types(void **state)
{
    struct gguf *file;
    struct gguf_text text = {"", 0};
    size_t size = 5;
    double number = 0;
    bool flag = true;

    (void)state;
    make_file(2, "smollm");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_ok(gguf_read_size(file, "llama.nothing", &size));
    assert_int_equal(size, 5);
    assert_ok(gguf_read_size(file, "llama.context_length", &size));
    assert_int_equal(size, 128);
    assert_ok(gguf_read_number(file, "llama.rope.freq_base", &number));
    assert_true(number == 1e5);
    assert_ok(gguf_read_text(file, "general.architecture", &text));
    assert_true(gguf_text_is(text, "llama"));
    assert_status(gguf_read_size(file, "llama.rope.freq_base", &size), STATUS_BAD_FORMAT,
                  "llama.rope.freq_base is not a size");
    assert_status(gguf_read_bool(file, "llama.block_count", &flag), STATUS_BAD_FORMAT,
                  "true or false");
    assert_status(gguf_require(file, "llama.nothing"), STATUS_BAD_FORMAT, "is missing");
    gguf_close(file);
}

/* --- What is refused --- */

static void a_file_cut_anywhere_is_refused(void **state)
{
    struct gguf *file = NULL;

    (void)state;
    make_file(3, "smollm");
    for (size_t n = 0; n < made.n_header; n++) {
        assert_status(parse_copy(n, &file), STATUS_BAD_FORMAT, "t.gguf: byte ");
    }
    for (size_t n = made.n_header; n + 64 < made.n; n += 61) {
        assert_status(parse_copy(n, &file), STATUS_BAD_FORMAT, "ends inside tensor");
    }
    assert_ok(parse_copy(made.n, &file));
}

static void counts_and_lengths_are_held_against_the_file(void **state)
{
    (void)state;
    for (size_t at = 8; at <= 16; at += 8) { /* tensors, keys */
        make_file(3, "smollm");
        memset(made.bytes + at, 0xff, 8);
        assert_refused(STATUS_BAD_FORMAT, "more than the file can hold");
        make_file(3, "smollm");
        made.bytes[at]++;
        assert_refused(STATUS_BAD_FORMAT, "byte ");
    }
    make_file(3, "smollm");
    memset(made.bytes + 24, 0x7f, 8); /* the length of the first key */
    assert_refused(STATUS_BAD_FORMAT, "byte 24: the name of a key");
    make_file(3, "smollm");
    memset(made.bytes + find_in_file("tokenizer.ggml.tokens") + 21 + 8, 0xff, 8);
    assert_refused(STATUS_BAD_FORMAT, "the length of a list");
    make_file(3, "smollm");
    memset(made.bytes + find_in_file("token_embd.weight") + 17 + 4, 0xff, 8);
    assert_refused(STATUS_BAD_FORMAT, "token_embd.weight");
    make_file(3, "smollm");
    memset(made.bytes + find_in_file("token_embd.weight") + 17 + 4 + 16 + 4, 0xc0, 8);
    assert_refused(STATUS_BAD_FORMAT, "token_embd.weight");
}

static void names_that_come_twice_are_refused(void **state)
{
    (void)state;
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("llama.block_count"), "general.alignment", 17);
    assert_refused(STATUS_BAD_FORMAT, "key general.alignment is there twice");
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("blk.0.attn_k.weight"), "blk.0.attn_v.weight", 19);
    assert_refused(STATUS_BAD_FORMAT, "tensor blk.0.attn_v.weight is there twice");
}

static void tensors_over_each_other_are_refused(void **state)
{
    (void)state;
    make_file(3, "smollm");
    memset(made.bytes + find_in_file("blk.0.attn_norm.weight") + 22 + 4 + 8 + 4, 0, 8);
    assert_refused(STATUS_BAD_FORMAT, "overlap");
    make_file(3, "smollm");
    made.bytes[find_in_file("blk.0.attn_norm.weight") + 22 + 4 + 8 + 4] = 1;
    assert_refused(STATUS_BAD_FORMAT, "no multiple of 64");
}

static void other_kinds_of_files_are_named(void **state)
{
    (void)state;
    make_file(1, "smollm");
    assert_refused(STATUS_UNSUPPORTED, "GGUF version 1");
    make_file(0x03000000, "smollm");
    assert_refused(STATUS_UNSUPPORTED, "big-endian");
    make_file(3, "smollm");
    made.bytes[0] = 'X';
    assert_refused(STATUS_BAD_FORMAT, "no GGUF file");
    make_file(3, "smollm");
    made.bytes[find_in_file("blk.0.attn_q.weight") + 19 + 4 + 16] = 14;
    assert_refused(STATUS_UNSUPPORTED, "tensor blk.0.attn_q.weight has type 14 (Q6_K)");
    make_file(3, "smollm");
    made.bytes[find_in_file("general.alignment") + 17 + 4] = 24;
    assert_refused(STATUS_BAD_FORMAT, "power of two");
    make_file(3, "smollm");
    made.bytes[find_in_file("llama.block_count") + 17] = 13;
    assert_refused(STATUS_BAD_FORMAT, "llama.block_count has type 13");
}

static enum status open_and_close(void *context)
{
    struct gguf *file = NULL;

    (void)context;
    TRY(gguf_parse("t.gguf", made.bytes, made.n, &file));
    gguf_close(file);
    return STATUS_OK;
}

static void opening_survives_every_failed_allocation(void **state)
{
    (void)state;
    make_file(3, "smollm");
    assert_true(support_fail_allocations(open_and_close, NULL) >= 4);
}

static void a_file_is_recognised_by_its_first_bytes(void **state)
{
    char dir[256], path[300];
    struct gguf *file;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    (void)snprintf(path, sizeof(path), "%s/t.gguf", dir);
    make_file(3, "smollm");
    assert_false(gguf_is_file(path));
    assert_status(gguf_open(path, &file), STATUS_IO, path);
    assert_ok(file_write_atomic(path, made.bytes, made.n));
    assert_true(gguf_is_file(path));
    assert_ok(gguf_open(path, &file));
    assert_string_equal(gguf_label(file), path);
    gguf_close(file);
    assert_ok(file_write_atomic(path, "", 0));
    assert_status(gguf_open(path, &file), STATUS_BAD_FORMAT, "no GGUF file");
    support_temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_coding_is_read_as_documented),
        cmocka_unit_test(values_are_read_with_their_types),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(counts_and_lengths_are_held_against_the_file),
        cmocka_unit_test(names_that_come_twice_are_refused),
        cmocka_unit_test(tensors_over_each_other_are_refused),
        cmocka_unit_test(other_kinds_of_files_are_named),
        cmocka_unit_test(opening_survives_every_failed_allocation),
        cmocka_unit_test(a_file_is_recognised_by_its_first_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
