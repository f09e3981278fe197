/* Owns byte pair encoding: one piece to token ids (model.md 13.1, step 5). Tokens are byte strings
 * here; the printable alphabet of ByteLevel was undone when tokenizer.json was read. */
#ifndef HONE_MODEL_BPE_H
#define HONE_MODEL_BPE_H

#include "base/status.h"
#include "model/text_table.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bpe_merge {
    int32_t left, right, result; /* rank = position in the list */
};

struct bpe_options {
    size_t n_tokens;
    struct text_table *pieces; /* byte string -> id of the vocabulary; kept until bpe_destroy */
    const struct bpe_merge *merges;
    size_t n_merges;
    bool ignore_merges;       /* a piece that is an entry is that entry */
    const bool *is_forbidden; /* (n_tokens) entries that ignore_merges must not give; copied */
    bool units_are_bytes;     /* merging starts from bytes, else from UTF-8 characters */
    bool falls_back_to_bytes; /* a character without a token becomes its bytes' "<0xE6>" ... */
    int32_t unknown;          /* ... or this; -1: it is left out */
    bool fuses_unknown;       /* neighbouring unknown characters are one token */
};

struct bpe;
MUST_CHECK enum status bpe_create(const struct bpe_options *options, struct bpe **out);
void bpe_destroy(struct bpe *bpe);

/* Ids that grow. Start from zeros. */
struct id_buffer {
    int32_t *ids;
    size_t count, room;
    size_t n_dropped; /* characters without a token */
};
MUST_CHECK enum status id_buffer_put(struct id_buffer *buffer, int32_t id);
void id_buffer_dispose(struct id_buffer *buffer);

/* Appends the ids of piece[0..n). Time n log n. allow_forbidden: is_forbidden is not looked at.
 * Errors: NO_MEMORY; BAD_ARGUMENT (a piece of 2 GiB). */
MUST_CHECK enum status bpe_encode(const struct bpe *bpe, const char *piece, size_t n,
                                  bool allow_forbidden, struct id_buffer *out);

#endif
