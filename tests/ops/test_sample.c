/* Token draws: noise word by word, distribution, filters, and log-probabilities that equal the
 * head's bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The portable instruction set is the specification of the others. */
#define SIMD_ISA portable
#define SIMD_HEADER "kernels/cpu/simd/simd_portable.h"
#include "kernels/cpu/simd/philox.h"
#include "tests/ops/distribution_oracle.h"
#include "tests/ops/op_fixture.h"

struct sample_case {
    size_t n_rows, vocab;
    const float *logits;
    const struct sample_row *rows;
};

/* Tokens as floats, then logp. */
static void run_sample(struct backend *b, const void *context, float *out)
{
    const struct sample_case *c = context;
    int32_t *tokens;

    assert_ok(memory_alloc(c->n_rows, sizeof(*tokens), &tokens));
    assert_ok(b->ops->sample(b, &(struct sample_args){.logits = c->logits,
                                                      .logits_stride = c->vocab,
                                                      .rows = c->rows,
                                                      .tokens = tokens,
                                                      .logp = out + c->n_rows,
                                                      .n_rows = c->n_rows,
                                                      .vocab = c->vocab}));
    for (size_t i = 0; i < c->n_rows; i++) {
        assert_true(tokens[i] >= 0 && (size_t)tokens[i] < c->vocab);
        out[i] = (float)tokens[i];
    }
    memory_free(tokens);
}

static struct sample_row *make_rows(size_t n, struct sampling_params sampling)
{
    struct sample_row *rows;

    assert_ok(memory_alloc(n, sizeof(*rows), &rows));
    for (size_t i = 0; i < n; i++) {
        rows[i] = (struct sample_row){.seed = 0x123456789abcdefULL,
                                      .group = 1000 + i / 64,
                                      .sample = (uint32_t)(i / 8 % 8),
                                      .position = (uint32_t)(i % 8),
                                      .sampling = sampling};
    }
    return rows;
}

static const struct sampling_params samplings[] = {
    {.temperature = 1.0F, .top_p = 1.0F},
    {.temperature = 0.7F, .top_p = 1.0F},
    {.temperature = 1.3F, .top_k = 5, .top_p = 1.0F},
    {.temperature = 1.0F, .top_p = 0.6F},
    {.temperature = 0.9F, .top_p = 1.0F, .min_p = 0.2F},
    {.temperature = 1.1F, .top_k = 9, .top_p = 0.8F, .min_p = 0.1F},
    {.temperature = 0.0F, .top_p = 1.0F},
};
#define N_SAMPLINGS (sizeof(samplings) / sizeof(samplings[0]))

/* Words and uniforms of one tile of 64 tokens. */
struct tile_noise {
    int32_t words[NOISE_TILE];
    float uniforms[NOISE_TILE];
};

static void tile_noise_of(const struct noise_words *words, struct tile_noise *out)
{
    for (size_t i = 0; i < 4; i++) {
        ivec_store(out->words + 16 * i, words->c[i]);
        vec_store(out->uniforms + 16 * i, noise_uniform(words->c[i]));
    }
}

static void make_noise(const struct noise_key *key, size_t tile, struct tile_noise *out)
{
    struct noise_words words;

    noise_tiles(key, &tile, 1, &words);
    tile_noise_of(&words, out);
}

static void noise_equals_philox_word_by_word(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        const uint64_t seed = 0xfedcba9876543210ULL * i, group = 77 * (uint64_t)i;
        const uint32_t sample = i * 5, position = 0xffffffffU - i;
        const uint64_t key_bits =
            random_bits(seed, RANDOM_SAMPLING, group, sample | (uint64_t)position << 32);
        const uint32_t key[2] = {(uint32_t)key_bits, (uint32_t)(key_bits >> 32)};
        const struct noise_key row = noise_key_make(seed, group, sample, position);
        for (uint32_t tile = 0; tile < 3; tile++) {
            struct tile_noise noise;
            make_noise(&row, tile, &noise);
            for (uint32_t v = 0; v < NOISE_TILE; v++) {
                const uint32_t counter[4] = {16 * tile + v % 16, position, sample, 0};
                uint32_t want[4];
                random_philox(counter, key, want);
                assert_int_equal((uint32_t)noise.words[v], want[v / 16]);
            }
        }
    }
}

