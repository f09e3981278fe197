/* config.json: what is read, what is refused and how, and that saving loses nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/model_config.h"
#include "tests/support/support.h"

#include <string.h>

/* The demo preset as JSON with one key set to a JSON text (NULL: removed by null). */
static enum status parse_with(const char *key, const char *value, struct model_config *out)
{
    struct model_config demo;
    struct json *root = NULL, *item = NULL;

    assert_ok(model_config_preset("demo", &demo));
    assert_ok(model_config_print(&demo, &root));
    if (key != NULL) {
        assert_ok(json_parse(value, strlen(value), 8, &item));
        assert_ok(json_put(root, key, item));
    }

    const enum status status = model_config_parse(root, "config.json", out);

    json_destroy(root);
    return status;
}

static void assert_configs_equal(const struct model_config *a, const struct model_config *b)
{
    struct json *left = NULL, *right = NULL;
    char *left_text = NULL, *right_text = NULL;

    assert_ok(model_config_print(a, &left));
    assert_ok(model_config_print(b, &right));
    assert_ok(json_print(left, &left_text, NULL));
    assert_ok(json_print(right, &right_text, NULL));
    assert_string_equal(left_text, right_text);
    json_destroy(left);
    json_destroy(right);
    memory_free(left_text);
    memory_free(right_text);
}

static void every_preset_survives_saving_and_loading(void **state)
{
    static const char *const names[] = {"demo", "small", "medium", "tiny"};
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    for (size_t i = 0; i < 3; i++) {
        struct model_config saved, loaded;

        assert_ok(model_config_preset(names[i], &saved));
        saved.latent_norm_eps = i == 1 ? 1e-5 : saved.latent_norm_eps;
        saved.n_eos_ids = i + 1;
        saved.eos_ids[1] = 7;
        saved.eos_ids[2] = 9;
        assert_ok(model_config_save(&saved, dir));
        assert_ok(model_config_load(dir, &loaded));
        assert_configs_equal(&saved, &loaded);
        assert_true(model_config_is_eos(&loaded, saved.eos_ids[i]));
    }
    support_temp_dir_remove(dir);
}

static void every_option_survives_saving_and_loading(void **state)
{
    struct model_config saved, loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    for (unsigned i = 0; i < 32; i++) {
        assert_ok(model_config_preset("tiny", &saved));
        saved.has_softmax_router = (i & 1) != 0;
        saved.family = saved.has_softmax_router ? MODEL_DEEPSEEK_V2 : MODEL_DEEPSEEK_V3;
        saved.has_attention_bias = (i & 2) != 0;
        saved.has_tied_head = (i & 4) != 0;
        saved.has_pre_norm_mtp = (i & 8) != 0;
        saved.n_groups = (i & 16) != 0 ? 2 : 1;
        assert_ok(model_config_save(&saved, dir));
        assert_ok(model_config_load(dir, &loaded));
        assert_configs_equal(&saved, &loaded);
        assert_int_equal(loaded.has_softmax_router, saved.has_softmax_router);
        assert_int_equal(loaded.n_groups, saved.n_groups);
    }
    support_temp_dir_remove(dir);
}

