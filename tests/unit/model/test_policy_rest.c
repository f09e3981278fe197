/* Memory given back between two phases: it goes, and nothing that is computed afterwards tells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/policy_internal.h"
#include "tests/unit/model/policy_fixture.h"

#define PAGE ((size_t)4096)
/* Enough of each that gradients and rows are large. */
#define LARGE_FLOATS ((size_t)9 << 20)
#define LARGE_ROWS ((size_t)8192)
#define CACHE_PAGES ((size_t)4096)

static struct policy_options options_of(bool recomputes)
{
    return (struct policy_options){.max_rows = LARGE_ROWS,
                                   .max_draws = 8,
                                   .is_trainable = true,
                                   .recomputes = recomputes,
                                   .precision = precision,
                                   .unquantised = unquantised,
                                   .cache = cache_precision};
}

/* The variant with many tokens; numbers as good as random, and the same each time. */
static struct policy *large_policy(struct backend *backend, bool recomputes)
{
    const struct policy_options options = options_of(recomputes);
    struct model_config config;
    struct policy *policy;

    variant_config(&config);
    config.vocab_size = LARGE_FLOATS / config.hidden_size / (config.has_tied_head ? 1 : 2);
    assert_ok(policy_create(backend, &config, &options, &policy));

    const struct weight_table *table = policy_table(policy);

    for (size_t i = 0; i < table->n_rows; i++) {
        float *values = policy_weights(policy) + table->rows[i].offset;

        for (size_t j = 0; j < table->rows[i].count; j++) { /* vectorised: there are millions */
            const int32_t scrambled = (int32_t)((uint32_t)(i + j) * 2654435761U);

            values[j] = table->rows[i].n_dims == 1 ? 1.0F : (float)scrambled * 0x1p-34F;
        }
    }
    assert_ok(policy_refresh(policy));
    return policy;
}

struct outcome {
    float logp[MAX_ROWS], entropy[MAX_ROWS], mtp_logp[MAX_ROWS];
};

/* One update's gradients. */
static void learn(struct policy *policy, struct outcome *out)
{
    const size_t vocab = policy_config(policy)->vocab_size;
    struct batch batch;

    memset(out, 0, sizeof(*out));
    batch_fill(&batch);
    for (size_t i = 0; i < batch.offsets[1]; i++) {
        batch.tokens[i] = (int32_t)random_below(3, RANDOM_TEST, 9, i, vocab);
        batch.n_mtp = i;
    }
    batch.n_mtp -= 1; /* the first sequence alone, whose last two rows predict nothing */
    assert_ok(policy_clear_gradients(policy));
    forward(policy, &batch, 0, 1, plain, out->logp, out->entropy);
    if (policy_config(policy)->n_mtp_modules > 0) {
        assert_ok(policy_mtp_forward(policy,
                                     &(struct policy_mtp_args){.target_rows = batch.mtp_rows,
                                                               .targets = batch.mtp_targets,
                                                               .n_targets = batch.n_mtp},
                                     out->mtp_logp));
        assert_ok(policy_mtp_backward(policy, batch.mtp_g));
    }
    assert_ok(policy_backward(policy, batch.g, batch.h));
    assert_ok(policy_finish_gradients(policy));
}

static void check_gone(struct policy *policy)
{
    const size_t n = policy->table->n_floats * sizeof(float);
    const size_t n_rows = policy->buffer_bytes - policy->lasting_bytes;

    assert_true(n >= MEMORY_HUGE_BYTES && n_rows >= MEMORY_HUGE_BYTES);
    assert_in_range(policy_memory(policy).resting, n + n_rows, 2 * n + n_rows); /* a tied head's */
    assert_true(support_resident_bytes(policy->gradients, n) <= 2 * PAGE);
    assert_true(support_resident_bytes((char *)policy->buffers + policy->lasting_bytes, n_rows) <=
                2 * PAGE);
}

static void check_rests(bool recomputes)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = large_policy(backend, recomputes);
    const size_t n = policy_table(policy)->n_floats * sizeof(float);
    struct outcome want, got;
    float *gradients;

    assert_ok(memory_alloc(n, 1, &gradients));
    learn(policy, &want);
    memcpy(gradients, policy_gradients(policy), n);
    for (size_t i = 0; i < 2; i++) {
        policy_rest(policy);
        check_gone(policy);
        learn(policy, &got);
        assert_memory_equal(&want, &got, sizeof(want));
        assert_memory_equal(policy_gradients(policy), gradients, n);
    }
    assert_true(support_resident_bytes(policy->gradients, n) >= n / 4);
    memory_free(gradients);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_rest_gives_memory_back_and_changes_no_bit(void **state)
{
    static const unsigned kinds[] = {0, VARIANT_LLAMA | VARIANT_TIED};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        variant = kinds[i];
        set_profile(i);
        check_rests(i == 1);
    }
    variant = 0;
    set_profile(0);
}

static void nobody_goes_back_over_a_pass_before_the_rest(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, true);
    static float logp[MAX_ROWS];
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    forward(policy, &batch, 0, N_SEQUENCES, plain, logp, NULL);
    policy_rest(policy);
    assert_status(policy_backward(policy, batch.g, NULL), STATUS_BAD_ARGUMENT, "forward");
    assert_status(policy_mtp_backward(policy, batch.mtp_g), STATUS_BAD_ARGUMENT, "forward");
    policy_destroy(policy);
    backend_close(backend);
}

static bool are_zeros(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (values[i] != 0) {
            return false;
        }
    }
    return true;
}

/* A rest of what is small costs nothing and gives nothing: clearing is still to be done. */
static void gradients_are_cleared_whoever_wrote_them(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *small = make_policy(backend, true), *large = large_policy(backend, true);
    struct policy *const policies[] = {small, large};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const size_t n = policy_table(policies[i])->n_floats;

        policy_gradients(policies[i])[n - 1] = 1;
        policy_rest(policies[i]);
        assert_int_equal(policies[i]->gradients[n - 1] == 0, i == 1);
        assert_ok(policy_clear_gradients(policies[i]));
        assert_true(are_zeros(policies[i]->gradients, n));
        policy_rest(policies[i]);
        policy_gradients(policies[i])[0] = 1; /* behind the rest */
        assert_ok(policy_clear_gradients(policies[i]));
        assert_true(are_zeros(policies[i]->gradients, n));
    }
    policy_destroy(large);
    policy_destroy(small);
    backend_close(backend);
}

static void a_large_cache_gives_its_pages_back(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, false);
    struct policy_cache *cache = NULL;
    const size_t n = CACHE_PAGES * policy_cache_page_bytes(policy);

    (void)state;
    assert_true(n >= MEMORY_HUGE_BYTES);
    assert_ok(policy_cache_create(policy, CACHE_PAGES, &cache));
    memset(cache->data, 7, n);
    assert_true(support_resident_bytes(cache->data, n) >= n - 2 * PAGE);
    assert_true(policy_cache_rest(cache));
    assert_true(support_resident_bytes(cache->data, n) <= 2 * PAGE);
    assert_true(are_zeros(cache->data, n / sizeof(float)));
    policy_cache_destroy(cache);
    assert_ok(policy_cache_create(policy, 4, &cache)); /* small: it stays */
    cache->data[0] = 7;
    assert_false(policy_cache_rest(cache));
    assert_true(cache->data[0] == 7);
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rest_gives_memory_back_and_changes_no_bit),
        cmocka_unit_test(nobody_goes_back_over_a_pass_before_the_rest),
        cmocka_unit_test(gradients_are_cleared_whoever_wrote_them),
        cmocka_unit_test(a_large_cache_gives_its_pages_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
