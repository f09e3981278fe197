/* Owns the table of pre-tokenizers: patterns as model.md 13.2 has them. */
#include "model/gguf_pre_tokenizer.h"

#include "model/json_text.h"

#include <string.h>

#define PATTERNS_MAX 3

struct gguf_pre_tokenizer {
    const char *name;
    const char *patterns[PATTERNS_MAX]; /* one Split each; none: GPT-2's, inside ByteLevel */
    bool splits_digits;                 /* one by one, before anything else */
    bool normalizes;                    /* NFC */
    bool ignores_merges, adds_bos;
};

/* Llama 3's pattern with the longest run of digits that stays together. */
#define WORDS(digits)                                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 .patterns = {WORDS("\\p{N}{1,3}")}, .ignores_merges = true, .adds_bos = true
#define QWEN2 .patterns = {WORDS("\\p{N}")}, .normalizes = true
#define DEEPSEEK_WORDS                                                                             \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                                       \
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|"                      \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* U+4E00 to 9FA5, U+3040 to 309F, U+30A0 to 30FF */
#define HAN_AND_KANA                                                                               \
    "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+"

static const struct gguf_pre_tokenizer table[] = {
    {.name = "smollm", .splits_digits = true},
    {.name = "starcoder", .splits_digits = true},
    {.name = "refact", .splits_digits = true},
    {.name = "gpt-2"},
    {.name = "llama-bpe", LLAMA3},
    {.name = "llama3", LLAMA3},
    {.name = "llama-v3", LLAMA3},
    {.name = "qwen2", QWEN2},
    {.name = "deepseek-r1-qwen", QWEN2},
    {.name = "deepseek-v3", .patterns = {"\\p{N}{1,3}", HAN_AND_KANA, DEEPSEEK_WORDS}},
};

const struct gguf_pre_tokenizer *gguf_pre_tokenizer_find(struct gguf_text name)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (gguf_text_is(name, table[i].name)) {
            return &table[i];
        }
    }
    return NULL;
}

const char *gguf_pre_tokenizer_names(void)
{
    return "smollm, starcoder, refact, gpt-2, llama-bpe, llama3, llama-v3, qwen2, "
           "deepseek-r1-qwen and deepseek-v3";
}

bool gguf_pre_tokenizer_ignores_merges(const struct gguf_pre_tokenizer *pre)
{
    return pre->ignores_merges;
}

bool gguf_pre_tokenizer_adds_bos(const struct gguf_pre_tokenizer *pre)
{
    return pre->adds_bos;
}

static enum status put_splits(const struct gguf_pre_tokenizer *pre, struct text_buffer *out)
{
    for (size_t i = 0; i < PATTERNS_MAX && pre->patterns[i] != NULL; i++) {
        const char *pattern = pre->patterns[i];

        TRY(json_text_put(out, "{\"type\":\"Split\",\"pattern\":{\"Regex\":"));
        TRY(json_text_quote(out, pattern, strlen(pattern)));
        TRY(json_text_put(out, "},\"behavior\":\"Isolated\",\"invert\":false},"));
    }
    return STATUS_OK;
}

enum status gguf_pre_tokenizer_put(const struct gguf_pre_tokenizer *pre, struct text_buffer *out)
{
    TRY(json_text_put(out, pre->normalizes ? "\"normalizer\":{\"type\":\"NFC\"},"
                                           : "\"normalizer\":null,"));
    TRY(json_text_put(out, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["));
    if (pre->splits_digits) {
        TRY(json_text_put(out, "{\"type\":\"Digits\",\"individual_digits\":true},"));
    }
    TRY(put_splits(pre, out));
    TRY(json_text_put(out, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                           "\"trim_offsets\":true,\"use_regex\":"));
    return json_text_put(out, pre->patterns[0] == NULL ? "true}]}" : "false}]}");
}
