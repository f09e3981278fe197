/* Owns showing a configuration: `hone config`, the stored JSON, the digest, the README's table. All
 * of it is a walk over the table. */
#include "base/hash.h"
#include "base/memory.h"
#include "configs/config_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- A text that grows --- */

struct text {
    char *data;
    size_t n;
};

static enum status text_add(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);

static enum status text_add(struct text *text, const char *format, ...)
{
    char piece[1024];
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    const size_t n_piece = n < 0 ? 0 : (size_t)n < sizeof piece ? (size_t)n : sizeof piece - 1;
    TRY(memory_resize(text->n, text->n + n_piece + 1, 1, &text->data));
    memcpy(text->data + text->n, piece, n_piece);
    text->n += n_piece;
    return STATUS_OK;
}

/* --- JSON and digest --- */

static enum status put_value(struct json *object, const char *name, const struct setting *row,
                             const void *base)
{
    struct json *value = NULL;
    TRY(value_to_json(row, base, &value));
    return json_put(object, name, value);
}

static enum status reward_to_json(const struct reward_config *reward, unsigned flags,
                                  struct json **out)
{
    enum status status = STATUS_OK;
    struct json *object = json_object_create();
    for (size_t i = 0; i < n_settings && status == STATUS_OK; i++) {
        const struct setting *const row = &settings[i];
        if (setting_is_of_reward(row) && (row->flags & flags) == flags) {
            status = put_value(object, row->key + sizeof REWARD_PREFIX - 1, row, reward);
        }
    }
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    *out = object;
    return STATUS_OK;
}

static enum status put_rewards(struct json *root, const struct run_config *config, unsigned flags)
{
    enum status status = STATUS_OK;
    struct json *list = json_array_create();
    for (size_t i = 0; i < config->n_rewards && status == STATUS_OK; i++) {
        struct json *reward = NULL;
        status = reward_to_json(&config->rewards[i], flags, &reward);
        if (status == STATUS_OK) {
            status = json_append(list, reward);
        }
    }
    if (status != STATUS_OK) {
        json_destroy(list);
        return status;
    }
    return json_put(root, "rewards", list);
}

/* Puts the row at root.section.name. */
static enum status put_nested(struct json *root, const struct setting *row, const void *base)
{
    char section[CONFIG_TEXT_MAX];
    const char *const dot = strchr(row->key, '.');
    if (dot == NULL) {
        return put_value(root, row->key, row, base);
    }
    (void)snprintf(section, sizeof section, "%.*s", (int)(dot - row->key), row->key);
    if (json_get(root, section) == NULL) {
        TRY(json_put(root, section, json_object_create()));
    }
    return put_value(json_get(root, section), dot + 1, row, base);
}

enum status config_to_json(const struct run_config *config, struct json **out)
{
    struct json *root = json_object_create();
    enum status status = STATUS_OK;
    *out = NULL;
    for (size_t i = 0; i < n_settings && status == STATUS_OK; i++) {
        const struct setting *const row = &settings[i];
        if (row->kind == SETTING_REWARDS) {
            status = put_rewards(root, config, 0);
        } else if (!setting_is_of_reward(row)) {
            status = put_nested(root, row, config);
        }
    }
    if (status != STATUS_OK) {
        json_destroy(root);
        return status;
    }
    *out = root;
    return STATUS_OK;
}

/* A path without the folder of the configuration, as it is written in the file. */
static struct json *path_as_written(const struct run_config *config, const char *path)
{
    const char *const prefix = config_path_prefix(config);
    const size_t n = strlen(prefix);
    const bool is_below = n > 0 && strncmp(path, prefix, n) == 0 && path[n] == '/';
    const char *const written = is_below ? path + n + 1 : path;
    return json_from_text(written, strlen(written));
}

static enum status put_for_digest(struct json *root, const struct run_config *config,
                                  const struct setting *row)
{
    const char *const at = (const char *)config + row->offset;
    if (row->kind == SETTING_PATH) {
        const char *path = NULL;
        memcpy(&path, at, sizeof(char *));
        return json_put(root, row->key, path_as_written(config, path));
    }
    if (row->kind != SETTING_SOURCES) {
        return put_value(root, row->key, row, config);
    }
    struct text_list list = {0};
    memcpy(&list, at, sizeof list);
    TRY(json_put(root, row->key, json_array_create()));
    for (size_t i = 0; i < list.count; i++) {
        TRY(json_append(json_get(root, row->key), path_as_written(config, list.items[i])));
    }
    return STATUS_OK;
}

