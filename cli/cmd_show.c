/* `hone show step|group|sample RUN ID`: what happened, from the database alone. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/run_database.h"
#include "cli/table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CELL_MAX 72u

enum { OPTION_JSON = 256, OPTION_IDS };

static const struct cli_option options[] = {
    {OPTION_JSON, "json", NULL, "one object with everything"},
    {OPTION_IDS, "ids", NULL, "sample: each token id with its log-probability"},
};
static const struct cli_command command = {
    .name = "show",
    .arguments = "step|group|sample RUN ID",
    .summary = "Shows a step, a group or a sample of a run.",
    .options = options,
    .n_options = sizeof(options) / sizeof(options[0]),
    .n_arguments_min = 3,
    .n_arguments_max = 3,
    .examples = "  hone show step runs/rl 12\n"
                "  hone show group runs/rl 190\n"
                "  hone show sample runs/rl 3041 --ids\n",
};

/* One part of what is shown: a statement whose ?1 is the id. */
enum part_form {
    FORM_FIELDS, /* the first row as "name value" lines; its absence means the id is unknown */
    FORM_TEXTS,  /* each column of the first row as a titled block of text */
    FORM_TABLE,
};
struct part {
    const char *name; /* key in JSON, title otherwise */
    enum part_form form;
    bool only_with_ids;
    int64_t since; /* version of the schema; in an older file there is nothing to show */
    const char *sql;
};

static const struct part step_parts[] = {
    {"step", FORM_FIELDS, false, 1,
     "SELECT st.step, st.status, v.groups, v.samples, v.reward, v.reward_std,"
     " v.frac_reward_zero_std, v.len_mean, v.clipped_ratio, v.masked, st.loss, st.grad_norm, st.kl,"
     " st.entropy, st.clip_frac, v.mismatch_kl_max, st.lr, st.n_tok, st.version_in, st.version_out,"
     " lower(hex(st.weight_digest_out)) AS weight_digest, lower(hex(st.manifest_sha)) AS manifest,"
     " (SELECT count(*) FROM batch_items b WHERE b.run_id = st.run_id AND b.step = st.step)"
     " AS trained_samples, st.t_generate_us, st.t_reward_us, st.t_train_us, st.t_sync_us,"
     " st.t_wait_us FROM steps st JOIN runs r ON r.run_id = st.run_id"
     " LEFT JOIN v_steps v ON v.run = r.name AND v.step = st.step WHERE st.step = ?1"},
    {"sampling", FORM_TABLE, false, 2,
     "SELECT workers, tokens, drafts, acceptance, tokens_per_turn, preempted, resumed_tokens,"
     " prompt_tokens, prefix_tokens FROM v_sampling WHERE step = ?1"},
    {"memory", FORM_TABLE, false, 1,
     "SELECT substr(name, 8, length(name) - 13) AS process, CAST(round(value / 1048576) AS INTEGER)"
     " AS mib FROM v_metrics WHERE step = ?1 AND name LIKE 'memory/%' ORDER BY name"},
    {"groups", FORM_TABLE, false, 1,
     "SELECT group_id, status, n, n_scored, reward_mean, reward_std, reward_min, reward_max,"
     " len_mean, truncated, masked, duplicates, prompt FROM v_groups WHERE step = ?1 AND"
     " kind = 'train' ORDER BY group_id"},
};
static const struct part group_parts[] = {
    {"group", FORM_FIELDS, false, 1,
     "SELECT group_id, step, kind, status, data_source, n, n_scored, reward_mean, reward_std,"
     " len_mean, truncated, masked, duplicates FROM v_groups WHERE group_id = ?1"},
    {"texts", FORM_TEXTS, false, 1,
     "SELECT p.text AS prompt, p.answer FROM groups g JOIN prompts p ON p.prompt_id = g.prompt_id"
     " WHERE g.group_id = ?1"},
    {"samples", FORM_TABLE, false, 1,
     "SELECT sample_id, idx, attempt, status, finish, n_tok, reward, advantage, completion"
     " FROM v_samples WHERE group_id = ?1 ORDER BY idx, attempt"},
};
static const struct part sample_parts[] = {
    {"sample", FORM_FIELDS, false, 1,
     "SELECT v.sample_id, v.group_id, v.idx, v.attempt, v.step, v.kind, v.status, v.finish,"
     " v.data_source, v.n_prompt, v.n_tok, v.reward, v.advantage, v.trained_step, v.batch_pos,"
     " v.version_first, v.version_last, printf('0x%016x', s.seed) AS seed, w.name AS worker,"
     " v.gen_us, v.kl, v.entropy, v.clip_frac, v.mismatch_kl, v.ratio_max FROM v_samples v"
     " JOIN samples s ON s.sample_id = v.sample_id"
     " LEFT JOIN workers w ON w.worker_id = s.worker_id WHERE v.sample_id = ?1"},
    {"texts", FORM_TEXTS, false, 1,
     "SELECT prompt, answer, completion FROM v_samples WHERE sample_id = ?1"},
    {"scores", FORM_TABLE, false, 1,
     "SELECT component, weight, status, value, latency_ms, tries, detail FROM v_scores"
     " WHERE sample_id = ?1"},
    {"tokens", FORM_TABLE, true, 1,
     "SELECT pos, id, is_prompt, logp, advantage, version FROM tokens(?1)"},
};

