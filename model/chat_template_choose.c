/* Owns which chat template a model folder or a name asks for. */
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "model/chat_template.h"
#include "model/jinja.h"
#include "model/tokenizer_config.h"

#include <stdio.h>
#include <string.h>

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)

/* SHA-256 of template texts that are known here. */
static const struct {
    const char *digest;
    enum chat_template chat;
} known_templates[] = {
    {"3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea", CHAT_TEMPLATE_DEEPSEEK_V3},
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2", CHAT_TEMPLATE_LLAMA_3},
    {"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", CHAT_TEMPLATE_QWEN3},
};

static const struct {
    const char *name;
    enum chat_template chat;
} template_names[] = {
    {"raw", CHAT_TEMPLATE_RAW},
    {"deepseek-v2", CHAT_TEMPLATE_DEEPSEEK_V2},
    {"deepseek-v3", CHAT_TEMPLATE_DEEPSEEK_V3},
    {"deepseek-v3-0324", CHAT_TEMPLATE_DEEPSEEK_V3_0324},
    {"deepseek-v3.1", CHAT_TEMPLATE_DEEPSEEK_V3_1},
    {"deepseek-v3.1-thinking", CHAT_TEMPLATE_DEEPSEEK_V3_1_THINKING},
    {"deepseek-r1", CHAT_TEMPLATE_DEEPSEEK_R1},
    {"deepseek-r1-first", CHAT_TEMPLATE_DEEPSEEK_R1_FIRST},
    {"deepseek-r1-0528", CHAT_TEMPLATE_DEEPSEEK_R1_0528},
    {"deepseek-r1-distill", CHAT_TEMPLATE_DEEPSEEK_R1_DISTILL},
    {"chatml", CHAT_TEMPLATE_CHATML},
    {"llama-3", CHAT_TEMPLATE_LLAMA_3},
    {"qwen3", CHAT_TEMPLATE_QWEN3},
    {"qwen3-no-thinking", CHAT_TEMPLATE_QWEN3_NO_THINKING},
};
#define KNOWN_NAMES                                                                                \
    "raw, deepseek-v2, deepseek-v3, deepseek-v3-0324, deepseek-v3.1[-thinking], "                  \
    "deepseek-r1[-first|-0528|-distill], chatml, llama-3, qwen3[-no-thinking]"

/* *program is NULL for a template known by name. */
static enum status choose_by_text(const char *text, size_t n, enum chat_template *out,
                                  struct jinja **program)
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
    *out = CHAT_TEMPLATE_JINJA;
    return jinja_compile(text, n, program);
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

static enum status choose_by_config(const char *dir, enum chat_template *out,
                                    struct jinja **program)
{
    struct json *config = NULL;

    TRY(tokenizer_config_load(dir, &config));
    const struct json *text = template_of(config);
    enum status status = STATUS_OK;
    if (json_is(text, JSON_STRING)) {
        status = choose_by_text(json_text(text, ""), json_text_bytes(text), out, program);
    } else if (!json_is(text, JSON_NULL)) {
        status = status_set(STATUS_UNSUPPORTED,
                            "chat_template is no text, or a list without a default one");
    }
    json_destroy(config);
    return status == STATUS_OK ? status : status_wrap(status, "%s/tokenizer_config.json", dir);
}

static enum status choose_by_folder(const char *dir, enum chat_template *out,
                                    struct jinja **program)
{
    char *path = NULL;
    char *text = NULL;
    size_t n = 0;

    *program = NULL;
    *out = CHAT_TEMPLATE_RAW;
    TRY(path_join(dir, "chat_template.jinja", &path));
    enum status status = STATUS_OK;
    if (!file_exists(path)) {
        status = choose_by_config(dir, out, program);
    } else {
        status = file_read(path, TEMPLATE_BYTES_MAX, &text, &n);
        if (status == STATUS_OK) {
            status = choose_by_text(text, n, out, program);
            status = status == STATUS_OK ? status : status_wrap(status, "%s", path);
        }
    }
    memory_free(text);
    memory_free(path);
    return status;
}

static bool is_file_name(const char *name)
{
    static const char ending[] = ".jinja";
    const size_t n = strlen(name), n_ending = sizeof(ending) - 1;

    return n > n_ending && strcmp(name + n - n_ending, ending) == 0;
}

/* A template in a file of its own is interpreted, also one that is known by name. */
static enum status choose_by_file(const char *path, enum chat_template *out, struct jinja **program)
{
    char *text = NULL;
    size_t n = 0;

    *out = CHAT_TEMPLATE_JINJA;
    if (!file_exists(path)) {
        return status_set(STATUS_BAD_CONFIG, "chat template %s: there is no such file", path);
    }
    TRY(file_read(path, TEMPLATE_BYTES_MAX, &text, &n));
    const enum status status = jinja_compile(text, n, program);
    memory_free(text);
    return status == STATUS_OK ? status : status_wrap(status, "%s", path);
}

/* *program: what was compiled for it, or NULL. */
static enum status choose(const char *name, const char *dir, enum chat_template *out,
                          struct jinja **program)
{
    for (size_t i = 0; i < sizeof(template_names) / sizeof(template_names[0]); i++) {
        if (strcmp(name, template_names[i].name) == 0) {
            *out = template_names[i].chat;
            return STATUS_OK;
        }
    }
    const bool is_file = is_file_name(name);
    if (!is_file && strcmp(name, "auto") != 0) {
        return status_set(STATUS_BAD_CONFIG,
                          "chat template \"%.64s\": known are auto, FILE.jinja, " KNOWN_NAMES,
                          name);
    }
    const enum status status =
        is_file ? choose_by_file(name, out, program) : choose_by_folder(dir, out, program);
    if (status != STATUS_BAD_FORMAT && status != STATUS_UNSUPPORTED) {
        return status;
    }
    char reason[512];
    (void)snprintf(reason, sizeof(reason), "%s", status_message());
    return status_set(STATUS_UNSUPPORTED, "%s; model.chat_template can be " KNOWN_NAMES, reason);
}

enum status chat_template_choose(const char *name, const char *dir, enum chat_template *out)
{
    struct jinja *program = NULL;
    const enum status status = choose(name, dir, out, &program);

    jinja_destroy(program);
    return status;
}

enum status chat_template_open(const char *name, const char *dir, struct tokenizer *tokenizer,
                               enum chat_template *out)
{
    struct jinja *program = NULL;

    TRY(choose(name, dir, out, &program));
    if (program != NULL) {
        tokenizer_adopt_chat_template(tokenizer, program);
    }
    return STATUS_OK;
}

enum status chat_template_compile(const char *dir, struct jinja **out)
{
    enum chat_template chat;

    *out = NULL;
    return choose_by_folder(dir, &chat, out);
}
