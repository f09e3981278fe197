/* Owns the way of new tokens' latents and rotary keys into the pages of the cache, and of the
 * pages' gradients back into rows. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/halves.h"
#include "kernels/cpu/simd/lanes.h"

struct copy_call {
    const struct kv_copy_args *args;
    size_t n_rows; /* up to the last one of any span */
};

/* The values of an entry, from value `at` on: floats or halves. */
struct entry {
    void *data;
    bool has_halves;
};

static struct entry entry_at(const struct kv_pages *pages, const struct kv_span *span, size_t token,
                             size_t at)
{
    const size_t page = (size_t)span->blocks[token / KV_BLOCK_TOKENS];
    void *words =
        pages->data + page * pages->page_stride + token % KV_BLOCK_TOKENS * pages->entry_stride;
    uint16_t *halves = words;
    float *floats = words;

    return pages->precision == PRECISION_BF16
               ? (struct entry){.data = halves + at, .has_halves = true}
               : (struct entry){.data = floats + at};
}

static f32x16 entry_load(const struct entry *entry, size_t j, size_t n)
{
    const uint16_t *halves = entry->data;
    const float *floats = entry->data;

    return entry->has_halves ? halves_load(halves + j, n) : lanes_load(floats + j, n);
}

static void entry_store(const struct entry *entry, size_t j, f32x16 values, size_t n)
{
    uint16_t *halves = entry->data;
    float *floats = entry->data;

    if (entry->has_halves) {
        halves_store(halves + j, values, n);
    } else {
        lanes_store(floats + j, values, n);
    }
}

static void copy_part(const struct kv_copy_args *a, struct entry entry, float *row, size_t n)
{
    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);

        if (a->to_pages) {
            entry_store(&entry, j, lanes_load(row + j, left), left);
        } else {
            const f32x16 values = entry_load(&entry, j, left);
            const f32x16 sum = a->accumulate ? vec_add(lanes_load(row + j, left), values) : values;
            lanes_store(row + j, sum, left);
        }
    }
}

static void copy_row(const struct kv_copy_args *a, const struct kv_span *span, size_t i)
{
    const size_t row = span->first_row + i, token = span->n_cached + i;

    copy_part(a, entry_at(&a->pages, span, token, a->entry_at), a->latent + row * a->latent_stride,
              a->rk);
    if (a->dr > 0) {
        copy_part(a, entry_at(&a->pages, span, token, a->entry_at + a->rk),
                  a->rope_key + row * a->rope_key_stride, a->dr);
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
