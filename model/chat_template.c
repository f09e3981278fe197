/* Owns rendering of chats. A prompt is built as pieces that are either a marker of the template,
 * which is its one id, or text, which is encoded on its own: so text never yields a marker, and the
 * whole equals what encoding the rendered text would give. */
#include "model/chat_template.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "model/bpe.h"
#include "model/tokenizer_config.h"
#include "model/tokenizer_text.h"

#include <string.h>

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)
#define MESSAGES_MAX 4096u

#define V3_BOS "<｜begin▁of▁sentence｜>"
#define V3_EOS "<｜end▁of▁sentence｜>"
#define V3_USER "<｜User｜>"
#define V3_ASSISTANT "<｜Assistant｜>"

/* --- Choosing --- */

/* SHA-256 of template texts that are known here. */
static const struct {
    const char *digest;
    enum chat_template chat;
} known_templates[] = {
    {"3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea", CHAT_TEMPLATE_DEEPSEEK_V3},
};

static const struct {
    const char *name;
    enum chat_template chat;
} template_names[] = {
    {"raw", CHAT_TEMPLATE_RAW},
    {"deepseek-v3", CHAT_TEMPLATE_DEEPSEEK_V3},
};

static enum status choose_by_text(const char *dir, const char *text, size_t n,
                                  enum chat_template *out)
{
    char hex[DIGEST256_TEXT];
    const struct digest256 digest = hash_sha256(text, n);

    (void)hash_hex(digest.bytes, sizeof(digest.bytes), hex);
    for (size_t i = 0; i < sizeof(known_templates) / sizeof(known_templates[0]); i++) {
        if (strcmp(hex, known_templates[i].digest) == 0) {
            *out = known_templates[i].chat;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_UNSUPPORTED,
                      "%s: its chat template (SHA-256 %.12s...) is not known here; set "
                      "model.chat_template to deepseek-v3 or raw",
                      dir, hex);
}

/* The template in tokenizer_config.json: a text, or a list of named ones with a "default". */
static const struct json *template_of(const struct json *config)
{
    const struct json *value = json_get(config, "chat_template");

    for (size_t i = 0; i < json_count(value); i++) {
        const struct json *item = json_at(value, i);
        if (strcmp(json_text(json_get(item, "name"), ""), "default") == 0) {
            return json_get(item, "template");
        }
    }
    return value;
}

static enum status choose_by_config(const char *dir, enum chat_template *out)
{
    struct json *config = NULL;

    TRY(tokenizer_config_load(dir, &config));
    const struct json *text = template_of(config);
    enum status status = STATUS_OK;
    if (json_is(text, JSON_STRING)) {
        status = choose_by_text(dir, json_text(text, ""), json_text_bytes(text), out);
    } else if (!json_is(text, JSON_NULL)) {
        status = status_set(STATUS_UNSUPPORTED,
                            "%s: its chat templates have no default; set model.chat_template", dir);
    }
    json_destroy(config);
    return status;
}

static enum status choose_by_folder(const char *dir, enum chat_template *out)
{
    char *path = NULL;
    char *text = NULL;
    size_t n = 0;

    *out = CHAT_TEMPLATE_RAW;
    TRY(path_join(dir, "chat_template.jinja", &path));
    enum status status = STATUS_OK;
    if (!file_exists(path)) {
        status = choose_by_config(dir, out);
    } else {
        status = file_read(path, TEMPLATE_BYTES_MAX, &text, &n);
        if (status == STATUS_OK) {
            status = choose_by_text(dir, text, n, out);
        }
    }
    memory_free(text);
    memory_free(path);
    return status;
}

enum status chat_template_choose(const char *name, const char *dir, enum chat_template *out)
{
    for (size_t i = 0; i < sizeof(template_names) / sizeof(template_names[0]); i++) {
        if (strcmp(name, template_names[i].name) == 0) {
            *out = template_names[i].chat;
            return STATUS_OK;
        }
    }
    if (strcmp(name, "auto") != 0) {
        return status_set(STATUS_BAD_CONFIG,
                          "chat template \"%.64s\": known are auto, raw, deepseek-v3", name);
    }
    return choose_by_folder(dir, out);
}

/* --- Building --- */

struct builder {
    const struct tokenizer *tokenizer;
    bool parse_special;
    struct text_buffer text;
    size_t encoded; /* text[0 .. encoded) is in ids */
    struct id_buffer ids;
};

/* Encodes the text since the last marker. */
static enum status builder_flush(struct builder *b)
{
    struct token_list list;

