/* Owns what the tokenizer's files share: the loaded tokenizer, its added tokens and its splitter.
 * Nothing outside model/tokenizer*.c includes it. */
#ifndef HONE_MODEL_TOKENIZER_INTERNAL_H
#define HONE_MODEL_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "base/status.h"
#include "model/bpe.h"
#include "model/jinja.h"
#include "model/tokenizer.h"
#include "model/tokenizer_regex.h"
#include "model/tokenizer_text.h"

#define TOKENIZER_IDS_MAX ((size_t)1 << 20)
#define TOKEN_BYTES_MAX 65535u

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
    const unsigned char *marks; /* NULL, or: a token's bytes must all be marked */
    size_t n;
    size_t scan;    /* where the next search begins */
    size_t emitted; /* what was given out so far */
    bool has_pending;
    struct text_piece pending;
};
/* The next plain stretch or added token, in order; false at the end. */
bool added_walk_next(struct added_walk *walk, struct text_piece *piece);

/* --- Patterns (tokenizer_replace.c) --- */

/* {"Regex": ...} or {"String": ...}. Errors: BAD_FORMAT, UNSUPPORTED, NO_MEMORY. */
MUST_CHECK enum status pattern_load(const struct json *pattern, struct tokenizer_regex **out);
/* Where to search on after a match: an empty one moves by a character, so that it cannot repeat. */
size_t regex_after(const char *text, size_t n, const struct regex_hit *hit);

struct text_replace {
    struct tokenizer_regex *regex;
    char *content;
    size_t content_bytes;
};
/* Reads "pattern" and "content"; on failure nothing is left to dispose. */
MUST_CHECK enum status text_replace_load(const struct json *value, struct text_replace *out);
void text_replace_dispose(struct text_replace *replace);
/* Appends text with every match replaced. */
MUST_CHECK enum status text_replace_run(const struct text_replace *replace,
                                        struct regex_matcher *matcher, const char *text, size_t n,
                                        struct text_buffer *out);

/* --- Normalizer (tokenizer_normalizer.c) --- */

enum normalize_kind {
    NORMALIZE_FORM,
    NORMALIZE_LOWER,
    NORMALIZE_ACCENTS,
    NORMALIZE_STRIP,
    NORMALIZE_PREPEND, /* replace.content, unless the text is empty */
    NORMALIZE_REPLACE
};
struct normalize_step {
    enum normalize_kind kind;
    enum text_form form;
    bool strips_left, strips_right;
    struct text_replace replace;
};
struct normalizer {
    struct normalize_step *steps;
    size_t n_steps;
};
/* Working memory of one thread. Start from zeros. */
struct normalize_scratch {
    struct regex_matcher *matcher;
    struct text_buffer text, other; /* the last step's result and the one before */
};
MUST_CHECK enum status normalizer_load(const struct json *value, struct normalizer *out);
void normalizer_dispose(struct normalizer *normalizer);
/* Whether it may remove the text's first characters. */
bool normalizer_can_remove(const struct normalizer *normalizer);
/* Rewrites *text, valid UTF-8; without steps it stays, else it is in scratch afterwards. */
MUST_CHECK enum status normalizer_run(const struct normalizer *normalizer,
                                      struct normalize_scratch *scratch, const char **text,
                                      size_t *n);
void normalize_scratch_dispose(struct normalize_scratch *scratch);

/* --- Pre-tokenizer (tokenizer_split.c; reading: tokenizer_split_load.c) --- */

enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};
enum prefix_scheme { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS };
struct split_stage {
    struct tokenizer_regex *regex; /* NULL: the stage rewrites the pieces and does not cut */
    enum split_behavior behavior;
    bool invert; /* gaps are the hits */
    /* A rewriting stage puts `mark` in front of a piece unless it begins so: the space of
     * ByteLevel, or Metaspace's mark, which also takes the place of every space. */
    char mark[5];
    enum prefix_scheme prefix;
};
struct splitter {
    struct split_stage *stages;
    size_t n_stages;
    bool has_byte_level;
    bool prefixes_first; /* a stage has PREFIX_FIRST */
};
/* Reads the pre_tokenizer of tokenizer.json. Errors: UNSUPPORTED by name, BAD_FORMAT. */
MUST_CHECK enum status splitter_load(const struct json *pre_tokenizer, struct splitter *out);
void splitter_dispose(struct splitter *splitter);
/* "replacement" and "prepend_scheme" of a Metaspace; the decoder has the same. */
MUST_CHECK enum status metaspace_load(const struct json *value, char mark[5],
                                      enum prefix_scheme *prefix);

struct text_span {
    size_t start, end;
};
struct span_list {
    struct text_span *items;
    size_t count, room;
};
MUST_CHECK enum status span_put(struct span_list *list, size_t start, size_t end);

