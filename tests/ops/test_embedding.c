/* Embedding rows and moving rows by index: exact copies, gradients as one chain over rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#define VOCAB ((size_t)19)

struct embedding_case {
    size_t n_rows, d;
    float *table; /* (VOCAB, d), also the gradient's start */
    float *d_out;
    int32_t *ids;
    size_t cut; /* rows of the first of two calls */
};

/* out (n_rows, d) by embedding, the same by gather_rows. */
static void run_lookup(struct backend *b, const void *context, float *out)
{
    const struct embedding_case *c = context;
    assert_ok(b->ops->embedding(
        b, &(struct embedding_args){c->table, c->ids, out, c->d, c->n_rows, c->d}));
    assert_ok(b->ops->gather_rows(b, &(struct rows_args){.src = c->table,
                                                         .src_stride = c->d,
                                                         .rows = c->ids,
                                                         .dst = out + c->n_rows * c->d,
                                                         .dst_stride = c->d,
                                                         .n_rows = c->n_rows,
                                                         .d = c->d}));
}

/* d_table by embedding_backward in two calls, the same by scatter_add_rows in one. */
static void run_gradient(struct backend *b, const void *context, float *out)
{
    const struct embedding_case *c = context;
    float *scattered = out + VOCAB * c->d;
    const size_t rest = c->n_rows - c->cut;

    memcpy(out, c->table, VOCAB * c->d * sizeof(*out));
    memcpy(scattered, c->table, VOCAB * c->d * sizeof(*out));
    assert_ok(b->ops->embedding_backward(
        b, &(struct embedding_backward_args){c->ids, c->d_out, c->d, out, c->cut, c->d}));
    assert_ok(b->ops->embedding_backward(
        b, &(struct embedding_backward_args){c->ids + c->cut, c->d_out + c->cut * c->d, c->d, out,
                                             rest, c->d}));
    assert_ok(b->ops->scatter_add_rows(b, &(struct rows_args){.src = c->d_out,
                                                              .src_stride = c->d,
                                                              .rows = c->ids,
                                                              .dst = scattered,
                                                              .dst_stride = c->d,
                                                              .n_rows = c->n_rows,
                                                              .d = c->d}));
}

static void make_case(struct embedding_case *c, size_t n_rows, size_t d)
{
    int32_t *ids;

    assert_ok(memory_alloc(n_rows, sizeof(*ids), &ids));
    for (size_t i = 0; i < n_rows; i++) {
        ids[i] = (int32_t)random_below(1, RANDOM_TEST, i, 0, VOCAB);
    }
    *c = (struct embedding_case){.n_rows = n_rows,
                                 .d = d,
                                 .table = random_floats(VOCAB * d, 2, 1.0F),
                                 .d_out = random_floats(n_rows * d, 3, 1.0F),
                                 .ids = ids,
                                 .cut = n_rows / 3};
}

static void drop_case(const struct embedding_case *c)
{
    memory_free(c->table);
    memory_free(c->d_out);
    memory_free(c->ids);
}

static const size_t widths[] = {1, 7, 8, 17, 127, 129};

static void rows_are_copied(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        struct embedding_case c;
        make_case(&c, 1100, widths[i]);
        float *out = new_floats(2 * c.n_rows * c.d);
        run_everywhere(run_lookup, &c, 2 * c.n_rows * c.d, out);
        for (size_t row = 0; row < c.n_rows; row++) {
            const float *want = c.table + (size_t)c.ids[row] * c.d;
            assert_same_bits("embedding", out + row * c.d, want, c.d);
            assert_same_bits("gather", out + (c.n_rows + row) * c.d, want, c.d);
        }
        memory_free(out);
        drop_case(&c);
    }
}

static void gradient_is_one_chain_over_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        struct embedding_case c;
        make_case(&c, 1100, widths[i]);
        float *out = new_floats(2 * VOCAB * c.d), *want = new_floats(VOCAB * c.d);
        memcpy(want, c.table, VOCAB * c.d * sizeof(*want));
        for (size_t j = 0; j < c.n_rows * c.d; j++) {
            want[(size_t)c.ids[j / c.d] * c.d + j % c.d] += c.d_out[j];
        }
        run_everywhere(run_gradient, &c, 2 * VOCAB * c.d, out);
        assert_same_bits("d_table", out, want, VOCAB * c.d);
        assert_same_bits("scatter", out + VOCAB * c.d, want, VOCAB * c.d);
        memory_free(want);
        memory_free(out);
        drop_case(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_copied),
        cmocka_unit_test(gradient_is_one_chain_over_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
