/* Owns the merge loop.
 *
 * A piece is a row of symbols, first a byte or a character each. The adjacent pair of lowest rank
 * is merged, the leftmost among equals, until no pair has a rule. Short pieces scan for it; long
 * ones keep a heap of (rank, position) whose stale entries are skipped when they surface.
 *
 * Most pieces of ordinary text are one token. An entry of the vocabulary is not always what merging
 * its own bytes gives, so the first use of an entry merges and remembers the answer. */
#include "model/bpe.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/utf8.h"

#include <stdatomic.h>
#include <string.h>

#define SHORT_PIECE 48u
#define NO_RANK UINT32_MAX

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

/* --- Byte strings --- */

/* Power of two with at least half of it free. */
static size_t slots_for(size_t n)
{
    size_t slots = 16;

    while (slots < 2 * n) {
        slots *= 2;
    }
    return slots;
}

enum status text_table_init(struct text_table *table, size_t n_refs)
{
    const size_t n_slots = slots_for(n_refs);

    *table = (struct text_table){.n_refs = n_refs, .mask = n_slots - 1};
    TRY(memory_alloc(n_refs, sizeof(*table->refs), &table->refs));
    const enum status status = memory_alloc(n_slots, sizeof(*table->slots), &table->slots);
    if (status != STATUS_OK) {
        text_table_dispose(table);
    }
    return status;
}

void text_table_dispose(struct text_table *table)
{
    memory_free(table->slots);
    memory_free(table->refs);
    *table = (struct text_table){0};
}

void text_table_set(struct text_table *table, size_t index, const char *text, size_t n)
{
    const uint64_t hash = hash_64(text, n);
    size_t slot = (size_t)hash & table->mask;

    table->refs[index] = (struct text_ref){.text = text, .n = (uint32_t)n};
    while (table->slots[slot] != 0) {
        slot = (slot + 1) & table->mask;
    }
    table->slots[slot] = (hash & 0xFFFFFFFF00000000U) | (uint64_t)(index + 1);
}

int32_t text_table_find(const struct text_table *table, const char *text, size_t n)
{
    const uint64_t hash = hash_64(text, n);
    size_t slot = (size_t)hash & table->mask;

    for (; table->slots[slot] != 0; slot = (slot + 1) & table->mask) {
        if ((table->slots[slot] ^ hash) >> 32 != 0) {
            continue;
        }
        const size_t index = (size_t)(table->slots[slot] & 0xFFFFFFFFU) - 1;
        const struct text_ref *ref = &table->refs[index];
        if (ref->n == n && memcmp(ref->text, text, n) == 0) {
            return (int32_t)index;
        }
    }
    return -1;
}

/* --- Ids --- */

enum status id_buffer_put(struct id_buffer *buffer, int32_t id)
{
    if (buffer->count == buffer->room) {
        const size_t room = buffer->room == 0 ? 64 : 2 * buffer->room;
        TRY(memory_resize(buffer->count * sizeof(*buffer->ids), room, sizeof(*buffer->ids),
                          &buffer->ids));
        buffer->room = room;
    }
    buffer->ids[buffer->count++] = id;
    return STATUS_OK;
}

void id_buffer_dispose(struct id_buffer *buffer)
{
    memory_free(buffer->ids);
    *buffer = (struct id_buffer){0};
}

/* --- Rules --- */

static uint64_t merge_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)(left + 1) << 32 | (uint32_t)right;
}

static struct merge_slot *merge_slot(const struct bpe *bpe, uint64_t key)
{
    size_t slot = (size_t)(key * 0x9E3779B97F4A7C15U >> bpe->shift);

    while (bpe->slots[slot].key != 0 && bpe->slots[slot].key != key) {
        slot = (slot + 1) & bpe->mask;
    }
    return &bpe->slots[slot];
}

/* Rank of merging left and right, NO_RANK if there is no rule. */
static uint32_t merge_rank(const struct bpe *bpe, int32_t left, int32_t right, int32_t *result)
{
    const struct merge_slot *slot = merge_slot(bpe, merge_key(left, right));

    *result = slot->result;
    return slot->key == 0 ? NO_RANK : slot->rank;
}

/* Of two rules for one pair the later counts, as in the library that wrote the file. */
static void add_merges(struct bpe *bpe, const struct bpe_merge *merges, size_t n_merges)
{
    for (size_t i = 0; i < n_merges; i++) {
        const uint64_t key = merge_key(merges[i].left, merges[i].right);
        *merge_slot(bpe, key) =
            (struct merge_slot){.key = key, .rank = (uint32_t)i, .result = merges[i].result};
    }
}