/* Where a group of samples is cut decides how gradients round, unless nothing is shared and no
 * products take rows in pairs. */
static bool is_in_digest(const struct run_config *config, const struct setting *row)
{
    return (row->flags & SETTING_IN_DIGEST) != 0 ||
           ((config->optim.share_prompts || config->model.dtype != DTYPE_FP32) &&
            row->offset == offsetof(struct run_config, optim.micro_batch_tokens));
}

enum status config_digest(const struct run_config *config, char out[65])
{
    struct json *root = json_object_create();
    char *text = NULL;
    size_t n = 0;
    enum status status = put_rewards(root, config, SETTING_IN_DIGEST);
    for (size_t i = 0; i < n_settings && status == STATUS_OK; i++) {
        if (!setting_is_of_reward(&settings[i]) && is_in_digest(config, &settings[i])) {
            status = put_for_digest(root, config, &settings[i]);
        }
    }
    if (status == STATUS_OK) {
        status = json_print(root, &text, &n);
    }
    if (status == STATUS_OK) {
        const struct digest256 digest = hash_sha256(text, n);
        (void)hash_hex(digest.bytes, sizeof digest.bytes, out);
    }
    memory_free(text);
    json_destroy(root);
    return status;
}

/* --- Lines --- */

/* Offsets into the text that is built meanwhile; they become pointers at the end. */
struct line_builder {
    struct text text;
    size_t *starts; /* six for each line */
    size_t n_lines;
};

static enum status add_line(struct line_builder *builder, const struct setting *row,
                            const char *key, const char *value, const char *origin)
{
    char range[CONFIG_TEXT_MAX];
    const char *const fields[] = {
        key, value, origin, row->help, setting_range(row, range, sizeof range), row->peers};
    size_t *const starts = builder->starts + 6 * builder->n_lines;
    for (size_t i = 0; i < 6; i++) {
        const size_t n = strlen(fields[i]) + 1;
        starts[i] = builder->text.n;
        TRY(memory_resize(builder->text.n, builder->text.n + n, 1, &builder->text.data));
        memcpy(builder->text.data + builder->text.n, fields[i], n);
        builder->text.n += n;
    }
    builder->n_lines++;
    return STATUS_OK;
}

static enum status add_value_line(struct line_builder *builder, const struct setting *row,
                                  const char *key, const void *base, const char **origins)
{
    char *value = NULL;
    TRY(value_to_text(row, base, &value));
    const enum status status = add_line(builder, row, key, value, origins[row - settings]);
    memory_free(value);
    return status;
}

static enum status add_reward_lines(struct line_builder *builder,
                                    const struct reward_config *reward)
{
    char key[CONFIG_TEXT_MAX];
    for (size_t i = 0; i < n_settings; i++) {
        if (!setting_is_of_reward(&settings[i])) {
            continue;
        }
        (void)snprintf(key, sizeof key, "rewards.%.40s.%s", reward->name,
                       settings[i].key + sizeof REWARD_PREFIX - 1);
        TRY(add_value_line(builder, &settings[i], key, reward, reward->origins));
    }
    return STATUS_OK;
}

static enum status add_rewards(struct line_builder *builder, const struct run_config *config)
{
    for (size_t i = 0; i < config->n_rewards; i++) {
        TRY(add_reward_lines(builder, &config->rewards[i]));
    }
    return STATUS_OK;
}

static enum status add_lines(struct line_builder *builder, const struct run_config *config)
{
    for (size_t i = 0; i < n_settings; i++) {
        const struct setting *const row = &settings[i];
        if (setting_is_of_reward(row)) {
            continue;
        }
        TRY(row->kind == SETTING_REWARDS
                ? add_rewards(builder, config)
                : add_value_line(builder, row, row->key, config, config->origins));
    }
    return STATUS_OK;
}

/* One block: the lines, then their text. */
static enum status finish_lines(const struct line_builder *builder, struct config_line **out)
{
    const size_t head_bytes = builder->n_lines * sizeof(struct config_line);
    char *block = NULL;
    TRY(memory_alloc(head_bytes + builder->text.n + 1, 1, &block));
    struct config_line *const lines = (void *)block;
    memcpy(block + head_bytes, builder->text.data, builder->text.n);
    for (size_t i = 0; i < builder->n_lines; i++) {
        const size_t *const starts = builder->starts + 6 * i;
        const char *const base = block + head_bytes;
        lines[i] = (struct config_line){base + starts[0], base + starts[1], base + starts[2],
                                        base + starts[3], base + starts[4], base + starts[5]};
    }
    *out = lines;
    return STATUS_OK;
}