struct subject {
    const char *name;
    const struct part *parts;
    size_t n_parts;
};
#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
static const struct subject subjects[] = {
    {"step", step_parts, COUNT(step_parts)},
    {"group", group_parts, COUNT(group_parts)},
    {"sample", sample_parts, COUNT(sample_parts)},
};

static void print_field(const struct query *query, size_t i)
{
    size_t n;

    switch (query_kind(query, i)) {
    case DB_INT:
        (void)fprintf(stdout, "%-20s %" PRId64 "\n", query_name(query, i), query_int(query, i));
        break;
    case DB_REAL:
        (void)fprintf(stdout, "%-20s %.6g\n", query_name(query, i), query_real(query, i));
        break;
    case DB_TEXT: {
        const char *const text = query_text(query, i, &n);
        (void)fprintf(stdout, "%-19s", query_name(query, i)); /* print_text indents by two */
        (void)fputs(n == 0 ? "\n" : "", stdout);
        if (n > 0) {
            print_text(text, n, stdout);
        }
        break;
    }
    case DB_NULL:
    case DB_BLOB:
        break; /* what is not known is left out */
    }
}

static void print_fields(const struct query *query)
{
    for (size_t i = 0; i < query_columns(query); i++) {
        print_field(query, i);
    }
}

static void print_texts(const struct query *query)
{
    size_t n;

    for (size_t i = 0; i < query_columns(query); i++) {
        if (query_kind(query, i) == DB_NULL) {
            continue;
        }
        const char *const text = query_text(query, i, &n);
        (void)fprintf(stdout, "\n%s\n", query_name(query, i));
        print_text(text, n, stdout);
    }
}

static enum status fill_table(struct query *query, bool has_row, struct table *table)
{
    enum status status = table_begin(table, query);

    while (status == STATUS_OK && has_row) {
        status = table_add(table, query);
        if (status == STATUS_OK) {
            status = query_next(query, &has_row);
        }
    }
    return status;
}

static enum status print_table(const char *title, struct query *query, bool has_row)
{
    struct table *table;

    TRY(table_create(CELL_MAX, &table));
    const enum status status = fill_table(query, has_row, table);
    if (status == STATUS_OK) {
        (void)fprintf(stdout, "\n%s: %zu\n", title, table_rows(table));
        table_print(table, stdout);
    }
    table_destroy(table);
    return status;
}

static enum status rows_to_json(struct query *query, bool has_row, struct json *list)
{
    while (has_row) {
        const enum status status = json_append(list, row_to_json(query));
        if (status != STATUS_OK) {
            return status;
        }
        TRY(query_next(query, &has_row));
    }
    return STATUS_OK;
}

