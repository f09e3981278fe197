/* Owns the drawing of experts: how many, who selects them, which layers have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/random_config.h"
#include "tests/support/support.h"

#include <string.h>

static bool is_deepseek(const struct random_config *config)
{
    return config->family == RANDOM_V3 || config->family == RANDOM_V2 ||
           config->family == RANDOM_V32;
}

/* n_group and topk_group; V2's greedy selection ignores them. */
static void draw_groups(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    const bool is_v2 = config->family == RANDOM_V2;
    const bool is_limited = random_chance(draws, 60);
    const size_t n_groups = (size_t)RANDOM_PICK(draws, 1, 2, 3, 4);
    const size_t size = n_groups == 1 ? 1 + random_draw(draws, 9) : 2 + random_draw(draws, 2);
    const size_t top_groups = 1 + random_draw(draws, n_groups);

    o->n_experts = n_groups * size;
    o->n_groups = o->top_groups = 1;
    if (!is_v2 || is_limited) {
        o->n_groups = n_groups;
        o->top_groups = top_groups;
    }
    random_put_int(config, "n_group", n_groups);
    random_put_int(config, "topk_group", top_groups);
    if (is_v2) {
        random_put_text(config, "topk_method", is_limited ? "group_limited_greedy" : "greedy");
    }
    o->top_k = 1 + random_draw(draws, 4);
    if (o->top_k > top_groups * size) {
        o->top_k = top_groups * size;
    }
    config->branches[BRANCH_GREEDY_IGNORES_GROUPS] = is_v2 && !is_limited && n_groups > 1;
    config->branches[is_v2 ? BRANCH_GROUPS_V2 : BRANCH_GROUPS_V3] = o->n_groups > 1;
}

/* norm_topk_prob and routed_scaling_factor, or what they are when the file is silent. */
static void draw_weights(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    const bool is_v2 = config->family == RANDOM_V2;

    o->normalise = !is_v2;
    if (random_chance(draws, 75)) {
        o->normalise = random_chance(draws, is_v2 ? 70 : 45);
        random_put_bool(config, "norm_topk_prob", o->normalise);
    }
    o->routed_scale = is_v2 ? 1 : 2.5;
    if (random_chance(draws, 70)) {
        o->routed_scale = RANDOM_PICK(draws, 1, 2.5, 4, 0.5);
        random_put_number(config, "routed_scaling_factor", o->routed_scale);
    }
    if (config->family != RANDOM_V3 || random_chance(draws, 60)) {
        random_put_text(config, "scoring_func", is_v2 ? "softmax" : "sigmoid");
    }
    if (!is_v2 && random_chance(draws, 60)) {
        random_put_text(config, "topk_method", "noaux_tc");
    }
}

/* mlp_layer_types: any layer may be either. */
static void draw_layer_types(struct random_draws *draws, struct random_config *config)
{
    struct json *types = json_array_create();

    for (size_t i = 0; i < config->oracle.n_layers; i++) {
        const bool is_moe = random_chance(draws, 60);

        config->oracle.is_moe[i] = is_moe;
        assert_ok(json_append(types, is_moe ? json_from_text("sparse", strlen("sparse"))
                                            : json_from_text("dense", strlen("dense"))));
    }
    assert_ok(json_put(config->json, "mlp_layer_types", types));
    config->branches[BRANCH_LAYER_TYPES] = true;
}

static void draw_deepseek_layers(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    const size_t n_dense = random_draw(draws, o->n_layers);
    const size_t every = random_chance(draws, 25) ? 2 : 1;

    random_put_int(config, "first_k_dense_replace", n_dense);
    if (every > 1) {
        random_put_int(config, "moe_layer_freq", every);
    }
    for (size_t i = 0; i < o->n_layers; i++) {
        o->is_moe[i] = i >= n_dense && i % every == 0;
    }
    config->branches[BRANCH_DENSE_FIRST] = n_dense > 0;
    config->branches[BRANCH_MOE_EVERY_OTHER] = every > 1 && o->n_layers > 1;
    for (size_t i = 0; i < o->n_modules; i++) {
        o->is_moe[o->n_layers + i] = true;
    }
    if (every == 1 && random_chance(draws, 25)) {
        draw_layer_types(draws, config);
    }
}

