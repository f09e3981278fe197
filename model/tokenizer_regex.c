/* Owns compiling and running of pre-tokenizer patterns.
 *
 * The patterns mean what Oniguruma makes of them. Differences that matter:
 *   \s   is White_Space there; PCRE2 adds U+180E. Written out as ranges.
 *   $ ^  match at line ends there: PCRE2_MULTILINE, newline LF.
 *   \w \b \h \R \X and others, POSIX classes, nested classes and && mean something else or nothing
 *        in PCRE2: refused. So are inline flags except i, verbs, recursion and back references. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer_regex.h"

#include "base/memory.h"
#include "model/tokenizer_text.h"

#include <pcre2.h>
#include <stdint.h>
#include <string.h>

#define JIT_STACK_BYTES_MAX ((size_t)64 << 20)
#define MATCH_STEPS_MAX 50000000U
#define SPACE_RANGES                                                                               \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"   \
    "\\x{3000}"
#define NON_SPACE_RANGES                                                                           \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-"     \
    "\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

struct tokenizer_regex {
    pcre2_code *code;
    bool is_jit; /* false where the system forbids writing code */
};

struct regex_matcher {
    pcre2_general_context *general;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack; /* made when the 32 KiB of the machine stack do not do */
};

static void *take_memory(PCRE2_SIZE n, void *context)
{
    void *block = NULL;

    (void)context;
    return memory_alloc(n, 1, &block) == STATUS_OK ? block : NULL;
}

static void give_memory(void *block, void *context)
{
    (void)context;
    memory_free(block);
}

/* --- From Oniguruma to PCRE2 --- */

struct translation {
    const char *pattern;
    size_t n, at; /* at: the next byte to read */
    bool is_in_class;
    struct text_buffer out;
};

static enum status refuse(const struct translation *t, const char *what)
{
    return status_set(STATUS_UNSUPPORTED, "pattern at byte %zu: %s cannot be run here", t->at,
                      what);
}

