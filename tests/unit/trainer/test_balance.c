/* Balance of experts in training: both the losses and the bias rule even out a lopsided router; the
 * losses' bits depend neither on micro-batches nor on threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "tests/unit/trainer/tiny_learner.h"
#include "trainer/balance.h"

#include <math.h>

#define N_EXPERTS ((size_t)8)
#define N_STEPS ((size_t)40)

/* What evens the load out. */
struct rule {
    const char *name;
    bool has_softmax;
    enum router_aux_loss loss;
    double coef, bias_update;
};

/* A direction that every embedding shares and the first two experts of each router look for. */
static float shared_direction(size_t i)
{
    return i % 2 == 0 ? 1.0F : -1.0F;
}

static void add_direction(float *row, size_t d, float scale)
{
    for (size_t i = 0; i < d; i++) {
        row[i] += scale * shared_direction(i);
    }
}

/* Makes the first two experts of every layer take nearly all. */
static void make_lopsided(struct policy *policy)
{
    const struct weight_table *table = policy_table(policy);
    const struct model_config *model = policy_config(policy);
    const size_t d = model->hidden_size;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        float *at = policy_weights(policy) + row->offset;

        if (strstr(row->name, "embed_tokens") != NULL) {
            for (size_t v = 0; v < model->vocab_size; v++) {
                add_direction(at + v * d, d, 0.05F);
            }
        } else if (strstr(row->name, "mlp.gate.weight") != NULL) {
            add_direction(at, d, 0.1F);
            add_direction(at + d, d, 0.1F);
        }
    }
    assert_ok(policy_refresh(policy));
}

/* A tiny model of eight experts, two a token, without groups. */
static void open_lopsided(struct tiny *tiny, const struct rule *rule, size_t n_threads,
                          size_t micro_batch_tokens)
{
    struct model_config model;

    tiny_configure(&tiny->config, micro_batch_tokens);
    tiny->config.model.router_aux_loss = rule->loss;
    tiny->config.model.router_aux_loss_coef = rule->coef;
    tiny->config.model.router_bias_update = rule->bias_update;
    tiny->config.optim.max_grad_norm = 0.0;
    const struct learner_options options = grpo_learner_options(&tiny->config);
    const struct policy_options sizes = {
        .max_rows = learner_max_rows(&options), .max_draws = 1, .is_trainable = true};
    assert_ok(model_config_preset("tiny", &model));
    model.n_layers++;
    model.n_experts = N_EXPERTS;
    model.n_groups = 1;
    model.top_groups = 1;
    model.has_softmax_router = rule->has_softmax;
    assert_ok(backend_open("cpu", n_threads, &tiny->backend));
    assert_ok(policy_create(tiny->backend, &model, &sizes, &tiny->policy));
    weights_init(&model, policy_table(tiny->policy), 5, policy_weights(tiny->policy));
    make_lopsided(tiny->policy);
    assert_ok(learner_create(tiny->backend, tiny->policy, &options, &tiny->learner));
}

/* One update and the bias rule behind it, as the trainers do. Returns the violation before it. */
static double learn(struct tiny *tiny, const struct tiny_step *step, struct arena *arena,
                    struct update_stats *stats)
{
    uint32_t *counts = NULL;
    double violation = 0.0;
    size_t n_dead = 0;

    arena_reset(arena);
    assert_ok(balance_counts_alloc(tiny->policy, arena, &counts));
    const struct update_args args = {.sequences = step->sequences,
                                     .n = TINY_SAMPLES,
                                     .learning_rate = 1e-3,
                                     .gradient = tiny_likelihood,
                                     .expert_counts = counts};
    assert_ok(learner_update(tiny->learner, &args, stats));
    balance_measure(tiny->policy, counts, &violation, &n_dead);
    policy_update_router_bias(tiny->policy, counts, (float)tiny->config.model.router_bias_update);
    return violation;
}

struct course {
    double first, last, loss_first, loss_last;
};

static struct course train(const struct rule *rule)
{
    static struct tiny_step step;
    struct tiny tiny;
    struct arena *arena = NULL;
    struct update_stats stats;
    struct course course = {0};

    assert_ok(arena_create(4096, &arena));
    open_lopsided(&tiny, rule, 1, 64);
    tiny_step_make(&tiny, &step);
    for (size_t i = 0; i < N_STEPS; i++) {
        course.last = learn(&tiny, &step, arena, &stats);
        course.loss_last = stats.balance_loss;
        if (i == 0) {
            course.first = course.last;
            course.loss_first = course.loss_last;
        }
    }
    tiny_close(&tiny);
    arena_destroy(arena);
    print_message("%-26s max/mean - 1 %.3f -> %.3f, loss %.4f -> %.4f\n", rule->name, course.first,
                  course.last, course.loss_first, course.loss_last);
    return course;
}

