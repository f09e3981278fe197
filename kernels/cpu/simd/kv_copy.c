/* Owns the way of new tokens' latents and rotary keys into the pages of the cache, and of the
 * pages' gradients back into rows. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <string.h>

static void copy_part(float *entry, float *row, size_t n, bool to_pages)
{
    memcpy(to_pages ? entry : row, to_pages ? row : entry, n * sizeof(*entry));
}

static void copy_row(const struct kv_copy_args *a, const struct kv_span *span, size_t i)
{
    const size_t row = span->first_row + i, token = span->n_cached + i;
    const size_t page = (size_t)span->blocks[token / KV_BLOCK_TOKENS];
    float *entry = a->pages.data + page * a->pages.page_stride +
                   token % KV_BLOCK_TOKENS * a->pages.entry_stride + a->entry_at;

    copy_part(entry, a->latent + row * a->latent_stride, a->rk, a->to_pages);
    if (a->dr > 0) {
        copy_part(entry + a->rk, a->rope_key + row * a->rope_key_stride, a->dr, a->to_pages);
    }
}

static void copy_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct kv_copy_args *a = context;
    size_t begin, end;

    pool_share(a->n_spans, thread_index, n_threads, &begin, &end);
    for (size_t s = begin; s < end; s++) {
        for (size_t i = 0; i < a->spans[s].n_rows; i++) {
            copy_row(a, &a->spans[s], i);
        }
    }
}

enum status ISA(op_kv_copy)(struct backend *backend, const struct kv_copy_args *args)
{
    struct kv_copy_args a = *args;
    size_t n_rows = 0;

    for (size_t s = 0; s < a.n_spans; s++) {
        n_rows += a.spans[s].n_rows;
    }
    cpu_run(backend, n_rows * (a.rk + a.dr), copy_task, &a);
    return STATUS_OK;
}
