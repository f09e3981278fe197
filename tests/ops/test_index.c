/* The indexer of sparse attention: scores against a double oracle, selections by rule, and the same
 * for any way of cutting a sequence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/index_fixture.h"

/* A key is selected exactly when fewer than n_selected keys are larger, or equal and before it. */
static void check_row(const float *scores, size_t n, const float *selected, size_t n_selected)
{
    size_t n_taken = 0;

    for (size_t i = 0; i < n; i++) {
        size_t n_better = 0;
        for (size_t j = 0; j < n; j++) {
            n_better += scores[j] > scores[i] || (scores[j] >= scores[i] && j < i);
        }
        if (n_better < n_selected) {
            assert_true(n_taken < n_selected);
            assert_int_equal((int)selected[n_taken], (int)i);
            n_taken++;
        }
    }
    for (; n_taken < n_selected; n_taken++) {
        assert_int_equal((int)selected[n_taken], -1);
    }
}

static void check_selection(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct index_case c;
    size_t n, row = 0;

    make_case(&c, shape, n_sequences, lengths);
    float *got = new_floats(select_floats(&c));
    double *x = operands(&c, &n), *want = new_doubles(c.n_rows * c.longest);
    const struct oracle_view v = view_of(&c, x);
    run_everywhere(run_select, &c, select_floats(&c), got);
    for (size_t s = 0; s < n_sequences; s++) {
        const size_t first = row;
        for (size_t i = 0; i < lengths[s]; i++, row++) {
            for (size_t key = 0; key <= i; key++) {
                want[row * c.longest + key] = oracle_score(&c, &v, row, first + key);
            }
            check_row(got + row * c.longest, i + 1,
                      got + c.n_rows * c.longest + row * shape.n_selected, shape.n_selected);
        }
    }
    compare_to_double("scores", got, want, c.n_rows * c.longest, 2e-5);
    memory_free(want);
    memory_free(x);
    memory_free(got);
    drop_case(&c);
}

static void scores_agree_with_the_oracle_and_the_largest_are_selected(void **state)
{
    static const size_t lengths[] = {1, 17, 40, 150};
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_selection(shapes[i], 4, lengths);
    }
}

/* One head and whole numbers: ReLU makes many scores exactly 0, and many others equal. */
static void ties_go_to_the_lower_position(void **state)
{
    static const size_t lengths[] = {150};
    struct index_case c;
    struct backend *b;
    (void)state;

    make_case(&c, (struct shape){1, 1, 40, 1, 1}, 1, lengths);
    for (size_t i = 0; i < c.n_rows; i++) {
        c.q[i] = 1.0F;
        c.w[i] = i % 2 == 0 ? 1.0F : -1.0F; /* -1: clipped keys are the largest, and tie at zero */
        c.entries[i * 2 + 1] = (float)(i % 5) - 2.0F;
    }
    float *got = new_floats(select_floats(&c));
    assert_ok(backend_open("cpu", 2, &b));
    run_select(b, &c, got);
    for (size_t row = 0; row < c.n_rows; row++) {
        check_row(got + row * c.longest, row + 1, got + c.n_rows * c.longest + row * 40, 40);
    }
    backend_close(b);
    memory_free(got);
    drop_case(&c);
}

static void prefill_chunks_and_decode_select_the_same(void **state)
{
    static const size_t lengths[] = {40, 1, 145, 129};
    static const size_t steps[] = {1, 2, 7, 16, 17, 100, 128};
    (void)state;
    for (size_t i = 1; i < 4; i++) {
        struct index_case c;
        make_case(&c, shapes[i], 4, lengths);
        float *whole = new_floats(select_floats(&c)), *pieces = new_floats(select_floats(&c));
        run_everywhere(run_select, &c, select_floats(&c), whole);
        for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
            struct backend *b;
            assert_ok(backend_open("cpu", 1 + k % 2, &b));
            select_in_steps(b, &c, steps[k], pieces);
            assert_same_bits("steps", pieces, whole, select_floats(&c));
            backend_close(b);
        }
        memory_free(pieces);
        memory_free(whole);
        drop_case(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_agree_with_the_oracle_and_the_largest_are_selected),
        cmocka_unit_test(ties_go_to_the_lower_position),
        cmocka_unit_test(prefill_chunks_and_decode_select_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
