/* Owns reading DIR/tokenizer_config.json, for the tokenizer (BOS, EOS) and for chat templates. */
#ifndef HONE_MODEL_TOKENIZER_CONFIG_H
#define HONE_MODEL_TOKENIZER_CONFIG_H

#include "base/json.h"
#include "base/status.h"

/* *out is NULL when the folder has no such file, else the caller destroys it. Errors: IO,
 * BAD_FORMAT with path:line:column. */
MUST_CHECK enum status tokenizer_config_load(const char *dir, struct json **out);

#endif
