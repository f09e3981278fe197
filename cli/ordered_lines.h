/* Owns lines that are ready in any order and written in theirs: what is written is the same however
 * the work was cut. */
#ifndef HONE_CLI_ORDERED_LINES_H
#define HONE_CLI_ORDERED_LINES_H

#include "base/status.h"

#include <stddef.h>
#include <stdio.h>

struct ordered_lines;

/* For lines 0 .. n_lines - 1, to stream (borrowed). */
MUST_CHECK enum status ordered_lines_create(size_t n_lines, FILE *stream,
                                            struct ordered_lines **out);
void ordered_lines_destroy(struct ordered_lines *lines); /* NULL is legal */
/* Takes text (without the line break, from memory.h), also on failure, and writes every line that
 * has none missing before it. A line may be many lines of text, and comes once. Errors: IO,
 * NO_SPACE. */
MUST_CHECK enum status ordered_lines_add(struct ordered_lines *lines, size_t index, char *text);
/* Writes what is ready behind missing lines: after an interruption. Errors: IO, NO_SPACE. */
MUST_CHECK enum status ordered_lines_flush(struct ordered_lines *lines);

#endif
