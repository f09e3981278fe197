/* SwiGLU, AdamW, sum_squares, fill, and the functions of simd_math.h: bits equal everywhere, values
 * by a double oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/cpu_backend.h"
#include "tests/ops/op_fixture.h"

#include <math.h>

/* Floats spread over all bit patterns, a prime apart. */
#define SAMPLE_STRIDE UINT64_C(4093)
#define N_SAMPLES ((size_t)((UINT64_C(1) << 32) / SAMPLE_STRIDE))

static double exp_oracle(double x)
{
    return exp(x);
}

static double log_oracle(double x)
{
    return log(x);
}

static double sigmoid_oracle(double x)
{
    return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x));
}

static double silu_oracle(double x)
{
    return x == -HUGE_VAL ? (double)NAN : x * sigmoid_oracle(x);
}

static const struct {
    const char *name;
    enum cpu_math function;
    double (*oracle)(double);
    double ulp_max;
    double exempt_below; /* of |result|: silu multiplies a subnormal sigmoid there */
} functions[] = {
    {"exp", CPU_MATH_EXP, exp_oracle, 0.88, 0.0},
    {"log", CPU_MATH_LOG, log_oracle, 0.91, 0.0},
    {"sigmoid", CPU_MATH_SIGMOID, sigmoid_oracle, 2.5, 0.0},
    {"silu", CPU_MATH_SILU, silu_oracle, 3.0, 0x1p-119},
};

/* Distance of got from want in units of want's last place as a float. */
static double ulp_distance(float got, double want)
{
    const float rounded = (float)want;
    int exponent = 0;
    if (isnan(want) || isinf(rounded) || isinf(got)) {
        const bool is_same = isnan(want) ? isnan(got) : got == rounded;
        return is_same ? 0.0 : HUGE_VAL;
    }
    (void)frexp(want, &exponent);
    exponent -= 24;
    return fabs((double)got - want) / ldexp(1.0, exponent < -149 ? -149 : exponent);
}

static void run_math(struct backend *backend, const void *context, float *out)
{
    const enum cpu_math *const function = context;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        const uint32_t bits = (uint32_t)(i * SAMPLE_STRIDE);
        memcpy(&out[i], &bits, sizeof(bits));
    }
    cpu_math_map(backend, *function, out, out, N_SAMPLES);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        out[i] = isnan(out[i]) ? NAN : out[i]; /* which NaN is not promised */
    }
}

/* Worst distance of got (N_SAMPLES results of functions[f]); fails beyond the function's bound. */
static double check_ulp(size_t f, const float *got)
{
    double worst = 0.0;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        const uint32_t bits = (uint32_t)(i * SAMPLE_STRIDE);
        float x = 0.0F;
        memcpy(&x, &bits, sizeof(x));
        const double want = functions[f].oracle((double)x);
        if (fabs(want) < functions[f].exempt_below && isfinite(got[i])) {
            continue;
        }
        const double distance = ulp_distance(got[i], want);
        worst = distance > worst ? distance : worst;
        if (distance > functions[f].ulp_max) {
            fail_msg("%s(%a) is %a: %.2f ulp", functions[f].name, (double)x, (double)got[i],
                     distance);
        }
    }
    return worst;
}

static void math_has_the_same_bits_everywhere_and_few_ulp(void **state)
{
    (void)state;
    float *got = new_floats(N_SAMPLES);
    for (size_t f = 0; f < sizeof(functions) / sizeof(functions[0]); f++) {
        run_everywhere(run_math, &functions[f].function, N_SAMPLES, got);
        print_message("%s: %.3f ulp\n", functions[f].name, check_ulp(f, got));
    }
    memory_free(got);
}

