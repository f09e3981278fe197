/* Drafts from caches against the training pass over whole sequences: the same modules, so the same
 * tokens, however the rows were cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <string.h>

#define N_BLOCKS ((size_t)8)
#define N_DRAFTS ((size_t)3)

static struct policy *make_drafting(struct backend *backend, bool is_trainable, size_t n_drafts,
                                    size_t max_rows)
{
    const struct policy_options options = {
        .max_rows = max_rows, .max_draws = 2, .is_trainable = is_trainable, .n_drafts = n_drafts};
    struct model_config config;

    variant_config(&config);
    config.n_eos_ids = 0; /* an end token would end a row of drafts */
    return policy_of(backend, &config, &options);
}

static struct sample_row noise(size_t sequence, size_t position)
{
    return (struct sample_row){.seed = 3,
                               .group = sequence,
                               .position = (uint32_t)position,
                               .sampling = {.temperature = 1, .top_p = 1}};
}

/* What module 0 draws behind every row that has a token behind it. */
static void draw_in_training(struct policy *policy, const struct batch *batch, int32_t *drawn)
{
    struct sample_row draws[MAX_ROWS];
    int32_t got[MAX_ROWS], rows[MAX_ROWS];
    float logp[MAX_ROWS];
    size_t n = 0;

    forward(policy, batch, 0, N_SEQUENCES, plain, logp, NULL);
    for (size_t i = 0; i < N_SEQUENCES; i++) {
        for (size_t j = 0; j + 1 < lengths[i]; j++) {
            rows[n] = (int32_t)(batch->offsets[i] + j);
            draws[n++] = noise(i, j + 2);
        }
    }
    assert_ok(policy_mtp_forward(policy,
                                 &(struct policy_mtp_args){.target_rows = rows,
                                                           .targets = batch->targets,
                                                           .n_targets = n,
                                                           .detached = true,
                                                           .draws = draws,
                                                           .drawn = got},
                                 logp));
    for (size_t i = 0; i < n; i++) {
        drawn[rows[i]] = got[i];
    }
}

/* The next n_new rows of a sequence through the model and, behind all but a last row, the
 * modules; *draft is what they draw behind the last of them. */
static void extend_and_draft(struct policy *policy, struct policy_cache *cache,
                             const struct batch *batch, size_t sequence, size_t n_cached,
                             size_t n_new, int32_t *draft)
{
    static const int32_t blocks[N_BLOCKS] = {5, 2, 7, 0, 3, 6, 1, 4};
    const int32_t *tokens = batch->tokens + batch->offsets[sequence] + n_cached;
    const struct kv_span span = {.n_rows = n_new, .n_cached = n_cached, .blocks = blocks};
    const bool is_whole = n_cached + n_new == lengths[sequence];
    const size_t n_known = is_whole ? n_new - 1 : n_new;
    const size_t n_drafts[1] = {N_DRAFTS};
    const struct kv_span known = {.n_rows = n_known, .n_cached = n_cached, .blocks = blocks};
    const struct sample_row draw = noise(sequence, n_cached + n_known + 1);
    int32_t positions[MAX_ROWS], rows[MAX_ROWS];

    for (size_t i = 0; i < n_new; i++) {
        positions[i] = (int32_t)(n_cached + i);
        rows[i] = (int32_t)i;
    }
    assert_ok(policy_extend(policy, cache,
                            &(struct policy_extend_args){.tokens = tokens,
                                                         .positions = positions,
                                                         .n_rows = n_new,
                                                         .spans = &span,
                                                         .n_spans = 1}));
    *draft = -1;
    if (n_known > 0) {
        int32_t drafts[N_DRAFTS];

        assert_ok(policy_draft(policy, cache,
                               &(struct policy_draft_args){.rows = rows,
                                                           .tokens = tokens + 1,
                                                           .positions = positions,
                                                           .n_rows = n_known,
                                                           .spans = &known,
                                                           .n_spans = 1,
                                                           .n_drafts = n_drafts,
                                                           .draws = &draw,
                                                           .drafts = drafts,
                                                           .drafts_stride = N_DRAFTS}));
        for (size_t i = 0; i < N_DRAFTS; i++) {
            assert_in_range(drafts[i], 0, policy_config(policy)->vocab_size - 1);
        }
        *draft = drafts[0];
    }
}

