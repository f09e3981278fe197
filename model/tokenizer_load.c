/* Owns reading tokenizer.json: every component is either one that this build computes exactly, or
 * the file is refused by that component's name. */
#include "base/memory.h"
#include "model/tokenizer_internal.h"

#include <string.h>

enum status check_list(const struct json *value, const char *what)
{
    return json_is(value, JSON_ARRAY)
               ? STATUS_OK
               : status_set(STATUS_BAD_FORMAT, "%s is missing or no list", what);
}

/* --- Merges --- */

struct merge_names {
    const char *left, *right;
    size_t n_left, n_right;
};

/* "a b" or ["a", "b"]. */
static bool split_merge(const struct json *value, struct merge_names *out)
{
    const struct json *left = json_at(value, 0);
    const struct json *right = json_at(value, 1);

    if (json_is(left, JSON_STRING) && json_is(right, JSON_STRING) && json_count(value) == 2) {
        *out = (struct merge_names){json_text(left, ""), json_text(right, ""),
                                    json_text_bytes(left), json_text_bytes(right)};
        return out->n_left > 0 && out->n_right > 0;
    }
    if (!json_is(value, JSON_STRING)) {
        return false;
    }
    const char *text = json_text(value, "");
    const size_t n = json_text_bytes(value);
    const char *space = memchr(text, ' ', n);
    if (space == NULL) {
        return false;
    }
    *out = (struct merge_names){text, space + 1, (size_t)(space - text),
                                n - (size_t)(space - text) - 1};
    return out->n_left > 0 && out->n_right > 0 && memchr(space + 1, ' ', out->n_right) == NULL;
}

static enum status read_merge(const struct text_table *names, const struct json *value,
                              size_t index, struct bpe_merge *out)
{
    char joined[2 * TOKEN_BYTES_MAX];
    struct merge_names merge;

    if (!split_merge(value, &merge) || merge.n_left + merge.n_right > sizeof(joined)) {
        return status_set(STATUS_BAD_FORMAT, "merge %zu is not a pair of tokens", index);
    }
    memcpy(joined, merge.left, merge.n_left);
    memcpy(joined + merge.n_left, merge.right, merge.n_right);
    out->left = text_table_find(names, merge.left, merge.n_left);
    out->right = text_table_find(names, merge.right, merge.n_right);
    out->result = text_table_find(names, joined, merge.n_left + merge.n_right);
    if (out->left < 0 || out->right < 0 || out->result < 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "merge %zu, \"%.*s\" and \"%.*s\": not in the vocabulary: %s", index,
                          (int)merge.n_left, merge.left, (int)merge.n_right, merge.right,
                          out->left < 0    ? "the first"
                          : out->right < 0 ? "the second"
                                           : "what they make");
    }
    return STATUS_OK;
}

/* names holds the vocabulary alone. Caller frees *out. */
static enum status read_merges(const struct json *list, const struct text_table *names,
                               struct bpe_merge **out)
{
    const size_t n = json_count(list);

    if (!json_is(list, JSON_ARRAY) || n > 16 * TOKENIZER_IDS_MAX) {
        return status_set(STATUS_BAD_FORMAT, "model.merges is missing, no list or too long");
    }
    TRY(memory_alloc(n, sizeof(**out), out));
    for (size_t i = 0; i < n; i++) {
        TRY(read_merge(names, json_at(list, i), i, &(*out)[i]));
    }
    return STATUS_OK;
}

/* --- The model section --- */

static enum status check_model(const struct json *model)
{
    const char *type = json_text(json_get(model, "type"), "BPE");

    if (strcmp(type, "BPE") != 0) {
        return status_set(STATUS_UNSUPPORTED, "model %s", type);
    }
    if (json_number(json_get(model, "dropout"), 0.0) > 0.0) {
        return status_set(STATUS_UNSUPPORTED, "model BPE with dropout");
    }
    if (json_text_bytes(json_get(model, "continuing_subword_prefix")) > 0 ||
        json_text_bytes(json_get(model, "end_of_word_suffix")) > 0) {
        return status_set(STATUS_UNSUPPORTED, "model BPE with affixes of words");
    }
    if (!json_is(json_get(model, "vocab"), JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "model.vocab is missing");
    }
    return STATUS_OK;
}

/* The id of unk_token in *unknown, -1 if there is none. */
static enum status read_unknown(const struct json *model, const struct tokenizer *tokenizer,
                                const bool *is_vocab, int32_t *unknown)
{
    const struct json *name = json_get(model, "unk_token");

    *unknown = -1;
    if (!json_is(name, JSON_STRING)) {
        return STATUS_OK;
    }
    *unknown = text_table_find(&tokenizer->names, json_text(name, ""), json_text_bytes(name));
    if (*unknown < 0 || !is_vocab[*unknown]) {
        return status_set(STATUS_BAD_FORMAT, "unk_token \"%.64s\" is not in the vocabulary",
                          json_text(name, ""));
    }
    return STATUS_OK;
}