    if (b->encoded == b->text.count) {
        return STATUS_OK;
    }
    TRY(tokenizer_encode(b->tokenizer, b->text.bytes + b->encoded, b->text.count - b->encoded,
                         b->parse_special, &list));
    enum status status = STATUS_OK;
    for (size_t i = 0; i < list.count && status == STATUS_OK; i++) {
        status = id_buffer_put(&b->ids, list.ids[i]);
    }
    b->ids.n_dropped += list.n_dropped;
    b->encoded = b->text.count;
    token_list_dispose(&list);
    return status;
}

static enum status builder_marker(struct builder *b, const char *marker)
{
    const int32_t id = tokenizer_id(b->tokenizer, marker);

    if (id < 0) {
        return status_set(STATUS_BAD_CONFIG,
                          "the tokenizer has no token %s, which the chat template needs", marker);
    }
    TRY(builder_flush(b));
    TRY(text_buffer_put(&b->text, marker, strlen(marker)));
    b->encoded = b->text.count;
    return id_buffer_put(&b->ids, id);
}

static enum status builder_id(struct builder *b, int32_t id)
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

static enum status builder_text(struct builder *b, const char *text, size_t n)
{
    return text_buffer_put(&b->text, text, n);
}

/* --- Messages --- */

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };
struct chat_message {
    enum chat_role role;
    const char *text;
    size_t n;
};
struct chat {
    struct chat_message *messages;
    size_t count;
};

static enum status read_role(const struct json *value, size_t index, enum chat_role *out)
{
    static const char *const names[] = {
        [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant"};
    const char *role = json_text(value, "");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(role, names[i]) == 0) {
            *out = (enum chat_role)i;
            return STATUS_OK;
        }
    }
    if (strcmp(role, "tool") == 0) {
        return status_set(STATUS_UNSUPPORTED, "message %zu: tool output in a prompt", index);
    }
    return status_set(STATUS_BAD_FORMAT,
                      "message %zu: role \"%.32s\", want system, user, assistant", index, role);
}

static enum status read_message(const struct json *value, size_t index, struct chat_message *out)
{
    const struct json *content = json_get(value, "content");

    if (!json_is(value, JSON_OBJECT)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu is not {role, content}", index);
    }
    if (json_count(json_get(value, "tool_calls")) > 0) {
        return status_set(STATUS_UNSUPPORTED, "message %zu: tool calls in a prompt", index);
    }
    TRY(read_role(json_get(value, "role"), index, &out->role));
    if (!json_is(content, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "message %zu: its content is not a text", index);
    }
    out->text = json_text(content, "");
    out->n = json_text_bytes(content);
    return STATUS_OK;
}

static bool has_system(const struct chat *chat)
{
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].role == CHAT_SYSTEM) {
            return true;
        }
    }
    return false;
}

/* Fills chat->messages, which has room for one more than the prompt holds. */
static enum status read_messages(const struct json *prompt, struct chat *chat)
{
    if (json_is(prompt, JSON_STRING)) {
        chat->messages[0] =
            (struct chat_message){CHAT_USER, json_text(prompt, ""), json_text_bytes(prompt)};
        chat->count = 1;
    }
    for (size_t i = 0; i < json_count(prompt); i++) {
        TRY(read_message(json_at(prompt, i), i, &chat->messages[i]));
        chat->count++;
    }
    return STATUS_OK;
}

static bool has_text(const struct chat *chat)
{
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].n > 0) {
            return true;
        }
    }
    return false;
}

/* Caller frees chat->messages. The texts are borrowed from prompt and system_prompt. */
static enum status read_chat(const struct json *prompt, const char *system_prompt,
                             struct chat *chat)
{
    const size_t n = json_is(prompt, JSON_ARRAY) ? json_count(prompt) : 1;

    *chat = (struct chat){0};
    if (!json_is(prompt, JSON_STRING) && !json_is(prompt, JSON_ARRAY)) {
        return status_set(STATUS_BAD_FORMAT, "the prompt is neither a text nor a list of messages");
    }
    if (n > MESSAGES_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%zu messages, want at most %u", n, MESSAGES_MAX);
    }
    TRY(memory_alloc(n + 1, sizeof(*chat->messages), &chat->messages));
    TRY(read_messages(prompt, chat));
    if (system_prompt != NULL && *system_prompt != '\0' && !has_system(chat)) {
        memmove(chat->messages + 1, chat->messages, chat->count * sizeof(*chat->messages));
        chat->messages[0] =
            (struct chat_message){CHAT_SYSTEM, system_prompt, strlen(system_prompt)};
        chat->count++;
    }
    return STATUS_OK;
}

/* --- Templates --- */

/* What follows the last message. */
struct chat_end {
    bool is_open;         /* a last assistant message does not end: the policy continues it */
    bool asks_for_answer; /* the generation prompt follows */
};

static enum status render_raw(struct builder *b, const struct chat *chat)
{
    if (tokenizer_adds_bos(b->tokenizer)) {
        TRY(builder_id(b, tokenizer_bos(b->tokenizer)));
    }
    for (size_t i = 0; i < chat->count; i++) {
        TRY(builder_text(b, "\n\n", i > 0 ? 2 : 0));
        TRY(builder_text(b, chat->messages[i].text, chat->messages[i].n));
    }
    return builder_flush(b);
}

