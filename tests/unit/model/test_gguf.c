/* GGUF: a whole small model in every coding, and files that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/gguf.h"
#include "model/gguf_import.h"
#include "model/tokenizer.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- A writer --- */

#define FILE_ROOM ((size_t)1 << 17)
#define N_TOKENS ((size_t)260)
#define WIDTH ((size_t)32)
#define HEAD_DIM ((size_t)16)
#define SPECIAL_ID 257 /* <|end|> */

struct file {
    unsigned char bytes[FILE_ROOM];
    size_t n;
    size_t n_header; /* before the padding and the data */
};
static struct file made;

static void put(const void *bytes, size_t n)
{
    assert_true(made.n + n <= FILE_ROOM);
    memcpy(made.bytes + made.n, bytes, n);
    made.n += n;
}

static void put_number(uint64_t number, size_t n)
{
    unsigned char bytes[8];

    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)(number >> (8 * i));
    }
    put(bytes, n);
}

static void put_text(const char *text)
{
    put_number(strlen(text), 8);
    put(text, strlen(text));
}

static void key_text(const char *key, const char *text)
{
    put_text(key);
    put_number(GGUF_TEXT, 4);
    put_text(text);
}

static void key_size(const char *key, uint64_t value)
{
    put_text(key);
    put_number(GGUF_U32, 4);
    put_number(value, 4);
}

static void key_float(const char *key, float value)
{
    put_text(key);
    put_number(GGUF_F32, 4);
    put(&value, sizeof(value));
}

static void key_list(const char *key, enum gguf_type item, size_t count)
{
    put_text(key);
    put_number(GGUF_LIST, 4);
    put_number(item, 4);
    put_number(count, 8);
}

/* The character that stands for a byte in a vocabulary (model.md 13.1), as UTF-8. */
static void name_of_byte(unsigned byte, char out[3])
{
    unsigned code = byte, rank = 0;

    for (unsigned b = 0; b < byte; b++) {
        rank += (b < 33 || (b > 126 && b < 161) || b == 173) ? 1 : 0;
    }
    if (byte < 33 || (byte > 126 && byte < 161) || byte == 173) {
        code = 256 + rank;
    }
    memset(out, 0, 3);
    if (code < 128) {
        out[0] = (char)code;
    } else {
        out[0] = (char)(0xc0u | code >> 6);
        out[1] = (char)(0x80u | (code & 63u));
    }
}

static void put_vocabulary(void)
{
    static const char *const more[] = {"he", "<|end|>", "a b", "[PAD259]"};
    static const int kinds[] = {1, 3, 4, 5};
    char name[3];

    key_list("tokenizer.ggml.tokens", GGUF_TEXT, N_TOKENS);
    for (unsigned byte = 0; byte < 256; byte++) {
        name_of_byte(byte, name);
        put_text(name);
    }
    for (size_t i = 0; i < 4; i++) {
        put_text(more[i]);
    }
    key_list("tokenizer.ggml.token_type", GGUF_I32, N_TOKENS);
    for (size_t i = 0; i < N_TOKENS; i++) {
        put_number(i < 256 ? 1 : (uint64_t)kinds[i - 256], 4);
    }
    key_list("tokenizer.ggml.merges", GGUF_TEXT, 1);
    put_text("h e");
}

