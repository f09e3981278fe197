/* Owns reading tokenizer.json: every component is either one that this build computes exactly, or
 * the file is refused by that component's name. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

#define TOKEN_BYTES_MAX 65535u

/* The printable alphabet of ByteLevel: 33..126, 161..172 and 174..255 stand for themselves, the
 * other bytes, ascending, for U+0100 and on. Returns the byte, or -1. */
static int byte_of(uint32_t code_point)
{
    const bool is_itself = (code_point >= 33 && code_point <= 126) ||
                           (code_point >= 161 && code_point <= 172) ||
                           (code_point >= 174 && code_point <= 255);

    if (is_itself) {
        return (int)code_point;
    }
    if (code_point < 256 || code_point > 256 + 67) {
        return -1;
    }
    const int rank = (int)code_point - 256;
    return rank < 33 ? rank : rank < 67 ? rank - 33 + 127 : 173;
}

size_t undo_alphabet(const char *name, size_t n, char *out)
{
    size_t count = 0;

    for (size_t i = 0; i < n;) {
        uint32_t code_point = 0;
        const size_t length = utf8_sequence(name + i, n - i, &code_point);
        const int byte = length == 0 ? -1 : byte_of(code_point);
        if (byte < 0) {
            return SIZE_MAX;
        }
        out[count++] = (char)byte;
        i += length;
    }
    return count;
}

enum status check_list(const struct json *value, const char *what)
{
    return json_is(value, JSON_ARRAY)
               ? STATUS_OK
               : status_set(STATUS_BAD_FORMAT, "%s is missing or no list", what);
}

/* --- Vocabulary and added tokens into names --- */

static enum status check_id(const struct json *value, const char *name, int32_t *id)
{
    const int64_t number = json_int(value, -1);

    if (!json_is(value, JSON_INT) || number < 0 || (uint64_t)number >= TOKENIZER_IDS_MAX) {
        return status_set(STATUS_BAD_FORMAT, "token \"%.64s\": its id is not in 0 .. %zu", name,
                          TOKENIZER_IDS_MAX - 1);
    }
    *id = (int32_t)number;
    return STATUS_OK;
}

/* One past the largest id of vocabulary and added tokens; every id in range. */
static enum status measure_ids(const struct json *vocab, const struct json *added, size_t *n_ids)
{
    struct json_iterator it = {.object = vocab};
    int32_t id = 0;

    *n_ids = 0;
    while (json_next(&it)) {
        TRY(check_id(it.value, it.key, &id));
        *n_ids = (size_t)id + 1 > *n_ids ? (size_t)id + 1 : *n_ids;
    }
    for (size_t i = 0; i < json_count(added); i++) {
        const struct json *token = json_at(added, i);
        TRY(check_id(json_get(token, "id"), json_text(json_get(token, "content"), "?"), &id));
        *n_ids = (size_t)id + 1 > *n_ids ? (size_t)id + 1 : *n_ids;
    }
    return STATUS_OK;
}

static enum status claim_id(struct text_table *names, int32_t id, const char *name, size_t n)
{
    if (n > TOKEN_BYTES_MAX) {
        return status_set(STATUS_BAD_FORMAT, "token %d is %zu bytes long", id, n);
    }
    if (names->refs[id].text != NULL) {
        return status_set(STATUS_BAD_FORMAT, "tokens \"%.64s\" and \"%.64s\" both have id %d",
                          names->refs[id].text, name, id);
    }
    text_table_set(names, (size_t)id, name, n);
    return STATUS_OK;
}

static enum status read_vocab(const struct json *vocab, struct text_table *names)
{
    struct json_iterator it = {.object = vocab};

    while (json_next(&it)) {
        TRY(claim_id(names, (int32_t)json_int(it.value, -1), it.key, it.key_bytes));
    }
    return STATUS_OK;
}

static enum status read_added_token(const struct json *value, struct tokenizer *tokenizer,
                                    struct added_token *out)
{
    const struct json *content = json_get(value, "content");

    if (!json_is(content, JSON_STRING) || json_text_bytes(content) == 0) {
        return status_set(STATUS_BAD_FORMAT, "an added token has no content");
    }
    *out = (struct added_token){
        .single_word = json_bool(json_get(value, "single_word"), false),
        .lstrip = json_bool(json_get(value, "lstrip"), false),
        .rstrip = json_bool(json_get(value, "rstrip"), false),
        .special = json_bool(json_get(value, "special"), false),
        .normalized = json_bool(json_get(value, "normalized"), true),
        .content = json_text(content, ""),
        .content_bytes = json_text_bytes(content),
    };
    /* a token of the vocabulary keeps its id, whatever the file says beside it */
    out->id = text_table_find(&tokenizer->names, out->content, out->content_bytes);
    if (out->id < 0) {
        out->id = (int32_t)json_int(json_get(value, "id"), -1);
        TRY(claim_id(&tokenizer->names, out->id, out->content, out->content_bytes));
    }
    tokenizer->is_special[out->id] = tokenizer->is_special[out->id] || out->special;
    return STATUS_OK;
}

