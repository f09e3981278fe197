/* Rehearsals: passes that a policy was rehearsed for take no more memory of the kernels' than they
 * told, and a rehearsal leaves numbers alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <string.h>

#define LONGEST ((size_t)48)
#define N_DRAFTS ((size_t)2)
#define N_SEQS ((size_t)6)

static struct policy_options options_of(bool is_trainable)
{
    return (struct policy_options){.max_rows = MAX_ROWS,
                                   .max_draws = N_SEQS * (1 + N_DRAFTS),
                                   .is_trainable = is_trainable,
                                   .n_drafts = is_trainable ? 0 : N_DRAFTS,
                                   .precision = precision,
                                   .cache = cache_precision};
}

static void rehearse(struct backend *backend, bool is_trainable, enum policy_indexer_loss loss)
{
    const struct policy_options options = options_of(is_trainable);
    const struct policy_rehearsal rehearsal = {.longest = LONGEST,
                                               .samples = !is_trainable,
                                               .indexer_loss = loss,
                                               .sampling = {.temperature = 1, .top_p = 0.9f}};
    struct model_config config;

    variant_config(&config);
    assert_ok(policy_rehearse(backend, &config, &options, &rehearsal));
    assert_true(backend_scratch_bytes(backend) > 0);
}

static struct policy *make(struct backend *backend, bool is_trainable)
{
    const struct policy_options options = options_of(is_trainable);

    return variant_policy(backend, &options);
}

/* Forward and backward over the first sequences, the first module attached. */
static void learn(struct policy *policy, const struct batch *batch, size_t n_sequences,
                  struct sampling_params sampling)
{
    float logp[MAX_ROWS], entropy[MAX_ROWS];

    forward(policy, batch, 0, n_sequences, sampling, logp, entropy);
    if (policy_config(policy)->n_mtp_modules > 0 && n_sequences == N_SEQUENCES) {
        assert_ok(policy_mtp_forward(policy,
                                     &(struct policy_mtp_args){.target_rows = batch->mtp_rows,
                                                               .targets = batch->mtp_targets,
                                                               .n_targets = batch->n_mtp},
                                     logp));
        assert_ok(policy_mtp_backward(policy, batch->mtp_g));
    }
    assert_ok(policy_backward(policy, batch->g, batch->h));
}

static void check_training(void)
{
    const enum policy_indexer_loss loss =
        (variant & VARIANT_SPARSE) != 0 ? POLICY_INDEXER_SPARSE : POLICY_INDEXER_OFF;
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make(backend, true);
    struct batch batch;

    rehearse(backend, true, loss);

    const size_t scratch = backend_scratch_bytes(backend), n_blocks = memory_total_blocks();

    batch_fill(&batch);
    if (loss != POLICY_INDEXER_OFF) {
        assert_ok(policy_set_indexer_loss(policy, loss, 1));
    }
    for (size_t i = 1; i <= N_SEQUENCES; i++) {
        learn(policy, &batch, i, plain);
        learn(policy, &batch, i, (struct sampling_params){.temperature = 1, .top_p = 0.9f});
    }
    assert_int_equal(backend_scratch_bytes(backend), scratch);
    assert_int_equal(memory_total_blocks(), n_blocks);
    policy_destroy(policy);
    backend_close(backend);
}

static void training_takes_no_more_than_was_rehearsed(void **state)
{
    (void)state;
    for_all(check_training);
}

