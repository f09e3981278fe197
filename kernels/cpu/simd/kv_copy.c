/* Owns the way of new tokens' latents and rotary keys into the pages of the cache, and of the
 * pages' gradients back into rows. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/kv_codes.h"

struct copy_call {
    const struct kv_copy_args *args;
    size_t n_rows; /* up to the last one of any span */
};

/* Values of an entry that lie side by side: floats, halves, or codes of one tile. */
struct piece {
    float *floats;       /* or NULL */
    void *entry;         /* whose run it is, without floats */
    struct code_run run; /* n counts floats too */
};

/* What begins with value `at` of an entry, and ends before value `end`. */
static struct piece piece_at(const struct kv_pages *pages, float *entry, size_t at, size_t end)
{
    struct code_run run;

    if (pages->precision == PRECISION_F32) {
        return (struct piece){.floats = entry + at, .run = {.n = end - at}};
    }
    run = code_run_at(pages, at, end);
    if (pages->precision == PRECISION_BF16) {
        run.at = at * sizeof(uint16_t);
        run.is_coded = false;
    }
    return (struct piece){.entry = entry, .run = run};
}

static f32x16 piece_load(const struct piece *piece, size_t j, size_t n)
{
    return piece->floats != NULL ? lanes_load(piece->floats + j, n)
                                 : code_run_load(&piece->run, piece->entry, j, n);
}

static uint16_t *halves_of(const struct piece *piece)
{
    uint16_t *const halves = piece->entry;

    return halves + piece->run.at / sizeof(*halves);
}

/* Rows to floats or halves. */
static void store_plain(const struct piece *piece, const float *row)
{
    for (size_t j = 0; j < piece->run.n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, piece->run.n);
        const f32x16 values = lanes_load(row + j, left);

        if (piece->floats != NULL) {
            lanes_store(piece->floats + j, values, left);
        } else {
            halves_store(halves_of(piece) + j, values, left);
        }
    }
}

/* A tile to codes, or to halves that are rounded like them. */
static void store_tile(const struct piece *piece, const float *row)
{
    const size_t n = piece->run.n;
    uint8_t *const bytes = piece->entry;
    uint8_t codes[FP8_BLOCK];

    if (piece->run.is_coded) {
        bytes[piece->run.scale_at] = code_tile(row, n, bytes + piece->run.at);
        return;
    }
    const uint8_t scale = code_tile(row, n, codes);
    expand_tile(codes, n, scale, halves_of(piece));
}

static void load_piece(const struct piece *piece, float *row, bool accumulate)
{
    for (size_t j = 0; j < piece->run.n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, piece->run.n);
        const f32x16 values = piece_load(piece, j, left);

        lanes_store(row + j, accumulate ? vec_add(lanes_load(row + j, left), values) : values,
                    left);
    }
}

/* n values of an entry, from value `at` on. */
static void copy_part(const struct kv_copy_args *a, float *entry, size_t at, float *row, size_t n)
{
    for (size_t done = 0; done < n;) {
        const struct piece piece = piece_at(&a->pages, entry, at + done, at + n);

        if (!a->to_pages) {
            load_piece(&piece, row + done, a->accumulate);
        } else if (at + done < a->pages.n_coded) {
            store_tile(&piece, row + done);
        } else {
            store_plain(&piece, row + done);
        }
        done += piece.run.n;
    }
}

static void copy_row(const struct kv_copy_args *a, const struct kv_span *span, size_t i)
{
    const size_t row = span->first_row + i, token = span->n_cached + i;
    const size_t page = (size_t)span->blocks[token / KV_BLOCK_TOKENS];
    float *entry = a->pages.data + page * a->pages.page_stride +
                   token % KV_BLOCK_TOKENS * a->pages.entry_stride;

    copy_part(a, entry, a->entry_at, a->latent + row * a->latent_stride, a->rk);
    if (a->dr > 0) {
        copy_part(a, entry, a->entry_at + a->rk, a->rope_key + row * a->rope_key_stride, a->dr);
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
