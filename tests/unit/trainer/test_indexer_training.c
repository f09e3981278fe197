/* A sparse model learning: what moves under which loss of the indexers, and that micro-batches and
 * threads change no bit of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/trainer/tiny_learner.h"

#include <math.h>

struct student {
    struct backend *backend;
    struct policy *policy;
    struct learner *learner;
    float *before; /* weights at the start */
};

static void open_student(struct student *out, size_t n_threads, size_t micro_batch_tokens,
                         enum policy_indexer_loss loss)
{
    struct run_config config;
    struct model_config model;

    tiny_configure(&config, micro_batch_tokens);
    struct learner_options options = grpo_learner_options(&config);
    options.indexer = loss;
    options.indexer_coef = 1.0;
    const struct policy_options sizes = {
        .max_rows = learner_max_rows(&options), .max_draws = 1, .is_trainable = true};
    assert_ok(backend_open("cpu", n_threads, &out->backend));
    assert_ok(model_config_preset("v32", &model));
    model.index_topk = 4;
    model.n_mtp_modules = 1;
    assert_ok(policy_create(out->backend, &model, &sizes, &out->policy));
    weights_init(&model, policy_table(out->policy), 9, policy_weights(out->policy));
    assert_ok(policy_refresh(out->policy));
    assert_ok(learner_create(out->backend, out->policy, &options, &out->learner));
    const size_t n = policy_table(out->policy)->n_floats;
    assert_ok(memory_alloc(n, sizeof(float), &out->before));
    memcpy(out->before, policy_weights(out->policy), n * sizeof(float));
}

static void close_student(struct student *student)
{
    memory_free(student->before);
    learner_destroy(student->learner);
    policy_destroy(student->policy);
    backend_close(student->backend);
}

/* n updates on long random sequences. */
static void learn(struct student *student, size_t n_updates, struct update_stats *first,
                  struct update_stats *last)
{
    int32_t tokens[TINY_GROUPS][TINY_PROMPT_MAX + TINY_RESPONSE_MAX];
    struct train_sequence sequences[TINY_GROUPS];

    for (size_t i = 0; i < TINY_GROUPS; i++) {
        tiny_fill_tokens(tokens[i], TINY_PROMPT_MAX + TINY_RESPONSE_MAX, 40 + i);
        sequences[i] = (struct train_sequence){.prompt = tokens[i],
                                               .n_prompt = TINY_PROMPT_MAX,
                                               .response = tokens[i] + TINY_PROMPT_MAX,
                                               .n_response = TINY_RESPONSE_MAX};
    }
    for (size_t i = 0; i < n_updates; i++) {
        const struct update_args args = {.sequences = sequences,
                                         .n = TINY_GROUPS,
                                         .learning_rate = 1e-2,
                                         .gradient = tiny_likelihood};
        assert_ok(learner_update(student->learner, &args, i == 0 ? first : last));
    }
}

/* Rows of a kind (indexers or the rest) that have moved, of n_rows. */
static size_t count_moved(const struct student *student, bool is_indexer, size_t *n_rows)
{
    const struct weight_table *table = policy_table(student->policy);
    size_t n_moved = 0;

    *n_rows = 0;
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        if (row->is_indexer == is_indexer && row->is_trainable) {
            *n_rows += 1;
            n_moved +=
                memcmp(student->before + row->offset, policy_weights(student->policy) + row->offset,
                       row->count * sizeof(float)) != 0;
        }
    }
    return n_moved;
}

static void the_warm_up_moves_indexers_alone_and_its_loss_falls(void **state)
{
    struct student student;
    struct update_stats first, last;
    size_t n;
    (void)state;

    open_student(&student, 1, 256, POLICY_INDEXER_DENSE);
    learn(&student, 40, &first, &last);
    assert_int_equal(count_moved(&student, false, &n), 0);
    const size_t n_moved = count_moved(&student, true, &n);
    assert_int_equal(n_moved, n);
    assert_true(last.indexer_loss < 0.7 * first.indexer_loss);
    close_student(&student);
}

static void a_sparse_model_and_its_indexers_learn_together(void **state)
{
    struct student student;
    struct update_stats first, last;
    size_t n;
    (void)state;

    open_student(&student, 1, 256, POLICY_INDEXER_SPARSE);
    learn(&student, 3, &first, &last);
    const size_t n_rest = count_moved(&student, false, &n);
    assert_true(n_rest > n / 2); /* some experts may be idle */
    const size_t n_moved = count_moved(&student, true, &n);
    assert_int_equal(n_moved, n);
    assert_true(isfinite(last.indexer_loss) && last.indexer_loss > 0.0);
    close_student(&student);
}

static void without_a_loss_indexers_stay_as_they_are(void **state)
{
    struct student student;
    struct update_stats first, last;
    size_t n;
    (void)state;

    open_student(&student, 1, 256, POLICY_INDEXER_OFF);
    learn(&student, 3, &first, &last);
    assert_int_equal(count_moved(&student, true, &n), 0); /* decay would move them */
    assert_true(isnan(last.indexer_loss));
    close_student(&student);
}

/* The indexers' loss, however heavy, changes no step of the rest. */
static void the_rest_learns_as_if_indexers_did_not(void **state)
{
    struct student off, sparse;
    struct update_stats first, last;
    (void)state;

    open_student(&off, 1, 256, POLICY_INDEXER_OFF);
    open_student(&sparse, 1, 256, POLICY_INDEXER_SPARSE);
    learn(&off, 1, &first, &last);
    learn(&sparse, 1, &first, &last);
    const struct weight_table *table = policy_table(off.policy);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        const float *a = policy_weights(off.policy) + row->offset;
        const float *b = policy_weights(sparse.policy) + row->offset;
        for (size_t j = 0; j < row->count && !row->is_indexer; j++) {
            assert_true(fabsf(a[j] - b[j]) <= 1e-6F); /* norms are summed in another order */
        }
    }
    close_student(&off);
    close_student(&sparse);
}

static void any_cut_and_any_number_of_threads_give_the_same_bits(void **state)
{
    (void)state;
    for (int loss = POLICY_INDEXER_DENSE; loss <= POLICY_INDEXER_SPARSE; loss++) {
        struct student whole, cut;
        struct update_stats first, last;

        open_student(&whole, 1, 256, (enum policy_indexer_loss)loss);
        open_student(&cut, 2, 16, (enum policy_indexer_loss)loss);
        learn(&whole, 3, &first, &last);
        learn(&cut, 3, &first, &last);
        assert_memory_equal(policy_weights(whole.policy), policy_weights(cut.policy),
                            policy_table(whole.policy)->n_floats * sizeof(float));
        close_student(&whole);
        close_student(&cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_warm_up_moves_indexers_alone_and_its_loss_falls),
        cmocka_unit_test(a_sparse_model_and_its_indexers_learn_together),
        cmocka_unit_test(without_a_loss_indexers_stay_as_they_are),
        cmocka_unit_test(the_rest_learns_as_if_indexers_did_not),
        cmocka_unit_test(any_cut_and_any_number_of_threads_give_the_same_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
