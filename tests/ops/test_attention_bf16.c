/* Attention over pages of bfloat16 and FP8: entries are rounded on their way in, and scores,
 * results and gradients agree with a double oracle on the rounded values. FP8 pages give the bits
 * of bfloat16 pages that hold the same values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/attention_oracle.h"

/* exp(S - max) is rounded to 8 bits, each by 2^-9 of itself at most: no more than that of the
 * largest value is wrong. */
#define ROUNDING 8e-3
/* Where it is 1 nothing is rounded: what is left is that of float sums. */
#define EXACT 2e-6

/* Whether FP8 pages give the bits of bfloat16 pages that hold the same values: n floats. */
static void check_codes(struct shape shape, size_t n_sequences, const size_t *lengths, op_run *run,
                        enum precision products)
{
    struct attention_case c;
    struct backend *b;
    size_t n;

    shape.cache = PRECISION_FP8;
    make_case(&c, shape, n_sequences, lengths);
    c.products = products;
    memory_free(operands(&c, &n));
    n = run == run_whole ? out_floats(&c) : out_floats(&c) + n;
    float *got = new_floats(n), *want = new_floats(n);
    run_everywhere(run, &c, n, got);
    c.shape.cache = PRECISION_BF16;
    assert_ok(backend_open("cpu", 2, &b));
    run(b, &c, want);
    assert_same_bits("from codes", got, want, n);
    backend_close(b);
    memory_free(want);
    memory_free(got);
    drop_case(&c);
}

static void check_forward(struct shape shape, size_t n_sequences, const size_t *lengths,
                          bool has_queries)
{
    struct attention_case c;
    size_t n;

    make_case(&c, in_bf16(shape), n_sequences, lengths);
    const size_t n_pairs = c.n_rows * shape.n_heads, n_out = n_pairs * shape.rk;
    if (!has_queries) {
        memset(c.q_latent, 0, n_out * sizeof(float));
        memset(c.q_rope, 0, n_pairs * shape.dr * sizeof(float));
    }
    float *got = new_floats(out_floats(&c));
    double *want = new_doubles(out_floats(&c)), *x = operands(&c, &n);
    run_everywhere(run_whole, &c, out_floats(&c), got);
    oracle_forward(&c, x, want);
    compare_to_double("out", got, want, n_out, has_queries ? ROUNDING : EXACT);
    compare_to_double("lse", got + n_out, want + n_out, n_pairs, 1e-5);
    memory_free(x);
    memory_free(want);
    memory_free(got);
    drop_case(&c);
    check_codes(shape, n_sequences, lengths, run_whole, PRECISION_F32);
}

static void forward_agrees_with_the_oracle(void **state)
{
    static const size_t lengths[] = {1, 7, 18, 33};
    static const size_t long_lengths[] = {129, 140}; /* two key blocks */
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < sizeof(shapes) / sizeof(shapes[0]); k++) {
            check_forward(shapes[k], 4, lengths, i == 0);
        }
        for (size_t k = 0; k < sizeof(grouped) / sizeof(grouped[0]); k++) {
            check_forward(grouped[k], 4, lengths, i == 0);
        }
        for (size_t k = 0; k < sizeof(sparse) / sizeof(sparse[0]); k++) {
            check_forward(sparse[k], 4, lengths, i == 0);
        }
        check_forward((struct shape){4, 17, 6, 0, 131, PRECISION_F32}, 2, long_lengths, i == 0);
        check_forward(shapes[2], 2, long_lengths, i == 0);
        check_forward(grouped[4], 2, long_lengths, i == 0);
    }
}

/* Rounded to 8 bits: the factors of products. */
#define PAIRS_ROUNDING 2e-2

static void check_gradient(struct shape shape, size_t n_sequences, const size_t *lengths,
                           enum precision products)
{
    struct attention_case c;
    size_t n;

    make_case(&c, in_bf16(shape), n_sequences, lengths);
    c.products = products;
    double *x = operands(&c, &n), *want = new_doubles(n);
    float *got = new_floats(out_floats(&c) + n);
    run_everywhere(run_backward, &c, out_floats(&c) + n, got);
    numeric_gradient(oracle_loss_of, &c, x, n, want);
    compare_to_double("dq_latent, dq_rope, d_pages", got + out_floats(&c), want, n,
                      products == PRECISION_F32 ? 2 * ROUNDING : PAIRS_ROUNDING);
    memory_free(got);
    memory_free(want);
    memory_free(x);
    drop_case(&c);
    check_codes(shape, n_sequences, lengths, run_backward, products);
}

