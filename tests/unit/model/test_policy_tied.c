/* The gradient of a tied head and its embedding: bit for bit that of the same matrix as two, each
 * with a gradient of its own, and kept for no more tokens than were said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <string.h>

#define LONGEST ((size_t)48)
#define VOCAB ((size_t)64)

static struct policy *create(struct backend *backend, bool is_tied, size_t max_update_tokens)
{
    const struct policy_options options = {.max_rows = MAX_ROWS,
                                           .max_draws = MAX_ROWS,
                                           .max_update_tokens = max_update_tokens,
                                           .is_trainable = true,
                                           .precision = precision,
                                           .unquantised = unquantised,
                                           .cache = cache_precision};
    struct model_config config;
    struct policy *policy;

    variant_config(&config);
    config.has_tied_head = is_tied;
    assert_ok(policy_create(backend, &config, &options, &policy));
    return policy;
}

/* The same in forward passes of one sequence: a small one that has more slots than rows. */
static struct policy *create_narrow(struct backend *backend)
{
    const struct policy_options options = {
        .max_rows = LONGEST, .max_draws = LONGEST, .is_trainable = true};

    return variant_policy(backend, &options);
}

static float *row_named(struct policy *policy, const char *name, float *floats, size_t *n)
{
    const struct weight_row *row = weight_table_find(policy_table(policy), name);

    assert_non_null(row);
    *n = row->count;
    return floats + row->offset;
}

/* The tied policy's weights, its embedding as the head too. */
static void copy_weights(struct policy *tied, struct policy *apart)
{
    const struct weight_table *table = policy_table(apart);

    fill_weights(tied);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        const bool is_head = strcmp(row->name, "lm_head.weight") == 0;
        size_t n;
        const float *source = row_named(tied, is_head ? "model.embed_tokens.weight" : row->name,
                                        policy_weights(tied), &n);

        assert_int_equal(n, row->count);
        memcpy(policy_weights(apart) + row->offset, source, n * sizeof(float));
    }
    assert_ok(policy_refresh(tied));
    assert_ok(policy_refresh(apart));
}

/* Two pieces, so that a token comes again in the second. */
static void update(struct policy *policy, const struct batch *batch, enum mtp_use use)
{
    memset(policy_gradients(policy), 0, policy_table(policy)->n_floats * sizeof(float));
    learn_sequences(policy, batch, 0, 2, use);
    learn_sequences(policy, batch, 2, N_SEQUENCES, use);
    assert_ok(policy_finish_gradients(policy));
}

/* got = want + head, or want alone without head. By value: a sum from zero may be -0 where 0 was
 * added to it. */
static void assert_sums(const struct weight_row *row, const float *got, const float *want,
                        const float *head)
{
    for (size_t i = 0; i < row->count; i++) {
        const float sum = head != NULL ? want[i] + head[i] : want[i];

        if (got[i] != sum) {
            fail_msg("variant %u: %s [%zu] is %a, want %a", variant, row->name, i, (double)got[i],
                     (double)sum);
        }
    }
}

static void assert_gradients_meet(struct policy *tied, struct policy *apart)
{
    const struct weight_table *table = policy_table(tied);
    size_t n;
    const float *head = row_named(apart, "lm_head.weight", policy_gradients(apart), &n);

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        const bool is_shared = strcmp(row->name, "model.embed_tokens.weight") == 0;
        const float *want = row_named(apart, row->name, policy_gradients(apart), &n);

        assert_int_equal(n, row->count);
        assert_sums(row, policy_gradients(tied) + row->offset, want, is_shared ? head : NULL);
    }
}

static size_t count_different(const struct batch *batch)
{
    bool is_seen[VOCAB] = {false};
    size_t n = 0;

    for (size_t i = 0; i < batch->offsets[N_SEQUENCES]; i++) {
        n += is_seen[batch->tokens[i]] ? 0 : 1;
        is_seen[batch->tokens[i]] = true;
    }
    return n;
}

