/* Owns the normalizer: a sequence of rewritings of the text between added tokens. */
#include "base/memory.h"
#include "model/tokenizer_internal.h"

#include <string.h>

#define STEPS_MAX 64u
#define DEPTH_MAX 8u

/* --- Reading --- */

static const struct {
    const char *name;
    enum normalize_kind kind;
    enum text_form form;
} plain_kinds[] = {
    {"NFC", NORMALIZE_FORM, TEXT_NFC},   {"NFD", NORMALIZE_FORM, TEXT_NFD},
    {"NFKC", NORMALIZE_FORM, TEXT_NFKC}, {"NFKD", NORMALIZE_FORM, TEXT_NFKD},
    {"Lowercase", NORMALIZE_LOWER, 0},   {"StripAccents", NORMALIZE_ACCENTS, 0},
    {"Strip", NORMALIZE_STRIP, 0},       {"Prepend", NORMALIZE_PREPEND, 0},
    {"Replace", NORMALIZE_REPLACE, 0},
};

/* What a kind needs beside its name. */
static enum status read_details(const struct json *value, struct normalize_step *step)
{
    if (step->kind == NORMALIZE_STRIP) {
        step->strips_left = json_bool(json_get(value, "strip_left"), true);
        step->strips_right = json_bool(json_get(value, "strip_right"), true);
    }
    if (step->kind == NORMALIZE_PREPEND) {
        const struct json *text = json_get(value, "prepend");
        step->replace.content_bytes = json_text_bytes(text);
        return memory_copy_text(json_text(text, ""), json_text_bytes(text), &step->replace.content);
    }
    if (step->kind == NORMALIZE_REPLACE) {
        return text_replace_load(value, &step->replace);
    }
    return STATUS_OK;
}

static enum status read_step(const struct json *value, struct normalizer *normalizer)
{
    const char *type = json_text(json_get(value, "type"), "(none)");

    if (normalizer->n_steps == STEPS_MAX) {
        return status_set(STATUS_UNSUPPORTED, "normalizer with more than %u steps", STEPS_MAX);
    }
    for (size_t i = 0; i < sizeof(plain_kinds) / sizeof(plain_kinds[0]); i++) {
        if (strcmp(type, plain_kinds[i].name) == 0) {
            struct normalize_step *step = &normalizer->steps[normalizer->n_steps++];
            step->kind = plain_kinds[i].kind;
            step->form = plain_kinds[i].form;
            const enum status status = read_details(value, step);
            return status == STATUS_OK ? status : status_wrap(status, "normalizer %s", type);
        }
    }
    return status_set(STATUS_UNSUPPORTED, "normalizer %s", type);
}

/* A Sequence may hold a Sequence; the file's depth is bounded, so the recursion is too. */
static enum status read_steps(const struct json *value, unsigned depth,
                              struct normalizer *normalizer)
{
    const struct json *list = json_get(value, "normalizers");

    if (json_is(value, JSON_NULL)) {
        return STATUS_OK;
    }
    if (strcmp(json_text(json_get(value, "type"), ""), "Sequence") != 0) {
        return read_step(value, normalizer);
    }
    if (depth == DEPTH_MAX) {
        return status_set(STATUS_UNSUPPORTED, "normalizer: sequences in sequences");
    }
    TRY(check_list(list, "normalizer Sequence: \"normalizers\""));
    for (size_t i = 0; i < json_count(list); i++) {
        TRY(read_steps(json_at(list, i), depth + 1, normalizer));
    }
    return STATUS_OK;
}

enum status normalizer_load(const struct json *value, struct normalizer *out)
{
    *out = (struct normalizer){0};
    TRY(memory_alloc(STEPS_MAX, sizeof(*out->steps), &out->steps));
    const enum status status = read_steps(value, 0, out);
    if (status != STATUS_OK) {
        normalizer_dispose(out);
    }
    return status;
}

void normalizer_dispose(struct normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        text_replace_dispose(&normalizer->steps[i].replace);
    }
    memory_free(normalizer->steps);
    *normalizer = (struct normalizer){0};
}

bool normalizer_can_remove(const struct normalizer *normalizer)
{
    bool can_remove = false;

    for (size_t i = 0; i < normalizer->n_steps; i++) {
        const enum normalize_kind kind = normalizer->steps[i].kind;
        can_remove = can_remove || kind == NORMALIZE_STRIP || kind == NORMALIZE_REPLACE ||
                     kind == NORMALIZE_ACCENTS;
    }
    return can_remove;
}

/* --- Running --- */

static enum status run_strip(const struct normalize_step *step, const char *text, size_t n,
                             struct text_buffer *out)
{
    const size_t left = step->strips_left ? text_leading_space(text, n) : 0;
    const size_t right = step->strips_right ? text_trailing_space(text + left, n - left) : 0;

    return text_buffer_put(out, text + left, n - left - right);
}

static enum status run_prepend(const struct text_replace *prefix, const char *text, size_t n,
                               struct text_buffer *out)
{
    TRY(text_buffer_put(out, prefix->content, n > 0 ? prefix->content_bytes : 0));
    return text_buffer_put(out, text, n);
}

static enum status run_step(const struct normalize_step *step, const char *text, size_t n,
                            struct normalize_scratch *scratch)
{
    struct text_buffer *out = &scratch->text;

    switch (step->kind) {
    case NORMALIZE_FORM:
        return text_normalize(step->form, text, n, out);
    case NORMALIZE_LOWER:
        return text_lower(text, n, out);
    case NORMALIZE_ACCENTS:
        return text_without_marks(text, n, out);
    case NORMALIZE_STRIP:
        return run_strip(step, text, n, out);
    case NORMALIZE_PREPEND:
        return run_prepend(&step->replace, text, n, out);
    case NORMALIZE_REPLACE:
        break;
    }
    if (scratch->matcher == NULL) {
        TRY(regex_matcher_create(&scratch->matcher));
    }
    return text_replace_run(&step->replace, scratch->matcher, text, n, out);
}

enum status normalizer_run(const struct normalizer *normalizer, struct normalize_scratch *scratch,
                           const char **text, size_t *n)
{
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        const struct text_buffer used = scratch->text; /* may hold *text */
        scratch->text = scratch->other;
        scratch->other = used;
        scratch->text.count = 0;
        TRY(text_buffer_reserve(&scratch->text, *n));
        TRY(run_step(&normalizer->steps[i], *text, *n, scratch));
        *text = scratch->text.bytes;
        *n = scratch->text.count;
    }
    return STATUS_OK;
}

void normalize_scratch_dispose(struct normalize_scratch *scratch)
{
    regex_matcher_destroy(scratch->matcher);
    text_buffer_dispose(&scratch->text);
    text_buffer_dispose(&scratch->other);
    *scratch = (struct normalize_scratch){0};
}
