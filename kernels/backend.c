/* Owns the way from a device name to a backend. The CPU is the only kind of device here. */
#include "kernels/backend.h"

#include "kernels/cpu/cpu_backend.h"

enum status backend_open(const char *device, size_t n_threads, struct backend **out)
{
    return cpu_backend_open(device, n_threads, out);
}

void backend_close(struct backend *backend)
{
    cpu_backend_close(backend);
}

void backend_rehearse(struct backend *backend, bool is_rehearsing)
{
    cpu_backend_rehearse(backend, is_rehearsing);
}

size_t backend_scratch_bytes(const struct backend *backend)
{
    return cpu_scratch_bytes(backend);
}

void backend_rest(struct backend *backend)
{
    cpu_backend_rest(backend);
}

size_t packed_floats(size_t n_in, size_t n_out)
{
    return (n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS * PANEL_COLUMNS * n_in;
}

size_t packed_words(enum precision precision, size_t n_in, size_t n_out)
{
    const size_t n_panels = (n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    const size_t n_pairs = (n_in + 1) / 2;

    switch (precision) {
    case PRECISION_BF16:
        return n_panels * n_pairs * PANEL_COLUMNS;
    case PRECISION_FP8:
        return n_panels * (packed_scale_words(n_in) + n_pairs * PANEL_COLUMNS / 2);
    case PRECISION_F32:
        break;
    }
    return packed_floats(n_in, n_out);
}

size_t kv_entry_words(const struct kv_pages *pages, size_t n_values)
{
    const size_t n_coded = pages->n_coded;

    switch (pages->precision) {
    case PRECISION_BF16:
        return (n_values + 1) / 2;
    case PRECISION_FP8: /* codes and scales, to an even number of bytes; the others */
        return ((n_coded + kv_tiles(pages) + 1) / 2 + n_values - n_coded + 1) / 2;
    case PRECISION_F32:
        break;
    }
    return n_values;
}