static void check_sum(void)
{
    struct backend *backend = open_backend("cpu", 2);
    struct batch batch;

    batch_fill(&batch);

    struct policy *tied = create(backend, true, count_different(&batch));
    struct policy *apart = create(backend, false, 0);

    copy_weights(tied, apart);
    for (int use = WITHOUT_MTP; use <= MTP_ATTACHED; use++) {
        update(tied, &batch, (enum mtp_use)use);
        update(apart, &batch, (enum mtp_use)use);
        assert_gradients_meet(tied, apart);
    }
    policy_destroy(apart);
    policy_destroy(tied);
    backend_close(backend);
}

static void a_tied_gradient_is_the_sum_of_the_heads_and_the_embeddings(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_PROFILES * N_VARIANTS; i++) {
        variant = variants[i / N_PROFILES];
        set_profile(i % N_PROFILES);
        if ((variant & VARIANT_TIED) != 0) {
            check_sum();
        }
    }
    variant = 0;
    set_profile(0);
}

static void more_tokens_than_were_said_are_refused(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct batch batch;
    float logp[MAX_ROWS], entropy[MAX_ROWS];

    (void)state;
    variant = VARIANT_LLAMA | VARIANT_TIED;
    batch_fill(&batch);

    struct policy *policy = create(backend, true, count_different(&batch) - 1);

    fill_weights(policy);
    assert_ok(policy_refresh(policy));
    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, entropy);
    assert_status(policy_backward(policy, batch.g, batch.h), STATUS_BAD_ARGUMENT,
                  "different tokens than the");
    policy_destroy(policy);
    variant = 0;
    backend_close(backend);
}

static void an_update_may_have_more_tokens_than_a_pass_has_rows(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *narrow, *wide;
    struct batch batch;

    (void)state;
    variant = VARIANT_LLAMA | VARIANT_TIED;
    batch_fill(&batch);
    narrow = create_narrow(backend);
    wide = make_policy(backend, true);
    assert_true(count_different(&batch) > LONGEST);
    for (size_t round = 0; round < 2; round++) { /* the second from slots that were in use */
        for (size_t i = 0; i < N_SEQUENCES; i++) {
            learn_sequences(narrow, &batch, i, i + 1, WITHOUT_MTP);
        }
        learn_sequences(wide, &batch, 0, N_SEQUENCES, WITHOUT_MTP);
        assert_ok(policy_finish_gradients(narrow));
        assert_ok(policy_finish_gradients(wide));
        assert_memory_equal(policy_gradients(narrow), policy_gradients(wide),
                            policy_table(wide)->n_floats * sizeof(float));
    }
    policy_destroy(wide);
    policy_destroy(narrow);
    variant = 0;
    backend_close(backend);
}

/* Gradients of the policy that would hold a row for each of so many tokens. */
static size_t gradient_bytes(bool is_tied, size_t max_update_tokens)
{
    const struct policy_options options = {.max_rows = MAX_ROWS,
                                           .max_draws = 1,
                                           .max_update_tokens = max_update_tokens,
                                           .is_trainable = true};
    struct model_config config;
    struct policy_memory memory;

    variant_config(&config);
    config.has_tied_head = is_tied;
    assert_ok(policy_measure(&config, &options, &memory));
    return memory.gradients - memory.weights;
}

static void rows_are_held_for_the_tokens_that_were_said(void **state)
{
    struct model_config config;

    (void)state;
    variant = VARIANT_LLAMA;
    variant_config(&config);

    const size_t row_bytes = config.hidden_size * sizeof(float);

    assert_int_equal(gradient_bytes(true, 9), 9 * row_bytes);
    assert_int_equal(gradient_bytes(true, 0), config.vocab_size * row_bytes);
    assert_int_equal(gradient_bytes(true, config.vocab_size + 1), config.vocab_size * row_bytes);
    assert_int_equal(gradient_bytes(false, 9), 0);
    variant = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tied_gradient_is_the_sum_of_the_heads_and_the_embeddings),
        cmocka_unit_test(more_tokens_than_were_said_are_refused),
        cmocka_unit_test(an_update_may_have_more_tokens_than_a_pass_has_rows),
        cmocka_unit_test(rows_are_held_for_the_tokens_that_were_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
