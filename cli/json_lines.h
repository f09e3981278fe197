/* Owns JSON lines as commands read them: from a file or standard input, each mistake with its
 * place.
 */
#ifndef HONE_CLI_JSON_LINES_H
#define HONE_CLI_JSON_LINES_H

#include "base/json.h"
#include "base/status.h"

#include <stddef.h>

/* The whole of a file, or of standard input when file is "-". Caller frees *text, which has a NUL
 * behind its n bytes, with memory_free. Errors: BAD_ARGUMENT (no such file), IO, BAD_FORMAT (more
 * than 4 GiB), CANCELLED. */
MUST_CHECK enum status json_lines_read(const char *file, char **text, size_t *n);
/* What messages call the file. */
const char *json_lines_name(const char *file);

/* Called for each row; row is borrowed. */
typedef enum status json_line_action(void *context, const struct json *row);
/* Parses every line of text that is not blank, in order, and stops at the first that fails. A byte
 * order mark is skipped. Errors: what act gives, with "name:line: " before it; BAD_FORMAT with
 * name:line:column. *n_rows (may be NULL) counts the rows. */
MUST_CHECK enum status json_lines_each(const char *name, const char *text, size_t n,
                                       json_line_action *act, void *context, size_t *n_rows);

#endif
