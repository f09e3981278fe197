#include "trainer/balance.h"

#include <math.h>

enum status balance_counts_alloc(const struct policy *policy, struct arena *arena, uint32_t **out)
{
    const int32_t *layers = NULL;
    const size_t n_layers = policy_moe_layers(policy, &layers);
    const size_t n_experts = policy_config(policy)->n_experts;
    *out = NULL;
    if (n_layers == 0 || n_experts == 0) {
        return STATUS_OK;
    }
    return arena_alloc(arena, n_layers * n_experts, sizeof(uint32_t), out);
}

static double layer_violation(const uint32_t *counts, size_t n_experts, size_t *n_dead)
{
    double sum = 0.0;
    double largest = 0.0;
    for (size_t e = 0; e < n_experts; e++) {
        sum += (double)counts[e];
        largest = fmax(largest, (double)counts[e]);
        *n_dead += counts[e] == 0 ? 1 : 0;
    }
    return sum > 0.0 ? largest * (double)n_experts / sum - 1.0 : 0.0;
}

void balance_measure(const struct policy *policy, const uint32_t *counts, double *max_violation,
                     size_t *n_dead)
{
    const struct model_config *config = policy_config(policy);
    const int32_t *layers = NULL;
    const size_t n_layers = policy_moe_layers(policy, &layers);
    *n_dead = 0;
    *max_violation = (double)NAN;
    if (counts == NULL) {
        return;
    }
    *max_violation = 0.0;
    for (size_t i = 0; i < n_layers; i++) {
        if ((size_t)layers[i] < config->n_layers) {
            *max_violation = fmax(*max_violation, layer_violation(counts + i * config->n_experts,
                                                                  config->n_experts, n_dead));
        }
    }
}

enum policy_balance_kind balance_kind_of(const struct run_config *config)
{
    switch (config->model.router_aux_loss) {
    case AUX_LOSS_LAYER:
        return POLICY_BALANCE_LAYER;
    case AUX_LOSS_SEQUENCE:
        return POLICY_BALANCE_SEQUENCE;
    case AUX_LOSS_SEQUENCE_ROUTED:
        return POLICY_BALANCE_SEQUENCE_ROUTED;
    case AUX_LOSS_BATCH:
    default:
        return POLICY_BALANCE_BATCH;
    }
}

enum policy_indexer_loss indexer_loss_of(const struct run_config *config)
{
    switch (config->model.indexer_loss) {
    case INDEXER_LOSS_DENSE:
        return POLICY_INDEXER_DENSE;
    case INDEXER_LOSS_SPARSE:
        return POLICY_INDEXER_SPARSE;
    case INDEXER_LOSS_NONE:
    default:
        return POLICY_INDEXER_OFF;
    }
}
