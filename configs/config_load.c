/* Owns loading: defaults, then the file, then HONE_SET_* of the environment, then `--set`; later
 * wins. Every mistake is collected before anything is refused. */
#include "base/file.h"
#include "base/memory.h"
#include "configs/config_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENVIRONMENT_PREFIX "HONE_SET_"

/* What a load works with; ends with it. */
struct loading {
    struct run_config *config;
    struct config_report *report;
    struct arena *scratch; /* the trees */
    bool is_unread;        /* the file has no sense as YAML: nothing is known to be missing */
};

const char *config_path_prefix(const struct run_config *config)
{
    return strcmp(config->folder, ".") == 0 ? "" : config->folder;
}

static enum status load_file(struct loading *loading, const char *path)
{
    char *text = NULL;
    size_t n = 0;
    struct config_node *root = NULL;
    enum status status = file_read(path, CONFIG_BYTES_MAX, &text, &n);
    if (status == STATUS_IO || status == STATUS_BAD_FORMAT) {
        return status_set(STATUS_BAD_CONFIG, "%.600s", status_message());
    }
    if (status == STATUS_OK) {
        status = config_yaml_parse(text, n, path, loading->report, loading->scratch, &root);
        loading->is_unread = loading->report->count > 0;
    }
    if (status == STATUS_OK && root != NULL) {
        struct binder binder = {.config = loading->config,
                                .report = loading->report,
                                .where = path,
                                .folder = config_path_prefix(loading->config),
                                .has_lines = true};
        status = bind_document(&binder, root);
    }
    memory_free(text);
    return status;
}

/* One "a.b" = YAML text from outside the file; paths are as the user's working directory has them.
 */
static enum status load_override(struct loading *loading, const char *key, const char *value,
                                 const char *where, const char *origin)
{
    struct config_node *node = NULL;
    struct config_node empty = {.kind = NODE_SCALAR, .text = ""};
    const size_t n_errors = loading->report->count;
    TRY(config_yaml_parse(value, strlen(value), where, loading->report, loading->scratch, &node));
    if (loading->report->count > n_errors) {
        return STATUS_OK;
    }
    struct binder binder = {.config = loading->config,
                            .report = loading->report,
                            .where = where,
                            .origin = origin,
                            .folder = ""};
    return bind_dotted(&binder, key, node != NULL ? node : &empty);
}

static enum status load_set(struct loading *loading, const char *set)
{
    char key[CONFIG_TEXT_MAX];
    const char *const equals = strchr(set, '=');
    const size_t n_key = equals != NULL ? (size_t)(equals - set) : 0;
    if (n_key == 0 || n_key >= sizeof key) {
        report_add(loading->report, "--set", 0, 0, "%.100s: want KEY=VALUE", set);
        return STATUS_OK;
    }
    memcpy(key, set, n_key);
    key[n_key] = '\0';
    return load_override(loading, key, equals + 1, "--set", "--set");
}

static char to_lower(char letter)
{
    static const char small[] = "abcdefghijklmnopqrstuvwxyz";
    if (letter < 'A' || letter > 'Z') {
        return letter;
    }
    return small[letter - 'A'];
}

/* HONE_SET_GRPO__EPSILON=0.3 is --set grpo.epsilon=0.3 */
static enum status load_variable(struct loading *loading, const char *variable)
{
    char key[CONFIG_TEXT_MAX];
    char where[CONFIG_TEXT_MAX];
    const char *const equals = strchr(variable, '=');
    const char *const from = variable + sizeof ENVIRONMENT_PREFIX - 1;
    size_t n = 0;
    if (equals == NULL || (size_t)(equals - from) >= sizeof key) {
        return STATUS_OK;
    }
    for (const char *at = from; at < equals; at++) {
        const bool is_dot = at[0] == '_' && at + 1 < equals && at[1] == '_';
        key[n] = to_lower(*at);
        if (is_dot) {
            key[n] = '.';
            at++;
        }
        n++;
    }
    key[n] = '\0';
    (void)snprintf(where, sizeof where, "%.*s", (int)(equals - variable), variable);
    return load_override(loading, key, equals + 1, where, "env");
}

/* The variable that follows `after` in bytewise order, NULL at the end: an order that does not
 * depend on the shell. */
static const char *next_variable(const char *after)
{
    const char *next = NULL;
    for (size_t i = 0; environ[i] != NULL; i++) {
        const char *const variable = environ[i];
        if (strncmp(variable, ENVIRONMENT_PREFIX, sizeof ENVIRONMENT_PREFIX - 1) != 0) {
            continue;
        }
        const bool is_later = after == NULL || strcmp(variable, after) > 0;
        if (is_later && (next == NULL || strcmp(variable, next) < 0)) {
            next = variable;
        }
    }
    return next;
}

static enum status load_layers(struct loading *loading, const struct config_source *source)
{
    TRY(bind_defaults(loading->config));
    if (source->path != NULL) {
        TRY(load_file(loading, source->path));
    }
    for (const char *variable = next_variable(NULL); variable != NULL;
         variable = next_variable(variable)) {
        TRY(load_variable(loading, variable));
    }
    for (size_t i = 0; i < source->n_sets; i++) {
        TRY(load_set(loading, source->sets[i]));
    }
    return STATUS_OK;
}

/* Where the configuration is: its folder and, until run.name says otherwise, its name. */
static enum status set_place(struct run_config *config, const char *path)
{
    char *folder = NULL;
    if (path == NULL) {
        return arena_copy_text(config->arena, ".", 1, &config->folder);
    }
    TRY(path_parent(path, &folder));
    const enum status status =
        arena_copy_text(config->arena, folder, strlen(folder), &config->folder);
    memory_free(folder);
    return status;
}

static enum status loading_begin(struct loading *loading)
{
    TRY(arena_create(16384, &loading->config->arena));
    TRY(arena_create(16384, &loading->scratch));
    return memory_alloc(1, sizeof *loading->report, &loading->report);
}

static enum status load_all(struct loading *loading, const struct config_source *source)
{
    struct run_config *const config = loading->config;
    TRY(loading_begin(loading));
    TRY(set_place(config, source->path));
    TRY(load_layers(loading, source));
    const char *const where = source->path != NULL ? source->path : "configuration";
    if (!loading->is_unread) {
        TRY(config_check(config, source->use, where, loading->report));
    }
    if (loading->report->count > 0) {
        return status_set(STATUS_BAD_CONFIG, "%s", loading->report->lines[0]);
    }
    return STATUS_OK;
}

enum status config_load(const struct config_source *source, struct run_config **out, char **report)
{
    struct loading loading = {0};
    *out = NULL;
    *report = NULL;
    TRY(memory_alloc(1, sizeof *loading.config, &loading.config));
    enum status status = load_all(&loading, source);
    if (status == STATUS_BAD_CONFIG && loading.report != NULL) {
        char first[1024];
        (void)snprintf(first, sizeof first, "%s", status_message());
        const enum status text_status = report_text(loading.report, report);
        status = text_status != STATUS_OK ? text_status : status_set(status, "%s", first);
    }
    memory_free(loading.report);
    arena_destroy(loading.scratch);
    if (status != STATUS_OK) {
        config_destroy(loading.config);
        return status;
    }
    *out = loading.config;
    return STATUS_OK;
}

void config_destroy(struct run_config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->n_rewards; i++) {
        json_destroy(config->rewards[i].config);
    }
    arena_destroy(config->arena);
    memory_free(config);
}
