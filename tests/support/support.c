/* Owns the helpers of support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FAILURE_POINTS_MAX 1000000L

bool support_shared_path(const char *relative, char *out, size_t room)
{
    const char *root = getenv("HONE_SHARED");

    if (root == NULL || root[0] == '\0') {
        root = "../shared";
    }
    const int n = snprintf(out, room, "%s/%s", root, relative);
    if (n < 0 || (size_t)n >= room || access(out, R_OK) != 0) {
        (void)fprintf(stderr,
                      "skipped: %s/%s is absent; set HONE_SHARED to the folder that has it\n", root,
                      relative);
        return false;
    }
    return true;
}

void support_temp_dir(char *out, size_t room)
{
    const char *root = getenv("TMPDIR");

    if (root == NULL || root[0] == '\0') {
        root = "/tmp";
    }
    const int n = snprintf(out, room, "%s/hone-test-XXXXXX", root);
    if (n < 0 || (size_t)n >= room || mkdtemp(out) == NULL) {
        fail_msg("cannot make a folder in %s", root);
    }
}

void support_temp_dir_remove(const char *path)
{
    assert_ok(folder_remove(path));
}

/* How far a difference is outside its tolerance: <= 0 is inside, NaN counts as infinitely far. */
static double excess_of(double got, double want, struct tolerance tolerance)
{
    if (got == want) {
        return -1.0;
    }
    const double excess = fabs(got - want) - (tolerance.absolute + tolerance.relative * fabs(want));
    return isnan(excess) ? HUGE_VAL : excess;
}

struct worst {
    size_t index, n_outside;
    double excess;
};

static void worst_update(struct worst *worst, size_t index, double excess)
{
    worst->n_outside += excess > 0 ? 1 : 0;
    if (excess > worst->excess) {
        worst->excess = excess;
        worst->index = index;
    }
}

static void refuse_worst(const char *what, const struct worst *worst, size_t n, double got,
                         double want)
{
    fail_msg(
        "%s: %zu of %zu outside the tolerance; worst at %zu: got %.9g, want %.9g (%.3g too far)",
        what, worst->n_outside, n, worst->index, got, want, worst->excess);
}

void support_compare(const char *what, const float *got, const float *want, size_t n,
                     struct tolerance tolerance)
{
    struct worst worst = {0};

    for (size_t i = 0; i < n; i++) {
        worst_update(&worst, i, excess_of((double)got[i], (double)want[i], tolerance));
    }
    if (worst.n_outside > 0) {
        refuse_worst(what, &worst, n, (double)got[worst.index], (double)want[worst.index]);
    }
}

void support_compare_double(const char *what, const double *got, const double *want, size_t n,
                            struct tolerance tolerance)
{
    struct worst worst = {0};

    for (size_t i = 0; i < n; i++) {
        worst_update(&worst, i, excess_of(got[i], want[i], tolerance));
    }
    if (worst.n_outside > 0) {
        refuse_worst(what, &worst, n, got[worst.index], want[worst.index]);
    }
}

double support_difference_max(const float *got, const float *want, size_t n)
{
    double result = 0;

    for (size_t i = 0; i < n; i++) {
        const double difference = fabs((double)got[i] - (double)want[i]);
        result = difference > result || isnan(difference) ? difference : result;
    }
    return result;
}

size_t support_fail_allocations(support_attempt *attempt, void *context)
{
    for (long n = 0; n < FAILURE_POINTS_MAX; n++) {
        const size_t n_live = memory_live_blocks();
        memory_fail_after(n);
        const enum status status = attempt(context);
        const bool is_unhurt = memory_fail_is_pending();
        memory_fail_after(-1);
        if (memory_live_blocks() != n_live) {
            fail_msg("failing allocation %ld changed the live blocks from %zu to %zu", n, n_live,
                     memory_live_blocks());
        }
        if (status == STATUS_OK && is_unhurt) {
            return (size_t)n;
        }
        if (status != STATUS_NO_MEMORY && status != STATUS_OK) {
            fail_msg("failing allocation %ld gave \"%s\": %s", n, status_name(status),
                     status_message());
        }
    }
    fail_msg("no success after %ld failure points", FAILURE_POINTS_MAX);
    return 0;
}

void support_assert_ok(enum status status, const char *expression, const char *file, int line)
{
    if (status != STATUS_OK) {
        print_error("%s: %s: %s\n", expression, status_name(status), status_message());
        _fail(file, line);
    }
}

void support_assert_status(enum status status, enum status wanted, const char *part,
                           const char *file, int line)
{
    if (status != wanted || (part != NULL && strstr(status_message(), part) == NULL)) {
        print_error("got \"%s\" (%s), want \"%s\" with \"%s\"\n", status_name(status),
                    status == STATUS_OK ? "" : status_message(), status_name(wanted),
                    part == NULL ? "" : part);
        _fail(file, line);
    }
}

size_t support_resident_bytes(void *bytes, size_t n)
{
    const size_t page = 4096;
    unsigned char *first = (unsigned char *)bytes + (page - (uintptr_t)bytes % page) % page;
    unsigned char *const end = (unsigned char *)bytes + n;
    unsigned char is_there[512];
    size_t n_there = 0;

    while (first + page <= end) {
        const size_t left = (size_t)(end - first) / page;
        const size_t n_pages = left < sizeof(is_there) ? left : sizeof(is_there);

        assert_int_equal(mincore(first, n_pages * page, is_there), 0);
        for (size_t i = 0; i < n_pages; i++) {
            n_there += is_there[i] & 1;
        }
        first += n_pages * page;
    }
    return n_there * page;
}

struct support_memory support_memory(void)
{
    const size_t page = 4096;
    char text[256];
    char *at = text;
    size_t pages[3];
    FILE *file = fopen("/proc/self/statm", "r");

    assert_non_null(file);
    assert_non_null(fgets(text, sizeof(text), file));
    assert_int_equal(fclose(file), 0);
    for (size_t i = 0; i < 3; i++) { /* all, resident, of files */
        pages[i] = strtoull(at, &at, 10);
    }
    return (struct support_memory){.resident = pages[1] * page, .mapped_files = pages[2] * page};
}
