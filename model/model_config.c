/* Owns reading of config.json and the numbers derived from it. */
#include "model/model_config.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/model_config_internal.h"

#include <math.h>
#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)64 << 20)
#define CONFIG_DEPTH_MAX 32u
#define KEY_MAX ((size_t)64)

static size_t smallest(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits (insert, delete, replace) from a to b; texts of KEY_MAX and more count as far away. */
static size_t edit_distance(const char *a, const char *b)
{
    const size_t n_a = strlen(a), n_b = strlen(b);
    size_t row[KEY_MAX + 1];

    if (n_a >= KEY_MAX || n_b >= KEY_MAX) {
        return KEY_MAX;
    }
    for (size_t j = 0; j <= n_b; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            const size_t above = row[j];
            const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);

            row[j] = smallest(replaced, 1 + smallest(above, row[j - 1]));
            diagonal = above;
        }
    }
    return row[n_b];
}

static const char *known_key(size_t index)
{
    return index < n_model_fields ? model_fields[index].key
                                  : model_other_keys[index - n_model_fields];
}

static enum status refuse_unknown(const char *label, const char *key)
{
    const char *nearest = known_key(0);

    for (size_t i = 1; i < n_model_fields + n_model_other_keys; i++) {
        if (edit_distance(key, known_key(i)) < edit_distance(key, nearest)) {
            nearest = known_key(i);
        }
    }
    return status_set(STATUS_BAD_FORMAT, "%s: unknown key \"%s\" (nearest known: %s)", label, key,
                      nearest);
}

static enum status check_keys(const struct json *root, const char *label)
{
    struct json_iterator entry = {.object = root};

    while (json_next(&entry)) {
        bool is_known = false;

        for (size_t i = 0; i < n_model_fields + n_model_other_keys && !is_known; i++) {
            is_known = strcmp(known_key(i), entry.key) == 0;
        }
        if (!is_known) {
            return refuse_unknown(label, entry.key);
        }
    }
    return STATUS_OK;
}

static void set_field(const struct model_field *field, double value, struct model_config *out)
{
    char *const member = (char *)out + field->offset;

    switch (field->kind) {
    case MODEL_FIELD_SIZE: {
        const size_t size = (size_t)value;

        memcpy(member, &size, sizeof(size));
        break;
    }
    case MODEL_FIELD_REAL:
        memcpy(member, &value, sizeof(value));
        break;
    case MODEL_FIELD_BOOL: {
        const bool is_on = value != 0;

        memcpy(member, &is_on, sizeof(is_on));
        break;
    }
    }
}

static bool has_right_kind(const struct model_field *field, const struct json *value)
{
    switch (field->kind) {
    case MODEL_FIELD_SIZE: /* 1.0 is a size too: writers differ */
        return json_is(value, JSON_INT) ||
               (json_is(value, JSON_REAL) &&
                floor(json_number(value, 0.5)) == json_number(value, 0));
    case MODEL_FIELD_REAL:
        return json_is(value, JSON_INT) || json_is(value, JSON_REAL);
    case MODEL_FIELD_BOOL:
        return json_is(value, JSON_BOOL);
    }
    return false;
}

static enum status parse_field(const struct json *root, const struct model_field *field,
                               const char *label, struct model_config *out)
{
    static const char *const kinds[] = {"a whole number", "a number", "true or false"};
    const struct json *value = json_get(root, field->key);

    if (value == NULL) {
        if (field->is_required) {
            return status_set(STATUS_BAD_FORMAT, "%s: %s is missing", label, field->key);
        }
        set_field(field, model_field_default(field, out->family), out);
        return STATUS_OK;
    }
    if (json_is(value, JSON_NULL) && field->null_is >= 0) {
        set_field(field, field->null_is, out);
        return STATUS_OK;
    }
    if (!has_right_kind(field, value)) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s must be %s", label, field->key,
                          kinds[field->kind]);
    }

    const double number =
        field->kind == MODEL_FIELD_BOOL ? (double)json_bool(value, false) : json_number(value, 0);

    if (!(number >= field->min && number <= field->max)) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s is %g, want %g to %g", label, field->key,
                          number, field->min, field->max);
    }
    set_field(field, number, out);
    return STATUS_OK;
}

/* A JSON integer, or INT64_MIN for anything else. */
static int64_t whole_number(const struct json *value)
{
    return json_is(value, JSON_INT) ? json_int(value, INT64_MIN) : INT64_MIN;
}

/* A token id inside the vocabulary, or null (-1). */
static enum status parse_id(const struct json *value, const char *key, const char *label,
                            size_t vocab_size, int32_t *out)
{
    const int64_t id = json_is(value, JSON_NULL) ? -1 : whole_number(value);

    if (id < -1 || id >= (int64_t)vocab_size || (id == -1 && !json_is(value, JSON_NULL))) {
        return status_set(STATUS_BAD_FORMAT, "%s: %s must be a token id below %zu", label, key,
                          vocab_size);
    }
    *out = (int32_t)id;
    return STATUS_OK;
}

