#include "cli/chart.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Eighths of a cell, from empty to full. */
static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

const char *chart_spark(const double *values, size_t n, char *out, size_t room)
{
    const size_t n_shown = n < CHART_SPARK_MAX ? n : CHART_SPARK_MAX;
    const double *const shown = values + (n - n_shown);
    double low = INFINITY;
    double high = -INFINITY;
    for (size_t i = 0; i < n_shown; i++) {
        low = fmin(low, shown[i]); /* fmin and fmax leave NaN aside */
        high = fmax(high, shown[i]);
    }
    const double range = high > low ? high - low : 1;
    out[0] = '\0';
    size_t used = 0;
    for (size_t i = 0; i < n_shown && used + 4 <= room; i++) {
        const double share = (shown[i] - low) / range;
        const size_t level = isnan(share) ? 0 : 1 + (size_t)(share * 7 + 0.5);
        used += (size_t)snprintf(out + used, room - used, "%s", blocks[level]);
    }
    return out;
}

/* Mean of the values that fall into a column. */
static double column_value(const struct chart *chart, size_t column, size_t width)
{
    const size_t begin = column * chart->n / width;
    const size_t end = (column + 1) * chart->n / width;
    double sum = 0;
    for (size_t i = begin; i < end; i++) {
        sum += chart->values[i];
    }
    return end > begin ? sum / (double)(end - begin) : chart->low;
}

/* How full the cell `row` (0 at the bottom) of a column is, in eighths. */
static size_t cell_level(const struct chart *chart, double value, size_t row)
{
    const double share = (value - chart->low) / (chart->high - chart->low);
    const double filled = share * (double)chart->height * 8 - (double)row * 8;
    return filled <= 0 ? 0 : filled >= 8 ? 8 : (size_t)(filled + 0.5);
}

static size_t print_row(const struct chart *chart, size_t width, size_t row, char *out, size_t room)
{
    const bool has_label = row == 0 || row + 1 == chart->height;
    const double label = row == 0 ? chart->low : chart->high;
    char text[16] = "";
    if (has_label) {
        (void)snprintf(text, sizeof text, "%.2f", label);
    }
    size_t n = (size_t)snprintf(out, room, "%6s │", text);
    for (size_t column = 0; column < width; column++) {
        const double value = column_value(chart, column, width);
        n += (size_t)snprintf(out + n, room - n, "%s", blocks[cell_level(chart, value, row)]);
    }
    n += (size_t)snprintf(out + n, room - n, "\n");
    return n;
}

enum status chart_curve(const struct chart *chart, char **out)
{
    const size_t width = chart->n < chart->width ? chart->n : chart->width;
    const size_t row_bytes = width * 3 + 16;
    const size_t room = row_bytes * (chart->height + 2) + strlen(chart->x_label) + 16;
    char *text = NULL;
    size_t n = 0;
    *out = NULL;
    TRY(memory_alloc(room, 1, &text));
    for (size_t row = chart->height; row-- > 0;) {
        n += print_row(chart, width, row, text + n, room - n);
    }
    n += (size_t)snprintf(text + n, room - n, "       └");
    for (size_t column = 0; column < width; column++) {
        n += (size_t)snprintf(text + n, room - n, "─");
    }
    (void)snprintf(text + n, room - n, "\n        %s\n", chart->x_label);
    *out = text;
    return STATUS_OK;
}
