/* Owns the way of new tokens' latents and rotary keys into the pages of the cache, and of the
 * pages' gradients back into rows. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/lanes.h"

#include <string.h>

struct copy_call {
    const struct kv_copy_args *args;
    size_t n_rows; /* up to the last one of any span */
};

static void add_part(const float *entry, float *row, size_t n)
{
    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        lanes_store(row + j, vec_add(lanes_load(row + j, left), lanes_load(entry + j, left)), left);
    }
}

static void copy_part(const struct kv_copy_args *a, float *entry, float *row, size_t n)
{
    if (a->accumulate && !a->to_pages) {
        add_part(entry, row, n);
    } else {
        memcpy(a->to_pages ? entry : row, a->to_pages ? row : entry, n * sizeof(*entry));
    }
}

static void copy_row(const struct kv_copy_args *a, const struct kv_span *span, size_t i)
{
    const size_t row = span->first_row + i, token = span->n_cached + i;
    const size_t page = (size_t)span->blocks[token / KV_BLOCK_TOKENS];
    float *entry = a->pages.data + page * a->pages.page_stride +
                   token % KV_BLOCK_TOKENS * a->pages.entry_stride + a->entry_at;

    copy_part(a, entry, a->latent + row * a->latent_stride, a->rk);
    if (a->dr > 0) {
        copy_part(a, entry + a->rk, a->rope_key + row * a->rope_key_stride, a->dr);
    }
}

/* Rows are shared out, not spans: a row that several spans have is one thread's. */
static void copy_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct copy_call *call = context;
    const struct kv_copy_args *a = call->args;
    size_t begin, end;

    pool_share(call->n_rows, thread_index, n_threads, &begin, &end);
    for (size_t s = 0; s < a->n_spans; s++) {
        const struct kv_span *span = &a->spans[s];
        const size_t first = begin > span->first_row ? begin - span->first_row : 0;
        for (size_t i = first; i < span->n_rows && span->first_row + i < end; i++) {
            copy_row(a, span, i);
        }
    }
}

enum status ISA(op_kv_copy)(struct backend *backend, const struct kv_copy_args *args)
{
    struct copy_call call = {.args = args};
    size_t n_copies = 0;

    for (size_t s = 0; s < args->n_spans; s++) {
        const size_t end = args->spans[s].first_row + args->spans[s].n_rows;
        n_copies += args->spans[s].n_rows;
        call.n_rows = end > call.n_rows ? end : call.n_rows;
    }
    cpu_run(backend, n_copies * (args->rk + args->dr), copy_task, &call);
    return STATUS_OK;
}
