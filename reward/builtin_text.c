/* Owns the spans of text that the built-in scorers look at. */
#include "reward/builtin_internal.h"

#include <string.h>

struct text text_from(const char *literal)
{
    return (struct text){literal, strlen(literal)};
}

bool text_is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct text text_trim(struct text text)
{
    while (text.n > 0 && text_is_space(text.data[0])) {
        text.data++;
        text.n--;
    }
    while (text.n > 0 && text_is_space(text.data[text.n - 1])) {
        text.n--;
    }
    return text;
}

bool text_equal(struct text a, struct text b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.data, b.data, a.n) == 0);
}

const char *text_find(struct text haystack, const char *needle)
{
    return haystack.n == 0 ? NULL : memmem(haystack.data, haystack.n, needle, strlen(needle));
}

const char *text_find_last(struct text haystack, const char *needle)
{
    const size_t n = strlen(needle);
    for (size_t i = haystack.n; i >= n && i > 0; i--) {
        if (memcmp(haystack.data + i - n, needle, n) == 0) {
            return haystack.data + i - n;
        }
    }
    return NULL;
}

struct text text_final_part(const struct builtin_options *options, struct text completion)
{
    static const char end_tag[] = "</think>";
    const char *end = text_find_last(completion, end_tag);
    if (end == NULL) {
        return options->requires_think ? (struct text){NULL, 0} : completion;
    }
    const char *begin = end + strlen(end_tag);
    return (struct text){begin, completion.n - (size_t)(begin - completion.data)};
}
