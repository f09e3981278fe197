/* FP8 pages: codes and scales of entries are those of quant.h, bit for bit and where the layout has
 * them; reading back gives their values, and bfloat16 pages with coded values hold the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/quant.h"
#include "tests/ops/op_fixture.h"

#include <float.h>
#include <math.h>

#define N_ROWS ((size_t)5)
#define AT ((size_t)3) /* tokens before the rows */
#define GUARD 0xa5

/* An entry: n_groups coded groups, and n_plain values behind them. */
struct layout {
    size_t group, n_groups, n_plain;
};

struct entry_case {
    struct layout layout;
    const float *rows; /* (N_ROWS, width) */
    enum precision precision;
};

static const struct layout layouts[] = {
    {1, 1, 2},   {7, 1, 2},   {8, 1, 4},   {17, 1, 6},   {127, 1, 8},
    {128, 1, 8}, {129, 1, 4}, {256, 1, 3}, {512, 1, 64}, {1, 6, 0},
    {7, 4, 0},   {64, 6, 0},  {129, 4, 0}, {128, 2, 1},  {16, 2, 17},
};
#define N_LAYOUTS (sizeof(layouts) / sizeof(layouts[0]))

static size_t coded_values_of(struct layout l)
{
    return l.group * l.n_groups;
}

static size_t width_of(struct layout l)
{
    return coded_values_of(l) + l.n_plain;
}

static struct kv_pages pages_of(const struct entry_case *c)
{
    struct kv_pages pages = {.precision = c->precision,
                             .n_coded = coded_values_of(c->layout),
                             .coded_group = c->layout.group};

    pages.entry_stride = kv_entry_words(&pages, width_of(c->layout));
    return pages;
}

static size_t page_words(const struct entry_case *c)
{
    return pages_of(c).entry_stride * KV_STEP_TOKENS;
}

/* Entries AT .. of a page are written, then read back twice, once onto what is there; out: the
 * rows read, their doubles, the page's words. */
static void run_copy(struct backend *b, const void *context, float *out)
{
    static const int32_t block = 0;
    const struct entry_case *c = context;
    const size_t width = width_of(c->layout), n = N_ROWS * width;
    const struct kv_span span = {0, N_ROWS, AT, &block};
    float *rows = new_floats(n);
    struct kv_copy_args args = {.latent = rows,
                                .latent_stride = width,
                                .rope_key = rows + coded_values_of(c->layout),
                                .rope_key_stride = width,
                                .spans = &span,
                                .n_spans = 1,
                                .pages = pages_of(c),
                                .rk = coded_values_of(c->layout),
                                .dr = c->layout.n_plain,
                                .to_pages = true};

    args.pages.data = out + 2 * n;
    memset(args.pages.data, GUARD, page_words(c) * sizeof(float));
    memcpy(rows, c->rows, n * sizeof(float));
    assert_ok(b->ops->kv_copy(b, &args));
    args.to_pages = false;
    for (size_t i = 0; i < 2; i++) {
        args.latent = out + i * n;
        args.rope_key = args.latent + coded_values_of(c->layout);
        assert_ok(b->ops->kv_copy(b, &args));
    }
    args.accumulate = true;
    assert_ok(b->ops->kv_copy(b, &args));
    memory_free(rows);
}

/* NaNs of one kind, zeros without a sign: the oracle's may have one. */
static float plain_bits(float x)
{
    return isnan(x) ? NAN : x + 0.0F;
}

struct want {
    unsigned char *bytes; /* of the entry */
    float *values;
};

/* One group by quant.h: codes, then scales; returns what is behind them. */
static unsigned char *want_group(size_t n_values, const float *row, unsigned char *codes,
                                 float *values)
{
    unsigned char *scales = codes + n_values;

    for (size_t done = 0; done < n_values; done += QUANT_BLOCK) {
        const size_t n = n_values - done < QUANT_BLOCK ? n_values - done : QUANT_BLOCK;
        float scale;
        quant_matrix(row + done, 1, n, 1, codes + done, &scale);
        *scales++ = (unsigned char)(ilogbf(scale) + 127);
        for (size_t i = done; i < done + n; i++) {
            codes[i] = codes[i] == 0x80 ? 0 : codes[i];
            values[i] = quant_e4m3_value(codes[i]) * scale;
        }
    }
    return scales;
}

static void want_entry(struct layout l, const float *row, struct want *want)
{
    const size_t n_coded = coded_values_of(l);
    unsigned char *at = want->bytes;

    for (size_t i = 0; i < n_coded; i += l.group) {
        at = want_group(l.group, row + i, at, want->values + i);
    }
    at += (size_t)(at - want->bytes) % 2;
    for (size_t i = n_coded; i < width_of(l); i++, at += sizeof(uint16_t)) {
        const bool is_normal = fabsf(row[i]) >= FLT_MIN; /* subnormals become zero */
        const uint16_t half = quant_bf16_bits(is_normal ? row[i] : copysignf(0, row[i]));
        memcpy(at, &half, sizeof(half));
        want->values[i] = quant_bf16_value(half);
    }
}

static void check_page(const struct entry_case *c, const float *page)
{
    const size_t width = width_of(c->layout), stride = pages_of(c).entry_stride * sizeof(float);
    const void *words = page;
    const unsigned char *bytes = words;
    unsigned char *untouched = NULL;
    struct want want = {.values = new_floats(width)};

    assert_ok(memory_alloc(stride, 1, &want.bytes));
    assert_ok(memory_alloc(stride, 1, &untouched));
    memset(untouched, GUARD, stride);
    for (size_t i = 0; i < KV_STEP_TOKENS; i++) {
        const bool is_written = i >= AT && i < AT + N_ROWS;
        memset(want.bytes, GUARD, stride);
        if (is_written) {
            want_entry(c->layout, c->rows + (i - AT) * width, &want);
        }
        assert_memory_equal(bytes + i * stride, is_written ? want.bytes : untouched, stride);
    }
    memory_free(untouched);
    memory_free(want.bytes);
    memory_free(want.values);
}

