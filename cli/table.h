/* Owns what queries look like: aligned columns for people, CSV and JSON for programs. Text that a
 * model wrote is shown with its control characters visible. */
#ifndef HONE_CLI_TABLE_H
#define HONE_CLI_TABLE_H

#include "base/json.h"
#include "base/status.h"
#include "db/db.h"

#include <stdio.h>

struct table;
/* cell_max: bytes of a cell at most; what is longer is cut. Caller destroys *out. */
MUST_CHECK enum status table_create(size_t cell_max, struct table **out);
void table_destroy(struct table *table); /* NULL is legal */
/* Column names of the query; before the first row. */
MUST_CHECK enum status table_begin(struct table *table, const struct query *query);
/* The row that the query stands on. */
MUST_CHECK enum status table_add(struct table *table, const struct query *query);
size_t table_rows(const struct table *table);
/* Numbers right, texts left, two spaces between; the last column is not padded. */
void table_print(const struct table *table, FILE *stream);

/* A line of comma-separated values: quoted where needed; a text that a spreadsheet would run as a
 * formula (= + - @ first) gets a ' in front; blobs as hexadecimal. */
void csv_print_names(const struct query *query, FILE *stream);
void csv_print_row(const struct query *query, FILE *stream);
/* The row as an object; blobs as hexadecimal text. NULL when memory is short. */
struct json *row_to_json(const struct query *query);

/* Text over several lines, each indented; control characters but tab and newline made visible. */
void print_text(const char *text, size_t n, FILE *stream);

#endif
