/* Owns the tokenizer of a GGUF file: byte-level BPE, written as tokenizer.json. Tokens, kinds and
 * merges are the file's; the pre-tokenizer is one that it names (gguf_pre_tokenizer.h). */
#include "base/file.h"
#include "base/memory.h"
#include "model/gguf_import.h"
#include "model/gguf_pre_tokenizer.h"
#include "model/json_text.h"
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* What a token is, by the file's numbers. */
enum kind {
    KIND_NORMAL = 1,
    KIND_UNKNOWN = 2,
    KIND_CONTROL = 3, /* special: seen in templates only */
    KIND_USER = 4,    /* found whole in any text */
    KIND_UNUSED = 5,  /* fills up the embedding */
    KIND_BYTE = 6,
};

struct tokens {
    const struct gguf *file;
    const struct gguf_pre_tokenizer *pre;
    struct gguf_text *texts;
    int32_t *kinds;
    size_t count;
    struct gguf_text *merges;
    size_t n_merges;
    int32_t bos, eos, pad, unknown; /* -1: none */
    bool adds_bos, adds_eos;
};

static void tokens_dispose(struct tokens *tokens)
{
    memory_free(tokens->texts);
    memory_free(tokens->kinds);
    memory_free(tokens->merges);
}

/* --- Reading --- */

static enum status read_model(const struct gguf *file, struct tokens *out)
{
    struct gguf_text name = {"", 0}, pre = {"", 0};
    bool adds_space = false;

    TRY(gguf_require(file, "tokenizer.ggml.model"));
    TRY(gguf_read_text(file, "tokenizer.ggml.model", &name));
    if (!gguf_text_is(name, "gpt2")) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: tokenizer.ggml.model \"%.*s\" is not read by this build (only gpt2, "
                          "byte-level BPE)",
                          gguf_label(file), (int)(name.n > 64 ? 64 : name.n), name.bytes);
    }
    TRY(gguf_require(file, "tokenizer.ggml.pre"));
    TRY(gguf_read_text(file, "tokenizer.ggml.pre", &pre));
    out->pre = gguf_pre_tokenizer_find(pre);
    if (out->pre == NULL) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: tokenizer.ggml.pre \"%.*s\" is not known to this build (only %s)",
                          gguf_label(file), (int)(pre.n > 64 ? 64 : pre.n), pre.bytes,
                          gguf_pre_tokenizer_names());
    }
    TRY(gguf_read_bool(file, "tokenizer.ggml.add_space_prefix", &adds_space));
    if (adds_space) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: tokenizer.ggml.add_space_prefix is not read by this build",
                          gguf_label(file));
    }
    return STATUS_OK;
}

static enum status read_lists(const struct gguf *file, size_t vocab_size, struct tokens *out)
{
    size_t n_kinds = 0;

    TRY(gguf_require(file, "tokenizer.ggml.tokens"));
    TRY(gguf_require(file, "tokenizer.ggml.token_type"));
    TRY(gguf_require(file, "tokenizer.ggml.merges"));
    TRY(gguf_read_texts(file, "tokenizer.ggml.tokens", &out->texts, &out->count));
    TRY(gguf_read_integers(file, "tokenizer.ggml.token_type", &out->kinds, &n_kinds));
    TRY(gguf_read_texts(file, "tokenizer.ggml.merges", &out->merges, &out->n_merges));
    if (n_kinds != out->count || out->count > vocab_size) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: %zu tokens with %zu types, and an embedding of %zu rows",
                          gguf_label(file), out->count, n_kinds, vocab_size);
    }
    return STATUS_OK;
}

static enum status read_ids(const struct gguf *file, struct tokens *out)
{
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", &out->bos},
               {"tokenizer.ggml.eos_token_id", &out->eos},
               {"tokenizer.ggml.padding_token_id", &out->pad},
               {"tokenizer.ggml.unknown_token_id", &out->unknown}};

    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        *ids[i].id = -1;
        TRY(gguf_read_id(file, ids[i].key, out->count, ids[i].id));
    }
    out->adds_bos = gguf_pre_tokenizer_adds_bos(out->pre) && out->bos >= 0;
    TRY(gguf_read_bool(file, "tokenizer.ggml.add_bos_token", &out->adds_bos));
    TRY(gguf_read_bool(file, "tokenizer.ggml.add_eos_token", &out->adds_eos));
    if ((out->adds_bos && out->bos < 0) || (out->adds_eos && out->eos < 0)) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tokenizer.ggml.add_%s_token is true, and there is no such token",
                          gguf_label(file), out->adds_bos && out->bos < 0 ? "bos" : "eos");
    }
    return STATUS_OK;
}