#define N_KEYS 16
static void put_keys(const char *pre)
{
    key_text("general.architecture", "llama");
    key_size("general.alignment", 64);
    key_size("llama.block_count", 1);
    key_size("llama.context_length", 128);
    key_size("llama.embedding_length", WIDTH);
    key_size("llama.feed_forward_length", WIDTH);
    key_size("llama.attention.head_count", 2);
    key_size("llama.attention.head_count_kv", 1);
    key_float("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    key_float("llama.rope.freq_base", 1e5F);
    key_text("tokenizer.ggml.model", "gpt2");
    key_text("tokenizer.ggml.pre", pre);
    put_vocabulary();
    key_size("tokenizer.ggml.eos_token_id", SPECIAL_ID);
}

struct planned {
    const char *name;
    size_t rows, columns; /* columns 0: a vector */
    unsigned type;        /* by the file's numbers */
    size_t bytes;
};
static const struct planned plan[] = {
    {"token_embd.weight", N_TOKENS, WIDTH, 8, N_TOKENS * 34},
    {"blk.0.attn_norm.weight", WIDTH, 0, 0, WIDTH * 4},
    {"blk.0.attn_q.weight", WIDTH, WIDTH, 3, WIDTH * 20},
    {"blk.0.attn_k.weight", HEAD_DIM, WIDTH, 2, HEAD_DIM * 18},
    {"blk.0.attn_v.weight", HEAD_DIM, WIDTH, 1, HEAD_DIM *WIDTH * 2},
    {"blk.0.attn_output.weight", WIDTH, WIDTH, 30, WIDTH *WIDTH * 2},
    {"blk.0.ffn_norm.weight", WIDTH, 0, 0, WIDTH * 4},
    {"blk.0.ffn_gate.weight", WIDTH, WIDTH, 0, WIDTH *WIDTH * 4},
    {"blk.0.ffn_up.weight", WIDTH, WIDTH, 8, WIDTH * 34},
    {"blk.0.ffn_down.weight", WIDTH, WIDTH, 2, WIDTH * 18},
    {"output_norm.weight", WIDTH, 0, 0, WIDTH * 4},
};
#define N_TENSORS (sizeof(plan) / sizeof(plan[0]))
#define ALIGNED(n) (((n) + 63) / 64 * 64)

static unsigned random_state;
static unsigned char random_byte(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (unsigned char)(random_state >> 24);
}

/* A half-precision number of moderate size. */
static void put_half(void)
{
    put_number((uint64_t)(random_byte() & 0x80u) << 8 | (uint64_t)(8 + random_byte() % 8) << 10 |
                   (uint64_t)(random_byte() & 3u) << 8 | random_byte(),
               2);
}

static void put_values(const struct planned *tensor)
{
    const size_t end = made.n + tensor->bytes;

    while (made.n < end) {
        const float number = (float)random_byte() / 16 - 8;
        const size_t n_codes = tensor->type == 8 ? 32 : 16;

        switch (tensor->type) {
        case 0:
            put(&number, sizeof(number));
            break;
        case 1:
            put_half();
            break;
        case 30:
            put_number((uint64_t)(0x3f00u | random_byte()), 2);
            break;
        default:
            put_half();
            if (tensor->type == 3) {
                put_half();
            }
            for (size_t i = 0; i < n_codes; i++) {
                put_number(random_byte(), 1);
            }
        }
    }
}

static void put_tensors(void)
{
    size_t at = 0;

    for (size_t i = 0; i < N_TENSORS; i++) {
        put_text(plan[i].name);
        put_number(plan[i].columns > 0 ? 2 : 1, 4);
        if (plan[i].columns > 0) {
            put_number(plan[i].columns, 8);
        }
        put_number(plan[i].rows, 8);
        put_number(plan[i].type, 4);
        put_number(at, 8);
        at = ALIGNED(at + plan[i].bytes);
    }
}

static void pad(void)
{
    while (made.n % 64 != 0) {
        put("", 1);
    }
}

/* The whole file, in `made`. */
static void make_file(unsigned version, const char *pre)
{
    made.n = 0;
    random_state = 7;
    put("GGUF", 4);
    put_number(version, 4);
    put_number(N_TENSORS, 8);
    put_number(N_KEYS, 8);
    put_keys(pre);
    put_tensors();
    made.n_header = made.n;
    pad();
    for (size_t i = 0; i < N_TENSORS; i++) {
        put_values(&plan[i]);
        pad();
    }
}

static size_t find_in_file(const char *text)
{
    for (size_t i = 0; i + strlen(text) <= made.n; i++) {
        if (memcmp(made.bytes + i, text, strlen(text)) == 0) {
            return i;
        }
    }
    fail_msg("the file has no %s", text);
    return 0;
}

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

/* --- A model --- */

struct model {
    struct gguf *file;
    struct model_config config;
    struct weight_table *table;
    float *data;
};

static void open_model(struct model *out)
{
    make_file(3, "smollm");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &out->file));
    assert_ok(gguf_import_config(out->file, &out->config));
    assert_ok(weight_table_create(&out->config, &out->table));
    assert_ok(memory_alloc(out->table->n_floats, sizeof(float), &out->data));
}

static void close_model(struct model *model)
{
    weight_table_destroy(model->table);
    memory_free(model->data);
    gguf_close(model->file);
}

static void the_architecture_becomes_a_config(void **state)
{
    struct model model;

    (void)state;
    open_model(&model);
    assert_int_equal(model.config.family, MODEL_LLAMA);
    assert_int_equal(model.config.vocab_size, N_TOKENS);
    assert_int_equal(model.config.hidden_size, WIDTH);
    assert_int_equal(model.config.n_heads, 2);
    assert_int_equal(model.config.n_kv_heads, 1);
    assert_int_equal(model.config.head_dim, HEAD_DIM);
    assert_int_equal(model.config.max_positions, 128);
    assert_true(model.config.rms_norm_eps == 1e-5); /* not the float's 9.999999747e-06 */
    assert_true(model.config.rope_theta == 1e5);
    assert_true(model.config.has_tied_head);
    assert_int_equal(model.config.n_eos_ids, 1);
    assert_int_equal(model.config.eos_ids[0], SPECIAL_ID);
    close_model(&model);
}