static enum status part_to_json(const struct part *part, struct query *query, bool has_row,
                                struct json *out)
{
    if (part->form != FORM_TABLE) {
        return json_put(out, part->name, row_to_json(query));
    }
    struct json *const list = json_array_create();
    const enum status status = rows_to_json(query, has_row, list);
    if (status != STATUS_OK) {
        json_destroy(list);
        return status;
    }
    return json_put(out, part->name, list);
}

static enum status print_part(const struct part *part, struct query *query, bool has_row)
{
    switch (part->form) {
    case FORM_FIELDS:
        print_fields(query);
        break;
    case FORM_TEXTS:
        print_texts(query);
        break;
    case FORM_TABLE:
        return print_table(part->name, query, has_row);
    }
    return STATUS_OK;
}

/* out: NULL prints. */
static enum status show_part(struct db *db, const struct part *part, int64_t id, struct json *out)
{
    struct query *query;
    bool has_row = false;

    TRY(query_open(db, part->sql, &query));
    enum status status = query_bind_int(query, 1, id);
    if (status == STATUS_OK) {
        status = query_next(query, &has_row);
    }
    if (status == STATUS_OK && !has_row && part->form != FORM_TABLE) {
        status = status_set(STATUS_BAD_ARGUMENT, "%s: there is no %s %" PRId64, db_path(db),
                            part->name, id);
    }
    if (status == STATUS_OK) {
        status = out != NULL ? part_to_json(part, query, has_row, out)
                             : print_part(part, query, has_row);
    }
    query_close(query);
    return status;
}

struct request {
    bool wants_json, wants_ids;
};

static enum status show(struct db *db, const struct subject *subject, int64_t id,
                        const struct request *request)
{
    struct json *const out = request->wants_json ? json_object_create() : NULL;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < subject->n_parts && status == STATUS_OK; i++) {
        if ((request->wants_ids || !subject->parts[i].only_with_ids) &&
            subject->parts[i].since <= db_schema_version(db)) {
            status = show_part(db, &subject->parts[i], id, out);
        }
    }
    if (status == STATUS_OK && out != NULL) {
        return cli_print_json(out);
    }
    json_destroy(out);
    return status;
}

static bool parse_id(const char *text, int64_t *out)
{
    char *end = NULL;

    *out = strtoll(text, &end, 10);
    return end != text && *end == '\0' && *out >= 0;
}

static const struct subject *find_subject(const char *name)
{
    for (size_t i = 0; i < COUNT(subjects); i++) {
        if (strcmp(subjects[i].name, name) == 0) {
            return &subjects[i];
        }
    }
    return NULL;
}

static int run_show(const struct cli_parse *words, const struct request *request)
{
    const struct subject *const subject = find_subject(words->arguments[0]);
    const char *run = words->arguments[1];
    struct db *db = NULL;
    int64_t id;

    if (subject == NULL) {
        return cli_usage_error(&command, "%s: want step, group or sample", words->arguments[0]);
    }
    if (!parse_id(words->arguments[2], &id)) {
        run = words->arguments[2]; /* show step 12 RUN is understood too */
        if (!parse_id(words->arguments[1], &id)) {
            return cli_usage_error(&command, "%s is no number of a %s", words->arguments[2],
                                   subject->name);
        }
    }
    enum status status = run_database_open(run, DB_TRUSTED, &db);
    if (status == STATUS_OK) {
        status = show(db, subject, id, request);
    }
    const int code = status == STATUS_OK ? 0 : cli_fail("show", status);
    db_close(db);
    return code;
}

int cmd_show(int argc, char **argv)
{
    struct request request = {0};
    struct cli_parse words;
    int option;

    cli_parse_begin(&words, &command, argc, argv);
    while ((option = cli_parse_next(&words)) > 0) {
        request.wants_json = request.wants_json || option == OPTION_JSON;
        request.wants_ids = request.wants_ids || option == OPTION_IDS;
    }
    return option < 0 ? words.exit_code : run_show(&words, &request);
}