/* A V2 file that says little: the class's defaults, not V3's. */
static void absent_keys_of_v2_mean_what_its_class_means(void **state)
{
    static const char text[] =
        "{\"model_type\": \"deepseek_v2\", \"vocab_size\": 64, \"hidden_size\": 32,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"intermediate_size\": 48,"
        "\"kv_lora_rank\": 16, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8,"
        "\"v_head_dim\": 8, \"n_routed_experts\": 8, \"num_experts_per_tok\": 2, \"n_group\": null,"
        "\"topk_group\": null, \"eos_token_id\": 1, \"bos_token_id\": 0}";
    struct model_config config;
    struct json *root;

    (void)state;
    assert_ok(json_parse(text, sizeof(text) - 1, 8, &root));
    assert_ok(model_config_parse(root, "config.json", &config));
    json_destroy(root);
    assert_true(config.has_softmax_router);
    assert_false(config.norm_topk_prob);
    assert_false(config.has_tied_head);
    assert_int_equal(config.first_dense_layers, 0);
    assert_int_equal(config.moe_intermediate_size, 1407);
    assert_int_equal(config.n_groups, 1);
    assert_true(model_config_route_scale(&config) == 1);
    config.routed_scaling_factor = 16;
    assert_true(model_config_route_scale(&config) == 16);
    config.norm_topk_prob = true; /* one or the other */
    assert_true(model_config_normalises_routes(&config));
    assert_true(model_config_route_scale(&config) == 1);
    config.experts_per_token = 1;
    assert_false(model_config_normalises_routes(&config));
    assert_true(model_config_route_scale(&config) == 16);
    config.has_softmax_router = false;
    assert_true(model_config_normalises_routes(&config));
}

static void yarn_survives_saving_and_loading(void **state)
{
    struct model_config saved, loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_ok(model_config_preset("tiny", &saved));
    saved.rope = (struct rope_scaling){.kind = ROPE_YARN,
                                       .factor = 40,
                                       .beta_fast = 32,
                                       .beta_slow = 1,
                                       .mscale = 0.707,
                                       .mscale_all_dim = 1.5,
                                       .attention_factor = 1.25,
                                       .original_max_positions = 128};
    assert_ok(model_config_save(&saved, dir));
    assert_ok(model_config_load(dir, &loaded));
    assert_memory_equal(&saved.rope, &loaded.rope, sizeof(saved.rope));
    support_temp_dir_remove(dir);
}

static void an_unknown_key_is_refused_with_the_nearest_known_one(void **state)
{
    struct model_config config;

    (void)state;
    assert_status(parse_with("hiden_size", "3", &config), STATUS_BAD_FORMAT,
                  "\"hiden_size\" (nearest known: hidden_size)");
    assert_status(parse_with("n_routed_expert", "3", &config), STATUS_BAD_FORMAT,
                  "n_routed_experts");
}

static void what_this_build_does_not_compute_is_named(void **state)
{
    static const struct {
        const char *key, *value, *message;
    } cases[] = {
        {"model_type", "\"gpt2\"", "model_type \"gpt2\""},
        {"scoring_func", "\"softmax\"", "scoring_func \"softmax\" with topk_method \"noaux_tc\""},
        {"scoring_func", "\"tanh\"", "scoring_func \"tanh\""},
        {"topk_method", "\"greedy\"", "scoring_func \"sigmoid\" with topk_method \"greedy\""},
        {"topk_method", "\"all\"", "topk_method \"all\""},
        {"hidden_act", "\"gelu\"", "hidden_act \"gelu\""},
        {"quantization_config", "{\"quant_method\": \"fp8\"}", "weight_block_size"},
        {"quantization_config", "{\"quant_method\": \"awq\"}", "quant_method"},
        {"quantization_config", "{\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}", "fmt"},
        {"index_topk", "2048", "index_topk"},
        {"num_key_value_heads", "2", "num_key_value_heads 2"},
        {"architectures", "[\"GPT2LMHeadModel\"]", "GPT2LMHeadModel"},
        {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2}", "rope type \"dynamic\""},
    };
    struct model_config config;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_status(parse_with(cases[i].key, cases[i].value, &config), STATUS_UNSUPPORTED,
                      cases[i].message);
    }
}

