/* moe_ffn and its gradient: a double oracle, finite differences, and bits that do not depend on
 * threads, instruction sets, the rows around a row, or where a batch is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/moe_group.h"
#include "tests/ops/op_fixture.h"

#include <math.h>

/* Operands of one layer, and where each lies in the flat list of parameters and of gradients:
 * x, weights, gate, up, down. */
struct layer {
    size_t n_rows, d, f, n_experts, top_k;
    size_t x_size, weights_size, matrix_size;
    float *params;
    float *dy;
    int32_t *indices;
};
/* How rows are dealt to experts. */
enum deal { DEAL_MIXED, DEAL_ONE_EXPERT, DEAL_SKIP_FIRST, DEAL_EVEN };

static size_t n_params(const struct layer *l)
{
    return l->x_size + l->weights_size + 3 * l->matrix_size;
}

static int32_t deal_expert(enum deal deal, size_t row, size_t k, size_t n_experts)
{
    if (deal == DEAL_ONE_EXPERT) {
        return (int32_t)((n_experts / 2 + k) % n_experts);
    }
    if (deal == DEAL_EVEN) {
        return (int32_t)((2 * row + k) % n_experts);
    }
    const size_t first = random_bits(9, RANDOM_TEST, row, 0) % n_experts;
    const size_t expert = (first + k) % n_experts;
    return (int32_t)(deal == DEAL_SKIP_FIRST && expert == 0 ? n_experts - 1 : expert);
}

static struct layer layer_make(size_t n_rows, size_t d, size_t f, size_t n_experts, enum deal deal)
{
    struct layer l = {.n_rows = n_rows, .d = d, .f = f, .n_experts = n_experts, .top_k = 2};
    l.x_size = n_rows * d;
    l.weights_size = n_rows * l.top_k;
    l.matrix_size = n_experts * d * f;
    l.params = random_floats(n_params(&l), 7, 0.7F);
    l.dy = random_floats(l.x_size, 8, 1.0F);
    assert_ok(memory_alloc(l.weights_size, sizeof(*l.indices), &l.indices));
    for (size_t i = 0; i < l.weights_size; i++) {
        l.indices[i] = deal_expert(deal, i / l.top_k, i % l.top_k, n_experts);
    }
    return l;
}

static void layer_free(struct layer *l)
{
    memory_free(l->params);
    memory_free(l->dy);
    memory_free(l->indices);
}

static void pack_matrix(struct backend *backend, const float *src, size_t n_in, size_t n_out,
                        float *dst, size_t panel_stride)
{
    assert_ok(backend->ops->pack(backend, &(struct pack_args){.src = src,
                                                              .src_stride = n_in,
                                                              .n_in = n_in,
                                                              .n_out = n_out,
                                                              .dst = dst,
                                                              .panel_stride = panel_stride}));
}

/* The packed forms of a layer's experts. */
struct packed {
    float *gate_up, *down;
};

static struct packed pack_layer(struct backend *backend, const struct layer *l)
{
    const size_t in = packed_floats(l->d, l->f);
    const size_t out = packed_floats(l->f, l->d);
    const size_t e = l->n_experts;
    const float *gate = l->params + l->x_size + l->weights_size;
    const float *up = gate + l->matrix_size;
    const float *down = up + l->matrix_size;
    struct packed p = {new_floats(2 * e * in), new_floats(e * out)};
    for (size_t i = 0; i < e; i++) {
        const size_t at = i * l->d * l->f;
        const size_t twice = 2 * PANEL_COLUMNS * l->d;
        float *const both = p.gate_up + i * 2 * in;
        pack_matrix(backend, gate + at, l->d, l->f, both, twice);
        pack_matrix(backend, up + at, l->d, l->f, both + PANEL_COLUMNS * l->d, twice);
        pack_matrix(backend, down + at, l->f, l->d, p.down + i * out, 0);
    }
    return p;
}

static void packed_free(struct packed *p)
{
    memory_free(p->gate_up);
    memory_free(p->down);
}

/* out: y (n_rows, d), then the gradients in the order of params. Rows [row, row_end) only; what
 * they add to is what out holds. */
