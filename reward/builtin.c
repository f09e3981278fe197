/* Owns the table of built-in scorers, the short ones among them, and the way from a sample to a
 * verdict. */
#include "reward/builtin_internal.h"

#include "base/clock.h"
#include "base/memory.h"

#include <string.h>

/* Drops white space at the start of text; false when there is none. */
static bool take_space(struct text *text)
{
    const size_t n = text->n;
    while (text->n > 0 && text_is_space(text->data[0])) {
        *text = (struct text){text->data + 1, text->n - 1};
    }
    return text->n < n;
}

/* Drops the first character of text; -1 when there is none. */
static int take_character(const struct builtin_options *options, struct text *text)
{
    if (text->n == 0) {
        return -1;
    }
    const int c = (unsigned char)text->data[0];
    *text = (struct text){text->data + 1, text->n - 1};
    return !options->is_case_sensitive && c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/* Compares as `exact` does: optionally without case (of ASCII), optionally with runs of white space
 * as one blank. */
static bool matches(const struct builtin_options *options, struct text a, struct text b)
{
    while (a.n > 0 || b.n > 0) {
        if (options->squeezes_space && (a.n == 0 || b.n == 0 || text_is_space(a.data[0]))) {
            if (!take_space(&a) || !take_space(&b)) {
                return false;
            }
        } else if (take_character(options, &a) != take_character(options, &b)) {
            return false;
        }
    }
    return true;
}

static struct verdict score_exact(const struct builtin_options *options,
                                  const struct score_sample *sample, struct text completion,
                                  struct text answer)
{
    (void)sample;
    const struct text final = text_trim(text_final_part(options, completion));
    if (final.data == NULL) {
        return (struct verdict){.reason = "no </think>"};
    }
    const bool is_equal = matches(options, final, text_trim(answer));
    return (struct verdict){.value = is_equal ? 1.0 : 0.0, .extracted = final};
}

static struct verdict score_length(const struct builtin_options *options,
                                   const struct score_sample *sample, struct text completion,
                                   struct text answer)
{
    (void)completion;
    (void)answer;
    return (struct verdict){.value = options->scale * (double)sample->n_tokens};
}

/* Moves *text past `tag` when it comes next (after white space); false otherwise. */
static bool take_tag(struct text *text, const char *tag)
{
    const size_t n = strlen(tag);
    const struct text rest = text_trim(*text);
    if (rest.n < n || memcmp(rest.data, tag, n) != 0) {
        return false;
    }
    *text = (struct text){rest.data + n, rest.n - n};
    return true;
}

/* Moves *text past `end_tag`; false when it is missing or only white space is before it. */
static bool take_content(struct text *text, const char *end_tag)
{
    const char *end = text_find(*text, end_tag);
    if (end == NULL) {
        return false;
    }
    const size_t n = (size_t)(end - text->data);
    const bool is_filled = text_trim((struct text){text->data, n}).n > 0;
    const size_t skip = n + strlen(end_tag);
    *text = (struct text){text->data + skip, text->n - skip};
    return is_filled;
}

static bool occurs_once(struct text text, const char *tag)
{
    const char *first = text_find(text, tag);
    return first != NULL && first == text_find_last(text, tag);
}

/* The template may have opened the tag: then the prompt ends with it. */
static bool opens_think(const struct score_sample *sample)
{
    static const char tag[] = "<think>";
    const size_t n = strlen(tag);
    const struct text prompt = text_trim((struct text){sample->prompt, sample->prompt_bytes});
    return prompt.n >= n && memcmp(prompt.data + prompt.n - n, tag, n) == 0;
}

/* Moves *rest past <think> ... </think>; NULL, or what is wrong with it. TRL's form begins with the
 * tag itself and may think nothing. */
static const char *take_thought(const struct builtin_options *options, bool is_open,
                                struct text completion, struct text *rest)
{
    const bool has_begin = text_find(completion, "<think>") != NULL;
    if (!occurs_once(completion, "</think>") ||
        (is_open ? has_begin : !occurs_once(completion, "<think>"))) {
        return "think tags are not there exactly once";
    }
    const char *first = text_find(completion, "<think>");
    if (options->is_think_only) {
        const char *last = text_find(completion, "</think>");
        const bool is_right = is_open || (first == completion.data && first < last);
        return is_right ? NULL : "does not begin with <think>";
    }
    const bool has_tag = is_open || take_tag(rest, "<think>");
    return has_tag && take_content(rest, "</think>") ? NULL
                                                     : "does not begin with <think> ... </think>";
}

/* grpo.md 15.3: <think> filled </think> <answer> filled </answer>, each tag once; or TRL's
 * think-only form. */
static struct verdict score_format_think(const struct builtin_options *options,
                                         const struct score_sample *sample, struct text completion,
                                         struct text answer)
{
    struct text rest = completion;
    (void)answer;
    const char *reason = take_thought(options, opens_think(sample), completion, &rest);
    if (reason != NULL || options->is_think_only) {
        return (struct verdict){.value = reason == NULL ? 1.0 : 0.0, .reason = reason};
    }
    if (!occurs_once(completion, "<answer>") || !occurs_once(completion, "</answer>")) {
        return (struct verdict){.reason = "answer tags are not there exactly once"};
    }
    if (!take_tag(&rest, "<answer>") || !take_content(&rest, "</answer>") ||
        text_trim(rest).n > 0) {
        return (struct verdict){.reason = "does not end with <answer> ... </answer>"};
    }
    return (struct verdict){.value = 1.0};
}

static const struct builtin_kind kinds[] = {
    {"exact", " case squeeze_space require_think require_stop ", true, score_exact},
    {"regex", " pattern group require_stop ", false, score_regex},
    {"numeric", " tolerance require_think require_stop ", true, score_numeric},
    {"boxed_math", " percent_mode require_think require_stop ", true, score_boxed_math},
    {"format_think", " style require_stop ", false, score_format_think},
    {"length", " scale ", false, score_length},
};

const char *builtin_names(void)
{
    return "exact, regex, numeric, boxed_math, format_think, length";
}

/* Whether value is of the kind that option `key` wants. */
static bool has_kind(const char *key, const struct json *value)
{
    static const struct {
        const char *keys;
        enum json_kind kind, other;
    } kinds_of[] = {{" case squeeze_space require_think require_stop ", JSON_BOOL, JSON_BOOL},
                    {" pattern style percent_mode ", JSON_STRING, JSON_STRING},
                    {" group ", JSON_INT, JSON_INT},
                    {" tolerance scale ", JSON_REAL, JSON_INT}};
    for (size_t i = 0; i < sizeof(kinds_of) / sizeof(kinds_of[0]); i++) {
        const char *found = strstr(kinds_of[i].keys, key);
        if (found != NULL && found[-1] == ' ' && found[strlen(key)] == ' ') {
            return json_is(value, kinds_of[i].kind) || json_is(value, kinds_of[i].other);
        }
    }
    return true;
}

static enum status check_keys(const struct builtin_kind *kind, const struct json *config)
{
    struct json_iterator it = {.object = config};
    while (config != NULL && json_next(&it)) {
        char key[64] = " ";
        const size_t n = it.key_bytes;
        if (n < sizeof(key) - 2) {
            memcpy(key + 1, it.key, n);
            key[n + 1] = ' ';
        }
        if (n >= sizeof(key) - 2 || strchr(it.key, ' ') != NULL ||
            strstr(kind->keys, key) == NULL) {
            return status_set(STATUS_BAD_CONFIG, "builtin:%s has no option %s; it has:%s",
                              kind->name, it.key, kind->keys);
        }
        if (!has_kind(it.key, it.value)) {
            return status_set(STATUS_BAD_CONFIG,
                              "builtin:%s: option %s has a value of a wrong kind", kind->name,
                              it.key);
        }
    }
    return STATUS_OK;
}

static enum status choose(const struct json *config, const char *key, const char *fallback,
                          const char *other, bool *is_other)
{
    const char *value = json_text(json_get(config, key), fallback);
    *is_other = strcmp(value, other) == 0;
    if (!*is_other && strcmp(value, fallback) != 0) {
        return status_set(STATUS_BAD_CONFIG, "%s: %s, wanted %s or %s", key, value, fallback,
                          other);
    }
    return STATUS_OK;
}

static enum status read_options(const struct json *config, struct builtin_options *out)
{
    *out = (struct builtin_options){
        .is_case_sensitive = json_bool(json_get(config, "case"), true),
        .squeezes_space = json_bool(json_get(config, "squeeze_space"), false),
        .requires_think = json_bool(json_get(config, "require_think"), false),
        .requires_stop = json_bool(json_get(config, "require_stop"), false),
        .group = (long)json_int(json_get(config, "group"), -1),
        .tolerance = json_number(json_get(config, "tolerance"), 1e-6),
        .scale = json_number(json_get(config, "scale"), 1.0),
    };
    TRY(choose(config, "style", "full", "think_only", &out->is_think_only));
    return choose(config, "percent_mode", "both", "strict", &out->is_percent_strict);
}

static const struct builtin_kind *find_kind(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

static enum status prepare_pattern(const struct json *config, struct builtin *builtin)
{
    const char *pattern = json_text(json_get(config, "pattern"), NULL);
    if (builtin->kind->score != score_regex) {
        return STATUS_OK;
    }
    if (pattern == NULL) {
        return status_set(STATUS_BAD_CONFIG, "builtin:regex needs the option pattern");
    }
    return regex_compile(pattern, builtin->options.group, &builtin->options.pattern);
}

enum status builtin_create(const char *name, const struct json *config, struct builtin **out)
{
    struct builtin *builtin = NULL;
    const struct builtin_kind *kind = find_kind(name);
    *out = NULL;
    if (kind == NULL) {
        return status_set(STATUS_BAD_CONFIG, "no scorer builtin:%s; there are: %s", name,
                          builtin_names());
    }
    TRY(check_keys(kind, config));
    TRY(memory_alloc(1, sizeof(*builtin), &builtin));
    builtin->kind = kind;
    enum status status = read_options(config, &builtin->options);
    if (status == STATUS_OK) {
        status = prepare_pattern(config, builtin);
    }
    if (status != STATUS_OK) {
        builtin_destroy(builtin);
        return status;
    }
    *out = builtin;
    return STATUS_OK;
}

void builtin_destroy(struct builtin *builtin)
{
    if (builtin != NULL) {
        regex_free(builtin->options.pattern);
        memory_free(builtin);
    }
}

/* {"extracted": ..., "reason": ...}; NULL when there is nothing to say or no memory for it. */
static char *make_detail(const struct verdict *verdict)
{
    enum { EXTRACT_MAX = 512 };
    struct json *detail = json_object_create();
    char *text = NULL;
    size_t n = verdict->extracted.n < EXTRACT_MAX ? verdict->extracted.n : EXTRACT_MAX;
    enum status status = STATUS_OK;
    if (verdict->extracted.data != NULL) {
        status = json_put(detail, "extracted", json_from_text(verdict->extracted.data, n));
    }
    if (status == STATUS_OK && verdict->reason != NULL) {
        status = json_put(detail, verdict->status == SCORE_ERROR ? "msg" : "reason",
                          json_from_text(verdict->reason, strlen(verdict->reason)));
    }
    if (status == STATUS_OK && verdict->status == SCORE_ERROR) {
        status = json_put(detail, "kind", json_from_text("exception", 9));
    }
    if (status != STATUS_OK || json_count(detail) == 0 ||
        json_print(detail, &text, &n) != STATUS_OK) {
        text = NULL;
    }
    json_destroy(detail);
    return text;
}

static struct verdict judge(const struct builtin *builtin, const struct score_sample *sample,
                            struct text completion)
{
    char *printed = NULL;
    struct text answer = {NULL, 0};
    const enum json_kind kind = json_kind_of(sample->answer);
    if (kind == JSON_STRING) {
        answer = (struct text){json_text(sample->answer, ""), json_text_bytes(sample->answer)};
    } else if (kind != JSON_NULL && json_print(sample->answer, &printed, &answer.n) == STATUS_OK) {
        answer.data = printed;
    }
    const bool compares = builtin->kind->needs_answer || builtin->options.group >= 0;
    struct verdict verdict = {.status = SCORE_NA};
    if (answer.data != NULL || !compares) {
        verdict = builtin->kind->score(&builtin->options, sample, completion, answer);
    }
    memory_free(printed);
    return verdict;
}

void builtin_score(const struct builtin *builtin, const struct score_sample *sample,
                   struct score *score)
{
    const int64_t begin_us = clock_now_us();
    char *repaired = NULL;
    size_t n = sample->completion_bytes < COMPLETION_BYTES_MAX ? sample->completion_bytes
                                                               : COMPLETION_BYTES_MAX;
    bool is_lossy = false;
    struct verdict verdict = {.status = SCORE_ERROR, .reason = "no memory"};
    if (utf8_repair(sample->completion, n, &repaired, &n, &is_lossy) == STATUS_OK) {
        const bool is_cut = builtin->options.requires_stop && strcmp(sample->finish, "stop") != 0;
        verdict = is_cut ? (struct verdict){.reason = "did not end by itself"}
                         : judge(builtin, sample, (struct text){repaired, n});
    }
    *score = (struct score){.status = verdict.status,
                            .value = verdict.value,
                            .detail = make_detail(&verdict),
                            .us = clock_now_us() - begin_us,
                            .tries = 1};
    memory_free(repaired);
}