/* All system messages, wherever they stand, come first. */
static enum status render_v3_system(struct builder *b, const struct chat *chat)
{
    bool is_first = true;

    for (size_t i = 0; i < chat->count; i++) {
        if (chat->messages[i].role != CHAT_SYSTEM) {
            continue;
        }
        TRY(builder_text(b, "\n\n", is_first ? 0 : 2));
        TRY(builder_text(b, chat->messages[i].text, chat->messages[i].n));
        is_first = false;
    }
    return STATUS_OK;
}

/* A turn of the user, or of the assistant, closed or left open. */
static enum status render_v3_turn(struct builder *b, const struct chat_message *message,
                                  bool is_open)
{
    const bool is_user = message->role == CHAT_USER;

    TRY(builder_marker(b, is_user ? V3_USER : V3_ASSISTANT));
    TRY(builder_text(b, message->text, message->n));
    return is_user || is_open ? STATUS_OK : builder_marker(b, V3_EOS);
}

static enum status render_v3(struct builder *b, const struct chat *chat, struct chat_end end)
{
    TRY(builder_marker(b, V3_BOS));
    TRY(render_v3_system(b, chat));
    for (size_t i = 0; i < chat->count; i++) {
        const struct chat_message *message = &chat->messages[i];
        if (message->role == CHAT_SYSTEM) {
            continue;
        }
        TRY(render_v3_turn(b, message, end.is_open && i + 1 == chat->count));
    }
    if (end.asks_for_answer) {
        TRY(builder_marker(b, V3_ASSISTANT));
    }
    return builder_flush(b);
}

static enum status build(struct builder *b, enum chat_template template, const struct chat *chat,
                         struct chat_end end, struct chat_prompt *out)
{
    switch (template) {
    case CHAT_TEMPLATE_RAW:
        TRY(render_raw(b, chat));
        break;
    case CHAT_TEMPLATE_DEEPSEEK_V3:
        TRY(render_v3(b, chat, end));
        break;
    }
    out->text = b->text.bytes;
    out->text_bytes = b->text.count;
    out->ids = (struct token_list){b->ids.ids, b->ids.count, b->ids.n_dropped};
    return STATUS_OK;
}

static enum status render(struct builder *b, enum chat_template template, const struct chat *chat,
                          struct chat_end end, struct chat_prompt *out)
{
    *out = (struct chat_prompt){0};
    const enum status status = build(b, template, chat, end, out);
    if (status != STATUS_OK) {
        text_buffer_dispose(&b->text);
        id_buffer_dispose(&b->ids);
    }
    return status;
}

static bool ends_with_assistant(const struct chat *chat)
{
    return chat->messages != NULL && chat->count > 0 &&
           chat->messages[chat->count - 1].role == CHAT_ASSISTANT;
}

enum status chat_encode(const struct tokenizer *tokenizer, enum chat_template chat,
                        const struct json *prompt, const char *system_prompt, bool parse_special,
                        struct chat_prompt *out)
{
    struct builder b = {.tokenizer = tokenizer, .parse_special = parse_special};
    struct chat messages = {0};

    *out = (struct chat_prompt){0};
    enum status status = read_chat(prompt, system_prompt, &messages);
    if (status == STATUS_OK && json_count(prompt) == 0 && json_text_bytes(prompt) == 0) {
        status = status_set(STATUS_BAD_FORMAT, "the prompt is empty");
    }
    if (status == STATUS_OK && !has_text(&messages)) {
        status = status_set(STATUS_BAD_FORMAT, "no message of the prompt has any text");
    }
    if (status == STATUS_OK) {
        const bool is_open = ends_with_assistant(&messages);
        const struct chat_end end = {.is_open = is_open, .asks_for_answer = !is_open};
        status = render(&b, chat, &messages, end, out);
    }
    memory_free(messages.messages);
    return status;
}

enum status chat_encode_closed(const struct tokenizer *tokenizer, enum chat_template chat,
                               const struct json *prompt, bool add_generation_prompt,
                               struct chat_prompt *out)
{
    struct builder b = {.tokenizer = tokenizer};
    const struct chat_end end = {.asks_for_answer = add_generation_prompt};
    struct chat messages = {0};

    *out = (struct chat_prompt){0};
    enum status status = read_chat(prompt, "", &messages);
    if (status == STATUS_OK) {
        status = render(&b, chat, &messages, end, out);
    }
    memory_free(messages.messages);
    return status;
}

void chat_prompt_dispose(struct chat_prompt *prompt)
{
    memory_free(prompt->text);
    token_list_dispose(&prompt->ids);
    *prompt = (struct chat_prompt){0};
}