static void tiles_of_noise_made_together_are_those_made_alone(void **state)
{
    static const size_t tiles[NOISE_TILES_MAX] = {41, 42, 7};
    const struct noise_key key = noise_key_make(5, 6, 7, 8);
    struct noise_words words[NOISE_TILES_MAX];
    (void)state;

    noise_tiles(&key, tiles, NOISE_TILES_MAX, words);
    for (size_t i = 0; i < NOISE_TILES_MAX; i++) {
        struct tile_noise want, got;
        make_noise(&key, tiles[i], &want);
        tile_noise_of(&words[i], &got);
        assert_memory_equal(&got, &want, sizeof(got));
    }
}

static void uniform_noise_is_inside_the_unit_interval(void **state)
{
    (void)state;
    assert_true(vec_hmax(noise_uniform(ivec_set1(0))) == 0x1p-24F);
    assert_true(vec_hmax(noise_uniform(ivec_set1(-1))) == 1.0F - 0x1p-24F);
    assert_true(vec_hmax(vec_log(noise_uniform(ivec_set1(-1)))) < 0.0F);
    assert_true(vec_hmax(noise_uniform(ivec_set1(INT32_MIN))) > 0.5F);
}

/* The draw of one row restated in double. Scores closer than this are not decided by double. */
static int32_t oracle_draw(const struct oracle_distribution *o, const struct sample_row *row,
                           bool *is_close)
{
    const struct noise_key key = noise_key_make(row->seed, row->group, row->sample, row->position);
    struct tile_noise noise = {{0}, {0}};
    double best = -1.0, second = -1.0;
    int32_t winner = -1;

    for (size_t v = 0; v < o->vocab; v++) {
        if (v % NOISE_TILE == 0) {
            make_noise(&key, v / NOISE_TILE, &noise);
        }
        const double time = -log((double)noise.uniforms[v % NOISE_TILE]);
        const double score = o->kept[v] ? exp(o->u[v]) / time : -2.0;
        if (score > best) {
            second = best;
            best = score;
            winner = (int32_t)v;
        } else if (score > second) {
            second = score;
        }
    }
    *is_close = second > best * (1.0 - 1e-5);
    return winner;
}

static void check_draws(size_t vocab, float scale, const struct sampling_params *sampling)
{
    static struct oracle_distribution o;
    const size_t n_rows = 40;
    float *logits = random_floats(n_rows * vocab, vocab, scale), *out = new_floats(2 * n_rows);
    struct sample_row *rows = make_rows(n_rows, *sampling);
    const struct sample_case c = {n_rows, vocab, logits, rows};

    run_everywhere(run_sample, &c, 2 * n_rows, out);
    for (size_t i = 0; i < n_rows; i++) {
        double *wide = widen(logits + i * vocab, vocab);
        bool is_close;
        oracle_make(wide, vocab, sampling, -1, &o);
        const int32_t winner = oracle_draw(&o, &rows[i], &is_close);
        const int32_t token = (int32_t)out[i];
        assert_true(o.kept[token]);
        assert_true(token == winner || is_close);
        const double logp = o.u[token] - oracle_lse(&o, false);
        assert_true(fabs((double)out[n_rows + i] - logp) < 4e-6 * (1.0 + fabs(logp)));
        memory_free(wide);
    }
    memory_free(rows);
    memory_free(out);
    memory_free(logits);
}

static void draws_agree_with_the_oracle_under_every_filter(void **state)
{
    static const size_t vocabularies[] = {1, 7, 8, 17, 64, 127, 129};
    (void)state;
    for (size_t i = 0; i < 7 * N_SAMPLINGS; i++) {
        check_draws(vocabularies[i % 7], 2.0F, &samplings[i / 7]);
    }
}

/* Long rows: some tokens lead by so much that most tiles are not looked at, in others nothing is
 * kept. */
static void draws_of_long_rows_agree_with_the_oracle(void **state)
{
    static const float scales[] = {0.3F, 2.0F, 8.0F};
    (void)state;
    for (size_t i = 0; i < 3 * N_SAMPLINGS; i++) {
        check_draws(1000 + 64 * (i % 3), scales[i % 3], &samplings[i / 3]);
    }
}

#define DRAWS ((size_t)200000)
#define FEW ((size_t)8)
#define BATCH ((size_t)1000)

