/* Owns cutting the texts of messages as chat templates do. */
#include "model/chat_template_internal.h"
#include "model/tokenizer_text.h"

#include <string.h>

const char *chat_find(struct chat_text text, const char *part, bool wants_last)
{
    const size_t n = strlen(part);
    const char *found = NULL;

    for (size_t i = 0; i + n <= text.n; i++) {
        if (memcmp(text.text + i, part, n) != 0) {
            continue;
        }
        found = text.text + i;
        if (!wants_last) {
            break;
        }
    }
    return found;
}

struct chat_text chat_text_after(struct chat_text text, const char *part, bool wants_last)
{
    const char *at = chat_find(text, part, wants_last);

    if (at == NULL) {
        return text;
    }
    const char *start = at + strlen(part);
    return (struct chat_text){start, (size_t)(text.text + text.n - start)};
}

struct chat_text chat_without_newlines(struct chat_text text, bool at_start, bool at_end)
{
    while (at_start && text.n > 0 && text.text[0] == '\n') {
        text = (struct chat_text){text.text + 1, text.n - 1};
    }
    while (at_end && text.n > 0 && text.text[text.n - 1] == '\n') {
        text.n--;
    }
    return text;
}

struct chat_text chat_trimmed(struct chat_text text)
{
    size_t before = 0;

    while (before != text.n) {
        before = text.n;
        const size_t left = text_leading_space(text.text, text.n);
        text = (struct chat_text){text.text + left, text.n - left};
        text.n -= text_trailing_space(text.text, text.n);
        while (text.n > 0 && text.text[0] >= 0x1C && text.text[0] <= 0x1F) {
            text = (struct chat_text){text.text + 1, text.n - 1};
        }
        while (text.n > 0 && text.text[text.n - 1] >= 0x1C && text.text[text.n - 1] <= 0x1F) {
            text.n--;
        }
    }
    return text;
}

struct chat_text chat_text_of(const struct json *value)
{
    return (struct chat_text){json_text(value, NULL), json_text_bytes(value)};
}

bool chat_is_last(const struct chat *chat, size_t index)
{
    return index + 1 == chat->count;
}
