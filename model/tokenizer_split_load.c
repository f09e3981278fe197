/* Owns reading the pre-tokenizer of tokenizer.json into stages. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

#define STAGES_MAX 64u
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static enum status add_stage(struct splitter *splitter, const char *pattern, size_t n,
                             bool is_literal)
{
    TRY(tokenizer_regex_create(pattern, n, is_literal,
                               &splitter->stages[splitter->n_stages].regex));
    splitter->n_stages++;
    return STATUS_OK;
}

static enum status read_behavior(const struct json *value, enum split_behavior *out)
{
    static const char *const names[] = {[SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_REMOVED] = "Removed",
                                        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const char *name = json_text(value, "");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum split_behavior)i;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_UNSUPPORTED, "pre_tokenizer Split: behavior \"%s\"", name);
}

static enum status read_split(const struct json *value, struct splitter *splitter)
{
    struct split_stage *stage = &splitter->stages[splitter->n_stages];

    TRY(read_behavior(json_get(value, "behavior"), &stage->behavior));
    stage->invert = json_bool(json_get(value, "invert"), false);
    const enum status status = pattern_load(json_get(value, "pattern"), &stage->regex);
    if (status != STATUS_OK) {
        return status_wrap(status, "pre_tokenizer Split");
    }
    splitter->n_stages++;
    return STATUS_OK;
}

static enum status read_digits(const struct json *value, struct splitter *splitter)
{
    static const char pattern[] = "\\p{N}";
    const bool is_individual = json_bool(json_get(value, "individual_digits"), false);

    splitter->stages[splitter->n_stages].behavior =
        is_individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return add_stage(splitter, pattern, sizeof(pattern) - 1, false);
}

static enum status read_byte_level(const struct json *value, struct splitter *splitter)
{
    splitter->has_byte_level = true;
    if (json_bool(json_get(value, "add_prefix_space"), true)) {
        splitter->stages[splitter->n_stages++] =
            (struct split_stage){.mark = " ", .prefix = PREFIX_ALWAYS};
    }
    if (json_bool(json_get(value, "use_regex"), true)) {
        return add_stage(splitter, GPT2_PATTERN, sizeof(GPT2_PATTERN) - 1, false);
    }
    return STATUS_OK;
}

enum status metaspace_load(const struct json *value, char mark[5], enum prefix_scheme *prefix)
{
    static const char *const names[] = {
        [PREFIX_NEVER] = "never", [PREFIX_FIRST] = "first", [PREFIX_ALWAYS] = "always"};
    const struct json *text = json_get(value, "replacement");
    const size_t n = json_text_bytes(text);
    const bool adds = json_bool(json_get(value, "add_prefix_space"), true);
    const char *scheme = json_text(json_get(value, "prepend_scheme"), adds ? "always" : "never");

    if (n == 0 || utf8_sequence(json_text(text, ""), n, NULL) != n) {
        return status_set(STATUS_BAD_FORMAT, "Metaspace: its replacement is no single character");
    }
    memcpy(mark, json_text(text, ""), n);
    mark[n] = '\0';
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(scheme, names[i]) == 0) {
            *prefix = (enum prefix_scheme)i;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_UNSUPPORTED, "Metaspace: prepend_scheme \"%.32s\"", scheme);
}

/* Spaces become marks, and with "split" every mark begins a piece. */
static enum status read_metaspace(const struct json *value, struct splitter *splitter)
{
    struct split_stage stage = {0};

    TRY(metaspace_load(value, stage.mark, &stage.prefix));
    splitter->prefixes_first = splitter->prefixes_first || stage.prefix == PREFIX_FIRST;
    splitter->stages[splitter->n_stages++] = stage;
    if (!json_bool(json_get(value, "split"), true)) {
        return STATUS_OK;
    }
    splitter->stages[splitter->n_stages].behavior = SPLIT_MERGED_WITH_NEXT;
    return add_stage(splitter, stage.mark, strlen(stage.mark), true);
}

static enum status read_one(const struct json *value, struct splitter *splitter)
{
    const char *type = json_text(json_get(value, "type"), "");

    if (splitter->has_byte_level) {
        return status_set(STATUS_UNSUPPORTED, "pre_tokenizer %s after ByteLevel", type);
    }
    if (splitter->n_stages + 2 > STAGES_MAX) { /* one component is two stages at most */
        return status_set(STATUS_UNSUPPORTED, "pre_tokenizer with more than %u stages", STAGES_MAX);
    }
    if (strcmp(type, "Split") == 0) {
        return read_split(value, splitter);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return read_byte_level(value, splitter);
    }
    if (strcmp(type, "Digits") == 0) {
        return read_digits(value, splitter);
    }
    if (strcmp(type, "Metaspace") == 0) {
        return read_metaspace(value, splitter);
    }
    return status_set(STATUS_UNSUPPORTED, "pre_tokenizer %s", *type == '\0' ? "(none)" : type);
}

static enum status read_all(const struct json *value, struct splitter *splitter)
{
    const struct json *list = json_get(value, "pretokenizers");

    TRY(memory_alloc(STAGES_MAX, sizeof(*splitter->stages), &splitter->stages));
    if (json_is(value, JSON_NULL)) {
        return STATUS_OK;
    }
    if (strcmp(json_text(json_get(value, "type"), ""), "Sequence") != 0) {
        return read_one(value, splitter);
    }
    TRY(check_list(list, "pre_tokenizer Sequence: \"pretokenizers\""));
    for (size_t i = 0; i < json_count(list); i++) {
        TRY(read_one(json_at(list, i), splitter));
    }
    return STATUS_OK;
}

enum status splitter_load(const struct json *pre_tokenizer, struct splitter *out)
{
    *out = (struct splitter){0};
    const enum status status = read_all(pre_tokenizer, out);
    if (status != STATUS_OK) {
        splitter_dispose(out);
    }
    return status;
}

void splitter_dispose(struct splitter *splitter)
{
    for (size_t i = 0; i < splitter->n_stages; i++) {
        tokenizer_regex_destroy(splitter->stages[i].regex);
    }
    memory_free(splitter->stages);
    *splitter = (struct splitter){0};
}
