/* Owns the drawing of a whole configuration: shapes and attention; rope and experts have their own
 * files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "tests/support/random_config.h"
#include "tests/support/support.h"

#include <string.h>

const char *const random_family_names[N_RANDOM_FAMILIES] = {
    "v3", "v2", "v3.2", "llama", "qwen2", "qwen3", "qwen3-moe", "mixtral"};

const char *const random_branch_names[N_CONFIG_BRANCHES] = {
    [BRANCH_Q_LORA] = "q_lora",
    [BRANCH_Q_PROJ] = "one q_proj",
    [BRANCH_GROUPS_V3] = "groups, sum of two",
    [BRANCH_GROUPS_V2] = "groups, best",
    [BRANCH_GREEDY_IGNORES_GROUPS] = "greedy ignores groups",
    [BRANCH_SIGMOID] = "sigmoid router",
    [BRANCH_SOFTMAX] = "softmax router",
    [BRANCH_NORM_TOPK] = "norm_topk_prob",
    [BRANCH_NO_NORM_TOPK] = "no norm_topk_prob",
    [BRANCH_V2_NORM_TOPK] = "V2 with norm_topk_prob",
    [BRANCH_TOP_ONE] = "one expert a token",
    [BRANCH_SHARED_NONE] = "no shared expert",
    [BRANCH_SHARED_ONE] = "one shared expert",
    [BRANCH_SHARED_TWO] = "two shared experts",
    [BRANCH_DENSE_MODEL] = "DeepSeek without experts",
    [BRANCH_DENSE_FIRST] = "first layers dense",
    [BRANCH_MOE_EVERY_OTHER] = "every other layer",
    [BRANCH_LAYER_TYPES] = "layers by list",
    [BRANCH_BIASES] = "attention_bias",
    [BRANCH_QKV_BIASES_ONLY] = "biases of q, k, v only",
    [BRANCH_QK_NORM] = "q_norm and k_norm",
    [BRANCH_TIED_HEAD] = "tied head",
    [BRANCH_INTERLEAVED] = "rope interleaved",
    [BRANCH_HALF_SPLIT] = "rope half-split",
    [BRANCH_LATENT_EPS] = "latent_norm_eps given",
    [BRANCH_ROPE_NONE] = "rope default",
    [BRANCH_YARN] = "yarn",
    [BRANCH_YARN_NO_TRUNCATE] = "yarn, truncate false",
    [BRANCH_YARN_ATTENTION_FACTOR] = "yarn, attention_factor",
    [BRANCH_YARN_CLAMP] = "yarn, clamp at dr - 1",
    [BRANCH_YARN_DEGENERATE] = "yarn, 0.001 rule",
    [BRANCH_YARN_MSCALES] = "yarn, both mscales",
    [BRANCH_YARN_RATIO] = "yarn, ratio of lengths",
    [BRANCH_LLAMA3] = "rope llama3",
    [BRANCH_LINEAR] = "rope linear",
    [BRANCH_ROPE_PARAMETERS] = "rope_parameters",
    [BRANCH_MODULE_ONE] = "one MTP module",
    [BRANCH_MODULE_TWO] = "two MTP modules",
    [BRANCH_PRE_NORM] = "MTP reads before the norm",
    [BRANCH_MHA] = "MHA",
    [BRANCH_GQA] = "GQA",
    [BRANCH_MQA] = "MQA",
    [BRANCH_INDEXER] = "indexer",
    [BRANCH_INDEXER_INTERLEAVED] = "indexer interleaved",
    [BRANCH_ODD_D] = "odd hidden_size",
    [BRANCH_ONE_WIDE] = "a width of 1",
};

size_t random_draw(struct random_draws *draws, size_t n)
{
    return (size_t)random_below(draws->seed, RANDOM_TEST, draws->index, draws->n++, n);
}

bool random_chance(struct random_draws *draws, size_t percent)
{
    return random_draw(draws, 100) < percent;
}

double random_pick_of(struct random_draws *draws, const double *list, size_t n)
{
    return list[random_draw(draws, n)];
}

void random_put_int(struct random_config *config, const char *key, size_t value)
{
    assert_ok(json_put(config->json, key, json_from_int((int64_t)value)));
}

void random_put_number(struct random_config *config, const char *key, double value)
{
    assert_ok(json_put(config->json, key, json_from_number(value)));
}

void random_put_bool(struct random_config *config, const char *key, bool value)
{
    assert_ok(json_put(config->json, key, json_from_bool(value)));
}

void random_put_text(struct random_config *config, const char *key, const char *value)
{
    assert_ok(json_put(config->json, key, json_from_text(value, strlen(value))));
}

void random_put_null(struct random_config *config, const char *key)
{
    assert_ok(json_put(config->json, key, json_null_create()));
}

/* The shapes that all families have. */
static void draw_shapes(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    o->vocab = (size_t)RANDOM_PICK(draws, 3, 7, 16, 23, 33);
    /* A norm over very few elements is a matter of luck in FP32. */
    o->d = (size_t)RANDOM_PICK(draws, 7, 8, 12, 16, 17);
    o->n_heads = 1 + random_draw(draws, 4);
    o->n_layers = 1 + random_draw(draws, 3);
    o->ffn_width = (size_t)RANDOM_PICK(draws, 1, 7, 12, 17);
    o->eps = RANDOM_PICK(draws, 1e-6, 1e-5, 0.01);
    random_put_int(config, "vocab_size", o->vocab);
    random_put_int(config, "hidden_size", o->d);
    random_put_int(config, "num_attention_heads", o->n_heads);
    random_put_int(config, "num_hidden_layers", o->n_layers);
    random_put_int(config, "intermediate_size", o->ffn_width);
    random_put_number(config, "rms_norm_eps", o->eps);
    random_put_text(config, "hidden_act", "silu");
    random_put_int(config, "bos_token_id", 0);
    random_put_int(config, "eos_token_id", 1);
    if (random_chance(draws, 40)) {
        o->has_tied_head = random_chance(draws, 70);
        random_put_bool(config, "tie_word_embeddings", o->has_tied_head);
    }
}

