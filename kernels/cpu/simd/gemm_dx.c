/* Owns dx = dy . w with w as it lies in memory, the product by which a gradient passes a linear
 * layer. The weights are packed into scratch and multiplied as in op_gemm; a product whose packed
 * weights would be long is cut over n_out, and each piece goes on from the sums of the piece
 * before, so that cuts change no bit. Packing reads a weight once where n_rows multiply it: 2 % of
 * the time of 2,048 rows. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"

#include <string.h>

/* Words of packed weights that exist at a time: they stay in the caches until they are used. */
#define PIECE_WORDS ((size_t)1 << 19)
/* Pieces are cut here: at K blocks, and where FP8 has its blocks. */
#define PIECE_STEP FP8_BLOCK

/* Columns [k, k_end) of dy, of heads [batch, batch_end). */
struct piece {
    size_t k, k_end, batch, batch_end;
    size_t panel_words, words; /* packed: of a panel, of one head */
    float *packed;
};

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t batches_of(const struct gemm_dx_args *args)
{
    return args->n_batch == 0 ? 1 : args->n_batch;
}

/* Columns of dy in a piece. What is accumulated is added at the end of a whole chain. */
static size_t piece_columns(const struct gemm_dx_args *args)
{
    const size_t of_step = packed_words(args->precision, PIECE_STEP, args->n_in);
    const size_t n_steps = PIECE_WORDS / of_step;
    if (args->accumulate || batches_of(args) > 1) {
        return args->n_out;
    }
    return min_size(args->n_out, PIECE_STEP * (n_steps > 0 ? n_steps : 1));
}

/* The rows of a part that a piece covers, of one head. False if there are none. */
static bool plan_part(const struct gemm_dx_args *args, const struct piece *piece, size_t batch,
                      const struct gemm_dx_part *part, struct pack_args *out)
{
    const size_t begin = part->at > piece->k ? part->at : piece->k;
    const size_t end = min_size(part->at + part->n, piece->k_end);
    if (begin >= end) {
        return false;
    }
    const size_t skip = begin - part->at;
    const float *const w = part->w + batch * args->w_batch;
    *out = (struct pack_args){
        .src = w + (args->is_transposed ? skip : skip * args->w_stride),
        .src_stride = args->w_stride,
        .n_in = end - begin,
        .n_out = args->n_in,
        .transposed = !args->is_transposed,
        .dst = piece->packed + (batch - piece->batch) * piece->words +
               packed_words(args->precision, begin - piece->k, 1),
        .panel_stride = piece->panel_words,
        .precision = args->precision,
        .rounding = args->rounding,
        .row_at = part->row_at + batch * (args->w_batch / args->w_stride),
        .whole_rows = part->whole_rows,
    };
    if (!args->is_transposed) {
        out->row_at += skip;
        out->whole_rows = part->whole_rows != 0 ? part->whole_rows : part->n;
    }
    return true;
}

/* Columns of dy between part i and the next one that the piece has. False if there are none. */
static bool find_gap(const struct gemm_dx_args *args, const struct piece *piece, size_t i,
                     size_t *begin, size_t *end)
{
    const size_t part_end = args->parts[i].at + args->parts[i].n;
    *begin = part_end > piece->k ? part_end : piece->k;
    *begin += args->precision == PRECISION_BF16 ? *begin % 2 : 0;
    *end = min_size(args->parts[i + 1].at, piece->k_end);
    return *begin < *end;
}

struct gaps {
    const struct gemm_dx_args *args;
    const struct piece *piece;
};

