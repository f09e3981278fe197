#include "reward/math_text.h"

#include <string.h>

struct rewrite {
    const char *from, *to;
};

/* In order; longer spellings before their prefixes. */
static const struct rewrite rewrites[] = {
    {"\\left", ""},
    {"\\right", ""},
    {"\\!", ""},
    {"\\,", ""},
    {"\\;", ""},
    {"\\:", ""},
    {"\\ ", ""},
    {"~", ""},
    {"\\dfrac", "\\frac"},
    {"\\tfrac", "\\frac"},
    {"\\cfrac", "\\frac"},
    {"^{\\circ}", ""},
    {"^\\circ", ""},
    {"\\circ", ""},
    {"\\degree", ""},
    {"\\%", "%"},
    {"\\$", ""},
    {"$", ""},
    {"\\(", ""},
    {"\\)", ""},
    {"\\[", ""},
    {"\\]", ""},
    {"\\cdot", "*"},
    {"\\times", "*"},
    {"\\div", "/"},
    {"\\{", "{{"},
    {"\\}", "}}"},
    {"\\lbrace", "{{"},
    {"\\rbrace", "}}"},
    {"\xe2\x88\x92", "-"},
    {"\xc3\x97", "*"},
    {"\xc2\xb0", ""},
    {"\xcf\x80", "\\pi"},
    {"\\infty", "inf"},
    {"\\displaystyle", ""},
    {"\\quad", ""},
};

/* Macros whose argument is words, not mathematics: dropped with it, unless it is all there is. */
static const char *const word_macros[] = {"\\text", "\\mathrm", "\\mbox", "\\textbf", "\\mathbf"};

struct writer {
    char *out;
    size_t n;
    bool is_full;
};

static void put(struct writer *w, const char *text, size_t n)
{
    if (w->n + n >= MATH_TEXT_MAX) {
        w->is_full = true;
        return;
    }
    memcpy(w->out + w->n, text, n);
    w->n += n;
}

static bool starts_with(struct text text, const char *prefix)
{
    const size_t n = strlen(prefix);
    return text.n >= n && memcmp(text.data, prefix, n) == 0;
}

/* Length of "{...}" at the start of text, braces included; 0 when it is not one. */
static size_t braced(struct text text)
{
    size_t depth = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.data[i] == '\\' && i + 1 < text.n) {
            i++;
        } else if (text.data[i] == '{') {
            depth++;
        } else if (text.data[i] == '}') {
            depth--;
            if (depth == 0) {
                return i + 1;
            }
        }
        if (depth == 0) {
            return 0;
        }
    }
    return 0;
}

/* \text{...}: length of macro and argument, and where the argument is; 0 when text does not start
 * so. */
static size_t word_macro(struct text text, struct text *argument)
{
    for (size_t i = 0; i < sizeof(word_macros) / sizeof(word_macros[0]); i++) {
        const size_t n = strlen(word_macros[i]);
        if (starts_with(text, word_macros[i])) {
            const size_t m = braced((struct text){text.data + n, text.n - n});
            if (m >= 2) {
                *argument = (struct text){text.data + n + 1, m - 2};
                return n + m;
            }
        }
    }
    return 0;
}

static size_t rewrite_one(struct text text, struct writer *w)
{
    for (size_t i = 0; i < sizeof(rewrites) / sizeof(rewrites[0]); i++) {
        if (starts_with(text, rewrites[i].from)) {
            put(w, rewrites[i].to, strlen(rewrites[i].to));
            return strlen(rewrites[i].from);
        }
    }
    if (text.data[0] != ' ' && text.data[0] != '\n' && text.data[0] != '\t') {
        put(w, text.data, 1);
    }
    return 1;
}

