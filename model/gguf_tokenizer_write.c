/* Owns how the tokenizer of a GGUF file is written: as the files that Hugging Face's readers take.
 */
#include "base/file.h"
#include "base/memory.h"
#include "model/gguf_tokenizer_internal.h"
#include "model/json_text.h"

#include <string.h>

static enum status quote(struct text_buffer *out, const struct gguf_tokens *tokens,
                         const char *what, size_t index, struct gguf_text text)
{
    const enum status status = json_text_quote(out, text.bytes, text.n);

    return status == STATUS_OK
               ? status
               : status_wrap(status, "%s: %s %zu", gguf_label(tokens->file), what, index);
}

/* Added tokens are found before anything else is done to a text; control tokens are special. */
static enum status put_added(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    const char *before = "\"added_tokens\":[";

    for (size_t i = 0; i < tokens->count; i++) {
        const bool is_special =
            tokens->kinds[i] == GGUF_TOKEN_CONTROL || tokens->kinds[i] == GGUF_TOKEN_UNKNOWN;

        if (!is_special && tokens->kinds[i] != GGUF_TOKEN_USER) {
            continue;
        }
        TRY(json_text_put(out, before));
        TRY(json_text_put(out, "{\"id\":"));
        TRY(json_text_number(out, (int64_t)i));
        TRY(json_text_put(out, ",\"content\":"));
        TRY(quote(out, tokens, "token", i, tokens->texts[i]));
        TRY(json_text_put(out, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                               "\"normalized\":false,\"special\":"));
        TRY(json_text_put(out, is_special ? "true}" : "false}"));
        before = ",\n";
    }
    return json_text_put(out, *before == '"' ? "\"added_tokens\":[],\n" : "],\n");
}

/* In the order of ids. Added tokens are among them, so that every reader keeps their ids. */
static enum status put_vocabulary(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    const char *before = "\"vocab\":{";

    for (size_t i = 0; i < tokens->count; i++) {
        if (tokens->kinds[i] == GGUF_TOKEN_UNUSED) {
            continue;
        }
        TRY(json_text_put(out, before));
        TRY(quote(out, tokens, "token", i, tokens->texts[i]));
        TRY(json_text_put(out, ":"));
        TRY(json_text_number(out, (int64_t)i));
        before = ",";
    }
    return json_text_put(out, *before == '"' ? "\"vocab\":{}" : "}");
}

static enum status put_merges(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    TRY(json_text_put(out, ",\n\"merges\":["));
    for (size_t i = 0; i < tokens->n_merges; i++) {
        TRY(json_text_put(out, i == 0 ? "" : ","));
        TRY(quote(out, tokens, "merge", i, tokens->merges[i]));
    }
    return json_text_put(out, "]");
}

static enum status put_special(const struct gguf_tokens *tokens, int32_t id,
                               struct text_buffer *out)
{
    TRY(json_text_put(out, "{\"SpecialToken\":{\"id\":"));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    return json_text_put(out, ",\"type_id\":0}}");
}

/* One text with what stands around it; `sequence` is the text's own part. */
static enum status put_frame(const struct gguf_tokens *tokens, const char *sequence,
                             struct text_buffer *out)
{
    if (tokens->adds_bos) {
        TRY(put_special(tokens, tokens->bos, out));
        TRY(json_text_put(out, ","));
    }
    TRY(json_text_put(out, sequence));
    if (tokens->adds_eos) {
        TRY(json_text_put(out, ","));
        TRY(put_special(tokens, tokens->eos, out));
    }
    return STATUS_OK;
}

static enum status put_special_ids(const struct gguf_tokens *tokens, int32_t id,
                                   struct text_buffer *out)
{
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    TRY(json_text_put(out, ":{\"id\":"));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    TRY(json_text_put(out, ",\"ids\":["));
    TRY(json_text_number(out, id));
    TRY(json_text_put(out, "],\"tokens\":["));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    return json_text_put(out, "]}");
}

/* What the template calls by name. */
static enum status put_special_tokens(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    const bool has_both = tokens->adds_bos && tokens->adds_eos && tokens->eos != tokens->bos;

    TRY(put_special_ids(tokens, tokens->adds_bos ? tokens->bos : tokens->eos, out));
    if (has_both) {
        TRY(json_text_put(out, ","));
        TRY(put_special_ids(tokens, tokens->eos, out));
    }
    return STATUS_OK;
}

