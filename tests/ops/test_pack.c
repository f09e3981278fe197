/* pack with rounding: floats, parts, transposed ones and pairs hold just what products multiply, by
 * model/quant.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/quant.h"
#include "tests/ops/op_fixture.h"
#include "tests/ops/rounded_operand.h"

/* Everything that pack gives for one weight: rounded floats, transposed ones, a part of the rows,
 * and pairs. */
struct packing {
    float *w;
    size_t n_out, n_in, row_at, n_part;
    enum precision rounding;
};

static void run_packs(struct backend *backend, const void *context, float *out)
{
    const struct packing *p = context;
    struct pack_args args = {.src = p->w,
                             .src_stride = p->n_in,
                             .n_in = p->n_in,
                             .n_out = p->n_out,
                             .rounding = p->rounding};
    args.dst = out;
    assert_ok(backend->ops->pack(backend, &args));
    args.dst += packed_floats(p->n_in, p->n_out);
    args.src += p->row_at * p->n_in;
    args.row_at = p->row_at;
    args.whole_rows = p->n_out;
    args.n_out = p->n_part;
    assert_ok(backend->ops->pack(backend, &args));
    args.dst += packed_floats(p->n_in, p->n_part);
    args.transposed = true;
    args.n_in = p->n_part;
    args.n_out = p->n_in;
    assert_ok(backend->ops->pack(backend, &args));
    args.dst += packed_floats(p->n_part, p->n_in);
    args.precision = PRECISION_BF16;
    assert_ok(backend->ops->pack(backend, &args));
}

static float unpacked(const float *panels, size_t n_in, size_t o, size_t k)
{
    return panels[o / PANEL_COLUMNS * PANEL_COLUMNS * n_in + k * PANEL_COLUMNS + o % PANEL_COLUMNS];
}

static float unpacked_pair(const float *panels, size_t n_in, size_t o, size_t k)
{
    uint32_t word;
    memcpy(&word,
           panels + o / PANEL_COLUMNS * PANEL_COLUMNS * ((n_in + 1) / 2) + k / 2 * PANEL_COLUMNS +
               o % PANEL_COLUMNS,
           sizeof(word));
    return quant_bf16_value((uint16_t)(word >> 16 * (k % 2)));
}

static void check_packing(const struct packing *p)
{
    const size_t n = packed_floats(p->n_in, p->n_out) + packed_floats(p->n_in, p->n_part) +
                     packed_floats(p->n_part, p->n_in) +
                     packed_words(PRECISION_BF16, p->n_part, p->n_in);
    struct operand w = operand_make(p->rounding, p->w, p->n_in, p->n_out, p->n_in, QUANT_BLOCK);
    float *got = new_floats(n);
    run_everywhere(run_packs, p, n, got);
    const float *part = got + packed_floats(p->n_in, p->n_out);
    const float *turned = part + packed_floats(p->n_in, p->n_part);
    const float *pairs = turned + packed_floats(p->n_part, p->n_in);
    for (size_t i = 0; i < p->n_out * p->n_in; i++) {
        const size_t o = i / p->n_in, k = i % p->n_in, at = o - p->row_at;
        const float scale =
            p->rounding == PRECISION_FP8
                ? w.scales[o / QUANT_BLOCK * quant_blocks(p->n_in) + k / QUANT_BLOCK]
                : 1.0F;
        const float want = w.values[i] * scale;
        assert_true(unpacked(got, p->n_in, o, k) == want);
        if (o >= p->row_at && at < p->n_part) {
            assert_true(unpacked(part, p->n_in, at, k) == want);
            assert_true(unpacked(turned, p->n_part, k, at) == want);
            assert_true(unpacked_pair(pairs, p->n_part, k, at) == want);
        }
    }
    operand_free(&w);
    memory_free(got);
}

static void packed_floats_are_what_products_multiply(void **state)
{
    struct packing p = {.n_out = 300, .n_in = 150, .row_at = 100, .n_part = 77};
    (void)state;
    p.w = random_floats(p.n_out * p.n_in, 9, 0.02F);
    p.rounding = PRECISION_BF16;
    check_packing(&p);
    p.rounding = PRECISION_FP8;
    check_packing(&p);
    memory_free(p.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_floats_are_what_products_multiply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
