/* Owns what the tests of ops share: every backend of this machine, random operands and numeric
 * gradients of a double oracle. Include it after cmocka.h. */
#ifndef HONE_TESTS_OPS_OP_FIXTURE_H
#define HONE_TESTS_OPS_OP_FIXTURE_H

#include "base/memory.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

/* Widths and counts around the sizes of vectors, panels and blocks. */
static const size_t edges[] = {1, 7, 8, 17, 127, 129};
#define N_EDGES (sizeof(edges) / sizeof(edges[0]))

static inline float *new_floats(size_t n)
{
    float *out = NULL;

    assert_ok(memory_alloc(n, sizeof(*out), &out));
    return out;
}

static inline double *new_doubles(size_t n)
{
    double *out = NULL;

    assert_ok(memory_alloc(n, sizeof(*out), &out));
    return out;
}

/* Zeroes and NaNs differ by their bits here. */
static inline bool same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

/* Normal numbers times scale. */
static inline float *random_floats(size_t n, uint64_t seed, float scale)
{
    float *out = new_floats(n);

    for (size_t i = 0; i < n; i++) {
        out[i] = scale * random_normal(seed, RANDOM_TEST, i, 0);
    }
    return out;
}

/* Runs an op and writes everything it computes to out (zero before). */
typedef void op_run(struct backend *backend, const void *context, float *out);

/* Runs on every instruction set with 1 and 2 threads: n floats that must be the same bits. */
static inline void run_everywhere(op_run *run, const void *context, size_t n, float *out)
{
    static const char *const devices[] = {"cpu-portable", "cpu-avx2", "cpu-avx512",
                                          "cpu-avx512bf16"};
    float *other = new_floats(n);

    memset(out, 0, n * sizeof(*out));
    for (size_t i = 0; i < 8; i++) {
        struct backend *backend = NULL;
        float *const to = i == 0 ? out : other;
        if (backend_open(devices[i / 2], 1 + i % 2, &backend) != STATUS_OK) {
            print_message("[ SKIPPED  ] %s: not on this machine\n", devices[i / 2]);
            continue;
        }
        memset(to, 0, n * sizeof(*to));
        run(backend, context, to);
        backend_close(backend);
        if (!same_bits(out, to, n * sizeof(*out))) {
            size_t at = 0;
            while (same_bits(&out[at], &to[at], sizeof(*out))) {
                at++;
            }
            fail_msg("%s, %zu threads: element %zu is %.9g, want %.9g", devices[i / 2], 1 + i % 2,
                     at, (double)to[at], (double)out[at]);
        }
    }
    memory_free(other);
}

/* got must equal want to the last bit. */
static inline void assert_same_bits(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!same_bits(&got[i], &want[i], sizeof(*got))) {
            fail_msg("%s: element %zu is %.9g, want exactly %.9g", what, i, (double)got[i],
                     (double)want[i]);
        }
    }
}

/* got (float) against want (double). */
static inline void compare_to_double(const char *what, const float *got, const double *want,
                                     size_t n, double tolerance)
{
    double *wide = new_doubles(n);

    for (size_t i = 0; i < n; i++) {
        wide[i] = (double)got[i];
    }
    support_compare_double(what, wide, want, n, (struct tolerance){tolerance, tolerance});
    memory_free(wide);
}

/* A scalar function of x in double; the rest is in context. */
typedef double oracle_loss(const double *x, const void *context);

/* Central differences of loss at x (n): good to about 1e-8 where loss is of order 1. */
static inline void numeric_gradient(oracle_loss *loss, const void *context, double *x, size_t n,
                                    double *gradient)
{
    const double step = 1e-5;

    for (size_t i = 0; i < n; i++) {
        const double at = x[i];
        x[i] = at + step;
        const double above = loss(x, context);
        x[i] = at - step;
        const double below = loss(x, context);
        x[i] = at;
        gradient[i] = (above - below) / (2.0 * step);
    }
}

static inline double *widen(const float *x, size_t n)
{
    double *out = new_doubles(n);

    for (size_t i = 0; i < n; i++) {
        out[i] = (double)x[i];
    }
    return out;
}

#endif
