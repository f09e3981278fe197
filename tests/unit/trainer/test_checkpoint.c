/* Checkpoints: what is saved is loaded bit for bit; damage of any kind is set aside and the one
 * before is used; a failure leaves what was there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/unit/trainer/tiny_learner.h"
#include "trainer/checkpoint.h"
#include "trainer/publisher.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_ROOM 512

struct bench {
    struct tiny tiny;
    struct tiny_step step;
    char root[PATH_ROOM], dir[PATH_ROOM], model[PATH_ROOM];
};

static void compose(char out[PATH_ROOM], const char *dir, const char *name)
{
    const int n = snprintf(out, PATH_ROOM, "%s/%s", dir, name);
    assert_true(n > 0 && n < PATH_ROOM);
}

static int setup(void **state)
{
    static struct bench bench;
    char path[PATH_ROOM];
    memset(&bench, 0, sizeof(bench));
    support_temp_dir(bench.root, sizeof(bench.root));
    compose(bench.dir, bench.root, "checkpoints");
    compose(bench.model, bench.root, "model");
    assert_ok(folder_create(bench.model));
    compose(path, bench.model, "tokenizer.json");
    assert_ok(file_write_atomic(path, "{\"t\":1}", 7));
    tiny_open(&bench.tiny, 1, 64, 5);
    tiny_step_make(&bench.tiny, &bench.step);
    *state = &bench;
    return 0;
}

static int teardown(void **state)
{
    struct bench *bench = *state;
    tiny_close(&bench->tiny);
    support_temp_dir_remove(bench->root);
    return 0;
}

static void train(struct bench *bench)
{
    struct update_stats stats;
    const struct update_args args = {.sequences = bench->step.sequences,
                                     .n = TINY_SAMPLES,
                                     .learning_rate = 1e-2,
                                     .gradient = tiny_likelihood};
    assert_ok(learner_update(bench->tiny.learner, &args, &stats));
}

static struct checkpoint_info info_of(const struct bench *bench, size_t step)
{
    const size_t n_floats = policy_table(bench->tiny.policy)->n_floats;
    struct checkpoint_info info = {.step = step, .config_sha = "c0ffee", .numerics = "cpu-f32-1"};
    struct publisher *publisher = NULL;
    assert_ok(publisher_create(policy_weights(bench->tiny.policy), n_floats, &publisher));
    publisher_offer(publisher, step);
    info.weight_digest = publisher_digest(publisher);
    publisher_destroy(publisher);
    return info;
}

static enum status save(struct bench *bench, size_t step, size_t keep_last)
{
    const struct checkpoint_info info = info_of(bench, step);
    return checkpoint_save(bench->dir, bench->tiny.learner, &info, bench->model, keep_last);
}

/* Trains and saves steps 1 .. n. */
static void save_steps(struct bench *bench, size_t n, size_t keep_last)
{
    for (size_t step = 1; step <= n; step++) {
        train(bench);
        assert_ok(save(bench, step, keep_last));
    }
}

/* The newest whole checkpoint is this step, or there is none (0). */
static void assert_newest(const struct bench *bench, size_t step)
{
    struct checkpoint_info info = {0};
    char *path = NULL;
    char wanted[PATH_ROOM];
    char name[32];
    assert_ok(checkpoint_find(bench->dir, &path, &info));
    if (step == 0) {
        assert_null(path);
        return;
    }
    const int n = snprintf(name, sizeof(name), "step_%zu", step);
    assert_true(n > 0);
    compose(wanted, bench->dir, name);
    assert_non_null(path);
    assert_string_equal(path, wanted);
    assert_int_equal(info.step, step);
    memory_free(path);
}

static bool has(const struct bench *bench, const char *name)
{
    char path[PATH_ROOM];
    compose(path, bench->dir, name);
    return folder_exists(path);
}

static void a_saved_learner_comes_back_bit_for_bit(void **state)
{
    struct bench *bench = *state;
    struct tiny other;
    struct checkpoint_info info;
    char *path = NULL;
    save_steps(bench, 2, 2);
    assert_ok(checkpoint_find(bench->dir, &path, &info));
    assert_string_equal(info.config_sha, "c0ffee");
    assert_string_equal(info.numerics, "cpu-f32-1");
    tiny_open(&other, 1, 64, 99);
    assert_ok(checkpoint_load(path, &info, other.learner));
    assert_true(tiny_is_equal(&bench->tiny, &other));
    struct tiny kept = bench->tiny;
    train(bench);
    bench->tiny = other;
    train(bench); /* goes on as if nothing had happened */
    assert_true(tiny_is_equal(&bench->tiny, &kept));
    bench->tiny = kept;
    tiny_close(&other);
    memory_free(path);
}

