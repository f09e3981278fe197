/* builtin:boxed_math against Math-Verify on 2,000 rows (golden/rewards/README.md). Agreement may
 * not fall below the floors; what disagrees is printed with HONE_SHOW_ROWS in the environment. A
 * false positive teaches a model to cheat, so it has a floor of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "reward/builtin.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)64 << 20)
#define ROWS 2000
#define AGREEMENT_MIN 0.962
#define FALSE_POSITIVES_MAX 26

struct tally {
    size_t n, n_equal, n_false_positive, n_false_negative;
    bool shows_rows;
};

static void check_row(const struct builtin *builtin, const struct json *row, struct tally *tally)
{
    const struct json *completion = json_get(row, "completion");
    const struct score_sample sample = {.finish = "stop",
                                        .prompt = "",
                                        .completion = json_text(completion, ""),
                                        .completion_bytes = json_text_bytes(completion),
                                        .answer = json_get(row, "answer"),
                                        .data_source = ""};
    const bool want = json_bool(json_get(row, "math_verify"), false);
    struct score score;
    builtin_score(builtin, &sample, &score);
    assert_int_equal(score.status, SCORE_OK);
    const bool got = score.value == 1.0;
    memory_free(score.detail);
    tally->n++;
    tally->n_equal += got == want ? 1 : 0;
    tally->n_false_positive += got && !want ? 1 : 0;
    tally->n_false_negative += !got && want ? 1 : 0;
    if (got != want && tally->shows_rows) {
        print_message("%s  gold %s  box %s\n", got ? "accepts" : "refuses",
                      json_text(json_get(row, "answer"), ""),
                      json_text(json_get(row, "boxed"), ""));
    }
}

static void verdicts_agree_with_math_verify(void **state)
{
    char path[4096];
    char *text = NULL;
    size_t n = 0;
    struct builtin *builtin = NULL;
    struct tally tally = {.shows_rows = getenv("HONE_SHOW_ROWS") != NULL};
    (void)state;
    if (!support_shared_path("golden/rewards/math_verify.jsonl", path, sizeof(path))) {
        skip();
    }
    assert_ok(builtin_create("boxed_math", NULL, &builtin));
    assert_ok(file_read(path, FILE_BYTES_MAX, &text, &n));
    for (const char *line = text; *line != '\0';) {
        const size_t length = strcspn(line, "\n");
        struct json *row = NULL;
        assert_ok(json_parse(line, length, 8, &row));
        check_row(builtin, row, &tally);
        json_destroy(row);
        line += length + (line[length] == '\n' ? 1 : 0);
    }
    const double agreement = (double)tally.n_equal / (double)tally.n;
    print_message("boxed_math and Math-Verify agree on %.2f %% of %zu rows; %zu accepted and %zu "
                  "refused against it\n",
                  100.0 * agreement, tally.n, tally.n_false_positive, tally.n_false_negative);
    assert_int_equal(tally.n, ROWS);
    assert_true(agreement >= AGREEMENT_MIN);
    assert_true(tally.n_false_positive <= FALSE_POSITIVES_MAX);
    memory_free(text);
    builtin_destroy(builtin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verdicts_agree_with_math_verify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
