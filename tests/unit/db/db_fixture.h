/* What the tests of db/ share: a small run in a temporary folder. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_DB_DB_FIXTURE_H
#define HONE_TESTS_UNIT_DB_DB_FIXTURE_H

#include "db/db.h"
#include "db/writer.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct fixture {
    char folder[256], path[300];
    struct writer *writer;
    int64_t run_id, fn_id;
};

static inline void fixture_open(struct fixture *f)
{
    const struct run_row run = {.name = "toy", .config_json = "{}", .created_ns = 1};
    const struct fn_row fn = {.name = "exact",
                              .source = "builtin:exact",
                              .scope = "sample",
                              .sha_hex = "",
                              .weight = 1.0};

    assert_ok(writer_open(f->path, &f->writer));
    assert_ok(writer_put_run(f->writer, &run, &f->run_id));
    assert_ok(writer_put_fn(f->writer, f->run_id, &fn, &f->fn_id));
    assert_ok(writer_commit(f->writer));
}

static inline void fixture_create(struct fixture *f)
{
    support_temp_dir(f->folder, sizeof(f->folder));
    (void)snprintf(f->path, sizeof(f->path), "%s/run.db", f->folder);
    fixture_open(f);
}

static inline void fixture_destroy(struct fixture *f)
{
    writer_close(f->writer);
    support_temp_dir_remove(f->folder);
}

static const int32_t fixture_ids[] = {1, 2, 3, 10, 11}; /* prompt of 3, completion of 2 */
static const float fixture_logprobs[] = {-0.5F, -0.25F};

static inline struct sample_row fixture_sample(int64_t sample_id, int64_t group_id, int64_t idx)
{
    return (struct sample_row){.sample_id = sample_id,
                               .group_id = group_id,
                               .idx = idx,
                               .seed = UINT64_C(0xfedcba9876543210),
                               .version_first = 0,
                               .version_last = 0,
                               .gen_us = 5,
                               .status = ROW_WAITING,
                               .finish = "stop",
                               .completion = {"=7", 2},
                               .tokens = fixture_ids,
                               .logprobs = fixture_logprobs,
                               .n_prompt = 3,
                               .n_tokens = 2};
}

/* A group of n samples (ids first_sample ...), each scored ok with reward idx % 2. */
static inline void fixture_group(struct fixture *f, int64_t group_id, int64_t step, int64_t n,
                                 int64_t first_sample)
{
    const struct prompt_row prompt = {.sha = {{(unsigned char)group_id}},
                                      .data_source = "modsum",
                                      .text = {"3 4 =", 5},
                                      .answer = {"7", 1},
                                      .answer_json = {"\"7\"", 3},
                                      .row_json = {"{}", 2},
                                      .tokens = fixture_ids,
                                      .n_tokens = 3};
    struct group_row group = {
        .group_id = group_id, .run_id = f->run_id, .step = step, .n = n, .prompt_id = 0};
    struct group_totals totals = {.n_scored = n, .has_mean = true, .is_complete = true};
    double sum = 0.0;
    double squares = 0.0;

    assert_ok(writer_put_prompt(f->writer, &prompt, &group.prompt_id));
    assert_ok(writer_put_group(f->writer, &group));
    for (int64_t i = 0; i < n; i++) {
        const struct sample_row sample = fixture_sample(first_sample + i, group_id, i);
        const struct reward_row reward = {.sample_id = sample.sample_id,
                                          .fn_id = f->fn_id,
                                          .status = "ok",
                                          .value = (double)(i % 2),
                                          .tries = 1};
        bool is_new = false;

        assert_ok(writer_put_sample(f->writer, &sample, &is_new));
        assert_true(is_new);
        assert_ok(writer_set_sample(f->writer, sample.sample_id, ROW_OK, true, (double)(i % 2)));
        assert_ok(writer_put_reward(f->writer, &reward));
        sum += (double)(i % 2);
    }
    totals.mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        squares += ((double)(i % 2) - totals.mean) * ((double)(i % 2) - totals.mean);
    }
    totals.has_std = n > 1;
    totals.std = n > 1 ? sqrt(squares / (double)(n - 1)) : 0.0;
    assert_ok(writer_set_totals(f->writer, group_id, &totals));
}

/* One integer from a fresh read-only connection: what others see. */
static inline int64_t fixture_read(const struct fixture *f, const char *sql)
{
    struct db *db = NULL;
    struct query *query = NULL;
    bool has_row = false;

    assert_ok(db_open_readonly(f->path, DB_TRUSTED, &db));
    assert_ok(query_open(db, sql, &query));
    assert_ok(query_next(query, &has_row));
    assert_true(has_row);
    const int64_t value = query_int(query, 0);
    query_close(query);
    db_close(db);
    return value;
}

#endif
