/* Attention gives the same bits for any way of cutting a sequence and in any batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/attention_fixture.h"

/* The gradients of sequence s of a case, whose rows begin at `first`, alone and in its batch. */
static void check_alone(struct backend *b, const struct attention_case *c, size_t s, size_t first,
                        const float *all, float *alone)
{
    const struct shape shape = c->shape;
    const size_t q_width = shape.n_heads * shape.rk, r_width = shape.n_heads * shape.dr;
    const size_t width = entry_width(shape);
    struct attention_case one = {
        .shape = shape, .products = c->products, .n_sequences = 1, .n_rows = c->lengths[s]};

    one.lengths[0] = c->lengths[s];
    one.q_latent = c->q_latent + first * q_width;
    one.q_rope = c->q_rope + first * r_width;
    one.entries = c->entries + first * width;
    one.d_out = c->d_out + first * q_width;
    one.selected = c->selected == NULL ? NULL : c->selected + first * shape.n_selected;
    run_backward(b, &one, alone);
    const float *got = alone + out_floats(&one), *want = all + out_floats(c);
    assert_same_bits("dq_latent", got, want + first * q_width, one.n_rows * q_width);
    got += one.n_rows * q_width;
    want += c->n_rows * q_width;
    assert_same_bits("dq_rope", got, want + first * r_width, one.n_rows * r_width);
    got += one.n_rows * r_width;
    want += c->n_rows * r_width + first * width;
    assert_same_bits("d_pages", got, want, one.n_rows * width);
}

static void check_batch(struct shape shape, enum precision products)
{
    static const size_t lengths[] = {40, 1, 23, 150, 17, 40, 39, 16};
    struct attention_case c;
    struct backend *b;
    size_t n, first = 0;

    make_case(&c, shape, MAX_SPANS, lengths);
    c.products = products;
    memory_free(operands(&c, &n));
    float *all = new_floats(out_floats(&c) + n), *alone = new_floats(out_floats(&c) + n);
    run_everywhere(run_backward, &c, out_floats(&c) + n, all);
    assert_ok(backend_open("cpu", 1, &b));
    for (size_t s = 0; s < MAX_SPANS; s++) {
        check_alone(b, &c, s, first, all, alone);
        first += lengths[s];
    }
    backend_close(b);
    memory_free(alone);
    memory_free(all);
    drop_case(&c);
}

static struct shape in_fp8(struct shape shape)
{
    shape.cache = PRECISION_FP8;
    return shape;
}

static void gradient_of_a_sequence_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    check_batch(shapes[2], PRECISION_F32);
    check_batch(grouped[4], PRECISION_F32);
    check_batch(grouped[5], PRECISION_F32);
    check_batch(sparse[2], PRECISION_F32);
    check_batch(in_bf16(shapes[3]), PRECISION_F32);
    check_batch(in_bf16(grouped[5]), PRECISION_F32);
    check_batch(in_bf16(sparse[2]), PRECISION_F32);
    check_batch(in_fp8(grouped[5]), PRECISION_F32);
}

static void gradient_in_pairs_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    check_batch(in_bf16(shapes[1]), PRECISION_BF16); /* 63 rows of a chunk */
    check_batch(in_bf16(shapes[3]), PRECISION_BF16);
    check_batch(in_bf16(grouped[5]), PRECISION_BF16);
    check_batch(in_bf16(sparse[2]), PRECISION_BF16);
    check_batch(in_fp8(grouped[4]), PRECISION_BF16);
}

/* Feeds every sequence in pieces of `step` rows, all sequences side by side. */
static void run_in_steps(struct backend *b, const struct attention_case *c, size_t step, float *out)
{
    struct cache cache;
    bool is_done = false;

    make_cache(c, c->shape.cache, &cache);
    for (size_t at = 0; !is_done; at += step) {
        struct kv_span spans[MAX_SPANS];
        const size_t n_spans = step_spans(c->n_sequences, c->lengths, &cache, at, step, spans);
        copy_entries(b, c, spans, n_spans, &cache, c->entries, true);
        const struct attention_args args = forward_args(c, &cache, spans, n_spans, out);
        assert_ok(b->ops->attention(b, &args));
        is_done = n_spans == 0;
    }
    drop_cache(&cache);
}

static void check_steps(struct shape shape)
{
    static const size_t lengths[] = {40, 1, 23, 145, 17, 129, 128, 16};
    static const size_t steps[] = {1, 2, 7, 16, 17, 100, 128};
    struct attention_case c;

    make_case(&c, shape, MAX_SPANS, lengths);
    float *whole = new_floats(out_floats(&c)), *pieces = new_floats(out_floats(&c));
    run_everywhere(run_whole, &c, out_floats(&c), whole);
    for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
        struct backend *b;
        assert_ok(backend_open("cpu", 1 + k % 2, &b));
        run_in_steps(b, &c, steps[k], pieces);
        assert_same_bits("steps", pieces, whole, out_floats(&c));
        backend_close(b);
    }
    memory_free(pieces);
    memory_free(whole);
    drop_case(&c);
}

static void prefill_chunks_and_decode_give_the_same_bits(void **state)
{
    (void)state;
    for (size_t i = 2; i < 5; i++) {
        check_steps(shapes[i]);
        check_steps(grouped[i]);
        check_steps(in_bf16(shapes[i]));
        check_steps(in_bf16(grouped[i]));
        check_steps(in_fp8(shapes[i]));
        check_steps(in_fp8(grouped[i]));
    }
    check_steps(grouped[5]); /* one query head a KV head */
    check_steps(in_bf16(grouped[5]));
    check_steps(sparse[2]);
    check_steps(in_bf16(sparse[2]));
    check_steps(in_fp8(sparse[2]));
    check_steps(in_bf16((struct shape){4, 17, 6, 0, 130, PRECISION_F32}));
    check_steps((struct shape){4, 17, 6, 0, 130, PRECISION_F32});
}

static void check_full_selection(struct shape shape)
{
    static const size_t lengths[] = {40, 150};
    struct attention_case c;
    struct backend *b;
    size_t n;

    make_case(&c, shape, 2, lengths);
    memory_free(operands(&c, &n));
    n += out_floats(&c);
    float *want = new_floats(n), *got = new_floats(n);
    assert_ok(backend_open("cpu", 2, &b));
    run_backward(b, &c, want);
    c.shape.n_selected = 150;
    make_selection(&c);
    run_backward(b, &c, got);
    assert_same_bits("all selected", got, want, n);
    backend_close(b);
    memory_free(got);
    memory_free(want);
    drop_case(&c);
}

static void a_selection_of_all_gives_the_bits_of_none(void **state)
{
    (void)state;
    check_full_selection(shapes[2]);
    check_full_selection(in_bf16(shapes[2]));
    check_full_selection(in_fp8(shapes[2]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradient_of_a_sequence_does_not_depend_on_its_batch),
        cmocka_unit_test(gradient_in_pairs_does_not_depend_on_its_batch),
        cmocka_unit_test(prefill_chunks_and_decode_give_the_same_bits),
        cmocka_unit_test(a_selection_of_all_gives_the_bits_of_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
