/* Owns drawing numbers with Unicode blocks: a sparkline for the progress line, a curve for the end
 * of the demo. Pure functions of the numbers. */
#ifndef HONE_CLI_CHART_H
#define HONE_CLI_CHART_H

#include "base/status.h"

#include <stddef.h>

#define CHART_SPARK_MAX 16u

/* The last n (at most CHART_SPARK_MAX) of values, scaled to their own range, as blocks ▁..█; NaN is
 * a space. out: at least 3 * CHART_SPARK_MAX + 1 bytes. Returns out. */
const char *chart_spark(const double *values, size_t n, char *out, size_t room);

struct chart {
    const double *values; /* one a column after squeezing to `width` by averaging; finite */
    size_t n;
    double low, high; /* of the vertical axis */
    size_t width, height;
    const char *x_label; /* below: "step 1 ... 50" */
};
/* Lines of text with an axis at the left, ready to print. Caller frees *out with memory_free. */
MUST_CHECK enum status chart_curve(const struct chart *chart, char **out);

#endif
