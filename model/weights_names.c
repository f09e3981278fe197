/* Owns what the same tensors are called elsewhere: families, and newer files of one family. */
#include "model/weights_internal.h"

#include <stdio.h>
#include <string.h>

const struct weight_names *weight_names(enum model_family family)
{
    static const struct weight_names usual = {
        .moe = "mlp", .expert_parts = {"gate_proj", "up_proj", "down_proj"}};
    static const struct weight_names mixtral = {.moe = "block_sparse_moe",
                                                .expert_parts = {"w1", "w3", "w2"}};

    return family == MODEL_MIXTRAL ? &mixtral : &usual;
}

/* Which of gate, up, down an expert's tensor is by either family's name; 3: none. */
static size_t expert_part(const char *name)
{
    static const enum model_family named[] = {MODEL_DEEPSEEK_V3, MODEL_MIXTRAL};
    size_t part = 3;

    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < 3; j++) {
            part = strcmp(name, weight_names(named[i])->expert_parts[j]) == 0 ? j : part;
        }
    }
    return part;
}

bool weights_fused_part(const struct weight_row *row, size_t n_experts,
                        struct weights_fused_part *out)
{
    size_t layer, expert, part;
    char kind[16];
    int end = 0;

    /* NOLINTNEXTLINE(cert-err34-c): the names are ours, with small numbers */
    if (sscanf(row->name, "model.layers.%zu.%*[a-z_].experts.%zu.%15[a-z0-9_].weight%n", &layer,
               &expert, kind, &end) != 3 ||
        end == 0) {
        return false;
    }
    part = expert_part(kind);
    *out = (struct weights_fused_part){.expert = expert, .n_dims = 3};
    (void)snprintf(out->name, sizeof(out->name), "model.layers.%zu.mlp.experts.%s", layer,
                   part == 2 ? "down_proj" : "gate_up_proj");
    out->first_row = part == 1 ? row->shape[0] : 0;
    out->shape[0] = n_experts;
    out->shape[1] = part == 2 ? row->shape[0] : 2 * row->shape[0];
    out->shape[2] = row->shape[1];
    return part < 3;
}

bool weights_newer_name(const char *name, char *out, size_t room)
{
    static const char older[] = ".block_sparse_moe.";
    const char *at = strstr(name, older);

    if (at != NULL) {
        (void)snprintf(out, room, "%.*s.mlp.%s", (int)(at - name), name, at + sizeof(older) - 1);
    }
    return at != NULL;
}
