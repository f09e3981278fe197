/* Owns writing the demo's tokenizer: byte-level BPE without merges, so a character is a token. */
#include "model/demo_tokenizer.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* In order of id. Space and line break in the byte-level alphabet are U+0120 and U+010A. The four
 * tags are added tokens that are not special, so decoded text shows them. */
static const char *const vocabulary[DEMO_VOCAB_SIZE] = {
    "<bos>", "<eos>", "<pad>", "0",        "1",        "2",        "3",         "4", "5", "6", "7",
    "8",     "9",     "=",     "<think>",  "</think>", "<answer>", "</answer>", "+", "-", "*", "/",
    "(",     ")",     ",",     ".",        ":",        "?",        "!",         "<", ">", "[", "]",
    "%",     "_",     "|",     "\xc4\xa0", "\xc4\x8a", "a",        "b",         "c", "d", "e", "f",
    "g",     "h",     "i",     "j",        "k",        "l",        "m",         "n", "o", "p", "q",
    "r",     "s",     "t",     "u",        "v",        "w",        "x",         "y", "z",
};
#define N_SPECIAL 3 /* ids 0-2 */

static bool is_added(const char *name)
{
    return name[0] == '<' && name[1] != '\0';
}

/* Takes the reference to value; a failure is remembered in *status and ends all further puts. */
static void put(enum status *status, struct json *object, const char *key, struct json *value)
{
    if (*status != STATUS_OK) {
        json_destroy(value);
        return;
    }
    *status = json_put(object, key, value);
}

static void put_text(enum status *status, struct json *object, const char *key, const char *text)
{
    put(status, object, key, json_from_text(text, strlen(text)));
}

static struct json *byte_level(enum status *status)
{
    struct json *value = json_object_create();

    put_text(status, value, "type", "ByteLevel");
    put(status, value, "add_prefix_space", json_from_bool(false));
    put(status, value, "trim_offsets", json_from_bool(true));
    put(status, value, "use_regex", json_from_bool(false));
    return value;
}

static struct json *added_token(enum status *status, size_t id)
{
    struct json *value = json_object_create();

    put(status, value, "id", json_from_int((int64_t)id));
    put_text(status, value, "content", vocabulary[id]);
    put(status, value, "single_word", json_from_bool(false));
    put(status, value, "lstrip", json_from_bool(false));
    put(status, value, "rstrip", json_from_bool(false));
    put(status, value, "normalized", json_from_bool(false));
    put(status, value, "special", json_from_bool(id < N_SPECIAL));
    return value;
}

static struct json *added_tokens(enum status *status)
{
    struct json *list = json_array_create();

    for (size_t id = 0; id < DEMO_VOCAB_SIZE; id++) {
        if (is_added(vocabulary[id]) && *status == STATUS_OK) {
            struct json *token = added_token(status, id);
            if (*status == STATUS_OK) {
                *status = json_append(list, token);
            } else {
                json_destroy(token);
            }
        }
    }
    return list;
}

static struct json *bpe_model(enum status *status)
{
    struct json *model = json_object_create();
    struct json *vocab = json_object_create();

    for (size_t id = 0; id < DEMO_VOCAB_SIZE; id++) {
        put(status, vocab, vocabulary[id], json_from_int((int64_t)id));
    }
    put_text(status, model, "type", "BPE");
    put(status, model, "dropout", json_null_create());
    put(status, model, "unk_token", json_null_create());
    put(status, model, "continuing_subword_prefix", json_null_create());
    put(status, model, "end_of_word_suffix", json_null_create());
    put(status, model, "fuse_unk", json_from_bool(false));
    put(status, model, "byte_fallback", json_from_bool(false));
    put(status, model, "vocab", vocab);
    put(status, model, "merges", json_array_create());
    return model;
}

static struct json *tokenizer_value(enum status *status)
{
    struct json *root = json_object_create();

    put_text(status, root, "version", "1.0");
    put(status, root, "truncation", json_null_create());
    put(status, root, "padding", json_null_create());
    put(status, root, "added_tokens", added_tokens(status));
    put(status, root, "normalizer", json_null_create());
    put(status, root, "pre_tokenizer", byte_level(status));
    put(status, root, "post_processor", byte_level(status));
    put(status, root, "decoder", byte_level(status));
    put(status, root, "model", bpe_model(status));
    return root;
}

static struct json *config_value(enum status *status)
{
    struct json *root = json_object_create();

    put(status, root, "add_bos_token", json_from_bool(true));
    put(status, root, "add_eos_token", json_from_bool(false));
    put_text(status, root, "bos_token", vocabulary[0]);
    put_text(status, root, "eos_token", vocabulary[1]);
    put_text(status, root, "pad_token", vocabulary[2]);
    put(status, root, "clean_up_tokenization_spaces", json_from_bool(false));
    put(status, root, "model_max_length", json_from_int(4096));
    put_text(status, root, "tokenizer_class", "PreTrainedTokenizerFast");
    return root;
}

/* Takes the reference to value. */
static enum status write_value(const char *dir, const char *name, struct json *value)
{
    char *path = NULL;
    char *text = NULL;
    size_t n = 0;

    enum status status = json_print(value, &text, &n);
    json_destroy(value);
    if (status == STATUS_OK) {
        status = path_join(dir, name, &path);
    }
    if (status == STATUS_OK) {
        status = file_write_atomic(path, text, n);
    }
    memory_free(path);
    memory_free(text);
    return status;
}

enum status demo_tokenizer_write(const char *dir)
{
    enum status status = STATUS_OK;
    struct json *tokenizer = tokenizer_value(&status);
    struct json *config = config_value(&status);

    if (status != STATUS_OK) {
        json_destroy(tokenizer);
        json_destroy(config);
        return status;
    }
    status = write_value(dir, "tokenizer.json", tokenizer);
    if (status != STATUS_OK) {
        json_destroy(config);
        return status;
    }
    return write_value(dir, "tokenizer_config.json", config);
}