static void find_units(struct bpe *bpe, const struct bpe_options *options)
{
    static const char digits[] = "0123456789ABCDEF";

    bpe->is_plain = options->units_are_bytes;
    for (unsigned byte = 0; byte < 256; byte++) {
        const char text = (char)byte;
        const char name[] = {'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>'};
        bpe->byte_ids[byte] = text_table_find(options->pieces, &text, 1);
        bpe->fallback_ids[byte] = text_table_find(options->pieces, name, sizeof(name));
        bpe->is_plain = bpe->is_plain && bpe->byte_ids[byte] >= 0;
    }
}

static enum status bpe_fill(struct bpe *bpe, const struct bpe_options *options)
{
    size_t n_slots = 1;

    bpe->shift = 64;
    while (n_slots < slots_for(options->n_merges)) {
        n_slots *= 2;
        bpe->shift--;
    }
    bpe->mask = n_slots - 1;
    TRY(memory_alloc(n_slots, sizeof(*bpe->slots), &bpe->slots));
    TRY(memory_alloc(options->n_tokens, sizeof(*bpe->reach), &bpe->reach));
    TRY(memory_alloc(options->n_tokens, sizeof(*bpe->is_forbidden), &bpe->is_forbidden));
    memcpy(bpe->is_forbidden, options->is_forbidden, options->n_tokens);
    add_merges(bpe, options->merges, options->n_merges);
    bpe->pieces = options->pieces;
    bpe->ignore_merges = options->ignore_merges;
    bpe->units_are_bytes = options->units_are_bytes;
    bpe->falls_back_to_bytes = options->falls_back_to_bytes;
    bpe->unknown = options->unknown;
    bpe->fuses_unknown = options->fuses_unknown;
    find_units(bpe, options);
    return STATUS_OK;
}

enum status bpe_create(const struct bpe_options *options, struct bpe **out)
{
    struct bpe *bpe;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*bpe), &bpe));
    const enum status status = bpe_fill(bpe, options);
    if (status != STATUS_OK) {
        bpe_destroy(bpe);
        return status;
    }
    *out = bpe;
    return STATUS_OK;
}

void bpe_destroy(struct bpe *bpe)
{
    if (bpe == NULL) {
        return;
    }
    memory_free(bpe->is_forbidden);
    memory_free(bpe->reach);
    memory_free(bpe->slots);
    memory_free(bpe);
}

/* --- Merging --- */

/* The symbols a piece begins with. */
struct starter {
    const struct bpe *bpe;
    int32_t *ids;
    size_t count;
    bool has_unknown; /* one that waits for others to be fused with it */
    size_t n_dropped;
};

static void flush_unknown(struct starter *s)
{
    if (s->has_unknown) {
        s->ids[s->count++] = s->bpe->unknown;
        s->has_unknown = false;
    }
}

/* A unit without a token of its own as the tokens of its bytes, if each has one. */
static bool start_fallback(struct starter *s, const char *unit, size_t n)
{
    if (!s->bpe->falls_back_to_bytes) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (s->bpe->fallback_ids[(unsigned char)unit[i]] < 0) {
            return false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        s->ids[s->count++] = s->bpe->fallback_ids[(unsigned char)unit[i]];
    }
    return true;
}

static void start_unknown(struct starter *s, const char *unit)
{
    if (s->bpe->unknown < 0) {
        /* of a character's bytes the first counts */
        s->n_dropped += ((unsigned char)unit[0] & 0xC0) != 0x80 ? 1 : 0;
        return;
    }
    if (!s->bpe->fuses_unknown) {
        flush_unknown(s);
    }
    s->has_unknown = true;
}

static int32_t unit_id(const struct bpe *bpe, const char *unit, size_t n)
{
    return n == 1 ? bpe->byte_ids[(unsigned char)unit[0]] : text_table_find(bpe->pieces, unit, n);
}

/* Bytes, or characters of valid UTF-8, into ids (room for n). An unknown one that waits is written
 * before the next known symbol, which bytes of the fall-back are not: so does the library that
 * defined the format. */
