/* Owns the demo's vocabulary of 64 single tokens, written as an ordinary Hugging Face tokenizer, so
 * that the demo's model folder loads elsewhere too. */
#ifndef HONE_MODEL_DEMO_TOKENIZER_H
#define HONE_MODEL_DEMO_TOKENIZER_H

#include "base/status.h"

/* <bos> 0, <eos> 1, <pad> 2, digits 3-12, "=" 13, <think> 14, </think> 15, <answer> 16, </answer>
 * 17, then punctuation, space, line break and lower-case letters. */
#define DEMO_VOCAB_SIZE 64u

/* Writes DIR/tokenizer.json and DIR/tokenizer_config.json (add_bos_token true); dir exists. Errors:
 * IO, NO_SPACE, NO_MEMORY. */
MUST_CHECK enum status demo_tokenizer_write(const char *dir);

#endif