static int compare_texts(const void *a, const void *b)
{
    const struct gguf_text *left = a, *right = b;
    const int order = memcmp(left->bytes, right->bytes, left->n < right->n ? left->n : right->n);

    return order != 0 ? order : (left->n > right->n) - (left->n < right->n);
}

/* No token twice: an object of JSON could not say it. */
static enum status check_unique(const struct tokens *tokens)
{
    struct gguf_text *sorted;
    enum status status = STATUS_OK;

    TRY(memory_alloc(tokens->count, sizeof(*sorted), &sorted));
    memcpy(sorted, tokens->texts, tokens->count * sizeof(*sorted));
    qsort(sorted, tokens->count, sizeof(*sorted), compare_texts);
    for (size_t i = 1; i < tokens->count && status == STATUS_OK; i++) {
        if (compare_texts(&sorted[i - 1], &sorted[i]) == 0) {
            status = status_set(STATUS_BAD_FORMAT, "%s: token \"%.*s\" is there twice",
                                gguf_label(tokens->file),
                                (int)(sorted[i].n > 64 ? 64 : sorted[i].n), sorted[i].bytes);
        }
    }
    memory_free(sorted);
    return status;
}

static enum status check_kinds(const struct tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++) {
        const int32_t kind = tokens->kinds[i];

        if (kind == KIND_BYTE) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: token %zu stands for a byte, which byte-level BPE does not have",
                              gguf_label(tokens->file), i);
        }
        if (kind < KIND_NORMAL || kind > KIND_BYTE || tokens->texts[i].n == 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: token %zu has type %d and %zu bytes",
                              gguf_label(tokens->file), i, kind, tokens->texts[i].n);
        }
    }
    return check_unique(tokens);
}

/* --- Writing --- */

static enum status quote(struct text_buffer *out, const struct tokens *tokens, const char *what,
                         size_t index, struct gguf_text text)
{
    const enum status status = json_text_quote(out, text.bytes, text.n);

    return status == STATUS_OK
               ? status
               : status_wrap(status, "%s: %s %zu", gguf_label(tokens->file), what, index);
}

/* Added tokens are found before anything else is done to a text; control tokens are special. */
static enum status put_added(const struct tokens *tokens, struct text_buffer *out)
{
    const char *before = "\"added_tokens\":[";

    for (size_t i = 0; i < tokens->count; i++) {
        const bool is_special =
            tokens->kinds[i] == KIND_CONTROL || tokens->kinds[i] == KIND_UNKNOWN;

        if (!is_special && tokens->kinds[i] != KIND_USER) {
            continue;
        }
        TRY(json_text_put(out, before));
        TRY(json_text_put(out, "{\"id\":"));
        TRY(json_text_number(out, (int64_t)i));
        TRY(json_text_put(out, ",\"content\":"));
        TRY(quote(out, tokens, "token", i, tokens->texts[i]));
        TRY(json_text_put(out, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                               "\"normalized\":false,\"special\":"));
        TRY(json_text_put(out, is_special ? "true}" : "false}"));
        before = ",\n";
    }
    return json_text_put(out, *before == '"' ? "\"added_tokens\":[],\n" : "],\n");
}

/* In the order of ids. Added tokens are among them, so that every reader keeps their ids. */
static enum status put_vocabulary(const struct tokens *tokens, struct text_buffer *out)
{
    const char *before = "\"vocab\":{";

    for (size_t i = 0; i < tokens->count; i++) {
        if (tokens->kinds[i] == KIND_UNUSED) {
            continue;
        }
        TRY(json_text_put(out, before));
        TRY(quote(out, tokens, "token", i, tokens->texts[i]));
        TRY(json_text_put(out, ":"));
        TRY(json_text_number(out, (int64_t)i));
        before = ",";
    }
    return json_text_put(out, *before == '"' ? "\"vocab\":{}" : "}");
}

