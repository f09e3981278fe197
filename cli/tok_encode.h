/* Owns `hone tok encode`: token ids of texts, and what a vocabulary has no token for. */
#ifndef HONE_CLI_TOK_ENCODE_H
#define HONE_CLI_TOK_ENCODE_H

#include "base/json.h"
#include "base/status.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

/* Characters that were left out, and the texts that had them, so far. */
struct tok_losses {
    size_t n_texts; /* all that were looked at: what messages call them by */
    size_t n_lossy, n_characters;
};

struct tok_encoding {
    const struct tokenizer *tokenizer;
    struct encode_options options;
    bool wants_json;
};

/* Prints the ids of one text: a line of numbers, or an object with ids and, if any characters had
 * no token, dropped. These are told on stderr too. */
MUST_CHECK enum status tok_encode_text(const struct tok_encoding *encoding, const char *text,
                                       size_t n, struct tok_losses *losses);
/* The same of one row {"text": ...}. */
MUST_CHECK enum status tok_encode_row(const struct tok_encoding *encoding, const struct json *row,
                                      struct tok_losses *losses);
/* Counts a text of which n_dropped characters had no token, and says which on stderr: `command`
 * begins the line. After TOK_TOLD_MAX such texts only tok_tell_total says how many. */
#define TOK_TOLD_MAX ((size_t)8)
MUST_CHECK enum status tok_tell_losses(const struct tokenizer *tokenizer, const char *command,
                                       const char *text, size_t n, size_t n_dropped,
                                       struct tok_losses *losses);
/* After the last text: a line for those that were not told. */
void tok_tell_total(const char *command, const struct tok_losses *losses);

#endif
