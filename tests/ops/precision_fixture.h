/* Owns the comparison of an op in BF16 with itself in fp32. */
#ifndef HONE_TESTS_OPS_PRECISION_FIXTURE_H
#define HONE_TESTS_OPS_PRECISION_FIXTURE_H

#include "tests/ops/op_fixture.h"

#include <math.h>

/* Of the whole vector: sqrt(sum (got - want)^2 / sum want^2). */
static inline void assert_close(const char *what, const float *got, const float *want, size_t n)
{
    double error = 0.0, size = 0.0;

    for (size_t i = 0; i < n; i++) {
        const double difference = (double)got[i] - (double)want[i];
        error += difference * difference;
        size += (double)want[i] * (double)want[i];
    }
    if (!(error <= 0.02 * 0.02 * size)) {
        fail_msg("%s: relative error %g", what, sqrt(error / size));
    }
}

/* The same op in both precisions; context's precision is at *precision. */
static inline void compare_precisions(op_run *run, const void *context, enum precision *precision,
                                      const size_t *pieces, size_t n_pieces)
{
    size_t n = 0, at = 0;

    for (size_t i = 0; i < n_pieces; i++) {
        n += pieces[i];
    }
    float *plain = new_floats(n), *rounded = new_floats(n);
    *precision = PRECISION_F32;
    run_everywhere(run, context, n, plain);
    *precision = PRECISION_BF16;
    run_everywhere(run, context, n, rounded);
    for (size_t i = 0; i < n_pieces; i++) {
        assert_close("BF16 against fp32", rounded + at, plain + at, pieces[i]);
        at += pieces[i];
    }
    memory_free(plain);
    memory_free(rounded);
}

#endif
