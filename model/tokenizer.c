/* Owns the tokenizer as others see it: loading a folder, encoding, decoding. */
#include "model/tokenizer.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/chat_template.h"
#include "model/tokenizer_config.h"
#include "model/tokenizer_internal.h"

#include <string.h>

#define TOKENIZER_BYTES_MAX ((size_t)256 << 20)
#define DEPTH_MAX 32u

/* --- Loading --- */

/* "text" or {"content": "text"}, as tokenizer_config.json writes special tokens; -1 if neither or
 * unknown. */
static int32_t special_id(const struct tokenizer *tokenizer, const struct json *value)
{
    const struct json *content = json_is(value, JSON_OBJECT) ? json_get(value, "content") : value;

    if (!json_is(content, JSON_STRING)) {
        return -1;
    }
    return text_table_find(&tokenizer->names, json_text(content, ""), json_text_bytes(content));
}

static enum status read_config(const char *dir, struct tokenizer *tokenizer)
{
    struct json *config = NULL;

    TRY(tokenizer_config_load(dir, &config));
    const int32_t bos = special_id(tokenizer, json_get(config, "bos_token"));
    tokenizer->bos = bos >= 0 ? bos : tokenizer->bos;
    tokenizer->eos = special_id(tokenizer, json_get(config, "eos_token"));
    tokenizer->adds_bos = json_bool(json_get(config, "add_bos_token"), tokenizer->adds_bos);
    json_destroy(config);
    if (tokenizer->adds_bos && tokenizer->bos < 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s/tokenizer_config.json: add_bos_token without a known bos_token", dir);
    }
    return STATUS_OK;
}

/* tokenizer.json's text into a tokenizer that may be half-filled on failure. */
static enum status read_text(const char *text, size_t n, struct tokenizer *tokenizer)
{
    struct json *root = NULL;

    TRY(json_parse_with_nul(text, n, DEPTH_MAX, &root));
    const enum status status = tokenizer_read(root, tokenizer);
    json_destroy(root);
    tokenizer->digest = hash_sha256(text, n);
    return status;
}

static enum status read_file(const char *path, struct tokenizer *tokenizer)
{
    char *text = NULL;
    size_t n = 0;

    TRY(file_read(path, TOKENIZER_BYTES_MAX, &text, &n));
    const enum status status = read_text(text, n, tokenizer);
    memory_free(text);
    return status == STATUS_OK ? status : status_wrap(status, "%s", path);
}

enum status tokenizer_load(const char *dir, struct tokenizer **out)
{
    struct tokenizer *tokenizer = NULL;
    char *path = NULL;

    *out = NULL;
    TRY(path_join(dir, "tokenizer.json", &path));
    enum status status = memory_alloc(1, sizeof(*tokenizer), &tokenizer);
    if (status == STATUS_OK) {
        tokenizer->bos = -1;
        tokenizer->eos = -1;
        status = read_file(path, tokenizer);
    }
    if (status == STATUS_OK) {
        status = read_config(dir, tokenizer);
    }
    if (status == STATUS_OK &&
        chat_template_compile(dir, &tokenizer->chat_template) == STATUS_NO_MEMORY) {
        status = STATUS_NO_MEMORY;
    }
    memory_free(path);
    if (status != STATUS_OK) {
        tokenizer_destroy(tokenizer);
        return status;
    }
    *out = tokenizer;
    return STATUS_OK;
}

void tokenizer_destroy(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    jinja_destroy(tokenizer->chat_template);
    bpe_destroy(tokenizer->bpe);
    normalizer_dispose(&tokenizer->normalizer);
    splitter_dispose(&tokenizer->splitter);
    decoder_dispose(&tokenizer->decoder);
    token_frame_dispose(&tokenizer->frame);
    added_trie_dispose(&tokenizer->raw);
    added_trie_dispose(&tokenizer->normal);
    text_table_dispose(&tokenizer->names);
    text_table_dispose(&tokenizer->pieces);
    memory_free(tokenizer->added);
    memory_free(tokenizer->is_special);
    memory_free(tokenizer->texts);
    memory_free(tokenizer->blob);
    memory_free(tokenizer);
}

/* --- Asking --- */

size_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
    return tokenizer->vocab_size;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->adds_bos;
}

