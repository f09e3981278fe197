/* The gradient of log-probabilities and entropy: numeric gradients, and the same bits for any cut
 * into batches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/head_fixture.h"

/* Loss sum g logp + h H; the kept set is the one of the unperturbed logits. */
struct loss_context {
    const struct head_case *c;
    struct oracle_distribution *rows;
};

static double oracle_loss_of(const double *parameters, const void *context)
{
    const struct loss_context *l = context;
    const struct head_case *c = l->c;
    double loss = 0.0, logits[64];

    for (size_t row = 0; row < c->n_rows; row++) {
        struct oracle_distribution *o = &l->rows[row];
        oracle_logits(c, parameters, row, logits);
        for (size_t v = 0; v < c->vocab; v++) {
            o->u[v] = logits[v] / o->temperature;
        }
        loss += (double)c->g[row] * (o->u[c->targets[row]] - oracle_lse(o, false));
        loss += (double)c->h[row] * oracle_entropy(o);
    }
    return loss;
}

static void gradient_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLINGS; i++) {
        struct head_case c;
        double logits[64];
        make_case(&c, 8, 7, i % 2 == 0 ? 17 : 40);
        c.sampling = samplings[i];
        const size_t n = (c.n_rows + c.vocab) * c.d;
        double *parameters = parameters_of(&c), *want = new_doubles(n);
        float *got = new_floats(3 * c.n_rows + n);
        struct loss_context l = {.c = &c};
        assert_ok(memory_alloc(c.n_rows, sizeof(*l.rows), &l.rows));
        for (size_t row = 0; row < c.n_rows; row++) {
            oracle_logits(&c, parameters, row, logits);
            oracle_make(logits, c.vocab, &c.sampling, c.targets[row], &l.rows[row]);
        }
        run_everywhere(run_backward, &c, 3 * c.n_rows + n, got);
        numeric_gradient(oracle_loss_of, &l, parameters, n, want);
        compare_to_double("dx, dw", got + 3 * c.n_rows, want, n, 1e-5);
        memory_free(l.rows);
        memory_free(got);
        memory_free(want);
        memory_free(parameters);
        drop_case(&c);
    }
}

/* dw in one call, and in three calls with rows of zero gradient in between. */
static void head_gradient_may_be_cut_into_batches(void **state)
{
    struct head_case c;
    struct backend *b;
    (void)state;

    make_case(&c, 700, 24, 129);
    float *g = c.g, *h = c.h;
    for (size_t row = 0; row < c.n_rows; row++) {
        g[row] = row % 3 == 0 ? 0.0F : g[row];
        h[row] = row % 6 == 0 ? 0.0F : h[row];
    }
    const size_t n = 3 * c.n_rows + (c.n_rows + c.vocab) * c.d;
    float *all = new_floats(n), *part = new_floats(n);
    run_everywhere(run_backward, &c, n, all);
    assert_ok(backend_open("cpu", 2, &b));
    float *w = pack_head(b, &c);
    for (size_t first = 0; first < c.n_rows; first += 100) {
        struct head_case some = c;
        some.n_rows = 100;
        some.x += first * c.d;
        some.targets += first;
        const struct lm_head_backward_args args = {.forward = head_args(&some, w, part),
                                                   .weights = c.w,
                                                   .g = c.g + first,
                                                   .h = c.h + first,
                                                   .dx = part + 3 * c.n_rows,
                                                   .dx_stride = c.d,
                                                   .dw = part + c.n_rows * (3 + c.d)};
        assert_ok(b->ops->lm_head_logprob(b, &args.forward));
        assert_ok(b->ops->lm_head_backward(b, &args));
        assert_same_bits("dx", args.dx, all + 3 * c.n_rows + first * c.d, 100 * c.d);
    }
    const size_t at = c.n_rows * (3 + c.d);
    assert_same_bits("dw", part + at, all + at, c.vocab * c.d);
    for (size_t j = 0; j < c.d; j++) {
        assert_true(all[3 * c.n_rows + j] == 0.0F); /* row 0 has no gradient */
    }
    backend_close(b);
    memory_free(w);
    memory_free(part);
    memory_free(all);
    drop_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(head_gradient_may_be_cut_into_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
