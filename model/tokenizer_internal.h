/* Owns what the tokenizer's files share: the loaded tokenizer, its added tokens and its splitter.
 * Nothing outside model/tokenizer*.c includes it. */
#ifndef HONE_MODEL_TOKENIZER_INTERNAL_H
#define HONE_MODEL_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "base/status.h"
#include "model/bpe.h"
#include "model/tokenizer.h"
#include "model/tokenizer_regex.h"
#include "model/tokenizer_text.h"

#define TOKENIZER_IDS_MAX ((size_t)1 << 20)

/* --- Added tokens (tokenizer_added.c) --- */

struct added_token {
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
    const char *content; /* borrowed from the JSON text: valid while loading only */
    size_t content_bytes;
};

/* The patterns of one of the two searches as a trie. */
struct trie_node {
    uint32_t child, sibling; /* 0: none */
    int32_t token;           /* index of an added token that ends here, -1: none */
    unsigned char byte;
};
struct added_trie {
    struct trie_node *nodes; /* nodes[0] is the root */
    size_t count, room;
    bool starts[256]; /* bytes that begin a pattern */
};
MUST_CHECK enum status added_trie_add(struct added_trie *trie, const char *text, size_t n,
                                      int32_t token);
void added_trie_dispose(struct added_trie *trie);

struct text_piece {
    size_t start, end;
    int32_t id; /* of an added token, or -1: plain text */
};
/* A walk over text; start from {.trie, .tokens, .text, .n}. */
struct added_walk {
    const struct added_trie *trie;
    const struct added_token *tokens;
    const char *text;
    size_t n;
    size_t scan;    /* where the next search begins */
    size_t emitted; /* what was given out so far */
    bool has_pending;
    struct text_piece pending;
};
/* The next plain stretch or added token, in order; false at the end. */
bool added_walk_next(struct added_walk *walk, struct text_piece *piece);

/* --- Pre-tokenizer (tokenizer_split.c) --- */

enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};
struct split_stage {
    struct tokenizer_regex *regex;
    enum split_behavior behavior;
    bool invert; /* gaps are the hits */
};
struct splitter {
    struct split_stage *stages;
    size_t n_stages;
    bool has_byte_level;
    bool adds_space;      /* a piece gets a space in front unless it has one ... */
    size_t adds_space_at; /* ... before this stage */
};
/* Reads the pre_tokenizer of tokenizer.json. Errors: UNSUPPORTED by name, BAD_FORMAT. */
MUST_CHECK enum status splitter_load(const struct json *pre_tokenizer, struct splitter *out);
void splitter_dispose(struct splitter *splitter);

struct text_span {
    size_t start, end;
};
struct span_list {
    struct text_span *items;
    size_t count, room;
};
/* Working memory of one thread. Start from zeros. */
struct split_scratch {
    struct regex_matcher *matcher;
    struct span_list spans, other;
    struct text_buffer text; /* when spaces were added */
};
void split_scratch_dispose(struct split_scratch *scratch);
/* Cuts text[0..n) into scratch->spans of *cut_text, which is text or scratch->text. */
MUST_CHECK enum status splitter_run(const struct splitter *splitter, const char *text, size_t n,
                                    struct split_scratch *scratch, const char **cut_text);

/* --- The tokenizer --- */

struct tokenizer {
    size_t vocab_size;
    char *blob;               /* bytes behind names, pieces and texts */
    struct text_table names;  /* id -> name as in the file; vocabulary and added tokens */
    struct text_table pieces; /* id -> bytes; vocabulary entries that stand for bytes */
    struct text_ref *texts;   /* (vocab_size) what each id contributes to decoded text */
    bool *is_special;         /* (vocab_size) */
    struct bpe *bpe;
    struct splitter splitter;
    bool normalizes_nfc;
    struct added_token *added; /* (n_added) */
    size_t n_added;
    struct added_trie raw, normal; /* searched before and after the normalizer */
    bool adds_bos;
    int32_t bos, eos; /* -1: none */
    struct digest256 digest;
};

/* Fills a zeroed tokenizer from tokenizer.json's value (tokenizer_load.c). */
MUST_CHECK enum status tokenizer_read(const struct json *root, struct tokenizer *tokenizer);

#endif
