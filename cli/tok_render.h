/* Owns `hone tok render`: conversations as the model sees them. */
#ifndef HONE_CLI_TOK_RENDER_H
#define HONE_CLI_TOK_RENDER_H

#include "base/json.h"
#include "base/status.h"
#include "cli/tok_encode.h"
#include "model/chat_template.h"

#include <stdbool.h>

/* Prints one row {"messages": [...]} or {"prompt": ...} rendered: an object of text and ids, or the
 * text. The row may have tools, add_generation_prompt (then every turn ends and nothing is a
 * prefill) and whatever else the template asks for. Characters without a token are told as
 * tok_encode.h says. Errors: as chat_encode_with. */
MUST_CHECK enum status tok_render_row(const struct tokenizer *tokenizer, enum chat_template chat,
                                      const struct json *row, bool wants_json,
                                      struct tok_losses *losses);
/* The same of one question of the user's. */
MUST_CHECK enum status tok_render_text(const struct tokenizer *tokenizer, enum chat_template chat,
                                       const char *text, bool wants_json,
                                       struct tok_losses *losses);

#endif
