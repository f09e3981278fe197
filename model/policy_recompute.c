/* Owns activations that are made again: a policy that recomputes keeps the residual stream between
 * its layers and one shared set of everything else, which a layer's backward pass, or whoever looks
 * into it, has filled again from the rows that entered the layer. The same operations on the same
 * rows and weights give the same bits, so nothing else can tell. */
#include "model/policy_internal.h"

struct policy_block_rows policy_rows_of(const struct policy *policy, size_t layer)
{
    struct policy_block_rows rows = {.n_rows = policy->n_rows,
                                     .positions = policy->positions,
                                     .spans = policy->spans,
                                     .n_spans = policy->n_spans,
                                     .n_copies = policy->n_copies,
                                     .uses = policy->uses,
                                     .pages = policy->pages,
                                     .is_dense = policy->indexer_loss == POLICY_INDEXER_DENSE};

    if (layer >= policy->config.n_layers) {
        const struct policy_mtp_module *module = &policy->modules[layer - policy->config.n_layers];

        rows.n_rows = module->n_rows;
        rows.positions = module->positions;
        rows.spans = module->spans;
        rows.n_spans = module->n_spans;
        rows.n_copies = module->n_copies;
        rows.uses = module->uses;
    }
    return rows;
}

enum status policy_layer_forward(struct policy *policy, size_t layer,
                                 const struct policy_block_rows *rows)
{
    policy->held_layer = SIZE_MAX; /* nobody's, should it fail half way */
    TRY(policy_block_forward(policy, &policy->layers[layer], policy_activations_of(policy, layer),
                             rows));
    policy->held_layer = layer;
    return STATUS_OK;
}

enum status policy_hold(struct policy *policy, size_t layer)
{
    const struct policy_block_rows rows = policy_rows_of(policy, layer);

    if (!policy->options.recomputes || policy->held_layer == layer) {
        return STATUS_OK;
    }
    policy->held_layer = SIZE_MAX;
    TRY(policy_block_again(policy, &policy->layers[layer], policy_activations_of(policy, layer),
                           &rows));
    policy->held_layer = layer;
    return STATUS_OK;
}
