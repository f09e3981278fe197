/* builtin:regex: PCRE2 with limits, so that no pattern and no completion can hang the service; a
 * limit that is hit is an error, never a match. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "reward/builtin_internal.h"

#include "base/clock.h"

#include <pcre2.h>

#define MATCH_LIMIT 1000000u
#define DEPTH_LIMIT 10000u
#define FIRST_WINDOW ((size_t)16) /* starting places tried between two looks at the clock */
#define FAST_US 1000
#define TIME_LIMIT_US INT64_C(1000000)

enum status regex_compile(const char *pattern, long group, void **out)
{
    int error = 0;
    PCRE2_SIZE offset = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_USE_OFFSET_LIMIT, &error, &offset, NULL);
    if (*out == NULL) {
        PCRE2_UCHAR message[128] = {0};
        (void)pcre2_get_error_message(error, message, sizeof(message));
        return status_set(STATUS_BAD_CONFIG, "pattern %s: %s at character %zu", pattern,
                          (const char *)message, (size_t)offset);
    }
    uint32_t n_groups = 0;
    (void)pcre2_pattern_info(*out, PCRE2_INFO_CAPTURECOUNT, &n_groups);
    if (group > (long)n_groups) {
        return status_set(STATUS_BAD_CONFIG, "pattern %s has %u groups, group is %ld", pattern,
                          n_groups, group);
    }
    return STATUS_OK;
}

void regex_free(void *pattern)
{
    pcre2_code_free(pattern);
}

struct last_match {
    size_t begin, end; /* of the wanted group */
    bool is_found;
    const char *failure; /* NULL, or why there is no verdict */
};

/* A scan in progress. PCRE2's limits hold for one starting place; between windows of them the clock
 * is looked at, so that a pattern that is slow at every place ends too. */
struct scan {
    pcre2_match_data *data;
    pcre2_match_context *context;
    size_t start, window;
    int64_t deadline_us;
};

/* The next match that begins within the window: its code, or NOMATCH. */
static int match_window(const struct builtin_options *options, struct text text, struct scan *scan)
{
    const int64_t begin_us = clock_now_us();
    const size_t left = text.n - scan->start;
    (void)pcre2_set_offset_limit(scan->context,
                                 scan->window < left ? scan->start + scan->window : text.n);
    const int code = pcre2_match(options->pattern, (PCRE2_SPTR)text.data, text.n, scan->start,
                                 PCRE2_NO_UTF_CHECK, scan->data, scan->context);
    const int64_t us = clock_now_us() - begin_us;
    if (code == PCRE2_ERROR_NOMATCH) {
        scan->start = scan->window < left ? scan->start + scan->window : text.n + 1;
        scan->window = us < FAST_US ? 2 * scan->window : scan->window / 2 + 1;
    }
    return code;
}

/* The start of the next character at or after `at`. */
static size_t next_character(struct text text, size_t at)
{
    while (at < text.n && ((unsigned char)text.data[at] & 0xC0U) == 0x80U) {
        at++;
    }
    return at;
}

/* The last match, scanning forward without overlaps. */
static struct last_match scan_text(const struct builtin_options *options, struct text text,
                                   struct scan *scan)
{
    struct last_match last = {0};
    const size_t group = options->group < 0 ? 0 : (size_t)options->group;
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(scan->data);
    while (scan->start <= text.n) {
        scan->start = next_character(text, scan->start);
        const int code = match_window(options, text, scan);
        if (clock_now_us() > scan->deadline_us) {
            last.failure = "no time left";
            break;
        }
        if (code == PCRE2_ERROR_NOMATCH) {
            continue;
        }
        if (code < 0) {
            last.failure = "match limit reached";
            break;
        }
        if (group < pcre2_get_ovector_count(scan->data) && ends[2 * group] != PCRE2_UNSET) {
            last.is_found = true;
            last.begin = ends[2 * group];
            last.end = ends[2 * group + 1];
        }
        scan->start = ends[1] > scan->start ? ends[1] : scan->start + 1;
    }
    return last;
}

struct verdict score_regex(const struct builtin_options *options, const struct score_sample *sample,
                           struct text completion, struct text answer)
{
    struct scan scan = {.data = pcre2_match_data_create_from_pattern(options->pattern, NULL),
                        .context = pcre2_match_context_create(NULL),
                        .window = FIRST_WINDOW,
                        .deadline_us = clock_now_us() + TIME_LIMIT_US};
    struct last_match last = {.failure = "no memory"};
    (void)sample;
    if (scan.data != NULL && scan.context != NULL) {
        (void)pcre2_set_match_limit(scan.context, MATCH_LIMIT);
        (void)pcre2_set_depth_limit(scan.context, DEPTH_LIMIT);
        last = scan_text(options, completion, &scan);
    }
    pcre2_match_data_free(scan.data);
    pcre2_match_context_free(scan.context);
    if (last.failure != NULL) {
        return (struct verdict){.status = SCORE_ERROR, .reason = last.failure};
    }
    if (!last.is_found) {
        return (struct verdict){.reason = "no match"};
    }
    const struct text found = {completion.data + last.begin, last.end - last.begin};
    const bool is_right = options->group < 0 || text_equal(text_trim(found), text_trim(answer));
    return (struct verdict){.value = is_right ? 1.0 : 0.0, .extracted = found};
}
