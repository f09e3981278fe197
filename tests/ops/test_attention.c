/* Attention and the paged cache, absorbed MLA and grouped heads, against a double oracle and
 * numeric gradients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/attention_oracle.h"

static void check_forward(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct attention_case c;
    size_t n;

    make_case(&c, shape, n_sequences, lengths);
    float *got = new_floats(out_floats(&c));
    double *want = new_doubles(out_floats(&c)), *x = operands(&c, &n);
    run_everywhere(run_whole, &c, out_floats(&c), got);
    oracle_forward(&c, x, want);
    compare_to_double("out, lse", got, want, out_floats(&c), 1e-5);
    memory_free(x);
    memory_free(want);
    memory_free(got);
    drop_case(&c);
}

static void forward_agrees_with_the_oracle(void **state)
{
    static const size_t lengths[] = {1, 7, 17, 40};
    static const size_t long_lengths[] = {129, 140}; /* two key blocks */
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        check_forward(shapes[i], 4, lengths);
    }
    for (size_t i = 0; i < sizeof(grouped) / sizeof(grouped[0]); i++) {
        check_forward(grouped[i], 4, lengths);
    }
    for (size_t i = 0; i < sizeof(sparse) / sizeof(sparse[0]); i++) {
        check_forward(sparse[i], 4, lengths);
    }
    check_forward((struct shape){4, 17, 6, 0, 131, PRECISION_F32}, 2, long_lengths);
    check_forward(shapes[2], 2, long_lengths);
    check_forward(shapes[3], 2, long_lengths);
    check_forward(grouped[1], 2, long_lengths);
    check_forward(grouped[4], 2, long_lengths);
}

static void check_gradient(struct shape shape, size_t n_sequences, const size_t *lengths)
{
    struct attention_case c;
    size_t n;

    make_case(&c, shape, n_sequences, lengths);
    double *x = operands(&c, &n), *want = new_doubles(n);
    float *got = new_floats(out_floats(&c) + n);
    run_everywhere(run_backward, &c, out_floats(&c) + n, got);
    numeric_gradient(oracle_loss_of, &c, x, n, want);
    compare_to_double("dq_latent, dq_rope, d_pages", got + out_floats(&c), want, n, 2e-5);
    memory_free(got);
    memory_free(want);
    memory_free(x);
    drop_case(&c);
}

static void gradient_agrees_with_differences(void **state)
{
    static const size_t lengths[] = {1, 17, 8};
    static const size_t long_lengths[] = {133};
    (void)state;
    check_gradient((struct shape){1, 1, 2, 0, 0, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){3, 7, 2, 0, 0, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){4, 17, 6, 0, 0, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){1, 1, 2, 0, 0, PRECISION_F32}, 1,
                   long_lengths); /* two key blocks */
    check_gradient((struct shape){70, 2, 2, 0, 0, PRECISION_F32}, 1, &lengths[2]);
    check_gradient((struct shape){1, 1, 0, 1, 0, PRECISION_F32}, 1, long_lengths);
    check_gradient((struct shape){4, 7, 0, 4, 0, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){6, 8, 0, 3, 0, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){4, 17, 0, 1, 0, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){140, 2, 0, 2, 0, PRECISION_F32}, 1, &lengths[2]);
    check_gradient((struct shape){3, 7, 2, 0, 4, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){4, 2, 0, 2, 5, PRECISION_F32}, 3, lengths);
    check_gradient((struct shape){1, 1, 2, 0, 130, PRECISION_F32}, 1, long_lengths);
}

static void a_part_can_be_stored_behind_the_others(void **state)
{
    float rows[3] = {1.0F, 2.0F, 3.0F}, back[3] = {0.0F};
    float page[KV_BLOCK_TOKENS * 4];
    const int32_t block = 0;
    const struct kv_span span = {0, 3, 0, &block};
    struct backend *b;
    (void)state;

    memset(page, 0, sizeof(page));
    assert_ok(backend_open("cpu", 1, &b));
    struct kv_copy_args args = {.latent = rows,
                                .latent_stride = 1,
                                .spans = &span,
                                .n_spans = 1,
                                .pages = {.data = page, .entry_stride = 4, .page_stride = 64},
                                .rk = 1,
                                .entry_at = 2,
                                .to_pages = true};
    assert_ok(b->ops->kv_copy(b, &args));
    for (size_t i = 0; i < sizeof(page) / sizeof(page[0]); i++) {
        const float want = i % 4 == 2 && i < 12 ? rows[i / 4] : 0.0F;
        assert_same_bits("page", &page[i], &want, 1);
    }
    args.latent = back;
    args.to_pages = false;
    assert_ok(b->ops->kv_copy(b, &args));
    assert_same_bits("read back", back, rows, 3);
    backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle),
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(a_part_can_be_stored_behind_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