static bool is_letter_or_digit(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static char peek(const struct translation *t, size_t ahead)
{
    if (t->at + ahead >= t->n) {
        return '\0';
    }
    return t->pattern[t->at + ahead];
}

/* Copies the next n bytes. */
static enum status copy_bytes(struct translation *t, size_t n)
{
    TRY(text_buffer_put(&t->out, t->pattern + t->at, n));
    t->at += n;
    return STATUS_OK;
}

/* Writes text in place of the next n bytes. */
static enum status replace_bytes(struct translation *t, size_t n, const char *text)
{
    t->at += n;
    return text_buffer_put(&t->out, text, strlen(text));
}

/* \uHHHH, which PCRE2 writes \x{HHHH}. */
static enum status translate_unicode_escape(struct translation *t)
{
    char text[] = "\\x{0000}";

    if (t->n - t->at < 6) {
        return refuse(t, "a cut \\u escape");
    }
    memcpy(text + 3, t->pattern + t->at + 2, 4);
    return replace_bytes(t, 6, text);
}

/* Length of \c, or of \c{...}, whose braces are no repetition. */
static size_t escape_bytes(const struct translation *t)
{
    const char *start = t->pattern + t->at;
    const char *brace = NULL;

    if (peek(t, 1) != '\0' && strchr("pPx", peek(t, 1)) != NULL && peek(t, 2) == '{') {
        brace = memchr(start, '}', t->n - t->at);
    }
    return brace == NULL ? 2 : (size_t)(brace - start) + 1;
}

static enum status translate_escape(struct translation *t)
{
    const char c = peek(t, 1);
    const char named[] = {'\\', c, '\0'};

    if (c == 's') {
        return replace_bytes(t, 2, t->is_in_class ? SPACE_RANGES : "[" SPACE_RANGES "]");
    }
    if (c == 'S') {
        return replace_bytes(t, 2, t->is_in_class ? NON_SPACE_RANGES : "[^" SPACE_RANGES "]");
    }
    if (c == 'u') {
        return translate_unicode_escape(t);
    }
    if (c == '\0' || (is_letter_or_digit((unsigned char)c) && strchr("pPdDrntfxAzZ", c) == NULL)) {
        return refuse(t, named);
    }
    return copy_bytes(t, escape_bytes(t));
}

static enum status translate_in_class(struct translation *t)
{
    const char c = peek(t, 0);

    if (c == '\\') {
        return translate_escape(t);
    }
    if (c == '[') {
        return refuse(t, "a class inside a class");
    }
    if (c == '&' && peek(t, 1) == '&') {
        return refuse(t, "the class intersection &&");
    }
    t->is_in_class = c != ']';
    return copy_bytes(t, 1);
}

/* "[" or "[^" and a "]" that stands first, where it is a member. */
static enum status translate_class_start(struct translation *t)
{
    size_t n = 1;

    t->is_in_class = true;
    if (peek(t, n) == '^') {
        n++;
    }
    if (peek(t, n) == ']') {
        n++;
    }
    return copy_bytes(t, n);
}

/* "(" and what decides about the group: plain, (?: (?= (?! (?> (?<= (?<! (?i: (?-i: (?i). */
static enum status translate_group(struct translation *t)
{
    size_t n = 2;

    if (peek(t, 1) == '*') {
        return refuse(t, "(*");
    }
    if (peek(t, 1) != '?') {
        return copy_bytes(t, 1);
    }
    if (peek(t, 2) == '<' && (peek(t, 3) == '=' || peek(t, 3) == '!')) {
        return copy_bytes(t, 4);
    }
    if (strchr("=!>", peek(t, 2)) != NULL && peek(t, 2) != '\0') {
        return copy_bytes(t, 3);
    }
    while (peek(t, n) == 'i' || peek(t, n) == '-') {
        n++;
    }
    if (peek(t, n) != ':' && peek(t, n) != ')') {
        return refuse(t, "this kind of group or flag");
    }
    return copy_bytes(t, n + 1);
}

static enum status translate_one(struct translation *t)
{
    const char c = peek(t, 0);

    if (t->is_in_class) {
        return translate_in_class(t);
    }
    if (c == '\\') {
        return translate_escape(t);
    }
    if (c == '[') {
        return translate_class_start(t);
    }
    if (c == '(') {
        return translate_group(t);
    }
    if ((c == '}' && peek(t, 1) == '+') || (c == '{' && peek(t, 1) == ',')) {
        return refuse(t, "this repetition");
    }
    return copy_bytes(t, 1);
}

static enum status translate_literal(struct translation *t)
{
    while (t->at < t->n) {
        const unsigned char c = (unsigned char)t->pattern[t->at];
        const bool is_sign = c > 0 && c < 0x80 && !is_letter_or_digit(c);
        TRY(text_buffer_put(&t->out, "\\", is_sign ? 1 : 0));
        TRY(copy_bytes(t, 1));
    }
    return STATUS_OK;
}

static enum status translate(struct translation *t, bool is_literal)
{
    if (is_literal) {
        return translate_literal(t);
    }
    while (t->at < t->n) {
        TRY(translate_one(t));
    }
    return text_buffer_reserve(&t->out, 0); /* an empty pattern is text too */
}

/* --- Compiling --- */

static enum status compile(const struct text_buffer *pattern, pcre2_general_context *general,
                           pcre2_compile_context *context, struct tokenizer_regex *regex)
{
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    PCRE2_UCHAR text[128] = "";
    PCRE2_SIZE offset = 0;
    int error = PCRE2_ERROR_NOMEMORY;

    if (general != NULL && context != NULL && pcre2_set_newline(context, PCRE2_NEWLINE_LF) == 0) {
        regex->code = pcre2_compile((PCRE2_SPTR)pattern->bytes, pattern->count, options, &error,
                                    &offset, context);
    }
    if (regex->code == NULL) {
        (void)pcre2_get_error_message(error, text, sizeof(text));
        const bool is_memory = error == PCRE2_ERROR_NOMEMORY || error == PCRE2_ERROR_HEAPLIMIT ||
                               error == PCRE2_ERROR_HEAP_FAILED;
        return status_set(is_memory ? STATUS_NO_MEMORY : STATUS_UNSUPPORTED,
                          "pattern at byte %zu: %s", (size_t)offset, (const char *)text);
    }
    regex->is_jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    return STATUS_OK;
}

enum status tokenizer_regex_create(const char *pattern, size_t n, bool is_literal,
                                   struct tokenizer_regex **out)
{
    struct translation t = {.pattern = pattern, .n = n};
    struct tokenizer_regex *regex = NULL;
    pcre2_general_context *general = NULL;
    pcre2_compile_context *context = NULL;

    *out = NULL;
    enum status status = translate(&t, is_literal);
    if (status == STATUS_OK) {
        status = memory_alloc(1, sizeof(*regex), &regex);
    }
    if (status == STATUS_OK) {
        general = pcre2_general_context_create(take_memory, give_memory, NULL);
        context = general == NULL ? NULL : pcre2_compile_context_create(general);
        status = compile(&t.out, general, context, regex);
    }
    if (status == STATUS_OK) {
        *out = regex;
    } else {
        tokenizer_regex_destroy(regex);
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    text_buffer_dispose(&t.out);
    return status;
}

void tokenizer_regex_destroy(struct tokenizer_regex *regex)
{
    if (regex == NULL) {
        return;
    }
    pcre2_code_free(regex->code);
    memory_free(regex);
}

/* --- Matching --- */

enum status regex_matcher_create(struct regex_matcher **out)
{
    struct regex_matcher *matcher;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*matcher), &matcher));
    matcher->general = pcre2_general_context_create(take_memory, give_memory, NULL);
    if (matcher->general != NULL) {
        matcher->context = pcre2_match_context_create(matcher->general);
        matcher->data = pcre2_match_data_create(1, matcher->general);
    }
    if (matcher->context == NULL || matcher->data == NULL ||
        pcre2_set_match_limit(matcher->context, MATCH_STEPS_MAX) != 0) {
        regex_matcher_destroy(matcher);
        return status_set(STATUS_NO_MEMORY, "no memory to match patterns");
    }
    *out = matcher;
    return STATUS_OK;
}

