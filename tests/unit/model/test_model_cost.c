/* What a model costs: parameters as published, and work and memory of a token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model_config.h"
#include "model/model_cost.h"
#include "tests/support/support.h"

#include <math.h>

static void parameters_are_counted_like_the_published_ones(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(model_config_preset("small", &config));
    /* cpu.md 4: 8.5 M parameters, 3.91 M active (embeddings and biases beside) */
    assert_in_range(model_config_parameters(&config), 8450000, 8550000);
    assert_in_range(model_config_active_parameters(&config), 3900000, 3930000);
    assert_ok(model_config_preset("medium", &config));
    assert_in_range(model_config_parameters(&config), 683000000, 685000000);
    assert_in_range(model_config_active_parameters(&config), 165500000, 166500000);
}

static void costs_of_a_token_are_those_of_the_roofline(void **state)
{
    struct model_config config;

    (void)state;
    assert_ok(model_config_preset("small", &config));
    /* cpu.md 4: 9.1 Mflop a decoded token at context 128, 10.2 kflop a key, 8.2 Mflop a row of a
     * packed batch of sequences of 128; 29.8 MB of weights touched by 64 rows */
    assert_in_range((size_t)model_forward_flops(&config, 128, true, true), 9100000, 9200000);
    assert_int_equal((size_t)(model_forward_flops(&config, 129, true, true) -
                              model_forward_flops(&config, 128, true, true)),
                     10240);
    assert_in_range((size_t)model_forward_flops(&config, 64.5, false, true), 8200000, 8300000);
    assert_in_range((size_t)model_weight_bytes(&config, 64, 4, 4), 29500000, 30000000);
    assert_in_range((size_t)model_weight_bytes(&config, 1, 4, 4), 15500000, 15800000);
    /* codes of one byte and a head of two */
    assert_int_equal(
        (size_t)(4 * model_weight_bytes(&config, 1, 1, 2) - model_weight_bytes(&config, 1, 4, 4)),
        4 * 4096 * 256);
    assert_int_equal((size_t)model_cache_bytes(&config, 128, PRECISION_F32), 4 * 96 * 128 * 4);
    assert_int_equal((size_t)model_cache_bytes(&config, 128, PRECISION_BF16), 4 * 96 * 128 * 2);
    assert_int_equal((size_t)model_cache_bytes(&config, 128, PRECISION_FP8),
                     4 * (64 + 1 + 2 * 32) * 128);
    /* 3 rows behind 2, one of them with the head */
    assert_true(fabs(model_span_keys(2, 3) - 12.0) < 1e-9);
    assert_true(fabs(model_work_flops(&config, &(struct model_work){3, 12, 1}, true) -
                     (model_forward_flops(&config, 3, true, false) +
                      model_forward_flops(&config, 4, true, false) +
                      model_forward_flops(&config, 5, true, true))) < 1);
    assert_true(model_work_flops(&config, &(struct model_work){0, 0, 0}, true) <= 0);
    assert_ok(model_config_preset("llama", &config));
    assert_int_equal((size_t)model_cache_bytes(&config, 1, PRECISION_F32),
                     config.n_layers * 2 * config.n_kv_heads * config.head_dim * 4);
    assert_int_equal((size_t)model_cache_bytes(&config, 1, PRECISION_FP8),
                     config.n_layers * 2 * config.n_kv_heads * (config.head_dim + 1));
    assert_true(model_forward_flops(&config, 2, true, true) >
                model_forward_flops(&config, 1, true, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_counted_like_the_published_ones),
        cmocka_unit_test(costs_of_a_token_are_those_of_the_roofline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
