/* Owns the names: which tensors each architecture has, with their shapes (model.md 2.3-2.5, 12). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/oracle_internal.h"

#include <stdio.h>
#include <string.h>

struct resolver {
    const struct weight_table *table;
    size_t layer;
    size_t n_found;
};

/* Offset of the tensor (n_out, n_in), or of the vector (n_out) when n_in is 0. */
static size_t find(struct resolver *resolver, size_t n_out, size_t n_in, const char *name)
{
    const struct weight_table *table = resolver->table;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        if (strcmp(row->name, name) != 0) {
            continue;
        }
        if (row->shape[0] != n_out || (n_in > 0 && row->shape[1] != n_in) ||
            row->n_dims != (n_in > 0 ? 2U : 1U)) {
            fail_msg("%s is (%zu, %zu), want (%zu, %zu)", name, row->shape[0], row->shape[1], n_out,
                     n_in);
        }
        resolver->n_found++;
        return row->offset;
    }
    fail_msg("the table has no %s", name);
    return ORACLE_ABSENT;
}

/* The same for a tensor of the resolver's layer. */
static size_t in_layer(struct resolver *resolver, size_t n_out, size_t n_in, const char *part)
{
    char name[128];

    (void)snprintf(name, sizeof(name), "model.layers.%zu.%s", resolver->layer, part);
    return find(resolver, n_out, n_in, name);
}

static size_t bias_if(struct resolver *resolver, bool has_bias, size_t n, const char *part)
{
    return has_bias ? in_layer(resolver, n, 0, part) : ORACLE_ABSENT;
}

static void resolve_mla(struct resolver *r, const struct oracle_config *c, struct oracle_layer *out)
{
    const size_t q_dim = c->n_heads * (c->nope + c->rope_dim);
    const size_t kv_dim = c->kv_rank + c->rope_dim;

    if (c->q_rank > 0) {
        out->q_a = in_layer(r, c->q_rank, c->d, "self_attn.q_a_proj.weight");
        out->q_a_bias = bias_if(r, c->has_mla_bias, c->q_rank, "self_attn.q_a_proj.bias");
        out->q_a_norm = in_layer(r, c->q_rank, 0, "self_attn.q_a_layernorm.weight");
        out->q_b = in_layer(r, q_dim, c->q_rank, "self_attn.q_b_proj.weight");
    } else {
        out->q = in_layer(r, q_dim, c->d, "self_attn.q_proj.weight");
    }
    out->kv_a = in_layer(r, kv_dim, c->d, "self_attn.kv_a_proj_with_mqa.weight");
    out->kv_a_bias = bias_if(r, c->has_mla_bias, kv_dim, "self_attn.kv_a_proj_with_mqa.bias");
    out->kv_a_norm = in_layer(r, c->kv_rank, 0, "self_attn.kv_a_layernorm.weight");
    out->kv_b =
        in_layer(r, c->n_heads * (c->nope + c->v_dim), c->kv_rank, "self_attn.kv_b_proj.weight");
    out->o = in_layer(r, c->d, c->n_heads * c->v_dim, "self_attn.o_proj.weight");
    out->o_bias = bias_if(r, c->has_mla_bias, c->d, "self_attn.o_proj.bias");
}

static void resolve_gqa(struct resolver *r, const struct oracle_config *c, struct oracle_layer *out)
{
    const size_t q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;

    out->q = in_layer(r, q_dim, c->d, "self_attn.q_proj.weight");
    out->q_bias = bias_if(r, c->has_qkv_bias, q_dim, "self_attn.q_proj.bias");
    out->k = in_layer(r, kv_dim, c->d, "self_attn.k_proj.weight");
    out->k_bias = bias_if(r, c->has_qkv_bias, kv_dim, "self_attn.k_proj.bias");
    out->v = in_layer(r, kv_dim, c->d, "self_attn.v_proj.weight");
    out->v_bias = bias_if(r, c->has_qkv_bias, kv_dim, "self_attn.v_proj.bias");
    out->o = in_layer(r, c->d, q_dim, "self_attn.o_proj.weight");
    out->o_bias = bias_if(r, c->has_o_bias, c->d, "self_attn.o_proj.bias");
    out->q_norm = bias_if(r, c->has_qk_norm, c->head_dim, "self_attn.q_norm.weight");
    out->k_norm = bias_if(r, c->has_qk_norm, c->head_dim, "self_attn.k_norm.weight");
}

