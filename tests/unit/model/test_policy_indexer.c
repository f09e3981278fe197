/* The losses of the indexers: who gets their gradient, what it is, and that no cut of a batch and
 * no thread changes a bit of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"
#include "tests/unit/model/slope.h"

#include <math.h>

#define MAX_LAYERS ((size_t)8)

/* Forward and backward of sequences [first, last) with all MTP modules, gradients added. */
static void learn(struct policy *policy, const struct batch *batch, size_t first, size_t last)
{
    const size_t begin = batch->offsets[first];
    const size_t n_modules = policy_config(policy)->n_mtp_modules;
    float logp[MAX_ROWS], entropy[MAX_ROWS];

    forward(policy, batch, first, last, plain, logp, entropy);
    for (size_t i = 0; i < n_modules; i++) {
        assert_ok(policy_mtp_forward(
            policy, &(struct policy_mtp_args){.module = i, .detached = true}, logp));
    }
    for (size_t i = 0; i < n_modules; i++) {
        assert_ok(policy_mtp_backward(policy, batch->mtp_g));
    }
    assert_ok(policy_backward(policy, batch->g + begin, NULL));
}

struct result {
    float *gradients;
    double losses[MAX_LAYERS];
};

static struct result result_of(const char *device, size_t n_threads, enum policy_indexer_loss loss,
                               size_t cut)
{
    struct backend *backend = open_backend(device, n_threads);
    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    struct result result;
    struct batch batch;

    batch_fill(&batch);
    if (loss != POLICY_INDEXER_OFF) {
        assert_ok(policy_set_indexer_loss(policy, loss, 0.5f));
    }
    if (cut > 0) {
        learn(policy, &batch, 0, cut);
    }
    learn(policy, &batch, cut, N_SEQUENCES);
    assert_ok(policy_finish_gradients(policy));
    assert_ok(memory_alloc(n, sizeof(float), &result.gradients));
    memcpy(result.gradients, policy_gradients(policy), n * sizeof(float));
    policy_indexer_losses(policy, result.losses);
    policy_destroy(policy);
    backend_close(backend);
    return result;
}

static struct weight_table *make_table(void)
{
    struct model_config config;
    struct weight_table *table;

    variant_config(&config);
    assert_ok(weight_table_create(&config, &table));
    return table;
}

static bool is_zero(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (values[i] != 0.0f) {
            return false;
        }
    }
    return true;
}

static void the_dense_loss_reaches_indexers_alone(void **state)
{
    struct weight_table *table;
    (void)state;

    variant = VARIANT_SPARSE | VARIANT_TWO_MODULES;
    table = make_table();
    struct result dense = result_of("cpu", 1, POLICY_INDEXER_DENSE, 0);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        assert_int_equal(is_zero(dense.gradients + row->offset, row->count), !row->is_indexer);
    }
    for (size_t i = 0; i < 4; i++) { /* two layers, two modules */
        assert_true(dense.losses[i] > 0.0);
    }
    memory_free(dense.gradients);
    weight_table_destroy(table);
    variant = 0;
}

static void the_sparse_loss_changes_no_other_gradient(void **state)
{
    struct weight_table *table;
    (void)state;

    variant = VARIANT_SPARSE;
    table = make_table();
    struct result off = result_of("cpu", 1, POLICY_INDEXER_OFF, 0);
    struct result sparse = result_of("cpu", 1, POLICY_INDEXER_SPARSE, 0);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        if (row->is_indexer) {
            assert_true(is_zero(off.gradients + row->offset, row->count));
            assert_false(is_zero(sparse.gradients + row->offset, row->count));
        } else {
            assert_memory_equal(off.gradients + row->offset, sparse.gradients + row->offset,
                                row->count * sizeof(float));
        }
    }
    assert_true(off.losses[0] == 0.0 && sparse.losses[0] > 0.0);
    memory_free(off.gradients);
    memory_free(sparse.gradients);
    weight_table_destroy(table);
    variant = 0;
}

static void neither_cuts_nor_threads_nor_instruction_sets_change_a_bit(void **state)
{
    static const char *const devices[] = {"cpu", "cpu-portable"};
    struct weight_table *table;
    (void)state;

    variant = VARIANT_SPARSE | VARIANT_YARN;
    table = make_table();
    for (int loss = POLICY_INDEXER_DENSE; loss <= POLICY_INDEXER_SPARSE; loss++) {
        struct result want = result_of("cpu", 1, (enum policy_indexer_loss)loss, 0);
        for (size_t i = 0; i < 2; i++) {
            struct result got = result_of(devices[i], 2, (enum policy_indexer_loss)loss, 1 + 2 * i);
            assert_memory_equal(got.gradients, want.gradients, table->n_floats * sizeof(float));
            for (size_t k = 0; k < 3; k++) { /* sums of pieces: double rounding */
                assert_true(fabs(got.losses[k] - want.losses[k]) < 1e-12 * want.losses[k]);
            }
            memory_free(got.gradients);
        }
        memory_free(want.gradients);
    }
    weight_table_destroy(table);
    variant = 0;
}

