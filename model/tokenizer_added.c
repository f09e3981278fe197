/* Owns the search for added tokens: leftmost-longest over a trie, with the flags that widen or
 * refuse a match. */
#include "base/memory.h"
#include "model/tokenizer_internal.h"

static enum status trie_grow(struct added_trie *trie)
{
    if (trie->count + 1 < trie->room) {
        return STATUS_OK;
    }
    const size_t room = trie->room == 0 ? 256 : 2 * trie->room;
    TRY(memory_resize(trie->count * sizeof(*trie->nodes), room, sizeof(*trie->nodes),
                      &trie->nodes));
    trie->room = room;
    if (trie->count == 0) {
        trie->nodes[trie->count++] = (struct trie_node){.token = -1};
    }
    return STATUS_OK;
}

/* Child of node at byte, or 0. */
static uint32_t trie_child(const struct added_trie *trie, uint32_t node, unsigned char byte)
{
    uint32_t child = trie->nodes[node].child;

    while (child != 0 && trie->nodes[child].byte != byte) {
        child = trie->nodes[child].sibling;
    }
    return child;
}

enum status added_trie_add(struct added_trie *trie, const char *text, size_t n, int32_t token)
{
    uint32_t node = 0;

    for (size_t i = 0; i < n; i++) {
        const unsigned char byte = (unsigned char)text[i];
        TRY(trie_grow(trie));
        uint32_t child = trie_child(trie, node, byte);
        if (child == 0) {
            child = (uint32_t)trie->count++;
            trie->nodes[child] =
                (struct trie_node){.sibling = trie->nodes[node].child, .token = -1, .byte = byte};
            trie->nodes[node].child = child;
        }
        node = child;
    }
    if (n > 0) {
        trie->starts[(unsigned char)text[0]] = true;
        trie->nodes[node].token = token;
    }
    return STATUS_OK;
}

void added_trie_dispose(struct added_trie *trie)
{
    memory_free(trie->nodes);
    *trie = (struct added_trie){0};
}

/* End of the longest pattern that begins at `start`, 0 if none does. */
static size_t longest_match(const struct added_walk *walk, size_t start, int32_t *token)
{
    size_t end = 0;
    uint32_t node = 0;

    for (size_t i = start; i < walk->n && (walk->marks == NULL || walk->marks[i] != 0); i++) {
        node = trie_child(walk->trie, node, (unsigned char)walk->text[i]);
        if (node == 0) {
            break;
        }
        if (walk->trie->nodes[node].token >= 0) {
            *token = walk->trie->nodes[node].token;
            end = i + 1;
        }
    }
    return end;
}

/* The next match as it stands in the text, before any flag. */
static bool find_match(struct added_walk *walk, struct text_piece *match)
{
    for (size_t i = walk->scan; walk->trie->count > 0 && i < walk->n; i++) {
        if (!walk->trie->starts[(unsigned char)walk->text[i]]) {
            continue;
        }
        const size_t end = longest_match(walk, i, &match->id);
        if (end > 0) {
            match->start = i;
            match->end = end;
            walk->scan = end;
            return true;
        }
    }
    walk->scan = walk->n;
    return false;
}

/* Applies the token's flags to a match and turns its id from index to token; false: refused. */
static bool accept_match(const struct added_walk *walk, struct text_piece *match)
{
    const struct added_token *token = &walk->tokens[match->id];

    if (token->single_word &&
        (text_ends_with_word(walk->text, match->start) ||
         text_starts_with_word(walk->text + match->end, walk->n - match->end))) {
        return false;
    }
    if (token->lstrip) {
        match->start -= text_trailing_space(walk->text, match->start);
        if (match->start < walk->emitted) {
            match->start = walk->emitted; /* the token before took those spaces */
        }
    }
    if (token->rstrip) {
        match->end += text_leading_space(walk->text + match->end, walk->n - match->end);
    }
    match->id = token->id;
    return true;
}

bool added_walk_next(struct added_walk *walk, struct text_piece *piece)
{
    struct text_piece match;

    if (walk->has_pending) {
        walk->has_pending = false;
        *piece = walk->pending;
        return true;
    }
    while (find_match(walk, &match)) {
        if (!accept_match(walk, &match)) {
            continue;
        }
        const size_t gap_start = walk->emitted;
        walk->emitted = match.end;
        *piece = match;
        if (gap_start < match.start) {
            walk->pending = match;
            walk->has_pending = true;
            *piece = (struct text_piece){.start = gap_start, .end = match.start, .id = -1};
        }
        return true;
    }
    if (walk->emitted >= walk->n) {
        return false;
    }
    *piece = (struct text_piece){.start = walk->emitted, .end = walk->n, .id = -1};
    walk->emitted = walk->n;
    return true;
}