int32_t tokenizer_id(const struct tokenizer *tokenizer, const char *token)
{
    return text_table_find(&tokenizer->names, token, strlen(token));
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (size_t)id < tokenizer->vocab_size && tokenizer->is_special[id];
}

struct digest256 tokenizer_digest(const struct tokenizer *tokenizer)
{
    return tokenizer->digest;
}

void tokenizer_adopt_chat_template(struct tokenizer *tokenizer, struct jinja *program)
{
    jinja_destroy(tokenizer->chat_template);
    tokenizer->chat_template = program;
}

const struct jinja *tokenizer_chat_template(const struct tokenizer *tokenizer)
{
    return tokenizer->chat_template;
}

const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id, size_t *n)
{
    const bool is_known = id >= 0 && (size_t)id < tokenizer->vocab_size;

    *n = is_known ? tokenizer->names.refs[id].n : 0;
    return *n > 0 ? tokenizer->names.refs[id].text : "";
}

/* --- Encoding --- */

struct encoder {
    const struct tokenizer *tokenizer;
    struct encode_options options;
    const char *whole; /* the text that options.marks belongs to */
    struct split_scratch scratch;
    struct normalize_scratch normal;
    struct id_buffer ids;
};

/* Normalised text without added tokens. */
static enum status encode_plain(struct encoder *e, const char *text, size_t n)
{
    const char *cut = text;

    TRY(splitter_run(&e->tokenizer->splitter, text, n, &e->scratch, &cut));
    for (size_t i = 0; i < e->scratch.spans.count; i++) {
        const struct text_span span = e->scratch.spans.items[i];
        TRY(bpe_encode(e->tokenizer->bpe, cut + span.start, span.end - span.start,
                       e->options.parse_special, &e->ids));
    }
    return STATUS_OK;
}

/* Added tokens as their ids, what is between them by `encode_between`. */
typedef enum status between_encoder(struct encoder *e, const char *text, size_t n);
static enum status encode_walk(struct encoder *e, struct added_walk *walk,
                               between_encoder *encode_between)
{
    const bool is_first = e->scratch.is_first;
    struct text_piece piece;
    enum status status = STATUS_OK;

    while (status == STATUS_OK && added_walk_next(walk, &piece)) {
        if (piece.id >= 0) {
            status = id_buffer_put(&e->ids, piece.id);
            continue;
        }
        e->scratch.is_first = is_first && piece.start == 0;
        status = encode_between(e, walk->text + piece.start, piece.end - piece.start);
    }
    return status;
}

/* Raw text without the added tokens that are searched before the normalizer. */
static enum status encode_gap(struct encoder *e, const char *text, size_t n)
{
    struct added_walk walk = {
        .trie = &e->tokenizer->normal, .tokens = e->tokenizer->added, .text = text, .n = n};

    TRY(normalizer_run(&e->tokenizer->normalizer, &e->normal, &walk.text, &walk.n));
    if (!e->options.parse_special || (e->options.marks != NULL && walk.text != text)) {
        return encode_plain(e, walk.text, walk.n);
    }
    if (e->options.marks != NULL) {
        walk.marks = e->options.marks + (text - e->whole);
    }
    return encode_walk(e, &walk, encode_plain);
}

static enum status encode_valid(struct encoder *e, const char *text, size_t n)
{
    struct added_walk walk = {
        .trie = &e->tokenizer->raw, .tokens = e->tokenizer->added, .text = text, .n = n};

    walk.marks = e->options.marks;
    e->whole = text;
    e->scratch.is_first = !e->options.is_continued;
    if (!e->options.parse_special) {
        return encode_gap(e, text, n);
    }
    return encode_walk(e, &walk, encode_gap);
}

/* Broken UTF-8 is repaired first: the patterns run on valid text only. */
static enum status encode_any(struct encoder *e, const char *text, size_t n)
{
    char *repaired = NULL;
    size_t n_repaired = 0;
    bool is_lossy;

    if (text_is_utf8(text, n)) {
        return encode_valid(e, text, n);
    }
    if (e->options.marks != NULL) {
        return status_set(STATUS_BAD_ARGUMENT, "marked text that is not UTF-8");
    }
    TRY(utf8_repair(text, n, &repaired, &n_repaired, &is_lossy));
    const enum status status = encode_valid(e, repaired, n_repaired);
    memory_free(repaired);
    return status;
}

