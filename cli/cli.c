/* Owns how commands fail, load their configuration and write to the terminal. */
#include "cli/cli.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int cli_fail(const char *name, enum status status)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "hone %s: %s\n", name, status_message());
    return status_exit_code(status);
}

static enum status has_file(const char *dir, const char *name, bool *out)
{
    char *path = NULL;
    TRY(path_join(dir, name, &path));
    *out = file_exists(path);
    memory_free(path);
    return STATUS_OK;
}

/* other: a name that will do instead, or NULL. */
static enum status need_file(const char *dir, const char *name, const char *other)
{
    bool is_there = false;
    TRY(has_file(dir, name, &is_there));
    if (!is_there && other != NULL) {
        TRY(has_file(dir, other, &is_there));
    }
    return is_there ? STATUS_OK
                    : status_set(STATUS_BAD_FORMAT,
                                 "%s: no %s; a model folder has config.json, model.safetensors (or "
                                 "shards with an index) and tokenizer.json",
                                 dir, name);
}

enum status cli_check_model(const char *dir, bool needs_tokenizer)
{
    if (!folder_exists(dir)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such model folder", dir);
    }
    TRY(need_file(dir, "config.json", NULL));
    TRY(need_file(dir, "model.safetensors", "model.safetensors.index.json"));
    return needs_tokenizer ? need_file(dir, "tokenizer.json", NULL) : STATUS_OK;
}

enum status cli_sets_add(struct cli_sets *sets, const char *set)
{
    if (sets->count == CLI_SETS_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "more than %u --set options", CLI_SETS_MAX);
    }
    sets->items[sets->count++] = set;
    return STATUS_OK;
}

int cli_load_config(const char *path, const struct cli_sets *sets, enum config_use use,
                    struct run_config **out)
{
    char *report = NULL;
    const struct config_source source = {
        .path = path, .sets = sets->items, .n_sets = sets->count, .use = use};
    const enum status status = config_load(&source, out, &report);
    if (status == STATUS_OK) {
        return 0;
    }
    if (report != NULL) {
        (void)fputs(report, stderr);
    } else {
        (void)fprintf(stderr, "hone: %s\n", status_message());
    }
    memory_free(report);
    return status_exit_code(status);
}

enum status cli_run_dir(const struct run_config *config, char **out)
{
    return path_join(config->run.output_dir, config->run.name, out);
}

enum status cli_print_json(struct json *value)
{
    char *text = NULL;
    const enum status status = json_print(value, &text, NULL);
    json_destroy(value);
    if (status != STATUS_OK) {
        return status;
    }
    (void)puts(text);
    (void)fflush(stdout);
    memory_free(text);
    return STATUS_OK;
}

bool cli_is_terminal(FILE *stream)
{
    const char *const term = getenv("TERM");
    return isatty(fileno(stream)) == 1 && term != NULL && strcmp(term, "dumb") != 0;
}

bool cli_uses_color(FILE *stream)
{
    const char *const no_color = getenv("NO_COLOR");
    return cli_is_terminal(stream) && (no_color == NULL || *no_color == '\0');
}

size_t cli_columns(void)
{
    const char *const columns = getenv("COLUMNS");
    const unsigned long given = columns != NULL ? strtoul(columns, NULL, 10) : 0;
    struct winsize size = {0};
    if (given > 0 && given < 10000) {
        return given;
    }
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        return size.ws_col;
    }
    return 80;
}

const char *cli_count_text(double value, char *out, size_t room)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    size_t unit = 0;
    while (fabs(value) >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1000;
        unit++;
    }
    (void)snprintf(out, room, unit == 0 || fabs(value) >= 99.95 ? "%.0f%s" : "%.1f%s", value,
                   units[unit]);
    return out;
}

const char *cli_seconds_text(double seconds, char *out, size_t room)
{
    const double whole = isfinite(seconds) && seconds > 0 ? floor(seconds + 0.5) : 0;
    const double minutes = floor(whole / 60);
    const double hours = floor(minutes / 60);
    if (hours > 0) {
        (void)snprintf(out, room, "%.0fh%02.0fm", hours, minutes - hours * 60);
    } else if (minutes > 0) {
        (void)snprintf(out, room, "%.0fm%02.0fs", minutes, whole - minutes * 60);
    } else {
        (void)snprintf(out, room, "%.0fs", whole);
    }
    return out;
}

enum status cli_own_path(char **out)
{
    char path[4096];
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) {
        return status_set(STATUS_IO, "/proc/self/exe: cannot be read; is /proc mounted?");
    }
    return memory_copy_text(path, (size_t)n, out);
}
