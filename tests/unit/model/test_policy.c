/* The exactness contract of the policy in training (DESIGN 3): cuts of a batch (in fp32), threads
 * and instruction sets give the same bits; plus its arguments, its memory and the router's bias
 * rule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <math.h>
#include <string.h>

enum mtp_use { WITHOUT_MTP, MTP_DETACHED, MTP_ATTACHED };

/* The rows of sequences [first, last) that a module predicts something for, from row 0. */
struct mtp_rows {
    int32_t rows[MAX_ROWS], targets[MAX_ROWS];
    float g[MAX_ROWS];
    size_t n;
};

static void list_mtp_rows(const struct batch *batch, size_t first, size_t last, size_t module,
                          struct mtp_rows *out)
{
    const size_t begin = batch->offsets[first];

    out->n = 0;
    for (size_t i = first; i < last; i++) {
        for (size_t row = batch->offsets[i]; row + module + 2 < batch->offsets[i + 1]; row++) {
            out->rows[out->n] = (int32_t)(row - begin);
            out->targets[out->n] = batch->targets[row];
            out->g[out->n++] = normal(4 + module, row);
        }
    }
}

/* Forward and backward of sequences [first, last), gradients added. */
static void learn(struct policy *policy, const struct batch *batch, size_t first, size_t last,
                  enum mtp_use use)
{
    const size_t begin = batch->offsets[first];
    const size_t n_modules = use == WITHOUT_MTP ? 0 : policy_config(policy)->n_mtp_modules;
    struct mtp_rows mtp;
    float logp[MAX_ROWS], entropy[MAX_ROWS];

    forward(policy, batch, first, last, plain, logp, entropy);
    for (size_t i = 0; i < n_modules; i++) {
        list_mtp_rows(batch, first, last, i, &mtp);
        assert_ok(policy_mtp_forward(policy,
                                     &(struct policy_mtp_args){.module = i,
                                                               .target_rows = mtp.rows,
                                                               .targets = mtp.targets,
                                                               .n_targets = mtp.n,
                                                               .detached = use == MTP_DETACHED},
                                     logp));
    }
    for (size_t i = n_modules; i-- > 0;) {
        list_mtp_rows(batch, first, last, i, &mtp);
        assert_ok(policy_mtp_backward(policy, mtp.g));
    }
    assert_ok(policy_backward(policy, batch->g + begin, batch->h + begin));
}

/* Gradients of the whole batch learnt in pieces that end before these sequences. */
static float *gradients_of(const char *device, size_t n_threads, const size_t *cuts, size_t n_cuts,
                           enum mtp_use use)
{
    struct backend *backend = open_backend(device, n_threads);
    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;
    struct batch batch;
    float *copy;
    size_t first = 0;

    batch_fill(&batch);
    for (size_t i = 0; i <= n_cuts; i++) {
        const size_t last = cuts != NULL && i < n_cuts ? cuts[i] : N_SEQUENCES;

        learn(policy, &batch, first, last, use);
        first = last;
    }
    assert_ok(policy_finish_gradients(policy));
    assert_ok(memory_alloc(n, sizeof(float), &copy));
    memcpy(copy, policy_gradients(policy), n * sizeof(float));
    policy_destroy(policy);
    backend_close(backend);
    return copy;
}

static size_t tiny_floats(void)
{
    struct model_config config;
    struct weight_table *table;

    variant_config(&config);
    assert_ok(weight_table_create(&config, &table));

    const size_t n = table->n_floats;

    weight_table_destroy(table);
    return n;
}

/* Products of BF16 take rows in pairs, which a cut behind an odd row changes: another rounding of
 * the same sums. */
static void assert_same_gradients(const float *a, const float *b, size_t n)
{
    double error = 0.0, size = 0.0;

    if (precision == PRECISION_F32) {
        assert_memory_equal(a, b, n * sizeof(float));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const double difference = (double)a[i] - (double)b[i];

        error += difference * difference;
        size += (double)a[i] * (double)a[i];
    }
    assert_true(size > 0.0 && error <= 1e-12 * size);
}

static void check_cuts(void)
{
    static const size_t cuts[] = {1, 3, 4};
    const size_t n = tiny_floats();

    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED; use++) {
        float *whole = gradients_of("cpu", 1, NULL, 0, (enum mtp_use)use);
        float *cut = gradients_of("cpu", 1, cuts, 3, (enum mtp_use)use);

        assert_same_gradients(whole, cut, n);
        memory_free(whole);
        memory_free(cut);
    }
}

static void cutting_a_batch_between_sequences_changes_no_bit(void **state)
{
    (void)state;
    for_all(check_cuts);
}

