#include "cli/pass_at.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

double pass_at_k(size_t n, size_t n_passed, size_t k)
{
    double n_fail = 1.0; /* chance that all k fail */

    assert(k >= 1 && k <= n && n_passed <= n);
    if (n - n_passed < k) {
        return 1.0;
    }
    for (size_t i = n - n_passed + 1; i <= n; i++) {
        n_fail *= 1.0 - (double)k / (double)i;
    }
    return 1.0 - n_fail;
}

bool pass_at_parse(const char *text, size_t n, struct pass_at_list *out)
{
    size_t last = 0;

    for (out->count = 0; out->count < PASS_AT_MAX; text++) {
        char *end = NULL;

        errno = 0;
        const unsigned long long k = strtoull(text, &end, 10);
        if (errno != 0 || *text < '0' || *text > '9' || k <= last || k > n) {
            return false;
        }
        last = (size_t)k;
        out->items[out->count++] = last;
        text = end;
        if (*text != ',') {
            return *text == '\0';
        }
    }
    return false;
}

void pass_at_default(size_t n, struct pass_at_list *out)
{
    out->count = 0;
    for (size_t k = 1; k < n && out->count + 1 < PASS_AT_MAX; k *= 2) {
        out->items[out->count++] = k;
    }
    out->items[out->count++] = n;
}
