/* A forward that threads share by sequences draws what one thread draws, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/policy_part_internal.h"
#include "tests/unit/model/policy_fixture.h"

#include <math.h>
#include <string.h>

#define SEQUENCES_MAX ((size_t)127)
#define ROWS_MAX (4 * SEQUENCES_MAX)
#define DRAWS_MAX (2 * ROWS_MAX)
#define BLOCKS ((size_t)2) /* pages of a sequence */
#define TURNS ((size_t)6)
#define VOCAB ((uint64_t)64)

/* One turn as policy_extend wants it. */
struct turn {
    int32_t tokens[ROWS_MAX], positions[ROWS_MAX], draw_rows[DRAWS_MAX], drawn[DRAWS_MAX];
    struct kv_span spans[SEQUENCES_MAX];
    struct sample_row draws[DRAWS_MAX];
    float logp[DRAWS_MAX];
    size_t n_rows, n_spans, n_draws;
};
struct draws_of_all {
    int32_t drawn[TURNS][DRAWS_MAX];
    float logp[TURNS][DRAWS_MAX];
};

static bool meets; /* whether the parts of policies that cut share experts and head */
static int32_t blocks[SEQUENCES_MAX][BLOCKS];
static size_t n_cached[SEQUENCES_MAX];
static struct turn turn;

static void add_draw(size_t row, size_t sequence, size_t position)
{
    const size_t i = turn.n_draws++;

    turn.draw_rows[i] = (int32_t)row;
    turn.draws[i] = (struct sample_row){
        .seed = 3,
        .group = sequence,
        .sample = (uint32_t)i,
        .position = (uint32_t)position,
        .sampling = {.temperature = 0.8f, .top_k = 30, .top_p = 0.95f, .min_p = 0.001f}};
}

/* n new rows of a sequence; some rows draw, some twice, some not at all. */
static void add_span(size_t sequence, size_t n)
{
    turn.spans[turn.n_spans++] = (struct kv_span){.first_row = turn.n_rows,
                                                  .n_rows = n,
                                                  .n_cached = n_cached[sequence],
                                                  .blocks = blocks[sequence]};
    for (size_t i = 0; i < n; i++) {
        const size_t position = n_cached[sequence] + i, row = turn.n_rows++;

        turn.tokens[row] =
            (int32_t)random_below(5, RANDOM_TEST, sequence, position, VOCAB - 1); /* not the last */
        turn.positions[row] = (int32_t)position;
        if (i + 1 == n || sequence % 4 == 0) {
            add_draw(row, sequence, position);
        }
        if (i + 1 == n && sequence % 3 == 0) {
            add_draw(row, sequence, position);
        }
    }
    n_cached[sequence] += n;
}

/* Prompts first; then chunks, single tokens and pauses side by side. */
static void plan_turn(size_t index, size_t n_sequences)
{
    memset(&turn, 0, sizeof(turn));
    for (size_t i = 0; i < n_sequences; i++) {
        const size_t n = index == 0 ? 1 + i % 4 : random_below(6, RANDOM_TEST, index, i, 4);

        if (n > 0) {
            add_span(i, n);
        }
    }
}

static enum status extend(struct policy *policy, struct policy_cache *cache)
{
    return policy_extend(policy, cache,
                         &(struct policy_extend_args){.tokens = turn.tokens,
                                                      .positions = turn.positions,
                                                      .n_rows = turn.n_rows,
                                                      .spans = turn.spans,
                                                      .n_spans = turn.n_spans,
                                                      .draw_rows = turn.draw_rows,
                                                      .draws = turn.draws,
                                                      .n_draws = turn.n_draws,
                                                      .drawn = turn.drawn,
                                                      .logp = turn.logp});
}

static void forget_sequences(void)
{
    for (size_t i = 0; i < SEQUENCES_MAX * BLOCKS; i++) {
        blocks[i / BLOCKS][i % BLOCKS] = (int32_t)random_permute(7, 0, i, SEQUENCES_MAX * BLOCKS);
        n_cached[i / BLOCKS] = 0;
    }
}

