/* RoPE against the vector of its specification, its transpose, and exactness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>

#define N_POSITIONS 64

struct rope_case {
    size_t n_rows, n_heads, dr;
    bool interleaved, inverse;
    const float *x, *cos_table, *sin_table;
    const int32_t *positions;
};

static void run_rope(struct backend *b, const void *context, float *out)
{
    const struct rope_case *c = context;
    memcpy(out, c->x, c->n_rows * c->n_heads * c->dr * sizeof(*out));
    assert_ok(b->ops->rope(b, &(struct rope_args){.x = out,
                                                  .row_stride = c->n_heads * c->dr,
                                                  .head_stride = c->dr,
                                                  .positions = c->positions,
                                                  .cos_table = c->cos_table,
                                                  .sin_table = c->sin_table,
                                                  .n_rows = c->n_rows,
                                                  .n_heads = c->n_heads,
                                                  .dr = c->dr,
                                                  .interleaved = c->interleaved,
                                                  .inverse = c->inverse}));
}

/* Plain frequencies, theta 10000. */
static void make_tables(size_t dr, float **cos_table, float **sin_table)
{
    *cos_table = new_floats(N_POSITIONS * dr / 2);
    *sin_table = new_floats(N_POSITIONS * dr / 2);
    for (size_t i = 0; i < N_POSITIONS * dr / 2; i++) {
        const size_t position = i / (dr / 2), pair = i % (dr / 2);
        const double angle = (double)position * pow(1e4, -2.0 * (double)pair / (double)dr);
        (*cos_table)[i] = (float)cos(angle);
        (*sin_table)[i] = (float)sin(angle);
    }
}

/* model.md 5.3 lists the results in half-split order; the op keeps the layout of its input. */
static void both_layouts_give_the_known_vector(void **state)
{
    static const double interleaved[] = {-1.272233, 1.683929, 4.817777, 6.975969,
                                         -1.838865, 4.707907, 6.147278, 8.020964};
    static const double halves[] = {-1.695593, 0.137552, 2.788682, 3.975982,
                                    -4.808842, 6.323059, 7.086837, 8.011964};
    static const float x[] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const int32_t position = 3;
    struct rope_case c = {.n_rows = 1, .n_heads = 1, .dr = 8, .x = x, .positions = &position};
    float *cos_table, *sin_table, out[8];
    double want[8];
    (void)state;

    make_tables(8, &cos_table, &sin_table);
    c.cos_table = cos_table;
    c.sin_table = sin_table;
    run_everywhere(run_rope, &c, 8, out);
    compare_to_double("half-split", out, halves, 8, 1e-6);
    c.interleaved = true;
    run_everywhere(run_rope, &c, 8, out);
    for (size_t i = 0; i < 4; i++) {
        want[2 * i] = interleaved[i];
        want[2 * i + 1] = interleaved[4 + i];
    }
    compare_to_double("interleaved", out, want, 8, 1e-6);
    memory_free(cos_table);
    memory_free(sin_table);
}

static void transpose_undoes_the_rotation(void **state)
{
    static const size_t widths[] = {2, 8, 16, 34, 64};
    (void)state;
    for (size_t i = 0; i < 10; i++) {
        struct rope_case c = {
            .n_rows = 300, .n_heads = 5, .dr = widths[i / 2], .interleaved = i % 2 == 1};
        const size_t n = c.n_rows * c.n_heads * c.dr;
        float *x = random_floats(n, 1, 1.0F), *y = new_floats(n), *back = new_floats(n);
        float *cos_table, *sin_table;
        int32_t positions[300];
        for (size_t row = 0; row < c.n_rows; row++) {
            positions[row] = (int32_t)(row * 7 % N_POSITIONS);
        }
        make_tables(c.dr, &cos_table, &sin_table);
        c.cos_table = cos_table;
        c.sin_table = sin_table;
        c.positions = positions;
        c.x = x;
        run_everywhere(run_rope, &c, n, y);
        c.x = y;
        c.inverse = true;
        run_everywhere(run_rope, &c, n, back);
        support_compare("back", back, x, n, (struct tolerance){1e-6, 1e-6});
        memory_free(cos_table);
        memory_free(sin_table);
        memory_free(back);
        memory_free(y);
        memory_free(x);
    }
}

/* <R x, g> = <x, R^T g>: with attention_factor in the tables the transpose is not the inverse. */
static void transpose_is_the_gradient(void **state)
{
    struct rope_case c = {.n_rows = 2, .n_heads = 3, .dr = 16, .interleaved = true};
    const size_t n = c.n_rows * c.n_heads * c.dr;
    static const int32_t positions[] = {5, 63};
    float *x = random_floats(n, 1, 1.0F), *g = random_floats(n, 2, 1.0F);
    float *y = new_floats(n), *dx = new_floats(n), *cos_table, *sin_table;
    double left = 0.0, right = 0.0;
    (void)state;

    make_tables(c.dr, &cos_table, &sin_table);
    for (size_t i = 0; i < N_POSITIONS * c.dr / 2; i++) {
        cos_table[i] *= 1.3F;
        sin_table[i] *= 1.3F;
    }
    c.cos_table = cos_table;
    c.sin_table = sin_table;
    c.positions = positions;
    c.x = x;
    run_everywhere(run_rope, &c, n, y);
    c.x = g;
    c.inverse = true;
    run_everywhere(run_rope, &c, n, dx);
    for (size_t i = 0; i < n; i++) {
        left += (double)y[i] * (double)g[i];
        right += (double)x[i] * (double)dx[i];
    }
    assert_true(fabs(left - right) < 1e-5);
    memory_free(cos_table);
    memory_free(sin_table);
    memory_free(dx);
    memory_free(y);
    memory_free(g);
    memory_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_layouts_give_the_known_vector),
        cmocka_unit_test(transpose_undoes_the_rotation),
        cmocka_unit_test(transpose_is_the_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
