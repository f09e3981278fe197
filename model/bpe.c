/* Owns the merge loop.
 *
 * A piece is a row of symbols, first a byte or a character each. The adjacent pair of lowest rank
 * is merged, the leftmost among equals, until no pair has a rule. Short pieces scan for it; long
 * ones keep a heap of (rank, position) whose stale entries are skipped when they surface.
 *
 * Most pieces of ordinary text are one token. An entry of the vocabulary is not always what merging
 * its own bytes gives, so the first use of an entry merges and remembers the answer. */
#include "model/bpe.h"

#include "base/memory.h"
#include "base/utf8.h"
#include "model/bpe_internal.h"

#include <string.h>

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

/* Of two rules for one pair the later counts, as in the library that wrote the file. */
static void add_merges(struct bpe *bpe, const struct bpe_merge *merges, size_t n_merges)
{
    for (size_t i = 0; i < n_merges; i++) {
        const uint64_t key = bpe_merge_key(merges[i].left, merges[i].right);
        *bpe_merge_slot(bpe, key) =
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
    while (n_slots < text_table_slots(options->n_merges)) {
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

/* An unknown one that waits is written
 * before the next known symbol, which bytes of the fall-back are not: so does the library that
 * defined the format. */
size_t bpe_start_symbols(const struct bpe *bpe, const char *piece, size_t n, int32_t *ids,
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

/* Merges ids[0..n), n <= BPE_SHORT_PIECE, in place; returns how many are left. */
static size_t merge_short(const struct bpe *bpe, int32_t *ids, size_t n)
{
    uint32_t ranks[BPE_SHORT_PIECE] = {0}; /* of the pair that begins at i */
    int32_t results[BPE_SHORT_PIECE] = {0};

    for (size_t i = 0; i + 1 < n; i++) {
        ranks[i] = bpe_merge_rank(bpe, ids[i], ids[i + 1], &results[i]);
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            best = ranks[i] < ranks[best] ? i : best;
        }
        if (ranks[best] == BPE_NO_RANK) {
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
            ranks[best] = bpe_merge_rank(bpe, ids[best], ids[best + 1], &results[best]);
        }
        if (best > 0) {
            ranks[best - 1] = bpe_merge_rank(bpe, ids[best - 1], ids[best], &results[best - 1]);
        }
    }
    return n;
}

/* Merges a piece, whatever the vocabulary says of it as a whole. */
static enum status encode_parts(const struct bpe *bpe, const char *piece, size_t n,
                                struct id_buffer *out)
{
    int32_t ids[BPE_SHORT_PIECE];

    if (n > BPE_SHORT_PIECE) {
        return bpe_encode_long(bpe, piece, n, out);
    }
    size_t count = bpe_start_symbols(bpe, piece, n, ids, &out->n_dropped);
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