/* Prompts, then a token a turn until the sequences are as long as they get. */
static void sample(struct policy *policy, struct policy_cache *cache)
{
    int32_t tokens[MAX_ROWS] = {0}, positions[MAX_ROWS], blocks[N_SEQS][LONGEST], drawn[N_SEQS];
    struct sample_row draws[N_SEQS] = {{.sampling = plain}};
    struct kv_span spans[N_SEQS];
    int32_t rows[N_SEQS];
    float logp[N_SEQS];
    size_t n_cached = 0;

    while (n_cached < LONGEST) {
        const size_t n_each = n_cached == 0 ? MAX_ROWS / N_SEQS : 1;

        for (size_t i = 0; i < N_SEQS; i++) {
            draws[i].sampling = plain;
            for (size_t j = 0; j < LONGEST; j++) {
                blocks[i][j] = (int32_t)(i * LONGEST + j);
            }
            spans[i] = (struct kv_span){.first_row = i * n_each,
                                        .n_rows = n_each,
                                        .n_cached = n_cached,
                                        .blocks = blocks[i]};
            rows[i] = (int32_t)(i * n_each + n_each - 1);
            for (size_t j = 0; j < n_each; j++) {
                positions[i * n_each + j] = (int32_t)(n_cached + j);
            }
        }
        assert_ok(policy_extend(policy, cache,
                                &(struct policy_extend_args){.tokens = tokens,
                                                             .positions = positions,
                                                             .n_rows = N_SEQS * n_each,
                                                             .spans = spans,
                                                             .n_spans = N_SEQS,
                                                             .draw_rows = rows,
                                                             .draws = draws,
                                                             .n_draws = N_SEQS,
                                                             .drawn = drawn,
                                                             .logp = logp}));
        n_cached += n_each;
    }
}

static void check_sampling(void)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make(backend, false);
    struct policy_cache *cache;

    assert_ok(policy_cache_create(policy, N_SEQS * LONGEST, &cache));
    rehearse(backend, false, POLICY_INDEXER_OFF);

    const size_t scratch = backend_scratch_bytes(backend), n_blocks = memory_total_blocks();

    sample(policy, cache);
    assert_int_equal(backend_scratch_bytes(backend), scratch);
    assert_int_equal(memory_total_blocks(), n_blocks);
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

static void sampling_takes_no_more_than_was_rehearsed(void **state)
{
    (void)state;
    for_all(check_sampling);
}

/* In the middle of a pass: the backend's memory moves, nothing else. */
static void a_rehearsal_leaves_a_policys_numbers_alone(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policies[2] = {make(backend, true), make(backend, true)};
    float logp[2][MAX_ROWS] = {{0}}, entropy[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    for (size_t i = 0; i < 2; i++) {
        forward(policies[i], &batch, 0, N_SEQUENCES, plain, logp[i], entropy);
        if (i == 1) {
            rehearse(backend, true, POLICY_INDEXER_OFF);
            rehearse(backend, false, POLICY_INDEXER_OFF);
        }
        assert_ok(policy_backward(policies[i], batch.g, batch.h));
    }
    assert_memory_equal(logp[0], logp[1], sizeof(logp[0]));
    assert_memory_equal(policy_gradients(policies[0]), policy_gradients(policies[1]),
                        policy_table(policies[0])->n_floats * sizeof(float));
    policy_destroy(policies[0]);
    policy_destroy(policies[1]);
    backend_close(backend);
}

static enum status attempt(void *context)
{
    const bool *const is_trainable = context;
    const struct policy_options options = options_of(*is_trainable);
    const struct policy_rehearsal rehearsal = {
        .longest = LONGEST, .samples = !*is_trainable, .sampling = plain};
    struct model_config config;
    struct backend *backend;

    variant_config(&config);
    TRY(backend_open("cpu", 2, &backend));
    const enum status status = policy_rehearse(backend, &config, &options, &rehearsal);
    backend_close(backend);
    return status;
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    bool is_trainable = false;

    (void)state;
    variant = VARIANT_SPARSE;
    assert_true(support_fail_allocations(attempt, &is_trainable) > 20);
    is_trainable = true;
    assert_true(support_fail_allocations(attempt, &is_trainable) > 20);
    variant = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_takes_no_more_than_was_rehearsed),
        cmocka_unit_test(sampling_takes_no_more_than_was_rehearsed),
        cmocka_unit_test(a_rehearsal_leaves_a_policys_numbers_alone),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
