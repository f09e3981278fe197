/* Activations that are made again: every number that a policy gives out, gradients and what is seen
 * when looking inside included, has the bits of one that keeps all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <string.h>

#define N_LAYERS_MAX ((size_t)5)
#define N_MODULES_MAX ((size_t)2)
#define N_EXPERTS_MAX ((size_t)16)
#define LONGEST ((size_t)48)

/* What is trained how, by one thread more, and whether someone looks inside before the backward
 * pass. */
struct lesson {
    enum mtp_use use;
    enum policy_indexer_loss indexer;
    bool balances, looks, is_shared;
};

/* What can be told of a policy by running it; looked at and gradients are blocks of bytes. */
struct outcome {
    float logp[MAX_ROWS], entropy[MAX_ROWS], mtp_logp[N_MODULES_MAX][MAX_ROWS];
    uint32_t counts[N_LAYERS_MAX * N_EXPERTS_MAX];
    double indexer_losses[N_LAYERS_MAX], balance_loss;
};
struct bytes {
    float *data;
    size_t n;
};

static struct policy *make(struct backend *backend, bool recomputes)
{
    const struct policy_options options = {.max_rows = MAX_ROWS,
                                           .max_draws = 1,
                                           .is_trainable = true,
                                           .precision = precision,
                                           .cache = cache_precision,
                                           .recomputes = recomputes};
    struct model_config config;

    variant_config(&config);
    config.n_layers++; /* so that one lies between the first and the last */
    return policy_of(backend, &config, &options);
}

static size_t modules_of(const struct policy *policy, const struct lesson *lesson)
{
    return lesson->use == WITHOUT_MTP ? 0 : policy_config(policy)->n_mtp_modules;
}

static void run_forward(struct policy *policy, const struct batch *batch,
                        const struct lesson *lesson, struct outcome *out)
{
    struct mtp_rows mtp;

    forward(policy, batch, 0, N_SEQUENCES, plain, out->logp, out->entropy);
    for (size_t i = 0; i < modules_of(policy, lesson); i++) {
        list_mtp_rows(batch, 0, N_SEQUENCES, i, &mtp);
        assert_ok(
            policy_mtp_forward(policy,
                               &(struct policy_mtp_args){.module = i,
                                                         .target_rows = mtp.rows,
                                                         .targets = mtp.targets,
                                                         .n_targets = mtp.n,
                                                         .detached = lesson->use == MTP_DETACHED},
                               out->mtp_logp[i]));
    }
    policy_expert_counts(policy, out->counts);
}

static void run_backward(struct policy *policy, const struct batch *batch,
                         const struct lesson *lesson, struct outcome *out)
{
    struct mtp_rows mtp;

    for (size_t i = modules_of(policy, lesson); i-- > 0;) {
        list_mtp_rows(batch, 0, N_SEQUENCES, i, &mtp);
        assert_ok(policy_mtp_backward(policy, mtp.g));
    }
    assert_ok(policy_backward(policy, batch->g, batch->h));
    policy_indexer_losses(policy, out->indexer_losses);
    out->balance_loss = policy_balance_loss(policy);
}

/* Room for n rows of width numbers, NULL without looking. */
static float *take(struct bytes *seen, size_t n, size_t width)
{
    float *at = seen->data + seen->n;

    seen->n += n * width;
    return at;
}

static struct policy_trace trace_of(const struct policy *policy, const struct lesson *lesson,
                                    struct bytes *seen)
{
    const struct model_config *config = policy_config(policy);
    const size_t rows = MAX_ROWS, modules = modules_of(policy, lesson);
    const int32_t *layers;
    const size_t routes = policy_moe_layers(policy, &layers) * config->experts_per_token;
    struct policy_trace trace = {
        .hidden = take(seen, rows * config->n_layers, config->hidden_size),
        .normed = take(seen, rows, config->hidden_size),
        .logits = take(seen, rows, config->vocab_size),
        .indices = (int32_t *)(void *)take(seen, rows, routes),
        .weights = take(seen, rows, routes),
    };

    if (modules > 0) {
        trace.mtp_hidden = take(seen, rows * modules, config->hidden_size);
        trace.mtp_logits = take(seen, rows * modules, config->vocab_size);
    }
    if (config->index_n_heads > 0) {
        trace.index_scores = take(seen, rows * config->n_layers, LONGEST);
        trace.index_selected =
            (int32_t *)(void *)take(seen, rows * config->n_layers, config->index_topk);
    }
    return trace;
}

/* Everything that can be read, layers' inputs from the first to the last. */
static void look(struct policy *policy, const struct lesson *lesson, struct bytes *seen)
{
    static const enum policy_input inputs[] = {POLICY_INPUT_PROJECT, POLICY_INPUT_Q_B,
                                               POLICY_INPUT_O, POLICY_INPUT_GATE,
                                               POLICY_INPUT_DOWN};
    const struct policy_trace trace = trace_of(policy, lesson, seen);

    assert_ok(policy_read_trace(policy, &trace));
    for (size_t i = 0; i < policy_config(policy)->n_layers; i++) {
        for (size_t j = 0; j < sizeof(inputs) / sizeof(inputs[0]); j++) {
            const size_t width = policy_input_width(policy, i, inputs[j]);

            if (width > 0) {
                assert_ok(policy_read_input(policy, i, inputs[j], take(seen, MAX_ROWS, width)));
            }
        }
    }
}

static void begin(struct policy *policy, const struct lesson *lesson)
{
    const struct policy_balance balance = {.kind = POLICY_BALANCE_SEQUENCE,
                                           .coefficient = lesson->balances ? 0.5 : 0.0,
                                           .n_sequences = N_SEQUENCES};

    assert_ok(policy_set_balance(policy, &balance));
    if (lesson->indexer != POLICY_INDEXER_OFF) {
        assert_ok(policy_set_indexer_loss(policy, lesson->indexer, 0.3f));
    }
}

