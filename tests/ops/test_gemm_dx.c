/* gemm_dx: the bits of gemm on a transposed copy that pack made whole, values by a double oracle;
 * whatever the parts, pieces, heads, threads and instruction sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/ops/op_fixture.h"

#include <math.h>

static const enum precision precisions[] = {PRECISION_F32, PRECISION_BF16};
static const enum precision roundings[] = {PRECISION_F32, PRECISION_BF16, PRECISION_FP8};

/* parts: their rows, 0 = no such part; each begins at the next panel border. */
struct problem {
    enum precision precision, rounding;
    size_t n_rows, n_in, n_out, n_batch;
    size_t parts[GEMM_DX_PARTS];
    bool is_transposed, accumulate;
    float *dy, *w, *dx;
    size_t dy_stride, dx_stride, w_stride, part_floats;
};

static struct problem problem_make(size_t n_rows, size_t n_in, size_t n_out)
{
    return (struct problem){
        .n_rows = n_rows, .n_in = n_in, .n_out = n_out, .n_batch = 1, .parts = {n_out}};
}

/* A head's first column of dx and dy. */
static size_t dx_batch(const struct problem *p)
{
    return p->n_in + 1;
}

static size_t dx_floats(const struct problem *p)
{
    return p->n_rows * p->dx_stride;
}

static void problem_fill(struct problem *p)
{
    p->dy_stride = p->n_batch * p->n_out + 3;
    p->dx_stride = p->n_batch * dx_batch(p) + 4;
    p->w_stride = p->is_transposed ? p->n_out : p->n_in;
    p->part_floats = p->n_batch * p->n_in * p->n_out;
    p->dy = random_floats(p->n_rows * p->dy_stride, 1, 1.0F);
    p->w = random_floats(GEMM_DX_PARTS * p->part_floats, 2, 1.0F);
    /* FP8: blocks of different scales, so that a wrong one shows. */
    for (size_t i = 0; i < GEMM_DX_PARTS * p->part_floats; i++) {
        p->w[i] *= (float)(1 << 2 * (i / p->w_stride / FP8_BLOCK % 3));
    }
    p->dx = random_floats(dx_floats(p), 3, 1.0F);
}

static void problem_free(struct problem *p)
{
    memory_free(p->dy);
    memory_free(p->w);
    memory_free(p->dx);
}

/* A head's weights in a part: rows of one whole weight, as kv_b has them. */
static size_t w_batch(const struct problem *p)
{
    return p->n_in * p->n_out;
}

static size_t whole_rows(const struct problem *p)
{
    return p->n_batch > 1 ? p->n_batch * (w_batch(p) / p->w_stride) : 0;
}

static size_t part_at(const struct problem *p, size_t part)
{
    size_t at = 0;
    for (size_t i = 0; i < part; i++) {
        at = (at + p->parts[i] + PANEL_COLUMNS - 1) / PANEL_COLUMNS * PANEL_COLUMNS;
    }
    return at;
}

static void run_dx(struct backend *backend, const void *context, float *out)
{
    const struct problem *p = context;
    struct gemm_dx_args args = {
        .dy = p->dy,
        .dy_stride = p->dy_stride,
        .w_stride = p->w_stride,
        .is_transposed = p->is_transposed,
        .accumulate = p->accumulate,
        .precision = p->precision,
        .rounding = p->rounding,
        .dx = out,
        .dx_stride = p->dx_stride,
        .n_rows = p->n_rows,
        .n_in = p->n_in,
        .n_out = p->n_out,
        .n_batch = p->n_batch,
        .dy_batch = p->n_out,
        .w_batch = w_batch(p),
        .dx_batch = dx_batch(p),
    };
    for (; args.n_parts < GEMM_DX_PARTS && p->parts[args.n_parts] > 0; args.n_parts++) {
        args.parts[args.n_parts] = (struct gemm_dx_part){.w = p->w + args.n_parts * p->part_floats,
                                                         .n = p->parts[args.n_parts],
                                                         .at = part_at(p, args.n_parts),
                                                         .whole_rows = whole_rows(p)};
    }
    memcpy(out, p->dx, dx_floats(p) * sizeof(*out));
    assert_ok(backend->ops->gemm_dx(backend, &args));
}

