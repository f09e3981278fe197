/* Owns pass@k: the chance that at least one of k samples passes. */
#ifndef HONE_CLI_PASS_AT_H
#define HONE_CLI_PASS_AT_H

#include <stdbool.h>
#include <stddef.h>

#define PASS_AT_MAX ((size_t)16)

struct pass_at_list {
    size_t items[PASS_AT_MAX]; /* ascending */
    size_t count;
};

/* The unbiased estimate from n samples of which n_passed pass: 1 - C(n - n_passed, k) / C(n, k),
 * the share of all choices of k samples that hold a passing one. 1 <= k <= n, n_passed <= n. */
double pass_at_k(size_t n, size_t n_passed, size_t k);
/* "1,4,16" into *out. false: not ascending numbers from 1 to n, or more than PASS_AT_MAX. */
bool pass_at_parse(const char *text, size_t n, struct pass_at_list *out);
/* Powers of two up to n, and n. */
void pass_at_default(size_t n, struct pass_at_list *out);

#endif
