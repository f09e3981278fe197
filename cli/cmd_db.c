/* `hone db query RUN SQL` and `hone db check RUN`: ask a run's database, live or finished. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/run_database.h"
#include "cli/table.h"
#include "db/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_DEFAULT 10000u
#define TIMEOUT_DEFAULT_S 2.0
#define CELL_MAX 100u

enum { OPTION_CSV = 256, OPTION_JSON, OPTION_LIMIT, OPTION_TIMEOUT };

static const struct cli_option options[] = {
    {OPTION_CSV, "csv", NULL, "comma-separated values; texts that look like formulas get a '"},
    {OPTION_JSON, "json", NULL, "one object a row"},
    {OPTION_LIMIT, "limit", "N", "rows at most (10000); 0: all"},
    {OPTION_TIMEOUT, "timeout", "SECONDS", "time inside the database at most (2); 0: no limit"},
};
static const struct cli_command command = {
    .name = "db",
    .arguments = "query RUN SQL | check RUN",
    .summary = "Asks or checks the database of a run: a folder, a .db file or a configuration.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 2,
    .n_arguments_max = 3,
    .examples =
        "  hone db query runs/rl \"SELECT step, reward, len_mean FROM v_steps\"\n"
        "  hone db query runs/rl \"SELECT * FROM v_samples WHERE step = 3\" --csv > step3.csv\n"
        "  hone db query runs/rl \"SELECT pos, id, logp FROM tokens(17)\"\n"
        "  hone db check runs/rl\n",
};

struct request {
    bool wants_csv, wants_json;
    size_t rows_max; /* 0: all */
    double timeout_s;
};

static enum status print_row(const struct request *request, const struct query *query)
{
    if (request->wants_csv) {
        csv_print_row(query, stdout);
        return STATUS_OK;
    }
    return cli_print_json(row_to_json(query));
}

/* Rows straight to stdout. */
static enum status stream_rows(const struct request *request, struct query *query, bool *has_more)
{
    size_t n_rows = 0;

    if (request->wants_csv) {
        csv_print_names(query, stdout);
    }
    enum status status = query_next(query, has_more);
    while (status == STATUS_OK && *has_more &&
           (request->rows_max == 0 || n_rows < request->rows_max)) {
        status = print_row(request, query);
        n_rows++;
        if (status == STATUS_OK) {
            status = query_next(query, has_more);
        }
    }
    return status;
}

static enum status collect_rows(const struct request *request, struct query *query,
                                struct table *table, bool *has_more)
{
    TRY(table_begin(table, query));
    for (;;) {
        TRY(query_next(query, has_more));
        if (!*has_more || (request->rows_max > 0 && table_rows(table) == request->rows_max)) {
            return STATUS_OK;
        }
        TRY(table_add(table, query));
    }
}

static enum status show_table(const struct request *request, struct query *query, bool *has_more)
{
    struct table *table;

    TRY(table_create(CELL_MAX, &table));
    const enum status status = collect_rows(request, query, table, has_more);
    if (status == STATUS_OK) {
        table_print(table, stdout);
    }
    table_destroy(table);
    return status;
}

static enum status answer(const struct request *request, struct db *db, const char *sql)
{
    struct query *query;
    bool has_more = false;

    db_set_timeout(db, (int64_t)(request->timeout_s * 1e6));
    TRY(query_open(db, sql, &query));
    const enum status status = request->wants_csv || request->wants_json
                                   ? stream_rows(request, query, &has_more)
                                   : show_table(request, query, &has_more);
    if (status == STATUS_OK && has_more) {
        (void)fflush(stdout);
        (void)fprintf(stderr, "hone db: stopped after %zu rows (--limit)\n", request->rows_max);
    }
    query_close(query);
    return status;
}

static int run_query(const struct request *request, const char *run, const char *sql)
{
    struct db *db;

    enum status status = run_database_open(run, DB_RESTRICTED, &db);
    if (status == STATUS_OK) {
        status = answer(request, db, sql);
    }
    const int code = status == STATUS_OK ? 0 : cli_fail("db", status);
    db_close(db);
    return code;
}

struct check_output {
    bool wants_json;
};

static void tell_violation(void *context, const char *invariant, const char *what)
{
    const struct check_output *const output = context;

    if (!output->wants_json) {
        (void)fprintf(stdout, "violated: %s: %s\n", invariant, what);
        return;
    }
    struct json *const object = json_object_create();
    enum status status =
        json_put(object, "invariant", json_from_text(invariant, strlen(invariant)));
    if (status == STATUS_OK) {
        status = json_put(object, "what", json_from_text(what, strlen(what)));
    }
    if (status != STATUS_OK || cli_print_json(json_retain(object)) != STATUS_OK) {
        (void)fprintf(stderr, "hone db: %s\n", status_message());
    }
    json_destroy(object);
}

static int run_check(const struct request *request, const char *run)
{
    struct check_output output = {.wants_json = request->wants_json};
    struct db *db;
    size_t n_violations = 0;

    enum status status = run_database_open(run, DB_TRUSTED, &db);
    if (status == STATUS_OK) {
        status = db_check(db, tell_violation, &output, &n_violations);
    }
    const int code = status == STATUS_OK ? (n_violations == 0 ? 0 : 1) : cli_fail("db", status);
    if (code == 0 && !request->wants_json) {
        (void)fprintf(stdout, "%s: all %zu invariants hold\n", db_path(db), db_check_count());
    }
    db_close(db);
    return code;
}

static bool parse_number(const char *text, double *out)
{
    char *end = NULL;

    errno = 0;
    *out = strtod(text, &end);
    return errno == 0 && end != text && *end == '\0' && *out >= 0.0 && *out < 1e9;
}

static int parse(int argc, char **argv, struct cli_parse *words, struct request *request)
{
    int option;
    double number = 0.0;

    cli_parse_begin(words, &command, argc, argv);
    while ((option = cli_parse_next(words)) > 0) {
        const bool has_number = option == OPTION_LIMIT || option == OPTION_TIMEOUT;
        if (has_number && !parse_number(words->value, &number)) {
            return cli_usage_error(&command, "%s is no number of rows or seconds", words->value);
        }
        request->wants_csv = request->wants_csv || option == OPTION_CSV;
        request->wants_json = request->wants_json || option == OPTION_JSON;
        request->rows_max = option == OPTION_LIMIT ? (size_t)number : request->rows_max;
        request->timeout_s = option == OPTION_TIMEOUT ? number : request->timeout_s;
    }
    return option < 0 ? words->exit_code : -1;
}

int cmd_db(int argc, char **argv)
{
    struct request request = {.rows_max = ROWS_DEFAULT, .timeout_s = TIMEOUT_DEFAULT_S};
    struct cli_parse words;

    const int code = parse(argc, argv, &words, &request);
    if (code >= 0) {
        return code;
    }
    char **const arguments = words.arguments;
    if (strcmp(arguments[0], "query") == 0 && words.n_arguments == 3) {
        return run_query(&request, arguments[1], arguments[2]);
    }
    if (strcmp(arguments[0], "check") == 0 && words.n_arguments == 2) {
        return run_check(&request, arguments[1]);
    }
    return cli_usage_error(&command, "want: query RUN SQL, or check RUN");
}