static void resolve_indexer(struct resolver *r, const struct oracle_config *c,
                            struct oracle_layer *out)
{
    out->index_q =
        in_layer(r, c->index_heads * c->index_dim, c->q_rank, "self_attn.indexer.wq_b.weight");
    out->index_k = in_layer(r, c->index_dim, c->d, "self_attn.indexer.wk.weight");
    out->index_norm = in_layer(r, c->index_dim, 0, "self_attn.indexer.k_norm.weight");
    out->index_norm_bias = in_layer(r, c->index_dim, 0, "self_attn.indexer.k_norm.bias");
    out->index_weights = in_layer(r, c->index_heads, c->d, "self_attn.indexer.weights_proj.weight");
}

static struct oracle_mlp resolve_mlp(struct resolver *r, size_t d, size_t width, const char *part,
                                     const char *const names[3])
{
    struct oracle_mlp mlp = {.width = width};
    size_t *const offsets[3] = {&mlp.gate, &mlp.up, &mlp.down};
    char name[96];

    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof(name), "%s.%s.weight", part, names[i]);
        *offsets[i] = i < 2 ? in_layer(r, width, d, name) : in_layer(r, d, width, name);
    }
    return mlp;
}

static void resolve_moe(struct resolver *r, const struct oracle_config *c, struct oracle_layer *out)
{
    static const char *const usual[3] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const mixtral[3] = {"w1", "w3", "w2"};
    const char *const block = c->has_mixtral_names ? "block_sparse_moe" : "mlp";
    char part[64];

    (void)snprintf(part, sizeof(part), "%s.gate.weight", block);
    out->router = in_layer(r, c->n_experts, c->d, part);
    out->router_bias =
        bias_if(r, c->router == ORACLE_ROUTER_V3, c->n_experts, "mlp.gate.e_score_correction_bias");
    for (size_t i = 0; i < c->n_experts; i++) {
        (void)snprintf(part, sizeof(part), "%s.experts.%zu", block, i);
        out->experts[i] =
            resolve_mlp(r, c->d, c->expert_width, part, c->has_mixtral_names ? mixtral : usual);
    }
    if (c->n_shared > 0) {
        out->mlp = resolve_mlp(r, c->d, c->n_shared * c->expert_width, "mlp.shared_experts", usual);
    }
}

static void resolve_layer(struct resolver *r, const struct oracle_config *c,
                          struct oracle_layer *out)
{
    static const char *const usual[3] = {"gate_proj", "up_proj", "down_proj"};

    memset(out, 0xff, sizeof(*out)); /* ORACLE_ABSENT everywhere */
    out->mlp.width = 0;
    out->input_norm = in_layer(r, c->d, 0, "input_layernorm.weight");
    out->post_norm = in_layer(r, c->d, 0, "post_attention_layernorm.weight");
    if (c->is_mla) {
        resolve_mla(r, c, out);
    } else {
        resolve_gqa(r, c, out);
    }
    if (c->index_heads > 0) {
        resolve_indexer(r, c, out);
    }
    if (c->is_moe[r->layer]) {
        resolve_moe(r, c, out);
    } else {
        out->mlp = resolve_mlp(r, c->d, c->ffn_width, "mlp", usual);
    }
    if (r->layer >= c->n_layers) {
        out->e_norm = in_layer(r, c->d, 0, "enorm.weight");
        out->h_norm = in_layer(r, c->d, 0, "hnorm.weight");
        out->eh_proj = in_layer(r, c->d, 2 * c->d, "eh_proj.weight");
        out->head_norm = in_layer(r, c->d, 0, "shared_head.norm.weight");
    }
}

void oracle_resolve(struct oracle *oracle, const struct weight_table *table)
{
    const struct oracle_config *c = &oracle->config;
    struct resolver resolver = {.table = table};

    oracle->embedding = find(&resolver, c->vocab, c->d, "model.embed_tokens.weight");
    oracle->final_norm = find(&resolver, c->d, 0, "model.norm.weight");
    oracle->head =
        c->has_tied_head ? oracle->embedding : find(&resolver, c->vocab, c->d, "lm_head.weight");
    for (size_t i = 0; i < c->n_layers + c->n_modules; i++) {
        resolver.layer = i;
        resolve_layer(&resolver, c, &oracle->layers[i]);
    }
    if (resolver.n_found != table->n_rows) {
        fail_msg("the table has %zu tensors, the architecture %zu", table->n_rows,
                 resolver.n_found);
    }
}
