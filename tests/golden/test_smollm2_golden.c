/* Owns the comparison of a real model, SmolLM2-135M-Instruct, with what another program computed
 * from the same GGUF file: ids, log-probabilities of every prompt and the largest logits behind it.
 * The file is HONE_SMOLLM2_GGUF, else models/SmolLM2-135M-Instruct.Q4_1.gguf; the test is skipped
 * where it is absent. */
#include "base/json.h"
#include "base/memory.h"
#include "kernels/backend.h"
#include "model/gguf_import.h"
#include "model/policy.h"
#include "model/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define ROWS_MAX ((size_t)256)
#define N_TOP 16u

static const struct tolerance allowed = {.absolute = 2e-3, .relative = 0};

struct fixture {
    struct json *root;
    const struct json *cases;
    struct gguf *file;
    struct backend *backend;
    struct policy *policy;
    char tokenizer_dir[256];
    struct tokenizer *tokenizer;
};
static struct fixture fixture;

static const char *find_model(void)
{
    const char *path = getenv("HONE_SMOLLM2_GGUF");

    if (path == NULL || path[0] == '\0') {
        path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    }
    if (access(path, R_OK) != 0) {
        (void)fprintf(stderr, "skipped: %s is absent; HONE_SMOLLM2_GGUF may name it\n", path);
        return NULL;
    }
    return path;
}

static void load_model(const char *path)
{
    const struct policy_options options = {
        .max_rows = ROWS_MAX, .max_draws = 1, .is_trainable = true};
    struct model_config config;

    assert_ok(gguf_open(path, &fixture.file));
    assert_ok(gguf_import_config(fixture.file, &config));
    support_temp_dir(fixture.tokenizer_dir, sizeof(fixture.tokenizer_dir));
    assert_ok(gguf_import_tokenizer(fixture.file, &config, fixture.tokenizer_dir));
    assert_ok(tokenizer_load(fixture.tokenizer_dir, &fixture.tokenizer));
    assert_ok(backend_open("cpu", 2, &fixture.backend));
    assert_ok(policy_create(fixture.backend, &config, &options, &fixture.policy));
    assert_ok(gguf_import_weights(fixture.file, &config, policy_table(fixture.policy),
                                  policy_weights(fixture.policy)));
    assert_ok(policy_refresh(fixture.policy));
}

static int open_fixture(void **state)
{
    char path[512];
    const char *model = find_model();

    (void)state;
    if (model == NULL || !support_shared_path("golden/smollm2/cases.json", path, sizeof(path))) {
        return 0; /* the tests then skip */
    }
    assert_ok(json_load(path, (size_t)64 << 20, 16, &fixture.root));
    fixture.cases = json_get(fixture.root, "cases");
    load_model(model);
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    tokenizer_destroy(fixture.tokenizer);
    policy_destroy(fixture.policy);
    backend_close(fixture.backend);
    gguf_close(fixture.file);
    json_destroy(fixture.root);
    if (fixture.tokenizer_dir[0] != '\0') {
        support_temp_dir_remove(fixture.tokenizer_dir);
    }
    return 0;
}

static void need_fixture(void)
{
    if (fixture.policy == NULL) {
        skip();
    }
    assert_true(json_count(fixture.cases) >= 6);
}

static void prompts_become_the_known_ids(void **state)
{
    (void)state;
    need_fixture();
    for (size_t i = 0; i < json_count(fixture.cases); i++) {
        const struct json *entry = json_at(fixture.cases, i), *text = json_get(entry, "text");
        const struct json *ids = json_get(entry, "ids");
        struct token_list list;

        assert_ok(tokenizer_encode(fixture.tokenizer, json_text(text, ""), json_text_bytes(text),
                                   true, &list));
        assert_int_equal(list.count, json_count(ids));
        for (size_t j = 0; j < list.count; j++) {
            assert_int_equal(list.ids[j], json_int(json_at(ids, j), -1));
        }
        token_list_dispose(&list);
    }
}

/* Prompt's tokens and what follows each. Returns how many there are. */
static size_t read_prompt(const struct json *ids, int32_t *tokens, int32_t *rows)
{
    const size_t n = json_count(ids);

    assert_true(n >= 2 && n <= ROWS_MAX);
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)json_int(json_at(ids, i), -1);
        rows[i] = (int32_t)i;
    }
    return n;
}

static void check_case(size_t index, float *logits)
{
    const struct json *entry = json_at(fixture.cases, index);
    const struct json *top_ids = json_get(entry, "prompt_last_top16_ids");
    const struct json *top_logits = json_get(entry, "prompt_last_top16_logits");
    const size_t vocab = policy_config(fixture.policy)->vocab_size;
    int32_t tokens[ROWS_MAX], rows[ROWS_MAX];
    float logp[ROWS_MAX], want[ROWS_MAX], got_top[N_TOP], want_top[N_TOP];
    const size_t n = read_prompt(json_get(entry, "ids"), tokens, rows);
    const size_t offsets[2] = {0, n};
    const struct policy_batch batch = {.tokens = tokens,
                                       .n_rows = n,
                                       .offsets = offsets,
                                       .n_sequences = 1,
                                       .target_rows = rows,
                                       .targets = tokens + 1,
                                       .n_targets = n - 1,
                                       .sampling = {.temperature = 1, .top_p = 1}};

    assert_ok(policy_forward(fixture.policy, &batch, logp, NULL));
    assert_ok(policy_read_trace(fixture.policy, &(struct policy_trace){.logits = logits}));
    for (size_t i = 0; i + 1 < n; i++) {
        want[i] = (float)json_number(json_at(json_get(entry, "prompt_logprobs"), i), 1);
    }
    for (size_t i = 0; i < N_TOP; i++) {
        const size_t id = (size_t)json_int(json_at(top_ids, i), 0);

        got_top[i] = logits[(n - 1) * vocab + id];
        want_top[i] = (float)json_number(json_at(top_logits, i), 0);
    }
    support_compare("prompt log-probabilities", logp, want, n - 1, allowed);
    support_compare("largest logits", got_top, want_top, N_TOP, allowed);
    print_message("case %zu: %zu tokens, log-probabilities within %.1e, logits within %.1e\n",
                  index, n, support_difference_max(logp, want, n - 1),
                  support_difference_max(got_top, want_top, N_TOP));
}

static void prompts_have_the_known_logits(void **state)
{
    float *logits;

    (void)state;
    need_fixture();
    assert_ok(
        memory_alloc(ROWS_MAX * policy_config(fixture.policy)->vocab_size, sizeof(float), &logits));
    for (size_t i = 0; i < json_count(fixture.cases); i++) {
        check_case(i, logits);
    }
    memory_free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_become_the_known_ids),
        cmocka_unit_test(prompts_have_the_known_logits),
    };

    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
