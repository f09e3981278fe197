/* A million random texts come back from encode and decode with the same bytes: with a tokenizer of
 * bytes written here, and with the real ones of the shared data where it is present. Texts are of
 * every plane of Unicode and of the scripts that pre-tokenizers tell apart, with runs of blanks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text_buffer.h"
#include "model/tokenizer.h"
#include "model/tokenizer_text.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define N_TEXTS 1000000u
#define PATH_ROOM 1024
#define CHARACTERS_MAX 16u
#define TEXT_ROOM (4 * CHARACTERS_MAX + 1)

/* --- Random texts --- */

struct generator {
    uint64_t state;
};

/* splitmix64 */
static uint64_t draw(struct generator *g)
{
    g->state += 0x9E3779B97F4A7C15U;
    uint64_t z = g->state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
}

static uint32_t draw_below(struct generator *g, uint32_t n)
{
    return (uint32_t)((draw(g) >> 32) * n >> 32);
}

static const struct {
    uint32_t first, last;
} ranges[] = {
    {0x20, 0x7E},       {0x20, 0x7E},       {'a', 'z'},         {'0', '9'},       {0x00, 0x1F},
    {0x80, 0xFF},       {0x100, 0x24F},     {0x300, 0x36F},     {0x370, 0x52F},   {0x590, 0x6FF},
    {0x900, 0x97F},     {0xE00, 0xE7F},     {0x1100, 0x11FF},   {0x2000, 0x206F}, {0x20A0, 0x2BFF},
    {0x3000, 0x30FF},   {0x4E00, 0x9FFF},   {0xAC00, 0xD7A3},   {0xE000, 0xF8FF}, {0xFB00, 0xFFFF},
    {0x1F300, 0x1FAFF}, {0x1D400, 0x1D7FF}, {0x20000, 0x2A6DF}, {0, 0x10FFFF},
};
#define N_RANGES (sizeof(ranges) / sizeof(ranges[0]))

static size_t put_character(uint32_t code, char *out)
{
    static const unsigned char heads[] = {0, 0x00, 0xC0, 0xE0, 0xF0};
    const size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80U | (code & 0x3FU));
        code >>= 6;
    }
    out[0] = (char)(heads[n] | code);
    return n;
}

/* A few runs, each of characters of one range or of one character; valid UTF-8. */
static size_t draw_text(struct generator *g, char *out)
{
    const uint32_t n_characters = draw_below(g, CHARACTERS_MAX + 1);
    size_t n = 0;

    for (uint32_t i = 0; i < n_characters;) {
        const uint32_t range = draw_below(g, N_RANGES);
        const uint32_t width = ranges[range].last - ranges[range].first + 1;
        const bool repeats = draw_below(g, 8) == 0;
        uint32_t code = ranges[range].first + draw_below(g, width);
        for (uint32_t end = i + 1 + draw_below(g, 6); i < end && i < n_characters; i++) {
            code = repeats ? code : ranges[range].first + draw_below(g, width);
            n += put_character(code >= 0xD800 && code <= 0xDFFF ? ' ' : code, out + n);
        }
    }
    return n;
}

/* --- Round trips --- */

static void round_trip(const struct tokenizer *tokenizer, const char *text, size_t n, bool is_nfc)
{
    struct text_buffer normal = {0};
    struct token_list list;
    char *decoded;
    size_t n_decoded;

    assert_ok(tokenizer_encode(tokenizer, text, n, false, &list));
    assert_ok(
        tokenizer_decode(tokenizer, list.ids, list.count, false, false, &decoded, &n_decoded));
    if (is_nfc) {
        assert_ok(text_buffer_reserve(&normal, n));
        assert_ok(text_normalize(TEXT_NFC, text, n, &normal));
        text = normal.bytes;
        n = normal.count;
    }
    if (n != n_decoded || memcmp(text, decoded, n) != 0) {
        fail_msg("\"%.*s\" came back as \"%.*s\"", (int)n, text, (int)n_decoded, decoded);
    }
    text_buffer_dispose(&normal);
    memory_free(decoded);
    token_list_dispose(&list);
}

static void round_trips(const char *name, const struct tokenizer *tokenizer, size_t n_texts,
                        bool is_nfc)
{
    struct generator generator = {.state = n_texts};
    char text[TEXT_ROOM];
    const int64_t start = clock_now_us();

    for (size_t i = 0; i < n_texts; i++) {
        const size_t n = draw_text(&generator, text);
        round_trip(tokenizer, text, n, is_nfc);
    }
    print_message("%s: %zu texts in %.1f s\n", name, n_texts,
                  (double)(clock_now_us() - start) / 1e6);
}

/* All bytes, and merges of some: the printable alphabet of ByteLevel is that of model.md 13.1. */
static void write_tokenizer(const char *dir)
{
    static const char head[] =
        "{\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"use_regex\":true,\"trim_offsets\":true},"
        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":false,\"trim_offsets\":true},\"model\":{\"type\":\"BPE\",\"vocab\":{";
    static const char tail[] = "\"he\":256,\"\xC4\xA0\xC4\xA0\":257,\"\xC3\xA4\xC2\xB8\":258},"
                               "\"merges\":[\"h e\",\"\xC4\xA0 \xC4\xA0\",\"\xC3\xA4 \xC2\xB8\"]}}";
    char path[PATH_ROOM], entry[32];
    struct text_buffer text = {0};
    uint32_t n_moved = 0;

    assert_ok(text_buffer_put(&text, head, sizeof(head) - 1));
    for (uint32_t byte = 0; byte < 256; byte++) {
        const bool is_kept =
            (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        (void)snprintf(entry, sizeof(entry), "\"\\u%04x\":%u,", is_kept ? byte : 256 + n_moved,
                       byte);
        n_moved += is_kept ? 0 : 1;
        assert_ok(text_buffer_put(&text, entry, strlen(entry)));
    }
    assert_ok(text_buffer_put(&text, tail, sizeof(tail) - 1));
    assert_true((size_t)snprintf(path, sizeof(path), "%s/tokenizer.json", dir) < sizeof(path));
    assert_ok(file_write_atomic(path, text.bytes, text.count));
    text_buffer_dispose(&text);
}

static void a_million_texts_come_back_with_the_same_bytes(void **state)
{
    static const char *const names[] = {"deepseek-v3", "llama3", "qwen3"}; /* the last: NFC */
    char own[PATH_ROOM], dir[PATH_ROOM], relative[64];
    struct tokenizer *tokenizer;
    size_t n_left = N_TEXTS;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer", names[i]);
        if (support_shared_path(relative, dir, sizeof(dir))) {
            assert_ok(tokenizer_load(dir, &tokenizer));
            round_trips(names[i], tokenizer, N_TEXTS / 4, i == 2);
            tokenizer_destroy(tokenizer);
            n_left -= N_TEXTS / 4;
        }
    }
    support_temp_dir(own, sizeof(own));
    write_tokenizer(own);
    assert_ok(tokenizer_load(own, &tokenizer));
    round_trips("bytes", tokenizer, n_left, false);
    tokenizer_destroy(tokenizer);
    support_temp_dir_remove(own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_million_texts_come_back_with_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
