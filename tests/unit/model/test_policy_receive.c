/* Weights that come piece by piece: packed as they come, given back once packed, the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_outcome.h"

#include <string.h>

static struct policy_options options_of(bool drops_weights)
{
    return (struct policy_options){.max_rows = MAX_ROWS,
                                   .max_draws = MAX_ROWS,
                                   .n_drafts = 2,
                                   .precision = precision,
                                   .cache = cache_precision,
                                   .drops_weights = drops_weights};
}

static struct policy *make(struct backend *backend, bool drops_weights)
{
    return make_variant(backend, options_of(drops_weights));
}

/* Weights of another seed each time. */
static void write_weights(struct policy *policy, uint64_t seed)
{
    const struct model_config *config = policy_config(policy);

    weights_init(config, policy_table(policy), seed, policy_weights(policy));
    fill_biases(policy);
}

/* Copies weights over in pieces of n floats, taking each. */
static void send(struct policy *from, struct policy *to, size_t n)
{
    const size_t n_floats = policy_table(to)->n_floats;
    const float *weights = policy_weights(from);

    policy_begin_weights(to);
    for (size_t i = 0; i < n_floats; i += n) {
        const size_t count = n_floats - i < n ? n_floats - i : n;

        memcpy(policy_weights(to) + i, weights + i, count * sizeof(float));
        assert_ok(policy_take_weights(to, i + count));
    }
}

static void check_pieces(void)
{
    static const size_t pieces[] = {1000, 4096, SIZE_MAX / 2};
    struct backend *backend = open_backend("cpu", 2);
    struct policy *whole = make(backend, false);
    struct policy *received = make(backend, true);

    for (size_t i = 0; i < 3; i++) { /* a version after the other */
        write_weights(whole, 7 + i);
        assert_ok(policy_refresh(whole));
        send(whole, received, pieces[i]);
        compare_policies(whole, received);
    }
    policy_destroy(received);
    policy_destroy(whole);
    backend_close(backend);
}

static void weights_that_come_in_pieces_are_those_that_came_whole(void **state)
{
    (void)state;
    for_all(check_pieces);
}

static void refreshing_drops_them_too(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *whole = make(backend, false), *dropping = make(backend, true);

    (void)state;
    for (uint64_t seed = 1; seed < 3; seed++) {
        write_weights(whole, seed);
        write_weights(dropping, seed);
        assert_ok(policy_refresh(whole));
        assert_ok(policy_refresh(dropping));
        compare_policies(whole, dropping);
    }
    policy_destroy(dropping);
    policy_destroy(whole);
    backend_close(backend);
}

static void what_is_told_to_stay_is_what_stays(void **state)
{
    const struct policy_options options = {.max_rows = 8, .max_draws = 1, .drops_weights = true};
    struct backend *backend = open_backend("cpu", 1);
    struct policy_memory memory;
    struct model_config config;
    struct policy *policy;

    (void)state;
    assert_ok(model_config_preset("small", &config));
    assert_ok(policy_create(backend, &config, &options, &policy));
    memory = policy_memory(policy);

    const size_t all = policy_table(policy)->n_floats * sizeof(float);

    assert_true(memory.weights < all / 4 && memory.arriving > 0 && memory.arriving < all / 4);
    weights_init(&config, policy_table(policy), 1, policy_weights(policy));

    const size_t before = support_memory().resident;

    assert_ok(policy_refresh(policy)); /* packed copies come, the rest goes */
    assert_true(support_memory().resident + all * 3 / 4 < before + memory.packed + all / 16);
    policy_destroy(policy);
    backend_close(backend);
}

static void one_that_learns_keeps_its_weights(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy_options options = options_of(true);
    struct model_config config;
    struct policy *policy;

    (void)state;
    options.is_trainable = true;
    variant_config(&config);
    assert_status(policy_create(backend, &config, &options, &policy), STATUS_BAD_ARGUMENT,
                  "learns");
    assert_null(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_that_come_in_pieces_are_those_that_came_whole),
        cmocka_unit_test(refreshing_drops_them_too),
        cmocka_unit_test(what_is_told_to_stay_is_what_stays),
        cmocka_unit_test(one_that_learns_keeps_its_weights),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
