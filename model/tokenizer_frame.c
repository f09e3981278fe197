/* Owns the post-processor: which special tokens stand around a text when they are asked for. It
 * never changes the ids of the text itself. */
#include "base/memory.h"
#include "model/tokenizer_internal.h"

#include <string.h>

/* The ids of one {"SpecialToken": {"id": NAME}}: of the template's own list, or the token's. */
static enum status put_special(const struct json *processor, const struct text_table *names,
                               const struct json *name, struct id_buffer *out)
{
    const char *text = json_text(name, "");
    const struct json *entry = json_get(json_get(processor, "special_tokens"), text);
    const struct json *ids = json_get(entry, "ids");
    const int32_t id = text_table_find(names, text, json_text_bytes(name));

    if (ids != NULL && !json_is(ids, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "post_processor: the ids of %.64s are no list", text);
    }
    for (size_t i = 0; i < json_count(ids); i++) {
        const int64_t value = json_int(json_at(ids, i), -1);
        if (value < 0 || (uint64_t)value >= names->n_refs) {
            return status_set(STATUS_BAD_FORMAT, "post_processor: id of %.64s", text);
        }
        TRY(id_buffer_put(out, (int32_t)value));
    }
    if (json_count(ids) > 0) {
        return STATUS_OK;
    }
    if (id < 0) {
        return status_set(STATUS_BAD_FORMAT, "post_processor: no token %.64s", text);
    }
    return id_buffer_put(out, id);
}

static enum status read_template(const struct json *processor, const struct text_table *names,
                                 struct token_frame *out)
{
    const struct json *parts = json_get(processor, "single");
    const struct json *first = json_path(json_at(parts, 0), "SpecialToken.id");
    bool is_past_text = false;

    if (json_is(first, JSON_STRING)) {
        out->bos = text_table_find(names, json_text(first, ""), json_text_bytes(first));
    }
    for (size_t i = 0; i < json_count(parts); i++) {
        const struct json *special = json_path(json_at(parts, i), "SpecialToken.id");
        const bool is_text = json_get(json_at(parts, i), "Sequence") != NULL;
        if (is_text == json_is(special, JSON_STRING) || (is_text && is_past_text)) {
            return status_set(STATUS_UNSUPPORTED,
                              "post_processor TemplateProcessing: part %zu of \"single\"", i);
        }
        if (is_text) {
            is_past_text = true;
            continue;
        }
        TRY(put_special(processor, names, special, is_past_text ? &out->after : &out->before));
    }
    if (!is_past_text) {
        return status_set(STATUS_BAD_FORMAT, "post_processor TemplateProcessing: no text in it");
    }
    return STATUS_OK;
}

static enum status read_one(const struct json *value, const struct text_table *names,
                            struct token_frame *out)
{
    const char *type = json_text(json_get(value, "type"), "(none)");

    if (json_is(value, JSON_NULL) || strcmp(type, "ByteLevel") == 0) {
        return STATUS_OK;
    }
    if (strcmp(type, "TemplateProcessing") != 0) {
        return status_set(STATUS_UNSUPPORTED, "post_processor %s", type);
    }
    if (out->before.count + out->after.count > 0) {
        return status_set(STATUS_UNSUPPORTED, "post_processor with two templates");
    }
    return read_template(value, names, out);
}

enum status token_frame_load(const struct json *post_processor, const struct text_table *names,
                             struct token_frame *out)
{
    const struct json *list = json_get(post_processor, "processors");
    const bool is_sequence =
        strcmp(json_text(json_get(post_processor, "type"), ""), "Sequence") == 0;

    *out = (struct token_frame){.bos = -1};
    enum status status = is_sequence ? check_list(list, "post_processor Sequence: \"processors\"")
                                     : read_one(post_processor, names, out);
    for (size_t i = 0; is_sequence && status == STATUS_OK && i < json_count(list); i++) {
        status = read_one(json_at(list, i), names, out);
    }
    if (status != STATUS_OK) {
        token_frame_dispose(out);
    }
    return status;
}

void token_frame_dispose(struct token_frame *frame)
{
    id_buffer_dispose(&frame->before);
    id_buffer_dispose(&frame->after);
}