static void run_rows(struct backend *backend, const struct layer *l, size_t row, size_t row_end,
                     float *out)
{
    struct packed p = pack_layer(backend, l);
    const size_t n = row_end - row;
    const size_t slot = row * l->top_k;
    float *const saved = new_floats(n * l->top_k * 2 * l->f);
    float *const dx = out + l->x_size;
    float *const d_gate = dx + l->x_size + l->weights_size;
    assert_ok(backend->ops->moe_ffn(backend, &(struct moe_ffn_args){
                                                 .x = l->params + row * l->d,
                                                 .x_stride = l->d,
                                                 .indices = l->indices + slot,
                                                 .weights = l->params + l->x_size + slot,
                                                 .w_gate_up = p.gate_up,
                                                 .w_down = p.down,
                                                 .y = out + row * l->d,
                                                 .y_stride = l->d,
                                                 .saved_gate_up = saved,
                                                 .n_rows = n,
                                                 .d = l->d,
                                                 .f = l->f,
                                                 .n_experts = l->n_experts,
                                                 .top_k = l->top_k,
                                             }));
    assert_ok(backend->ops->moe_ffn_backward(
        backend, &(struct moe_ffn_backward_args){
                     .dy = l->dy + row * l->d,
                     .dy_stride = l->d,
                     .x = l->params + row * l->d,
                     .x_stride = l->d,
                     .indices = l->indices + slot,
                     .weights = l->params + l->x_size + slot,
                     .saved_gate_up = saved,
                     .w_gate = l->params + l->x_size + l->weights_size,
                     .w_up = l->params + l->x_size + l->weights_size + l->matrix_size,
                     .w_down = l->params + l->x_size + l->weights_size + 2 * l->matrix_size,
                     .w_stride = l->d * l->f,
                     .dx = dx + row * l->d,
                     .dx_stride = l->d,
                     .d_weights = dx + l->x_size + slot,
                     .d_gate = d_gate,
                     .d_up = d_gate + l->matrix_size,
                     .d_down = d_gate + 2 * l->matrix_size,
                     .grad_stride = l->d * l->f,
                     .n_rows = n,
                     .d = l->d,
                     .f = l->f,
                     .n_experts = l->n_experts,
                     .top_k = l->top_k,
                 }));
    memory_free(saved);
    packed_free(&p);
}

/* y and dx start from 1, to see that they are added to. */
static void run_layer(struct backend *backend, const void *context, float *out)
{
    const struct layer *l = context;
    for (size_t i = 0; i < 2 * l->x_size; i++) {
        out[i] = 1.0F;
    }
    run_rows(backend, l, 0, l->n_rows, out);
}

/* Adds one slot's output times its weight to y (d). */
static void oracle_slot(const struct layer *l, const double *params, size_t slot, double *y)
{
    const size_t at = (size_t)l->indices[slot] * l->d * l->f;
    const double *x = params + slot / l->top_k * l->d;
    const double *gate = params + l->x_size + l->weights_size + at;
    const double *up = gate + l->matrix_size;
    const double *down = up + l->matrix_size;
    const double weight = params[l->x_size + slot];
    for (size_t i = 0; i < l->f; i++) {
        double g = 0.0;
        double u = 0.0;
        for (size_t j = 0; j < l->d; j++) {
            g += gate[i * l->d + j] * x[j];
            u += up[i * l->d + j] * x[j];
        }
        const double h = g / (1.0 + exp(-g)) * u;
        for (size_t j = 0; j < l->d; j++) {
            y[j] += weight * down[j * l->f + i] * h;
        }
    }
}

static double oracle_moe_loss(const double *params, const void *context)
{
    const struct layer *l = context;
    double *y = new_doubles(l->x_size);
    double loss = 0.0;
    for (size_t slot = 0; slot < l->weights_size; slot++) {
        oracle_slot(l, params, slot, y + slot / l->top_k * l->d);
    }
    for (size_t i = 0; i < l->x_size; i++) {
        loss += (double)l->dy[i] * y[i];
    }
    memory_free(y);
    return loss;
}

/* want: y, dx, d_weights, ... as run_layer gives them. */
static void check_layer(struct layer *l)
{
    const size_t n_out = l->x_size + n_params(l);
    float *got = new_floats(n_out);
    double *want = new_doubles(n_out);
    double *params = widen(l->params, n_params(l));
    run_everywhere(run_layer, l, n_out, got);
    for (size_t slot = 0; slot < l->weights_size; slot++) {
        oracle_slot(l, params, slot, want + slot / l->top_k * l->d);
    }
    numeric_gradient(oracle_moe_loss, l, params, n_params(l), want + l->x_size);
    for (size_t i = 0; i < 2 * l->x_size; i++) {
        want[i] += 1.0;
    }
    compare_to_double("moe", got, want, n_out, 2e-5);
    memory_free(got);
    memory_free(want);
    memory_free(params);
}

static void moe_agrees_with_the_oracle_and_its_differences(void **state)
{
    static const size_t shapes[][4] = {{1, 1, 1, 2}, {5, 7, 6, 4}, {8, 17, 3, 3}, {3, 3, 33, 2}};
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        const size_t *s = shapes[i];
        for (enum deal deal = DEAL_MIXED; deal <= DEAL_SKIP_FIRST; deal++) {
            struct layer l = layer_make(s[0], s[1], s[2], s[3], deal);
            check_layer(&l);
            layer_free(&l);
        }
    }
}

