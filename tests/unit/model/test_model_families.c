/* config.json of every family: class defaults, what follows from them, saving, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/model_config.h"
#include "model/rope_table.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static enum status parse_shape(const char *type, const char *keys, struct model_config *out)
{
    char text[1024];
    struct json *root;
    enum status status;

    (void)snprintf(text, sizeof(text), "{\"model_type\": \"%s\", %s}", type, keys);
    assert_ok(json_parse(text, strlen(text), 8, &root));
    status = model_config_parse(root, "config.json", out);
    json_destroy(root);
    return status;
}

/* The least that a file of the classics says, and more behind it. */
static enum status parse_classic(const char *type, const char *more, struct model_config *out)
{
    char keys[768];

    (void)snprintf(keys, sizeof(keys),
                   "\"vocab_size\": 64, \"hidden_size\": 1024, \"num_hidden_layers\": 4,"
                   "\"num_attention_heads\": 64, \"intermediate_size\": 48,"
                   "\"eos_token_id\": [1, 2]%s%s",
                   more[0] == '\0' ? "" : ", ", more);
    return parse_shape(type, keys, out);
}

static void absent_keys_mean_what_each_class_means(void **state)
{
    static const struct {
        const char *type;
        size_t n_kv_heads, head_dim, n_experts, top_k, max_positions;
        double theta, eps;
        bool has_qk_norm, has_qkv_bias;
    } cases[] = {
        {"llama", 64, 16, 0, 0, 2048, 1e4, 1e-6, false, false},
        {"qwen2", 32, 16, 0, 0, 32768, 1e4, 1e-6, false, true},
        {"qwen3", 32, 128, 0, 0, 32768, 1e4, 1e-6, true, false},
        {"qwen3_moe", 4, 16, 128, 8, 32768, 1e4, 1e-6, true, false},
        {"mixtral", 8, 16, 8, 2, 131072, 1e6, 1e-5, false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct model_config config;

        assert_ok(parse_classic(cases[i].type, "", &config));
        assert_string_equal(model_config_family_name(&config), cases[i].type);
        assert_int_equal(config.n_kv_heads, cases[i].n_kv_heads);
        assert_int_equal(config.head_dim, cases[i].head_dim);
        assert_int_equal(config.n_experts, cases[i].n_experts);
        assert_int_equal(config.experts_per_token, cases[i].top_k);
        assert_int_equal(config.max_positions, cases[i].max_positions);
        assert_true(config.rope_theta == cases[i].theta);
        assert_true(config.rms_norm_eps == cases[i].eps);
        assert_int_equal(config.has_qk_norm, cases[i].has_qk_norm);
        assert_int_equal(config.has_qkv_bias, cases[i].has_qkv_bias);
        assert_false(config.has_o_bias);
        assert_int_equal(config.bos_id, -1);
        assert_int_equal(config.n_eos_ids, 2);
        assert_int_equal(model_config_rope_dim(&config), config.head_dim);
        assert_int_equal(model_config_kv_floats(&config),
                         (size_t)8 * config.n_kv_heads * config.head_dim);
    }
}

static void every_shape_of_every_family_survives_saving_and_loading(void **state)
{
    static const char *const names[] = {"v2",    "tied",      "llama",  "qwen2",
                                        "qwen3", "qwen3-moe", "mixtral"};
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct model_config saved, loaded;

        memset(&loaded, 0, sizeof(loaded));
        assert_ok(model_config_preset(names[i], &saved));
        assert_ok(model_config_save(&saved, dir));
        assert_ok(model_config_load(dir, &loaded));
        assert_memory_equal(&saved, &loaded, sizeof(saved));
    }
    support_temp_dir_remove(dir);
}