/* Four standard deviations of a binomial count; the draws are a fixed function of the keys. */
static void counts_follow_the_distribution(void **state)
{
    static const float p[FEW] = {0.4F, 0.25F, 0.15F, 0.1F, 0.05F, 0.03F, 0.0199F, 0.0001F};
    static float logits[BATCH * FEW], logp[BATCH];
    static int32_t tokens[BATCH];
    static struct sample_row rows[BATCH];
    size_t counts[FEW] = {0};
    struct backend *b;
    (void)state;

    assert_ok(backend_open("cpu", 1, &b));
    for (size_t i = 0; i < BATCH * FEW; i++) {
        logits[i] = logf(p[i % FEW]);
    }
    for (size_t first = 0; first < DRAWS; first += BATCH) {
        for (size_t i = 0; i < BATCH; i++) {
            rows[i] = (struct sample_row){.seed = 42,
                                          .group = (first + i) / 100,
                                          .sample = (uint32_t)((first + i) / 10 % 10),
                                          .position = (uint32_t)((first + i) % 10),
                                          .sampling = samplings[0]};
        }
        assert_ok(
            b->ops->sample(b, &(struct sample_args){logits, FEW, rows, tokens, logp, BATCH, FEW}));
        for (size_t i = 0; i < BATCH; i++) {
            counts[tokens[i]]++;
        }
    }
    backend_close(b);
    for (size_t v = 0; v < FEW; v++) {
        const double mean = (double)DRAWS * (double)p[v];
        const double limit = 4.0 * sqrt(mean * (1.0 - (double)p[v]));
        if (fabs((double)counts[v] - mean) > limit) {
            fail_msg("token %zu drawn %zu times, want %.0f +- %.0f", v, counts[v], mean, limit);
        }
    }
}

static void a_draw_does_not_depend_on_its_batch(void **state)
{
    const size_t vocab = 129, n_rows = 700;
    float *logits = random_floats(n_rows * vocab, 1, 2.0F), *all = new_floats(2 * n_rows);
    struct sample_row *rows = make_rows(n_rows, samplings[0]);
    const struct sample_case c = {n_rows, vocab, logits, rows};
    struct backend *b;
    (void)state;

    for (size_t i = 0; i < n_rows; i++) {
        rows[i].sampling = samplings[i % N_SAMPLINGS]; /* mixed in one batch */
    }
    run_everywhere(run_sample, &c, 2 * n_rows, all);
    assert_ok(backend_open("cpu", 1, &b));
    for (size_t i = 0; i < n_rows; i++) {
        float one[2];
        run_sample(b, &(struct sample_case){1, vocab, logits + i * vocab, rows + i}, one);
        assert_true(one[0] == all[i]);
        assert_same_bits("logp", &one[1], &all[n_rows + i], 1);
    }
    backend_close(b);
    memory_free(rows);
    memory_free(all);
    memory_free(logits);
}

#define ROWS ((size_t)300)
#define VOCAB ((size_t)129)
#define WIDTH ((size_t)40)

/* The trainer's log-probability of what was drawn: logits through the same head. */
static void logp_equals_the_heads_bit_for_bit(void **state)
{
    float *x = random_floats(ROWS * WIDTH, 1, 1.0F), *w = random_floats(VOCAB * WIDTH, 2, 0.4F);
    float *packed = new_floats(packed_floats(WIDTH, VOCAB)), *logits = new_floats(ROWS * VOCAB);
    static float logp[ROWS], again[ROWS], lse[ROWS];
    static int32_t tokens[ROWS];
    struct backend *b;
    (void)state;

    assert_ok(backend_open("cpu", 2, &b));
    assert_ok(b->ops->pack(
        b, &(struct pack_args){
               .src = w, .src_stride = WIDTH, .n_in = WIDTH, .n_out = VOCAB, .dst = packed}));
    assert_ok(b->ops->gemm(b, &(struct gemm_args){.x = x,
                                                  .x_stride = WIDTH,
                                                  .w = packed,
                                                  .y = logits,
                                                  .y_stride = VOCAB,
                                                  .n_rows = ROWS,
                                                  .n_in = WIDTH,
                                                  .n_out = VOCAB}));
    for (size_t i = 0; i < N_SAMPLINGS; i++) {
        struct sample_row *rows = make_rows(ROWS, samplings[i]);
        assert_ok(b->ops->sample(
            b, &(struct sample_args){logits, VOCAB, rows, tokens, logp, ROWS, VOCAB}));
        assert_ok(b->ops->lm_head_logprob(b, &(struct lm_head_args){.x = x,
                                                                    .x_stride = WIDTH,
                                                                    .w = packed,
                                                                    .targets = tokens,
                                                                    .logp = again,
                                                                    .lse = lse,
                                                                    .n_rows = ROWS,
                                                                    .d = WIDTH,
                                                                    .vocab = VOCAB,
                                                                    .sampling = samplings[i]}));
        assert_same_bits("logp", again, logp, ROWS);
        memory_free(rows);
    }
    backend_close(b);
    memory_free(logits);
    memory_free(packed);
    memory_free(w);
    memory_free(x);
}

