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
    assert_int_equal(micro_batch_pack(&batch, sequences, 0, 2, 16, &sampling), 2);
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
    assert_int_equal(micro_batch_pack(&batch, &sequence, 0, 1, 8, &sampling), 1);
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
        const size_t next = micro_batch_pack(&batch, sequences, first, 5, 8, &sampling);
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
    assert_int_equal(micro_batch_pack(&batch, sequences, 5, 5, 8, &sampling), 5);
    assert_int_equal(batch.n_rows, 0);
    micro_batch_dispose(&batch);
}

static void exactly_full_is_not_too_full(void **state)
{
    const struct train_sequence sequences[] = {sequence_of(2, 2), sequence_of(2, 2)};
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(6, &batch));
    assert_int_equal(micro_batch_pack(&batch, sequences, 0, 2, 6, &sampling), 2);
    assert_int_equal(micro_batch_pack(&batch, sequences, 0, 2, 5, &sampling), 1);
    micro_batch_dispose(&batch);
}

static void one_long_sequence_goes_alone(void **state)
{
    const struct train_sequence sequences[] = {sequence_of(1, 1), sequence_of(3, 8),
                                               sequence_of(1, 1)};
    struct micro_batch batch;
    (void)state;
    assert_ok(micro_batch_init(10, &batch));
    assert_int_equal(micro_batch_pack(&batch, sequences, 0, 3, 4, &sampling), 1);
    assert_int_equal(micro_batch_pack(&batch, sequences, 1, 3, 4, &sampling), 2);
    assert_int_equal(batch.n_rows, 10);
    assert_int_equal(batch.n_targets, 8);
    assert_int_equal(micro_batch_pack(&batch, sequences, 2, 3, 4, &sampling), 3);
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
            assert_int_equal(micro_batch_pack(&batch, &sequence, 0, 1, 1, &sampling), 1);
            assert_int_equal(batch.n_rows, train_sequence_rows(&sequence));
            assert_int_equal(batch.n_mtp, train_sequence_mtp_targets(&sequence));
            assert_int_equal(batch.n_targets, n_response);
        }
    }
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
    assert_int_equal(support_fail_allocations(attempt, NULL), 14);
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
        cmocka_unit_test(no_failed_allocation_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
