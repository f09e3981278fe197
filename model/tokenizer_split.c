/* Owns running the pre-tokenizer: a sequence of splits, each applied to every piece of the one
 * before it (matches of earlier stages included), with the rewritings of ByteLevel and Metaspace
 * between. Look-around never sees beyond the piece. */
#include "base/memory.h"
#include "model/tokenizer_internal.h"

#include <string.h>

enum status span_put(struct span_list *list, size_t start, size_t end)
{
    if (list->count == list->room) {
        const size_t room = list->room == 0 ? 64 : 2 * list->room;
        TRY(memory_resize(list->count * sizeof(*list->items), room, sizeof(*list->items),
                          &list->items));
        list->room = room;
    }
    list->items[list->count++] = (struct text_span){start, end};
    return STATUS_OK;
}

/* What the behaviours remember while one piece is cut. */
struct cutter {
    const struct split_stage *stage;
    struct span_list *out;
    size_t first;          /* where this piece's spans begin in out */
    bool previous_was_hit; /* no hit before the piece */
    bool has_waiting;      /* MergedWithNext: a hit that may join the gap after it */
    struct text_span waiting;
};

/* Lengthens the last span of this piece, or begins one. */
static enum status cut_extend(struct cutter *cutter, struct text_span span)
{
    if (cutter->out->count > cutter->first) {
        cutter->out->items[cutter->out->count - 1].end = span.end;
        return STATUS_OK;
    }
    return span_put(cutter->out, span.start, span.end);
}

static enum status cut_flush(struct cutter *cutter)
{
    if (!cutter->has_waiting) {
        return STATUS_OK;
    }
    cutter->has_waiting = false;
    return span_put(cutter->out, cutter->waiting.start, cutter->waiting.end);
}

static enum status cut_merged_with_next(struct cutter *cutter, struct text_span span, bool is_hit)
{
    if (is_hit) {
        TRY(cut_flush(cutter));
        cutter->waiting = span;
        cutter->has_waiting = true;
        return STATUS_OK;
    }
    const size_t start = cutter->has_waiting ? cutter->waiting.start : span.start;
    cutter->has_waiting = false;
    return span_put(cutter->out, start, span.end);
}

/* Takes the next match (is_match) or gap of the piece; one without text is as if it were not. */
static enum status cut_take(struct cutter *cutter, struct text_span span, bool is_match)
{
    const bool is_hit = is_match != cutter->stage->invert;
    const bool previous_was_hit = cutter->previous_was_hit;

    if (span.start >= span.end) {
        return STATUS_OK;
    }

    cutter->previous_was_hit = is_hit;
    switch (cutter->stage->behavior) {
    case SPLIT_REMOVED:
        return is_hit ? STATUS_OK : span_put(cutter->out, span.start, span.end);
    case SPLIT_CONTIGUOUS:
        if (is_hit == previous_was_hit) {
            return cut_extend(cutter, span);
        }
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        if (is_hit && !previous_was_hit) {
            return cut_extend(cutter, span);
        }
        break;
    case SPLIT_MERGED_WITH_NEXT:
        return cut_merged_with_next(cutter, span, is_hit);
    case SPLIT_ISOLATED:
        break;
    }
    return span_put(cutter->out, span.start, span.end);
}

/* Cuts one piece, text[piece.start .. piece.end), by one stage. */
static enum status cut_piece(const struct split_stage *stage, struct regex_matcher *matcher,
                             const char *text, struct text_span piece, struct span_list *out)
{
    struct cutter cutter = {.stage = stage, .out = out, .first = out->count};
    const char *own = text + piece.start; /* nothing outside is visible */
    const size_t n = piece.end - piece.start;
    struct regex_hit hit = {0};
    size_t from = 0, done = 0;

    while (from <= n) {
        TRY(tokenizer_regex_next(stage->regex, matcher, own, n, from, &hit));
        if (!hit.is_found) {
            break;
        }
        const struct text_span gap = {piece.start + done, piece.start + hit.start};
        const struct text_span match = {piece.start + hit.start, piece.start + hit.end};
        TRY(cut_take(&cutter, gap, false));
        TRY(cut_take(&cutter, match, true));
        done = hit.end;
        from = regex_after(own, n, &hit);
    }
    TRY(cut_take(&cutter, (struct text_span){piece.start + (done < n ? done : n), piece.end},
                 false));
    return cut_flush(&cutter);
}