/* Two batches' worth of gradients in *gradients (owned by the policy), what was seen in *seen. */
static void run(struct policy *policy, const struct lesson *lesson, struct outcome *out,
                struct bytes *seen)
{
    struct batch batch;

    memset(out, 0, sizeof(*out));
    seen->n = 0;
    batch_fill(&batch);
    begin(policy, lesson);
    for (size_t i = 0; i < 2; i++) {
        run_forward(policy, &batch, lesson, out);
        if (lesson->looks) {
            look(policy, lesson, seen);
        }
        run_backward(policy, &batch, lesson, out);
        if (lesson->looks) {
            look(policy, lesson, seen);
        }
    }
    assert_ok(policy_finish_gradients(policy));
}

#define SEEN_FLOATS ((size_t)1 << 20)

static void compare(const struct lesson *lesson)
{
    struct backend *backend = open_backend("cpu", lesson->is_shared ? 2 : 1);
    struct policy *policies[2];
    struct outcome outcomes[2];
    struct bytes seen[2];

    for (size_t i = 0; i < 2; i++) {
        policies[i] = make(backend, i == 1);
        assert_ok(memory_alloc(SEEN_FLOATS, sizeof(float), &seen[i].data));
        run(policies[i], lesson, &outcomes[i], &seen[i]);
        assert_true(seen[i].n <= SEEN_FLOATS && (seen[i].n > 0) == lesson->looks);
    }
    assert_memory_equal(&outcomes[0], &outcomes[1], sizeof(outcomes[0]));
    assert_memory_equal(policy_gradients(policies[0]), policy_gradients(policies[1]),
                        policy_table(policies[0])->n_floats * sizeof(float));
    assert_int_equal(seen[0].n, seen[1].n);
    assert_memory_equal(seen[0].data, seen[1].data, seen[0].n * sizeof(float));
    for (size_t i = 0; i < 2; i++) {
        policy_destroy(policies[i]);
        memory_free(seen[i].data);
    }
    backend_close(backend);
}

static void check_training(void)
{
    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED; use++) {
        compare(&(struct lesson){.use = (enum mtp_use)use,
                                 .balances = use == MTP_ATTACHED,
                                 .is_shared = use == MTP_ATTACHED});
    }
}

static void gradients_have_the_same_bits(void **state)
{
    (void)state;
    for_all(check_training);
}

static void check_looking(void)
{
    compare(&(struct lesson){.use = MTP_ATTACHED, .looks = true});
    compare(&(struct lesson){.use = WITHOUT_MTP, .looks = true});
}

static void what_is_seen_inside_is_the_same_and_disturbs_nothing(void **state)
{
    (void)state;
    for_all(check_looking);
}

static void check_indexers(void)
{
    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED && (variant & VARIANT_SPARSE) != 0; use++) {
        for (size_t looks = 0; looks < 2; looks++) {
            compare(&(struct lesson){
                .use = (enum mtp_use)use, .indexer = POLICY_INDEXER_DENSE, .looks = looks == 1});
            compare(&(struct lesson){.use = (enum mtp_use)use,
                                     .indexer = POLICY_INDEXER_SPARSE,
                                     .looks = looks == 1,
                                     .is_shared = use == MTP_ATTACHED});
        }
    }
}

static void both_losses_of_indexers_have_the_same_bits(void **state)
{
    (void)state;
    for_all(check_indexers);
}

static size_t activation_bytes(const struct model_config *config, bool recomputes)
{
    struct policy_memory memory;

    assert_ok(policy_measure(
        config,
        &(struct policy_options){
            .max_rows = MAX_ROWS, .max_draws = 1, .is_trainable = true, .recomputes = recomputes},
        &memory));
    return memory.activations;
}

static void a_layer_more_costs_its_input_alone(void **state)
{
    struct model_config config;
    size_t few[2];

    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        variant = variants[i];
        variant_config(&config);
        few[0] = activation_bytes(&config, false);
        few[1] = activation_bytes(&config, true);
        assert_true(few[1] < few[0]);
        config.n_layers++;
        /* hidden_size is padded to whole cache lines */
        assert_int_equal(activation_bytes(&config, true) - few[1],
                         MAX_ROWS * ((config.hidden_size + 15) / 16 * 16) * sizeof(float));
        assert_true(activation_bytes(&config, false) - few[0] >
                    5 * (activation_bytes(&config, true) - few[1]));
    }
    variant = 0;
}

static void a_step_allocates_nothing(void **state)
{
    const struct lesson lesson = {.use = MTP_ATTACHED};
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make(backend, true);
    struct outcome outcome;
    struct bytes seen = {.data = NULL};

    (void)state;
    run(policy, &lesson, &outcome, &seen); /* the backend's scratch grows once */

    const size_t before = memory_total_blocks();

    run(policy, &lesson, &outcome, &seen);
    assert_int_equal(memory_total_blocks(), before);
    policy_destroy(policy);
    backend_close(backend);
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    struct creation creation = {
        .backend = open_backend("cpu", 1),
        .options = {.max_rows = 8, .max_draws = 2, .is_trainable = true, .recomputes = true}};

    (void)state;
    variant = VARIANT_SPARSE | VARIANT_TWO_MODULES;
    assert_true(support_fail_allocations(create_variant, &creation) > 10);
    variant = 0;
    backend_close(creation.backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_have_the_same_bits),
        cmocka_unit_test(what_is_seen_inside_is_the_same_and_disturbs_nothing),
        cmocka_unit_test(both_losses_of_indexers_have_the_same_bits),
        cmocka_unit_test(a_layer_more_costs_its_input_alone),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