static enum status put_merges(const struct tokens *tokens, struct text_buffer *out)
{
    TRY(json_text_put(out, ",\n\"merges\":["));
    for (size_t i = 0; i < tokens->n_merges; i++) {
        TRY(json_text_put(out, i == 0 ? "" : ","));
        TRY(quote(out, tokens, "merge", i, tokens->merges[i]));
    }
    return json_text_put(out, "]");
}

static enum status put_special(const struct tokens *tokens, int32_t id, struct text_buffer *out)
{
    TRY(json_text_put(out, "{\"SpecialToken\":{\"id\":"));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    return json_text_put(out, ",\"type_id\":0}}");
}

/* One text with what stands around it; `sequence` is the text's own part. */
static enum status put_frame(const struct tokens *tokens, const char *sequence,
                             struct text_buffer *out)
{
    if (tokens->adds_bos) {
        TRY(put_special(tokens, tokens->bos, out));
        TRY(json_text_put(out, ","));
    }
    TRY(json_text_put(out, sequence));
    if (tokens->adds_eos) {
        TRY(json_text_put(out, ","));
        TRY(put_special(tokens, tokens->eos, out));
    }
    return STATUS_OK;
}

static enum status put_special_ids(const struct tokens *tokens, int32_t id, struct text_buffer *out)
{
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    TRY(json_text_put(out, ":{\"id\":"));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    TRY(json_text_put(out, ",\"ids\":["));
    TRY(json_text_number(out, id));
    TRY(json_text_put(out, "],\"tokens\":["));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    return json_text_put(out, "]}");
}

/* What the template calls by name. */
static enum status put_special_tokens(const struct tokens *tokens, struct text_buffer *out)
{
    const bool has_both = tokens->adds_bos && tokens->adds_eos && tokens->eos != tokens->bos;

    TRY(put_special_ids(tokens, tokens->adds_bos ? tokens->bos : tokens->eos, out));
    if (has_both) {
        TRY(json_text_put(out, ","));
        TRY(put_special_ids(tokens, tokens->eos, out));
    }
    return STATUS_OK;
}