static void math_at_special_points(void **state)
{
    static const struct {
        enum cpu_math function;
        float x, want;
    } points[] = {
        {CPU_MATH_EXP, 0.0F, 1.0F},         {CPU_MATH_EXP, -0.0F, 1.0F},
        {CPU_MATH_EXP, -INFINITY, 0.0F},    {CPU_MATH_EXP, INFINITY, INFINITY},
        {CPU_MATH_EXP, 89.0F, INFINITY},    {CPU_MATH_EXP, -104.0F, 0.0F},
        {CPU_MATH_EXP, -103.0F, 0x1p-149F}, {CPU_MATH_LOG, 1.0F, 0.0F},
        {CPU_MATH_LOG, 0.0F, -INFINITY},    {CPU_MATH_LOG, -0.0F, -INFINITY},
        {CPU_MATH_LOG, INFINITY, INFINITY}, {CPU_MATH_SIGMOID, 0.0F, 0.5F},
        {CPU_MATH_SIGMOID, INFINITY, 1.0F}, {CPU_MATH_SIGMOID, -INFINITY, 0.0F},
        {CPU_MATH_SILU, 0.0F, 0.0F},        {CPU_MATH_SILU, 100.0F, 100.0F},
    };
    (void)state;
    struct backend *backend = NULL;
    assert_ok(backend_open("auto", 1, &backend));
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        float got = 0.0F;
        cpu_math_map(backend, points[i].function, &points[i].x, &got, 1);
        assert_same_bits("special point", &got, &points[i].want, 1);
    }
    float got = -1.0F;
    const float minus_one = -1.0F;
    cpu_math_map(backend, CPU_MATH_LOG, &minus_one, &got, 1);
    assert_true(isnan(got));
    backend_close(backend);
}

/* gate, up, dh in this order, each (n_rows, f) with a stride of its own. */
struct swiglu_case {
    size_t n_rows, f;
    const float *in;
};

static void run_swiglu(struct backend *backend, const void *context, float *out)
{
    const struct swiglu_case *c = context;
    const size_t n = c->n_rows * c->f;
    assert_ok(backend->ops->swiglu(backend, &(struct swiglu_args){.gate = c->in,
                                                                  .up = c->in + n,
                                                                  .in_stride = c->f,
                                                                  .h = out,
                                                                  .h_stride = c->f,
                                                                  .n_rows = c->n_rows,
                                                                  .f = c->f}));
    assert_ok(
        backend->ops->swiglu_backward(backend, &(struct swiglu_backward_args){.gate = c->in,
                                                                              .up = c->in + n,
                                                                              .in_stride = c->f,
                                                                              .dh = c->in + 2 * n,
                                                                              .dh_stride = c->f,
                                                                              .d_gate = out + n,
                                                                              .d_up = out + 2 * n,
                                                                              .d_stride = c->f,
                                                                              .n_rows = c->n_rows,
                                                                              .f = c->f}));
}

/* sum of dh * silu(gate) * up over x = gate, up. */
static double swiglu_loss(const double *x, const void *context)
{
    const struct swiglu_case *c = context;
    const size_t n = c->n_rows * c->f;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)c->in[2 * n + i] * silu_oracle(x[i]) * x[n + i];
    }
    return sum;
}

static void swiglu_agrees_with_the_oracle_and_its_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES; i++) {
        const size_t n = 3 * edges[i];
        float *in = random_floats(3 * n, i + 1, 1.5F);
        const struct swiglu_case c = {3, edges[i], in};
        float *got = new_floats(3 * n);
        double *want = new_doubles(3 * n);
        double *wide = widen(in, 2 * n);
        run_everywhere(run_swiglu, &c, 3 * n, got);
        for (size_t j = 0; j < n; j++) {
            want[j] = silu_oracle(wide[j]) * wide[n + j];
        }
        numeric_gradient(swiglu_loss, &c, wide, 2 * n, want + n);
        compare_to_double("swiglu", got, want, 3 * n, 2e-6);
        memory_free(in);
        memory_free(got);
        memory_free(want);
        memory_free(wide);
    }
}

struct adamw_case {
    size_t n;
    const float *in; /* w, m, v, g */
};