/* eos_token_id: one, a list, or null. */
static enum status parse_ends(const struct json *root, const char *label, struct model_config *out)
{
    const struct json *eos = json_get(root, "eos_token_id");

    if (!json_is(eos, JSON_ARRAY)) {
        TRY(parse_id(eos, "eos_token_id", label, out->vocab_size, &out->eos_ids[0]));
        out->n_eos_ids = out->eos_ids[0] < 0 ? 0 : 1;
        out->eos_ids[0] = out->n_eos_ids == 0 ? 0 : out->eos_ids[0];
        return STATUS_OK;
    }
    if (json_count(eos) > MODEL_EOS_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s: more than %u eos_token_id", label, MODEL_EOS_MAX);
    }
    for (size_t i = 0; i < json_count(eos); i++) {
        if (json_is(json_at(eos, i), JSON_NULL)) {
            return status_set(STATUS_BAD_FORMAT, "%s: eos_token_id holds null", label);
        }
        TRY(parse_id(json_at(eos, i), "eos_token_id", label, out->vocab_size, &out->eos_ids[i]));
    }
    out->n_eos_ids = json_count(eos);
    return STATUS_OK;
}

static enum status parse_ids(const struct json *root, const char *label, struct model_config *out)
{
    TRY(parse_id(json_get(root, "bos_token_id"), "bos_token_id", label, out->vocab_size,
                 &out->bos_id));
    TRY(parse_id(json_get(root, "pad_token_id"), "pad_token_id", label, out->vocab_size,
                 &out->pad_id));
    return parse_ends(root, label, out);
}

/* Relations between fields. */
static enum status check_experts(const struct model_config *config, const char *label)
{
    if (config->n_experts == 0 || config->n_groups == 0) {
        return STATUS_OK;
    }

    const size_t per_group = config->n_experts / config->n_groups;

    if (config->n_experts % config->n_groups != 0 || (config->n_groups > 1 && per_group < 2)) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: %zu experts do not form %zu groups of two or more", label,
                          config->n_experts, config->n_groups);
    }
    if (config->top_groups > config->n_groups) {
        return status_set(STATUS_BAD_FORMAT, "%s: topk_group %zu is more than n_group %zu", label,
                          config->top_groups, config->n_groups);
    }
    if (config->experts_per_token > config->top_groups * per_group) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: num_experts_per_tok %zu is more than the %zu experts of %zu groups",
                          label, config->experts_per_token, config->top_groups * per_group,
                          config->top_groups);
    }
    return STATUS_OK;
}

/* The family's fields of the table. */
static enum status parse_fields(const struct json *root, const char *label,
                                struct model_config *out)
{
    for (size_t i = 0; i < n_model_fields; i++) {
        if (!model_field_is_of(&model_fields[i], out->family)) {
            continue;
        }
        TRY(parse_field(root, &model_fields[i], label, out));
    }
    return STATUS_OK;
}

/* What needs more than one field. */
static enum status parse_relations(const struct json *root, const char *label,
                                   struct model_config *out)
{
    TRY(model_config_finish_family(label, out));
    TRY(parse_ids(root, label, out));
    TRY(model_config_parse_layers(root, label, out));
    TRY(model_config_parse_rope(root, label, out));
    TRY(model_config_parse_router(root, label, out));
    TRY(model_config_check_windows(root, label, out));
    out->has_pre_norm_mtp = strcmp(json_text(json_get(root, "mtp_input"), ""), "pre_norm") == 0;
    return check_experts(out, label);
}

enum status model_config_parse(const struct json *root, const char *label, struct model_config *out)
{
    struct model_config config = {.vocab_size = 0};

    if (!json_is(root, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "%s: not a JSON object", label);
    }
    TRY(model_config_parse_family(root, label, &config.family));
    TRY(model_config_check_supported(root, label, config.family));
    TRY(check_keys(root, label));
    TRY(parse_fields(root, label, &config));
    TRY(parse_relations(root, label, &config));
    *out = config;
    return STATUS_OK;
}

/* generation_config.json, where there is one, says at which tokens generation ends. */
static enum status apply_generation(const char *dir, struct model_config *out)
{
    char *path;
    struct json *root = NULL;
    enum status status = STATUS_OK;

    TRY(path_join(dir, "generation_config.json", &path));
    if (file_exists(path)) {
        status = json_load(path, CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, &root);
    }
    if (status == STATUS_OK && !json_is(json_get(root, "eos_token_id"), JSON_NULL)) {
        memset(out->eos_ids, 0, sizeof(out->eos_ids));
        status = parse_ends(root, path, out);
    }
    json_destroy(root);
    memory_free(path);
    return status;
}

enum status model_config_load(const char *dir, struct model_config *out)
{
    char *path;
    struct json *root = NULL;
    enum status status;

    TRY(path_join(dir, "config.json", &path));
    status = json_load(path, CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, &root);
    if (status == STATUS_OK) {
        status = model_config_parse(root, path, out);
    }
    if (status == STATUS_OK) {
        status = apply_generation(dir, out);
    }
    json_destroy(root);
    memory_free(path);
    return status;
}
