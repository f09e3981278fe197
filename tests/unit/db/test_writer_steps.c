/* What the writer keeps of a step: its manifest, its report, and the samples that left it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "db/reader.h"
#include "tests/unit/db/db_fixture.h"

static enum manifest_verdict put_manifest(struct fixture *f, int64_t step, unsigned char digest,
                                          uint64_t first, size_t n, int64_t *unfit)
{
    uint64_t ids[8];
    const float advantages[8] = {-1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F, -1.0F, 1.0F};
    enum manifest_verdict verdict = MANIFEST_UNFIT;

    for (size_t i = 0; i < n; i++) {
        ids[i] = first + i;
    }
    const struct manifest_row row = {
        .step = step, .digest = {{digest}}, .sample_ids = ids, .advantages = advantages, .n = n};
    assert_ok(writer_put_manifest(f->writer, f->run_id, &row, &verdict, unfit));
    assert_ok(writer_commit(f->writer));
    return verdict;
}

static void a_manifest_is_written_once_and_never_changed(void **state)
{
    struct fixture f;
    struct arena *arena = NULL;
    struct manifest_row row;
    bool found = false;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_WRITTEN);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_SAME);
    assert_int_equal(put_manifest(&f, 1, 8, 100, 3, &unfit), MANIFEST_DIFFERS);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM batch_items"), 4);
    assert_ok(arena_create(4096, &arena));
    assert_ok(reader_manifest(writer_db(f.writer), f.run_id, 1, arena, &row, &found));
    assert_true(found);
    assert_int_equal(row.n, 4);
    assert_int_equal(row.digest.bytes[0], 7);
    assert_true(row.sample_ids[3] == 103 && row.advantages[3] == 1.0F);
    arena_destroy(arena);
    fixture_destroy(&f);
}

static void a_manifest_with_an_unfit_sample_writes_nothing(void **state)
{
    struct fixture f;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    fixture_group(&f, 5, 2, 4, 200);
    assert_ok(writer_set_sample(f.writer, 102, ROW_MASKED, false, 0.0));
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_UNFIT);
    assert_int_equal(unfit, 102);
    assert_int_equal(put_manifest(&f, 1, 7, 900, 1, &unfit), MANIFEST_UNFIT);
    assert_int_equal(put_manifest(&f, 2, 7, 200, 4, &unfit), MANIFEST_WRITTEN);
    assert_int_equal(put_manifest(&f, 3, 7, 203, 1, &unfit), MANIFEST_UNFIT);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM steps"), 1);
    fixture_destroy(&f);
}

static void a_step_can_be_reported_again(void **state)
{
    struct fixture f;
    double columns[12];
    enum step_verdict verdict = STEP_DIFFERS;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    fixture_group(&f, 5, 1, 2, 200);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 4, &unfit), MANIFEST_WRITTEN);
    for (size_t i = 0; i < n_step_columns; i++) {
        columns[i] = i == 3 ? (double)NAN : (double)i;
    }
    const uint64_t ids[] = {100, 101};
    const float stats[] = {0.0F, 1.0F, 0.0F, 0.0F, 1.0F, 0.0F, 1.0F, 0.0F, NAN, 1.0F};
    const struct expert_rows experts = {.layers = (const int32_t[]){1},
                                        .tokens = (const uint32_t[]){5, 0, 3},
                                        .n_layers = 1,
                                        .n_experts = 3};
    struct step_row step = {.step = 1, .version_out = 1, .ended_ns = 9};
    for (int i = 0; i < 2; i++) {
        assert_ok(writer_put_step(f.writer, f.run_id, &step, columns, &verdict));
        assert_int_equal(verdict, i == 0 ? STEP_WRITTEN : STEP_SAME);
        assert_ok(writer_put_metric(f.writer, f.run_id, 1, "kl", 0.5));
        assert_ok(writer_put_train_stats(f.writer, ids, stats, 2));
        assert_ok(writer_put_experts(f.writer, f.run_id, 1, &experts));
        assert_ok(writer_commit(f.writer));
    }
    step.weight_digest.bytes[0] = 1;
    assert_ok(writer_put_step(f.writer, f.run_id, &step, columns, &verdict));
    assert_int_equal(verdict, STEP_DIFFERS);
    writer_rollback(f.writer);
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM metrics"), 1);
    assert_int_equal(fixture_read(&f, "SELECT tokens FROM expert_load WHERE expert = 2"), 3);
    assert_int_equal(fixture_read(&f, "SELECT n_tok FROM steps WHERE status = 'trained'"), 6);
    assert_int_equal(fixture_read(&f, "SELECT entropy IS NULL FROM steps"), 1);
    assert_int_equal(
        fixture_read(&f, "SELECT count(*) FROM groups WHERE group_id = 4 AND status = 'trained'"),
        1);
    assert_int_equal(
        fixture_read(&f, "SELECT count(*) FROM groups WHERE group_id = 5 AND status = 'dropped'"),
        1);
    fixture_destroy(&f);
}

static void a_retired_sample_leaves_the_totals_of_its_group(void **state)
{
    struct fixture f;
    int64_t unfit = 0;

    (void)state;
    fixture_create(&f);
    fixture_group(&f, 4, 1, 4, 100);
    assert_ok(writer_retire_sample(f.writer, 103, ROW_STALE));
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT n_scored FROM groups"), 3);
    assert_int_equal(fixture_read(&f, "SELECT abs(reward_mean - 1.0 / 3) < 1e-12 FROM groups"), 1);
    assert_int_equal(fixture_read(&f, "SELECT abs(reward_std - sqrt(1.0 / 3)) < 1e-12 FROM groups"),
                     1);
    assert_int_equal(put_manifest(&f, 1, 7, 100, 3, &unfit), MANIFEST_WRITTEN);
    assert_ok(writer_retire_sample(f.writer, 100, ROW_LATE)); /* in a manifest: keeps its status */
    assert_ok(writer_commit(f.writer));
    assert_int_equal(fixture_read(&f, "SELECT count(*) FROM samples WHERE status = 'ok'"), 3);
    fixture_destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_manifest_is_written_once_and_never_changed),
        cmocka_unit_test(a_manifest_with_an_unfit_sample_writes_nothing),
        cmocka_unit_test(a_step_can_be_reported_again),
        cmocka_unit_test(a_retired_sample_leaves_the_totals_of_its_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
