/* Owns the oracle's skeleton (model.md 3, 4, 9): blocks, heads, MTP modules, and the objective. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/support/oracle_internal.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double oracle_dot(const double *a, const double *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

void oracle_linear(const struct oracle *oracle, size_t w, size_t b, const double *x, size_t n_in,
                   size_t n_out, double *y)
{
    for (size_t o = 0; o < n_out; o++) {
        y[o] = oracle_dot(oracle->data + w + o * n_in, x, n_in) +
               (b == ORACLE_ABSENT ? 0 : oracle->data[b + o]);
    }
}

void oracle_rms_norm(const double *w, const double *x, size_t n, double eps, double *y)
{
    const double scale = 1 / sqrt(oracle_dot(x, x, n) / (double)n + eps);

    for (size_t i = 0; i < n; i++) {
        y[i] = w[i] * x[i] * scale;
    }
}

void oracle_softmax(double *x, size_t n)
{
    double largest = -HUGE_VAL, sum = 0;

    for (size_t i = 0; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = exp(x[i] - largest);
        sum += x[i];
    }
    for (size_t i = 0; i < n; i++) {
        x[i] /= sum;
    }
}

void oracle_note_margin(struct oracle *oracle, double distance)
{
    if (oracle->is_base && distance < oracle->result.margin) {
        oracle->result.margin = distance;
    }
}

/* One layer on the stream of n tokens, in place. */
static void run_block(struct oracle *o, size_t layer_index, size_t n, oracle_stream stream)
{
    const struct oracle_config *c = &o->config;
    const struct oracle_layer *layer = &o->layers[layer_index];
    oracle_stream normed, added;

    for (size_t t = 0; t < n; t++) {
        oracle_rms_norm(o->data + layer->input_norm, stream[t], c->d, c->eps, normed[t]);
    }
    oracle_attention(o, layer, layer_index, n, normed, added);
    for (size_t t = 0; t < n; t++) {
        for (size_t i = 0; i < c->d; i++) {
            stream[t][i] += added[t][i];
        }
        oracle_rms_norm(o->data + layer->post_norm, stream[t], c->d, c->eps, normed[t]);
        oracle_ffn(o, layer, layer_index, normed[t], stream[t]);
    }
}

/* log softmax(head x / temperature) of one row; returns the entropy. */
static double log_probabilities(const struct oracle *o, const double *head, const double *x,
                                double *out)
{
    const size_t vocab = o->config.vocab, d = o->config.d;
    double largest = -HUGE_VAL, sum = 0, entropy = 0;

    for (size_t v = 0; v < vocab; v++) {
        out[v] = oracle_dot(head + v * d, x, d) / o->batch.temperature;
        largest = out[v] > largest ? out[v] : largest;
    }
    for (size_t v = 0; v < vocab; v++) {
        sum += exp(out[v] - largest);
    }
    for (size_t v = 0; v < vocab; v++) {
        out[v] -= largest + log(sum);
        entropy -= exp(out[v]) * out[v];
    }
    return entropy;
}

/* What the trunk's rows contribute to the objective. */
static double main_objective(struct oracle *o, size_t n, oracle_stream stream)
{
    const struct oracle_batch *batch = &o->batch;
    double logp[ORACLE_WIDTH_MAX], x[ORACLE_D_MAX], total = 0;

    for (size_t t = 0; t < n; t++) {
        const size_t row = batch->offsets[o->sequence] + t;

        if (batch->targets[row] < 0) {
            continue;
        }
        oracle_rms_norm(o->data + o->final_norm, stream[t], o->config.d, o->config.eps, x);

        const double entropy = log_probabilities(o, o->data + o->head, x, logp);
        const double wanted = logp[batch->targets[row]];

        total += batch->g[row] * wanted + batch->h[row] * entropy;
        if (o->is_base) {
            o->result.logp[row] = wanted;
            o->result.entropy[row] = entropy;
        }
    }
    return total;
}

/* stream (what came before, n + module + 1 tokens) becomes the module's n rows. */
static void module_inputs(const struct oracle *o, size_t module, size_t n, const double *shared,
                          oracle_stream stream)
{
    const struct oracle_config *c = &o->config;
    const struct oracle_layer *layer = &o->layers[c->n_layers + module];
    const int32_t *tokens = o->batch.tokens + o->batch.offsets[o->sequence];
    double both[2 * ORACLE_D_MAX];

    for (size_t i = 0; i < n; i++) {
        const size_t token = (size_t)tokens[i + module + 1];

        if (module == 0 && !c->has_pre_norm_mtp) {
            oracle_rms_norm(shared + o->final_norm, stream[i], c->d, c->eps, stream[i]);
        }
        oracle_rms_norm(o->data + layer->e_norm, shared + o->embedding + token * c->d, c->d, c->eps,
                        both);
        oracle_rms_norm(o->data + layer->h_norm, stream[i], c->d, c->eps, both + c->d);
        oracle_linear(o, layer->eh_proj, ORACLE_ABSENT, both, 2 * c->d, c->d, stream[i]);
    }
}

/* Runs a module on its n rows; returns what they contribute to the objective. */
static double module_objective(struct oracle *o, size_t module, size_t n, oracle_stream stream)
{
    const struct oracle_config *c = &o->config;
    const struct oracle_batch *batch = &o->batch;
    const struct oracle_layer *layer = &o->layers[c->n_layers + module];
    const double *const shared = batch->is_detached ? o->base : o->data;
    double logp[ORACLE_WIDTH_MAX], x[ORACLE_D_MAX], total = 0;

    module_inputs(o, module, n, shared, stream);
    run_block(o, c->n_layers + module, n, stream);
    for (size_t i = 0; i < n; i++) {
        const size_t row = batch->offsets[o->sequence] + i;
        const int32_t target = batch->mtp_targets[module][row];

        if (target < 0) {
            continue;
        }
        oracle_rms_norm(o->data + layer->head_norm, stream[i], c->d, c->eps, x);
        (void)log_probabilities(o, shared + o->head, x, logp);
        total += batch->mtp_g[module][row] * logp[target];
        if (o->is_base) {
            o->result.mtp_logp[module][row] = logp[target];
        }
    }
    return total;
}

