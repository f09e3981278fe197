/* config.json: what is read, what is refused and how, and that saving loses nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/model_config.h"
#include "model/model_cost.h"
#include "model/rope_table.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
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

static void parameters_are_counted_like_the_published_ones(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(model_config_preset("small", &config));
    /* cpu.md 4: 8.5 M parameters, 3.91 M active (embeddings and biases beside) */
    assert_in_range(model_config_parameters(&config), 8450000, 8550000);
    assert_in_range(model_config_active_parameters(&config), 3900000, 3930000);
    assert_ok(model_config_preset("medium", &config));
    assert_in_range(model_config_parameters(&config), 683000000, 685000000);
    assert_in_range(model_config_active_parameters(&config), 165500000, 166500000);
}

static void costs_of_a_token_are_those_of_the_roofline(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(model_config_preset("small", &config));
    /* cpu.md 4: 9.1 Mflop a decoded token at context 128, 10.2 kflop a key, 8.2 Mflop a row of a
     * packed batch of sequences of 128; 29.8 MB of weights touched by 64 rows */
    assert_in_range((size_t)model_forward_flops(&config, 128, true, true), 9100000, 9200000);
    assert_int_equal((size_t)(model_forward_flops(&config, 129, true, true) -
                              model_forward_flops(&config, 128, true, true)),
                     10240);
    assert_in_range((size_t)model_forward_flops(&config, 64.5, false, true), 8200000, 8300000);
    assert_in_range((size_t)model_weight_bytes(&config, 64, 4, 4), 29500000, 30000000);
    assert_in_range((size_t)model_weight_bytes(&config, 1, 4, 4), 15500000, 15800000);
    /* codes of one byte and a head of two */
    assert_int_equal(
        (size_t)(4 * model_weight_bytes(&config, 1, 1, 2) - model_weight_bytes(&config, 1, 4, 4)),
        4 * 4096 * 256);
    assert_int_equal((size_t)model_cache_bytes(&config, 128, PRECISION_F32), 4 * 96 * 128 * 4);
    assert_int_equal((size_t)model_cache_bytes(&config, 128, PRECISION_BF16), 4 * 96 * 128 * 2);
    assert_int_equal((size_t)model_cache_bytes(&config, 128, PRECISION_FP8),
                     4 * (64 + 1 + 2 * 32) * 128);
    /* 3 rows behind 2, one of them with the head */
    assert_true(fabs(model_span_keys(2, 3) - 12.0) < 1e-9);
    assert_true(fabs(model_work_flops(&config, &(struct model_work){3, 12, 1}, true) -
                     (model_forward_flops(&config, 3, true, false) +
                      model_forward_flops(&config, 4, true, false) +
                      model_forward_flops(&config, 5, true, true))) < 1);
    assert_true(model_work_flops(&config, &(struct model_work){0, 0, 0}, true) <= 0);
    assert_ok(model_config_preset("llama", &config));
    assert_int_equal((size_t)model_cache_bytes(&config, 1, PRECISION_F32),
                     config.n_layers * 2 * config.n_kv_heads * config.head_dim * 4);
    assert_int_equal((size_t)model_cache_bytes(&config, 1, PRECISION_FP8),
                     config.n_layers * 2 * config.n_kv_heads * (config.head_dim + 1));
    assert_true(model_forward_flops(&config, 2, true, true) >
                model_forward_flops(&config, 1, true, true));
}

/* DeepSeek-V3's rotary settings, and Kimi-K2's. */
static struct model_config yarn_config(double theta, double factor, double fast, double slow)
{
    return (struct model_config){.qk_nope_head_dim = 128,
                                 .qk_rope_head_dim = 64,
                                 .rope_theta = theta,
                                 .rope = {.kind = ROPE_YARN,
                                          .factor = factor,
                                          .beta_fast = fast,
                                          .beta_slow = slow,
                                          .mscale = 1,
                                          .mscale_all_dim = 1,
                                          .original_max_positions = 4096,
                                          .truncate = true}};
}

static void yarn_frequencies_match_the_golden_values(void **state)
{
    static const size_t v3_pairs[] = {1, 10, 11, 19, 20, 23, 31};
    static const double v3[] = {0.749894209,    0.0562341325,   0.0390069266,  0.00137051364,
                                0.000790569415, 3.33380358e-05, 3.33380358e-06};
    static const size_t kimi_pairs[] = {1, 10, 19, 20, 31};
    static const double kimi[] = {0.713111085, 0.0340072782, 0.00162175991, 3.61404677e-05,
                                  8.76441291e-07};
    const struct model_config deepseek = yarn_config(1e4, 40, 32, 1);
    const struct model_config k2 = yarn_config(5e4, 32, 1, 1);

    (void)state;
    for (size_t i = 0; i < 7; i++) {
        assert_true(fabs(rope_frequency(&deepseek, v3_pairs[i]) / v3[i] - 1) < 1e-8);
    }
    for (size_t i = 0; i < 5; i++) {
        assert_true(fabs(rope_frequency(&k2, kimi_pairs[i]) / kimi[i] - 1) < 1e-8);
    }
    assert_true(fabs((double)model_config_attention_scale(&deepseek) - 0.13523378) < 1e-8);
    assert_true(fabs((double)model_config_attention_scale(&k2) - 0.13086080) < 1e-8);
    assert_true(rope_attention_factor(&deepseek) == 1);
}

static void the_ramp_has_its_edge_cases(void **state)
{
    struct model_config config = yarn_config(1e4, 4, 32, 1);
    float cosine[4], sine[4];

    (void)state;
    config.rope.attention_factor = 1.5;
    assert_true(rope_attention_factor(&config) == 1.5);
    config.rope.attention_factor = 0;
    config.rope.mscale = 0; /* only one given: the plain factor */
    assert_true(fabs(rope_attention_factor(&config) - (0.1 * log(4) + 1)) < 1e-12);
    config.rope.original_max_positions = 6; /* lo = hi = 0: a step behind pair 0 */
    assert_true(rope_frequency(&config, 0) == 1);
    assert_true(fabs(rope_frequency(&config, 1) / (pow(1e4, -1.0 / 32) / 4) - 1) < 1e-12);
    config.rope.truncate = false;
    config.rope.original_max_positions = 4096;
    assert_true(rope_frequency(&config, 5) > rope_frequency(&config, 6));

    config = (struct model_config){.qk_rope_head_dim = 4, .rope_theta = 100};
    rope_table_fill(&config, 2, cosine, sine);
    assert_true(cosine[0] == 1 && sine[0] == 0);
    assert_true(cosine[3] == (float)cos(0.1) && sine[3] == (float)sin(0.1));
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
        cmocka_unit_test(parameters_are_counted_like_the_published_ones),
        cmocka_unit_test(costs_of_a_token_are_those_of_the_roofline),
        cmocka_unit_test(yarn_frequencies_match_the_golden_values),
        cmocka_unit_test(the_ramp_has_its_edge_cases),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