/* Coefficient times the sum of the dense losses. */
static double objective(struct policy *policy, const struct batch *batch)
{
    double losses[MAX_LAYERS], sum = 0;
    struct model_config config = *policy_config(policy);

    assert_ok(policy_set_indexer_loss(policy, POLICY_INDEXER_DENSE, 1));
    learn(policy, batch, 0, N_SEQUENCES);
    policy_indexer_losses(policy, losses);
    for (size_t i = 0; i < config.n_layers + config.n_mtp_modules; i++) {
        sum += losses[i];
    }
    return sum;
}

static bool is_of_indexer(const struct weight_row *row)
{
    return row->is_indexer;
}

static void the_dense_gradient_agrees_with_finite_differences(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy;
    struct batch batch;
    float *gradients;
    (void)state;

    variant = VARIANT_SPARSE;
    policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    batch_fill(&batch);
    (void)objective(policy, &batch);
    assert_ok(memory_alloc(n, sizeof(float), &gradients));
    memcpy(gradients, policy_gradients(policy), n * sizeof(float));

    const float step = 1e-4f;
    const double component = move_weights(policy, gradients, 100, is_of_indexer, step);
    const double above = objective(policy, &batch);
    (void)move_weights(policy, gradients, 100, is_of_indexer, -2 * step);
    const double slope = (above - objective(policy, &batch)) / (2 * (double)step);
    print_message("slope %g, gradient %g\n", slope, component);
    assert_true(fabs(slope - component) <= 0.01 * fabs(component) + 0.05);
    memory_free(gradients);
    policy_destroy(policy);
    backend_close(backend);
    variant = 0;
}

/* logp and entropy of the whole batch. */
static void evaluate(unsigned bits, size_t index_topk, enum policy_indexer_loss loss, float *logp)
{
    const struct policy_options options = {
        .max_rows = MAX_ROWS, .max_draws = 1, .is_trainable = true};
    struct backend *backend = open_backend("cpu", 1);
    struct model_config config;
    struct policy *policy;
    struct batch batch;

    variant = bits;
    variant_config(&config);
    config.index_topk = index_topk;
    policy = policy_of(backend, &config, &options);
    if (loss != POLICY_INDEXER_OFF) {
        assert_ok(policy_set_indexer_loss(policy, loss, 1));
    }
    batch_fill(&batch);
    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, logp + MAX_ROWS);
    policy_destroy(policy);
    backend_close(backend);
    variant = 0;
}

static void dense_attention_is_that_of_a_selection_of_all(void **state)
{
    float dense[2 * MAX_ROWS] = {0}, all[2 * MAX_ROWS] = {0}, few[2 * MAX_ROWS] = {0};
    (void)state;

    evaluate(VARIANT_SPARSE, 5, POLICY_INDEXER_DENSE, dense);
    evaluate(VARIANT_SPARSE, 48, POLICY_INDEXER_SPARSE, all);
    evaluate(VARIANT_SPARSE, 5, POLICY_INDEXER_SPARSE, few);
    assert_memory_equal(dense, all, sizeof(dense));
    assert_memory_not_equal(dense, few, sizeof(dense));
}

static void a_loss_needs_indexers_that_can_learn(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    (void)state;

    assert_status(policy_set_indexer_loss(policy, POLICY_INDEXER_SPARSE, 1), STATUS_BAD_ARGUMENT,
                  "indexers");
    assert_ok(policy_set_indexer_loss(policy, POLICY_INDEXER_OFF, 1));
    policy_destroy(policy);
    variant = VARIANT_SPARSE;
    policy = make_policy(backend, false);
    assert_status(policy_set_indexer_loss(policy, POLICY_INDEXER_DENSE, 1), STATUS_BAD_ARGUMENT,
                  "trainable");
    policy_destroy(policy);
    backend_close(backend);
    variant = 0;
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct creation creation = {.backend = open_backend("cpu", 1),
                                .options = {.max_rows = 8, .max_draws = 1, .is_trainable = true}};
    (void)state;

    variant = VARIANT_SPARSE;
    assert_true(support_fail_allocations(create_variant, &creation) > 10);
    backend_close(creation.backend);
    variant = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_dense_loss_reaches_indexers_alone),
        cmocka_unit_test(the_sparse_loss_changes_no_other_gradient),
        cmocka_unit_test(neither_cuts_nor_threads_nor_instruction_sets_change_a_bit),
        cmocka_unit_test(the_dense_gradient_agrees_with_finite_differences),
        cmocka_unit_test(dense_attention_is_that_of_a_selection_of_all),
        cmocka_unit_test(a_loss_needs_indexers_that_can_learn),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
