#include "reward/math_text.h"

#include <string.h>

struct rewrite {
    const char *from, *to;
};

/* In order; longer spellings before their prefixes. The control characters are those of
 * math_relation.h. */
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
    {"+\\infty", "inf"},
    {"\\infty", "inf"},
    {"\\leqslant", "\x01"},
    {"\\leq", "\x01"},
    {"\\le", "\x01"},
    {"<=", "\x01"},
    {"\xe2\x89\xa4", "\x01"},
    {"\\geqslant", "\x02"},
    {"\\geq", "\x02"},
    {"\\ge", "\x02"},
    {">=", "\x02"},
    {"\xe2\x89\xa5", "\x02"},
    {"\\neq", "\x03"},
    {"\\ne", "\x03"},
    {"\\lt", "<"},
    {"\\gt", ">"},
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

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* A blank that parts two numbers: 1 1/2 is not 11/2. */
static bool is_between_digits(struct text text, const struct writer *w)
{
    return text.n > 1 && is_digit(text.data[1]) && w->n > 0 && is_digit(w->out[w->n - 1]);
}

static size_t rewrite_one(struct text text, struct writer *w)
{
    for (size_t i = 0; i < sizeof(rewrites) / sizeof(rewrites[0]); i++) {
        if (starts_with(text, rewrites[i].from)) {
            put(w, rewrites[i].to, strlen(rewrites[i].to));
            return strlen(rewrites[i].from);
        }
    }
    if (text.n >= 3 && memcmp(text.data, "\xef\xbc", 2) == 0) { /* full-width digits */
        const unsigned digit = (unsigned char)text.data[2] - 0x90U;
        const char ascii = (char)('0' + (digit < 10 ? digit : 0));
        put(w, digit < 10 ? &ascii : text.data, digit < 10 ? 1 : 3);
        return 3;
    }
    if (!is_blank(text.data[0]) || is_between_digits(text, w)) {
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

/* Length of the argument at the start of text: a group in braces, a macro, or one character. */
static size_t argument_length(struct text text)
{
    const size_t n = braced(text);
    if (n > 0 || text.data[0] != '\\') {
        return n > 0 ? n : 1;
    }
    size_t end = 1;
    while (end < text.n && ((text.data[end] >= 'a' && text.data[end] <= 'z') ||
                            (text.data[end] >= 'A' && text.data[end] <= 'Z'))) {
        end++;
    }
    return end;
}

/* How many arguments of the macro at the start of text must be in braces; 0 for anything else. */
static size_t count_arguments(struct text text)
{
    return starts_with(text, "\\frac") ? 2 : starts_with(text, "\\sqrt") ? 1 : 0;
}

static void brace_arguments(struct text text, struct writer *w);

/* Copies the argument at the start of text, in braces whether it had them or not. */
static size_t put_argument(struct text text, struct writer *w)
{
    const size_t edge = text.data[0] == '{' ? 1 : 0;
    const size_t n = argument_length(text);
    put(w, "{", 1);
    brace_arguments((struct text){text.data + edge, n - 2 * edge}, w);
    put(w, "}", 1);
    return n;
}

/* Length of "[3]" at the start of text, the degree of a root; 0 when it is not one. */
static size_t degree_length(struct text text)
{
    const char *end = text.data[0] == '[' ? memchr(text.data, ']', text.n) : NULL;
    return end == NULL ? 0 : (size_t)(end - text.data) + 1;
}

/* Copies what stands at the start of text; *n_expected: arguments that the macro before still
 * wants. Returns how much of text that was. */
static size_t brace_one(struct text text, size_t *n_expected, struct writer *w)
{
    const size_t n_more = count_arguments(text);
    const size_t n_degree = *n_expected > 0 ? degree_length(text) : 0;
    const bool is_group = braced(text) > 0;
    if (n_more > 0) {
        *n_expected = n_more;
        put(w, text.data, strlen("\\frac"));
        return strlen("\\frac");
    }
    if (n_degree > 0) {
        put(w, text.data, n_degree);
        return n_degree;
    }
    if (!is_group && (*n_expected == 0 || text.data[0] == '{')) {
        put(w, text.data, 1);
        return 1;
    }
    *n_expected -= *n_expected > 0 ? 1 : 0;
    return put_argument(text, w);
}

/* \frac12 -> \frac{1}{2}, \sqrt2 -> \sqrt{2}: arguments without braces get them. */
static void brace_arguments(struct text text, struct writer *w)
{
    size_t n_expected = 0;
    for (size_t i = 0; i < text.n;) {
        i += brace_one((struct text){text.data + i, text.n - i}, &n_expected, w);
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
    struct writer second = {0};
    second.out = out;
    if (text.n >= MATH_TEXT_MAX) {
        return false;
    }
    strip_dressing(text, &first);
    const struct text shaved = shave((struct text){stripped, drop_separators(stripped, first.n)});
    brace_arguments(shaved, &second);
    *n_out = second.n;
    return !first.is_full && !second.is_full;
}

/* `\boxed 5`: up to white space or the end of the formula. */
static bool next_token(struct text text, struct text *out)
{
    const struct text rest = text_trim(text);
    size_t n = 0;
    while (n < rest.n && rest.data[n] != ' ' && rest.data[n] != '\n' && rest.data[n] != '$') {
        n++;
    }
    out->data = rest.data;
    out->n = n;
    return text.n > 0 && text.data[0] == ' ' && n > 0 && rest.data[0] != '{';
}

bool math_find_boxed(struct text text, struct text *out)
{
    const char *boxed = text_find_last(text, "\\boxed");
    const char *fbox = text_find_last(text, "\\fbox");
    const bool is_fbox = fbox != NULL && (boxed == NULL || fbox > boxed);
    if (boxed == NULL && fbox == NULL) {
        return false;
    }
    const char *begin = is_fbox ? fbox + strlen("\\fbox") : boxed + strlen("\\boxed");
    const struct text rest = {begin, text.n - (size_t)(begin - text.data)};
    const size_t n = braced(rest);
    struct text found = {begin + 1, n - 2};
    const bool is_found = n >= 2 || next_token(rest, &found);
    if (is_found) {
        out->data = found.data;
        out->n = found.n;
    }
    return is_found;
}