/* With ByteLevel, a byte without a token would fall back to the two bytes of its printable form. */
static enum status check_fallback(const struct json *model, const struct tokenizer *tokenizer)
{
    if (!tokenizer->splitter.has_byte_level ||
        !json_bool(json_get(model, "byte_fallback"), false)) {
        return STATUS_OK;
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        const char text = (char)byte;
        if (text_table_find(&tokenizer->pieces, &text, 1) < 0) {
            return status_set(STATUS_UNSUPPORTED,
                              "model BPE with byte_fallback, ByteLevel and no token for byte %u",
                              byte);
        }
    }
    return STATUS_OK;
}

static enum status build_bpe(const struct json *model, struct tokenizer *tokenizer,
                             const struct bpe_merge *merges, bool *flags)
{
    int32_t unknown = -1;

    TRY(vocabulary_build_texts(tokenizer, flags));
    TRY(read_unknown(model, tokenizer, flags, &unknown));
    TRY(check_fallback(model, tokenizer));
    memset(flags, 0, tokenizer->vocab_size);
    for (size_t i = 0; i < tokenizer->n_added; i++) {
        flags[tokenizer->added[i].id] = true;
        tokenizer->added[i].content = tokenizer->names.refs[tokenizer->added[i].id].text;
    }
    const struct bpe_options options = {
        .n_tokens = tokenizer->vocab_size,
        .pieces = &tokenizer->pieces,
        .merges = merges,
        .n_merges = json_count(json_get(model, "merges")),
        .ignore_merges = json_bool(json_get(model, "ignore_merges"), false),
        .is_forbidden = flags,
        .units_are_bytes = tokenizer->splitter.has_byte_level,
        .falls_back_to_bytes = json_bool(json_get(model, "byte_fallback"), false),
        .unknown = unknown,
        .fuses_unknown = json_bool(json_get(model, "fuse_unk"), false),
    };
    return bpe_create(&options, &tokenizer->bpe);
}

static enum status read_model(const struct json *root, struct tokenizer *tokenizer)
{
    const struct json *model = json_get(root, "model");
    const struct json *added = json_get(root, "added_tokens");
    struct bpe_merge *merges = NULL;
    bool *flags = NULL;

    TRY(check_model(model));
    if (!json_is(added, JSON_NULL)) {
        TRY(check_list(added, "added_tokens"));
    }
    TRY(vocabulary_read(json_get(model, "vocab"), added, tokenizer));
    TRY(memory_alloc(tokenizer->vocab_size, sizeof(*flags), &flags));
    for (size_t id = 0; id < tokenizer->vocab_size; id++) {
        flags[id] = tokenizer->names.refs[id].text != NULL;
    }
    enum status status = read_merges(json_get(model, "merges"), &tokenizer->names, &merges);
    if (status == STATUS_OK) {
        status = vocabulary_read_added(added, tokenizer);
    }
    if (status == STATUS_OK) {
        status = build_bpe(model, tokenizer, merges, flags);
    }
    memory_free(merges);
    memory_free(flags);
    return status;
}

/* --- The whole file --- */

/* A template that begins with a special token tells that texts begin with it. */
static enum status read_post_processor(const struct json *value, struct tokenizer *tokenizer)
{
    TRY(token_frame_load(value, &tokenizer->names, &tokenizer->frame));
    if (tokenizer->frame.bos >= 0) {
        tokenizer->bos = tokenizer->frame.bos;
        tokenizer->adds_bos = true;
    }
    return STATUS_OK;
}

enum status tokenizer_read(const struct json *root, struct tokenizer *tokenizer)
{
    if (!json_is(root, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "not a tokenizer.json: no object");
    }
    TRY(normalizer_load(json_get(root, "normalizer"), &tokenizer->normalizer));
    TRY(splitter_load(json_get(root, "pre_tokenizer"), &tokenizer->splitter));
    if (tokenizer->splitter.prefixes_first && normalizer_can_remove(&tokenizer->normalizer)) {
        return status_set(STATUS_UNSUPPORTED,
                          "pre_tokenizer Metaspace \"first\" after a normalizer that removes text");
    }
    TRY(decoder_load(json_get(root, "decoder"), &tokenizer->decoder));
    TRY(read_model(root, tokenizer));
    return read_post_processor(json_get(root, "post_processor"), tokenizer);
}
