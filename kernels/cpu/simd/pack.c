/* Owns the packing of weights into panels of 32 columns, k contiguous inside a panel: the copies of
 * plain floats, and how threads share out the panels of one matrix or of many. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/attention_tile.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/pack_job.h"

#include <stdatomic.h>
#include <string.h>

void ISA(pack_turn)(const struct pack_args *args, size_t column, size_t n, size_t k, size_t n_k,
                    float *dst)
{
    const float *const src = args->src + column * args->src_stride + k;
    size_t c = 0;
    for (; c + SIMD_LANES <= n; c += SIMD_LANES) {
        ISA(tile_transpose_step)
        (src + c * args->src_stride, SIMD_LANES, args->src_stride, n_k, dst + c, PANEL_COLUMNS);
    }
    for (; c < n; c++) {
        for (size_t i = 0; i < n_k; i++) {
            dst[i * PANEL_COLUMNS + c] = src[c * args->src_stride + i];
        }
    }
}

void ISA(pack_rows)(const struct pack_args *args, size_t column, size_t n, size_t k, size_t n_k,
                    float *dst)
{
    const float *src = args->src + k * args->src_stride + column;
    for (size_t i = 0; i < n_k; i++) {
        for (size_t c = 0; c < n; c += SIMD_LANES) {
            const size_t lanes = lanes_left(c, n);
            lanes_store(dst + c, lanes_load(src + c, lanes), lanes);
        }
        src += args->src_stride;
        dst += PANEL_COLUMNS;
    }
}

static void pack_panel(const struct pack_args *args, size_t panel)
{
    const size_t stride = args->panel_stride != 0 ? args->panel_stride : PANEL_COLUMNS * args->n_in;
    const size_t column = panel * PANEL_COLUMNS;
    const size_t left = args->n_out - column;
    const size_t n = left < PANEL_COLUMNS ? left : PANEL_COLUMNS;
    float *const dst = args->dst + panel * stride;
    if (n < PANEL_COLUMNS) {
        memset(dst, 0, args->n_in * PANEL_COLUMNS * sizeof(*dst));
    }
    if (args->transposed) {
        ISA(pack_rows)(args, column, n, 0, args->n_in, dst);
    } else {
        ISA(pack_turn)(args, column, n, 0, args->n_in, dst);
    }
}

/* The jobs of one call, and the next unit that no thread has taken. */
struct pack_call {
    struct pack_job *jobs;
    size_t n_jobs, n_panels, n_scales;
    atomic_size_t next_scale, next_panel;
};

static void scales_task(void *context, size_t thread_index, size_t n_threads)
{
    struct pack_call *const call = context;
    size_t job = 0;
    (void)thread_index;
    (void)n_threads;
    for (;;) {
        const size_t scale = atomic_fetch_add(&call->next_scale, 1);
        if (scale >= call->n_scales) {
            return;
        }
        while (scale >= call->jobs[job].first_scale + call->jobs[job].n_scales) {
            job++;
        }
        ISA(pack_job_scale)(&call->jobs[job], scale - call->jobs[job].first_scale);
    }
}

static void panels_task(void *context, size_t thread_index, size_t n_threads)
{
    struct pack_call *const call = context;
    size_t job = 0;
    (void)thread_index;
    (void)n_threads;
    for (;;) {
        const size_t panel = atomic_fetch_add(&call->next_panel, 1);
        if (panel >= call->n_panels) {
            return;
        }
        while (panel >= call->jobs[job].first_panel + call->jobs[job].n_panels) {
            job++;
        }
        const struct pack_job *const of = &call->jobs[job];
        if (of->args.precision == PRECISION_F32 && of->rounding == PRECISION_F32) {
            pack_panel(&of->args, panel - of->first_panel);
        } else {
            ISA(pack_job_panel)(of, panel - of->first_panel);
        }
    }
}

/* Plans the jobs; returns the elements of all matrices. */
static size_t plan_jobs(const struct pack_args *args, struct pack_call *call)
{
    size_t n_elements = 0;
    for (size_t i = 0; i < call->n_jobs; i++) {
        struct pack_job *const job = &call->jobs[i];
        ISA(pack_job_plan)(&args[i], job);
        job->first_panel = call->n_panels;
        job->first_scale = call->n_scales;
        call->n_panels += job->n_panels;
        call->n_scales += job->n_scales;
        n_elements += args[i].n_in * args[i].n_out;
    }
    return n_elements;
}

enum status ISA(pack_all)(struct backend *backend, const struct pack_args *args, size_t n)
{
    struct pack_call call = {.n_jobs = n};
    float *scales = NULL;
    TRY(cpu_scratch_acquire(backend, n, sizeof(*call.jobs), &call.jobs));
    const size_t n_elements = plan_jobs(args, &call);
    const enum status status =
        cpu_scratch_acquire(backend, call.n_scales, sizeof(*scales), &scales);
    if (status == STATUS_OK) {
        for (size_t i = 0; i < n; i++) {
            call.jobs[i].scales = scales + call.jobs[i].first_scale;
        }
        if (call.n_scales > 0) {
            cpu_run(backend, 4 * n_elements, scales_task, &call);
        }
        cpu_run(backend, 4 * n_elements, panels_task, &call);
        cpu_scratch_release(backend, scales);
    }
    cpu_scratch_release(backend, call.jobs);
    return status;
}

enum status ISA(op_pack)(struct backend *backend, const struct pack_args *args)
{
    return ISA(pack_all)(backend, args, 1);
}