static enum status put_ids(struct id_buffer *out, const struct id_buffer *ids)
{
    for (size_t i = 0; i < ids->count; i++) {
        TRY(id_buffer_put(out, ids->ids[i]));
    }
    return STATUS_OK;
}

static enum status encode_framed(struct encoder *e, const char *text, size_t n)
{
    if (!e->options.add_special) {
        return encode_any(e, text, n);
    }
    TRY(put_ids(&e->ids, &e->tokenizer->frame.before));
    TRY(encode_any(e, text, n));
    return put_ids(&e->ids, &e->tokenizer->frame.after);
}

enum status tokenizer_encode_with(const struct tokenizer *tokenizer, const char *text, size_t n,
                                  struct encode_options options, struct token_list *out)
{
    struct encoder e = {.tokenizer = tokenizer, .options = options};

    *out = (struct token_list){0};
    const enum status status = encode_framed(&e, text, n);
    split_scratch_dispose(&e.scratch);
    normalize_scratch_dispose(&e.normal);
    if (status != STATUS_OK) {
        id_buffer_dispose(&e.ids);
        return status;
    }
    *out =
        (struct token_list){.ids = e.ids.ids, .count = e.ids.count, .n_dropped = e.ids.n_dropped};
    return STATUS_OK;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n,
                             bool parse_special, struct token_list *out)
{
    const struct encode_options options = {.parse_special = parse_special};

    return tokenizer_encode_with(tokenizer, text, n, options, out);
}

void token_list_dispose(struct token_list *list)
{
    memory_free(list->ids);
    *list = (struct token_list){0};
}

/* --- Decoding --- */

/* What an id contributes; nothing for unknown and skipped ones. */
static struct text_ref text_of(const struct tokenizer *tokenizer, int32_t id, bool skip_special)
{
    if (id < 0 || (size_t)id >= tokenizer->vocab_size ||
        (skip_special && tokenizer->is_special[id])) {
        return (struct text_ref){0};
    }
    return tokenizer->texts[id];
}

/* ByteLevel alone: the bytes of the tokens, one after the other. */
static enum status join_bytes(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                              bool skip_special, struct text_buffer *bytes)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        n += text_of(tokenizer, ids[i], skip_special).n;
    }
    TRY(text_buffer_reserve(bytes, n));
    for (size_t i = 0; i < count; i++) {
        const struct text_ref text = text_of(tokenizer, ids[i], skip_special);
        if (text.n > 0) {
            memcpy(bytes->bytes + bytes->count, text.text, text.n);
            bytes->count += text.n;
        }
    }
    return STATUS_OK;
}

/* Any other decoder sees the tokens one by one. */
static enum status decode_names(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                                bool skip_special, bool repair, struct text_buffer *out)
{
    struct text_ref *names = NULL;
    size_t n_names = 0;

    TRY(memory_alloc(count, sizeof(*names), &names));
    for (size_t i = 0; i < count; i++) {
        const struct text_ref name = text_of(tokenizer, ids[i], skip_special);
        if (name.text != NULL) {
            names[n_names++] = name;
        }
    }
    const enum status status = decoder_run(&tokenizer->decoder, names, n_names, repair, out);
    memory_free(names);
    return status;
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                             bool skip_special, bool repair, char **out, size_t *n_out)
{
    struct text_buffer bytes = {0};
    bool is_lossy;

    *out = NULL;
    *n_out = 0;
    if (tokenizer->decoder.is_byte_level) {
        TRY(join_bytes(tokenizer, ids, count, skip_special, &bytes));
    } else {
        TRY(decode_names(tokenizer, ids, count, skip_special, repair, &bytes));
    }
    if (!repair || text_is_utf8(bytes.bytes, bytes.count)) {
        *out = bytes.bytes; /* a NUL follows */
        *n_out = bytes.count;
        return STATUS_OK;
    }
    const enum status status = utf8_repair(bytes.bytes, bytes.count, out, n_out, &is_lossy);
    text_buffer_dispose(&bytes);
    return status;
}