/* Working memory of one thread. Start from zeros. */
struct split_scratch {
    struct regex_matcher *matcher;
    struct span_list spans, other;
    struct text_buffer text,
        other_text; /* of rewriting stages: the last one's and the one before */
    bool is_first;  /* what is cut begins the whole text: set by the caller */
};
void split_scratch_dispose(struct split_scratch *scratch);
/* Cuts text[0..n) into scratch->spans of *cut_text, which is text or scratch->text. */
MUST_CHECK enum status splitter_run(const struct splitter *splitter, const char *text, size_t n,
                                    struct split_scratch *scratch, const char **cut_text);

/* --- Decoder (tokenizer_decoder.c) --- */

enum decode_kind {
    DECODE_BYTE_LEVEL,
    DECODE_BYTE_FALLBACK,
    DECODE_METASPACE,
    DECODE_REPLACE,
    DECODE_STRIP,
    DECODE_FUSE
};
struct decode_step {
    enum decode_kind kind;
    char mark[5]; /* METASPACE, STRIP: the character */
    enum prefix_scheme prefix;
    size_t strip_start, strip_stop; /* characters at most */
    struct text_replace replace;
};
struct decoder {
    struct decode_step *steps;
    size_t n_steps;
    bool is_byte_level;  /* the only step: texts hold each token's bytes and are just joined */
    bool joins_by_space; /* no decoder at all */
};
MUST_CHECK enum status decoder_load(const struct json *value, struct decoder *out);
void decoder_dispose(struct decoder *decoder);
/* The text of tokens given as their names. `repair` false keeps invalid UTF-8 as bytes. */
MUST_CHECK enum status decoder_run(const struct decoder *decoder, const struct text_ref *names,
                                   size_t n_names, bool repair, struct text_buffer *out);

/* Undoes ByteLevel's alphabet (tokenizer_vocabulary.c). Returns the bytes written to out (room for
 * n), or SIZE_MAX when a character is none of it. */
size_t undo_alphabet(const char *name, size_t n, char *out);

/* --- Post-processor (tokenizer_frame.c) --- */

/* Ids that encode() puts around a text when asked for special tokens. */
struct token_frame {
    struct id_buffer before, after;
    int32_t bos; /* the first token of a template that begins with one, else -1 */
};
/* names must be complete. Errors: UNSUPPORTED by name, BAD_FORMAT, NO_MEMORY. */
MUST_CHECK enum status token_frame_load(const struct json *post_processor,
                                        const struct text_table *names, struct token_frame *out);
void token_frame_dispose(struct token_frame *frame);

/* BAD_FORMAT unless the value, which messages call what, is a list (tokenizer_load.c). */
MUST_CHECK enum status check_list(const struct json *value, const char *what);

/* --- The tokenizer --- */

struct tokenizer {
    size_t vocab_size;
    char *blob;              /* bytes behind names, pieces and texts */
    struct text_table names; /* id -> name as in the file; vocabulary and added tokens */
    /* id -> what merging sees of a vocabulary entry: with ByteLevel its bytes, else its name */
    struct text_table pieces;
    struct text_ref *texts; /* (vocab_size) what each id contributes to decoded text */
    bool *is_special;       /* (vocab_size) */
    struct bpe *bpe;
    struct normalizer normalizer;
    struct splitter splitter;
    struct decoder decoder;
    struct token_frame frame;
    struct added_token *added; /* (n_added) */
    size_t n_added;
    struct added_trie raw, normal; /* searched before and after the normalizer */
    bool adds_bos;
    int32_t bos, eos;            /* -1: none */
    struct jinja *chat_template; /* of the folder, if it is not one known by name; else NULL */
    struct digest256 digest;
};

/* --- Vocabulary (tokenizer_vocabulary.c) --- */

/* The vocabulary's names alone, with room for every id that it and the list of added tokens have.
 * Errors of all three: BAD_FORMAT, UNSUPPORTED, NO_MEMORY. */
MUST_CHECK enum status vocabulary_read(const struct json *vocab, const struct json *added,
                                       struct tokenizer *tokenizer);
/* The added tokens' names, and the searches that find them. */
MUST_CHECK enum status vocabulary_read_added(const struct json *list, struct tokenizer *tokenizer);
/* The bytes that names stand for; is_vocab (vocab_size): ids of the vocabulary. */
MUST_CHECK enum status vocabulary_build_texts(struct tokenizer *tokenizer, const bool *is_vocab);

/* Fills a zeroed tokenizer from tokenizer.json's value (tokenizer_load.c). */
MUST_CHECK enum status tokenizer_read(const struct json *root, struct tokenizer *tokenizer);

#endif