static void a_value_out_of_range_or_of_the_wrong_kind_is_refused(void **state)
{
    static const struct {
        const char *key, *value;
    } cases[] = {
        {"vocab_size", "1"},
        {"vocab_size", "18446744073709551615.0"},
        {"hidden_size", "-3"},
        {"hidden_size", "\"128\""},
        {"hidden_size", "12.5"},
        {"hidden_size", "null"},
        {"num_hidden_layers", "1e9"},
        {"qk_rope_head_dim", "3"},
        {"num_experts_per_tok", "9"},
        {"n_group", "3"},
        {"topk_group", "2"},
        {"n_routed_experts", "-1"},
        {"n_routed_experts", "2.5"},
        {"eos_token_id", "64"},
        {"eos_token_id", "[1, null]"},
        {"eos_token_id", "[1,1,1,1,1,1,1,1,1]"},
        {"bos_token_id", "-1"},
        {"rms_norm_eps", "0"},
        {"num_nextn_predict_layers", "65"},
        {"attention_bias", "1"},
        {"mtp_input", "3"},
        {"norm_topk_prob", "1"},
        {"rope_theta", "1"},
        {"rope_scaling", "3"},
        {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 0.5}"},
        {"rope_scaling", "{\"typ\": \"yarn\"}"},
        {"rope_scaling", "{\"type\": \"linear\"}"},
        {"rope_scaling", "{\"type\": \"llama3\", \"factor\": 8}"},
        {"model_type", "\"llama\""},
        {"architectures", "[\"LlamaForCausalLM\"]"},
    };
    struct model_config config;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (parse_with(cases[i].key, cases[i].value, &config) != STATUS_BAD_FORMAT) {
            fail_msg("%s: %s was not refused as it should", cases[i].key, cases[i].value);
        }
    }
}

static void known_keys_without_effect_are_accepted(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(parse_with("aux_loss_alpha", "0.001", &config));
    assert_ok(parse_with("transformers_version", "\"4.46.3\"", &config));
    assert_ok(parse_with("head_dim", "16", &config));
    assert_ok(parse_with("model_type", "\"kimi_k2\"", &config));
    assert_ok(parse_with("num_key_value_heads", "null", &config));
    assert_ok(parse_with("q_lora_rank", "null", &config));
    assert_int_equal(config.q_lora_rank, 0);
    assert_ok(parse_with("rope_parameters", "{\"rope_theta\": 5e4, \"rope_type\": \"default\"}",
                         &config));
    assert_float_equal((float)config.rope_theta, 5e4f, 0);
    assert_ok(
        parse_with("mlp_layer_types", "[\"dense\", \"dense\", \"sparse\", \"sparse\"]", &config));
    assert_int_equal(config.first_dense_layers, 2);
    assert_false(model_config_is_moe_layer(&config, 1));
    assert_true(model_config_is_moe_layer(&config, 2));
    assert_true(model_config_is_moe_layer(&config, 4));
    assert_ok(
        parse_with("mlp_layer_types", "[\"sparse\", \"dense\", \"sparse\", \"sparse\"]", &config));
    assert_true(model_config_is_moe_layer(&config, 0));
    assert_false(model_config_is_moe_layer(&config, 1));
    assert_true(model_config_is_moe_layer(&config, 3));
}

static void an_unknown_preset_lists_what_there_is(void **state)
{
    struct model_config config;

    (void)state;
    assert_status(model_config_preset("large", &config), STATUS_BAD_ARGUMENT,
                  "demo, small, medium, tiny");
}

static enum status print_and_destroy(void *context)
{
    struct json *root;

    TRY(model_config_print(context, &root));
    json_destroy(root);
    return STATUS_OK;
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(model_config_preset("tiny", &config));
    (void)support_fail_allocations(print_and_destroy, &config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_preset_survives_saving_and_loading),
        cmocka_unit_test(every_option_survives_saving_and_loading),
        cmocka_unit_test(absent_keys_of_v2_mean_what_its_class_means),
        cmocka_unit_test(yarn_survives_saving_and_loading),
        cmocka_unit_test(an_unknown_key_is_refused_with_the_nearest_known_one),
        cmocka_unit_test(what_this_build_does_not_compute_is_named),
        cmocka_unit_test(a_value_out_of_range_or_of_the_wrong_kind_is_refused),
        cmocka_unit_test(known_keys_without_effect_are_accepted),
        cmocka_unit_test(an_unknown_preset_lists_what_there_is),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