static void draw_modules(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    if (config->family == RANDOM_V2 || random_chance(draws, 30)) {
        return;
    }
    o->n_modules = 1 + random_draw(draws, 2);
    random_put_int(config, "num_nextn_predict_layers", o->n_modules);
    if (random_chance(draws, 60)) {
        o->has_pre_norm_mtp = random_chance(draws, 60);
        random_put_text(config, "mtp_input", o->has_pre_norm_mtp ? "pre_norm" : "post_norm");
    }
    config->branches[BRANCH_MODULE_ONE] = o->n_modules == 1;
    config->branches[BRANCH_MODULE_TWO] = o->n_modules == 2;
    config->branches[BRANCH_PRE_NORM] = o->has_pre_norm_mtp;
}

/* Main rotary layout, latent eps and biases; the V2 and V3.2 classes always interleave. */
static void draw_mla_options(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    o->interleave = true;
    if (config->family == RANDOM_V3 && random_chance(draws, 60)) {
        o->interleave = random_chance(draws, 40);
        random_put_bool(config, "rope_interleave", o->interleave);
    }
    o->latent_eps = 1e-6;
    if (random_chance(draws, 25)) {
        o->latent_eps = 0.5;
        random_put_number(config, "latent_norm_eps", o->latent_eps);
        config->branches[BRANCH_LATENT_EPS] = true;
    }
    if (random_chance(draws, 50)) {
        o->has_mla_bias = random_chance(draws, 60);
        random_put_bool(config, "attention_bias", o->has_mla_bias);
    }
    config->branches[BRANCH_BIASES] = o->has_mla_bias;
    config->branches[o->interleave ? BRANCH_INTERLEAVED : BRANCH_HALF_SPLIT] = true;
}

static void draw_indexer(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    o->index_heads = 1 + random_draw(draws, 4);
    o->index_dim = (o->rope_dim < 6 ? 6 : o->rope_dim) + random_draw(draws, 4);
    o->index_topk = 1 + random_draw(draws, 6);
    random_put_int(config, "index_n_heads", o->index_heads);
    random_put_int(config, "index_head_dim", o->index_dim);
    random_put_int(config, "index_topk", o->index_topk);
    if (random_chance(draws, 60)) {
        o->index_interleave = random_chance(draws, 60);
        random_put_bool(config, "indexer_rope_interleave", o->index_interleave);
    }
    config->branches[BRANCH_INDEXER] = true;
    config->branches[BRANCH_INDEXER_INTERLEAVED] = o->index_interleave;
}

/* A norm over one element is a step, smoothed by eps only: with the usual eps its gradient is
 * beyond FP32. */
static void draw_ranks(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    const bool is_narrow = config->branches[BRANCH_LATENT_EPS];

    o->kv_rank = (size_t)RANDOM_PICK(draws, is_narrow ? 1 : 8, 7, 12, 16);
    o->q_rank = (size_t)RANDOM_PICK(draws, is_narrow ? 1 : 5, 7, 10);
    if (config->family != RANDOM_V32 && random_chance(draws, 40)) {
        o->q_rank = 0;
    }
}

