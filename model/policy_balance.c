/* Owns the balance loss of the routers (model.md 8, 12.2): what of it a layer's backward pass adds
 * to the gradient of its scores. What the update as a whole decides (how many sequences it has, how
 * often each expert was taken) is given before its first backward pass, so cutting it into
 * micro-batches changes no bit; every layer's loss is a chain of its own over rows. */
#include "base/memory.h"
#include "model/policy_backward_internal.h"

#include <string.h>

struct policy_balance_state {
    enum policy_balance_kind kind;
    double coefficient; /* 0: no loss */
    double *losses;     /* (n_moe_layers) host, times coefficient */
    double *weights;    /* (n_moe_layers) host: balance_loss_args.weight */
    double *host_loads; /* (n_moe_layers, E) */
    double *loads;      /* the same on the device; of the kinds that look at a whole update */
    float *d_scores;    /* (T, E) */
};

static bool counts_update(enum policy_balance_kind kind)
{
    return kind == POLICY_BALANCE_BATCH || kind == POLICY_BALANCE_LAYER;
}

void policy_balance_destroy(struct policy *policy)
{
    struct policy_balance_state *state = policy->balance;

    if (state == NULL) {
        return;
    }
    policy->backend->ops->release(policy->backend, state->d_scores);
    policy->backend->ops->release(policy->backend, state->loads);
    memory_free(state->host_loads);
    memory_free(state->weights);
    memory_free(state->losses);
    memory_free(state);
    policy->balance = NULL;
}

static enum status fill_state(struct policy *policy, struct policy_balance_state *state)
{
    const struct backend_ops *ops = policy->backend->ops;
    const size_t n = policy->n_moe_layers, n_experts = policy->sizes.n_experts;

    TRY(memory_alloc(n, sizeof(double), &state->losses));
    TRY(memory_alloc(n, sizeof(double), &state->weights));
    TRY(memory_alloc(n * n_experts, sizeof(double), &state->host_loads));
    TRY(ops->alloc(policy->backend, n * n_experts, sizeof(double), &state->loads));
    return ops->alloc(policy->backend, policy->options.max_rows * n_experts, sizeof(float),
                      &state->d_scores);
}

/* Made when it is first needed, kept until the policy goes. */
static enum status create_state(struct policy *policy)
{
    if (policy->balance != NULL) {
        return STATUS_OK;
    }
    TRY(memory_alloc(1, sizeof(*policy->balance), &policy->balance));

    const enum status status = fill_state(policy, policy->balance);

    if (status != STATUS_OK) {
        policy_balance_destroy(policy);
    }
    return status;
}

/* MoE layers of the trunk come first, those of MTP modules behind them. */
static size_t count_trunk(const struct policy *policy)
{
    size_t n = 0;

    while (n < policy->n_moe_layers && (size_t)policy->moe_layers[n] < policy->config.n_layers) {
        n++;
    }
    return n;
}

/* load (E) and the weight of a row from the counts (n_layers, E) of layers that are looked at as
 * one: f = E / n times how often an expert was taken, n their rows. */
static double fill_load(const struct policy *policy, const uint32_t *counts, size_t n_layers,
                        double *load)
{
    const size_t n_experts = policy->sizes.n_experts;
    double n_slots = 0.0;

    for (size_t i = 0; i < n_layers * n_experts; i++) {
        load[i % n_experts] = (i < n_experts ? 0.0 : load[i % n_experts]) + (double)counts[i];
        n_slots += (double)counts[i];
    }
    const double n_rows = n_slots / (double)policy->sizes.top_k;

    for (size_t e = 0; e < n_experts && n_rows > 0.0; e++) {
        load[e] *= (double)n_experts / n_rows;
    }
    return n_rows > 0.0 ? 1.0 / n_rows : 0.0;
}

/* What each layer of the trunk is measured against. */
static enum status fill_loads(struct policy *policy, const struct policy_balance *balance)
{
    struct policy_balance_state *state = policy->balance;
    const size_t n = count_trunk(policy), n_experts = policy->sizes.n_experts;

