/* Owns the way from a tree to the configuration: sections and keys are looked up in the table,
 * unknown ones are reported with the nearest, and each value remembers where it came from. */
#include "base/file.h"
#include "base/memory.h"
#include "configs/config_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void bind_error(struct binder *binder, const struct config_node *node, const char *format, ...)
{
    char text[384];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    report_add(binder->report, binder->where, binder->has_lines ? node->line : 0, node->column,
               "%s%s%s", binder->label, binder->label[0] != '\0' ? ": " : "", text);
}

static void bind_unknown(struct binder *binder, const char *key, const struct config_node *node)
{
    bool is_peer = false;
    const char *const nearest = setting_nearest(key, &is_peer);
    const bool has_line = binder->has_lines && node->key_line > 0;
    report_add(binder->report, binder->where, has_line ? node->key_line : 0, node->key_column,
               "%s: unknown key; %s %s", binder->label, is_peer ? "here it is" : "nearest is",
               nearest);
}

static enum status origin_of(struct binder *binder, const struct config_node *node,
                             const char **out)
{
    char text[512];
    char *copy = NULL;
    if (binder->origin != NULL) {
        *out = binder->origin;
        return STATUS_OK;
    }
    (void)snprintf(text, sizeof text, "%.400s:%zu", binder->where, node->line);
    TRY(arena_copy_text(binder->config->arena, text, strlen(text), &copy));
    *out = copy;
    return STATUS_OK;
}

static enum status bind_row(struct binder *binder, const struct setting *row, void *base,
                            const char **origins, const struct config_node *node)
{
    bool is_bound = false;
    TRY(value_bind(binder, row, base, node, &is_bound));
    if (is_bound) {
        TRY(origin_of(binder, node, &origins[row - settings]));
    }
    return STATUS_OK;
}

/* --- Rewards --- */

static enum status reward_defaults(struct run_config *config, struct reward_config *reward);

/* Binds node to the member `name` of a reward. */
static enum status bind_reward_member(struct binder *binder, struct reward_config *reward,
                                      const char *name, const struct config_node *node)
{
    char key[CONFIG_TEXT_MAX];
    (void)snprintf(key, sizeof key, REWARD_PREFIX "%.90s", name);
    (void)snprintf(binder->label, sizeof binder->label, "rewards.%.40s.%.60s",
                   reward->name != NULL && *reward->name != '\0' ? reward->name : "?", name);
    const struct setting *const row = setting_find(key);
    if (row == NULL) {
        bind_unknown(binder, key, node);
        return STATUS_OK;
    }
    return bind_row(binder, row, reward, reward->origins, node);
}

static enum status bind_reward_map(struct binder *binder, struct reward_config *reward,
                                   const struct config_node *map)
{
    if (map->kind != NODE_MAP) {
        bind_error(binder, map, "want {name: ..., source: ...}");
        return STATUS_OK;
    }
    for (const struct config_node *member = map->first; member != NULL; member = member->next) {
        if (strcmp(member->key, "name") != 0) {
            continue; /* the name comes first, for the labels of the others */
        }
        TRY(bind_reward_member(binder, reward, member->key, member));
    }
    for (const struct config_node *member = map->first; member != NULL; member = member->next) {
        if (strcmp(member->key, "name") == 0) {
            continue;
        }
        TRY(bind_reward_member(binder, reward, member->key, member));
    }
    return STATUS_OK;
}

static void rewards_clear(struct run_config *config)
{
    for (size_t i = 0; i < config->n_rewards; i++) {
        json_destroy(config->rewards[i].config);
        config->rewards[i].config = NULL;
    }
    config->n_rewards = 0;
}

/* A list replaces every reward there was. */
static enum status bind_rewards(struct binder *binder, const struct config_node *list)
{
    struct run_config *const config = binder->config;
    (void)snprintf(binder->label, sizeof binder->label, "rewards");
    if (list->kind != NODE_LIST || list->count > CONFIG_REWARDS_MAX) {
        bind_error(binder, list, "want a list of at most %u rewards", CONFIG_REWARDS_MAX);
        return STATUS_OK;
    }
    rewards_clear(config);
    TRY(arena_alloc(config->arena, list->count + 1, sizeof config->rewards[0], &config->rewards));
    for (const struct config_node *item = list->first; item != NULL; item = item->next) {
        struct reward_config *const reward = &config->rewards[config->n_rewards++];
        TRY(reward_defaults(config, reward));
        (void)snprintf(binder->label, sizeof binder->label, "rewards");
        TRY(bind_reward_map(binder, reward, item));
    }
    return origin_of(binder, list, &config->origins[setting_find("rewards") - settings]);
}

