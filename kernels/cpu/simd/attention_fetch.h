/* Owns what attention asks for ahead of its use: the entries of a thread's chunks in the order in
 * which they are read, a few cache lines at a time.
 *
 * A decoded row reads each key once, from the last cache or from memory, and in an order that no
 * prefetcher of the hardware follows (sixteen entries side by side). Asked for in order, and evenly
 * over all the arithmetic of a row, the bytes come while the row before is worked on; asked for
 * many at a time they fill the buffers for misses, and every other load waits behind them. */
#ifndef HONE_KERNELS_CPU_SIMD_ATTENTION_FETCH_H
#define HONE_KERNELS_CPU_SIMD_ATTENTION_FETCH_H

#include "kernels/cpu/simd/attention_chunk.h"

/* Lines that are asked for before they are read. */
#define FETCH_AHEAD ((size_t)512)

/* The chunks of one thread, in order. */
struct chunk_list {
    const struct attention_args *args;
    size_t n_rows; /* of a chunk at most */
    size_t total_work;
    size_t thread_index, n_threads;
    size_t span, row, kv_head; /* of the next one */
    size_t before;             /* work in front of the span */
};

/* False when there is none left. */
bool ISA(chunk_list_next)(struct chunk_list *list, struct chunk *out);

struct key_fetch {
    struct chunk_list list; /* what comes behind the chunk */
    struct chunk chunk;     /* whose keys are asked for */
    size_t block, end;      /* keys [block, end) are one part after the other */
    size_t token;           /* of the step whose rows are asked for */
    bool is_in_values;
    bool is_over;
    const float *at; /* next row */
    size_t n_rows;   /* of the step, that are left */
    size_t row_lines;
    size_t stride;  /* words from row to row */
    size_t due;     /* lines that may be asked for now */
    size_t allowed; /* further lines until FETCH_AHEAD */
};

/* Begins with the first of the list, and asks for FETCH_AHEAD lines. */
void ISA(fetch_begin)(struct key_fetch *fetch, const struct chunk_list *list);

/* The step is behind: goes to the next one. */
void ISA(fetch_go_on)(struct key_fetch *fetch);

/* Words of an entry in front of value `at`. */
static inline size_t fetch_words_before(const struct attention_args *a, size_t at)
{
    return part_bytes(&a->pages, at, 1).first / sizeof(float);
}

/* Lines of `width` values from `at` on. A KV head's part of an FP8 entry begins at any byte of a
 * line; whole entries do so too, but their neighbours are read next. */
static inline size_t fetch_lines_of(const struct attention_args *a, size_t at, size_t width)
{
    const size_t line = SIMD_LANES * sizeof(float);
    const struct entry_bytes part = part_bytes(&a->pages, at, width);
    const size_t n = part.end - part.first;
    const bool is_apart = a->pages.precision == PRECISION_FP8 && !values_are_in_keys(a);

    return is_apart ? (n + line - 2) / line + 1 : (n + line - 1) / line;
}

/* Lines of a key, and of a value that is none of its parts. */
static inline size_t fetch_key_lines(const struct attention_args *a)
{
    return fetch_lines_of(a, 0, key_width(a));
}

static inline size_t fetch_value_lines(const struct attention_args *a)
{
    return fetch_lines_of(a, a->value_at, a->value_dim);
}

/* Lines of a step of keys and their values. */
static inline size_t fetch_step_lines(const struct attention_args *a)
{
    return KV_STEP_TOKENS *
           (fetch_key_lines(a) + (values_are_in_keys(a) ? 0 : fetch_value_lines(a)));
}

/* Asks for rows while their lines are due. */
static inline void fetch_rows(struct key_fetch *fetch)
{
    while (fetch->due >= fetch->row_lines && !fetch->is_over) {
        const float *const at = fetch->at;
        const size_t n = fetch->row_lines;
        size_t i = 0;

        for (; i + 4 <= n; i += 4) {
            __builtin_prefetch(at + i * SIMD_LANES, 0, 3);
            __builtin_prefetch(at + (i + 1) * SIMD_LANES, 0, 3);
            __builtin_prefetch(at + (i + 2) * SIMD_LANES, 0, 3);
            __builtin_prefetch(at + (i + 3) * SIMD_LANES, 0, 3);
        }
        for (; i < n; i++) {
            __builtin_prefetch(at + i * SIMD_LANES, 0, 3);
        }
        fetch->due -= n;
        fetch->at = at + fetch->stride;
        fetch->n_rows--;
        if (fetch->n_rows == 0) {
            ISA(fetch_go_on)(fetch);
        }
    }
}

/* Asks for the lines of a unit, unless it is too early. */
static inline void fetch_lines(const struct fetch_pace *pace)
{
    struct key_fetch *const fetch = pace->fetch;

    if (fetch != NULL) {
        const size_t n = smaller(pace->n_lines, fetch->allowed);
        fetch->allowed -= n;
        fetch->due += n;
        fetch_rows(fetch);
    }
}

#endif