static enum status put_template(const struct tokens *tokens, struct text_buffer *out)
{
    TRY(json_text_put(out, "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["));
    TRY(put_frame(tokens, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", out));
    TRY(json_text_put(out, "],\"pair\":["));
    TRY(put_frame(tokens, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", out));
    TRY(json_text_put(out, ","));
    TRY(put_frame(tokens, "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}", out));
    TRY(json_text_put(out, "],\"special_tokens\":{"));
    TRY(put_special_tokens(tokens, out));
    return json_text_put(out, "}},\n");
}

static enum status put_post_processor(const struct tokens *tokens, struct text_buffer *out)
{
    if (tokens->adds_bos || tokens->adds_eos) {
        return put_template(tokens, out);
    }
    return json_text_put(out, "\"post_processor\":{\"type\":\"ByteLevel\","
                              "\"add_prefix_space\":true,\"trim_offsets\":false,"
                              "\"use_regex\":true},\n");
}

static enum status put_tokenizer(const struct tokens *tokens, struct text_buffer *out)
{
    TRY(json_text_put(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n"));
    TRY(put_added(tokens, out));
    TRY(gguf_pre_tokenizer_put(tokens->pre, out));
    TRY(json_text_put(out, ",\n"));
    TRY(put_post_processor(tokens, out));
    TRY(json_text_put(out, "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                           "\"trim_offsets\":true,\"use_regex\":true},\n"
                           "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                           "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                           "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":"));
    TRY(json_text_put(out,
                      gguf_pre_tokenizer_ignores_merges(tokens->pre) ? "true,\n" : "false,\n"));
    TRY(put_vocabulary(tokens, out));
    TRY(put_merges(tokens, out));
    return json_text_put(out, "}}\n");
}

static enum status put_name(const struct tokens *tokens, const char *key, int32_t id,
                            struct text_buffer *out)
{
    if (id < 0) {
        return STATUS_OK;
    }
    TRY(json_text_put(out, "  \""));
    TRY(json_text_put(out, key));
    TRY(json_text_put(out, "\": "));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    return json_text_put(out, ",\n");
}

static enum status put_flag(const char *text, bool flag, struct text_buffer *out)
{
    TRY(json_text_put(out, text));
    return json_text_put(out, flag ? "true" : "false");
}

static enum status put_names(const struct tokens *tokens, struct text_buffer *out)
{
    TRY(put_name(tokens, "bos_token", tokens->bos, out));
    TRY(put_name(tokens, "eos_token", tokens->eos, out));
    TRY(put_name(tokens, "pad_token", tokens->pad, out));
    return put_name(tokens, "unk_token", tokens->unknown, out);
}

static enum status put_chat_template(const struct tokens *tokens, struct text_buffer *out)
{
    struct gguf_text template = {NULL, 0};

    TRY(gguf_read_text(tokens->file, "tokenizer.chat_template", &template));
    if (template.bytes == NULL) {
        return STATUS_OK;
    }
    TRY(json_text_put(out, "  \"chat_template\": "));
    TRY(quote(out, tokens, "chat template", 0, template));
    return json_text_put(out, ",\n");
}

static enum status put_tokenizer_config(const struct tokens *tokens, size_t max_positions,
                                        struct text_buffer *out)
{
    TRY(put_flag("{\n  \"add_bos_token\": ", tokens->adds_bos, out));
    TRY(put_flag(",\n  \"add_eos_token\": ", tokens->adds_eos, out));
    TRY(put_flag(",\n  \"add_prefix_space\": ", false, out));
    TRY(json_text_put(out, ",\n"));
    TRY(put_names(tokens, out));
    TRY(put_chat_template(tokens, out));
    TRY(json_text_put(out, "  \"clean_up_tokenization_spaces\": false,\n"
                           "  \"model_max_length\": "));
    TRY(json_text_number(out, (int64_t)max_positions));
    return json_text_put(out, ",\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

/* The ids that end a generation, as config.json has them. */
static enum status put_generation(const struct model_config *config, struct text_buffer *out)
{
    TRY(json_text_put(out, "{\n  \"_from_model_config\": true"));
    if (config->bos_id >= 0) {
        TRY(json_text_put(out, ",\n  \"bos_token_id\": "));
        TRY(json_text_number(out, config->bos_id));
    }
    if (config->pad_id >= 0) {
        TRY(json_text_put(out, ",\n  \"pad_token_id\": "));
        TRY(json_text_number(out, config->pad_id));
    }
    for (size_t i = 0; i < config->n_eos_ids; i++) {
        TRY(json_text_put(out, i == 0 ? ",\n  \"eos_token_id\": [" : ", "));
        TRY(json_text_number(out, config->eos_ids[i]));
    }
    return json_text_put(out, config->n_eos_ids > 0 ? "]\n}\n" : "\n}\n");
}

static enum status write(const char *dir, const char *name, const struct text_buffer *text)
{
    char *path;

    TRY(path_join(dir, name, &path));
    const enum status status = file_write_atomic(path, text->bytes, text->count);

    memory_free(path);
    return status;
}

static enum status write_all(const struct tokens *tokens, const struct model_config *config,
                             const char *dir, struct text_buffer *text)
{
    TRY(put_tokenizer(tokens, text));
    TRY(write(dir, "tokenizer.json", text));
    text->count = 0;
    TRY(put_tokenizer_config(tokens, config->max_positions, text));
    TRY(write(dir, "tokenizer_config.json", text));
    text->count = 0;
    TRY(put_generation(config, text));
    return write(dir, "generation_config.json", text);
}

/* What was written is what the tokenizer reads, or the file is not converted. */
static enum status read_back(const struct gguf *file, const char *dir)
{
    struct tokenizer *tokenizer = NULL;
    const enum status status = tokenizer_load(dir, &tokenizer);

    tokenizer_destroy(tokenizer);
    return status == STATUS_OK ? status
                               : status_wrap(status, "%s: its tokenizer", gguf_label(file));
}

static enum status read_all(const struct gguf *file, size_t vocab_size, struct tokens *out)
{
    TRY(read_model(file, out));
    TRY(read_lists(file, vocab_size, out));
    TRY(read_ids(file, out));
    return check_kinds(out);
}

enum status gguf_import_tokenizer(const struct gguf *file, const struct model_config *config,
                                  const char *dir)
{
    struct tokens tokens = {.file = file};
    struct text_buffer text = {.count = 0};
    enum status status = read_all(file, config->vocab_size, &tokens);

    if (status == STATUS_OK) {
        status = write_all(&tokens, config, dir, &text);
    }
    text_buffer_dispose(&text);
    tokens_dispose(&tokens);
    return status == STATUS_OK ? read_back(file, dir) : status;
}