static size_t start_symbols(const struct bpe *bpe, const char *piece, size_t n, int32_t *ids,
                            size_t *n_dropped)
{
    struct starter s = {.bpe = bpe, .ids = ids};

    if (bpe->is_plain) {
        for (size_t i = 0; i < n; i++) {
            ids[i] = bpe->byte_ids[(unsigned char)piece[i]];
        }
        return n;
    }
    for (size_t i = 0; i < n;) {
        const size_t length = bpe->units_are_bytes ? 1 : utf8_sequence(piece + i, n - i, NULL);
        const size_t n_unit = length > 0 ? length : 1;
        const int32_t id = unit_id(bpe, piece + i, n_unit);
        if (id >= 0) {
            flush_unknown(&s);
            ids[s.count++] = id;
        } else if (!start_fallback(&s, piece + i, n_unit)) {
            start_unknown(&s, piece + i);
        }
        i += n_unit;
    }
    flush_unknown(&s);
    *n_dropped += s.n_dropped;
    return s.count;
}

/* Merges ids[0..n), n <= SHORT_PIECE, in place; returns how many are left. */
static size_t merge_short(const struct bpe *bpe, int32_t *ids, size_t n)
{
    uint32_t ranks[SHORT_PIECE] = {0}; /* of the pair that begins at i */
    int32_t results[SHORT_PIECE] = {0};

    for (size_t i = 0; i + 1 < n; i++) {
        ranks[i] = merge_rank(bpe, ids[i], ids[i + 1], &results[i]);
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            best = ranks[i] < ranks[best] ? i : best;
        }
        if (ranks[best] == NO_RANK) {
            break;
        }
        ids[best] = results[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            ranks[i] = ranks[i + 1];
            results[i] = results[i + 1];
        }
        if (best + 1 < n) {
            ranks[best] = merge_rank(bpe, ids[best], ids[best + 1], &results[best]);
        }
        if (best > 0) {
            ranks[best - 1] = merge_rank(bpe, ids[best - 1], ids[best], &results[best - 1]);
        }
    }
    return n;
}

/* A long piece: symbols in a doubly linked row, candidates in a binary heap. */
struct long_piece {
    int32_t *ids;
    uint32_t *ranks; /* of the pair that begins here; NO_RANK also when the symbol is gone */
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
    p->ranks[i] = NO_RANK;
    if (p->next[i] < p->n) {
        p->ranks[i] = merge_rank(bpe, p->ids[i], p->ids[p->next[i]], &p->results[i]);
    }
    if (p->ranks[i] != NO_RANK) {
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
        p->ranks[gone] = NO_RANK;
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

static enum status encode_long(const struct bpe *bpe, const char *piece, size_t n,
                               struct id_buffer *out)
{
    struct long_piece p;

    if (n >= INT32_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "a piece of text of %zu bytes", n);
    }
    TRY(long_piece_init(&p, n));
    p.n = start_symbols(bpe, piece, n, p.ids, &out->n_dropped);
    merge_long(bpe, &p);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < p.n && status == STATUS_OK; i = p.next[i]) {
        status = id_buffer_put(out, p.ids[i]);
    }
    memory_free(p.block);
    return status;
}

/* Merges a piece, whatever the vocabulary says of it as a whole. */
static enum status encode_parts(const struct bpe *bpe, const char *piece, size_t n,
                                struct id_buffer *out)
{
    int32_t ids[SHORT_PIECE];

    if (n > SHORT_PIECE) {
        return encode_long(bpe, piece, n, out);
    }
    size_t count = start_symbols(bpe, piece, n, ids, &out->n_dropped);
    count = merge_short(bpe, ids, count);
    for (size_t i = 0; i < count; i++) {
        TRY(id_buffer_put(out, ids[i]));
    }
    return STATUS_OK;
}

enum status bpe_encode(const struct bpe *bpe, const char *piece, size_t n, bool allow_forbidden,
                       struct id_buffer *out)
{
    const int32_t whole = text_table_find(bpe->pieces, piece, n);

    if (whole < 0) {
        return encode_parts(bpe, piece, n, out);
    }
    if (bpe->ignore_merges && (allow_forbidden || !bpe->is_forbidden[whole])) {
        return id_buffer_put(out, whole);
    }
    const unsigned char reach =
        atomic_load_explicit(&bpe->reach[whole].value, memory_order_relaxed);
    if (reach == REACH_WHOLE) {
        return id_buffer_put(out, whole);
    }
    const size_t before = out->count;
    TRY(encode_parts(bpe, piece, n, out));
    if (reach == REACH_UNKNOWN) {
        const bool is_whole = out->count == before + 1 && out->ids[before] == whole;
        atomic_store_explicit(&bpe->reach[whole].value, is_whole ? REACH_WHOLE : REACH_PARTS,
                              memory_order_relaxed);
    }
    return STATUS_OK;
}
