/* Tokenizing on one core, of text whose words come again and again but never in the same order. */
#include "cli/bench_files.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text_buffer.h"
#include "cli/bench_folder.h"
#include "model/demo_tokenizer.h"
#include "model/tokenizer.h"

#include <stdio.h>
#include <string.h>

#define SEED 1u
#define TEXT_BYTES ((size_t)1 << 20)
#define DOCUMENT_BYTES ((size_t)4096) /* one call each */
#define REPEATS 5u

/* What text is made of, the frequent first: a piece is chosen with a chance like 1 / (its place).
 */
static const char *const digit_pieces[] = {"1234567890=", "<think>",  "37", "+",          "0582",
                                           "</think>",    "<answer>", "4",  "</answer>\n"};
static const char *const prose_pieces[] = {" the",
                                           ",",
                                           " of",
                                           " and",
                                           ".",
                                           " to",
                                           " in",
                                           " a",
                                           " is",
                                           " that",
                                           "\n",
                                           " for",
                                           " it",
                                           " with",
                                           " as",
                                           " was",
                                           " 1",
                                           " on",
                                           " be",
                                           "0",
                                           " by",
                                           " this",
                                           " are",
                                           " from",
                                           " at",
                                           "\n\n",
                                           " which",
                                           " or",
                                           " have",
                                           " an",
                                           " not",
                                           " they",
                                           "3",
                                           " number",
                                           " more",
                                           " will",
                                           " each",
                                           " other",
                                           " about",
                                           " many",
                                           " then",
                                           " them",
                                           " these",
                                           " some",
                                           " would",
                                           " into",
                                           " time",
                                           " two",
                                           " could",
                                           " first",
                                           " people",
                                           "=",
                                           " made",
                                           " over",
                                           " answer",
                                           " apples",
                                           "(x)",
                                           " between",
                                           " gradient",
                                           " probability",
                                           "'s",
                                           " function",
                                           " because",
                                           " 42",
                                           " equation",
                                           " therefore",
                                           "I don't",
                                           " international",
                                           " return x;\n",
                                           "    for (int i = 0; i < n; i++) {\n",
                                           " mathematics",
                                           " 2,048",
                                           " 12.5%",
                                           "\n\n## ",
                                           " na\xc3\xafve",
                                           " caf\xc3\xa9",
                                           " \xe2\x80\x94",
                                           "\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c",
                                           "\xe4\xb8\x96\xe7\x95\x8c\xe3\x80\x82",
                                           " \xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82",
                                           " \xf0\x9f\x98\x80",
                                           " https://",
                                           "\\frac{",
                                           "}{",
                                           " unbelievably",
                                           " counterexample",
                                           " photosynthesis",
                                           " Mississippi"};

/* A place from 0 to n - 1, the likelier the smaller. */
static size_t choose(size_t n, uint64_t index)
{
    const uint64_t limit = random_below(SEED, RANDOM_TEST, index, 1, n) + 1;

    return (size_t)random_below(SEED, RANDOM_TEST, index, 2, limit);
}

static enum status make_text(const char *const *pieces, size_t n_pieces, struct text_buffer *out)
{
    for (uint64_t i = 0; out->count < TEXT_BYTES; i++) {
        const char *piece = pieces[choose(n_pieces, i)];

        TRY(text_buffer_put(out, piece, strlen(piece)));
    }
    return STATUS_OK;
}

/* All documents once. They end between characters. */
static enum status encode_all(const struct tokenizer *tokenizer, const struct text_buffer *text,
                              size_t *n_tokens)
{
    size_t begin = 0;

    for (*n_tokens = 0; begin < text->count;) {
        size_t end = text->count - begin > DOCUMENT_BYTES ? begin + DOCUMENT_BYTES : text->count;
        struct token_list list;

        while (end < text->count && ((unsigned char)text->bytes[end] & 0xC0U) == 0x80U) {
            end++;
        }
        TRY(tokenizer_encode(tokenizer, text->bytes + begin, end - begin, true, &list));
        *n_tokens += list.count;
        token_list_dispose(&list);
        begin = end;
    }
    return STATUS_OK;
}

static enum status measure(const struct tokenizer *tokenizer, const struct text_buffer *text,
                           struct bench_result *out)
{
    double rates[REPEATS + 1] = {0};
    size_t n_tokens = 0;

    for (size_t i = 0; i <= REPEATS; i++) { /* the first one warms up and falls out of the median */
        const int64_t since_us = clock_now_us();

        TRY(encode_all(tokenizer, text, &n_tokens));
        const int64_t us = clock_now_us() - since_us;
        rates[i] = (double)text->count / (double)(us > 0 ? us : 1);
        for (size_t j = i; j > 0 && rates[j] > rates[j - 1]; j--) {
            const double rate = rates[j];

            rates[j] = rates[j - 1];
            rates[j - 1] = rate;
        }
    }
    *out = (struct bench_result){.unit = "MB/s", .value = rates[REPEATS / 2], .best = rates[0]};
    (void)snprintf(out->name, sizeof(out->name), "%.1f bytes a token",
                   (double)text->count / (double)(n_tokens > 0 ? n_tokens : 1));
    return STATUS_OK;
}

static enum status measure_folder(const char *dir, const char *label, const char *const *pieces,
                                  size_t n_pieces, struct bench_result *out)
{
    struct text_buffer text = {.bytes = NULL};
    struct tokenizer *tokenizer = NULL;
    char detail[sizeof(out->name)];

    TRY(tokenizer_load(dir, &tokenizer));
    enum status status = make_text(pieces, n_pieces, &text);
    if (status == STATUS_OK) {
        status = measure(tokenizer, &text, out);
    }
    text_buffer_dispose(&text);
    tokenizer_destroy(tokenizer);
    TRY(status);
    (void)snprintf(detail, sizeof(detail), "%s", out->name);
    (void)snprintf(out->name, sizeof(out->name), "tokenize %s, %.32s", label, detail);
    return STATUS_OK;
}

static enum status measure_demo(const char *scratch, struct bench_result *out)
{
    char *folder = NULL;

    TRY(bench_folder_make(scratch, &folder));
    enum status status = demo_tokenizer_write(folder);
    if (status == STATUS_OK) {
        status = measure_folder(folder, "demo", digit_pieces,
                                sizeof(digit_pieces) / sizeof(digit_pieces[0]), out);
    }
    return bench_folder_remove(folder, status);
}

enum status bench_tokenize(const struct bench_places *places, bench_report *report, void *context)
{
    struct bench_result result;

    TRY(measure_demo(places->scratch, &result));
    TRY(report(context, &result));
    if (places->model_dir == NULL) {
        return STATUS_OK;
    }
    TRY(measure_folder(places->model_dir, "model", prose_pieces,
                       sizeof(prose_pieces) / sizeof(prose_pieces[0]), &result));
    return report(context, &result);
}
