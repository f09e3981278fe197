/* Owns finding a run's database. */
#include "cli/run_database.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "cli/cli.h"

#include <string.h>

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* The database of the run that a configuration describes. */
static enum status path_of_config(const char *file, char **out)
{
    const struct config_source source = {.path = file, .use = CONFIG_ANY};
    struct run_config *config = NULL;
    char *report = NULL;
    char *run_dir = NULL;

    enum status status = config_load(&source, &config, &report);
    memory_free(report); /* its first line is the status's message */
    if (status == STATUS_OK) {
        status = cli_run_dir(config, &run_dir);
    }
    config_destroy(config);
    if (status == STATUS_OK) {
        status = run_database_path(run_dir, out);
    }
    memory_free(run_dir);
    return status;
}

static enum status find_path(const char *run, char **out)
{
    if (folder_exists(run)) {
        return run_database_path(run, out);
    }
    if (ends_with(run, ".yaml") || ends_with(run, ".yml")) {
        return path_of_config(run, out);
    }
    return memory_copy_text(run, strlen(run), out);
}

enum status run_database_open(const char *run, enum db_access access, struct db **out)
{
    char *path = NULL;

    *out = NULL;
    TRY(find_path(run, &path));
    const enum status status =
        file_exists(path) ? db_open_readonly(path, access, out)
                          : status_set(STATUS_BAD_ARGUMENT, "%s: there is no database", path);
    memory_free(path);
    return status;
}
