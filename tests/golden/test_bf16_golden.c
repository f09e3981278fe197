/* Gradients whose products are of BF16, on the golden models: within the README's tolerance of
 * those of the fp32 profile (which test_model_golden holds against float64), a tensor at a time.
 * Where rounding changes what a router chose, another function is differentiated: such a model is
 * printed and not judged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model_check_internal.h"
#include "model/weights.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TOLERANCE 0.05 /* relative RMS error of a tensor; the README allows 0.15 */

/* A model in both profiles. */
struct pair {
    struct model_run plain, rounded;
    struct model_comparison comparison;
};

static const char *fixture_path(const char *fixture, char *io, size_t room)
{
    static char dir[512];
    char name[64];

    (void)snprintf(name, sizeof(name), "golden/%s", fixture);
    if (!support_shared_path(name, dir, sizeof(dir))) {
        return NULL;
    }
    (void)snprintf(io, room, "%s/io.safetensors", dir);
    return dir;
}

static void pair_run(const struct safetensors *io, const char *dir, struct pair *out)
{
    const struct model_run_wants wants = {.gradients = true};
    struct backend *backend;

    *out = (struct pair){.comparison = {.io = io, .dir = dir}};
    assert_ok(arena_create((size_t)1 << 20, &out->comparison.arena));
    assert_ok(backend_open("cpu", 2, &backend));
    out->comparison.backend = backend;
    assert_ok(model_check_run(&out->comparison,
                              &(struct policy_options){.precision = PRECISION_F32}, &wants,
                              &out->plain));
    assert_ok(model_check_run(&out->comparison,
                              &(struct policy_options){.precision = PRECISION_BF16}, &wants,
                              &out->rounded));
}

static void pair_drop(struct pair *pair)
{
    policy_destroy(pair->plain.policy);
    policy_destroy(pair->rounded.policy);
    backend_close(pair->comparison.backend);
    arena_destroy(pair->comparison.arena);
}

static bool same_routes(const struct pair *pair)
{
    const struct model_config *config = policy_config(pair->plain.policy);
    const size_t n =
        model_config_moe_layers(config) * pair->plain.n_rows * config->experts_per_token;

    return config->index_n_heads == 0 &&
           (config->n_experts == 0 || memcmp(pair->plain.trace.indices, pair->rounded.trace.indices,
                                             n * sizeof(int32_t)) == 0);
}

/* sqrt(sum (got - want)^2 / sum want^2). */
static double relative_error(const float *got, const float *want, size_t n)
{
    double error = 0.0, size = 0.0;

    for (size_t i = 0; i < n; i++) {
        const double difference = (double)got[i] - (double)want[i];
        error += difference * difference;
        size += (double)want[i] * (double)want[i];
    }
    return size > 0.0 ? sqrt(error / size) : sqrt(error);
}

/* state is the fixture's name. */
static void gradients_of_rounded_products_are_close(void **state)
{
    const char *const fixture = *state;
    struct safetensors *io;
    struct pair pair;
    char path[544];
    const char *const dir = fixture_path(fixture, path, sizeof(path));
    double worst = 0.0, sum = 0.0;

    if (dir == NULL) {
        skip();
    }
    assert_ok(safetensors_open(path, &io));
    pair_run(io, dir, &pair);
    const struct weight_table *const table = policy_table(pair.plain.policy);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *const row = &table->rows[i];
        const double error = relative_error(pair.rounded.gradients + row->offset,
                                            pair.plain.gradients + row->offset, row->count);
        worst = error > worst ? error : worst;
        sum += error;
    }
    print_message("%s: %zu tensors, mean error %.4f, worst %.4f%s\n", fixture, table->n_rows,
                  sum / (double)table->n_rows, worst, same_routes(&pair) ? "" : ", other routes");
    if (same_routes(&pair)) {
        assert_true(worst <= TOLERANCE);
    }
    pair_drop(&pair);
    safetensors_close(io);
}

int main(void)
{
    static char names[][16] = {"llama-gqa", "llama-mha", "llama-mqa", "qwen2",         "qwen3",
                               "mixtral",   "qwen3-moe", "moonlight", "v2-lite",       "v3-core",
                               "mtp1",      "mtp2",      "tied-head", "attention-bias"};
    struct CMUnitTest tests[sizeof(names) / sizeof(names[0])];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = gradients_of_rounded_products_are_close,
                                       .initial_state = names[i]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
