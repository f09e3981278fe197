/* Packing: what a row, a target and an MTP target are, and where batches are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/support.h"
#include "trainer/micro_batch.h"

static const int32_t prompt[] = {10, 11, 12};
static const int32_t response[] = {20, 21, 22, 23, 24, 25, 26, 27};
static const struct sampling_params sampling = {.temperature = 0.5F, .top_k = 3, .top_p = 0.9F};

/* Packing with targets of the MTP module. */
static size_t pack(struct micro_batch *batch, const struct train_sequence *sequences, size_t first,
                   size_t n, size_t max_rows)
{
    const struct micro_batch_plan plan = {
        .max_rows = max_rows, .sampling = sampling, .has_mtp = true};

    return micro_batch_pack(batch, &plan, sequences, first, n);
}

static struct train_sequence sequence_of(size_t n_prompt, size_t n_response)
{
    return (struct train_sequence){.prompt = prompt,
                                   .n_prompt = n_prompt,
                                   .response = response,
                                   .n_response = n_response,
                                   .seed = 100 + n_prompt,
                                   .group = 7,
                                   .sample = 2};
}

static void assert_ints(const int32_t *got, const int32_t *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (got[i] != want[i]) {
            fail_msg("item %zu is %d, wanted %d", i, (int)got[i], (int)want[i]);
        }
    }
}

static void two_sequences_are_laid_out_one_after_the_other(void **state)
{
    const struct train_sequence sequences[] = {sequence_of(3, 2), sequence_of(1, 3)};
    const int32_t tokens[] = {10, 11, 12, 20, 10, 20, 21};
    const int32_t target_rows[] = {2, 3, 4, 5, 6};
    const int32_t targets[] = {20, 21, 20, 21, 22};
    const int32_t mtp_rows[] = {1, 2, 4, 5};
    const int32_t mtp_targets[] = {20, 21, 21, 22};
    const size_t mtp_index[] = {0, 1, 3, 4};
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(16, &batch));
    assert_int_equal(pack(&batch, sequences, 0, 2, 16), 2);
    assert_int_equal(batch.n_rows, 7);
    assert_int_equal(batch.n_sequences, 2);
    assert_int_equal(batch.offsets[0], 0);
    assert_int_equal(batch.offsets[1], 4);
    assert_int_equal(batch.offsets[2], 7);
    assert_int_equal(batch.n_targets, 5);
    assert_int_equal(batch.n_mtp, 4);
    assert_ints(batch.tokens, tokens, 7);
    assert_ints(batch.target_rows, target_rows, 5);
    assert_ints(batch.targets, targets, 5);
    assert_ints(batch.mtp_rows, mtp_rows, 4);
    assert_ints(batch.mtp_targets, mtp_targets, 4);
    assert_memory_equal(batch.mtp_index, mtp_index, sizeof(mtp_index));
    micro_batch_dispose(&batch);
}

/* Noise of the draft for position p is the sampler's for position p. */
static void mtp_draws_carry_the_sampler_s_key(void **state)
{
    const struct train_sequence sequence = sequence_of(3, 2);
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(8, &batch));
    assert_int_equal(pack(&batch, &sequence, 0, 1, 8), 1);
    for (size_t j = 0; j < batch.n_mtp; j++) {
        const struct sample_row *draw = &batch.mtp_draws[j];
        assert_int_equal(draw->seed, 103);
        assert_int_equal(draw->group, 7);
        assert_int_equal(draw->sample, 2);
        assert_int_equal(draw->position, 3 + j);
        assert_int_equal(draw->sampling.top_k, 3);
        assert_true(draw->sampling.temperature == 0.5F && draw->sampling.top_p == 0.9F);
    }
    micro_batch_dispose(&batch);
}

/* A batch that is packed again holds nothing of the one before. */
static void sequences_are_cut_where_rows_run_out(void **state)
{
    struct train_sequence sequences[5];
    struct micro_batch batch;
    size_t first = 0;
    size_t n_batches = 0;
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        sequences[i] = sequence_of(2, 2); /* 3 rows */
    }
    assert_ok(micro_batch_init(8, &batch));
    while (first < 5) {
        const size_t next = pack(&batch, sequences, first, 5, 8);
        const size_t n = n_batches < 2 ? 2 : 1;
        assert_int_equal(next, first + n);
        assert_int_equal(batch.n_sequences, n);
        assert_int_equal(batch.n_rows, 3 * n);
        assert_int_equal(batch.n_targets, 2 * n);
        assert_int_equal(batch.n_mtp, 2 * n);
        first = next;
        n_batches++;
    }
    assert_int_equal(n_batches, 3);
    assert_int_equal(pack(&batch, sequences, 5, 5, 8), 5);
    assert_int_equal(batch.n_rows, 0);
    micro_batch_dispose(&batch);
}