static void draw_shared(struct random_draws *draws, struct random_config *config)
{
    static const enum random_branch branches[] = {BRANCH_SHARED_NONE, BRANCH_SHARED_ONE,
                                                  BRANCH_SHARED_TWO};
    struct oracle_config *o = &config->oracle;

    o->n_shared = random_draw(draws, 3);
    config->branches[branches[o->n_shared]] = true;
    if (o->n_shared == 0 && random_chance(draws, 50)) {
        random_put_null(config, "n_shared_experts");
    } else if (o->n_shared != 1 || random_chance(draws, 70)) {
        random_put_int(config, "n_shared_experts", o->n_shared);
    }
}

static void draw_deepseek(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    if (random_chance(draws, 12)) {
        random_put_null(config, "n_routed_experts");
        config->branches[BRANCH_DENSE_MODEL] = true;
        return;
    }
    draw_groups(draws, config);
    draw_weights(draws, config);
    draw_shared(draws, config);
    draw_deepseek_layers(draws, config);
    o->router = config->family == RANDOM_V2 ? ORACLE_ROUTER_V2 : ORACLE_ROUTER_V3;
    random_put_int(config, "n_routed_experts", o->n_experts);
    random_put_int(config, "num_experts_per_tok", o->top_k);
    random_put_int(config, "moe_intermediate_size", o->expert_width);
}

/* decoder_sparse_step and mlp_only_layers. */
static void draw_qwen_layers(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    const size_t every = random_chance(draws, 40) ? 2 : 1;
    const size_t dense = random_chance(draws, 40) ? random_draw(draws, o->n_layers) : SIZE_MAX;
    struct json *only = json_array_create();

    if (dense != SIZE_MAX) {
        assert_ok(json_append(only, json_from_int((int64_t)dense)));
        config->branches[BRANCH_LAYER_TYPES] = true;
    }
    assert_ok(json_put(config->json, "mlp_only_layers", only));
    random_put_int(config, "decoder_sparse_step", every);
    config->branches[BRANCH_MOE_EVERY_OTHER] = every > 1;
    for (size_t i = 0; i < o->n_layers; i++) {
        o->is_moe[i] = (i + 1) % every == 0 && i != dense;
    }
}

/* Mixtral has experts in every layer, of intermediate_size, and always normalises. */
static void draw_standard(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;

    o->router = ORACLE_ROUTER_STANDARD;
    o->n_experts = 1 + random_draw(draws, 8);
    o->n_groups = o->top_groups = 1;
    o->routed_scale = 1;
    o->top_k = 1 + random_draw(draws, o->n_experts < 3 ? o->n_experts : 3);
    random_put_int(config, "num_experts_per_tok", o->top_k);
    if (config->family == RANDOM_MIXTRAL) {
        o->has_mixtral_names = o->normalise = true;
        o->expert_width = o->ffn_width;
        memset(o->is_moe, true, o->n_layers);
        random_put_int(config, "num_local_experts", o->n_experts);
        return;
    }
    o->normalise = random_chance(draws, 60);
    random_put_bool(config, "norm_topk_prob", o->normalise);
    random_put_int(config, "num_experts", o->n_experts);
    random_put_int(config, "moe_intermediate_size", o->expert_width);
    draw_qwen_layers(draws, config);
}

void random_experts_draw(struct random_draws *draws, struct random_config *config)
{
    struct oracle_config *o = &config->oracle;
    bool has_experts = false;

    o->expert_width = (size_t)RANDOM_PICK(draws, 1, 3, 5, 8);
    if (is_deepseek(config)) {
        draw_deepseek(draws, config);
    } else if (config->family == RANDOM_QWEN3_MOE || config->family == RANDOM_MIXTRAL) {
        draw_standard(draws, config);
    }
    for (size_t i = 0; i < o->n_layers + o->n_modules; i++) {
        has_experts = has_experts || o->is_moe[i];
    }
    if (!has_experts) {
        return;
    }
    config->branches[o->router == ORACLE_ROUTER_V3 ? BRANCH_SIGMOID : BRANCH_SOFTMAX] = true;
    config->branches[o->normalise ? BRANCH_NORM_TOPK : BRANCH_NO_NORM_TOPK] = true;
    config->branches[BRANCH_V2_NORM_TOPK] = o->normalise && o->router == ORACLE_ROUTER_V2;
    config->branches[BRANCH_TOP_ONE] = o->top_k == 1;
}