static void moe_has_the_same_bits_everywhere(void **state)
{
    static const size_t shapes[][4] = {
        {129, 17, 129, 3}, {127, 33, 8, 8}, {200, 40, 48, 8}, {64, 7, 127, 4}};
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        for (enum deal deal = DEAL_MIXED; deal <= DEAL_SKIP_FIRST; deal++) {
            struct layer l =
                layer_make(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], deal);
            const size_t n_out = l.x_size + n_params(&l);
            float *got = new_floats(n_out);
            run_everywhere(run_layer, &l, n_out, got);
            memory_free(got);
            layer_free(&l);
        }
    }
}

/* One call against several on parts of the rows, cut at cuts[]. */
static void check_cuts(const struct layer *l, const size_t *cuts, size_t n_cuts)
{
    const size_t n_out = l->x_size + n_params(l);
    float *whole = new_floats(n_out);
    float *parts = new_floats(n_out);
    struct backend *backend = NULL;
    size_t row = 0;
    assert_ok(backend_open("auto", 2, &backend));
    run_rows(backend, l, 0, l->n_rows, whole);
    for (size_t i = 0; i <= n_cuts; i++) {
        const size_t end = i < n_cuts ? cuts[i] : l->n_rows;
        run_rows(backend, l, row, end, parts);
        row = end;
    }
    assert_same_bits("moe in parts", parts, whole, n_out);
    backend_close(backend);
    memory_free(whole);
    memory_free(parts);
}

static void a_batch_may_be_cut_anywhere(void **state)
{
    static const size_t cuts[] = {1, 2, 50, 51, 120};
    static const size_t late[] = {MOE_BLOCK_ROWS - 1};
    (void)state;
    struct layer l = layer_make(150, 40, 24, 4, DEAL_MIXED);
    check_cuts(&l, cuts, sizeof(cuts) / sizeof(cuts[0]));
    layer_free(&l);
    l = layer_make(MOE_BLOCK_ROWS + 70, 16, 8, 4, DEAL_MIXED);
    check_cuts(&l, late, 1);
    layer_free(&l);
}

/* Each row alone gives its part of what all give together, and adds the same to the gradients. */
static void check_rows(const struct layer *l)
{
    const size_t n_out = l->x_size + n_params(l);
    float *whole = new_floats(n_out);
    float *alone = new_floats(n_out);
    struct backend *backend = NULL;
    assert_ok(backend_open("auto", 2, &backend));
    run_rows(backend, l, 0, l->n_rows, whole);
    for (size_t row = 0; row < l->n_rows; row++) {
        run_rows(backend, l, row, row + 1, alone);
    }
    assert_same_bits("moe row", alone, whole, n_out);
    backend_close(backend);
    memory_free(whole);
    memory_free(alone);
}

static void a_row_does_not_depend_on_the_rows_around_it(void **state)
{
    (void)state;
    struct layer l = layer_make(40, 33, 20, 4, DEAL_MIXED);
    check_rows(&l);
    layer_free(&l);
}

/* Experts of 1 or 2 whole items, and one row less or more; 2 that threads share, or 8 that are a
 * thread's each. */
static void a_row_of_a_full_item_does_not_either(void **state)
{
    static const size_t n_experts[] = {2, 8};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        const size_t n = n_experts[i % 2], n_each = MOE_ITEM_ROWS * (1 + i / 2);
        for (size_t more = 0; more < 3; more++) {
            struct layer l = layer_make((n_each - 1 + more) * n / 2, 17, 8, n, DEAL_EVEN);
            check_rows(&l);
            layer_free(&l);
        }
    }
}

static void a_steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct layer l = layer_make(300, 32, 24, 4, DEAL_MIXED);
    float *out = new_floats(l.x_size + n_params(&l));
    struct backend *backend = NULL;
    assert_ok(backend_open("auto", 2, &backend));
    run_layer(backend, &l, out);
    run_layer(backend, &l, out);
    const size_t n_live = memory_live_blocks();
    const size_t n_total = memory_total_blocks();
    run_layer(backend, &l, out);
    assert_int_equal(memory_live_blocks(), n_live);
    assert_int_equal(memory_total_blocks(), n_total + 3); /* run_rows' own */
    backend_close(backend);
    memory_free(out);
    layer_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moe_agrees_with_the_oracle_and_its_differences),
        cmocka_unit_test(moe_has_the_same_bits_everywhere),
        cmocka_unit_test(a_batch_may_be_cut_anywhere),
        cmocka_unit_test(a_row_does_not_depend_on_the_rows_around_it),
        cmocka_unit_test(a_row_of_a_full_item_does_not_either),
        cmocka_unit_test(a_steady_state_allocates_nothing),
    };
    return cmocka_run_group_tests_name("moe", tests, NULL, NULL);
}