/* Kept sets at ties and at the edges of every filter, seen through the only token left. */
static void filters_decide_ties_by_the_lower_id(void **state)
{
    static const struct {
        struct sampling_params sampling;
        float logits[6];
        unsigned kept; /* bit per token */
    } cases[] = {
        {{.temperature = 1, .top_k = 2, .top_p = 1}, {1, 2, 1, 0, 1, 0}, 0x3},
        {{.temperature = 1, .top_k = 6, .top_p = 1}, {1, 2, 1, 0, 1, 0}, 0x3f},
        {{.temperature = 1, .top_p = 0.5F}, {0, 0, 0, 0, 0, 0}, 0x7},
        {{.temperature = 1, .top_p = 0.0F}, {0, 0, 3, 0, 3, 0}, 0x4},
        {{.temperature = 1, .top_p = 1, .min_p = 1}, {-0.0F, 0, -1, 0, -1, 0}, 0x2b},
        {{.temperature = 1, .top_k = 3, .top_p = 0.6F}, {0, 1, 1, 1, 1, 0}, 0x6},
        {{.temperature = 0, .top_k = 3, .top_p = 0.6F}, {0, -1, 5, 5, 1, 0}, 0x4},
        {{.temperature = 1, .top_k = 2, .top_p = 1}, {-0.0F, 0, -3, 0, -1, 0}, 0x3},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const size_t n_rows = 400;
        struct sample_row *rows = make_rows(n_rows, cases[i].sampling);
        float *logits = new_floats(n_rows * 6), *out = new_floats(2 * n_rows);
        unsigned seen = 0;
        for (size_t j = 0; j < n_rows * 6; j++) {
            logits[j] = cases[i].logits[j % 6];
        }
        run_everywhere(run_sample, &(struct sample_case){n_rows, 6, logits, rows}, 2 * n_rows, out);
        for (size_t row = 0; row < n_rows; row++) {
            seen |= 1U << (unsigned)out[row];
        }
        assert_int_equal(seen, cases[i].kept);
        memory_free(out);
        memory_free(logits);
        memory_free(rows);
    }
}

static void logits_that_are_not_finite_name_the_row(void **state)
{
    float *logits = random_floats(ROWS * VOCAB, 1, 2.0F);
    struct sample_row *rows = make_rows(ROWS, samplings[0]);
    static float logp[ROWS];
    static int32_t tokens[ROWS];
    struct backend *b;
    (void)state;

    logits[250 * VOCAB + 128] = NAN;
    logits[33 * VOCAB + 5] = -INFINITY;
    assert_ok(backend_open("cpu", 2, &b));
    assert_status(
        b->ops->sample(b, &(struct sample_args){logits, VOCAB, rows, tokens, logp, ROWS, VOCAB}),
        STATUS_NUMERICS, "row 33 ");
    backend_close(b);
    memory_free(rows);
    memory_free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_equals_philox_word_by_word),
        cmocka_unit_test(tiles_of_noise_made_together_are_those_made_alone),
        cmocka_unit_test(uniform_noise_is_inside_the_unit_interval),
        cmocka_unit_test(draws_agree_with_the_oracle_under_every_filter),
        cmocka_unit_test(draws_of_long_rows_agree_with_the_oracle),
        cmocka_unit_test(counts_follow_the_distribution),
        cmocka_unit_test(a_draw_does_not_depend_on_its_batch),
        cmocka_unit_test(logp_equals_the_heads_bit_for_bit),
        cmocka_unit_test(filters_decide_ties_by_the_lower_id),
        cmocka_unit_test(logits_that_are_not_finite_name_the_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
