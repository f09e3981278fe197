/* Frequencies of rotary positions: golden values of YaRN, and the edges of its ramp. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model_config.h"
#include "model/rope_table.h"
#include "tests/support/support.h"

#include <math.h>

/* DeepSeek-V3's rotary settings, and Kimi-K2's. */
static struct model_config yarn_config(double theta, double factor, double fast, double slow)
{
    return (struct model_config){.qk_nope_head_dim = 128,
                                 .qk_rope_head_dim = 64,
                                 .rope_theta = theta,
                                 .rope = {.kind = ROPE_YARN,
                                          .factor = factor,
                                          .beta_fast = fast,
                                          .beta_slow = slow,
                                          .mscale = 1,
                                          .mscale_all_dim = 1,
                                          .original_max_positions = 4096,
                                          .truncate = true}};
}

static void yarn_frequencies_match_the_golden_values(void **state)
{
    static const size_t v3_pairs[] = {1, 10, 11, 19, 20, 23, 31};
    static const double v3[] = {0.749894209,    0.0562341325,   0.0390069266,  0.00137051364,
                                0.000790569415, 3.33380358e-05, 3.33380358e-06};
    static const size_t kimi_pairs[] = {1, 10, 19, 20, 31};
    static const double kimi[] = {0.713111085, 0.0340072782, 0.00162175991, 3.61404677e-05,
                                  8.76441291e-07};
    const struct model_config deepseek = yarn_config(1e4, 40, 32, 1);
    const struct model_config k2 = yarn_config(5e4, 32, 1, 1);

    (void)state;
    for (size_t i = 0; i < 7; i++) {
        assert_true(fabs(rope_frequency(&deepseek, v3_pairs[i]) / v3[i] - 1) < 1e-8);
    }
    for (size_t i = 0; i < 5; i++) {
        assert_true(fabs(rope_frequency(&k2, kimi_pairs[i]) / kimi[i] - 1) < 1e-8);
    }
    assert_true(fabs((double)model_config_attention_scale(&deepseek) - 0.13523378) < 1e-8);
    assert_true(fabs((double)model_config_attention_scale(&k2) - 0.13086080) < 1e-8);
    assert_true(rope_attention_factor(&deepseek) == 1);
}

static void the_ramp_has_its_edge_cases(void **state)
{
    struct model_config config = yarn_config(1e4, 4, 32, 1);
    float cosine[4], sine[4];

    (void)state;
    config.rope.attention_factor = 1.5;
    assert_true(rope_attention_factor(&config) == 1.5);
    config.rope.attention_factor = 0;
    config.rope.mscale = 0; /* only one given: the plain factor */
    assert_true(fabs(rope_attention_factor(&config) - (0.1 * log(4) + 1)) < 1e-12);
    config.rope.original_max_positions = 6; /* lo = hi = 0: a step behind pair 0 */
    assert_true(rope_frequency(&config, 0) == 1);
    assert_true(fabs(rope_frequency(&config, 1) / (pow(1e4, -1.0 / 32) / 4) - 1) < 1e-12);
    config.rope.truncate = false;
    config.rope.original_max_positions = 4096;
    assert_true(rope_frequency(&config, 5) > rope_frequency(&config, 6));

    config = (struct model_config){.qk_rope_head_dim = 4, .rope_theta = 100};
    rope_table_fill(&config, 2, cosine, sine);
    assert_true(cosine[0] == 1 && sine[0] == 0);
    assert_true(cosine[3] == (float)cos(0.1) && sine[3] == (float)sin(0.1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(yarn_frequencies_match_the_golden_values),
        cmocka_unit_test(the_ramp_has_its_edge_cases),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