/* stored row 2 i + j of a head is row j head_dim / 2 + i */
static void query_and_key_rows_are_put_back_in_order(void **state)
{
    static const char *const names[][2] = {
        {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"},
        {"model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight"}};
    struct model model;

    (void)state;
    open_model(&model);
    assert_ok(gguf_import_weights(model.file, &model.config, model.table, model.data));
    for (size_t t = 0; t < 2; t++) {
        const struct weight_row *row = weight_table_find(model.table, names[t][0]);
        const struct gguf_tensor *tensor = gguf_tensor_find(model.file, names[t][1]);
        float stored[WIDTH];

        for (size_t i = 0; i < HEAD_DIM / 2 * 2 * (row->shape[0] / HEAD_DIM); i++) {
            const size_t head = i / HEAD_DIM, pair = i % HEAD_DIM / 2, half = i % 2;
            const size_t here = head * HEAD_DIM + half * HEAD_DIM / 2 + pair;

            gguf_read_floats(tensor, i * WIDTH, WIDTH, stored);
            assert_memory_equal(stored, model.data + row->offset + here * WIDTH, sizeof(stored));
        }
    }
    close_model(&model);
}

static void the_other_rows_keep_their_order(void **state)
{
    struct model model;
    float values[N_TOKENS * WIDTH];
    char name[GGUF_NAME_MAX + 1];

    (void)state;
    open_model(&model);
    assert_ok(gguf_import_weights(model.file, &model.config, model.table, model.data));
    for (size_t i = 0; i < model.table->n_rows; i++) {
        const struct weight_row *row = &model.table->rows[i];

        assert_true(gguf_import_name(row->name, name, sizeof(name)));
        if (strstr(name, "attn_q") != NULL || strstr(name, "attn_k") != NULL) {
            continue;
        }
        gguf_read_floats(gguf_tensor_find(model.file, name), 0, row->count, values);
        assert_memory_equal(values, model.data + row->offset, row->count * sizeof(float));
    }
    close_model(&model);
}

static void a_model_with_wrong_tensors_is_refused(void **state)
{
    struct model model;

    (void)state;
    open_model(&model);
    model.table->rows[0].shape[0]++;
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_BAD_FORMAT, "token_embd.weight: shape (260, 32), want (261, 32)");
    model.table->rows[0].shape[0]--;
    model.table->n_rows--;
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_UNSUPPORTED, "does not belong");
    model.table->n_rows++;
    (void)snprintf(model.table->rows[0].name, sizeof(model.table->rows[0].name), "lm_head.weight");
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_BAD_FORMAT, "tensor output.weight is missing");
    close_model(&model);
    make_file(3, "smollm");
    memset(made.bytes + made.n - 64, 0xff, 4); /* not a number, in the last vector */
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &model.file));
    assert_ok(weight_table_create(&model.config, &model.table));
    assert_ok(memory_alloc(model.table->n_floats, sizeof(float), &model.data));
    assert_status(gguf_import_weights(model.file, &model.config, model.table, model.data),
                  STATUS_BAD_FORMAT, "not finite");
    close_model(&model);
}

static void assert_ids(const struct tokenizer *tokenizer, const char *text, bool parse_special,
                       const int32_t *want, size_t n)
{
    struct token_list list;

    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), parse_special, &list));
    assert_int_equal(list.count, n);
    assert_memory_equal(list.ids, want, n * sizeof(*want));
    token_list_dispose(&list);
}

static void the_tokenizer_is_written_and_read_back(void **state)
{
    const int32_t word[] = {256, 'l', '1', '2', SPECIAL_ID, 258};
    const int32_t plain[] = {'<', '|', 'e', 'n', 'd', '|', '>'};
    struct tokenizer *tokenizer;
    struct model model;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    open_model(&model);
    assert_ok(gguf_import_tokenizer(model.file, &model.config, dir));
    assert_ok(tokenizer_load(dir, &tokenizer));
    assert_ids(tokenizer, "hel12<|end|>a b", true, word, 6);
    assert_ids(tokenizer, "<|end|>", false, plain, 7);
    assert_int_equal(tokenizer_eos(tokenizer), SPECIAL_ID);
    assert_true(tokenizer_is_special(tokenizer, SPECIAL_ID));
    assert_false(tokenizer_is_special(tokenizer, 258));
    assert_false(tokenizer_adds_bos(tokenizer));
    assert_int_equal(tokenizer_id(tokenizer, "[PAD259]"), -1);
    tokenizer_destroy(tokenizer);
    close_model(&model);
    support_temp_dir_remove(dir);
}

