/* Owns reading the tokenizer of a GGUF file: byte-level BPE. Tokens, kinds and merges are the
 * file's; the pre-tokenizer is one that it names (gguf_pre_tokenizer.h). */
#include "base/memory.h"
#include "model/gguf_tokenizer_internal.h"
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static void tokens_dispose(struct gguf_tokens *tokens)
{
    memory_free(tokens->texts);
    memory_free(tokens->kinds);
    memory_free(tokens->merges);
}

static enum status read_model(const struct gguf *file, struct gguf_tokens *out)
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

static enum status read_lists(const struct gguf *file, size_t vocab_size, struct gguf_tokens *out)
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

static enum status read_ids(const struct gguf *file, struct gguf_tokens *out)
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
static enum status check_unique(const struct gguf_tokens *tokens)
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

static enum status check_kinds(const struct gguf_tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++) {
        const int32_t kind = tokens->kinds[i];

        if (kind == GGUF_TOKEN_BYTE) {
            return status_set(STATUS_UNSUPPORTED,
                              "%s: token %zu stands for a byte, which byte-level BPE does not have",
                              gguf_label(tokens->file), i);
        }
        if (kind < GGUF_TOKEN_NORMAL || kind > GGUF_TOKEN_BYTE || tokens->texts[i].n == 0) {
            return status_set(STATUS_BAD_FORMAT, "%s: token %zu has type %d and %zu bytes",
                              gguf_label(tokens->file), i, kind, tokens->texts[i].n);
        }
    }
    return check_unique(tokens);
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

static enum status read_all(const struct gguf *file, size_t vocab_size, struct gguf_tokens *out)
{
    TRY(read_model(file, out));
    TRY(read_lists(file, vocab_size, out));
    TRY(read_ids(file, out));
    return check_kinds(out);
}

enum status gguf_import_tokenizer(const struct gguf *file, const struct model_config *config,
                                  const char *dir)
{
    struct gguf_tokens tokens = {.file = file};
    enum status status = read_all(file, config->vocab_size, &tokens);

    if (status == STATUS_OK) {
        status = gguf_write_tokenizer(&tokens, config, dir);
    }
    tokens_dispose(&tokens);
    return status == STATUS_OK ? read_back(file, dir) : status;
}