/* Puts the token into the search it belongs to, in the form that search sees. */
static enum status file_added_token(struct tokenizer *tokenizer, const struct added_token *token,
                                    int32_t index)
{
    struct normalize_scratch scratch = {0};
    const char *text = token->content;
    size_t n = token->content_bytes;

    if (!token->normalized) {
        return added_trie_add(&tokenizer->raw, token->content, token->content_bytes, index);
    }
    enum status status = normalizer_run(&tokenizer->normalizer, &scratch, &text, &n);
    if (status == STATUS_OK) {
        status = added_trie_add(&tokenizer->normal, text, n, index);
    }
    normalize_scratch_dispose(&scratch);
    return status;
}

static enum status read_added(const struct json *list, struct tokenizer *tokenizer)
{
    TRY(memory_alloc(json_count(list), sizeof(*tokenizer->added), &tokenizer->added));
    for (size_t i = 0; i < json_count(list); i++) {
        struct added_token *token = &tokenizer->added[i];
        TRY(read_added_token(json_at(list, i), tokenizer, token));
        TRY(file_added_token(tokenizer, token, (int32_t)i));
        tokenizer->n_added++;
    }
    return STATUS_OK;
}

/* --- From names to bytes --- */

/* Copies every name into the blob, behind it the bytes it stands for; fills texts and pieces
 * (vocabulary only: is_vocab marks the ids that were there before added tokens came). */
static void fill_texts(struct tokenizer *tokenizer, const bool *is_vocab)
{
    char *at = tokenizer->blob;

    for (size_t id = 0; id < tokenizer->vocab_size; id++) {
        struct text_ref *name = &tokenizer->names.refs[id];
        if (name->text == NULL) {
            continue;
        }
        memcpy(at, name->text, name->n);
        name->text = at;
        at += name->n;
        const size_t n_bytes = undo_alphabet(name->text, name->n, at);
        const bool is_bytes = n_bytes != SIZE_MAX;
        const struct text_ref bytes = {.text = at, .n = is_bytes ? (uint32_t)n_bytes : 0};
        const struct text_ref piece = tokenizer->splitter.has_byte_level ? bytes : *name;
        tokenizer->texts[id] = is_bytes && tokenizer->decoder.is_byte_level ? bytes : *name;
        if (is_vocab[id] && piece.n > 0) {
            text_table_set(&tokenizer->pieces, id, piece.text, piece.n);
        }
        at += bytes.n;
    }
}

static enum status build_texts(struct tokenizer *tokenizer, const bool *is_vocab)
{
    size_t blob_bytes = 0;

    for (size_t id = 0; id < tokenizer->vocab_size; id++) {
        blob_bytes += 2 * (size_t)tokenizer->names.refs[id].n;
    }
    TRY(memory_alloc(blob_bytes, 1, &tokenizer->blob));
    TRY(text_table_init(&tokenizer->pieces, tokenizer->vocab_size));
    TRY(memory_alloc(tokenizer->vocab_size, sizeof(*tokenizer->texts), &tokenizer->texts));
    fill_texts(tokenizer, is_vocab);
    return STATUS_OK;
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

    TRY(build_texts(tokenizer, flags));
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

/* The vocabulary's names, before any added token. */
static enum status read_names(const struct json *vocab, const struct json *added,
                              struct tokenizer *tokenizer)
{
    TRY(measure_ids(vocab, added, &tokenizer->vocab_size));
    TRY(memory_alloc(tokenizer->vocab_size, sizeof(bool), &tokenizer->is_special));
    TRY(text_table_init(&tokenizer->names, tokenizer->vocab_size));
    return read_vocab(vocab, &tokenizer->names);
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
    TRY(read_names(json_get(model, "vocab"), added, tokenizer));
    TRY(memory_alloc(tokenizer->vocab_size, sizeof(*flags), &flags));
    for (size_t id = 0; id < tokenizer->vocab_size; id++) {
        flags[id] = tokenizer->names.refs[id].text != NULL;
    }
    enum status status = read_merges(json_get(model, "merges"), &tokenizer->names, &merges);
    if (status == STATUS_OK) {
        status = read_added(added, tokenizer);
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
