/* Owns rendering by the folder's own template: what it is given, and its marked text as ids. */
#include "model/jinja.h"

#include "base/memory.h"
#include "model/chat_template_internal.h"

#include <string.h>

static struct json *new_message(const char *role, const char *text, size_t n)
{
    struct json *message = json_object_create();

    if (json_put(message, "role", json_from_text(role, strlen(role))) != STATUS_OK ||
        json_put(message, "content", json_from_text(text, n)) != STATUS_OK) {
        json_destroy(message);
        return NULL;
    }
    return message;
}

static bool has_system(const struct json *prompt)
{
    for (size_t i = 0; i < json_count(prompt); i++) {
        if (strcmp(json_text(json_get(json_at(prompt, i), "role"), ""), "system") == 0) {
            return true;
        }
    }
    return false;
}

static enum status fill_messages(const struct json *prompt, const struct chat_options *options,
                                 struct json *list)
{
    const char *system_prompt = options->system_prompt;
    const bool is_text = json_is(prompt, JSON_STRING);

    if (!is_text && !json_is(prompt, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "the prompt is neither a text nor a list of messages");
    }
    if (!options->is_closed && json_count(prompt) + json_text_bytes(prompt) == 0) {
        return status_set(STATUS_BAD_FORMAT, "the prompt is empty");
    }
    if (system_prompt != NULL && *system_prompt != '\0' && !has_system(prompt)) {
        TRY(json_append(list, new_message("system", system_prompt, strlen(system_prompt))));
    }
    if (is_text) {
        return json_append(list,
                           new_message("user", json_text(prompt, ""), json_text_bytes(prompt)));
    }
    for (size_t i = 0; i < json_count(prompt); i++) {
        struct json *message = json_at(prompt, i);
        if (!json_is(json_get(message, "role"), JSON_STRING)) {
            return status_set(STATUS_BAD_FORMAT, "message %zu is not {role, content}", i);
        }
        TRY(json_append(list, json_retain(message)));
    }
    return STATUS_OK;
}

/* A prefill ends with its own text: what the template puts behind it goes. */
static enum status cut_after(const struct json *message, struct text_buffer *text)
{
    const char *content = json_text(json_get(message, "content"), "");
    const size_t n = json_text_bytes(json_get(message, "content"));

    for (size_t end = text->count; n > 0 && end >= n; end--) {
        if (memcmp(text->bytes + end - n, content, n) == 0) {
            text->bytes[end] = '\0';
            text->count = end;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_UNSUPPORTED,
                      "the chat template changes the begun answer, which cannot go on then");
}

static enum status encode_output(const struct tokenizer *tokenizer, struct jinja_output *output,
                                 bool parse_special, struct chat_prompt *out)
{
    const struct encode_options options = {
        .parse_special = true,
        .marks = parse_special ? NULL : (const unsigned char *)output->marks.bytes};

    TRY(tokenizer_encode_with(tokenizer, output->text.bytes, output->text.count, options,
                              &out->ids));
    out->text = output->text.bytes;
    out->text_bytes = output->text.count;
    output->text = (struct text_buffer){0};
    return STATUS_OK;
}

static enum status render(const struct tokenizer *tokenizer, const struct json *variables,
                          struct jinja_output *out)
{
    struct jinja_constant constants[] = {{.name = "bos_token"}, {.name = "eos_token"}};
    const struct jinja_input input = {
        .variables = variables, .constants = constants, .n_constants = 2};
    const int32_t ids[] = {tokenizer_bos(tokenizer), tokenizer_eos(tokenizer)};

    for (size_t i = 0; i < 2; i++) {
        if (ids[i] >= 0) {
            constants[i].text = tokenizer_token(tokenizer, ids[i], &constants[i].n);
        }
    }
    return jinja_render(tokenizer_chat_template(tokenizer), &input, out);
}

/* What else the caller gives; what a model library always defines is none without it. */
static enum status put_variables(const struct chat_options *options, struct json *variables)
{
    static const char *const always[] = {"tools", "documents"};
    struct json_iterator it = {.object = options->variables};

    for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++) {
        TRY(json_put(variables, always[i], json_null_create()));
    }
    while (json_next(&it)) {
        TRY(json_put(variables, it.key, json_retain(it.value)));
    }
    if (json_count(options->tools) == 0) {
        return STATUS_OK;
    }
    struct json *tools = json_array_create();
    TRY(json_put(variables, "tools", tools));
    for (size_t i = 0; i < json_count(options->tools); i++) {
        TRY(json_append(tools, json_retain(json_at(options->tools, i))));
    }
    return STATUS_OK;
}

static bool is_begun(const struct json *message)
{
    return strcmp(json_text(json_get(message, "role"), ""), "assistant") == 0 &&
           json_is(json_get(message, "tool_calls"), JSON_NULL);
}

static enum status encode(const struct tokenizer *tokenizer, const struct json *prompt,
                          const struct chat_options *options, struct json *variables,
                          struct chat_prompt *out)
{
    struct json *list = json_array_create();
    struct jinja_output output = {0};

    TRY(put_variables(options, variables));
    TRY(json_put(variables, "messages", list));
    TRY(fill_messages(prompt, options, list));
    const struct json *last = json_at(list, json_count(list) - 1);
    const bool is_open = !options->is_closed && is_begun(last);
    const bool asks = options->is_closed ? options->asks_for_answer : !is_open;
    TRY(json_put(variables, "add_generation_prompt", json_from_bool(asks)));
    TRY(render(tokenizer, variables, &output));
    enum status status = is_open ? cut_after(last, &output.text) : STATUS_OK;
    if (status == STATUS_OK) {
        status = encode_output(tokenizer, &output, options->parse_special, out);
    }
    jinja_output_dispose(&output);
    return status;
}

enum status chat_encode_jinja(const struct tokenizer *tokenizer, const struct json *prompt,
                              const struct chat_options *options, struct chat_prompt *out)
{
    *out = (struct chat_prompt){0};
    if (tokenizer_chat_template(tokenizer) == NULL) {
        return status_set(STATUS_BAD_CONFIG, "the tokenizer's folder has no chat template");
    }
    struct json *variables = json_object_create();
    const enum status status = encode(tokenizer, prompt, options, variables, out);
    json_destroy(variables);
    return status;
}