static enum status put_template(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    TRY(json_text_put(out, "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["));
    TRY(put_frame(tokens, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", out));
    TRY(json_text_put(out, "],\"pair\":["));
    TRY(put_frame(tokens, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", out));
    TRY(json_text_put(out, ","));
    TRY(put_frame(tokens, "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}", out));
    TRY(json_text_put(out, "],\"special_tokens\":{"));
    TRY(put_special_tokens(tokens, out));
    return json_text_put(out, "}},\n");
}

static enum status put_post_processor(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    if (tokens->adds_bos || tokens->adds_eos) {
        return put_template(tokens, out);
    }
    return json_text_put(out, "\"post_processor\":{\"type\":\"ByteLevel\","
                              "\"add_prefix_space\":true,\"trim_offsets\":false,"
                              "\"use_regex\":true},\n");
}

static enum status put_tokenizer(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    TRY(json_text_put(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n"));
    TRY(put_added(tokens, out));
    TRY(gguf_pre_tokenizer_put(tokens->pre, out));
    TRY(json_text_put(out, ",\n"));
    TRY(put_post_processor(tokens, out));
    TRY(json_text_put(out, "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                           "\"trim_offsets\":true,\"use_regex\":true},\n"
                           "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                           "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                           "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":"));
    TRY(json_text_put(out,
                      gguf_pre_tokenizer_ignores_merges(tokens->pre) ? "true,\n" : "false,\n"));
    TRY(put_vocabulary(tokens, out));
    TRY(put_merges(tokens, out));
    return json_text_put(out, "}}\n");
}

static enum status put_name(const struct gguf_tokens *tokens, const char *key, int32_t id,
                            struct text_buffer *out)
{
    if (id < 0) {
        return STATUS_OK;
    }
    TRY(json_text_put(out, "  \""));
    TRY(json_text_put(out, key));
    TRY(json_text_put(out, "\": "));
    TRY(quote(out, tokens, "token", (size_t)id, tokens->texts[id]));
    return json_text_put(out, ",\n");
}

static enum status put_flag(const char *text, bool flag, struct text_buffer *out)
{
    TRY(json_text_put(out, text));
    return json_text_put(out, flag ? "true" : "false");
}

static enum status put_names(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    TRY(put_name(tokens, "bos_token", tokens->bos, out));
    TRY(put_name(tokens, "eos_token", tokens->eos, out));
    TRY(put_name(tokens, "pad_token", tokens->pad, out));
    return put_name(tokens, "unk_token", tokens->unknown, out);
}

static enum status put_chat_template(const struct gguf_tokens *tokens, struct text_buffer *out)
{
    struct gguf_text template = {NULL, 0};

    TRY(gguf_read_text(tokens->file, "tokenizer.chat_template", &template));
    if (template.bytes == NULL) {
        return STATUS_OK;
    }
    TRY(json_text_put(out, "  \"chat_template\": "));
    TRY(quote(out, tokens, "chat template", 0, template));
    return json_text_put(out, ",\n");
}

static enum status put_tokenizer_config(const struct gguf_tokens *tokens, size_t max_positions,
                                        struct text_buffer *out)
{
    TRY(put_flag("{\n  \"add_bos_token\": ", tokens->adds_bos, out));
    TRY(put_flag(",\n  \"add_eos_token\": ", tokens->adds_eos, out));
    TRY(put_flag(",\n  \"add_prefix_space\": ", false, out));
    TRY(json_text_put(out, ",\n"));
    TRY(put_names(tokens, out));
    TRY(put_chat_template(tokens, out));
    TRY(json_text_put(out, "  \"clean_up_tokenization_spaces\": false,\n"
                           "  \"model_max_length\": "));
    TRY(json_text_number(out, (int64_t)max_positions));
    return json_text_put(out, ",\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

/* The ids that end a generation, as config.json has them. */
static enum status put_generation(const struct model_config *config, struct text_buffer *out)
{
    TRY(json_text_put(out, "{\n  \"_from_model_config\": true"));
    if (config->bos_id >= 0) {
        TRY(json_text_put(out, ",\n  \"bos_token_id\": "));
        TRY(json_text_number(out, config->bos_id));
    }
    if (config->pad_id >= 0) {
        TRY(json_text_put(out, ",\n  \"pad_token_id\": "));
        TRY(json_text_number(out, config->pad_id));
    }
    for (size_t i = 0; i < config->n_eos_ids; i++) {
        TRY(json_text_put(out, i == 0 ? ",\n  \"eos_token_id\": [" : ", "));
        TRY(json_text_number(out, config->eos_ids[i]));
    }
    return json_text_put(out, config->n_eos_ids > 0 ? "]\n}\n" : "\n}\n");
}

static enum status write(const char *dir, const char *name, const struct text_buffer *text)
{
    char *path;

    TRY(path_join(dir, name, &path));
    const enum status status = file_write_atomic(path, text->bytes, text->count);

    memory_free(path);
    return status;
}

static enum status write_all(const struct gguf_tokens *tokens, const struct model_config *config,
                             const char *dir, struct text_buffer *text)
{
    TRY(put_tokenizer(tokens, text));
    TRY(write(dir, "tokenizer.json", text));
    text->count = 0;
    TRY(put_tokenizer_config(tokens, config->max_positions, text));
    TRY(write(dir, "tokenizer_config.json", text));
    text->count = 0;
    TRY(put_generation(config, text));
    return write(dir, "generation_config.json", text);
}

enum status gguf_write_tokenizer(const struct gguf_tokens *tokens,
                                 const struct model_config *config, const char *dir)
{
    struct text_buffer text = {.count = 0};
    const enum status status = write_all(tokens, config, dir, &text);

    text_buffer_dispose(&text);
    return status;
}