static void check_values(const struct entry_case *c, const float *got)
{
    const size_t width = width_of(c->layout), n = N_ROWS * width;
    struct want want = {.values = new_floats(width)};

    assert_ok(memory_alloc(2 * width + width, 1, &want.bytes));
    for (size_t i = 0; i < N_ROWS; i++) {
        want_entry(c->layout, c->rows + i * width, &want);
        for (size_t j = 0; j < width; j++) {
            const float value = plain_bits(want.values[j]), both = plain_bits(value + value);
            assert_true(same_bits(&(float){plain_bits(got[i * width + j])}, &value, 4));
            assert_true(same_bits(&(float){plain_bits(got[n + i * width + j])}, &both, 4));
        }
    }
    memory_free(want.bytes);
    memory_free(want.values);
}

static void check_layout(struct layout layout, const float *rows)
{
    struct entry_case c = {.layout = layout, .rows = rows, .precision = PRECISION_FP8};
    const size_t n = 2 * N_ROWS * width_of(layout);
    float *got = new_floats(n + page_words(&c)), *halves;

    run_everywhere(run_copy, &c, n + page_words(&c), got);
    check_page(&c, got + n);
    check_values(&c, got);
    c.precision = PRECISION_BF16;
    halves = new_floats(n + page_words(&c));
    run_everywhere(run_copy, &c, n + page_words(&c), halves);
    assert_same_bits("halves", halves, got, n);
    memory_free(halves);
    memory_free(got);
}

static void codes_scales_and_values_are_those_of_quantised_tiles(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        float *rows = random_floats(N_ROWS * width_of(layouts[i]), i, 2.0F);
        check_layout(layouts[i], rows);
        memory_free(rows);
    }
}

/* Rows of zeros, of values too small for a code, of all magnitudes, and of the largest. */
static void zeros_and_extremes_round_like_weights(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_LAYOUTS; i++) {
        const size_t width = width_of(layouts[i]);
        float *rows = random_floats(N_ROWS * width, i, 1.0F);

        for (size_t j = 0; j < width; j++) {
            rows[j] = j % 2 == 0 ? 0.0F : -0.0F;
            rows[width + j] = j % 3 == 0 ? 0x1.8p-133F : -0x1.8p-20F;
            rows[2 * width + j] = ldexpf(rows[2 * width + j], (int)(j % 40) - 20);
            rows[3 * width + j] *= 0x1p100F;
            rows[4 * width + j] = j % 2 == 0 ? 0x1.fep127F : -0x1p120F;
        }
        check_layout(layouts[i], rows);
        memory_free(rows);
    }
}

/* The rows of a case back from its pages. */
static void read_back(struct layout layout, const float *rows, enum precision precision, float *out)
{
    const struct entry_case c = {layout, rows, precision};
    const size_t n = 2 * N_ROWS * width_of(layout);
    float *got = new_floats(n + page_words(&c));

    run_everywhere(run_copy, &c, n + page_words(&c), got);
    memcpy(out, got, n / 2 * sizeof(float));
    memory_free(got);
}

/* All of its tile, so that no attention to it can be finite. */
static void what_is_not_finite_stays_so(void **state)
{
    const struct layout layout = {150, 1, 2}; /* tiles of 128 and 22 */
    const size_t width = width_of(layout);
    float *rows = random_floats(N_ROWS * width, 5, 1.0F);
    float *codes = new_floats(N_ROWS * width), *halves = new_floats(N_ROWS * width);

    (void)state;
    rows[3] = NAN;
    rows[width + 3] = INFINITY;
    rows[2 * width + 130] = -INFINITY;
    rows[3 * width + 151] = INFINITY; /* beside the codes */
    read_back(layout, rows, PRECISION_FP8, codes);
    read_back(layout, rows, PRECISION_BF16, halves);
    assert_same_bits("halves", halves, codes, N_ROWS * width);
    for (size_t j = 0; j < width; j++) {
        assert_int_equal(isnan(codes[j]) != 0, j < 128);
        assert_int_equal(isnan(codes[width + j]) != 0, j < 128);
        assert_int_equal(isnan(codes[2 * width + j]) != 0, j >= 128 && j < 150);
        assert_int_equal(isinf(codes[3 * width + j]) != 0, j == 151);
    }
    memory_free(halves);
    memory_free(codes);
    memory_free(rows);
}

static void an_entry_is_as_long_as_its_parts(void **state)
{
    const struct kv_pages latent = {.precision = PRECISION_FP8, .n_coded = 512, .coded_group = 512};
    const struct kv_pages heads = {.precision = PRECISION_FP8, .n_coded = 384, .coded_group = 64};
    struct kv_pages half = latent;

    (void)state;
    assert_int_equal(kv_entry_words(&latent, 512 + 64) * 4, 512 + 4 + 128);
    assert_int_equal(kv_entry_words(&heads, 384) * 4, 384 + 6 + 2);
    half.precision = PRECISION_BF16;
    assert_int_equal(kv_entry_words(&half, 576) * 4, 1152);
    half.precision = PRECISION_F32;
    assert_int_equal(kv_entry_words(&half, 576) * 4, 2304);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_scales_and_values_are_those_of_quantised_tiles),
        cmocka_unit_test(zeros_and_extremes_round_like_weights),
        cmocka_unit_test(what_is_not_finite_stays_so),
        cmocka_unit_test(an_entry_is_as_long_as_its_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
