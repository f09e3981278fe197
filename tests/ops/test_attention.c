/* Attention and the paged cache, absorbed MLA and grouped heads, against a double oracle and
 * numeric gradients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/attention_fixture.h"

/* The three differentiable operands as one vector: q_latent, q_rope, entries. */
struct oracle_view {
    const double *q_latent, *q_rope, *entries;
};

static struct oracle_view view_of(const struct attention_case *c, const double *x)
{
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    return (struct oracle_view){x, x + n_pairs * c->shape.rk,
                                x + n_pairs * (c->shape.rk + c->shape.dr)};
}

static double oracle_score(const struct attention_case *c, const struct oracle_view *v, size_t pair,
                           size_t key_row)
{
    const struct shape s = c->shape;
    const double *entry = v->entries + key_row * entry_width(s) + key_at(s, pair % s.n_heads);
    double dot = 0.0;

    for (size_t j = 0; j < s.rk; j++) {
        dot += v->q_latent[pair * s.rk + j] * entry[j];
    }
    for (size_t j = 0; j < s.dr; j++) {
        dot += v->q_rope[pair * s.dr + j] * entry[s.rk + j];
    }
    return (double)SCALE * dot;
}

static bool is_seen(const struct attention_case *c, size_t row, size_t position)
{
    const size_t k = c->shape.n_selected;

    for (size_t i = 0; i < k; i++) {
        if (c->selected[row * k + i] == (int32_t)position) {
            return true;
        }
    }
    return k == 0;
}

/* out (rk) of a pair that sees rows first .. last; returns the log-sum-exp. */
static double oracle_pair(const struct attention_case *c, const struct oracle_view *v, size_t pair,
                          size_t first, size_t last, double *out)
{
    const size_t width = entry_width(c->shape);
    const double *values = v->entries + value_at(c->shape, pair % c->shape.n_heads);
    double max = -HUGE_VAL, sum = 0.0;

    for (size_t key = first; key <= last; key++) {
        if (is_seen(c, last, key - first)) {
            max = fmax(max, oracle_score(c, v, pair, key));
        }
    }
    memset(out, 0, c->shape.rk * sizeof(*out));
    for (size_t key = first; key <= last; key++) {
        const double e =
            is_seen(c, last, key - first) ? exp(oracle_score(c, v, pair, key) - max) : 0.0;
        sum += e;
        for (size_t j = 0; j < c->shape.rk; j++) {
            out[j] += e * values[key * width + j];
        }
    }
    for (size_t j = 0; j < c->shape.rk; j++) {
        out[j] /= sum;
    }
    return max + log(sum);
}

/* out then lse of all rows, laid out as the op's. */
static void oracle_forward(const struct attention_case *c, const double *x, double *out)
{
    const struct oracle_view v = view_of(c, x);
    const size_t n_heads = c->shape.n_heads, n_pairs = c->n_rows * n_heads;
    size_t first = 0;

    for (size_t s = 0; s < c->n_sequences; s++) {
        for (size_t i = 0; i < c->lengths[s] * n_heads; i++) {
            const size_t pair = first * n_heads + i;
            out[n_pairs * c->shape.rk + pair] =
                oracle_pair(c, &v, pair, first, first + i / n_heads, out + pair * c->shape.rk);
        }
        first += c->lengths[s];
    }
}

static double oracle_loss_of(const double *x, const void *context)
{
    const struct attention_case *c = context;
    double *out = new_doubles(out_floats(c)), loss = 0.0;

    oracle_forward(c, x, out);
    for (size_t i = 0; i < c->n_rows * c->shape.n_heads * c->shape.rk; i++) {
        loss += (double)c->d_out[i] * out[i];
    }
    memory_free(out);
    return loss;
}

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
    check_forward((struct shape){4, 17, 6, 0, 131}, 2, long_lengths);
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
    check_gradient((struct shape){1, 1, 2, 0, 0}, 3, lengths);
    check_gradient((struct shape){3, 7, 2, 0, 0}, 3, lengths);
    check_gradient((struct shape){4, 17, 6, 0, 0}, 3, lengths);
    check_gradient((struct shape){1, 1, 2, 0, 0}, 1, long_lengths); /* two key blocks */
    check_gradient((struct shape){70, 2, 2, 0, 0}, 1, &lengths[2]);
    check_gradient((struct shape){1, 1, 0, 1, 0}, 1, long_lengths);
    check_gradient((struct shape){4, 7, 0, 4, 0}, 3, lengths);
    check_gradient((struct shape){6, 8, 0, 3, 0}, 3, lengths);
    check_gradient((struct shape){4, 17, 0, 1, 0}, 3, lengths);
    check_gradient((struct shape){140, 2, 0, 2, 0}, 1, &lengths[2]);
    check_gradient((struct shape){3, 7, 2, 0, 4}, 3, lengths);
    check_gradient((struct shape){4, 2, 0, 2, 5}, 3, lengths);
    check_gradient((struct shape){1, 1, 2, 0, 130}, 1, long_lengths);
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

static void backward_refuses_cached_tokens(void **state)
{
    static const size_t length = 20;
    struct attention_case c;
    struct cache cache;
    struct kv_span span;
    struct backend *b;
    (void)state;

    make_case(&c, shapes[2], 1, &length);
    make_cache(&c, 0.0F, &cache);
    assert_ok(backend_open("cpu", 1, &b));
    span = (struct kv_span){0, 4, 16, cache.blocks[0]};
    const struct attention_backward_args args = {
        .forward = forward_args(&c, &cache, &span, 1, c.q_latent)};
    assert_status(b->ops->attention_backward(b, &args), STATUS_UNSUPPORTED, "16 cached");
    backend_close(b);
    drop_cache(&c, &cache);
    drop_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_oracle),
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(a_part_can_be_stored_behind_the_others),
        cmocka_unit_test(backward_refuses_cached_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