void regex_matcher_destroy(struct regex_matcher *matcher)
{
    if (matcher == NULL) {
        return;
    }
    pcre2_jit_stack_free(matcher->stack);
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_general_context_free(matcher->general);
    memory_free(matcher);
}

static int match_once(const struct tokenizer_regex *regex, const struct regex_matcher *matcher,
                      const char *text, size_t n, size_t from)
{
    if (regex->is_jit) {
        return pcre2_jit_match(regex->code, (PCRE2_SPTR)text, n, from, 0, matcher->data,
                               matcher->context);
    }
    return pcre2_match(regex->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, matcher->data,
                       matcher->context);
}

/* Backtracking over a long run needs room; given once a matcher. */
static bool grow_stack(struct regex_matcher *matcher)
{
    if (matcher->stack != NULL) {
        return false;
    }
    matcher->stack = pcre2_jit_stack_create((size_t)1 << 18, JIT_STACK_BYTES_MAX, matcher->general);
    if (matcher->stack == NULL) {
        return false;
    }
    pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    return true;
}

enum status tokenizer_regex_next(const struct tokenizer_regex *regex, struct regex_matcher *matcher,
                                 const char *text, size_t n, size_t from, struct regex_hit *hit)
{
    PCRE2_UCHAR message[128] = "";
    int result = match_once(regex, matcher, text, n, from);

    if (result == PCRE2_ERROR_JIT_STACKLIMIT && grow_stack(matcher)) {
        result = match_once(regex, matcher, text, n, from);
    }
    hit->is_found = result >= 0;
    if (result >= 0) {
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(matcher->data);
        hit->start = ends[0];
        hit->end = ends[1];
        return STATUS_OK;
    }
    if (result == PCRE2_ERROR_NOMATCH) {
        return STATUS_OK;
    }
    (void)pcre2_get_error_message(result, message, sizeof(message));
    return status_set(STATUS_BAD_FORMAT, "pre-tokenizer pattern: %s", (const char *)message);
}
