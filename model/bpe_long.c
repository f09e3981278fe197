/* Owns merging long pieces: a heap of candidates instead of a scan. */
#include "base/memory.h"
#include "model/bpe_internal.h"

/* A long piece: symbols in a doubly linked row, candidates in a binary heap. */
struct long_piece {
    int32_t *ids;
    uint32_t *ranks; /* of the pair that begins here; BPE_NO_RANK also when the symbol is gone */
    int32_t *results;
    uint32_t *next, *previous; /* n: none */
    uint64_t *heap;            /* rank in the upper half, position in the lower */
    size_t n, heap_count;
    void *block;
};

static enum status long_piece_init(struct long_piece *p, size_t n)
{
    /* each of n - 1 merges pushes at most 2 after the n - 1 at the start */
    const size_t heap_bytes = 3 * n * sizeof(*p->heap);
    char *block = NULL;

    TRY(memory_alloc(heap_bytes + 5 * n * sizeof(uint32_t), 1, &block));
    *p = (struct long_piece){.n = n, .block = block};
    p->heap = (uint64_t *)(void *)block;
    p->ids = (int32_t *)(void *)(block + heap_bytes);
    p->results = p->ids + n;
    p->ranks = (uint32_t *)(void *)(p->results + n);
    p->next = p->ranks + n;
    p->previous = p->next + n;
    return STATUS_OK;
}

static void heap_push(struct long_piece *p, uint64_t entry)
{
    size_t i = p->heap_count++;

    while (i > 0 && p->heap[(i - 1) / 2] > entry) {
        p->heap[i] = p->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    p->heap[i] = entry;
}

static uint64_t heap_pop(struct long_piece *p)
{
    const uint64_t top = p->heap[0];
    const uint64_t last = p->heap[--p->heap_count];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= p->heap_count) {
            break;
        }
        if (child + 1 < p->heap_count && p->heap[child + 1] < p->heap[child]) {
            child++;
        }
        if (p->heap[child] >= last) {
            break;
        }
        p->heap[i] = p->heap[child];
        i = child;
    }
    p->heap[i] = last;
    return top;
}

/* Looks up the pair that begins at position i and queues it if there is a rule. */
static void consider(const struct bpe *bpe, struct long_piece *p, size_t i)
{
    p->ranks[i] = BPE_NO_RANK;
    if (p->next[i] < p->n) {
        p->ranks[i] = bpe_merge_rank(bpe, p->ids[i], p->ids[p->next[i]], &p->results[i]);
    }
    if (p->ranks[i] != BPE_NO_RANK) {
        heap_push(p, (uint64_t)p->ranks[i] << 32 | i);
    }
}

static void merge_long(const struct bpe *bpe, struct long_piece *p)
{
    for (size_t i = 0; i < p->n; i++) {
        p->next[i] = (uint32_t)(i + 1);
        p->previous[i] = i == 0 ? (uint32_t)p->n : (uint32_t)(i - 1);
    }
    for (size_t i = 0; i < p->n; i++) {
        consider(bpe, p, i);
    }
    while (p->heap_count > 0) {
        const uint64_t entry = heap_pop(p);
        const size_t i = (size_t)(entry & 0xFFFFFFFFU);
        if (p->ranks[i] != entry >> 32) {
            continue; /* stale: the pair at i has changed or is gone */
        }
        const size_t gone = p->next[i];
        p->ids[i] = p->results[i];
        p->ranks[gone] = BPE_NO_RANK;
        p->next[i] = p->next[gone];
        if (p->next[i] < p->n) {
            p->previous[p->next[i]] = (uint32_t)i;
        }
        consider(bpe, p, i);
        if (p->previous[i] < p->n) {
            consider(bpe, p, p->previous[i]);
        }
    }
}

enum status bpe_encode_long(const struct bpe *bpe, const char *piece, size_t n,
                            struct id_buffer *out)
{
    struct long_piece p;

    if (n >= INT32_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "a piece of text of %zu bytes", n);
    }
    TRY(long_piece_init(&p, n));
    p.n = bpe_start_symbols(bpe, piece, n, p.ids, &out->n_dropped);
    merge_long(bpe, &p);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < p.n && status == STATUS_OK; i = p.next[i]) {
        status = id_buffer_put(out, p.ids[i]);
    }
    memory_free(p.block);
    return status;
}
