/* Owns what reading and writing the tokenizer of a GGUF file share. */
#ifndef HONE_MODEL_GGUF_TOKENIZER_INTERNAL_H
#define HONE_MODEL_GGUF_TOKENIZER_INTERNAL_H

#include "base/status.h"
#include "model/gguf_import.h"
#include "model/gguf_pre_tokenizer.h"

/* What a token is, by the file's numbers. */
enum gguf_token_kind {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN = 2,
    GGUF_TOKEN_CONTROL = 3, /* special: seen in templates only */
    GGUF_TOKEN_USER = 4,    /* found whole in any text */
    GGUF_TOKEN_UNUSED = 5,  /* fills up the embedding */
    GGUF_TOKEN_BYTE = 6,
};

/* The tokens of a file, borrowed from it but for the lists. */
struct gguf_tokens {
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

/* Writes tokenizer.json, tokenizer_config.json and generation_config.json. Errors: IO, NO_MEMORY,
 * BAD_FORMAT. */
MUST_CHECK enum status gguf_write_tokenizer(const struct gguf_tokens *tokens,
                                            const struct model_config *config, const char *dir);

#endif