static void biases_and_layers_survive_saving_and_loading(void **state)
{
    struct model_config saved, loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_ok(parse_classic("qwen3_moe",
                            "\"attention_bias\": true, \"decoder_sparse_step\": 2,"
                            "\"mlp_only_layers\": [3], \"num_experts\": 4,"
                            "\"num_experts_per_tok\": 2, \"head_dim\": 24",
                            &saved));
    assert_true(saved.has_qkv_bias && saved.has_o_bias);
    assert_false(model_config_is_moe_layer(&saved, 0));
    assert_true(model_config_is_moe_layer(&saved, 1));
    assert_false(model_config_is_moe_layer(&saved, 3));
    assert_int_equal(model_config_moe_layers(&saved), 1);
    assert_ok(model_config_save(&saved, dir));
    assert_ok(model_config_load(dir, &loaded));
    assert_memory_equal(&saved, &loaded, sizeof(saved));
    support_temp_dir_remove(dir);
}

static void rope_scaling_of_each_kind_survives_saving_and_loading(void **state)
{
    static const struct rope_scaling scalings[] = {
        {.kind = ROPE_LINEAR, .factor = 4},
        {.kind = ROPE_LLAMA3,
         .factor = 8,
         .low_freq_factor = 1,
         .high_freq_factor = 4,
         .original_max_positions = 8192},
        {.kind = ROPE_YARN,
         .factor = 4,
         .beta_fast = 32,
         .beta_slow = 1,
         .truncate = true,
         .original_max_positions = 32},
    };
    struct model_config saved, loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    for (size_t i = 0; i < sizeof(scalings) / sizeof(scalings[0]); i++) {
        assert_ok(model_config_preset("llama", &saved));
        saved.rope = scalings[i];
        assert_ok(model_config_save(&saved, dir));
        assert_ok(model_config_load(dir, &loaded));
        assert_memory_equal(&saved, &loaded, sizeof(saved));
    }
    support_temp_dir_remove(dir);
}

/* Llama 3.1's own numbers: kept, blended and divided pairs (model.md 12.1). */
static void llama3_frequencies_are_kept_blended_or_divided(void **state)
{
    const struct model_config config = {.attention = MODEL_ATTENTION_GQA,
                                        .head_dim = 128,
                                        .rope_theta = 500000,
                                        .rope = {.kind = ROPE_LLAMA3,
                                                 .factor = 8,
                                                 .low_freq_factor = 1,
                                                 .high_freq_factor = 4,
                                                 .original_max_positions = 8192}};

    (void)state;
    for (size_t i = 0; i < 64; i++) {
        const double plain = pow(500000, -(double)i / 64);
        const double wavelength = 2 * M_PI / plain;
        const double blend = (8192 / wavelength - 1) / 3;
        const double wanted = wavelength > 8192   ? plain / 8
                              : wavelength < 2048 ? plain
                                                  : (1 - blend) * plain / 8 + blend * plain;

        assert_true(fabs(rope_frequency(&config, i) / wanted - 1) < 1e-12);
    }
    assert_true(rope_attention_factor(&config) == 1);
}

static void options_that_are_not_computed_are_named(void **state)
{
    static const struct {
        const char *type, *more, *message;
    } cases[] = {
        {"llama", "\"mlp_bias\": true", "mlp_bias"},
        {"llama", "\"attention_dropout\": 0.1", "attention_dropout"},
        {"llama", "\"hidden_act\": \"gelu\"", "hidden_act"},
        {"llama", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", "dynamic"},
        {"llama", "\"rope_parameters\": {\"rope_theta\": 1e4, \"partial_rotary_factor\": 0.5}",
         "partial_rotary_factor"},
        {"mixtral", "\"sliding_window\": 4096", "sliding_window 4096"},
        {"qwen2", "\"use_sliding_window\": true, \"sliding_window\": 128", "sliding_window 128"},
        {"qwen3", "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "\"sliding_attention\" of layer 1"},
        {"qwen2_moe", "\"num_experts\": 4", "model_type \"qwen2_moe\""},
        {"llama", "\"index_topk\": 4", "index_topk"},
    };
    struct model_config config;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_status(parse_classic(cases[i].type, cases[i].more, &config), STATUS_UNSUPPORTED,
                      cases[i].message);
    }
}

