#include "trainer/speed.h"

#include "base/memory.h"
#include "kernels/bench/bench.h"

#define LOOKS ((size_t)16)

struct speed {
    struct bench_meter *meter;
    size_t n_looks;
};

enum status speed_create(struct backend *backend, enum precision precision, struct speed **out)
{
    struct speed *speed = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*speed), &speed));
    const enum status status = bench_meter_create(backend, precision, &speed->meter);
    if (status != STATUS_OK) {
        memory_free(speed);
        return status;
    }
    *out = speed;
    return STATUS_OK;
}

void speed_destroy(struct speed *speed)
{
    if (speed != NULL) {
        bench_meter_destroy(speed->meter);
        memory_free(speed);
    }
}

void speed_look(struct speed *speed)
{
    if (speed->n_looks < LOOKS) {
        bench_look_at_peak(speed->meter);
        speed->n_looks++;
    }
}

double speed_share(struct speed *speed, double flops, double seconds)
{
    const double rate = seconds > 0.0 ? flops / seconds : 0.0;
    bench_raise_peak(speed->meter, rate);
    const double peak = bench_meter_peak(speed->meter);
    return peak > 0.0 ? rate / peak : 0.0;
}
