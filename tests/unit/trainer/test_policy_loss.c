/* The policy loss: the rows of grpo.md 18.2 and 18.3, masks, aggregation, refusals, and the
 * gradient against finite differences of the value for every loss_type x kl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "tests/support/support.h"
#include "trainer/policy_loss.h"

#include <math.h>

#define TOKENS 12
#define SEQUENCES 4

static const struct loss_totals one_token = {1, 1, 1};

/* Loss and gradient of a single token with weight 1. */
static double loss_of(const struct loss_options *options, float logp, float old_logp,
                      const float *ref_logp, float advantage, float *g)
{
    struct loss_stats stats;
    const struct loss_sequence sequence = {
        .logp = &logp, .old_logp = &old_logp, .ref_logp = ref_logp, .n = 1, .advantage = advantage};
    assert_ok(loss_sequence_gradient(options, &one_token, &sequence, g, &stats));
    return stats.loss;
}

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) <= 2e-6 * (1.0 + fabs(want)))) {
        fail_msg("%.9g, wanted %.9g", got, want);
    }
}

static void clipping_gives_the_golden_rows(void **state)
{
    static const struct {
        float logp, old_logp, advantage;
        double loss, g;
    } rows[] = {
        {-1.0F, -1.5F, 1.0F, -1.280000, 0.0},      {-1.0F, -1.2F, 1.0F, -1.221403, -1.221403},
        {-2.0F, -1.5F, -1.0F, 0.800000, 0.0},      {-1.5F, -1.6F, -1.0F, 1.105171, 1.105171},
        {-0.5F, -2.0F, -1.0F, 4.481689, 4.481689},
    };
    const struct loss_options options = {.type = LOSS_DAPO, .epsilon = 0.2, .epsilon_high = 0.28};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        float g = 0.0F;
        assert_near(loss_of(&options, rows[i].logp, rows[i].old_logp, NULL, rows[i].advantage, &g),
                    rows[i].loss);
        assert_near((double)g, rows[i].g);
    }
}

static void kl_estimators_give_the_golden_rows(void **state)
{
    static const struct {
        float logp, old_logp, ref_logp;
        double k3, dk3, k3u, dk3u;
    } rows[] = {
        {-1.0F, -1.2F, -0.7F, 0.049859, -0.349859, 0.060898, -0.366421},
        {-3.0F, -2.5F, -0.5F, 8.682494, -11.182494, 5.266199, -1.516327},
    };
    struct loss_options options = {
        .type = LOSS_DAPO, .epsilon = 0.2, .epsilon_high = 0.28, .beta = 1.0};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        float g = 0.0F;
        options.kl = KL_K3;
        assert_near(loss_of(&options, rows[i].logp, rows[i].old_logp, &rows[i].ref_logp, 0.0F, &g),
                    rows[i].k3);
        assert_near((double)g, rows[i].dk3);
        options.kl = KL_K3U;
        assert_near(loss_of(&options, rows[i].logp, rows[i].old_logp, &rows[i].ref_logp, 0.0F, &g),
                    rows[i].k3u);
        assert_near((double)g, rows[i].dk3u);
    }
}

/* TRL's variants coincide at ratio 1: g = -A, and without old_logp the ratio is 1. */
static void on_policy_the_gradient_is_minus_the_advantage(void **state)
{
    const struct loss_options options = {.type = LOSS_DAPO, .epsilon = 0.2, .epsilon_high = 0.28};
    const float logp[2] = {-0.3F, -4.0F};
    const struct loss_sequence sequence = {.logp = logp, .n = 2, .advantage = 1.5F};
    const struct loss_totals totals = {1, 1, 2};
    struct loss_stats stats;
    float g[2];
    (void)state;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_true(g[0] == -0.75F && g[1] == -0.75F);
    assert_true(stats.loss == -1.5 && stats.ratio_max == 1.0);
    assert_int_equal(stats.n_clipped_low + stats.n_clipped_high, 0);
}

