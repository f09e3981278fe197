/* 200 damaged copies each of config.json, tokenizer.json, tokenizer_config.json and
 * chat_template.jinja: one line that names the file and the place, exit code 5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"
#include "tests/unit/model/corrupt_fixture.h"

#include <stdlib.h>

static struct corruption folder;

/* from -> by; refused with `part`, naming `file` (NULL: the damaged one). */
struct edit {
    const char *from, *by, *part, *file;
};

static void try_edits(const struct edit *edits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct expected want = {
            .what = edits[i].by, .file = edits[i].file, .part = edits[i].part};

        corrupt_replace(&folder, edits[i].from, edits[i].by, &want);
    }
}

/* Replaces the value behind a key, up to the end of its number, word or text. */
static void try_values(const char *key, const char *const *values, size_t n, const char *part)
{
    char quoted[96], from[256], by[256];

    (void)snprintf(quoted, sizeof(quoted), "\"%s\":", key);
    const char *at = strstr(folder.original, quoted);
    assert_non_null(at);
    const size_t space = strspn(at + strlen(quoted), " ");
    const size_t n_value = strcspn(at + strlen(quoted) + space, ",\n}");
    (void)snprintf(from, sizeof(from), "%.*s", (int)(strlen(quoted) + space + n_value), at);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(by, sizeof(by), "%s%s", quoted, values[i]);
        const struct expected want = {.what = by, .part = part};
        corrupt_replace(&folder, from, by, &want);
    }
}

static void damaged_configs_are_refused(void **state)
{
    static const char *const sizes[] = {"-1", "\"64\"", "0.5",  "[]",
                                        "{}", "true",   "1e30", "99999999999"};
    static const char *const size_keys[] = {
        "vocab_size", "hidden_size",      "num_hidden_layers", "num_attention_heads",
        "v_head_dim", "qk_rope_head_dim", "kv_lora_rank",      "num_experts_per_tok"};
    static const char *const switches[] = {"1", "\"true\"", "[]", "0.0"};
    static const char *const switch_keys[] = {"norm_topk_prob", "tie_word_embeddings"};
    static const char *const reals[] = {"\"x\"", "-1", "1e300", "[]", "true"};
    static const char *const real_keys[] = {"rms_norm_eps", "rope_theta"};
    static const char *const names[] = {"\"gpt2\"", "1", "[]", "\"\""};

    (void)state;
    corrupt_begin(&folder, "config.json");
    corrupt_json(&folder, 12);
    for (size_t i = 0; i < sizeof(size_keys) / sizeof(*size_keys); i++) {
        try_values(size_keys[i], sizes, sizeof(sizes) / sizeof(*sizes), size_keys[i]);
    }
    for (size_t i = 0; i < sizeof(switch_keys) / sizeof(*switch_keys); i++) {
        try_values(switch_keys[i], switches, sizeof(switches) / sizeof(*switches), switch_keys[i]);
    }
    for (size_t i = 0; i < sizeof(real_keys) / sizeof(*real_keys); i++) {
        try_values(real_keys[i], reals, sizeof(reals) / sizeof(*reals), real_keys[i]);
    }
    try_values("model_type", names, sizeof(names) / sizeof(*names), "model_type");
    corrupt_end(&folder);
}

static void configs_that_do_not_fit_the_tensors_are_refused(void **state)
{
    /* right by themselves; the tensors tell */
    static const struct {
        const char *key, *value, *tensor;
    } edits[] = {
        {"vocab_size", "65", "model.embed_tokens.weight"},
        {"vocab_size", "1000000", "model.embed_tokens.weight"},
        {"hidden_size", "48", "model.embed_tokens.weight"},
        {"num_hidden_layers", "1", "model.layers."},
        {"num_hidden_layers", "3", "model.layers."},
        {"num_hidden_layers", "1000", "model.layers."},
        {"intermediate_size", "64", "model.layers.0.mlp."},
        {"moe_intermediate_size", "32", "model.layers."},
        {"kv_lora_rank", "8", "model.layers.0.self_attn."},
        {"q_lora_rank", "8", "model.layers.0.self_attn."},
        {"q_lora_rank", "null", "model.layers.0.self_attn."},
        {"v_head_dim", "16", "model.layers.0.self_attn."},
    };

    (void)state;
    corrupt_begin(&folder, "config.json");
    for (size_t i = 0; i < sizeof(edits) / sizeof(*edits); i++) {
        char quoted[64], from[96], by[96];
        (void)snprintf(quoted, sizeof(quoted), "\"%s\":", edits[i].key);
        const char *at = strstr(folder.original, quoted);
        assert_non_null(at);
        (void)snprintf(from, sizeof(from), "%.*s", (int)strcspn(at, ",\n}"), at);
        (void)snprintf(by, sizeof(by), "%s%s", quoted, edits[i].value);
        const struct expected want = {
            .what = by, .file = "model.safetensors", .part = edits[i].tensor};
        corrupt_replace(&folder, from, by, &want);
    }
    folder.n_cases += CASES_WANTED; /* they are more of those above */
    corrupt_end(&folder);
}