static void every_pre_tokenizer_is_one_that_the_tokenizer_reads(void **state)
{
    static const char *const names[] = {"smollm", "gpt-2", "llama-bpe", "qwen2", "deepseek-v3"};
    struct model_config config;
    struct gguf *file;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        make_file(3, names[i]);
        assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
        assert_ok(gguf_import_config(file, &config));
        assert_ok(gguf_import_tokenizer(file, &config, dir));
        gguf_close(file);
    }
    make_file(3, "tekken");
    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_status(gguf_import_tokenizer(file, &config, dir), STATUS_UNSUPPORTED,
                  "tokenizer.ggml.pre \"tekken\"");
    gguf_close(file);
    support_temp_dir_remove(dir);
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

static void assert_config_refused(enum status wanted, const char *part)
{
    struct model_config config;
    struct gguf *file;

    assert_ok(gguf_parse("t.gguf", made.bytes, made.n, &file));
    assert_status(gguf_import_config(file, &config), wanted, part);
    gguf_close(file);
}

static void other_architectures_and_keys_are_named(void **state)
{
    (void)state;
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("general.architecture") + 20 + 4 + 8, "gemma", 5);
    assert_config_refused(STATUS_UNSUPPORTED, "architecture \"gemma\"");
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("llama.block_count"), "llama.logit_scale", 17);
    assert_config_refused(STATUS_UNSUPPORTED, "llama.logit_scale is not known");
    make_file(3, "smollm");
    memcpy(made.bytes + find_in_file("llama.block_count"), "other.block_count", 17);
    assert_config_refused(STATUS_BAD_FORMAT, "llama.block_count is missing");
    make_file(3, "smollm");
    made.bytes[find_in_file("llama.attention.head_count_kv") + 29 + 4] = 0xff;
    assert_config_refused(STATUS_BAD_FORMAT, "num_key_value_heads");
}

/* Whatever single byte is wrong: an answer, never a read beyond the file. */
static void any_wrong_byte_gets_an_answer(void **state)
{
    struct gguf *file = NULL;

    (void)state;
    make_file(3, "smollm");
    for (size_t i = 0; i < made.n_header; i++) {
        const unsigned char was = made.bytes[i];

        made.bytes[i] = (unsigned char)(was ^ (1u << i % 8));
        if (i % 7 == 0) {
            made.bytes[i] = 0xff;
        }
        const enum status status = gguf_parse("t.gguf", made.bytes, made.n, &file);

        assert_true(status == STATUS_OK || status == STATUS_BAD_FORMAT ||
                    status == STATUS_UNSUPPORTED);
        gguf_close(file);
        made.bytes[i] = was;
    }
}

static enum status open_and_close(void *context)
{
    struct gguf *file = NULL;
    struct model_config config;

    (void)context;
    TRY(gguf_parse("t.gguf", made.bytes, made.n, &file));
    const enum status status = gguf_import_config(file, &config);

    gguf_close(file);
    return status;
}

static void opening_survives_every_failed_allocation(void **state)
{
    (void)state;
    make_file(3, "smollm");
    assert_true(support_fail_allocations(open_and_close, NULL) >= 5);
}

static enum status write_tokenizer(void *context)
{
    struct model *model = context;
    char dir[256];
    enum status status;

    support_temp_dir(dir, sizeof(dir));
    status = gguf_import_tokenizer(model->file, &model->config, dir);
    support_temp_dir_remove(dir);
    return status;
}

static void writing_a_tokenizer_survives_every_failed_allocation(void **state)
{
    struct model model;

    (void)state;
    open_model(&model);
    assert_true(support_fail_allocations(write_tokenizer, &model) >= 10);
    close_model(&model);
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
        cmocka_unit_test(the_architecture_becomes_a_config),
        cmocka_unit_test(query_and_key_rows_are_put_back_in_order),
        cmocka_unit_test(the_other_rows_keep_their_order),
        cmocka_unit_test(a_model_with_wrong_tensors_is_refused),
        cmocka_unit_test(the_tokenizer_is_written_and_read_back),
        cmocka_unit_test(every_pre_tokenizer_is_one_that_the_tokenizer_reads),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(counts_and_lengths_are_held_against_the_file),
        cmocka_unit_test(names_that_come_twice_are_refused),
        cmocka_unit_test(tensors_over_each_other_are_refused),
        cmocka_unit_test(other_kinds_of_files_are_named),
        cmocka_unit_test(other_architectures_and_keys_are_named),
        cmocka_unit_test(any_wrong_byte_gets_an_answer),
        cmocka_unit_test(opening_survives_every_failed_allocation),
        cmocka_unit_test(writing_a_tokenizer_survives_every_failed_allocation),
        cmocka_unit_test(a_file_is_recognised_by_its_first_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
