/* Owns the decoder: from tokens' names to text. Where it is ByteLevel alone, the usual case, every
 * token's bytes are known beforehand and tokenizer.c joins them; this file has the general chain,
 * in which each step sees the tokens as the step before left them. */
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <string.h>

#define STEPS_MAX 64u
#define REPLACEMENT "\xEF\xBF\xBD"

/* --- Reading --- */

static enum status read_strip(const struct json *value, struct decode_step *step)
{
    const struct json *text = json_get(value, "content");
    const size_t n = json_text_bytes(text);
    const int64_t start = json_int(json_get(value, "start"), -1);
    const int64_t stop = json_int(json_get(value, "stop"), -1);

    if (n == 0 || utf8_sequence(json_text(text, ""), n, NULL) != n || start < 0 || stop < 0) {
        return status_set(STATUS_BAD_FORMAT, "decoder Strip: want one character, start and stop");
    }
    memcpy(step->mark, json_text(text, ""), n);
    step->strip_start = (size_t)start;
    step->strip_stop = (size_t)stop;
    return STATUS_OK;
}

static enum status read_details(const struct json *value, struct decode_step *step)
{
    if (step->kind == DECODE_METASPACE) {
        return metaspace_load(value, step->mark, &step->prefix);
    }
    if (step->kind == DECODE_STRIP) {
        return read_strip(value, step);
    }
    if (step->kind == DECODE_REPLACE) {
        return text_replace_load(value, &step->replace);
    }
    return STATUS_OK;
}

static enum status read_step(const struct json *value, struct decoder *decoder)
{
    static const char *const names[] = {
        [DECODE_BYTE_LEVEL] = "ByteLevel", [DECODE_BYTE_FALLBACK] = "ByteFallback",
        [DECODE_METASPACE] = "Metaspace",  [DECODE_REPLACE] = "Replace",
        [DECODE_STRIP] = "Strip",          [DECODE_FUSE] = "Fuse"};
    const char *type = json_text(json_get(value, "type"), "(none)");

    if (decoder->n_steps == STEPS_MAX) {
        return status_set(STATUS_UNSUPPORTED, "decoder with more than %u steps", STEPS_MAX);
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(type, names[i]) != 0) {
            continue;
        }
        struct decode_step *step = &decoder->steps[decoder->n_steps];
        step->kind = (enum decode_kind)i;
        TRY(read_details(value, step));
        decoder->n_steps++;
        return STATUS_OK;
    }
    return status_set(STATUS_UNSUPPORTED, "decoder %s", type);
}

static enum status read_steps(const struct json *value, struct decoder *decoder)
{
    const struct json *list = json_get(value, "decoders");

    TRY(memory_alloc(STEPS_MAX, sizeof(*decoder->steps), &decoder->steps));
    decoder->joins_by_space = json_is(value, JSON_NULL);
    if (decoder->joins_by_space) {
        return STATUS_OK;
    }
    if (strcmp(json_text(json_get(value, "type"), ""), "Sequence") != 0) {
        TRY(read_step(value, decoder));
    } else {
        TRY(check_list(list, "decoder Sequence: \"decoders\""));
    }
    for (size_t i = 0; i < json_count(list); i++) {
        TRY(read_step(json_at(list, i), decoder));
    }
    decoder->is_byte_level = decoder->n_steps == 1 && decoder->steps[0].kind == DECODE_BYTE_LEVEL;
    return STATUS_OK;
}

enum status decoder_load(const struct json *value, struct decoder *out)
{
    *out = (struct decoder){0};
    const enum status status = read_steps(value, out);
    if (status != STATUS_OK) {
        decoder_dispose(out);
    }
    return status;
}

void decoder_dispose(struct decoder *decoder)
{
    for (size_t i = 0; i < decoder->n_steps; i++) {
        text_replace_dispose(&decoder->steps[i].replace);
    }
    memory_free(decoder->steps);
    *decoder = (struct decoder){0};
}

/* --- Running --- */

/* Tokens as texts: their bytes one after the other, and where each begins and ends. */
struct token_texts {
    struct text_buffer bytes;
    struct span_list spans;
};
struct chain {
    struct token_texts now, next;
    struct regex_matcher *matcher;
    bool repair;
};