static void clipped_tokens_are_counted_by_side(void **state)
{
    const struct loss_options options = {.type = LOSS_DAPO, .epsilon = 0.2, .epsilon_high = 0.28};
    const float logp[4] = {-1.0F, -1.0F, -1.0F, -1.0F};
    const float old_logp[4] = {-2.0F, -0.5F, -1.0F, -2.0F};
    const bool mask[4] = {true, true, true, false};
    struct loss_sequence sequence = {
        .logp = logp, .old_logp = old_logp, .mask = mask, .n = 4, .advantage = 1.0F};
    const struct loss_totals totals = {1, 1, 3};
    struct loss_stats stats;
    float g[4];
    (void)state;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_int_equal(stats.n_clipped_high, 1);
    assert_int_equal(stats.n_clipped_low, 0);
    assert_int_equal(stats.n_active, 3);
    assert_true(g[0] == 0.0F && g[1] < 0.0F && g[3] == 0.0F);
    assert_true(stats.ratio_max > 2.7 && stats.ratio_max < 2.72);
    sequence.advantage = -1.0F;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_int_equal(stats.n_clipped_high, 0);
    assert_int_equal(stats.n_clipped_low, 1);
    assert_true(g[0] > 2.7F / 3.0F && g[1] == 0.0F);
}

static void masked_tokens_get_nothing_whatever_they_hold(void **state)
{
    const struct loss_options options = {.type = LOSS_GRPO, .epsilon = 0.2, .epsilon_high = 0.2};
    const float logp[3] = {-1.0F, NAN, -1.0F};
    const bool one_masked[3] = {true, false, true};
    const bool all_masked[3] = {false, false, false};
    const struct loss_totals totals = {2, 1, 2};
    struct loss_sequence sequence = {.logp = logp, .mask = one_masked, .n = 3, .advantage = 1.0F};
    struct loss_stats stats;
    float g[3] = {9, 9, 9};
    (void)state;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_true(g[0] == -0.5F && g[1] == 0.0F && g[2] == -0.5F);
    sequence.mask = all_masked;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_true(g[0] == 0.0F && g[1] == 0.0F && g[2] == 0.0F && stats.loss == 0.0);
    assert_int_equal(loss_active_tokens(&sequence), 0);
}

static void refuse(const float *logp, const float *old_logp, const float *ref_logp)
{
    const struct loss_options options = {
        .type = LOSS_DAPO, .epsilon = 0.2, .epsilon_high = 0.2, .beta = 0.1};
    const struct loss_totals totals = {1, 1, 2};
    const struct loss_sequence sequence = {
        .logp = logp, .old_logp = old_logp, .ref_logp = ref_logp, .n = 2, .advantage = 1.0F};
    struct loss_stats stats;
    float g[2];
    assert_status(loss_sequence_gradient(&options, &totals, &sequence, g, &stats), STATUS_NUMERICS,
                  "token 1");
}

static void what_is_not_finite_is_refused(void **state)
{
    const float good[2] = {-1.0F, -2.0F};
    const float is_nan[2] = {-1.0F, NAN};
    const float is_infinite[2] = {-1.0F, -INFINITY};
    (void)state;
    refuse(is_nan, good, good);
    refuse(is_infinite, good, good);
    refuse(good, is_nan, good);
    refuse(good, is_infinite, good);
    refuse(good, good, is_nan);
    refuse(good, good, is_infinite);
}

static void aggregation_weights_are_those_of_the_whole_update(void **state)
{
    const float logp[3] = {-1, -1, -1};
    const struct loss_sequence sequence = {.logp = logp, .n = 3, .advantage = -1.0F};
    const struct loss_totals totals = {.n_sequences = 5, .n_active_sequences = 4, .n_tokens = 32};
    struct loss_options options = {
        .epsilon = 0.2, .epsilon_high = 0.2, .max_completion_length = 10};
    struct loss_stats stats;
    float g[3];
    (void)state;
    options.type = LOSS_GRPO;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_near((double)g[0], 1.0 / 12.0);
    options.type = LOSS_DAPO;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_near((double)g[1], 1.0 / 32.0);
    options.type = LOSS_DR_GRPO;
    assert_ok(loss_sequence_gradient(&options, &totals, &sequence, g, &stats));
    assert_near((double)g[2], 1.0 / 50.0);
    assert_near(stats.loss, 3.0 / 50.0);
}

/* Sequences with random lengths, masks, advantages and ratios in [0.3, 4], away from the kinks. */
struct random_update {
    float logp[SEQUENCES][TOKENS], old_logp[SEQUENCES][TOKENS], ref_logp[SEQUENCES][TOKENS];
    bool mask[SEQUENCES][TOKENS];
    size_t n[SEQUENCES];
    float advantage[SEQUENCES];
    struct loss_totals totals;
};

static double draw(uint32_t *counter, double low, double high)
{
    return low + (high - low) * (double)random_uniform(41, RANDOM_TEST, 0, (*counter)++);
}