static void a_checkpoint_is_a_model_folder(void **state)
{
    struct bench *bench = *state;
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "MANIFEST", "state/optimizer.bin"};
    char folder[PATH_ROOM];
    struct policy *policy = NULL;
    const struct policy_options options = {.max_rows = 8, .max_draws = 1};
    save_steps(bench, 1, 2);
    compose(folder, bench->dir, "step_1");
    for (size_t i = 0; i < 5; i++) {
        char path[PATH_ROOM];
        compose(path, folder, files[i]);
        assert_true(file_exists(path));
    }
    assert_ok(policy_load(bench->tiny.backend, folder, &options, &policy));
    assert_memory_equal(policy_weights(policy), policy_weights(bench->tiny.policy),
                        tiny_bytes(&bench->tiny));
    policy_destroy(policy);
}

static void nothing_is_found_where_nothing_is(void **state)
{
    struct bench *bench = *state;
    assert_newest(bench, 0); /* no folder */
    assert_ok(folder_create(bench->dir));
    assert_newest(bench, 0); /* an empty one */
}

/* 9 comes before 10: steps are numbers, not names. */
static void the_newest_are_kept(void **state)
{
    struct bench *bench = *state;
    for (size_t step = 8; step <= 11; step++) {
        assert_ok(save(bench, step, 2));
    }
    assert_false(has(bench, "step_8") || has(bench, "step_9"));
    assert_true(has(bench, "step_10") && has(bench, "step_11"));
    assert_newest(bench, 11);
}

static void the_same_step_again_is_kept_as_it_is(void **state)
{
    struct bench *bench = *state;
    save_steps(bench, 1, 2);
    assert_ok(save(bench, 1, 2));
    assert_newest(bench, 1);
    assert_false(has(bench, "step_1.tmp"));
}

static void flip_bit(const char *path, double where)
{
    char *data = NULL;
    size_t n = 0;
    assert_ok(file_read(path, (size_t)1 << 30, &data, &n));
    const size_t at = (size_t)(where * (double)(n - 1));
    data[at] = (char)(data[at] ^ 4);
    assert_ok(file_write_atomic(path, data, n));
    memory_free(data);
}

static void any_flipped_bit_sets_a_checkpoint_aside(void **state)
{
    struct bench *bench = *state;
    static const struct {
        const char *file;
        double where;
    } spots[] = {{"model.safetensors", 0.0}, {"model.safetensors", 0.5},
                 {"model.safetensors", 1.0}, {"state/optimizer.bin", 0.3},
                 {"config.json", 0.5},       {"tokenizer.json", 0.0},
                 {"MANIFEST", 0.5}};
    const size_t n = sizeof(spots) / sizeof(spots[0]);
    save_steps(bench, 1, 9);
    for (size_t i = 0; i < n; i++) {
        char folder[PATH_ROOM];
        char path[PATH_ROOM];
        assert_ok(save(bench, 2, 9));
        assert_newest(bench, 2);
        compose(folder, bench->dir, "step_2");
        compose(path, folder, spots[i].file);
        flip_bit(path, spots[i].where);
        assert_newest(bench, 1);
        assert_true(has(bench, "step_2.corrupt"));
        assert_false(has(bench, "step_2"));
        assert_newest(bench, 1);
    }
}

static void a_missing_or_short_file_sets_a_checkpoint_aside(void **state)
{
    struct bench *bench = *state;
    static const char *const files[] = {"step_2/model.safetensors", "step_2/state/optimizer.bin",
                                        "step_2/MANIFEST"};
    save_steps(bench, 1, 9);
    for (size_t i = 0; i < 6; i++) {
        char path[PATH_ROOM];
        assert_ok(save(bench, 2, 9));
        compose(path, bench->dir, files[i / 2]);
        if (i % 2 == 0) {
            assert_int_equal(unlink(path), 0);
        } else {
            struct stat stat_of;
            assert_int_equal(stat(path, &stat_of), 0);
            assert_int_equal(truncate(path, stat_of.st_size / 2), 0);
        }
        assert_newest(bench, 1);
        assert_true(has(bench, "step_2.corrupt"));
    }
}

static void a_folder_under_another_number_is_not_believed(void **state)
{
    struct bench *bench = *state;
    char from[PATH_ROOM];
    char to[PATH_ROOM];
    save_steps(bench, 1, 9);
    assert_ok(save(bench, 2, 9));
    compose(from, bench->dir, "step_2");
    compose(to, bench->dir, "step_7");
    assert_ok(file_rename_new(from, to));
    assert_newest(bench, 1);
    assert_true(has(bench, "step_7.corrupt"));
}