    for (size_t i = 0; i < n; i++) {
        double *load = state->host_loads + i * n_experts;

        if (balance->kind == POLICY_BALANCE_LAYER) {
            state->weights[i] = balance->coefficient / (double)n *
                                fill_load(policy, balance->counts + i * n_experts, 1, load);
        } else {
            state->weights[i] = balance->coefficient * fill_load(policy, balance->counts, n, load);
        }
    }
    return policy->backend->ops->upload(policy->backend, state->loads, state->host_loads,
                                        n * n_experts * sizeof(double));
}

static enum status check_balance(const struct policy *policy, const struct policy_balance *balance)
{
    if (!policy->options.is_trainable) {
        return status_set(STATUS_BAD_ARGUMENT, "a balance loss needs a trainable policy");
    }
    if (counts_update(balance->kind) ? balance->counts == NULL : balance->n_sequences == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "a balance loss needs the update's %s",
                          counts_update(balance->kind) ? "expert counts" : "sequences");
    }
    return STATUS_OK;
}

enum status policy_set_balance(struct policy *policy, const struct policy_balance *balance)
{
    if (balance == NULL || balance->coefficient == 0.0 || policy->n_moe_layers == 0) {
        if (policy->balance != NULL) {
            policy->balance->coefficient = 0.0;
        }
        return STATUS_OK;
    }
    TRY(check_balance(policy, balance));
    TRY(create_state(policy));

    struct policy_balance_state *state = policy->balance;

    state->kind = balance->kind;
    state->coefficient = balance->coefficient;
    memset(state->losses, 0, policy->n_moe_layers * sizeof(*state->losses));
    if (counts_update(balance->kind)) {
        return fill_loads(policy, balance);
    }
    for (size_t i = 0; i < policy->n_moe_layers; i++) {
        state->weights[i] = balance->coefficient / (double)balance->n_sequences;
    }
    return STATUS_OK;
}

double policy_balance_loss(const struct policy *policy)
{
    const struct policy_balance_state *state = policy->balance;
    double sum = 0.0;

    for (size_t i = 0; i < policy->n_moe_layers && state != NULL; i++) {
        sum += state->losses[i];
    }
    return state == NULL || state->coefficient == 0.0 ? 0.0 : sum / state->coefficient;
}

/* Sequences whose rows a layer sees. */
static const struct kv_span *spans_of(const struct policy *policy, size_t layer, size_t *n)
{
    if (layer < policy->config.n_layers) {
        *n = policy->n_spans;
        return policy->spans;
    }
    const struct policy_mtp_module *module = &policy->modules[layer - policy->config.n_layers];

    *n = module->n_spans;
    return module->spans;
}

enum status policy_balance_backward(struct policy *policy, const struct policy_layer *layer,
                                    const struct policy_activations *a, size_t n_rows,
                                    const float **d_scores)
{
    const struct policy_balance_state *state = policy->balance;
    const size_t index = (size_t)(layer - policy->layers);
    const bool is_trunk = index < policy->config.n_layers;
    const size_t n_experts = policy->sizes.n_experts;
    size_t n_spans, at = 0;

    *d_scores = NULL;
    if (state == NULL || state->coefficient == 0.0 || (counts_update(state->kind) && !is_trunk)) {
        return STATUS_OK;
    }
    while ((size_t)policy->moe_layers[at] != index) {
        at++;
    }
    if (policy->n_copies > 0 && !counts_update(state->kind)) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "a batch with prefixes, and the balance loss of a sequence");
    }
    const struct kv_span *spans = spans_of(policy, index, &n_spans);

    TRY(policy->backend->ops->balance_loss(
        policy->backend,
        &(struct balance_loss_args){
            .scores = a->scores,
            .indices = state->kind == POLICY_BALANCE_SEQUENCE ? NULL : a->indices,
            .spans = spans,
            .n_spans = n_spans,
            .load = counts_update(state->kind) ? state->loads + at * n_experts : NULL,
            .uses = policy->uses,
            .weight = state->weights[at],
            .n_rows = n_rows,
            .n_experts = n_experts,
            .top_k = policy->sizes.top_k,
            .d_scores = state->d_scores,
            .loss = &state->losses[at]}));
    *d_scores = state->d_scores;
    return STATUS_OK;
}
