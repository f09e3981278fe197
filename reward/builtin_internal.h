/* What the built-in scorers share: options, text helpers, the way to a verdict. */
#ifndef HONE_REWARD_BUILTIN_INTERNAL_H
#define HONE_REWARD_BUILTIN_INTERNAL_H

#include "reward/builtin.h"

#include <stdbool.h>
#include <stddef.h>

#define COMPLETION_BYTES_MAX ((size_t)1 << 20) /* no more of a completion is read */

struct text {
    const char *data;
    size_t n;
};

/* Options of all scorers; each uses its own (the table says which keys it knows). */
struct builtin_options {
    bool is_case_sensitive, squeezes_space, requires_think, requires_stop, is_think_only;
    long group;       /* regex: capture group compared with the answer, -1: a match is enough */
    double tolerance; /* numeric */
    double scale;     /* length */
    bool is_percent_strict;
    void *pattern; /* compiled, regex only */
};

struct builtin {
    const struct builtin_kind *kind;
    struct builtin_options options;
};

/* A judgement: 1 or 0 with an optional reason. Everything but value and reason may be NULL. */
struct verdict {
    enum score_status status;
    double value;
    const char *reason; /* static text */
    struct text extracted;
};

struct builtin_kind {
    const char *name;
    const char *keys; /* " case squeeze_space " */
    bool needs_answer;
    struct verdict (*score)(const struct builtin_options *options,
                            const struct score_sample *sample, struct text completion,
                            struct text answer);
};

/* What counts as the answer part: after the last </think>, or all of it when there is none and it
 * is not required (data NULL: required and missing). */
struct text text_final_part(const struct builtin_options *options, struct text completion);
bool text_is_space(char c); /* of ASCII */
struct text text_trim(struct text text);
bool text_equal(struct text a, struct text b);
/* Last occurrence of needle, or NULL. */
const char *text_find_last(struct text haystack, const char *needle);
const char *text_find(struct text haystack, const char *needle);
struct text text_from(const char *literal);

struct verdict score_regex(const struct builtin_options *options, const struct score_sample *sample,
                           struct text completion, struct text answer);
/* Compiles; the pattern is freed with regex_free. Errors: BAD_CONFIG (also when it has no capture
 * group of that number). */
MUST_CHECK enum status regex_compile(const char *pattern, long group, void **out);
void regex_free(void *pattern);
struct verdict score_numeric(const struct builtin_options *options,
                             const struct score_sample *sample, struct text completion,
                             struct text answer);
struct verdict score_boxed_math(const struct builtin_options *options,
                                const struct score_sample *sample, struct text completion,
                                struct text answer);

#endif