static const char tokenizer_text[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
    "{\"id\":8,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
    "\"pattern\":{\"Regex\":\"[a-z]+|\\\\s\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
    "]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
    "\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[8],\"tokens\":[\"<s>\"]}}},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"dropout\":null,"
    "\"unk_token\":null,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{\"a\":0,"
    "\"b\":1,\"c\":2,\"ab\":3,\"abc\":4,\"\xC4\xA0\":5,\"1\":6,\"2\":7},\"merges\":[\"a b\","
    "\"ab c\"]}}";

static const struct edit tokenizer_edits[] = {
    {"\"a\":0", "\"a\":-1", "\"a\"", NULL},
    {"\"a\":0", "\"a\":0.5", "\"a\"", NULL},
    {"\"a\":0", "\"a\":\"0\"", "\"a\"", NULL},
    {"\"a\":0", "\"a\":null", "\"a\"", NULL},
    {"\"a\":0", "\"a\":[]", "\"a\"", NULL},
    {"\"a\":0", "\"a\":1", "id 1", NULL},
    {"\"a\":0", "\"a\":2000000", "\"a\"", NULL},
    {"\"a\":0", "\"a\":4294967296", "\"a\"", NULL},
    {"\"a\":0", "\"a\":9223372036854775807", "\"a\"", NULL},
    {"\"a\":0", "\"z\":0", "merge 0", NULL},
    {"\"ab\":3", "\"zb\":3", "merge 0", NULL},
    {"\"abc\":4", "\"zbc\":4", "merge 1", NULL},
    {"\"a b\"", "\"a\"", "merge 0", NULL},
    {"\"a b\"", "\"\"", "merge 0", NULL},
    {"\"a b\"", "\" \"", "merge 0", NULL},
    {"\"a b\"", "\"a b c\"", "merge 0", NULL},
    {"\"a b\"", "1", "merge 0", NULL},
    {"\"a b\"", "[\"a\"]", "merge 0", NULL},
    {"\"a b\"", "[\"a\",1]", "merge 0", NULL},
    {"\"a b\"", "[\"a\",\"b\",\"c\"]", "merge 0", NULL},
    {"\"a b\"", "{}", "merge 0", NULL},
    {"\"merges\":[\"a b\",\"ab c\"]", "\"merges\":{}", "merges", NULL},
    {"\"merges\":[\"a b\",\"ab c\"]", "\"merges\":null", "merges", NULL},
    {"\"merges\":[\"a b\",\"ab c\"]", "\"merges\":\"a b\"", "merges", NULL},
    {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", "Unigram", NULL},
    {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", "WordPiece", NULL},
    {"\"dropout\":null", "\"dropout\":0.1", "dropout", NULL},
    {"\"unk_token\":null", "\"unk_token\":\"<unk>\"", "<unk>", NULL},
    {"\"byte_fallback\":false", "\"byte_fallback\":true", "byte", NULL},
    {"\"vocab\"", "\"vocabulary\"", "vocab", NULL},
    {"\"model\"", "\"modell\"", "model", NULL},
    {"\"id\":8,", "\"id\":-1,", "<s>", NULL},
    {"\"id\":8,", "\"id\":\"8\",", "<s>", NULL},
    {"\"id\":8,", "", "<s>", NULL},
    {"\"id\":8,", "\"id\":3,", "id 3", NULL},
    {"\"id\":8,", "\"id\":1e9,", "<s>", NULL},
    {"\"content\":\"<s>\"", "\"content\":\"\"", "content", NULL},
    {"\"content\":\"<s>\"", "\"content\":1", "content", NULL},
    {"\"content\":\"<s>\"", "\"contents\":\"<s>\"", "content", NULL},
    {"\"type\":\"NFC\"", "\"type\":\"NFX\"", "NFX", NULL},
    {"\"type\":\"NFC\"", "\"type\":1", "normalizer", NULL},
    {"[{\"type\":\"NFC\"}]", "{}", "normalizer", NULL},
    {"\"type\":\"Split\"", "\"type\":\"Splitt\"", "Splitt", NULL},
    {"\"Regex\":\"[a-z]+|\\\\s\"", "\"Regex\":\"(\"", "byte 1", NULL},
    {"\"Regex\":\"[a-z]+|\\\\s\"", "\"Regex\":\"[a\"", "byte 2", NULL},
    {"\"Regex\":\"[a-z]+|\\\\s\"", "\"Regex\":\"a{2,1}\"", "byte 5", NULL},
    {"\"Regex\":\"[a-z]+|\\\\s\"", "\"Regex\":\"\\\\p{Nope}\"", "byte 8", NULL},
    {"\"Regex\":\"[a-z]+|\\\\s\"", "\"Regex\":1", "pattern", NULL},
    {"\"Regex\":\"[a-z]+|\\\\s\"", "\"Other\":\"x\"", "pattern", NULL},
    {"\"Isolated\"", "\"Sometimes\"", "Sometimes", NULL},
    {"\"Isolated\"", "7", "behavior", NULL},
    {"\"type\":\"TemplateProcessing\"", "\"type\":\"BertProcessing\"", "BertProcessing", NULL},
    {"\"id\":\"<s>\",\"type_id\":0", "\"id\":\"<t>\",\"type_id\":0", "<t>", NULL},
    {"\"ids\":[8]", "\"ids\":[9]", "<s>", NULL},
    {"\"ids\":[8]", "\"ids\":\"8\"", "<s>", NULL},
    {"\"ids\":[8]", "\"ids\":[-8]", "<s>", NULL},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":\"CTC\"}", "CTC", NULL},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":3}", "decoder", NULL},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":[]", "decoder", NULL},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":\"Sequence\"}", "decoders",
     NULL},
    {"\"added_tokens\":[", "\"added_tokens\":{},\"x\":[", "added_tokens", NULL},
    {"\"pretokenizers\":[", "\"pretokenizers\":1,\"x\":[", "pretokenizers", NULL},
};