static void losses_and_the_bias_rule_even_out_a_lopsided_router(void **state)
{
    static const struct rule idle[] = {{"sigmoid, no rule", false, AUX_LOSS_BATCH, 0, 0},
                                       {"softmax, no rule", true, AUX_LOSS_BATCH, 0, 0}};
    static const struct rule rules[] = {
        {"sigmoid, bias", false, AUX_LOSS_BATCH, 0, 0.02},
        {"sigmoid, batch", false, AUX_LOSS_BATCH, 0.5, 0},
        {"sigmoid, layer", false, AUX_LOSS_LAYER, 0.5, 0},
        {"sigmoid, sequence", false, AUX_LOSS_SEQUENCE, 0.5, 0},
        {"sigmoid, sequence_routed", false, AUX_LOSS_SEQUENCE_ROUTED, 0.5, 0},
        {"softmax, batch", true, AUX_LOSS_BATCH, 0.5, 0},
        {"softmax, layer", true, AUX_LOSS_LAYER, 0.5, 0},
        {"softmax, sequence", true, AUX_LOSS_SEQUENCE, 0.5, 0},
        {"softmax, sequence_routed", true, AUX_LOSS_SEQUENCE_ROUTED, 0.5, 0},
    };
    struct course without[2];
    (void)state;

    for (size_t i = 0; i < 2; i++) {
        without[i] = train(&idle[i]);
        assert_true(isnan(without[i].loss_last));
    }
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        const struct course course = train(&rules[i]);
        assert_true(course.first == without[rules[i].has_softmax].first);
        assert_true(course.last < 0.6 * course.first);
        assert_true(course.last < 0.7 * without[rules[i].has_softmax].last);
        assert_true(rules[i].coef > 0 ? course.loss_last < course.loss_first
                                      : isnan(course.loss_last));
    }
}

/* Three updates. */
static double learn_thrice(struct tiny *tiny)
{
    static struct tiny_step step;
    struct arena *arena = NULL;
    struct update_stats stats;

    assert_ok(arena_create(4096, &arena));
    tiny_step_make(tiny, &step);
    for (size_t i = 0; i < 3; i++) {
        (void)learn(tiny, &step, arena, &stats);
    }
    arena_destroy(arena);
    return stats.balance_loss;
}

/* The same three updates another way. */
static void check_way(const struct tiny *first, double wanted, const struct rule *rule,
                      size_t n_threads, size_t micro_batch_tokens)
{
    struct tiny other;

    open_lopsided(&other, rule, n_threads, micro_batch_tokens);
    const double got = learn_thrice(&other);
    if (!tiny_is_equal(first, &other) || got != wanted) {
        fail_msg("loss %d, %zu threads, %zu rows: other bits", (int)rule->loss, n_threads,
                 micro_batch_tokens);
    }
    tiny_close(&other);
}

static void balance_losses_have_the_same_bits_however_the_update_is_cut(void **state)
{
    (void)state;

    for (int loss = AUX_LOSS_BATCH; loss <= AUX_LOSS_SEQUENCE_ROUTED; loss++) {
        const struct rule rule = {.loss = (enum router_aux_loss)loss, .coef = 0.1};
        struct tiny first;

        open_lopsided(&first, &rule, 1, 1000);
        const double wanted = learn_thrice(&first);
        assert_true(wanted > 0.0);
        check_way(&first, wanted, &rule, 1, 8);
        check_way(&first, wanted, &rule, 2, 16);
        check_way(&first, wanted, &rule, 1, 64);
        check_way(&first, wanted, &rule, 2, 1000);
        tiny_close(&first);
    }
}

static void no_failed_allocation_leaks(void **state)
{
    const struct rule rule = {.loss = AUX_LOSS_BATCH, .coef = 0.1};
    struct tiny tiny;
    (void)state;

    open_lopsided(&tiny, &rule, 1, 32);
    assert_true(support_fail_allocations(tiny_attempt_learner, &tiny) >= 18);
    tiny_close(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_and_the_bias_rule_even_out_a_lopsided_router),
        cmocka_unit_test(balance_losses_have_the_same_bits_however_the_update_is_cut),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