static void exactly_full_is_not_too_full(void **state)
{
    const struct train_sequence sequences[] = {sequence_of(2, 2), sequence_of(2, 2)};
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(6, &batch));
    assert_int_equal(pack(&batch, sequences, 0, 2, 6), 2);
    assert_int_equal(pack(&batch, sequences, 0, 2, 5), 1);
    micro_batch_dispose(&batch);
}

static void one_long_sequence_goes_alone(void **state)
{
    const struct train_sequence sequences[] = {sequence_of(1, 1), sequence_of(3, 8),
                                               sequence_of(1, 1)};
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(10, &batch));
    assert_int_equal(pack(&batch, sequences, 0, 3, 4), 1);
    assert_int_equal(pack(&batch, sequences, 1, 3, 4), 2);
    assert_int_equal(batch.n_rows, 10);
    assert_int_equal(batch.n_targets, 8);
    assert_int_equal(pack(&batch, sequences, 2, 3, 4), 3);
    micro_batch_dispose(&batch);
}

static void counts_agree_with_what_is_packed(void **state)
{
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(16, &batch));
    for (size_t n_prompt = 1; n_prompt <= 3; n_prompt++) {
        for (size_t n_response = 1; n_response <= 8; n_response++) {
            const struct train_sequence sequence = sequence_of(n_prompt, n_response);
            assert_int_equal(pack(&batch, &sequence, 0, 1, 1), 1);
            assert_int_equal(batch.n_rows, train_sequence_rows(&sequence));
            assert_int_equal(batch.n_mtp, train_sequence_mtp_targets(&sequence));
            assert_int_equal(batch.n_targets, n_response);
        }
    }
    micro_batch_dispose(&batch);
}

/* Three samples of a prompt of three tokens, two of another group with the same prompt, and one
 * whose prompt is another. */
static void fill_groups(struct train_sequence sequences[6])
{
    static const int32_t other[] = {10, 11, 13};

    for (size_t i = 0; i < 6; i++) {
        sequences[i] = sequence_of(3, 1 + i % 3);
        sequences[i].group = i < 3 ? 1 : 2;
    }
    sequences[5].prompt = other;
}

static struct micro_batch_plan sharing_plan(size_t max_rows, size_t max_entries, bool has_mtp)
{
    return (struct micro_batch_plan){.max_rows = max_rows,
                                     .max_entries = max_entries,
                                     .sampling = sampling,
                                     .has_mtp = has_mtp,
                                     .shares_prompts = true};
}

static void assert_offsets(const struct micro_batch *batch, const size_t *offsets,
                           const bool *continues, size_t n)
{
    assert_int_equal(batch->n_sequences, n);
    assert_memory_equal(batch->offsets, offsets, (n + 1) * sizeof(*offsets));
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(batch->continues[i], continues[i]);
    }
}

static void a_group_has_its_prompt_once(void **state)
{
    const int32_t tokens[] = {10, 11, 12, 12, 20, 12, 20, 21, 10,
                              11, 12, 12, 20, 10, 11, 13, 20, 21};
    const size_t offsets[] = {0, 2, 3, 5, 8, 10, 11, 13, 18};
    const bool continues[] = {false, true, true, true, false, true, true, false};
    const int32_t target_rows[] = {2, 3, 4, 5, 6, 7, 10, 11, 12, 15, 16, 17};
    const int32_t targets[] = {20, 20, 21, 20, 21, 22, 20, 20, 21, 20, 21, 22};
    const struct micro_batch_plan plan = sharing_plan(18, 100, false);
    struct train_sequence sequences[6];
    struct micro_batch batch;
    (void)state;
    fill_groups(sequences);
    assert_ok(micro_batch_init(18, &batch));
    assert_int_equal(micro_batch_pack(&batch, &plan, sequences, 0, 6), 6);
    assert_int_equal(batch.n_rows, 18);
    assert_int_equal(batch.n_inputs, 3 + 4 + 5 + 3 + 4 + 5);
    assert_int_equal(batch.n_mtp, 0);
    assert_offsets(&batch, offsets, continues, 8);
    assert_ints(batch.tokens, tokens, 18);
    assert_ints(batch.target_rows, target_rows, 12);
    assert_ints(batch.targets, targets, 12);
    micro_batch_dispose(&batch);
}

