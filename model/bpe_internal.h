/* Owns what the two files of byte pair encoding share: the rules and their look-up. */
#ifndef HONE_MODEL_BPE_INTERNAL_H
#define HONE_MODEL_BPE_INTERNAL_H

#include "model/bpe.h"

#include <stdatomic.h>

#define BPE_SHORT_PIECE 48u
#define BPE_NO_RANK UINT32_MAX

struct merge_slot {
    uint64_t key; /* left + 1 in the upper half, right in the lower; 0 is free */
    uint32_t rank;
    int32_t result;
};

/* Whether merging an entry's bytes gives the entry: found out at its first use, by any thread. */
enum reach { REACH_UNKNOWN, REACH_WHOLE, REACH_PARTS };
struct reach_cell {
    _Atomic unsigned char value;
};

struct bpe {
    int32_t byte_ids[256]; /* -1: no token */
    struct text_table *pieces;
    struct merge_slot *slots;
    unsigned shift; /* 64 - log2(slots) */
    size_t mask;
    struct reach_cell *reach; /* (n_tokens) */
    bool *is_forbidden;
    bool ignore_merges;
    bool is_plain; /* units are bytes, and each has a token */
    bool units_are_bytes, falls_back_to_bytes, fuses_unknown;
    int32_t unknown;
    int32_t fallback_ids[256]; /* of "<0x00>" ...; -1: no token */
};

static inline uint64_t bpe_merge_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)(left + 1) << 32 | (uint32_t)right;
}

static inline struct merge_slot *bpe_merge_slot(const struct bpe *bpe, uint64_t key)
{
    size_t slot = (size_t)(key * 0x9E3779B97F4A7C15U >> bpe->shift);

    while (bpe->slots[slot].key != 0 && bpe->slots[slot].key != key) {
        slot = (slot + 1) & bpe->mask;
    }
    return &bpe->slots[slot];
}

/* Rank of merging left and right, BPE_NO_RANK if there is no rule. */
static inline uint32_t bpe_merge_rank(const struct bpe *bpe, int32_t left, int32_t right,
                                      int32_t *result)
{
    const struct merge_slot *slot = bpe_merge_slot(bpe, bpe_merge_key(left, right));

    *result = slot->result;
    return slot->key == 0 ? BPE_NO_RANK : slot->rank;
}

/* Bytes, or characters of valid UTF-8, into ids (room for n); returns how many. */
size_t bpe_start_symbols(const struct bpe *bpe, const char *piece, size_t n, int32_t *ids,
                         size_t *n_dropped);
/* Merges a piece that is longer than BPE_SHORT_PIECE and appends its ids. */
MUST_CHECK enum status bpe_encode_long(const struct bpe *bpe, const char *piece, size_t n,
                                       struct id_buffer *out);

#endif