static void a_window_that_hides_nothing_is_accepted(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(
        parse_classic("qwen2", "\"use_sliding_window\": false, \"sliding_window\": 128", &config));
    assert_ok(parse_classic("qwen2",
                            "\"use_sliding_window\": true, \"sliding_window\": 128,"
                            "\"max_window_layers\": 4",
                            &config));
    assert_ok(parse_classic(
        "mixtral", "\"sliding_window\": 4096, \"max_position_embeddings\": 4096", &config));
    assert_ok(parse_classic("qwen3", "\"layer_types\": [\"full_attention\"]", &config));
}

static void heads_that_do_not_fit_are_refused(void **state)
{
    static const char *const cases[] = {
        "\"num_key_value_heads\": 3", "\"num_key_value_heads\": 128", "\"head_dim\": 7",
        "\"mlp_only_layers\": 3",     "\"decoder_sparse_step\": 0",   "\"mlp_only_layers\": [4]",
        "\"num_experts\": 4",
    };
    struct model_config config;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (parse_classic("qwen3_moe", cases[i], &config) != STATUS_BAD_FORMAT) {
            fail_msg("%s was not refused as it should", cases[i]);
        }
    }
}

static void generation_config_has_the_last_word_on_end_tokens(void **state)
{
    static const char *const texts[] = {"{\"eos_token_id\": [5, 7]}", "{\"temperature\": 0.6}",
                                        "{\"eos_token_id\": 64}", "{\"eos_token_id\": "};
    struct model_config saved, loaded;
    char dir[256];
    char *path;

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_ok(model_config_preset("llama", &saved));
    assert_ok(model_config_save(&saved, dir));
    assert_ok(path_join(dir, "generation_config.json", &path));
    assert_ok(file_write_atomic(path, texts[0], strlen(texts[0])));
    assert_ok(model_config_load(dir, &loaded));
    assert_int_equal(loaded.n_eos_ids, 2);
    assert_true(model_config_is_eos(&loaded, 5) && model_config_is_eos(&loaded, 7));
    assert_false(model_config_is_eos(&loaded, 1));
    assert_ok(file_write_atomic(path, texts[1], strlen(texts[1])));
    assert_ok(model_config_load(dir, &loaded));
    assert_memory_equal(&saved, &loaded, sizeof(saved));
    for (size_t i = 2; i < 4; i++) {
        assert_ok(file_write_atomic(path, texts[i], strlen(texts[i])));
        assert_status(model_config_load(dir, &loaded), STATUS_BAD_FORMAT, "generation_config.json");
    }
    memory_free(path);
    support_temp_dir_remove(dir);
}

static void an_indexer_belongs_to_v32(void **state)
{
    struct model_config saved, loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    memset(&loaded, 0, sizeof(loaded));
    assert_ok(model_config_preset("tiny", &saved));
    saved.family = MODEL_DEEPSEEK_V32;
    saved.index_n_heads = 4;
    saved.index_head_dim = 16;
    saved.index_topk = 6;
    saved.index_rope_interleave = true;
    assert_string_equal(model_config_attention_name(&saved), "mla+dsa");
    assert_ok(model_config_save(&saved, dir));
    assert_ok(model_config_load(dir, &loaded));
    assert_memory_equal(&saved, &loaded, sizeof(saved));
    support_temp_dir_remove(dir);
}

static const struct model_config published_deepseek = {
    .attention = MODEL_ATTENTION_MLA,
    .moe_layer_freq = 1,
    .first_dense_layers = 1,
    .kv_lora_rank = 512,
    .qk_nope_head_dim = 128,
    .qk_rope_head_dim = 64,
    .v_head_dim = 128,
};

/* V, d, L, H, rq, F, Fe, E, shared, K of the published DeepSeek models. */
static struct model_config deepseek(const size_t numbers[10])
{
    struct model_config config = published_deepseek;

    config.vocab_size = numbers[0];
    config.hidden_size = numbers[1];
    config.n_layers = numbers[2];
    config.n_heads = numbers[3];
    config.q_lora_rank = numbers[4];
    config.intermediate_size = numbers[5];
    config.moe_intermediate_size = numbers[6];
    config.n_experts = numbers[7];
    config.n_shared_experts = numbers[8];
    config.experts_per_token = numbers[9];
    return config;
}

