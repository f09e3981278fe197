/* The exactness contract of the policy in sampling (DESIGN 3): prefill chunks, pages, batches and
 * threads change no draw, and the trainer gives each draw the sampler's log-probability. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model_cost.h"
#include "tests/unit/model/policy_fixture.h"

#include <math.h>
#include <string.h>

struct sequence {
    size_t n_cached;
    int32_t blocks[8];
};

/* One turn: the next n_new[i] tokens of each sequence, a draw for every row. */
static void extend(struct policy *policy, struct policy_cache *cache, const struct batch *batch,
                   struct sequence *sequences, const size_t *n_new, int32_t *drawn, float *logp)
{
    int32_t tokens[MAX_ROWS], positions[MAX_ROWS], where[MAX_ROWS], got[MAX_ROWS];
    float got_logp[MAX_ROWS];
    struct sample_row draws[MAX_ROWS];
    struct kv_span spans[N_SEQUENCES];
    size_t n = 0, n_spans = 0;

    for (size_t i = 0; i < N_SEQUENCES; i++) {
        if (n_new[i] == 0) {
            continue;
        }
        spans[n_spans++] = (struct kv_span){.first_row = n,
                                            .n_rows = n_new[i],
                                            .n_cached = sequences[i].n_cached,
                                            .blocks = sequences[i].blocks};
        for (size_t j = 0; j < n_new[i]; j++) {
            const size_t position = sequences[i].n_cached + j;

            where[n] = (int32_t)(batch->offsets[i] + position);
            tokens[n] = batch->tokens[where[n]];
            positions[n] = (int32_t)position;
            draws[n] = (struct sample_row){
                .seed = 3,
                .group = i,
                .position = (uint32_t)position,
                .sampling = {.temperature = 0.8f, .top_k = 30, .top_p = 0.95f, .min_p = 0.001f}};
            n++;
        }
        sequences[i].n_cached += n_new[i];
    }
    assert_ok(policy_extend(policy, cache,
                            &(struct policy_extend_args){.tokens = tokens,
                                                         .positions = positions,
                                                         .n_rows = n,
                                                         .spans = spans,
                                                         .n_spans = n_spans,
                                                         .draw_rows = batch->rows,
                                                         .draws = draws,
                                                         .n_draws = n,
                                                         .drawn = got,
                                                         .logp = got_logp}));
    for (size_t i = 0; i < n; i++) {
        drawn[where[i]] = got[i];
        logp[where[i]] = got_logp[i];
    }
}

