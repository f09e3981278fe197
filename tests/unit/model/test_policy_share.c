/* Weights that lie where others read them: a policy that borrows them computes the same bits,
 * cannot write them, and pays nothing for its own meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/model/policy_outcome.h"

#include <string.h>

static struct policy_options options_of(bool learns)
{
    return (struct policy_options){.max_rows = MAX_ROWS,
                                   .max_draws = MAX_ROWS,
                                   .precision = precision,
                                   .unquantised = unquantised,
                                   .cache = cache_precision,
                                   .is_trainable = learns,
                                   .shares_weights = learns,
                                   .drops_weights = !learns};
}

static struct policy *make(struct backend *backend, bool learns)
{
    return make_variant(backend, options_of(learns));
}

static void write_weights(struct policy *policy, uint64_t seed)
{
    weights_init(policy_config(policy), policy_table(policy), seed, policy_weights(policy));
    fill_biases(policy);
    assert_ok(policy_refresh(policy));
}

/* Through a mapping that another process would have: whoever writes there ends. */
static void borrow(const struct policy_share *share, struct policy *reader,
                   struct shared_memory **mapping)
{
    const struct shared_memory_name name = shared_memory_name(share->memory);

    assert_ok(shared_memory_attach(&name, mapping));
    char *const data = shared_memory_data(*mapping);
    policy_borrow_weights(reader, (float *)(void *)(data + share->weights_at),
                          (float *)(void *)(data + share->packed_at));
}

static void check_borrowing(void)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *owner = make(backend, true), *reader = make(backend, false);
    const struct policy_share share = policy_share(owner);
    struct digest128 packing[2];
    struct shared_memory *mapping;

    assert_non_null(share.memory);
    assert_ok(policy_packing(owner, &packing[0]));
    assert_ok(policy_packing(reader, &packing[1]));
    assert_memory_equal(&packing[0], &packing[1], sizeof(packing[0]));
    borrow(&share, reader, &mapping);
    assert_ok(policy_packing(reader, &packing[1])); /* whatever it reads just now */
    assert_memory_equal(&packing[0], &packing[1], sizeof(packing[0]));
    for (uint64_t seed = 1; seed < 3; seed++) {
        write_weights(owner, seed);
        compare_policies(owner, reader);
    }
    policy_destroy(reader);
    shared_memory_close(mapping);
    policy_destroy(owner);
    backend_close(backend);
}

static void a_borrower_computes_what_the_owner_does(void **state)
{
    (void)state;
    for_all(check_borrowing);
}

static void what_is_borrowed_is_returned_for_weights_of_its_own(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *owner = make(backend, true), *reader = make(backend, false);
    const struct policy_share share = policy_share(owner);
    const float *const own = policy_weights(reader);
    struct shared_memory *mapping;

    (void)state;
    write_weights(owner, 1);
    write_weights(reader, 2);
    borrow(&share, reader, &mapping);
    assert_ptr_not_equal(policy_weights(reader), own);
    compare_policies(owner, reader);
    policy_begin_weights(reader); /* others come */
    assert_ptr_equal(policy_weights(reader), own);
    shared_memory_close(mapping);
    write_weights(owner, 3);
    write_weights(reader, 3);
    compare_policies(owner, reader);
    policy_return_weights(reader); /* nothing is borrowed: nothing happens */
    compare_policies(owner, reader);
    policy_destroy(reader);
    policy_destroy(owner);
    backend_close(backend);
}

/* Packed copies lie otherwise in another precision, and may for other instructions. */
static void another_form_has_another_digest(void **state)
{
    static const enum precision forms[] = {PRECISION_F32, PRECISION_BF16, PRECISION_FP8};
    struct digest128 digests[4];

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct backend *backend = open_backend(i < 3 ? "cpu" : "cpu-portable", 1);
        precision = i < 3 ? forms[i] : PRECISION_F32;
        struct policy *policy = make(backend, false);

        assert_ok(policy_packing(policy, &digests[i]));
        for (size_t j = 0; j < i; j++) {
            assert_memory_not_equal(&digests[i], &digests[j], sizeof(digests[i]));
        }
        policy_destroy(policy);
        backend_close(backend);
    }
    precision = PRECISION_F32;
}

static void own_weights_cost_nothing_while_others_are_borrowed(void **state)
{
    const struct policy_options learning = {
        .max_rows = 8, .max_draws = 1, .is_trainable = true, .shares_weights = true};
    const struct policy_options sampling = {.max_rows = 8, .max_draws = 1, .drops_weights = true};
    struct backend *backend = open_backend("cpu", 1);
    struct policy *owner, *reader;
    struct model_config config;

    (void)state;
    assert_ok(model_config_preset("small", &config));
    assert_ok(policy_create(backend, &config, &learning, &owner));
    assert_ok(policy_create(backend, &config, &sampling, &reader));
    weights_init(&config, policy_table(reader), 1, policy_weights(reader));
    assert_ok(policy_refresh(reader));

    const struct policy_memory memory = policy_memory(reader);
    const struct policy_share share = policy_share(owner);
    char *const data = shared_memory_data(share.memory);
    const size_t before = support_memory().resident;

    assert_true(shared_memory_bytes() >= memory.packed + policy_table(owner)->n_floats * 4);
    policy_borrow_weights(reader, (float *)(void *)(data + share.weights_at),
                          (float *)(void *)(data + share.packed_at));
    assert_true(support_memory().resident + (memory.packed + memory.weights) * 9 / 10 < before);
    policy_destroy(reader);
    policy_destroy(owner);
    assert_int_equal(shared_memory_bytes(), 0);
    backend_close(backend);
}

static void only_who_is_asked_shares(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make(backend, false);

    (void)state;
    assert_null(policy_share(policy).memory);
    assert_int_equal(shared_memory_bytes(), 0);
    policy_destroy(policy);
    backend_close(backend);
}

static enum status make_shared(void *context)
{
    const struct policy_options options = options_of(true);
    struct model_config config;
    struct policy *policy;

    variant_config(&config);
    TRY(policy_create(context, &config, &options, &policy));
    policy_destroy(policy);
    return STATUS_OK;
}

/* Without memory for the block's handle the weights are the policy's own. */
static void every_allocation_may_fail(void **state)
{
    struct backend *backend = open_backend("cpu", 1);

    (void)state;
    log_setup("test", LOG_ERROR); /* it is warned of */
    assert_true(support_fail_allocations(make_shared, backend) > 3);
    assert_int_equal(shared_memory_bytes(), 0);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_borrower_computes_what_the_owner_does),
        cmocka_unit_test(what_is_borrowed_is_returned_for_weights_of_its_own),
        cmocka_unit_test(another_form_has_another_digest),
        cmocka_unit_test(own_weights_cost_nothing_while_others_are_borrowed),
        cmocka_unit_test(only_who_is_asked_shares),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