static void check_variant(bool is_trainable)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *trained = make_drafting(backend, true, 0, MAX_ROWS);
    struct policy *policy = make_drafting(backend, is_trainable, N_DRAFTS, 64);
    struct policy_cache *cache;
    struct batch batch;
    int32_t want[MAX_ROWS];

    batch_fill(&batch);
    draw_in_training(trained, &batch, want);
    for (size_t i = 0; i < N_SEQUENCES; i++) {
        size_t n_cached = 0;

        assert_ok(policy_cache_create(policy, N_BLOCKS, &cache));
        for (size_t turn = 0; n_cached < lengths[i]; turn++) {
            const size_t left = lengths[i] - n_cached;
            const size_t n = 1 + random_below(5, RANDOM_TEST, i, turn, 9);
            const size_t n_new = n < left ? n : left;
            int32_t draft;

            extend_and_draft(policy, cache, &batch, i, n_cached, n_new, &draft);
            n_cached += n_new;
            const size_t last = n_cached == lengths[i] ? n_cached - 2 : n_cached - 1;
            if (draft >= 0) {
                assert_int_equal(draft, want[batch.offsets[i] + last]);
            }
        }
        policy_cache_destroy(cache);
    }
    policy_destroy(policy);
    policy_destroy(trained);
    backend_close(backend);
}

static void first_drafts_are_what_the_training_pass_draws(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        variant = variants[i];
        if ((variant & VARIANT_GROUPED) == 0) { /* those have no modules */
            check_variant(i % 2 == 1);
        }
    }
    variant = 0;
}

static void wrong_arguments_are_refused(void **state)
{
    static const int32_t zero[1], one[1] = {1}, many[1] = {1 << 20}, blocks[2] = {0, 9};
    static const size_t n_drafts[1] = {2};
    const struct kv_span span = {.n_rows = 1, .n_cached = 3, .blocks = blocks};
    const struct kv_span edge = {.n_rows = 1, .n_cached = 63, .blocks = blocks};
    const struct sample_row draw = noise(0, 1);
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_drafting(backend, false, 2, 8);
    struct policy *without = make_drafting(backend, false, 0, 8);
    struct policy_cache *cache;
    int32_t drafts[2];
    struct policy_draft_args args = {.rows = zero,
                                     .tokens = zero,
                                     .positions = zero,
                                     .n_rows = 1,
                                     .spans = &span,
                                     .n_spans = 1,
                                     .n_drafts = n_drafts,
                                     .draws = &draw,
                                     .drafts = drafts,
                                     .drafts_stride = 2};
    (void)state;

    assert_int_equal(policy_max_drafts(without), 0);
    assert_int_equal(policy_max_drafts(policy), 2);
    assert_true(policy_cache_page_bytes(policy) > policy_cache_page_bytes(without));
    assert_ok(policy_cache_create(policy, 2, &cache));
    assert_status(policy_draft(without, cache, &args), STATUS_BAD_ARGUMENT, "not made for drafts");
    assert_status(policy_draft(policy, cache, &args), STATUS_BAD_ARGUMENT, "last forward had 0");
    assert_ok(policy_extend(
        policy, cache,
        &(struct policy_extend_args){
            .tokens = zero, .positions = zero, .n_rows = 1, .spans = &span, .n_spans = 1}));
    assert_ok(policy_draft(policy, cache, &args));
    args.rows = one;
    assert_status(policy_draft(policy, cache, &args), STATUS_BAD_ARGUMENT, "last forward had 1");
    args.rows = zero;
    args.tokens = many;
    assert_status(policy_draft(policy, cache, &args), STATUS_BAD_ARGUMENT, "vocabulary");
    args.tokens = zero;
    args.spans = &edge; /* the second draft needs a second page */
    assert_status(policy_draft(policy, cache, &args), STATUS_BAD_ARGUMENT, "page 9 of 2");
    args.spans = &span;
    args.drafts_stride = 1;
    assert_status(policy_draft(policy, cache, &args), STATUS_BAD_ARGUMENT, "2 drafts");
    policy_cache_destroy(cache);
    policy_destroy(without);
    policy_destroy(policy);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_drafts_are_what_the_training_pass_draws),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