/* All sequences in chunks of 1 to `chunk_max` rows, in pages that `seed` shuffles. */
static void sample_all(const char *device, size_t n_threads, uint64_t seed, size_t chunk_max,
                       int32_t *drawn, float *logp)
{
    struct backend *backend = open_backend(device, n_threads);
    struct policy *policy = make_policy(backend, seed % 2 == 0);
    struct sequence sequences[N_SEQUENCES] = {{0}};
    struct policy_cache *cache;
    struct batch batch;
    bool is_done = false;

    batch_fill(&batch);
    assert_ok(policy_cache_create(policy, 8 * N_SEQUENCES, &cache));
    for (size_t i = 0; i < 8 * N_SEQUENCES; i++) {
        sequences[i / 8].blocks[i % 8] = (int32_t)random_permute(seed, 0, i, 8 * N_SEQUENCES);
    }
    for (size_t turn = 0; !is_done; turn++) {
        size_t n_new[N_SEQUENCES];

        is_done = true;
        for (size_t i = 0; i < N_SEQUENCES; i++) {
            const size_t left = lengths[i] - sequences[i].n_cached;
            const size_t n = random_below(seed, RANDOM_TEST, turn, i, chunk_max + 1);

            n_new[i] = n < left ? n : left;
            is_done = is_done && sequences[i].n_cached + n_new[i] == lengths[i];
        }
        if (n_new[0] + n_new[1] + n_new[2] + n_new[3] + n_new[4] > 0) {
            extend(policy, cache, &batch, sequences, n_new, drawn, logp);
        }
    }
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

static void check_chunks(void)
{
    static const size_t chunks[] = {48, 1, 2, 7, 20};
    int32_t drawn[MAX_ROWS] = {0}, other[MAX_ROWS] = {0};
    float logp[MAX_ROWS] = {0}, other_logp[MAX_ROWS] = {0};

    sample_all("cpu", 1, 1, chunks[0], drawn, logp);
    for (size_t i = 1; i < 5; i++) {
        sample_all("cpu", 1 + i % 2, 1 + i, chunks[i], other, other_logp);
        assert_memory_equal(drawn, other, sizeof(drawn));
        assert_memory_equal(logp, other_logp, sizeof(logp));
    }
    sample_all("cpu-portable", 1, 1, 9, other, other_logp);
    assert_memory_equal(drawn, other, sizeof(drawn));
    assert_memory_equal(logp, other_logp, sizeof(logp));
}

static void chunks_pages_and_threads_change_no_draw(void **state)
{
    (void)state;
    for_all(check_chunks);
}

static void check_trainer(void)
{
    const struct sampling_params sampling = {
        .temperature = 0.8f, .top_k = 30, .top_p = 0.95f, .min_p = 0.001f};
    int32_t drawn[MAX_ROWS] = {0};
    float logp[MAX_ROWS] = {0}, trained[MAX_ROWS], entropy[MAX_ROWS];
    struct backend *backend = open_backend("cpu", 2);
    struct policy *policy = make_policy(backend, true);
    struct batch batch;

    batch_fill(&batch);
    sample_all("cpu", 1, 1, 5, drawn, logp);
    memcpy(batch.targets, drawn, sizeof(drawn));
    forward(policy, &batch, 0, N_SEQUENCES, sampling, trained, entropy);
    assert_memory_equal(logp, trained, batch.offsets[N_SEQUENCES] * sizeof(float));
    policy_destroy(policy);
    backend_close(backend);
}

static void the_trainer_gives_each_draw_the_samplers_log_probability(void **state)
{
    (void)state;
    for_all(check_trainer);
}

/* The profiles are near each other (a route may differ), and not the same. */
static void a_precision_shows_in_the_log_probabilities(void **state)
{
    static const float largest[N_PROFILES] = {0.0f, 0.3f, 3.0f, 3.0f, 0.3f, 3.0f};
    static const char *const numerics[N_PROFILES] = {"cpu-f32-", "cpu-bf16-", "cpu-fp8-",
                                                     "cpu-fp8-", "cpu-f32-",  "cpu-fp8-"};
    float logp[N_PROFILES][MAX_ROWS], entropy[MAX_ROWS];

    (void)state;
    for (size_t i = 0; i < N_PROFILES; i++) {
        struct backend *backend = open_backend("cpu", 1);
        struct policy *policy;
        struct batch batch;
        float off = 0;

        set_profile(i);
        policy = make_policy(backend, true);
        assert_memory_equal(policy_numerics(policy), numerics[i], strlen(numerics[i]));
        assert_true((strstr(policy_numerics(policy), "/head-bf16") != NULL) ==
                    (unquantised == PRECISION_BF16));
        assert_true((strstr(policy_numerics(policy), "/kv-bf16") != NULL) ==
                    (cache_precision == PRECISION_BF16));
        assert_true((strstr(policy_numerics(policy), "/kv-fp8") != NULL) ==
                    (cache_precision == PRECISION_FP8));
        batch_fill(&batch);
        forward(policy, &batch, 0, N_SEQUENCES, plain, logp[i], entropy);
        for (size_t j = 0; j < batch.offsets[N_SEQUENCES]; j++) {
            off = fmaxf(off, fabsf(logp[i][j] - logp[0][j]));
        }
        assert_true(i == 0 || off > 1e-6f);
        for (size_t j = 0; j < i; j++) { /* head and kv_b in bf16 show, and every cache */
            assert_memory_not_equal(logp[i], logp[j], batch.offsets[N_SEQUENCES] * sizeof(float));
        }
        if (off > largest[i]) {
            fail_msg("profile %zu is %g off", i, (double)off);
        }
        policy_destroy(policy);
        backend_close(backend);
    }
    set_profile(0);
}

static void a_copied_page_serves_like_the_original(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, false);
    struct sequence sequences[N_SEQUENCES] = {{.blocks = {0, 1, 2, 3}}};
    size_t n_new[N_SEQUENCES] = {10};
    int32_t drawn[MAX_ROWS], again[MAX_ROWS];
    float logp[MAX_ROWS], again_logp[MAX_ROWS];
    struct policy_cache *cache;
    struct batch batch;

    (void)state;
    batch_fill(&batch);
    assert_ok(policy_cache_create(policy, 5, &cache));
    extend(policy, cache, &batch, sequences, n_new, drawn, logp);
    assert_ok(policy_cache_copy_page(cache, 0, 4, 10));
    n_new[0] = 1;
    extend(policy, cache, &batch, sequences, n_new, drawn, logp);
    sequences[0].blocks[0] = 4;
    sequences[0].n_cached = 10;
    extend(policy, cache, &batch, sequences, n_new, again, again_logp);
    assert_int_equal(drawn[10], again[10]);
    assert_memory_equal(&logp[10], &again_logp[10], sizeof(float));
    assert_status(policy_cache_copy_page(cache, 0, 5, 1), STATUS_BAD_ARGUMENT, "the cache has 5");
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

static void a_logit_that_is_not_finite_stops_sampling(void **state)
{
    struct backend *backend = open_backend("cpu", 1);
    struct policy *policy = make_policy(backend, false);
    const struct weight_row *head = weight_table_find(policy_table(policy), "lm_head.weight");
    const int32_t token = 3, position = 0, row = 0, block = 0;
    const struct kv_span span = {.n_rows = 1, .blocks = &block};
    const struct sample_row draw = {.sampling = plain};
    struct policy_cache *cache;
    int32_t drawn;
    float logp;
    struct policy_extend_args args = {.tokens = &token,
                                      .positions = &position,
                                      .n_rows = 1,
                                      .spans = &span,
                                      .n_spans = 1,
                                      .draw_rows = &row,
                                      .draws = &draw,
                                      .n_draws = 1,
                                      .drawn = &drawn,
                                      .logp = &logp};

    (void)state;
    assert_ok(policy_cache_create(policy, 1, &cache));
    assert_ok(policy_extend(policy, cache, &args));
    policy_weights(policy)[head->offset + 5] = NAN;
    assert_ok(policy_refresh(policy));
    assert_status(policy_extend(policy, cache, &args), STATUS_NUMERICS, "draw 0");
    policy_cache_destroy(cache);
    policy_destroy(policy);
    backend_close(backend);
}

/* A scale for each 128 values of a latent, of a head's key and of its value. */
static void an_fp8_cache_is_as_small_as_its_codes(void **state)
{
    static const char *const presets[] = {"small", "medium", "v32", "llama", "qwen3-moe"};

    (void)state;
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        const struct policy_options options = {
            .max_rows = 8, .max_draws = 8, .cache = PRECISION_FP8};
        struct model_config config;
        struct policy_memory memory;

        assert_ok(model_config_preset(presets[i], &config));
        config.n_kv_heads = config.n_heads;
        assert_ok(policy_measure(&config, &options, &memory));
        const size_t n_layers = config.n_layers;
        const size_t entry = (size_t)model_cache_bytes(&config, 1, PRECISION_FP8) / n_layers;
        const size_t whole = (entry + 3) / 4 * 4; /* words */

        assert_int_equal(memory.cache_page, n_layers * KV_BLOCK_TOKENS * whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_pages_and_threads_change_no_draw),
        cmocka_unit_test(the_trainer_gives_each_draw_the_samplers_log_probability),
        cmocka_unit_test(a_precision_shows_in_the_log_probabilities),
        cmocka_unit_test(an_fp8_cache_is_as_small_as_its_codes),
        cmocka_unit_test(a_copied_page_serves_like_the_original),
        cmocka_unit_test(a_logit_that_is_not_finite_stops_sampling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