static void check_devices(void)
{
    static const char *const devices[] = {"cpu-avx512bf16", "cpu-avx512", "cpu-avx2",
                                          "cpu-portable"};
    const size_t n = tiny_floats();
    float *reference = gradients_of("cpu", 1, NULL, 0, MTP_ATTACHED);
    float *threaded = gradients_of("cpu", 2, NULL, 0, MTP_ATTACHED);

    assert_memory_equal(reference, threaded, n * sizeof(float));
    memory_free(threaded);
    for (size_t i = 0; i < 4; i++) {
        struct backend *backend;

        if (backend_open(devices[i], 1, &backend) != STATUS_OK) {
            print_message("%s: skipped\n", status_message());
            continue;
        }
        backend_close(backend);

        float *other = gradients_of(devices[i], 2, NULL, 0, MTP_ATTACHED);

        assert_memory_equal(reference, other, n * sizeof(float));
        memory_free(other);
    }
    memory_free(reference);
}

static void threads_and_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    for_all(check_devices);
}

/* sum g logp + h entropy + mtp_g mtp_logp in double. */
static double objective(struct policy *policy, const struct batch *batch)
{
    float logp[MAX_ROWS], entropy[MAX_ROWS], mtp_logp[MAX_ROWS];
    struct mtp_rows mtp;
    double sum = 0;

    forward(policy, batch, 0, N_SEQUENCES, plain, logp, entropy);
    for (size_t i = 0; i < batch->offsets[N_SEQUENCES]; i++) {
        sum += (double)batch->g[i] * (double)logp[i] + (double)batch->h[i] * (double)entropy[i];
    }
    for (size_t i = 0; i < policy_config(policy)->n_mtp_modules; i++) {
        list_mtp_rows(batch, 0, N_SEQUENCES, i, &mtp);
        assert_ok(policy_mtp_forward(
            policy,
            &(struct policy_mtp_args){
                .module = i, .target_rows = mtp.rows, .targets = mtp.targets, .n_targets = mtp.n},
            mtp_logp));
        for (size_t j = 0; j < mtp.n; j++) {
            sum += (double)mtp.g[j] * (double)mtp_logp[j];
        }
    }
    return sum;
}

/* Moves every trainable weight by step along a fixed random direction, and returns the gradient's
 * component along it. */
static double move(struct policy *policy, float step)
{
    const struct weight_table *table = policy_table(policy);
    double component = 0;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        for (size_t j = 0; j < row->count && row->is_trainable; j++) {
            const float direction = normal(100 + i, j);

            policy_weights(policy)[row->offset + j] += step * direction;
            component += (double)direction * (double)policy_gradients(policy)[row->offset + j];
        }
    }
    assert_ok(policy_refresh(policy));
    return component;
}

/* Whether the slope over `step` agrees with the gradient; the policy has learnt the batch and keeps
 * its weights but for rounding. */
static bool slope_agrees(struct policy *policy, const struct batch *batch, float step)
{
    const double component = move(policy, step);
    const double above = objective(policy, batch);

    (void)move(policy, -2 * step);

    const double slope = (above - objective(policy, batch)) / (2 * (double)step);

    (void)move(policy, step);
    print_message("variant %u, step %g: slope %g, gradient %g\n", variant, (double)step, slope,
                  component);
    return fabs(slope - component) <= 0.01 * fabs(component) + 0.05;
}

static void check_slope(void)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    struct batch batch;

    batch_fill(&batch);
    learn(policy, &batch, 0, N_SEQUENCES, MTP_ATTACHED);
    assert_ok(policy_finish_gradients(policy));
    /* A token may change its expert within a step: then a smaller one. */
    assert_true(slope_agrees(policy, &batch, 1e-4f) || slope_agrees(policy, &batch, 4e-5f));
    policy_destroy(policy);
    backend_close(backend);
}

/* Not of sparse attention: no step is so small that no row changes its keys. */
static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        variant = variants[i];
        if ((variant & VARIANT_SPARSE) == 0) {
            check_slope();
        }
    }
    variant = 0;
}