/* "NAME" or "NAME.key" below rewards. */
static enum status bind_reward_dotted(struct binder *binder, const char *key,
                                      const struct config_node *node)
{
    struct run_config *const config = binder->config;
    const size_t n_name = strcspn(key, ".");
    for (size_t i = 0; i < config->n_rewards; i++) {
        struct reward_config *const reward = &config->rewards[i];
        if (reward->name == NULL || strlen(reward->name) != n_name ||
            strncmp(reward->name, key, n_name) != 0) {
            continue;
        }
        return key[n_name] == '\0' ? bind_reward_map(binder, reward, node)
                                   : bind_reward_member(binder, reward, key + n_name + 1, node);
    }
    bind_error(binder, node, "no reward has the name \"%.*s\"", (int)n_name, key);
    return STATUS_OK;
}

/* --- Sections and keys --- */

static enum status bind_section(struct binder *binder, const char *section,
                                const struct config_node *map);

/* key: "a" or "a.b", complete. */
static enum status bind_key(struct binder *binder, const char *key, const struct config_node *node)
{
    const struct setting *const row = setting_find(key);
    (void)snprintf(binder->label, sizeof binder->label, "%.120s", key);
    if (row != NULL && row->kind == SETTING_REWARDS) {
        return bind_rewards(binder, node);
    }
    if (row != NULL && !setting_is_of_reward(row)) {
        return bind_row(binder, row, binder->config, binder->config->origins, node);
    }
    if (strchr(key, '.') == NULL && setting_is_section(key)) {
        return bind_section(binder, key, node);
    }
    bind_unknown(binder, key, node);
    return STATUS_OK;
}

static enum status bind_section(struct binder *binder, const char *section,
                                const struct config_node *map)
{
    char key[CONFIG_TEXT_MAX];
    if (map->kind == NODE_SCALAR && !map->is_quoted && *map->text == '\0') {
        return STATUS_OK; /* a section whose keys are all commented out */
    }
    if (map->kind != NODE_MAP) {
        bind_error(binder, map, "want a mapping of settings");
        return STATUS_OK;
    }
    for (const struct config_node *member = map->first; member != NULL; member = member->next) {
        (void)snprintf(key, sizeof key, "%.40s.%.80s", section, member->key);
        TRY(bind_key(binder, key, member));
    }
    return STATUS_OK;
}

enum status bind_document(struct binder *binder, const struct config_node *root)
{
    binder->label[0] = '\0';
    if (root->kind != NODE_MAP) {
        bind_error(binder, root, "want a mapping of settings, \"run: {...}\" and so on");
        return STATUS_OK;
    }
    for (const struct config_node *member = root->first; member != NULL; member = member->next) {
        TRY(bind_key(binder, member->key, member));
    }
    return STATUS_OK;
}

enum status bind_dotted(struct binder *binder, const char *key, const struct config_node *node)
{
    (void)snprintf(binder->label, sizeof binder->label, "%.120s", key);
    if (strncmp(key, "rewards.", 8) == 0) {
        return bind_reward_dotted(binder, key + 8, node);
    }
    return bind_key(binder, key, node);
}

/* --- Defaults --- */

/* Binds the row's own default text. */
static enum status bind_fallback(struct binder *binder, const struct setting *row, void *base,
                                 const char **origins, struct arena *scratch)
{
    struct config_node *node = NULL;
    TRY(config_yaml_parse(row->fallback, strlen(row->fallback), row->key, binder->report, scratch,
                          &node));
    if (node == NULL || row->kind == SETTING_REWARDS) {
        origins[row - settings] = "default";
        return STATUS_OK;
    }
    return bind_row(binder, row, base, origins, node);
}

static enum status bind_fallbacks(struct run_config *config, void *base, const char **origins,
                                  bool of_reward)
{
    struct config_report *report = NULL;
    struct arena *scratch = NULL;
    struct binder binder = {.config = config,
                            .where = "default",
                            .origin = "default",
                            .folder = config_path_prefix(config)};
    enum status status = memory_alloc(1, sizeof *report, &report);
    if (status == STATUS_OK) {
        status = arena_create(4096, &scratch);
    }
    binder.report = report;
    for (size_t i = 0; i < n_settings && status == STATUS_OK; i++) {
        if (setting_is_of_reward(&settings[i]) == of_reward) {
            status = bind_fallback(&binder, &settings[i], base, origins, scratch);
        }
    }
    if (status == STATUS_OK && report->count > 0) {
        status = status_set(STATUS_BAD_CONFIG, "%s", report->lines[0]);
    }
    arena_destroy(scratch);
    memory_free(report);
    return status;
}

enum status bind_defaults(struct run_config *config)
{
    TRY(arena_alloc(config->arena, n_settings, sizeof config->origins[0], &config->origins));
    return bind_fallbacks(config, config, config->origins, false);
}

static enum status reward_defaults(struct run_config *config, struct reward_config *reward)
{
    TRY(arena_alloc(config->arena, n_settings, sizeof reward->origins[0], &reward->origins));
    return bind_fallbacks(config, reward, reward->origins, true);
}