static void make_update(struct random_update *u)
{
    uint32_t counter = 0;
    *u = (struct random_update){.totals = {.n_sequences = SEQUENCES}};
    for (size_t i = 0; i < SEQUENCES; i++) {
        u->n[i] = 3 + (size_t)draw(&counter, 0, TOKENS - 3);
        u->advantage[i] = (float)draw(&counter, -2, 2);
        size_t n_active = 0;
        for (size_t t = 0; t < u->n[i]; t++) {
            double ratio = draw(&counter, 0.3, 4.0);
            ratio += fabs(ratio - 0.8) < 0.02 || fabs(ratio - 1.28) < 0.02 ? 0.05 : 0.0;
            u->logp[i][t] = (float)draw(&counter, -4, -0.1);
            u->old_logp[i][t] = (float)((double)u->logp[i][t] - log(ratio));
            u->ref_logp[i][t] = (float)draw(&counter, -4, -0.1);
            u->mask[i][t] = i != 2 && draw(&counter, 0, 1) < 0.8; /* sequence 2 is all masked */
            n_active += u->mask[i][t] ? 1 : 0;
        }
        u->totals.n_tokens += n_active;
        u->totals.n_active_sequences += n_active > 0 ? 1 : 0;
    }
}

static double sequence_loss(const struct random_update *u, const struct loss_options *options,
                            size_t i, float *g)
{
    struct loss_stats stats;
    const struct loss_sequence sequence = {.logp = u->logp[i],
                                           .old_logp = u->old_logp[i],
                                           .ref_logp = u->ref_logp[i],
                                           .mask = u->mask[i],
                                           .n = u->n[i],
                                           .advantage = u->advantage[i]};
    assert_ok(loss_sequence_gradient(options, &u->totals, &sequence, g, &stats));
    return stats.loss;
}

/* (loss(l + h) - loss(l - h)) / 2h; the inputs are floats, so the step is what was really added. */
static double difference_at(struct random_update *u, const struct loss_options *options, size_t i,
                            size_t t)
{
    float unused[TOKENS];
    const float middle = u->logp[i][t];
    const float low = middle - 0.001F;
    const float high = middle + 0.001F;
    u->logp[i][t] = high;
    double difference = sequence_loss(u, options, i, unused);
    u->logp[i][t] = low;
    difference -= sequence_loss(u, options, i, unused);
    u->logp[i][t] = middle;
    return difference / ((double)high - (double)low);
}

static void check_sequence(struct random_update *u, const struct loss_options *options, size_t i)
{
    float g[TOKENS] = {0};
    (void)sequence_loss(u, options, i, g);
    for (size_t t = 0; t < u->n[i]; t++) {
        const double want = difference_at(u, options, i, t);
        if (fabs((double)g[t] - want) > 1e-5 + 1e-4 * fabs(want)) {
            fail_msg("loss %d kl %d sequence %zu token %zu: gradient %.8g, differences %.8g",
                     (int)options->type, (int)options->kl, i, t, (double)g[t], want);
        }
    }
}

static void check_differences(struct random_update *u, const struct loss_options *options)
{
    for (size_t i = 0; i < SEQUENCES; i++) {
        check_sequence(u, options, i);
    }
}

static void gradients_agree_with_finite_differences(void **state)
{
    static const enum loss_type types[] = {LOSS_GRPO, LOSS_DAPO, LOSS_DR_GRPO};
    static const enum kl_estimator estimators[] = {KL_K3, KL_K3U};
    struct random_update u;
    (void)state;
    make_update(&u);
    for (size_t a = 0; a < 3; a++) {
        for (size_t b = 0; b < 2; b++) {
            struct loss_options options = {.type = types[a],
                                           .epsilon = 0.2,
                                           .epsilon_high = 0.28,
                                           .kl = estimators[b],
                                           .max_completion_length = TOKENS};
            check_differences(&u, &options);
            options.beta = 0.3;
            check_differences(&u, &options);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clipping_gives_the_golden_rows),
        cmocka_unit_test(kl_estimators_give_the_golden_rows),
        cmocka_unit_test(on_policy_the_gradient_is_minus_the_advantage),
        cmocka_unit_test(clipped_tokens_are_counted_by_side),
        cmocka_unit_test(masked_tokens_get_nothing_whatever_they_hold),
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(aggregation_weights_are_those_of_the_whole_update),
        cmocka_unit_test(gradients_agree_with_finite_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