static void damaged_tokenizers_are_refused(void **state)
{
    (void)state;
    char path[512];
    corrupt_path(&folder, "tokenizer.json", path, sizeof(path));
    write_bytes(path, tokenizer_text, sizeof(tokenizer_text) - 1);
    corrupt_path(&folder, "tokenizer_config.json", path, sizeof(path));
    write_bytes(path, "{\"bos_token\":\"<s>\"}", 19);
    corrupt_begin(&folder, "tokenizer.json");
    corrupt_json(&folder, 15);
    try_edits(tokenizer_edits, sizeof(tokenizer_edits) / sizeof(*tokenizer_edits));
    corrupt_end(&folder);
}

static const char template_config[] =
    "{\"add_bos_token\":true,\"bos_token\":\"<bos>\",\"model_max_length\":4096,\"chat_template\":"
    "\"{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}\"}";

static void damaged_tokenizer_configs_are_refused(void **state)
{
    static const struct edit edits[] = {
        {"\"<bos>\"", "\"<t>\"", "bos_token", NULL},
        {"\"<bos>\"", "1", "bos_token", NULL},
        {"\"<bos>\"", "null", "bos_token", NULL},
        {"\"<bos>\"", "{\"content\":[]}", "bos_token", NULL},
        {"{% endfor %}", "", "1:", NULL},
        {"{% endfor %}", "{% endif %}", "1:", NULL},
        {"{% endfor %}", "{% endfor", "1:", NULL},
        {"{% for m in", "{% for m on", "1:", NULL},
        {"{% for m in", "{% for 1 in", "1:", NULL},
        {"{% for m in", "{% fro m in", "1:", NULL},
        {"+ m['content']", "+", "1:", NULL},
        {"+ m['content']", "+ m['content'", "1:", NULL},
        {"+ m['content']", "+ m['content]", "1:", NULL},
        {"+ m['content']", "+ m|nosuch", "1:", NULL},
        {"+ m['content']", "+ m is nosuch", "1:", NULL},
        {"+ m['content']", "{{", "1:", NULL},
        {"+ m['content']", "@", "1:", NULL},
        {"\"chat_template\":\"", "\"chat_template\":\"{% macro x %}", "1:", NULL},
        {"\"chat_template\":\"", "\"chat_template\":\"{% include 'x' %}", "1:", NULL},
        {"\"chat_template\":\"", "\"chat_template\":\"{# ", "1:", NULL},
        {"\"chat_template\":\"", "\"chat_template\":[],\"x\":\"", "chat_template", NULL},
        {"\"chat_template\":\"", "\"chat_template\":{\"a\":1},\"x\":\"", "chat_template", NULL},
        {"\"chat_template\":\"", "\"chat_template\":17,\"x\":\"", "chat_template", NULL},
    };

    (void)state;
    char path[512];
    assert_ok(demo_tokenizer_write(folder.dir));
    corrupt_path(&folder, "tokenizer_config.json", path, sizeof(path));
    write_bytes(path, template_config, sizeof(template_config) - 1);
    corrupt_begin(&folder, "tokenizer_config.json");
    corrupt_json(&folder, 18);
    try_edits(edits, sizeof(edits) / sizeof(*edits));
    corrupt_end(&folder);
}

