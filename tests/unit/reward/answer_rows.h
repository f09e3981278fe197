/* Owns what tests of verifiers share: a row of text, gold answer and verdict, and random bytes.
 * Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_REWARD_ANSWER_ROWS_H
#define HONE_TESTS_UNIT_REWARD_ANSWER_ROWS_H

#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "reward/builtin.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CHECK(name, config, rows) check_rows((name), (config), (rows), COUNT(rows))
#define NA (-1.0) /* the wanted value of a row that gives n/a */

struct answer_row {
    const char *text, *gold; /* gold NULL: none */
    double want;
};

/* Scores text[0..n); the caller frees score->detail. gold NULL: no answer column. */
static inline void score_bytes(const struct builtin *builtin, const char *text, size_t n,
                               const char *gold, struct score *score)
{
    struct json *answer = gold != NULL ? json_from_text(gold, strlen(gold)) : NULL;
    const struct score_sample sample = {.finish = "stop",
                                        .prompt = "",
                                        .completion = text,
                                        .completion_bytes = n,
                                        .answer = answer,
                                        .data_source = "",
                                        .n_tokens = 7};
    builtin_score(builtin, &sample, score);
    json_destroy(answer);
}

static inline void check_rows(const char *name, const char *config_json,
                              const struct answer_row *rows, size_t n)
{
    struct builtin *builtin = NULL;
    struct json *config = NULL;
    size_t n_wrong = 0;
    assert_ok(json_parse(config_json, strlen(config_json), 4, &config));
    assert_ok(builtin_create(name, config, &builtin));
    for (size_t i = 0; i < n; i++) {
        struct score score;
        score_bytes(builtin, rows[i].text, strlen(rows[i].text), rows[i].gold, &score);
        const double got = score.status == SCORE_OK   ? score.value
                           : score.status == SCORE_NA ? NA
                                                      : -2.0;
        if (got != rows[i].want) {
            print_error("builtin:%s %s: text \"%s\" gold \"%s\" gives %g, wanted %g (%s)\n", name,
                        config_json, rows[i].text, rows[i].gold != NULL ? rows[i].gold : "(none)",
                        got, rows[i].want, score.detail != NULL ? score.detail : "");
            n_wrong++;
        }
        memory_free(score.detail);
    }
    builtin_destroy(builtin);
    json_destroy(config);
    assert_int_equal(n_wrong, 0);
}

/* Rows of boxed_math whose text is put into a box first. */
static inline void check_boxed(const struct answer_row *rows, size_t n)
{
    enum { ROWS_MAX = 128, ROOM = 128 };
    static char texts[ROWS_MAX][ROOM];
    static struct answer_row boxed[ROWS_MAX];
    assert_true(n <= ROWS_MAX);
    for (size_t i = 0; i < n; i++) {
        const int length = snprintf(texts[i], ROOM, "So \\boxed{%s}", rows[i].text);
        assert_true(length > 0 && length < ROOM);
        boxed[i] = rows[i];
        boxed[i].text = texts[i];
    }
    check_rows("boxed_math", "{}", boxed, n);
}

/* Random bytes, half of them drawn from `alphabet` so that parsers get somewhere: no verdict but
 * ok, and no answer that is right by chance of a crash. */
static inline void feed_random_bytes(const char *name, const char *config_json,
                                     const char *alphabet, size_t n_rounds)
{
    enum { ROOM = 600 };
    char text[ROOM];
    struct builtin *builtin = NULL;
    struct json *config = NULL;
    assert_ok(json_parse(config_json, strlen(config_json), 4, &config));
    assert_ok(builtin_create(name, config, &builtin));
    for (uint64_t round = 0; round < n_rounds; round++) {
        const size_t n = random_below(1, RANDOM_TEST, round, 0, ROOM);
        const bool is_raw = round % 4 == 0;
        struct score score;
        for (size_t i = 0; i < n; i++) {
            const uint64_t bits = random_bits(2, RANDOM_TEST, round, i);
            text[i] = alphabet[(bits >> 8) % strlen(alphabet)];
            memcpy(&text[i], &bits, is_raw ? 1 : 0);
        }
        score_bytes(builtin, text, n, "\\frac{1}{2}", &score);
        if (score.status == SCORE_OK) {
            assert_true(score.value == 0.0 || score.value == 1.0);
        } else {
            assert_int_equal(score.status, SCORE_ERROR);
            assert_non_null(score.detail);
        }
        memory_free(score.detail);
    }
    builtin_destroy(builtin);
    json_destroy(config);
}

#endif