static void a_policy_that_cannot_train_gives_the_same_log_probabilities(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *trainable = make_policy(backend, true);
    struct policy *frozen = make_policy(backend, false);
    const struct sampling_params sampling = {.temperature = 0.7f, .top_k = 20, .top_p = 0.9f};
    float a[MAX_ROWS], b[MAX_ROWS], entropy[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(trainable, &batch, 0, N_SEQUENCES, sampling, a, entropy);
    forward(frozen, &batch, 0, N_SEQUENCES, sampling, b, NULL);
    assert_memory_equal(a, b, batch.offsets[N_SEQUENCES] * sizeof(float));
    assert_status(policy_backward(frozen, a, NULL), STATUS_BAD_ARGUMENT, "trainable");
    policy_destroy(trainable);
    policy_destroy(frozen);
    backend_close(backend);
}

static void wrong_arguments_are_refused(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    const int32_t tokens[] = {1, 64}, rows[] = {1, 0}, good[] = {1, 2};
    const size_t offsets[] = {0, 2};
    struct policy_batch batch = {.tokens = tokens,
                                 .n_rows = 2,
                                 .offsets = offsets,
                                 .n_sequences = 1,
                                 .target_rows = rows,
                                 .targets = good,
                                 .n_targets = 2,
                                 .sampling = plain};
    const struct policy_mtp_args mtp = {.target_rows = rows, .targets = good, .n_targets = 1};
    float logp[2];

    (void)state;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "token 1 is 64");
    batch.tokens = good;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "target row 1");
    assert_status(policy_backward(policy, logp, NULL), STATUS_BAD_ARGUMENT, "forward pass before");
    batch.n_rows = MAX_ROWS + 1;
    assert_status(policy_forward(policy, &batch, logp, NULL), STATUS_BAD_ARGUMENT, "sized for 1");
    batch.n_rows = 2;
    batch.n_targets = 1;
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "MTP needs");
    assert_ok(policy_forward(policy, &batch, logp, NULL));
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "MTP target row 0");
    assert_status(policy_mtp_backward(policy, logp), STATUS_BAD_ARGUMENT, "MTP forward pass");
    policy_destroy(policy);
    backend_close(backend);
}

static void an_mtp_gradient_must_come_before_the_policys(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    struct policy_mtp_args mtp = {.n_targets = 0};
    float logp[MAX_ROWS], entropy[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(policy, &batch, 0, 2, plain, logp, entropy);
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    assert_status(policy_backward(policy, batch.g, NULL), STATUS_BAD_ARGUMENT, "MTP");
    mtp.detached = true;
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    assert_ok(policy_backward(policy, batch.g, NULL));
    policy_destroy(policy);
    backend_close(backend);
}

static void a_detached_module_leaves_the_trunk_alone(void **state)
{
    const size_t n = tiny_floats();
    float *without = gradients_of("cpu", 1, NULL, 0, WITHOUT_MTP);
    float *detached = gradients_of("cpu", 1, NULL, 0, MTP_DETACHED);
    struct model_config config;
    struct weight_table *table;
    bool is_mtp_zero = true;

    (void)state;
    assert_ok(model_config_preset("tiny", &config));
    assert_ok(weight_table_create(&config, &table));
    assert_int_equal(n, table->n_floats);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        if (!row->is_mtp) {
            assert_memory_equal(without + row->offset, detached + row->offset,
                                row->count * sizeof(float));
        }
        for (size_t j = 0; row->is_mtp && j < row->count; j++) {
            is_mtp_zero = is_mtp_zero && detached[row->offset + j] == 0;
        }
    }
    assert_false(is_mtp_zero);
    weight_table_destroy(table);
    memory_free(without);
    memory_free(detached);
}

static void mtp_draws_are_the_modules_own_with_the_noise_given(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, false);
    struct sample_row draws[MAX_ROWS] = {{0}};
    float logp[MAX_ROWS], drawn_logp[MAX_ROWS];
    int32_t drawn[MAX_ROWS], unused[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    for (size_t i = 0; i < batch.n_mtp; i++) {
        draws[i] = (struct sample_row){.seed = 1, .position = (uint32_t)i}; /* greedy */
    }
    struct policy_mtp_args args = {.target_rows = batch.mtp_rows,
                                   .targets = batch.mtp_targets,
                                   .n_targets = batch.n_mtp,
                                   .draws = draws,
                                   .drawn = drawn};

    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, NULL);
    assert_ok(policy_mtp_forward(policy, &args, logp));
    args.targets = drawn;
    args.drawn = unused;
    assert_ok(policy_mtp_forward(policy, &args, drawn_logp));
    for (size_t i = 0; i < batch.n_mtp; i++) { /* the greedy draw is at least as likely */
        assert_true(drawn_logp[i] >= logp[i]);
    }
    policy_destroy(policy);
    backend_close(backend);
}

