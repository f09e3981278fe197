/* Log-probabilities and entropy of targets: double oracle under every filter, known numbers,
 * numeric gradients, and the same bits for any batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/ops/head_fixture.h"

static void check_forward(size_t d, size_t vocab, const struct sampling_params *sampling)
{
    static struct oracle_distribution o;
    struct head_case c;

    make_case(&c, 17, d, vocab);
    c.sampling = *sampling;
    double *parameters = parameters_of(&c), *logits = new_doubles(vocab);
    float *got = new_floats(3 * c.n_rows);
    double *want = new_doubles(3 * c.n_rows);
    run_everywhere(run_forward, &c, 3 * c.n_rows, got);
    for (size_t row = 0; row < c.n_rows; row++) {
        oracle_logits(&c, parameters, row, logits);
        oracle_make(logits, vocab, sampling, c.targets[row], &o);
        want[2 * c.n_rows + row] = oracle_lse(&o, false);
        want[row] = o.u[c.targets[row]] - want[2 * c.n_rows + row];
        want[c.n_rows + row] = oracle_entropy(&o);
    }
    compare_to_double("logp, entropy, lse", got, want, 3 * c.n_rows, 4e-6);
    memory_free(want);
    memory_free(got);
    memory_free(logits);
    memory_free(parameters);
    drop_case(&c);
}

static void forward_agrees_with_the_oracle_under_every_filter(void **state)
{
    static const size_t vocabularies[] = {1, 7, 8, 17, 127, 129};
    (void)state;
    for (size_t i = 0; i < N_SAMPLINGS * 6; i++) {
        check_forward(1 + 7 * (i % 3), vocabularies[i % 6], &samplings[i / 6]);
    }
}

static void a_row_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLINGS; i += 5) {
        struct head_case c;
        struct backend *b;
        make_case(&c, 1500, 24, 129); /* several chunks */
        c.sampling = samplings[i];
        const size_t n = 3 * c.n_rows + (c.n_rows + c.vocab) * c.d;
        float *all = new_floats(n), *one = new_floats(3 + (1 + c.vocab) * c.d);
        run_everywhere(run_backward, &c, n, all);
        assert_ok(backend_open("cpu", 1, &b));
        for (size_t row = 0; row < c.n_rows; row += 97) {
            struct head_case single = c;
            single.n_rows = 1;
            single.x += row * c.d;
            single.targets += row;
            single.g += row;
            single.h += row;
            run_backward(b, &single, one);
            for (size_t part = 0; part < 3; part++) {
                assert_same_bits("logp, entropy, lse", one + part, all + part * c.n_rows + row, 1);
            }
            assert_same_bits("dx", one + 3, all + 3 * c.n_rows + row * c.d, c.d);
        }
        backend_close(b);
        memory_free(one);
        memory_free(all);
        drop_case(&c);
    }
}

static void logits_that_are_not_finite_name_the_row(void **state)
{
    struct head_case c;
    struct backend *b;
    (void)state;

    make_case(&c, 300, 16, 64);
    float *x = c.x, *out = new_floats(3 * c.n_rows), *dx = new_floats(c.n_rows * c.d);
    assert_ok(backend_open("cpu", 2, &b));
    float *w = pack_head(b, &c);
    struct lm_head_backward_args args = {
        .forward = head_args(&c, w, out), .weights = c.w, .g = c.g, .dx = dx, .dx_stride = c.d};
    for (size_t i = 0; i < 2; i++) {
        x[251 * c.d] = NAN;
        x[17 * c.d] = i == 0 ? INFINITY : -INFINITY;
        assert_status(b->ops->lm_head_logprob(b, &args.forward), STATUS_NUMERICS, "row 17 ");
        assert_status(b->ops->lm_head_backward(b, &args), STATUS_NUMERICS, "row 17 ");
    }
    c.targets[3] = 64;
    assert_status(b->ops->lm_head_logprob(b, &args.forward), STATUS_BAD_ARGUMENT, "row 3 ");
    backend_close(b);
    memory_free(w);
    memory_free(dx);
    memory_free(out);
    drop_case(&c);
}