/* A unit after a value goes; words that are the whole answer stay. */
static void strip_dressing(struct text text, struct writer *w)
{
    const struct text whole = text_trim(text);
    struct text argument = {NULL, 0};
    if (word_macro(whole, &argument) == whole.n && whole.n > 0) {
        strip_dressing(argument, w);
        return;
    }
    for (size_t i = 0; i < whole.n;) {
        const struct text rest = {whole.data + i, whole.n - i};
        const size_t n = word_macro(rest, &argument);
        if (n > 0 && w->n > 0) {
            i += n;
        } else if (n > 0) {
            strip_dressing(argument, w);
            i += n;
        } else {
            i += rewrite_one(rest, w);
        }
    }
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* 1,234 and 1{,}234 -> 1234 */
static size_t drop_separators(char *s, size_t n)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        const bool is_braced = i + 2 < n && memcmp(s + i, "{,}", 3) == 0;
        const size_t skip = is_braced ? 3 : 1;
        const bool is_between = i > 0 && is_digit(s[i - 1]) && i + skip + 2 < n &&
                                is_digit(s[i + skip]) && is_digit(s[i + skip + 1]) &&
                                is_digit(s[i + skip + 2]) &&
                                (i + skip + 3 >= n || !is_digit(s[i + skip + 3]));
        if ((s[i] == ',' || is_braced) && is_between) {
            i += skip - 1;
        } else {
            s[m++] = s[i];
        }
    }
    return m;
}

/* \frac12 -> \frac{1}{2}, \sqrt2 -> \sqrt{2}: arguments without braces get them. */
static void brace_arguments(struct text text, struct writer *w)
{
    size_t n_arguments = 0; /* still expected */
    for (size_t i = 0; i < text.n;) {
        const struct text rest = {text.data + i, text.n - i};
        if (starts_with(rest, "\\frac") || starts_with(rest, "\\sqrt")) {
            n_arguments = rest.data[1] == 'f' ? 2 : 1;
            put(w, rest.data, 5);
            i += 5;
        } else if (n_arguments > 0 && rest.data[0] != '{' && rest.data[0] != '[' &&
                   rest.data[0] != '\\') {
            put(w, "{", 1);
            put(w, rest.data, 1);
            put(w, "}", 1);
            n_arguments--;
            i++;
        } else {
            const size_t n = rest.data[0] == '{' ? braced(rest) : 0;
            n_arguments -= n_arguments > 0 && n > 0 ? 1 : 0;
            put(w, rest.data, 1);
            i++;
            if (n > 2) {
                brace_arguments((struct text){rest.data + 1, n - 2}, w);
                put(w, "}", 1);
                i += n - 1;
            }
        }
    }
}

/* x=5 -> 5 for a single letter; a trailing point and a leading plus go. */
static struct text shave(struct text text)
{
    const bool has_letter = text.n > 2 && text.data[1] == '=' &&
                            ((text.data[0] >= 'a' && text.data[0] <= 'z') ||
                             (text.data[0] >= 'A' && text.data[0] <= 'Z'));
    if (has_letter) {
        text = (struct text){text.data + 2, text.n - 2};
    }
    if (text.n > 1 && text.data[text.n - 1] == '.') {
        text.n--;
    }
    if (text.n > 1 && text.data[0] == '+') {
        text = (struct text){text.data + 1, text.n - 1};
    }
    return text;
}

bool math_normalise(struct text text, char *out, size_t *n_out)
{
    char stripped[MATH_TEXT_MAX];
    struct writer first = {.out = stripped};
    struct writer second = {.out = out};
    if (text.n >= MATH_TEXT_MAX) {
        return false;
    }
    strip_dressing(text, &first);
    const struct text shaved = shave((struct text){stripped, drop_separators(stripped, first.n)});
    brace_arguments(shaved, &second);
    *n_out = second.n;
    return !first.is_full && !second.is_full;
}

bool math_find_boxed(struct text text, struct text *out)
{
    const char *boxed = text_find_last(text, "\\boxed");
    const char *fbox = text_find_last(text, "\\fbox");
    const bool is_fbox = fbox != NULL && (boxed == NULL || fbox > boxed);
    const char *begin = is_fbox ? fbox + 5 : boxed == NULL ? NULL : boxed + 6;
    if (begin == NULL) {
        return false;
    }
    struct text rest = {begin, text.n - (size_t)(begin - text.data)};
    const size_t n = braced(rest);
    if (n >= 2) {
        *out = (struct text){rest.data + 1, n - 2};
        return true;
    }
    if (rest.n == 0 || rest.data[0] != ' ') {
        return false;
    }
    rest = text_trim(rest);
    size_t end = 0;
    while (end < rest.n && rest.data[end] != ' ' && rest.data[end] != '\n' &&
           rest.data[end] != '$') {
        end++;
    }
    *out = (struct text){rest.data, end};
    return end > 0 && rest.data[0] != '{';
}