static void token_texts_dispose(struct token_texts *texts)
{
    text_buffer_dispose(&texts->bytes);
    memory_free(texts->spans.items);
}

static enum status put_token(struct token_texts *out, const char *text, size_t n)
{
    const size_t start = out->bytes.count;

    TRY(text_buffer_put(&out->bytes, text, n));
    return span_put(&out->spans, start, start + n);
}

static int hex_digit(char c)
{
    const bool is_lower = c >= 'a' && c <= 'f';
    const bool is_upper = c >= 'A' && c <= 'F';

    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return is_lower ? c - 'a' + 10 : is_upper ? c - 'A' + 10 : -1;
}

/* The byte of "<0xE6>", or -1. */
static int byte_token(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') {
        return -1;
    }
    const int high = hex_digit(text[3]);
    const int low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens is text as a whole, or one U+FFFD a byte. */
static enum status put_byte_run(struct chain *c, struct text_buffer *run)
{
    const bool is_text = !c->repair || text_is_utf8(run->bytes, run->count);
    const size_t n = run->count;

    run->count = 0;
    if (n == 0) {
        return STATUS_OK;
    }
    if (is_text) {
        return put_token(&c->next, run->bytes, n);
    }
    for (size_t i = 0; i < n; i++) {
        TRY(put_token(&c->next, REPLACEMENT, sizeof(REPLACEMENT) - 1));
    }
    return STATUS_OK;
}

static enum status take_token(struct chain *c, const char *text, size_t n, struct text_buffer *run)
{
    const int byte = byte_token(text, n);
    const char one = (char)byte;

    if (byte >= 0) {
        return text_buffer_put(run, &one, 1);
    }
    TRY(put_byte_run(c, run));
    return put_token(&c->next, text, n);
}

static enum status collect_bytes(struct chain *c, struct text_buffer *run)
{
    for (size_t i = 0; i < c->now.spans.count; i++) {
        const struct text_span span = c->now.spans.items[i];
        TRY(take_token(c, c->now.bytes.bytes + span.start, span.end - span.start, run));
    }
    return put_byte_run(c, run);
}

static enum status run_byte_fallback(struct chain *c)
{
    struct text_buffer run = {0};
    const enum status status = collect_bytes(c, &run);

    text_buffer_dispose(&run);
    return status;
}

/* All tokens as one: the bytes their names stand for, or the names themselves. */
static enum status run_byte_level(struct chain *c)
{
    const struct token_texts *now = &c->now;
    struct text_buffer *out = &c->next.bytes;
    char *repaired = NULL;
    size_t n = 0;
    bool is_lossy;

    TRY(text_buffer_reserve(out, now->bytes.count));
    for (size_t i = 0; i < now->spans.count; i++) {
        const struct text_span span = now->spans.items[i];
        const char *name = now->bytes.bytes + span.start;
        const size_t n_name = span.end - span.start;
        const size_t n_bytes = undo_alphabet(name, n_name, out->bytes + out->count);
        out->count += n_bytes == SIZE_MAX ? 0 : n_bytes;
        TRY(text_buffer_put(out, name, n_bytes == SIZE_MAX ? n_name : 0));
    }
    if (!c->repair) {
        return span_put(&c->next.spans, 0, out->count);
    }
    TRY(utf8_repair(out->bytes, out->count, &repaired, &n, &is_lossy));
    out->count = 0;
    const enum status status = put_token(&c->next, repaired, n);
    memory_free(repaired);
    return status;
}

/* Marks become spaces; at the first token they go, for they were put there. */
static enum status metaspace_token(const struct decode_step *step, size_t index, const char *text,
                                   size_t n, struct token_texts *out)
{
    const size_t n_mark = strlen(step->mark);
    const bool drops = index == 0 && step->prefix != PREFIX_NEVER;
    const size_t start = out->bytes.count;

    for (size_t i = 0; i < n;) {
        const bool is_mark = n - i >= n_mark && memcmp(text + i, step->mark, n_mark) == 0;
        TRY(text_buffer_put(&out->bytes, is_mark ? " " : text + i, is_mark && drops ? 0 : 1));
        i += is_mark ? n_mark : 1;
    }
    return span_put(&out->spans, start, out->bytes.count);
}