/* One head through pack and gemm, whole. */
static void packed_head(struct backend *backend, const struct problem *p, size_t batch, float *out)
{
    const size_t panel = packed_words(p->precision, p->n_out, 1);
    float *packed = new_floats(packed_words(p->precision, p->n_out, p->n_in));
    for (size_t i = 0; i < GEMM_DX_PARTS && p->parts[i] > 0; i++) {
        assert_ok(backend->ops->pack(
            backend,
            &(struct pack_args){.src = p->w + i * p->part_floats + batch * w_batch(p),
                                .src_stride = p->w_stride,
                                .n_in = p->parts[i],
                                .n_out = p->n_in,
                                .transposed = !p->is_transposed,
                                .dst = packed + packed_words(p->precision, part_at(p, i), 1),
                                .panel_stride = panel,
                                .precision = p->precision,
                                .rounding = p->rounding,
                                .row_at = batch * (w_batch(p) / p->w_stride),
                                .whole_rows = whole_rows(p)}));
    }
    assert_ok(backend->ops->gemm(backend, &(struct gemm_args){.x = p->dy + batch * p->n_out,
                                                              .x_stride = p->dy_stride,
                                                              .w = packed,
                                                              .precision = p->precision,
                                                              .y = out + batch * dx_batch(p),
                                                              .y_stride = p->dx_stride,
                                                              .n_rows = p->n_rows,
                                                              .n_in = p->n_out,
                                                              .n_out = p->n_in,
                                                              .accumulate = p->accumulate}));
    memory_free(packed);
}

/* Against a double sum of the unrounded values; tolerance: of the products' rounding. */
static void compare_to_oracle(const struct problem *p, const float *got)
{
    const double tolerance = p->precision == PRECISION_F32 && p->rounding == PRECISION_F32 ? 1e-4
                             : p->rounding == PRECISION_FP8                                ? 0.15
                                                                                           : 0.02;
    for (size_t at = 0; at < p->n_rows * p->n_in; at++) {
        const size_t row = at / p->n_in, column = at % p->n_in;
        double sum = p->accumulate ? (double)p->dx[row * p->dx_stride + column] : 0.0;
        double size = 1.0;
        for (size_t k = 0; k < p->n_out; k++) {
            const size_t w_at =
                p->is_transposed ? column * p->w_stride + k : k * p->w_stride + column;
            const double product = (double)p->dy[row * p->dy_stride + k] * (double)p->w[w_at];
            sum += product;
            size += product * product;
        }
        const double error = fabs((double)got[row * p->dx_stride + column] - sum);
        if (error > tolerance * sqrt(size)) {
            fail_msg("row %zu column %zu is off by %g of %g", row, column, error, sqrt(size));
        }
    }
}

static void check(struct problem p)
{
    struct backend *backend = NULL;
    problem_fill(&p);
    float *got = new_floats(dx_floats(&p)), *want = new_floats(dx_floats(&p));
    memcpy(want, p.dx, dx_floats(&p) * sizeof(*want));
    run_everywhere(run_dx, &p, dx_floats(&p), got);
    assert_ok(backend_open("auto", 1, &backend));
    for (size_t batch = 0; batch < p.n_batch; batch++) {
        packed_head(backend, &p, batch, want);
    }
    assert_same_bits("gemm_dx", got, want, dx_floats(&p));
    if (p.parts[1] == 0) {
        compare_to_oracle(&p, got);
    }
    backend_close(backend);
    memory_free(got);
    memory_free(want);
    problem_free(&p);
}

static void check_all_forms(struct problem p)
{
    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < 3; j++) {
            p.precision = precisions[i];
            p.rounding = roundings[j];
            check(p);
        }
    }
}

static void gemm_dx_is_gemm_on_a_transposed_copy(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES * N_EDGES; i++) {
        struct problem p =
            problem_make(edges[i % 5], edges[i / N_EDGES], edges[(i + i / N_EDGES) % N_EDGES]);
        p.is_transposed = i % 2 == 1;
        p.accumulate = i % 3 == 2;
        check_all_forms(p);
    }
}

static void parts_side_by_side_are_one_chain(void **state)
{
    (void)state;
    struct problem p = problem_make(17, 129, 64 + 96 + 5);
    p.parts[0] = 45;
    p.parts[1] = 71;
    p.parts[2] = 5;
    check_all_forms(p);
    p.n_out = 32 + 127;
    p.parts[0] = 8;
    p.parts[1] = 127;
    p.parts[2] = 0;
    p.accumulate = true;
    check_all_forms(p);
}

static void heads_have_their_own_weights(void **state)
{
    (void)state;
    struct problem p = problem_make(9, 33, 24);
    p.n_batch = 7;
    check_all_forms(p);
    p.is_transposed = true;
    check_all_forms(p);
}

static void long_sums_are_cut_without_a_trace(void **state)
{
    (void)state;
    struct problem p = problem_make(7, 520, 2100);
    check_all_forms(p);
    p = problem_make(3, 260, 5000);
    p.parts[0] = 3400;
    p.parts[1] = 5000 - part_at(&p, 1);
    check_all_forms(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_dx_is_gemm_on_a_transposed_copy),
        cmocka_unit_test(parts_side_by_side_are_one_chain),
        cmocka_unit_test(heads_have_their_own_weights),
        cmocka_unit_test(long_sums_are_cut_without_a_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
