/* Owns the pre-tokenizers that GGUF files name ("tokenizer.ggml.pre") instead of carrying them. */
#ifndef HONE_MODEL_GGUF_PRE_TOKENIZER_H
#define HONE_MODEL_GGUF_PRE_TOKENIZER_H

#include "base/status.h"
#include "base/text_buffer.h"
#include "model/gguf.h"

#include <stdbool.h>

struct gguf_pre_tokenizer;

/* By the file's name for it; NULL when this build knows none of that name. Static. */
const struct gguf_pre_tokenizer *gguf_pre_tokenizer_find(struct gguf_text name);
/* The names there are, for messages. Static. */
const char *gguf_pre_tokenizer_names(void);
/* Appends '"normalizer":...,"pre_tokenizer":...' of a tokenizer.json. */
MUST_CHECK enum status gguf_pre_tokenizer_put(const struct gguf_pre_tokenizer *pre,
                                              struct text_buffer *out);
/* What the family's files mean when they say nothing. */
bool gguf_pre_tokenizer_ignores_merges(const struct gguf_pre_tokenizer *pre);
bool gguf_pre_tokenizer_adds_bos(const struct gguf_pre_tokenizer *pre);

#endif