static enum status strip_token(const struct decode_step *step, const char *text, size_t n,
                               struct token_texts *out)
{
    const size_t n_mark = strlen(step->mark);
    size_t start = 0;

    for (size_t i = 0; i < step->strip_start && n - start >= n_mark &&
                       memcmp(text + start, step->mark, n_mark) == 0;
         i++) {
        start += n_mark;
    }
    for (size_t i = 0; i < step->strip_stop && n - start >= n_mark &&
                       memcmp(text + n - n_mark, step->mark, n_mark) == 0;
         i++) {
        n -= n_mark;
    }
    return put_token(out, text + start, n - start);
}

static enum status replace_token(const struct decode_step *step, struct chain *c, const char *text,
                                 size_t n)
{
    const size_t start = c->next.bytes.count;

    if (c->matcher == NULL) {
        TRY(regex_matcher_create(&c->matcher));
    }
    TRY(text_replace_run(&step->replace, c->matcher, text, n, &c->next.bytes));
    return span_put(&c->next.spans, start, c->next.bytes.count);
}

/* Steps that look at one token at a time. */
static enum status run_each(const struct decode_step *step, struct chain *c)
{
    for (size_t i = 0; i < c->now.spans.count; i++) {
        const struct text_span span = c->now.spans.items[i];
        const char *text = c->now.bytes.bytes + span.start;
        const size_t n = span.end - span.start;
        enum status status = STATUS_OK;
        if (step->kind == DECODE_METASPACE) {
            status = metaspace_token(step, i, text, n, &c->next);
        } else if (step->kind == DECODE_STRIP) {
            status = strip_token(step, text, n, &c->next);
        } else {
            status = replace_token(step, c, text, n);
        }
        TRY(status);
    }
    return STATUS_OK;
}

static enum status run_step(const struct decode_step *step, struct chain *c)
{
    switch (step->kind) {
    case DECODE_BYTE_LEVEL:
        return run_byte_level(c);
    case DECODE_BYTE_FALLBACK:
        return run_byte_fallback(c);
    case DECODE_FUSE:
        return put_token(&c->next, c->now.bytes.bytes, c->now.bytes.count);
    case DECODE_METASPACE:
    case DECODE_REPLACE:
    case DECODE_STRIP:
        break;
    }
    return run_each(step, c);
}

static enum status run_chain(const struct decoder *decoder, struct chain *c)
{
    for (size_t i = 0; i < decoder->n_steps; i++) {
        c->next.bytes.count = 0;
        c->next.spans.count = 0;
        TRY(text_buffer_reserve(&c->next.bytes, c->now.bytes.count));
        TRY(run_step(&decoder->steps[i], c));
        const struct token_texts done = c->now;
        c->now = c->next;
        c->next = done;
    }
    return STATUS_OK;
}

static enum status put_names(const struct decoder *decoder, const struct text_ref *names,
                             size_t n_names, struct token_texts *out)
{
    TRY(text_buffer_reserve(&out->bytes, 0));
    for (size_t i = 0; i < n_names; i++) {
        TRY(text_buffer_put(&out->bytes, " ", decoder->joins_by_space && i > 0 ? 1 : 0));
        TRY(put_token(out, names[i].text, names[i].n));
    }
    return STATUS_OK;
}

enum status decoder_run(const struct decoder *decoder, const struct text_ref *names, size_t n_names,
                        bool repair, struct text_buffer *out)
{
    struct chain c = {.repair = repair};
    enum status status = put_names(decoder, names, n_names, &c.now);

    if (status == STATUS_OK) {
        status = run_chain(decoder, &c);
    }
    if (status == STATUS_OK) {
        *out = c.now.bytes;
        c.now.bytes = (struct text_buffer){0};
    }
    token_texts_dispose(&c.now);
    token_texts_dispose(&c.next);
    regex_matcher_destroy(c.matcher);
    return status;
}