static void modules_run_in_order_and_a_softmax_router_has_no_bias(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy_mtp_args mtp = {.module = 1};
    const uint32_t made_up[3][4] = {{10, 2, 6, 6}};
    float logp[MAX_ROWS], entropy[MAX_ROWS];
    struct batch batch;
    struct digest128 before;

    (void)state;
    variant = VARIANT_SOFTMAX | VARIANT_TWO_MODULES;

    struct policy *policy = make_policy(backend, true);
    const size_t n = policy_table(policy)->n_floats;

    batch_fill(&batch);
    forward(policy, &batch, 0, 2, plain, logp, entropy);
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "module 1 cannot");
    mtp.module = 2;
    assert_status(policy_mtp_forward(policy, &mtp, logp), STATUS_BAD_ARGUMENT, "with a module");
    mtp.module = 0;
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    mtp.module = 1;
    assert_ok(policy_mtp_forward(policy, &mtp, logp));
    before = weights_digest(policy_weights(policy), n);
    policy_update_router_bias(policy, &made_up[0][0], 0.5f);

    const struct digest128 after = weights_digest(policy_weights(policy), n);

    assert_memory_equal(&before, &after, sizeof(before));
    policy_destroy(policy);
    backend_close(backend);
    variant = 0;
}

static void every_row_takes_k_experts_and_the_bias_evens_them_out(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    const struct weight_row *bias =
        weight_table_find(policy_table(policy), "model.layers.1.mlp.gate.e_score_correction_bias");
    const uint32_t made_up[2][4] = {{10, 2, 6, 6}, {0, 0, 0, 0}};
    uint32_t counts[2][4] = {{0}};
    float logp[MAX_ROWS], entropy[MAX_ROWS];
    const int32_t *layers;
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, entropy);
    assert_int_equal(policy_moe_layers(policy, &layers), 2);
    assert_int_equal(layers[0], 1);
    assert_int_equal(layers[1], 2);
    policy_expert_counts(policy, &counts[0][0]);
    assert_int_equal(counts[0][0] + counts[0][1] + counts[0][2] + counts[0][3],
                     2 * batch.offsets[N_SEQUENCES]);
    assert_int_equal(counts[1][0] + counts[1][1] + counts[1][2] + counts[1][3], 0);
    policy_update_router_bias(policy, &made_up[0][0], 0.5f);

    const float *values = policy_weights(policy) + bias->offset;

    assert_true(values[0] == -0.5f && values[1] == 0.5f && values[2] == 0 && values[3] == 0);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_step_allocates_nothing(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make_policy(backend, true);
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    learn(policy, &batch, 0, N_SEQUENCES, MTP_ATTACHED); /* the backend's scratch grows once */

    const size_t before = memory_total_blocks();

    learn(policy, &batch, 0, N_SEQUENCES, MTP_ATTACHED);
    assert_ok(policy_refresh(policy));
    assert_int_equal(memory_total_blocks(), before);
    policy_destroy(policy);
    backend_close(backend);
}

static enum status create_policy(void *context)
{
    const struct policy_options options = {.max_rows = 8, .max_draws = 2, .is_trainable = true};
    struct model_config config;
    struct policy *policy;
    struct policy_cache *cache;
    enum status status;

    TRY(model_config_preset("tiny", &config));
    TRY(policy_create(context, &config, &options, &policy));
    status = policy_cache_create(policy, 3, &cache);
    if (status == STATUS_OK) {
        policy_cache_destroy(cache);
    }
    policy_destroy(policy);
    return status;
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct backend *backend = open_backend("cpu", 1);

    (void)state;
    assert_ok(create_policy(backend));
    assert_true(support_fail_allocations(create_policy, backend) > 10);
    backend_close(backend);
}

static void what_is_measured_is_what_a_policy_holds(void **state)
{
    struct backend *backend = open_backend("cpu", 1);

    (void)state;
    for (size_t i = 0; i < 2 * N_VARIANTS; i++) {
        const struct policy_options options = {
            .max_rows = MAX_ROWS, .max_draws = MAX_ROWS, .is_trainable = i % 2 == 1};
        struct policy_memory measured, held;
        struct model_config config;
        struct policy *policy;

        variant = variants[i / 2];
        variant_config(&config);
        policy = make_policy(backend, options.is_trainable);
        held = policy_memory(policy);
        assert_ok(policy_measure(&config, &options, &measured));
        assert_memory_equal(&measured, &held, sizeof(held));
        policy_destroy(policy);
    }
    variant = 0;
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cutting_a_batch_between_sequences_changes_no_bit),
        cmocka_unit_test(threads_and_instruction_sets_change_no_bit),
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(a_policy_that_cannot_train_gives_the_same_log_probabilities),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(an_mtp_gradient_must_come_before_the_policys),
        cmocka_unit_test(a_detached_module_leaves_the_trunk_alone),
        cmocka_unit_test(mtp_draws_are_the_modules_own_with_the_noise_given),
        cmocka_unit_test(modules_run_in_order_and_a_softmax_router_has_no_bias),
        cmocka_unit_test(every_row_takes_k_experts_and_the_bias_evens_them_out),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(what_is_measured_is_what_a_policy_holds),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
