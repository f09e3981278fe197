/* Owns chat templates that are not known by name: the part of Jinja that they use (data-and-ui.md
 * 2), interpreted with bounds. Every byte of the output is marked as the template's own or as data,
 * so that data never yields special tokens.
 *
 * There are: {{ }}, {# #}, {% if elif else for set macro break continue raw %}, whitespace control
 * (trim_blocks and lstrip_blocks are on); literals of texts, whole numbers, lists and mappings;
 * attributes, subscripts, slices, calls; or and not == != < > <= >= in + - ~ * // % and x if y else
 * z; namespace() range() raise_exception() and macros, which see only macros that end before them;
 * methods split strip lstrip rstrip startswith endswith replace upper lower capitalize items
 * keys values get; filters tojson from_json length count map trim join default first last list
 * items reverse string safe replace upper lower title capitalize; tests defined undefined none
 * string mapping sequence iterable boolean integer float number true false equalto eq in;
 * loop.index0 index first last length revindex0 revindex previtem nextitem. Anything else fails to
 * compile, with line and column. Lists and mappings are written by tojson only; letters beyond
 * ASCII have no other case; strftime_now is not defined, so that prompts do not depend on the day.
 */
#ifndef HONE_MODEL_JINJA_H
#define HONE_MODEL_JINJA_H

#include "base/json.h"
#include "base/status.h"
#include "base/text_buffer.h"

struct jinja; /* a compiled template; shared by threads */

/* Errors: UNSUPPORTED or BAD_FORMAT with line:column, NO_MEMORY. */
MUST_CHECK enum status jinja_compile(const char *text, size_t n, struct jinja **out);
void jinja_destroy(struct jinja *program);

/* A text that counts as the template's own, such as bos_token. */
struct jinja_constant {
    const char *name, *text; /* text NULL: undefined */
    size_t n;
};
struct jinja_input {
    const struct json *variables; /* an object; its texts are data */
    const struct jinja_constant *constants;
    size_t n_constants;
};
struct jinja_output {
    struct text_buffer text;
    struct text_buffer marks; /* as long: 1 for the template's own bytes, 0 for data */
};
/* Caller disposes *out. Errors: BAD_FORMAT (what the template made of these messages, with
 * line:column, or its own raise_exception), UNSUPPORTED beyond 10^6 steps or 1 MiB of output. */
MUST_CHECK enum status jinja_render(const struct jinja *program, const struct jinja_input *input,
                                    struct jinja_output *out);
/* What the filter tojson makes of a value. Caller frees *out with memory_free. Errors: NO_MEMORY,
 * UNSUPPORTED (more than 10^6 steps). */
MUST_CHECK enum status jinja_tojson(const struct json *value, char **out, size_t *n_out);
void jinja_output_dispose(struct jinja_output *output);

#endif