static void check_gradients(enum precision products)
{
    static const size_t lengths[] = {1, 17, 8};
    static const size_t long_lengths[] = {133};

    check_gradient((struct shape){3, 7, 2, 0, 0, PRECISION_F32}, 3, lengths, products);
    check_gradient((struct shape){4, 17, 6, 0, 0, PRECISION_F32}, 3, lengths, products);
    check_gradient((struct shape){1, 1, 2, 0, 0, PRECISION_F32}, 1, long_lengths, products);
    check_gradient((struct shape){4, 7, 0, 4, 0, PRECISION_F32}, 3, lengths, products);
    check_gradient((struct shape){6, 8, 0, 3, 0, PRECISION_F32}, 3, lengths, products);
    check_gradient((struct shape){3, 7, 2, 0, 4, PRECISION_F32}, 3, lengths, products);
    check_gradient((struct shape){4, 2, 0, 2, 5, PRECISION_F32}, 3, lengths, products);
}

static void gradient_passes_straight_through_the_rounding(void **state)
{
    (void)state;
    check_gradients(PRECISION_F32);
}

static void gradient_in_pairs_agrees_with_the_oracle(void **state)
{
    (void)state;
    check_gradients(PRECISION_BF16);
}

/* Values that the cache does not hold: rounded ones give the same bits. */
static void check_rounding(struct shape shape, enum precision cache)
{
    static const size_t lengths[] = {5, 20};
    struct attention_case c;
    struct backend *b;
    size_t n;

    make_case(&c, shape, 2, lengths);
    c.shape.cache = cache;
    memory_free(operands(&c, &n));
    n += out_floats(&c);
    float *raw = new_floats(n), *rounded = new_floats(n);
    assert_ok(backend_open("cpu", 2, &b));
    run_backward(b, &c, raw);
    round_operands(&c);
    run_backward(b, &c, rounded);
    assert_same_bits("rounded", rounded, raw, n);
    backend_close(b);
    memory_free(rounded);
    memory_free(raw);
    drop_case(&c);
}

static void entries_and_queries_are_rounded_on_their_way(void **state)
{
    (void)state;
    check_rounding(shapes[3], PRECISION_BF16);
    check_rounding(shapes[3], PRECISION_FP8);
    check_rounding(grouped[6], PRECISION_FP8);
}

#define N_VALUES ((size_t)37)
#define ENTRY_WORDS ((size_t)24)
#define N_ENTRIES ((size_t)3) /* the one before, its own, the one behind */

/* Stores values from the third of an entry on and reads them back; out: those, then a row of the
 * words around them. */
static void run_copy(struct backend *b, const void *context, float *out)
{
    static const int32_t block = 0;
    const struct kv_span span = {0, 1, 3, &block};
    float row[N_VALUES], page[KV_STEP_TOKENS * ENTRY_WORDS];
    struct kv_copy_args args = {
        .latent = row,
        .latent_stride = N_VALUES,
        .rope_key = row + 20,
        .rope_key_stride = N_VALUES,
        .spans = &span,
        .n_spans = 1,
        .pages = {.data = page, .entry_stride = ENTRY_WORDS, .precision = PRECISION_BF16},
        .rk = 20,
        .dr = N_VALUES - 20,
        .entry_at = 3,
        .to_pages = true};

    memcpy(row, context, sizeof(row));
    memset(page, 0, sizeof(page));
    assert_ok(b->ops->kv_copy(b, &args));
    memcpy(out + N_VALUES, page + 2 * ENTRY_WORDS, N_ENTRIES * ENTRY_WORDS * sizeof(float));
    args.latent = out;
    args.rope_key = out + 20;
    args.to_pages = false;
    assert_ok(b->ops->kv_copy(b, &args));
}

static void copies_round_to_nearest_even_and_back_is_exact(void **state)
{
    const size_t n = N_VALUES + N_ENTRIES * ENTRY_WORDS;
    float *values = random_floats(N_VALUES, 9, 3.0F), out[N_VALUES + N_ENTRIES * ENTRY_WORDS];
    uint16_t halves[2 * N_ENTRIES * ENTRY_WORDS];
    (void)state;

    values[0] = 0x1.01p0F;  /* a tie: down to even */
    values[1] = 0x1.03p0F;  /* up to even */
    values[2] = -0x1p-130F; /* subnormal */
    values[3] = -0x1.ffffp127F;
    run_everywhere(run_copy, values, n, out);
    assert_true(out[0] == 1.0F && out[1] == 0x1.04p0F && out[2] == 0.0F && signbit(out[2]));
    assert_true(out[3] == -HUGE_VALF);
    round_to_bf16(values + 4, N_VALUES - 4);
    assert_same_bits("values", out + 4, values + 4, N_VALUES - 4);
    memcpy(halves, out + N_VALUES, sizeof(halves));
    for (size_t i = 0; i < 2 * N_ENTRIES * ENTRY_WORDS; i++) { /* nothing beside them was written */
        const bool is_inside = i >= 2 * ENTRY_WORDS + 3 && i < 2 * ENTRY_WORDS + 3 + N_VALUES;
        assert_true(is_inside || halves[i] == 0);
    }
    memory_free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle),
        cmocka_unit_test(gradient_passes_straight_through_the_rounding),
        cmocka_unit_test(gradient_in_pairs_agrees_with_the_oracle),
        cmocka_unit_test(entries_and_queries_are_rounded_on_their_way),
        cmocka_unit_test(copies_round_to_nearest_even_and_back_is_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
