#include "kernels/cpu/cpu_device.h"

#include <stdbool.h>
#include <string.h>

extern const struct backend_ops cpu_ops_avx512bf16;
extern const struct backend_ops cpu_ops_avx512;
extern const struct backend_ops cpu_ops_avx2;
extern const struct backend_ops cpu_ops_portable;

burst_function fma_burst_avx512bf16, fma_burst_avx512, fma_burst_avx2, fma_burst_portable;
burst_function pair_burst_avx512bf16, pair_burst_avx512, pair_burst_avx2, pair_burst_portable;
read_function read_sum_avx512bf16, read_sum_avx512, read_sum_avx2, read_sum_portable;
math_function math_map_avx512bf16, math_map_avx512, math_map_avx2, math_map_portable;

#define N_DEVICES_MAX 4
#define DEVICE(isa)                                                                                \
    ((struct cpu_device){"cpu-" #isa, &cpu_ops_##isa, fma_burst_##isa, pair_burst_##isa,           \
                         math_map_##isa, read_sum_##isa})

/* Fastest first. The table's order decides what "auto" takes. */
static size_t list_devices(struct cpu_device out[N_DEVICES_MAX])
{
    size_t n = 0;
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 =
        has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (has_avx512 && __builtin_cpu_supports("avx512bf16") &&
        __builtin_cpu_supports("avx512vbmi")) {
        out[n++] = DEVICE(avx512bf16);
    }
    if (has_avx512) {
        out[n++] = DEVICE(avx512);
    }
    if (has_avx2) {
        out[n++] = DEVICE(avx2);
    }
    out[n++] = DEVICE(portable);
    return n;
}

static enum status unknown_device(const char *device, const struct cpu_device *devices, size_t n)
{
    const char *names[N_DEVICES_MAX] = {"", "", "", ""};
    for (size_t i = 0; i < n; i++) {
        names[i] = devices[i].name;
    }
    return status_set(STATUS_UNSUPPORTED, "no device %s here; there is auto, cpu, %s %s %s %s",
                      device, names[0], names[1], names[2], names[3]);
}

enum status cpu_device_find(const char *name, struct cpu_device *out)
{
    struct cpu_device devices[N_DEVICES_MAX];
    const size_t n = list_devices(devices);
    const bool is_any = strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0;
    for (size_t i = 0; i < n; i++) {
        if (is_any || strcmp(name, devices[i].name) == 0) {
            *out = devices[i];
            return STATUS_OK;
        }
    }
    return unknown_device(name, devices, n);
}
