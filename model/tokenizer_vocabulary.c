/* Owns the vocabulary and the added tokens of tokenizer.json: their ids, their names, and the bytes
 * that a name stands for. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

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

enum status vocabulary_read_added(const struct json *list, struct tokenizer *tokenizer)
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

enum status vocabulary_build_texts(struct tokenizer *tokenizer, const bool *is_vocab)
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

enum status vocabulary_read(const struct json *vocab, const struct json *added,
                            struct tokenizer *tokenizer)
{
    TRY(measure_ids(vocab, added, &tokenizer->vocab_size));
    TRY(memory_alloc(tokenizer->vocab_size, sizeof(bool), &tokenizer->is_special));
    TRY(text_table_init(&tokenizer->names, tokenizer->vocab_size));
    return read_vocab(vocab, &tokenizer->names);
}