static void temperature_zero_is_the_arg_max(void **state)
{
    static float x[4] = {1, 1, 1, 1}, w[5] = {0.5F, 3.0F, 3.0F, -1.0F, 2.0F};
    static int32_t targets[4] = {1, 2, 1, 0};
    static float g[4] = {1, 1, 1, 1};
    const struct head_case c = {
        .n_rows = 4, .d = 1, .vocab = 5, .x = x, .w = w, .targets = targets, .g = g};
    struct backend *b;
    float out[12], dx[4], unused[160] = {0};
    (void)state;

    run_everywhere(run_forward, &c, 12, out);
    assert_true(out[0] == 0.0F && out[2] == 0.0F);
    assert_true(isinf(out[1]) && isinf(out[3])); /* a tie goes to the lower id */
    for (size_t row = 0; row < 4; row++) {
        assert_true(out[4 + row] == 0.0F);
    }
    assert_ok(backend_open("cpu", 1, &b));
    const struct lm_head_backward_args args = {
        .forward = head_args(&c, unused, out), .weights = w, .g = g, .dx = dx, .dx_stride = 1};
    assert_status(b->ops->lm_head_backward(b, &args), STATUS_BAD_ARGUMENT, "temperature 0");
    backend_close(b);
}

static size_t read_numbers(const struct json *value, float *out)
{
    size_t n = 0;

    if (!json_is(value, JSON_ARRAY)) {
        *out = (float)json_number(value, NAN);
        return 1;
    }
    for (size_t i = 0; i < json_count(value); i++) {
        n += read_numbers(json_at(value, i), out + n);
    }
    return n;
}

#define ROWS ((size_t)9)
#define VOCAB ((size_t)13)

/* The head is the identity, so the logits are the file's and dx is dz. */
static void known_numbers_of_another_implementation(void **state)
{
    char path[1024];
    struct json *file;
    float logits[ROWS * VOCAB], identity[VOCAB * VOCAB] = {0}, g[ROWS], h[ROWS], zero[ROWS] = {0};
    float wanted[ROWS * VOCAB], numbers[ROWS], got[3 * ROWS + (ROWS + VOCAB) * VOCAB];
    int32_t targets[ROWS];
    (void)state;

    if (!support_shared_path("golden/losses/logprob.json", path, sizeof(path))) {
        skip();
    }
    assert_ok(json_load(path, 1 << 20, 16, &file));
    assert_int_equal(read_numbers(json_get(file, "logits"), logits), ROWS * VOCAB);
    assert_int_equal(read_numbers(json_get(file, "g"), g), ROWS);
    assert_int_equal(read_numbers(json_get(file, "h"), h), ROWS);
    for (size_t row = 0; row < ROWS; row++) {
        targets[row] = (int32_t)json_int(json_at(json_get(file, "target"), row), -1);
    }
    for (size_t v = 0; v < VOCAB; v++) {
        identity[v * VOCAB + v] = 1.0F;
    }
    struct head_case c = {
        .n_rows = ROWS, .d = VOCAB, .vocab = VOCAB, .x = logits, .w = identity, .targets = targets};
    const struct tolerance close = {2e-6, 2e-6};
    for (size_t i = 0; i < json_count(json_get(file, "cases")); i++) {
        const struct json *known = json_at(json_get(file, "cases"), i);
        const double temperature = json_number(json_get(known, "temperature"), 0.0);
        c.sampling = (struct sampling_params){.temperature = (float)temperature, .top_p = 1.0F};
        c.g = g;
        c.h = zero;
        run_everywhere(run_backward, &c, sizeof(got) / sizeof(got[0]), got);
        assert_int_equal(read_numbers(json_get(known, "logp"), numbers), ROWS);
        support_compare("logp", got, numbers, ROWS, close);
        assert_int_equal(read_numbers(json_get(known, "entropy"), numbers), ROWS);
        support_compare("entropy", got + ROWS, numbers, ROWS, close);
        (void)read_numbers(json_get(known, "dlogits_of_g"), wanted);
        support_compare("dlogits_of_g", got + 3 * ROWS, wanted, ROWS * VOCAB, close);
        c.g = zero;
        c.h = h;
        run_everywhere(run_backward, &c, sizeof(got) / sizeof(got[0]), got);
        (void)read_numbers(json_get(known, "dlogits_of_h"), wanted);
        support_compare("dlogits_of_h", got + 3 * ROWS, wanted, ROWS * VOCAB, close);
    }
    json_destroy(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle_under_every_filter),
        cmocka_unit_test(a_row_does_not_depend_on_its_batch),
        cmocka_unit_test(logits_that_are_not_finite_name_the_row),
        cmocka_unit_test(temperature_zero_is_the_arg_max),
        cmocka_unit_test(known_numbers_of_another_implementation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
