/* Owns a small GGUF file in memory: a llama of one layer whose tensors have every coding, with a
 * byte-level tokenizer. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_GGUF_FIXTURE_H
#define HONE_TESTS_UNIT_MODEL_GGUF_FIXTURE_H

#include "model/gguf.h"

#include <stdint.h>
#include <string.h>

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

/* What the next files have beside the ordinary. */
static struct {
    const float *divisors; /* (HEAD_DIM / 2) of rope_freqs.weight */
    float linear;          /* factor of a linear scaling */
    const char *scaling;   /* its name */
} extras;

static inline void put(const void *bytes, size_t n)
{
    assert_true(made.n + n <= FILE_ROOM);
    memcpy(made.bytes + made.n, bytes, n);
    made.n += n;
}

static inline void put_number(uint64_t number, size_t n)
{
    unsigned char bytes[8];

    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)(number >> (8 * i));
    }
    put(bytes, n);
}

static inline void put_text(const char *text)
{
    put_number(strlen(text), 8);
    put(text, strlen(text));
}

static inline void key_text(const char *key, const char *text)
{
    put_text(key);
    put_number(GGUF_TEXT, 4);
    put_text(text);
}

static inline void key_size(const char *key, uint64_t value)
{
    put_text(key);
    put_number(GGUF_U32, 4);
    put_number(value, 4);
}

static inline void key_float(const char *key, float value)
{
    put_text(key);
    put_number(GGUF_F32, 4);
    put(&value, sizeof(value));
}

static inline void key_list(const char *key, enum gguf_type item, size_t count)
{
    put_text(key);
    put_number(GGUF_LIST, 4);
    put_number(item, 4);
    put_number(count, 8);
}

/* The character that stands for a byte in a vocabulary (model.md 13.1), as UTF-8. */
static inline void name_of_byte(unsigned byte, char out[3])
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

static inline void put_vocabulary(void)
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
static inline void put_keys(const char *pre)
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
    if (extras.scaling != NULL) {
        key_text("llama.rope.scaling.type", extras.scaling);
        key_float("llama.rope.scaling.factor", extras.linear);
    }
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
static inline unsigned char random_byte(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (unsigned char)(random_state >> 24);
}

/* A half-precision number of moderate size. */
static inline void put_half(void)
{
    put_number((uint64_t)(random_byte() & 0x80u) << 8 | (uint64_t)(8 + random_byte() % 8) << 10 |
                   (uint64_t)(random_byte() & 3u) << 8 | random_byte(),
               2);
}

static inline void put_values(const struct planned *tensor)
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

/* An entry whose data begin at `at`. */
static inline void put_tensor(const char *name, size_t rows, size_t columns, unsigned type,
                              size_t at)
{
    put_text(name);
    put_number(columns > 0 ? 2 : 1, 4);
    if (columns > 0) {
        put_number(columns, 8);
    }
    put_number(rows, 8);
    put_number(type, 4);
    put_number(at, 8);
}

static inline void put_tensors(void)
{
    size_t at = 0;

    for (size_t i = 0; i < N_TENSORS; i++) {
        put_tensor(plan[i].name, plan[i].rows, plan[i].columns, plan[i].type, at);
        at = ALIGNED(at + plan[i].bytes);
    }
    if (extras.divisors != NULL) {
        put_tensor("rope_freqs.weight", HEAD_DIM / 2, 0, 0, at);
    }
}

static inline void pad(void)
{
    while (made.n % 64 != 0) {
        put("", 1);
    }
}

/* The whole file, in `made`. */
static inline void make_file(unsigned version, const char *pre)
{
    made.n = 0;
    random_state = 7;
    put("GGUF", 4);
    put_number(version, 4);
    put_number(N_TENSORS + (extras.divisors != NULL ? 1 : 0), 8);
    put_number(N_KEYS + (extras.scaling != NULL ? 2 : 0), 8);
    put_keys(pre);
    put_tensors();
    made.n_header = made.n;
    pad();
    for (size_t i = 0; i < N_TENSORS; i++) {
        put_values(&plan[i]);
        pad();
    }
    if (extras.divisors != NULL) {
        put(extras.divisors, HEAD_DIM / 2 * sizeof(float));
    }
}

static inline size_t find_in_file(const char *text)
{
    for (size_t i = 0; i + strlen(text) <= made.n; i++) {
        if (memcmp(made.bytes + i, text, strlen(text)) == 0) {
            return i;
        }
    }
    fail_msg("the file has no %s", text);
    return 0;
}

#endif