static struct adamw_args adamw_arguments(const struct adamw_case *c, float *out)
{
    return (struct adamw_args){.w = out,
                               .m = out + c->n,
                               .v = out + 2 * c->n,
                               .g = c->in + 3 * c->n,
                               .n = c->n,
                               .lr = 1e-3F,
                               .beta1 = 0.9F,
                               .beta2 = 0.95F,
                               .eps = 1e-8F,
                               .weight_decay = 0.1F,
                               .grad_scale = 0.5F,
                               .correction1 = 0.271F,
                               .correction2 = 0.142625F};
}

static void run_adamw(struct backend *backend, const void *context, float *out)
{
    const struct adamw_case *c = context;
    const struct adamw_args args = adamw_arguments(c, out);
    memcpy(out, c->in, 3 * c->n * sizeof(*out));
    for (size_t i = 2 * c->n; i < 3 * c->n; i++) {
        out[i] *= out[i]; /* v is not negative */
    }
    assert_ok(backend->ops->adamw(backend, &args));
}

static void adamw_takes_the_step_of_the_formula(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_EDGES; i++) {
        const size_t n = edges[i] * 50;
        float *in = random_floats(4 * n, i + 20, 1.0F);
        const struct adamw_case c = {n, in};
        const struct adamw_args a = adamw_arguments(&c, in);
        float *got = new_floats(3 * n);
        double *want = new_doubles(3 * n);
        run_everywhere(run_adamw, &c, 3 * n, got);
        for (size_t j = 0; j < n; j++) {
            const double g = (double)in[3 * n + j] * (double)a.grad_scale;
            const double root = (double)in[2 * n + j];
            const double m = 0.9 * (double)in[n + j] + 0.1 * g;
            const double v = 0.95 * root * root + 0.05 * g * g;
            const double step =
                m / (double)a.correction1 / (sqrt(v / (double)a.correction2) + (double)a.eps);
            want[j] = (double)in[j] - 1e-3 * (step + 0.1 * (double)in[j]);
            want[n + j] = m;
            want[2 * n + j] = v;
        }
        compare_to_double("adamw", got, want, 3 * n, 1e-6);
        memory_free(in);
        memory_free(got);
        memory_free(want);
    }
}

struct flat_case {
    size_t n;
    const float *in;
};

static void run_sum_squares(struct backend *backend, const void *context, float *out)
{
    const struct flat_case *c = context;
    double sum = -1.0;
    assert_ok(backend->ops->sum_squares(backend, c->in, c->n, &sum));
    memcpy(out, &sum, sizeof(sum));
}

static void sum_squares_is_the_same_double_everywhere(void **state)
{
    static const size_t sizes[] = {0, 1, 17, 4095, 4096, 4097, 200001};
    (void)state;
    float *in = random_floats(200001, 30, 1.0F);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const struct flat_case c = {sizes[i], in};
        float out[2] = {0.0F, 0.0F};
        double want = 0.0;
        double got = 0.0;
        run_everywhere(run_sum_squares, &c, 2, out);
        memcpy(&got, out, sizeof(got));
        for (size_t j = 0; j < sizes[i]; j++) {
            want += (double)in[j] * (double)in[j];
        }
        assert_true(fabs(got - want) <= 1e-12 * want);
    }
    memory_free(in);
}

static void fill_sets_every_element_and_no_other(void **state)
{
    (void)state;
    struct backend *backend = NULL;
    float *x = new_floats(100002);
    assert_ok(backend_open("auto", 2, &backend));
    assert_ok(backend->ops->fill(backend, x + 1, 100000, 2.5F));
    assert_true(x[0] == 0.0F && x[100001] == 0.0F);
    for (size_t i = 1; i <= 100000; i++) {
        assert_true(x[i] == 2.5F);
    }
    backend_close(backend);
    memory_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(math_has_the_same_bits_everywhere_and_few_ulp),
        cmocka_unit_test(math_at_special_points),
        cmocka_unit_test(swiglu_agrees_with_the_oracle_and_its_differences),
        cmocka_unit_test(adamw_takes_the_step_of_the_formula),
        cmocka_unit_test(sum_squares_is_the_same_double_everywhere),
        cmocka_unit_test(fill_sets_every_element_and_no_other),
    };
    return cmocka_run_group_tests_name("elementwise", tests, NULL, NULL);
}
