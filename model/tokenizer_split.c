/* Owns the pre-tokenizer: a sequence of splits, each applied to every piece of the one before it
 * (matches of earlier stages included), and ByteLevel at its end. Look-around never sees beyond the
 * piece. */
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

#define STAGES_MAX 64u
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* --- Reading --- */

static enum status add_stage(struct splitter *splitter, const char *pattern, size_t n,
                             bool is_literal)
{
    TRY(tokenizer_regex_create(pattern, n, is_literal,
                               &splitter->stages[splitter->n_stages].regex));
    splitter->n_stages++;
    return STATUS_OK;
}

static enum status read_behavior(const struct json *value, enum split_behavior *out)
{
    static const char *const names[] = {[SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_REMOVED] = "Removed",
                                        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const char *name = json_text(value, "");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum split_behavior)i;
            return STATUS_OK;
        }
    }
    return status_set(STATUS_UNSUPPORTED, "pre_tokenizer Split: behavior \"%s\"", name);
}

static enum status read_split(const struct json *value, struct splitter *splitter)
{
    const struct json *pattern = json_get(value, "pattern");
    const struct json *regex = json_get(pattern, "Regex");
    const struct json *text = regex != NULL ? regex : json_get(pattern, "String");
    struct split_stage *stage = &splitter->stages[splitter->n_stages];

    if (!json_is(text, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT, "pre_tokenizer Split: no pattern");
    }
    TRY(read_behavior(json_get(value, "behavior"), &stage->behavior));
    stage->invert = json_bool(json_get(value, "invert"), false);
    const enum status status =
        add_stage(splitter, json_text(text, ""), json_text_bytes(text), regex == NULL);
    return status == STATUS_OK ? status : status_wrap(status, "pre_tokenizer Split");
}

static enum status read_digits(const struct json *value, struct splitter *splitter)
{
    static const char pattern[] = "\\p{N}";
    const bool is_individual = json_bool(json_get(value, "individual_digits"), false);

    splitter->stages[splitter->n_stages].behavior =
        is_individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return add_stage(splitter, pattern, sizeof(pattern) - 1, false);
}

static enum status read_byte_level(const struct json *value, struct splitter *splitter)
{
    splitter->has_byte_level = true;
    splitter->adds_space = json_bool(json_get(value, "add_prefix_space"), true);
    splitter->adds_space_at = splitter->n_stages;
    if (json_bool(json_get(value, "use_regex"), true)) {
        return add_stage(splitter, GPT2_PATTERN, sizeof(GPT2_PATTERN) - 1, false);
    }
    return STATUS_OK;
}

static enum status read_one(const struct json *value, struct splitter *splitter)
{
    const char *type = json_text(json_get(value, "type"), "");

    if (splitter->has_byte_level) {
        return status_set(STATUS_UNSUPPORTED, "pre_tokenizer %s after ByteLevel", type);
    }
    if (splitter->n_stages == STAGES_MAX) {
        return status_set(STATUS_UNSUPPORTED, "pre_tokenizer with more than %u stages", STAGES_MAX);
    }
    if (strcmp(type, "Split") == 0) {
        return read_split(value, splitter);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return read_byte_level(value, splitter);
    }
    if (strcmp(type, "Digits") == 0) {
        return read_digits(value, splitter);
    }
    return status_set(STATUS_UNSUPPORTED, "pre_tokenizer %s", *type == '\0' ? "(none)" : type);
}

static enum status read_all(const struct json *value, struct splitter *splitter)
{
    const struct json *list = json_get(value, "pretokenizers");

    TRY(memory_alloc(STAGES_MAX, sizeof(*splitter->stages), &splitter->stages));
    if (strcmp(json_text(json_get(value, "type"), ""), "Sequence") != 0) {
        TRY(read_one(value, splitter));
    }
    for (size_t i = 0; i < json_count(list); i++) {
        TRY(read_one(json_at(list, i), splitter));
    }
    if (!splitter->has_byte_level) {
        return status_set(STATUS_UNSUPPORTED, "pre_tokenizer without ByteLevel");
    }
    return STATUS_OK;
}

enum status splitter_load(const struct json *pre_tokenizer, struct splitter *out)
{
    *out = (struct splitter){0};
    const enum status status = read_all(pre_tokenizer, out);
    if (status != STATUS_OK) {
        splitter_dispose(out);
    }
    return status;
}

void splitter_dispose(struct splitter *splitter)
{
    for (size_t i = 0; i < splitter->n_stages; i++) {
        tokenizer_regex_destroy(splitter->stages[i].regex);
    }
    memory_free(splitter->stages);
    *splitter = (struct splitter){0};
}

/* --- Running --- */

static enum status span_put(struct span_list *list, size_t start, size_t end)
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

/* An empty match moves the search on by a character, so that it cannot repeat. */
static size_t after_match(const char *text, size_t n, const struct regex_hit *hit)
{
    if (hit->end > hit->start || hit->end >= n) {
        return hit->end > hit->start ? hit->end : n + 1;
    }
    return hit->end + utf8_sequence(text + hit->end, n - hit->end, NULL);
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
        from = after_match(own, n, &hit);
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

/* Writes the pieces to scratch->text, each with a space in front unless it begins with one. */
static enum status add_spaces(const char *text, struct split_scratch *scratch)
{
    scratch->text.count = 0;
    for (size_t i = 0; i < scratch->spans.count; i++) {
        struct text_span *span = &scratch->spans.items[i];
        const size_t start = scratch->text.count;
        TRY(text_buffer_put(&scratch->text, " ", text[span->start] == ' ' ? 0 : 1));
        TRY(text_buffer_put(&scratch->text, text + span->start, span->end - span->start));
        *span = (struct text_span){start, scratch->text.count};
    }
    return STATUS_OK;
}

static enum status run_stages(const struct splitter *splitter, struct split_scratch *scratch,
                              const char **cut_text)
{
    enum status status = STATUS_OK;

    for (size_t i = 0; status == STATUS_OK && i <= splitter->n_stages; i++) {
        if (splitter->adds_space && splitter->adds_space_at == i) {
            status = add_spaces(*cut_text, scratch);
            *cut_text = scratch->text.bytes;
        }
        if (status == STATUS_OK && i < splitter->n_stages) {
            status = run_stage(&splitter->stages[i], *cut_text, scratch);
        }
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
    *scratch = (struct split_scratch){0};
}