static void embed(const struct oracle *o, size_t n, oracle_stream stream)
{
    const int32_t *tokens = o->batch.tokens + o->batch.offsets[o->sequence];
    const size_t d = o->config.d;

    for (size_t t = 0; t < n; t++) {
        memcpy(stream[t], o->data + o->embedding + (size_t)tokens[t] * d, d * sizeof(double));
    }
}

/* Stage i < n_layers: layer i; n_layers: final norm and head; behind: MTP modules. The stream that
 * enters stage i <= n_layers, or that module i - n_layers - 1 gives, stands in streams[i]. */
static void run_trunk(struct oracle *o, size_t first, size_t n, oracle_stream stream)
{
    const size_t n_layers = o->config.n_layers;
    oracle_stream *const kept = o->streams[o->sequence];

    if (first == 0) {
        embed(o, n, stream);
    } else {
        memcpy(stream, kept[first < n_layers ? first : n_layers], sizeof(oracle_stream));
    }
    for (size_t i = first; i < n_layers; i++) {
        if (o->is_base) {
            memcpy(kept[i], stream, sizeof(oracle_stream));
        }
        run_block(o, i, n, stream);
    }
    if (o->is_base) {
        memcpy(kept[n_layers], stream, sizeof(oracle_stream));
    }
}

/* The modules from stage `first` on; terms[m] gets what each adds. */
static void run_modules(struct oracle *o, size_t first, size_t n, oracle_stream stream,
                        double *terms)
{
    const struct oracle_config *c = &o->config;
    oracle_stream *const kept = o->streams[o->sequence] + c->n_layers + 1;

    for (size_t m = 0; m < c->n_modules && n > m + 1; m++) {
        if (first > c->n_layers + 1 + m) {
            memcpy(stream, kept[m], sizeof(oracle_stream));
            continue;
        }
        terms[m] += module_objective(o, m, n - m - 1, stream);
        if (o->is_base) {
            memcpy(kept[m], stream, sizeof(oracle_stream));
        }
    }
}

static double run_from(struct oracle *o, size_t first)
{
    const struct oracle_config *c = &o->config;
    const bool has_main = first <= c->n_layers;
    const bool has_modules = o->is_base || !has_main || !o->batch.is_detached;
    double main_term = 0, terms[ORACLE_MODULES_MAX] = {0}, total;
    oracle_stream stream;

    memset(stream, 0, sizeof(stream));
    o->indexer_term = 0;
    for (size_t i = 0; i < o->batch.n_sequences; i++) {
        const size_t n = o->batch.offsets[i + 1] - o->batch.offsets[i];

        o->sequence = i;
        run_trunk(o, first, n, stream);
        main_term += has_main ? main_objective(o, n, stream) : 0;
        if (has_modules) {
            run_modules(o, first, n, stream, terms);
        }
    }
    total = has_main ? main_term : o->main_term;
    for (size_t m = 0; m < c->n_modules; m++) {
        const bool is_kept = !has_modules || first > c->n_layers + 1 + m;

        total += is_kept ? o->module_terms[m] : terms[m];
    }
    if (o->is_base) {
        o->main_term = main_term;
        memcpy(o->module_terms, terms, sizeof(terms));
    }
    return total;
}

struct oracle *oracle_create(const struct oracle_config *config, const struct weight_table *table)
{
    struct oracle *oracle;

    assert_true(config->n_layers + config->n_modules <= ORACLE_LAYERS_MAX);
    assert_true(config->d <= ORACLE_D_MAX && config->n_experts <= ORACLE_EXPERTS_MAX);
    assert_ok(memory_alloc(1, sizeof(*oracle), &oracle));
    oracle->config = *config;
    oracle_resolve(oracle, table);
    oracle_rope_prepare(oracle);
    return oracle;
}

void oracle_destroy(struct oracle *oracle)
{
    memory_free(oracle);
}

void oracle_evaluate(struct oracle *oracle, const double *data, const struct oracle_batch *batch,
                     struct oracle_result *out)
{
    oracle->batch = *batch;
    oracle->data = oracle->base = data;
    oracle->is_base = true;
    memset(&oracle->result, 0, sizeof(oracle->result));
    oracle->result.margin = HUGE_VAL;
    (void)run_from(oracle, 0);
    oracle->is_base = false;
    *out = oracle->result;
}

/* First stage that reads the tensor. */
static size_t stage_of(const struct oracle *oracle, const struct weight_row *row)
{
    const size_t n_layers = oracle->config.n_layers;
    const char *const prefix = "model.layers.";
    size_t layer;

    if (strncmp(row->name, prefix, strlen(prefix)) != 0) {
        return row->offset == oracle->embedding ? 0 : n_layers;
    }
    layer = (size_t)strtoul(row->name + strlen(prefix), NULL, 10);
    return layer < n_layers ? layer : layer + 1;
}

double oracle_objective(struct oracle *oracle, const double *data, const struct weight_row *row)
{
    oracle->data = data;
    return run_from(oracle, stage_of(oracle, row));
}

double oracle_indexer_objective(struct oracle *oracle, const double *data,
                                const struct weight_row *row)
{
    oracle->data = data;
    (void)run_from(oracle, stage_of(oracle, row));
    return oracle->indexer_term;
}