/* Every span of scratch->spans through one stage. */
static enum status run_stage(const struct split_stage *stage, const char *text,
                             struct split_scratch *scratch)
{
    scratch->other.count = 0;
    for (size_t i = 0; i < scratch->spans.count; i++) {
        TRY(cut_piece(stage, scratch->matcher, text, scratch->spans.items[i], &scratch->other));
    }
    const struct span_list cut = scratch->other;
    scratch->other = scratch->spans;
    scratch->spans = cut;
    return STATUS_OK;
}

/* Appends a piece with every space replaced by the mark (which, for ByteLevel, is a space). */
static enum status put_marked(const char *mark, const char *text, size_t n, struct text_buffer *out)
{
    size_t done = 0;

    for (const char *space = memchr(text, ' ', n); space != NULL;
         space = memchr(text + done, ' ', n - done)) {
        const size_t at = (size_t)(space - text);
        TRY(text_buffer_put(out, text + done, at - done));
        TRY(text_buffer_put(out, mark, strlen(mark)));
        done = at + 1;
    }
    return text_buffer_put(out, text + done, n - done);
}

static bool begins_with_mark(const char *mark, const char *text, size_t n)
{
    const size_t n_mark = strlen(mark);

    return text[0] == ' ' || (n >= n_mark && memcmp(text, mark, n_mark) == 0);
}

/* Writes the pieces anew to scratch->text, each with the stage's mark in front where it is due. */
static enum status rewrite_pieces(const struct split_stage *stage, const char *text,
                                  struct split_scratch *scratch)
{
    const struct text_buffer used = scratch->text; /* may hold text */

    scratch->text = scratch->other_text;
    scratch->other_text = used;
    scratch->text.count = 0;
    for (size_t i = 0; i < scratch->spans.count; i++) {
        struct text_span *span = &scratch->spans.items[i];
        const size_t start = scratch->text.count;
        const size_t n = span->end - span->start;
        const bool is_due =
            stage->prefix == PREFIX_ALWAYS ||
            (stage->prefix == PREFIX_FIRST && scratch->is_first && span->start == 0);
        const bool adds = is_due && !begins_with_mark(stage->mark, text + span->start, n);
        TRY(text_buffer_put(&scratch->text, stage->mark, adds ? strlen(stage->mark) : 0));
        TRY(put_marked(stage->mark, text + span->start, n, &scratch->text));
        *span = (struct text_span){start, scratch->text.count};
    }
    return STATUS_OK;
}

static enum status run_stages(const struct splitter *splitter, struct split_scratch *scratch,
                              const char **cut_text)
{
    enum status status = STATUS_OK;

    for (size_t i = 0; status == STATUS_OK && i < splitter->n_stages; i++) {
        const struct split_stage *stage = &splitter->stages[i];
        if (stage->regex != NULL) {
            status = run_stage(stage, *cut_text, scratch);
            continue;
        }
        status = rewrite_pieces(stage, *cut_text, scratch);
        *cut_text = scratch->text.bytes;
    }
    return status;
}

enum status splitter_run(const struct splitter *splitter, const char *text, size_t n,
                         struct split_scratch *scratch, const char **cut_text)
{
    scratch->spans.count = 0;
    *cut_text = text;
    if (n == 0) {
        return STATUS_OK;
    }
    if (scratch->matcher == NULL) {
        TRY(regex_matcher_create(&scratch->matcher));
    }
    TRY(span_put(&scratch->spans, 0, n));
    return run_stages(splitter, scratch, cut_text);
}

void split_scratch_dispose(struct split_scratch *scratch)
{
    regex_matcher_destroy(scratch->matcher);
    memory_free(scratch->spans.items);
    memory_free(scratch->other.items);
    text_buffer_dispose(&scratch->text);
    text_buffer_dispose(&scratch->other_text);
    *scratch = (struct split_scratch){0};
}
