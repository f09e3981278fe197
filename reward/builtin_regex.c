/* builtin:regex: PCRE2 with limits, so that no pattern and no completion can hang the service; a
 * limit that is hit is an error, never a match. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "reward/builtin_internal.h"

#include <pcre2.h>

#define MATCH_LIMIT 1000000u
#define DEPTH_LIMIT 10000u

enum status regex_compile(const char *pattern, void **out)
{
    int error = 0;
    PCRE2_SIZE offset = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                         &offset, NULL);
    if (*out == NULL) {
        PCRE2_UCHAR message[128] = {0};
        (void)pcre2_get_error_message(error, message, sizeof(message));
        return status_set(STATUS_BAD_CONFIG, "pattern %s: %s at character %zu", pattern,
                          (const char *)message, (size_t)offset);
    }
    return STATUS_OK;
}

void regex_free(void *pattern)
{
    pcre2_code_free(pattern);
}

struct last_match {
    size_t begin, end; /* of the wanted group */
    bool is_found, has_failed;
};

/* The last match, scanning forward without overlaps. */
static struct last_match scan(const struct builtin_options *options, struct text text,
                              pcre2_match_data *data, pcre2_match_context *context)
{
    struct last_match last = {0};
    const size_t group = options->group < 0 ? 0 : (size_t)options->group;
    size_t start = 0;
    while (start <= text.n) {
        const int n = pcre2_match(options->pattern, (PCRE2_SPTR)text.data, text.n, start,
                                  PCRE2_NO_UTF_CHECK, data, context);
        if (n < 0) {
            last.has_failed = n != PCRE2_ERROR_NOMATCH;
            break;
        }
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(data);
        if (group < pcre2_get_ovector_count(data) && ends[2 * group] != PCRE2_UNSET) {
            last.is_found = true;
            last.begin = ends[2 * group];
            last.end = ends[2 * group + 1];
        }
        start = ends[1] > start ? ends[1] : start + 1;
        while (start < text.n && ((unsigned char)text.data[start] & 0xC0U) == 0x80U) {
            start++;
        }
    }
    return last;
}

struct verdict score_regex(const struct builtin_options *options, const struct score_sample *sample,
                           struct text completion, struct text answer)
{
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(options->pattern, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    struct last_match last = {.has_failed = true};
    (void)sample;
    if (data != NULL && context != NULL) {
        (void)pcre2_set_match_limit(context, MATCH_LIMIT);
        (void)pcre2_set_depth_limit(context, DEPTH_LIMIT);
        last = scan(options, completion, data, context);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (last.has_failed) {
        return (struct verdict){.status = SCORE_ERROR, .reason = "match limit reached"};
    }
    if (!last.is_found) {
        return (struct verdict){.reason = "no match"};
    }
    const struct text found = {completion.data + last.begin, last.end - last.begin};
    const bool is_right = options->group < 0 || text_equal(text_trim(found), text_trim(answer));
    return (struct verdict){.value = is_right ? 1.0 : 0.0, .extracted = found};
}