/* model.md 14: billions in all, billions a token uses, bytes of BF16 cache a token. */
static void deepseek_models_count_as_published(void **state)
{
    static const struct {
        size_t numbers[10], n_dense, index_heads;
        bool has_softmax_router;
        double total, active;
        size_t cache_bytes;
    } models[] = {
        {{102400, 2048, 27, 16, 0, 10944, 1408, 64, 2, 6}, 1, 0, true, 15.7, 2.45, 31104},
        {{102400, 5120, 60, 128, 1536, 12288, 1536, 160, 2, 6}, 1, 0, true, 235.7, 20.9, 69120},
        {{129280, 7168, 61, 128, 1536, 18432, 2048, 256, 1, 8}, 3, 0, false, 671.0, 36.6, 70272},
        {{163840, 2048, 27, 16, 0, 11264, 1408, 64, 2, 6}, 1, 0, false, 16.0, 2.58, 31104},
        {{163840, 7168, 61, 64, 1536, 18432, 2048, 384, 1, 8}, 1, 0, false, 1026, 31.7, 70272},
        {{129280, 7168, 61, 128, 1536, 18432, 2048, 256, 1, 8},
         3,
         64,
         false,
         671.9,
         37.5,
         70272 + 15616},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        struct model_config config = deepseek(models[i].numbers);

        config.first_dense_layers = models[i].n_dense;
        config.has_softmax_router = models[i].has_softmax_router;
        config.index_n_heads = models[i].index_heads;
        config.index_head_dim = 128;
        assert_true(fabs((double)model_config_parameters(&config) / 1e9 / models[i].total - 1) <
                    0.005);
        assert_true(fabs((double)model_config_active_parameters(&config) / 1e9 / models[i].active -
                         1) < 0.005);
        assert_int_equal(2 * model_config_kv_floats(&config), models[i].cache_bytes);
    }
}

/* The counts that their releases state, to the last parameter. */
static void classic_models_count_as_published(void **state)
{
    static const struct {
        const char *type, *shape;
        size_t parameters;
    } models[] = {
        {"llama",
         "\"vocab_size\": 128256, \"hidden_size\": 4096, \"num_hidden_layers\": 32,"
         "\"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"intermediate_size\": 14336",
         8030261248},
        {"qwen2",
         "\"vocab_size\": 152064, \"hidden_size\": 3584, \"num_hidden_layers\": 28,"
         "\"num_attention_heads\": 28, \"num_key_value_heads\": 4, \"intermediate_size\": 18944",
         7615616512},
        {"qwen3",
         "\"vocab_size\": 151936, \"hidden_size\": 4096, \"num_hidden_layers\": 36,"
         "\"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"intermediate_size\": 12288",
         8190735360},
        {"qwen3_moe",
         "\"vocab_size\": 151936, \"hidden_size\": 2048, \"num_hidden_layers\": 48,"
         "\"num_attention_heads\": 32, \"head_dim\": 128, \"intermediate_size\": 6144",
         30532122624},
        {"mixtral",
         "\"vocab_size\": 32000, \"hidden_size\": 4096, \"num_hidden_layers\": 32,"
         "\"num_attention_heads\": 32, \"intermediate_size\": 14336",
         46702792704},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        struct model_config config;

        assert_ok(parse_shape(models[i].type, models[i].shape, &config));
        assert_int_equal(model_config_parameters(&config), models[i].parameters);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_mean_what_each_class_means),
        cmocka_unit_test(every_shape_of_every_family_survives_saving_and_loading),
        cmocka_unit_test(biases_and_layers_survive_saving_and_loading),
        cmocka_unit_test(rope_scaling_of_each_kind_survives_saving_and_loading),
        cmocka_unit_test(llama3_frequencies_are_kept_blended_or_divided),
        cmocka_unit_test(options_that_are_not_computed_are_named),
        cmocka_unit_test(a_window_that_hides_nothing_is_accepted),
        cmocka_unit_test(heads_that_do_not_fit_are_refused),
        cmocka_unit_test(generation_config_has_the_last_word_on_end_tokens),
        cmocka_unit_test(an_indexer_belongs_to_v32),
        cmocka_unit_test(deepseek_models_count_as_published),
        cmocka_unit_test(classic_models_count_as_published),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
