/* Owns the oracle's feed-forward part: MLP, routers and experts (model.md 4.3, 7, 12.2). */
#include "tests/support/oracle_internal.h"

#include <math.h>

/* out += scale * down(silu(gate x) * up x). */
static void add_mlp(const struct oracle *o, const struct oracle_mlp *mlp, const double *x,
                    double scale, double *out)
{
    const size_t d = o->config.d;
    double gate[ORACLE_WIDTH_MAX], up[ORACLE_WIDTH_MAX], y[ORACLE_D_MAX];

    oracle_linear(o, mlp->gate, ORACLE_ABSENT, x, d, mlp->width, gate);
    oracle_linear(o, mlp->up, ORACLE_ABSENT, x, d, mlp->width, up);
    for (size_t i = 0; i < mlp->width; i++) {
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    }
    oracle_linear(o, mlp->down, ORACLE_ABSENT, gate, mlp->width, d, y);
    for (size_t i = 0; i < d; i++) {
        out[i] += scale * y[i];
    }
}

/* Position of the largest of x[0..n) that is not taken; n when all are. The first of equals. */
static size_t best_of(const double *x, const bool *taken, size_t n)
{
    size_t best = n;

    for (size_t i = 0; i < n; i++) {
        if (!taken[i] && x[i] > -HUGE_VAL && (best == n || x[i] > x[best])) {
            best = i;
        }
    }
    return best;
}

/* The k best of x[0..n) into indices, best first; how far the last is from what is left is noted.
 */
static void select_best(struct oracle *o, const double *x, size_t n, size_t k, size_t *indices)
{
    bool taken[ORACLE_EXPERTS_MAX] = {false};

    for (size_t i = 0; i < k; i++) {
        indices[i] = best_of(x, taken, n);
        taken[indices[i]] = true;
    }

    const size_t next = best_of(x, taken, n);

    if (next < n) {
        oracle_note_margin(o, x[indices[k - 1]] - x[next]);
    }
}

/* A group's rank: its best score, and with V3 its second best on top. */
static double group_score(const struct oracle *o, const double *x, size_t n)
{
    bool taken[ORACLE_EXPERTS_MAX] = {false};
    const size_t first = best_of(x, taken, n);

    if (o->config.router != ORACLE_ROUTER_V3) {
        return x[first];
    }
    taken[first] = true;
    return x[first] + x[best_of(x, taken, n)];
}

/* Scores outside the kept groups become -inf. */
static void drop_groups(struct oracle *o, double *choice)
{
    const struct oracle_config *c = &o->config;
    const size_t size = c->n_experts / c->n_groups;
    double scores[ORACLE_EXPERTS_MAX] = {0};
    size_t kept[ORACLE_EXPERTS_MAX] = {0};
    bool is_kept[ORACLE_EXPERTS_MAX] = {false};

    if (c->n_groups <= 1) {
        return;
    }
    for (size_t i = 0; i < c->n_groups; i++) {
        scores[i] = group_score(o, choice + i * size, size);
    }
    select_best(o, scores, c->n_groups, c->top_groups, kept);
    for (size_t i = 0; i < c->top_groups; i++) {
        is_kept[kept[i]] = true;
    }
    for (size_t i = 0; i < c->n_groups; i++) {
        for (size_t j = i * size; j < (i + 1) * size && !is_kept[i]; j++) {
            choice[j] = -HUGE_VAL;
        }
    }
}

/* What the K weights are divided by and multiplied with: each family has its own rule. */
static double weight_factor(const struct oracle_config *c, double sum)
{
    switch (c->router) {
    case ORACLE_ROUTER_V3:
        return c->routed_scale / (c->normalise ? sum + 1e-20 : 1);
    case ORACLE_ROUTER_V2:
        return c->normalise && c->top_k > 1 ? 1 / (sum + 1e-20) : c->routed_scale;
    case ORACLE_ROUTER_STANDARD:
        break;
    }
    return c->normalise ? 1 / sum : 1;
}

/* indices and weights (top_k) of one token. */
static void route(struct oracle *o, const struct oracle_layer *layer, const double *x,
                  size_t *indices, double *weights)
{
    const struct oracle_config *c = &o->config;
    double scores[ORACLE_EXPERTS_MAX] = {0}, choice[ORACLE_EXPERTS_MAX] = {0}, sum = 0;

    oracle_linear(o, layer->router, ORACLE_ABSENT, x, c->d, c->n_experts, scores);
    if (c->router != ORACLE_ROUTER_V3) {
        oracle_softmax(scores, c->n_experts);
    }
    for (size_t i = 0; i < c->n_experts; i++) {
        if (c->router == ORACLE_ROUTER_V3) {
            scores[i] = 1 / (1 + exp(-scores[i]));
        }
        choice[i] =
            scores[i] + (layer->router_bias == ORACLE_ABSENT ? 0 : o->data[layer->router_bias + i]);
    }
    drop_groups(o, choice);
    select_best(o, choice, c->n_experts, c->top_k, indices);
    for (size_t k = 0; k < c->top_k; k++) {
        weights[k] = scores[indices[k]];
        sum += weights[k];
        o->result.n_negative_routes += o->is_base && choice[indices[k]] < 0;
    }
    for (size_t k = 0; k < c->top_k; k++) {
        weights[k] *= weight_factor(c, sum);
    }
}

void oracle_ffn(struct oracle *o, const struct oracle_layer *layer, size_t layer_index,
                const double *x, double *out)
{
    const struct oracle_config *c = &o->config;
    size_t indices[ORACLE_EXPERTS_MAX] = {0};
    double weights[ORACLE_EXPERTS_MAX] = {0};

    if (layer->mlp.width > 0) {
        add_mlp(o, &layer->mlp, x, 1, out);
    }
    if (!c->is_moe[layer_index]) {
        return;
    }
    route(o, layer, x, indices, weights);
    for (size_t k = 0; k < c->top_k; k++) {
        add_mlp(o, &layer->experts[indices[k]], x, weights[k], out);
        o->result.expert_rows[layer_index][indices[k]] += o->is_base ? 1 : 0;
    }
}
