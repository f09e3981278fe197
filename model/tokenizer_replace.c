/* Owns patterns of tokenizer.json, {"Regex": ...} or {"String": ...}, and putting a fixed text in
 * place of what they match. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

enum status pattern_load(const struct json *pattern, struct tokenizer_regex **out)
{
    const struct json *regex = json_get(pattern, "Regex");
    const struct json *text = regex != NULL ? regex : json_get(pattern, "String");

    *out = NULL;
    if (!json_is(text, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "no pattern");
    }
    return tokenizer_regex_create(json_text(text, ""), json_text_bytes(text), regex == NULL, out);
}

enum status text_replace_load(const struct json *value, struct text_replace *out)
{
    const struct json *content = json_get(value, "content");

    *out = (struct text_replace){0};
    if (!json_is(content, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "Replace: no content");
    }
    TRY(memory_copy_text(json_text(content, ""), json_text_bytes(content), &out->content));
    out->content_bytes = json_text_bytes(content);
    const enum status status = pattern_load(json_get(value, "pattern"), &out->regex);
    if (status != STATUS_OK) {
        text_replace_dispose(out);
        return status_wrap(status, "Replace");
    }
    return STATUS_OK;
}

void text_replace_dispose(struct text_replace *replace)
{
    tokenizer_regex_destroy(replace->regex);
    memory_free(replace->content);
    *replace = (struct text_replace){0};
}

size_t regex_after(const char *text, size_t n, const struct regex_hit *hit)
{
    if (hit->end > hit->start || hit->end >= n) {
        return hit->end > hit->start ? hit->end : n + 1;
    }
    return hit->end + utf8_sequence(text + hit->end, n - hit->end, NULL);
}

enum status text_replace_run(const struct text_replace *replace, struct regex_matcher *matcher,
                             const char *text, size_t n, struct text_buffer *out)
{
    struct regex_hit hit = {0};
    size_t from = 0, done = 0;

    while (from <= n) {
        TRY(tokenizer_regex_next(replace->regex, matcher, text, n, from, &hit));
        if (!hit.is_found) {
            break;
        }
        TRY(text_buffer_put(out, text + done, hit.start - done));
        TRY(text_buffer_put(out, replace->content, replace->content_bytes));
        done = hit.end;
        from = regex_after(text, n, &hit);
    }
    return text_buffer_put(out, text + done, n - done);
}