/* The row of the MTP module that predicts the first token of a response is each sequence's own. */
static void with_a_module_one_token_more_is_each_sequences_own(void **state)
{
    const size_t offsets[] = {0, 1, 3, 6, 10};
    const bool continues[] = {false, true, true, true};
    const int32_t target_rows[] = {2, 4, 5, 7, 8, 9};
    const int32_t mtp_rows[] = {1, 3, 4, 6, 7, 8};
    const int32_t mtp_targets[] = {20, 20, 21, 20, 21, 22};
    const struct micro_batch_plan plan = sharing_plan(18, 100, true);
    struct train_sequence sequences[6];
    struct micro_batch batch;
    (void)state;
    fill_groups(sequences);
    assert_ok(micro_batch_init(18, &batch));
    assert_int_equal(micro_batch_pack(&batch, &plan, sequences, 0, 3), 3);
    assert_offsets(&batch, offsets, continues, 4);
    assert_ints(batch.target_rows, target_rows, 6);
    assert_int_equal(batch.n_mtp, 6);
    assert_ints(batch.mtp_rows, mtp_rows, 6);
    assert_ints(batch.mtp_targets, mtp_targets, 6);
    for (size_t i = 0; i < 3; i++) { /* a prompt of two has nothing to share */
        sequences[i].n_prompt = 2;
    }
    assert_int_equal(micro_batch_pack(&batch, &plan, sequences, 0, 3), 3);
    assert_int_equal(batch.n_sequences, 3);
    assert_int_equal(batch.n_rows, batch.n_inputs);
    micro_batch_dispose(&batch);
}

static void a_group_is_cut_only_where_it_does_not_fit(void **state)
{
    const size_t whole[] = {0, 2, 3, 5, 8};
    const size_t part[] = {0, 2, 3, 5};
    const bool continues[] = {false, true, true, true};
    struct train_sequence sequences[6];
    struct micro_batch batch;
    (void)state;
    fill_groups(sequences);
    assert_ok(micro_batch_init(18, &batch));
    const struct micro_batch_plan tight = sharing_plan(12, 100, false);
    assert_int_equal(micro_batch_pack(&batch, &tight, sequences, 0, 6), 3); /* 8 rows, then 5 */
    assert_offsets(&batch, whole, continues, 4);
    assert_int_equal(micro_batch_pack(&batch, &tight, sequences, 3, 6), 6);
    const struct micro_batch_plan narrow = sharing_plan(7, 100, false);
    assert_int_equal(micro_batch_pack(&batch, &narrow, sequences, 0, 6), 2);
    assert_offsets(&batch, part, continues, 3);
    assert_int_equal(micro_batch_pack(&batch, &narrow, sequences, 2, 6), 3); /* what was left */
    assert_int_equal(batch.n_sequences, 1);
    const struct micro_batch_plan alone = sharing_plan(1, 100, false);
    assert_int_equal(micro_batch_pack(&batch, &alone, sequences, 0, 6), 1);
    assert_int_equal(batch.n_rows, 3);
    micro_batch_dispose(&batch);
}

static void entries_run_out_like_rows(void **state)
{
    struct train_sequence sequences[6];
    struct micro_batch batch;
    (void)state;
    fill_groups(sequences);
    assert_ok(micro_batch_init(18, &batch));
    const struct micro_batch_plan enough = sharing_plan(18, 2 + 3 + 4 + 5, false);
    assert_int_equal(micro_batch_pack(&batch, &enough, sequences, 0, 6), 3);
    assert_int_equal(batch.n_entries, 14);
    const struct micro_batch_plan short_of_one = sharing_plan(18, 13, false);
    assert_int_equal(micro_batch_pack(&batch, &short_of_one, sequences, 0, 6), 2);
    assert_int_equal(batch.n_entries, 9);
    micro_batch_dispose(&batch);
}

static enum status attempt(void *context)
{
    struct micro_batch batch;
    const enum status status = micro_batch_init(4, &batch);
    (void)context;
    if (status == STATUS_OK) {
        micro_batch_dispose(&batch);
    }
    return status;
}

static void no_failed_allocation_leaks(void **state)
{
    (void)state;
    assert_int_equal(support_fail_allocations(attempt, NULL), 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_sequences_are_laid_out_one_after_the_other),
        cmocka_unit_test(mtp_draws_carry_the_sampler_s_key),
        cmocka_unit_test(sequences_are_cut_where_rows_run_out),
        cmocka_unit_test(exactly_full_is_not_too_full),
        cmocka_unit_test(one_long_sequence_goes_alone),
        cmocka_unit_test(counts_agree_with_what_is_packed),
        cmocka_unit_test(a_group_has_its_prompt_once),
        cmocka_unit_test(with_a_module_one_token_more_is_each_sequences_own),
        cmocka_unit_test(a_group_is_cut_only_where_it_does_not_fit),
        cmocka_unit_test(entries_run_out_like_rows),
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