/* A policy that cuts whatever it can. */
static struct policy *make_cutting(struct backend *backend, size_t max_draws, bool is_trainable)
{
    const struct policy_options options = {.max_rows = ROWS_MAX,
                                           .max_draws = max_draws,
                                           .is_trainable = is_trainable,
                                           .precision = precision,
                                           .cache = cache_precision,
                                           .part_rows_min = 1,
                                           .parts_meet = meets};

    return variant_policy(backend, &options);
}

/* How many of the last cut's parts there were: a page of one is marked with each. */
static size_t parts_of_cut(const struct policy_cache *cache)
{
    uint64_t last = 0;

    for (size_t i = 0; i < cache->n_pages; i++) {
        last = cache->writers[i] > last ? cache->writers[i] : last;
    }
    return last < cache->writer_base || cache->writer_base == 0 ? 1 : last - cache->writer_base + 1;
}

static void sample_all(size_t n_threads, size_t n_sequences, size_t max_draws, bool is_trainable,
                       struct draws_of_all *out)
{
    struct backend *backend = open_backend("cpu", n_threads);
    struct policy *policy = make_cutting(backend, max_draws, is_trainable);
    struct policy_cache *cache;

    memset(out, 0, sizeof(*out));
    forget_sequences();
    assert_ok(policy_cache_create(policy, SEQUENCES_MAX * BLOCKS, &cache));
    for (size_t i = 0; i < TURNS; i++) {
        plan_turn(i, n_sequences);
        if (turn.n_rows == 0) {
            continue;
        }
        assert_ok(extend(policy, cache));
        if (n_sequences >= 17) { /* enough spans for equal parts */
            assert_int_equal(parts_of_cut(cache), n_threads);
            assert_int_equal(policy->parts_meet, meets && n_threads > 1);
        }
        memcpy(out->drawn[i], turn.drawn, sizeof(turn.drawn));
        memcpy(out->logp[i], turn.logp, sizeof(turn.logp));
    }
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

static struct draws_of_all whole, cut;

static void check_sizes(size_t n_sequences, size_t max_draws, bool is_trainable)
{
    sample_all(1, n_sequences, max_draws, is_trainable, &whole);
    for (size_t n_threads = 2; n_threads <= 3; n_threads++) {
        sample_all(n_threads, n_sequences, max_draws, is_trainable, &cut);
        assert_memory_equal(&whole, &cut, sizeof(whole));
    }
}

static void parts_change_no_draw_of_any_batch(void **state)
{
    static const size_t sizes[] = {1, 3, 17, 64, 127};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        check_sizes(sizes[i], DRAWS_MAX, i % 2 != 0);
    }
}

static void parts_that_meet_change_no_draw_of_any_batch(void **state)
{
    meets = true;
    parts_change_no_draw_of_any_batch(state);
    meets = false;
}

static void parts_take_turns_with_few_logit_rows(void **state)
{
    (void)state;
    check_sizes(127, 3, false);
}

static size_t n_checked;

/* Parts that meet and parts that do not, in turns two of these and three of those. */
static void check_variant(void)
{
    const size_t turns = (n_checked + n_checked / N_PROFILES) % 2;

    n_checked++;
    sample_all(1, 17, 64, false, &whole);
    for (size_t i = 0; i < 2; i++) {
        meets = i == 1;
        sample_all(2 + (i + turns) % 2, 17, 64, false, &cut);
        meets = false;
        assert_memory_equal(&whole, &cut, sizeof(whole));
    }
}

static void parts_change_no_draw_of_any_model(void **state)
{
    (void)state;
    n_checked = 0;
    for_all(check_variant);
}

