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

size_t packed_floats(size_t n_in, size_t n_out)
{
    return (n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS * PANEL_COLUMNS * n_in;
}