static void damaged_templates_are_refused(void **state)
{
    static const char *const pieces[] = {
        "{% for m in messages %}{{ m.role }}{% if m.content %}{{ m.content[1:] | trim }}{% endif %}"
        "{% endfor %}",
        "{% if t %}{%- set x = namespace(a=1) -%}{% if x.a == 1 and not y %}{{ 'a' ~ x.a }}"
        "{% else %}b{% endif %}{% endif %}",
    };
    static const char *const broken[] = {
        "{{ }}",        "{{ 1 + }}",   "{{ (1 }}",  "{{ [1 }}",   "{{ 'a }}",
        "{% end %}",    "{{ a b }}",   "{{ a. }}",  "{% if %}",   "{{ a[ }}",
        "{% set %}",    "{{ 1 ? 2 }}", "{{ a | }}", "{% else %}", "{{ a is }}",
        "{% elif x %}", "{{ f(1 }}",   "{% for %}", "{{ {1 }}",   "{% set a.b.c %}"};

    (void)state;
    char path[512];
    corrupt_path(&folder, "chat_template.jinja", path, sizeof(path));
    write_bytes(path, pieces[0], strlen(pieces[0]));
    corrupt_begin(&folder, "chat_template.jinja");
    for (size_t k = 0; k < 2; k++) {
        for (size_t n = 2; n < strlen(pieces[k]); n++) { /* a block is open until the very end */
            const struct expected want = {.what = "cut", .part = ":"};
            corrupt_try(&folder, pieces[k], n, &want);
        }
    }
    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        const struct expected want = {.what = broken[i], .part = "1:"};
        corrupt_try(&folder, broken[i], strlen(broken[i]), &want);
    }
    corrupt_end(&folder);
    corrupt_path(&folder, "chat_template.jinja", path, sizeof(path));
    assert_int_equal(remove(path), 0);
}

static int make_folder(void **state)
{
    struct model_config config;
    struct weight_table *table = NULL;
    float *data = NULL;

    (void)state;
    corrupt_make(&folder, &config, &table, &data);
    assert_ok(weights_save(folder.dir, &config, table, data));
    memory_free(data);
    weight_table_destroy(table);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    corrupt_dispose(&folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_configs_are_refused),
        cmocka_unit_test(configs_that_do_not_fit_the_tensors_are_refused),
        cmocka_unit_test(damaged_tokenizers_are_refused),
        cmocka_unit_test(damaged_tokenizer_configs_are_refused),
        cmocka_unit_test(damaged_templates_are_refused),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