static void all_damaged_means_none(void **state)
{
    struct bench *bench = *state;
    char path[PATH_ROOM];
    save_steps(bench, 2, 9);
    for (size_t step = 1; step <= 2; step++) {
        compose(path, bench->dir, step == 1 ? "step_1/MANIFEST" : "step_2/MANIFEST");
        assert_int_equal(unlink(path), 0);
    }
    assert_newest(bench, 0);
    assert_true(has(bench, "step_1.corrupt") && has(bench, "step_2.corrupt"));
}

static void leftovers_go_and_strangers_stay(void **state)
{
    struct bench *bench = *state;
    char path[PATH_ROOM];
    static const char *const strangers[] = {"step_", "step_x", "step_3b", "step_007"};
    save_steps(bench, 1, 2);
    compose(path, bench->dir, "step_9.tmp");
    assert_ok(folder_create(path));
    compose(path, bench->dir, "step_9.tmp/half");
    assert_ok(file_write_atomic(path, "x", 1));
    compose(path, bench->dir, "plain.tmp"); /* not ours */
    assert_ok(file_write_atomic(path, "x", 1));
    for (size_t i = 0; i < 4; i++) {
        compose(path, bench->dir, strangers[i]);
        assert_ok(folder_create(path));
    }
    assert_newest(bench, 1);
    assert_false(has(bench, "step_9.tmp"));
    for (size_t i = 0; i < 4; i++) {
        assert_true(has(bench, strangers[i]));
    }
}

/* What cannot be written (a file where the folder would go) leaves the older ones whole. */
static void a_failed_save_leaves_the_older_ones(void **state)
{
    struct bench *bench = *state;
    char path[PATH_ROOM];
    save_steps(bench, 2, 2);
    struct checkpoint_info info = info_of(bench, 3);
    compose(path, bench->dir, "no/such/place");
    compose(path, bench->model, "tokenizer.json");
    assert_int_equal(unlink(path), 0);
    assert_ok(folder_create(path)); /* a folder where a tokenizer file should be: it is skipped */
    compose(path, bench->dir, "step_3");
    assert_ok(file_write_atomic(path, "x", 1));
    assert_status(checkpoint_save(bench->dir, bench->tiny.learner, &info, bench->model, 1),
                  STATUS_IO, "step_3");
    assert_int_equal(unlink(path), 0);
    assert_newest(bench, 2);
    assert_true(has(bench, "step_1"));
}

static void the_weights_must_be_those_of_the_manifest(void **state)
{
    struct bench *bench = *state;
    struct checkpoint_info info;
    char *path = NULL;
    save_steps(bench, 1, 2);
    assert_ok(checkpoint_find(bench->dir, &path, &info));
    info.weight_digest.bytes[0] ^= 1U;
    assert_status(checkpoint_load(path, &info, bench->tiny.learner), STATUS_BAD_FORMAT,
                  "not those of its MANIFEST");
    memory_free(path);
}

static enum status attempt(void *context)
{
    struct bench *bench = context;
    struct checkpoint_info info;
    char *path = NULL;
    enum status status = checkpoint_find(bench->dir, &path, &info);
    if (status == STATUS_OK) {
        assert_non_null(path); /* short of memory is not damage */
        status = checkpoint_load(path, &info, bench->tiny.learner);
    }
    memory_free(path);
    return status;
}

static void short_memory_is_not_damage_and_leaks_nothing(void **state)
{
    struct bench *bench = *state;
    save_steps(bench, 1, 2);
    assert_true(support_fail_allocations(attempt, bench) > 10);
    assert_newest(bench, 1);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_saved_learner_comes_back_bit_for_bit),
        CASE(a_checkpoint_is_a_model_folder),
        CASE(nothing_is_found_where_nothing_is),
        CASE(the_newest_are_kept),
        CASE(the_same_step_again_is_kept_as_it_is),
        CASE(any_flipped_bit_sets_a_checkpoint_aside),
        CASE(a_missing_or_short_file_sets_a_checkpoint_aside),
        CASE(a_folder_under_another_number_is_not_believed),
        CASE(all_damaged_means_none),
        CASE(leftovers_go_and_strangers_stay),
        CASE(a_failed_save_leaves_the_older_ones),
        CASE(the_weights_must_be_those_of_the_manifest),
        CASE(short_memory_is_not_damage_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