/* Zeroes for columns of dy between two parts; on the caller's thread. */
static void clear_gaps_task(void *context, size_t thread_index, size_t n_threads)
{
    const struct gaps *const gaps = context;
    const struct gemm_dx_args *const args = gaps->args;
    const struct piece *const piece = gaps->piece;
    size_t begin = 0;
    size_t end = 0;
    (void)n_threads;
    for (size_t i = 0; thread_index == 0 && i + 1 < args->n_parts; i++) {
        if (!find_gap(args, piece, i, &begin, &end)) {
            continue;
        }
        const size_t at = packed_words(args->precision, begin - piece->k, 1);
        const size_t n = packed_words(args->precision, end - begin, 1);
        for (size_t panel = 0; panel * piece->panel_words < piece->words; panel++) {
            memset(piece->packed + panel * piece->panel_words + at, 0, n * sizeof(float));
        }
    }
}

static enum status pack_piece(struct backend *backend, const struct gemm_dx_args *args,
                              const struct piece *piece)
{
    const size_t n_max = (piece->batch_end - piece->batch) * args->n_parts;
    struct pack_args *packs = NULL;
    size_t n = 0;
    TRY(cpu_scratch_acquire(backend, n_max, sizeof(*packs), &packs));
    for (size_t batch = piece->batch; batch < piece->batch_end; batch++) {
        for (size_t i = 0; i < args->n_parts; i++) {
            n += plan_part(args, piece, batch, &args->parts[i], &packs[n]);
        }
    }
    cpu_run(backend, 0, clear_gaps_task, &(struct gaps){args, piece});
    const enum status status = ISA(pack_all)(backend, packs, n);
    cpu_scratch_release(backend, packs);
    return status;
}

static enum status run_piece(struct backend *backend, const struct gemm_dx_args *args,
                             const struct piece *piece, bool continues)
{
    TRY(pack_piece(backend, args, piece));
    return ISA(gemm_piece)(
        backend,
        &(struct gemm_args){.x = args->dy + piece->batch * args->dy_batch + piece->k,
                            .x_stride = args->dy_stride,
                            .w = piece->packed,
                            .precision = args->precision,
                            .y = args->dx + piece->batch * args->dx_batch,
                            .y_stride = args->dx_stride,
                            .n_rows = args->n_rows,
                            .n_in = piece->k_end - piece->k,
                            .n_out = args->n_in,
                            .n_batch = piece->batch_end - piece->batch,
                            .x_batch = args->dy_batch,
                            .w_batch = piece->words,
                            .y_batch = args->dx_batch,
                            .accumulate = args->accumulate},
        continues);
}

/* columns: of dy in a piece. */
static enum status run_pieces(struct backend *backend, const struct gemm_dx_args *args,
                              bool continues, size_t columns, struct piece *piece)
{
    for (piece->k = 0; piece->k < args->n_out; piece->k = piece->k_end) {
        piece->k_end = min_size(piece->k + columns, args->n_out);
        const size_t n = piece->k_end - piece->k;
        piece->panel_words = packed_words(args->precision, n, 1);
        piece->words = packed_words(args->precision, n, args->n_in);
        TRY(run_piece(backend, args, piece, continues || piece->k > 0));
    }
    return STATUS_OK;
}

enum status ISA(gemm_dx_piece)(struct backend *backend, const struct gemm_dx_args *args,
                               bool continues)
{
    const size_t columns = piece_columns(args);
    const size_t words = packed_words(args->precision, columns, args->n_in);
    const size_t n_batch = batches_of(args);
    const size_t at_a_time = min_size(n_batch, 1 + PIECE_WORDS / (words + 1));
    struct piece piece = {.batch = 0};
    enum status status = STATUS_OK;
    TRY(cpu_scratch_acquire(backend, at_a_time * words, sizeof(float), &piece.packed));
    for (; status == STATUS_OK && piece.batch < n_batch; piece.batch = piece.batch_end) {
        piece.batch_end = min_size(piece.batch + at_a_time, n_batch);
        status = run_pieces(backend, args, continues, columns, &piece);
    }
    cpu_scratch_release(backend, piece.packed);
    return status;
}

enum status ISA(op_gemm_dx)(struct backend *backend, const struct gemm_dx_args *args)
{
    return ISA(gemm_dx_piece)(backend, args, false);
}