/* Sequence 1 reads in this very forward what sequence 0 writes: no cut may come between them. */
static void a_page_that_is_read_while_written_keeps_a_forward_whole(void **state)
{
    (void)state;
    for (size_t n_threads = 1; n_threads <= 2; n_threads++) {
        struct backend *backend = open_backend("cpu", n_threads);
        struct policy *policy = make_cutting(backend, DRAWS_MAX, false);
        struct policy_cache *cache;

        assert_ok(policy_cache_create(policy, SEQUENCES_MAX * BLOCKS, &cache));
        forget_sequences();
        memset(&turn, 0, sizeof(turn));
        blocks[1][0] = blocks[0][0];
        n_cached[1] = KV_BLOCK_TOKENS;
        add_span(0, KV_BLOCK_TOKENS);
        add_span(1, 48); /* further back: about the same work */
        assert_ok(extend(policy, cache));
        struct draws_of_all *const out = n_threads == 1 ? &whole : &cut;
        memcpy(out->drawn[0], turn.drawn, sizeof(turn.drawn));
        memcpy(out->logp[0], turn.logp, sizeof(turn.logp));
        const struct policy_extend_args args = {
            .n_rows = turn.n_rows, .spans = turn.spans, .n_spans = turn.n_spans};
        assert_int_equal(policy_cut_extend(policy, cache, &args), 1);
        blocks[1][0] = blocks[2][0];
        assert_int_equal(policy_cut_extend(policy, cache, &args), n_threads);
        policy_cache_destroy(cache);
        policy_destroy(policy);
        backend_close(backend);
    }
    assert_memory_equal(whole.drawn[0], cut.drawn[0], sizeof(cut.drawn[0]));
    assert_memory_equal(whole.logp[0], cut.logp[0], sizeof(cut.logp[0]));
}

/* What a training pass leaves. */
struct pass {
    float logp[MAX_ROWS], entropy[MAX_ROWS], hidden[2 * MAX_ROWS * 64];
    float *gradients;
    uint32_t counts[4 * 16];
    size_t n_parts;
};

/* Six sequences, of which `continues` names those that go on behind the nearest other one. */
static void train(size_t n_threads, bool recomputes, const bool *continues, struct pass *out)
{
    struct backend *backend = open_backend("cpu", n_threads);
    const struct policy_options options = {.max_rows = MAX_ROWS,
                                           .max_entries = 2 * MAX_ROWS,
                                           .is_trainable = true,
                                           .recomputes = recomputes,
                                           .precision = precision,
                                           .part_rows_min = 1};
    static const size_t offsets[] = {0, 33, 60, 81, 104, 122, 150};
    struct policy *policy = variant_policy(backend, &options);
    struct batch batch;

    memset(out, 0, sizeof(*out));
    batch_fill(&batch);
    for (size_t i = 0; i < 150; i++) {
        batch.tokens[i] = (int32_t)random_below(8, RANDOM_TEST, 0, i, VOCAB);
        batch.targets[i] = (int32_t)random_below(8, RANDOM_TEST, 1, i, VOCAB);
        batch.rows[i] = (int32_t)i;
        batch.g[i] = normal(2, i);
        batch.h[i] = normal(3, i);
    }
    assert_ok(policy_forward(policy,
                             &(struct policy_batch){.tokens = batch.tokens,
                                                    .n_rows = 150,
                                                    .offsets = offsets,
                                                    .n_sequences = 6,
                                                    .continues = continues,
                                                    .target_rows = batch.rows + 3,
                                                    .targets = batch.targets,
                                                    .n_targets = 141,
                                                    .sampling = plain},
                             out->logp, out->entropy));
    out->n_parts = policy_cut_batch(policy, 150);
    assert_ok(policy_read_trace(policy, &(struct policy_trace){.hidden = out->hidden}));
    policy_expert_counts(policy, out->counts);
    assert_ok(policy_backward(policy, batch.g, batch.h));
    assert_ok(policy_finish_gradients(policy));
    const size_t n = policy_table(policy)->n_floats;
    assert_ok(memory_alloc(n, sizeof(float), &out->gradients));
    memcpy(out->gradients, policy_gradients(policy), n * sizeof(float));
    policy_destroy(policy);
    backend_close(backend);
}

static struct pass passes[2];