static void builder_dispose(struct line_builder *builder)
{
    memory_free(builder->starts);
    memory_free(builder->text.data);
}

enum status config_lines(const struct run_config *config, struct config_line **out, size_t *n_out)
{
    struct line_builder builder = {0};
    *out = NULL;
    *n_out = 0;
    TRY(memory_alloc(6 * n_settings * (config->n_rewards + 1), sizeof(size_t), &builder.starts));
    enum status status = add_lines(&builder, config);
    if (status == STATUS_OK) {
        status = finish_lines(&builder, out);
        *n_out = builder.n_lines;
    }
    builder_dispose(&builder);
    return status;
}

void config_lines_free(struct config_line *lines)
{
    memory_free(lines);
}

/* "rewards.correct.weight" and "rewards.weight" ask for the row "rewards[].weight". */
static const struct setting *find_for_people(const char *key)
{
    char of_reward[CONFIG_TEXT_MAX];
    const struct setting *const row = setting_find(key);
    const char *const dot = strrchr(key, '.');
    if (row != NULL || dot == NULL || strncmp(key, "rewards", 7) != 0) {
        return row;
    }
    (void)snprintf(of_reward, sizeof of_reward, REWARD_PREFIX "%.80s", dot + 1);
    return setting_find(of_reward);
}

enum status config_explain(const char *key, struct config_line **out, const char **nearest)
{
    struct line_builder builder = {0};
    bool is_peer = false;
    const struct setting *row = find_for_people(key);
    *out = NULL;
    *nearest = setting_nearest(key, &is_peer);
    if (row == NULL && is_peer) {
        row = setting_find(*nearest);
    }
    if (row == NULL) {
        return STATUS_OK;
    }
    TRY(memory_alloc(6, sizeof(size_t), &builder.starts));
    enum status status = add_line(&builder, row, row->key, row->fallback, "default");
    if (status == STATUS_OK) {
        status = finish_lines(&builder, out);
    }
    builder_dispose(&builder);
    return status;
}

/* --- Documents --- */

static enum status add_markdown_row(struct text *text, const struct setting *row)
{
    char range[CONFIG_TEXT_MAX];
    (void)setting_range(row, range, sizeof range);
    TRY(text_add(text, "| `%s` | `%s` | ", row->key, row->fallback));
    for (const char *at = range; *at != '\0'; at++) {
        TRY(text_add(text, *at == '|' ? "\\%c" : "%c", *at)); /* a bar would end the cell */
    }
    return text_add(text, " | %s |\n", row->help);
}

enum status config_table_markdown(char **out)
{
    struct text text = {0};
    enum status status = text_add(&text, "| key | default | range | meaning |\n"
                                         "| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < n_settings && status == STATUS_OK; i++) {
        status = add_markdown_row(&text, &settings[i]);
    }
    if (status != STATUS_OK) {
        memory_free(text.data);
        return status;
    }
    *out = text.data;
    return STATUS_OK;
}

/* "  epsilon: 0.2 # help (range)" below "grpo:" */
static enum status add_default_row(struct text *text, const struct setting *row, bool is_new)
{
    char range[CONFIG_TEXT_MAX];
    char line[CONFIG_TEXT_MAX];
    const char *const dot = strchr(row->key, '.');
    const char *const name = dot != NULL ? dot + 1 : row->key;
    if (is_new && dot != NULL) {
        TRY(text_add(text, "%.*s:\n", (int)(dot - row->key), row->key));
    }
    (void)snprintf(line, sizeof line, "%s%s: %s", dot != NULL ? "  " : "", name, row->fallback);
    return text_add(text, "%-44s # %s%s%s\n", line, row->help, *row->help != '\0' ? "; " : "",
                    setting_range(row, range, sizeof range));
}

enum status config_defaults_yaml(char **out)
{
    struct text text = {0};
    enum status status = STATUS_OK;
    const char *section = "";
    size_t n_section = 0;
    for (size_t i = 0; i < n_settings && status == STATUS_OK; i++) {
        const struct setting *const row = &settings[i];
        const size_t n = strcspn(row->key, ".");
        const bool is_new = n != n_section || strncmp(row->key, section, n) != 0;
        section = row->key;
        n_section = n;
        if (!setting_is_of_reward(row)) {
            status = add_default_row(&text, row, is_new);
        }
    }
    if (status != STATUS_OK) {
        memory_free(text.data);
        return status;
    }
    *out = text.data;
    return STATUS_OK;
}