static void draw_mla(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    o->is_mla = true;
    o->nope = (size_t)RANDOM_PICK(draws, 1, 3, 7, 8);
    o->rope_dim = (size_t)RANDOM_PICK(draws, 2, 4, 6, 8);
    o->v_dim = (size_t)RANDOM_PICK(draws, 1, 5, 8, 11);
    draw_mla_options(draws, config);
    draw_ranks(draws, config);
    random_put_int(config, "qk_nope_head_dim", o->nope);
    random_put_int(config, "qk_rope_head_dim", o->rope_dim);
    random_put_int(config, "v_head_dim", o->v_dim);
    random_put_int(config, "kv_lora_rank", o->kv_rank);
    random_put_int(config, "num_key_value_heads", o->n_heads);
    if (o->q_rank == 0) {
        random_put_null(config, "q_lora_rank");
    } else {
        random_put_int(config, "q_lora_rank", o->q_rank);
    }
    config->branches[o->q_rank > 0 ? BRANCH_Q_LORA : BRANCH_Q_PROJ] = true;
    if (config->family == RANDOM_V32) {
        draw_indexer(draws, config);
    }
}

/* Biases and head norms by family: Qwen2 always has them on q, k, v; Llama and Qwen3 on request. */
static void draw_gqa_options(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    o->has_qk_norm = config->family == RANDOM_QWEN3 || config->family == RANDOM_QWEN3_MOE;
    o->has_qkv_bias = config->family == RANDOM_QWEN2;
    if ((config->family == RANDOM_LLAMA || o->has_qk_norm) && random_chance(draws, 60)) {
        o->has_qkv_bias = o->has_o_bias = random_chance(draws, 60);
        random_put_bool(config, "attention_bias", o->has_qkv_bias);
    }
    config->branches[BRANCH_BIASES] = o->has_o_bias;
    config->branches[BRANCH_QKV_BIASES_ONLY] = o->has_qkv_bias && !o->has_o_bias;
    config->branches[BRANCH_QK_NORM] = o->has_qk_norm;
}

static void draw_gqa(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    const size_t per_group = 1 + random_draw(draws, 3);
    /* head_dim = d / H; the Qwen3 class has a number of its own */
    const bool is_implied = config->family != RANDOM_QWEN3 && random_chance(draws, 30);

    o->n_kv_heads = 1 + random_draw(draws, 2);
    o->n_heads = o->n_kv_heads * per_group;
    o->head_dim = (size_t)RANDOM_PICK(draws, 2, 4, 6, 8);
    if (is_implied) {
        o->head_dim = o->n_heads == 1 ? 8 : 4;
        o->d = o->n_heads * o->head_dim;
        random_put_int(config, "hidden_size", o->d);
    } else {
        random_put_int(config, "head_dim", o->head_dim);
    }
    random_put_int(config, "num_attention_heads", o->n_heads);
    if (per_group > 1 || random_chance(draws, 50) || config->family != RANDOM_LLAMA) {
        random_put_int(config, "num_key_value_heads", o->n_kv_heads);
    }
    config->branches[per_group == 1       ? BRANCH_MHA
                     : o->n_kv_heads == 1 ? BRANCH_MQA
                                          : BRANCH_GQA] = true;
    draw_gqa_options(draws, config);
}

static void name_architecture(struct random_draws *draws, struct random_config *config)
{
    static const char *const types[N_RANDOM_FAMILIES] = {
        "deepseek_v3", "deepseek_v2", "deepseek_v32", "llama",
        "qwen2",       "qwen3",       "qwen3_moe",    "mixtral"};
    static const char *const classes[N_RANDOM_FAMILIES] = {
        "DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV32ForCausalLM",
        "LlamaForCausalLM",      "Qwen2ForCausalLM",      "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",   "MixtralForCausalLM"};
    const bool is_kimi = config->family == RANDOM_V3 && random_chance(draws, 15);
    struct json *list = json_array_create();
    const char *const name = classes[config->family];

    random_put_text(config, "model_type", is_kimi ? "kimi_k2" : types[config->family]);
    assert_ok(json_append(list, json_from_text(name, strlen(name))));
    assert_ok(json_put(config->json, "architectures", list));
}

static bool has_width_one(const struct oracle_config *o)
{
    const bool has_mla =
        o->is_mla && (o->nope == 1 || o->v_dim == 1 || o->kv_rank == 1 || o->q_rank == 1);

    return has_mla || o->ffn_width == 1 || (o->n_experts > 0 && o->expert_width == 1);
}

void random_config_draw(enum random_family family, struct random_draws *draws,
                        struct random_config *out)
{
    memset(out, 0, sizeof(*out));
    out->family = family;
    out->json = json_object_create();
    name_architecture(draws, out);
    draw_shapes(draws, out);
    if (family <= RANDOM_V32) {
        draw_mla(draws, out);
        draw_modules(draws, out);
    } else {
        draw_gqa(draws, out);
    }
    random_rope_draw(draws, out);
    random_experts_draw(draws, out);
    out->branches[BRANCH_TIED_HEAD] = out->oracle.has_tied_head;
    out->branches[BRANCH_ODD_D] = out->oracle.d % 2 == 1;
    out->branches[BRANCH_ONE_WIDE] = has_width_one(&out->oracle);
}