static void check_training(bool recomputes, const bool *continues, size_t n_threads,
                           size_t want_parts)
{
    struct model_config config;
    struct weight_table *table;

    variant_config(&config);
    assert_ok(weight_table_create(&config, &table));
    train(1, recomputes, continues, &passes[0]);
    train(n_threads, recomputes, continues, &passes[1]);
    assert_int_equal(passes[1].n_parts, want_parts);
    assert_memory_equal(passes[0].logp, passes[1].logp, sizeof(passes[0].logp));
    assert_memory_equal(passes[0].entropy, passes[1].entropy, sizeof(passes[0].entropy));
    assert_memory_equal(passes[0].hidden, passes[1].hidden, sizeof(passes[0].hidden));
    assert_memory_equal(passes[0].counts, passes[1].counts, sizeof(passes[0].counts));
    assert_memory_equal(passes[0].gradients, passes[1].gradients, table->n_floats * sizeof(float));
    memory_free(passes[0].gradients);
    memory_free(passes[1].gradients);
    weight_table_destroy(table);
}

static const bool families[] = {false, true, true, false, true, true};

static void parts_change_no_bit_of_training(void **state)
{
    (void)state;
    for (size_t recomputes = 0; recomputes < 2; recomputes++) {
        check_training(recomputes != 0, NULL, 2, 2);
        check_training(recomputes != 0, families, 2, 2);
        check_training(recomputes != 0, families, 3, 1); /* two families cannot be three parts */
    }
}

static void check_families(void)
{
    check_training(precision == PRECISION_BF16, families, 2, 2);
}

static void parts_change_no_bit_of_any_models_training(void **state)
{
    (void)state;
    for_all(check_families);
}

static void a_failure_of_one_part_reaches_the_caller(void **state)
{
    struct backend *backend = open_backend("cpu", 3);
    struct policy *policy = make_cutting(backend, DRAWS_MAX, false);
    struct policy_cache *cache;

    (void)state;
    assert_ok(policy_cache_create(policy, SEQUENCES_MAX * BLOCKS, &cache));
    forget_sequences();
    plan_turn(0, 64);
    for (size_t i = 0; i < policy->sizes.d; i++) { /* a token that nobody else has */
        policy_weights(policy)[policy->embedding + (VOCAB - 1) * policy->sizes.d + i] = NAN;
    }
    turn.tokens[turn.n_rows - 1] = (int32_t)VOCAB - 1;
    assert_status(extend(policy, cache), STATUS_NUMERICS, "is not finite");
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_steady_state_takes_nothing_from_the_heap(void **state)
{
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make_cutting(backend, DRAWS_MAX, false);
    struct policy_cache *cache;
    size_t n_blocks = 0;

    (void)state;
    assert_ok(policy_cache_create(policy, SEQUENCES_MAX * BLOCKS, &cache));
    forget_sequences();
    for (size_t i = 0; i < TURNS; i++) {
        memset(n_cached, 0, sizeof(n_cached));
        plan_turn(0, 64);
        n_blocks = i == 2 ? memory_total_blocks() : n_blocks;
        assert_ok(extend(policy, cache));
    }
    assert_int_equal(memory_total_blocks(), n_blocks);
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

static void parts_that_meet_fail_and_allocate_as_others(void **state)
{
    meets = true;
    a_failure_of_one_part_reaches_the_caller(state);
    a_steady_state_takes_nothing_from_the_heap(state);
    meets = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_change_no_draw_of_any_batch),
        cmocka_unit_test(parts_that_meet_change_no_draw_of_any_batch),
        cmocka_unit_test(parts_take_turns_with_few_logit_rows),
        cmocka_unit_test(parts_change_no_draw_of_any_model),
        cmocka_unit_test(a_page_that_is_read_while_written_keeps_a_forward_whole),
        cmocka_unit_test(parts_change_no_bit_of_training),
        cmocka_unit_test(parts_change_no_bit_of_any_models_training),
        cmocka_unit_test(a_failure_of_one_part_reaches_the_caller),
        cmocka_unit_test(a_steady_state_takes_nothing_from_the_heap),
        cmocka_unit_test(parts_that_meet_fail_and_allocate_as_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
