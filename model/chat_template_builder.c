/* Owns building a prompt's text and ids side by side. */
#include "base/memory.h"
#include "model/chat_template_internal.h"
#include "model/jinja.h"

#include <string.h>

enum status builder_flush(struct builder *b)
{
    struct token_list list;

    if (b->encoded == b->text.count) {
        return STATUS_OK;
    }
    const struct encode_options options = {.parse_special = b->parse_special,
                                           .is_continued = !b->is_at_beginning};
    TRY(tokenizer_encode_with(b->tokenizer, b->text.bytes + b->encoded, b->text.count - b->encoded,
                              options, &list));
    enum status status = STATUS_OK;
    for (size_t i = 0; i < list.count && status == STATUS_OK; i++) {
        status = id_buffer_put(&b->ids, list.ids[i]);
    }
    b->ids.n_dropped += list.n_dropped;
    b->encoded = b->text.count;
    b->is_at_beginning = false;
    token_list_dispose(&list);
    return status;
}

enum status builder_marker(struct builder *b, const char *marker)
{
    const int32_t id = tokenizer_id(b->tokenizer, marker);

    if (id < 0) {
        return status_set(STATUS_BAD_CONFIG,
                          "the tokenizer has no token %s, which the chat template needs", marker);
    }
    TRY(builder_flush(b));
    TRY(text_buffer_put(&b->text, marker, strlen(marker)));
    b->encoded = b->text.count;
    b->is_at_beginning = false;
    return id_buffer_put(&b->ids, id);
}

enum status builder_id(struct builder *b, int32_t id)
{
    char *text = NULL;
    size_t n = 0;

    TRY(builder_flush(b));
    TRY(tokenizer_decode(b->tokenizer, &id, 1, false, true, &text, &n));
    const enum status status = text_buffer_put(&b->text, text, n);
    memory_free(text);
    TRY(status);
    b->encoded = b->text.count;
    return id_buffer_put(&b->ids, id);
}

enum status builder_text(struct builder *b, struct chat_text text)
{
    return text.n == 0 ? STATUS_OK : text_buffer_put(&b->text, text.text, text.n);
}

enum status builder_json(struct builder *b, const struct json *value)
{
    char *text = NULL;
    size_t n = 0;

    TRY(jinja_tojson(value, &text, &n));
    const enum status status = text_buffer_put(&b->text, text, n);
    memory_free(text);
    return status;
}

enum status builder_line(struct builder *b, const char *text)
{
    return text_buffer_put(&b->text, text, strlen(text));
}

enum status builder_soft_marker(struct builder *b, const char *marker)
{
    return tokenizer_id(b->tokenizer, marker) >= 0 ? builder_marker(b, marker)
                                                   : builder_line(b, marker);
}
