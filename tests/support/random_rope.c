/* Owns the drawing of rotary settings: every kind of scaling, with and without each option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/random_config.h"
#include "tests/support/support.h"

#include <string.h>

#define MAX_POSITIONS 64

static void put(struct json *rope, const char *key, double value)
{
    assert_ok(json_put(rope, key, json_from_number(value)));
}

/* Draws an optional number of the list: stays 0 and out of the file half of the time. */
#define DRAW_OPTIONAL(draws, rope, key, out, ...)                                                  \
    draw_optional_of((draws), (rope), (key), RANDOM_PICK((draws), __VA_ARGS__), (out))
static void draw_optional_of(struct random_draws *draws, struct json *rope, const char *key,
                             double value, double *out)
{
    if (random_chance(draws, 50)) {
        *out = value;
        put(rope, key, value);
    }
}

/* The factor, and the original length that may be left to max_position_embeddings. */
static void draw_lengths(struct random_draws *draws, struct random_config *config,
                         struct json *json, struct oracle_rope *rope)
{
    rope->original_length = MAX_POSITIONS;
    if (random_chance(draws, 70)) {
        rope->original_length = RANDOM_PICK(draws, 5, 6, 16, 64, 4096);
        put(json, "original_max_position_embeddings", rope->original_length);
    }
    rope->factor = MAX_POSITIONS / rope->original_length;
    config->branches[BRANCH_YARN_RATIO] = rope->factor >= 1 && random_chance(draws, 25);
    if (!config->branches[BRANCH_YARN_RATIO]) {
        rope->factor = RANDOM_PICK(draws, 1, 2, 4, 40);
        put(json, "factor", rope->factor);
    }
}

/* Latent attention reads mscale_all_dim for its softmax scale, whatever the kind; elsewhere it
 * stays out. */
static void draw_mscale_all_dim(struct random_draws *draws, struct random_config *config,
                                struct json *json)
{
    if (config->oracle.is_mla) {
        DRAW_OPTIONAL(draws, json, "mscale_all_dim", &config->oracle.rope.mscale_all_dim, 0.707, 1,
                      0.5);
    }
}

static void draw_yarn(struct random_draws *draws, struct random_config *config, struct json *json)
{
    struct oracle_rope *rope = &config->oracle.rope;
    double low, high;
    const double last =
        (double)(config->oracle.is_mla ? config->oracle.rope_dim : config->oracle.head_dim) - 1;

    draw_lengths(draws, config, json, rope);
    DRAW_OPTIONAL(draws, json, "beta_fast", &rope->beta_fast, 32, 8, 4, 1);
    DRAW_OPTIONAL(draws, json, "beta_slow", &rope->beta_slow, 1, 0.5, 0.1, 0.01);
    if (config->oracle.is_mla) {
        DRAW_OPTIONAL(draws, json, "mscale", &rope->mscale, 0.707, 1, 0.8);
    }
    draw_mscale_all_dim(draws, config, json);
    if (random_chance(draws, 30)) {
        rope->attention_factor = RANDOM_PICK(draws, 1.25, 0.75);
        put(json, "attention_factor", rope->attention_factor);
    }
    rope->truncate = true;
    if (random_chance(draws, 50)) {
        rope->truncate = random_chance(draws, 30);
        assert_ok(json_put(json, "truncate", json_from_bool(rope->truncate)));
    }
    oracle_yarn_bounds(&config->oracle, &low, &high);
    low = low < 0 ? 0 : low;
    config->branches[BRANCH_YARN_NO_TRUNCATE] = !rope->truncate;
    config->branches[BRANCH_YARN_ATTENTION_FACTOR] = rope->attention_factor != 0;
    config->branches[BRANCH_YARN_CLAMP] = high > last;
    config->branches[BRANCH_YARN_DEGENERATE] = low == (high > last ? last : high);
    config->branches[BRANCH_YARN_MSCALES] = rope->mscale != 0 && rope->mscale_all_dim != 0;
}

static void draw_llama3(struct random_draws *draws, struct json *json, struct oracle_rope *rope)
{
    rope->factor = RANDOM_PICK(draws, 2, 8);
    rope->original_length = RANDOM_PICK(draws, 16, 64, 256);
    rope->low_freq_factor = RANDOM_PICK(draws, 0.5, 1);
    rope->high_freq_factor = RANDOM_PICK(draws, 2, 4);
    put(json, "factor", rope->factor);
    put(json, "original_max_position_embeddings", rope->original_length);
    put(json, "low_freq_factor", rope->low_freq_factor);
    put(json, "high_freq_factor", rope->high_freq_factor);
}

static void draw_kind(struct random_draws *draws, struct random_config *config, struct json *json)
{
    struct oracle_rope *rope = &config->oracle.rope;

    switch (rope->kind) {
    case ORACLE_ROPE_NONE:
        return;
    case ORACLE_ROPE_YARN:
        draw_yarn(draws, config, json);
        return;
    case ORACLE_ROPE_LLAMA3:
        draw_llama3(draws, json, rope);
        draw_mscale_all_dim(draws, config, json);
        return;
    case ORACLE_ROPE_LINEAR:
        rope->factor = RANDOM_PICK(draws, 1, 2.5, 8);
        put(json, "factor", rope->factor);
        draw_mscale_all_dim(draws, config, json);
        return;
    }
}

/* Names the kind; the newest files hold theta inside. */
static void put_rope(struct random_draws *draws, struct random_config *config, struct json *json)
{
    static const char *const names[] = {"default", "yarn", "llama3", "linear"};
    const struct oracle_rope *rope = &config->oracle.rope;
    const bool is_new = random_chance(draws, 40);
    const char *const name = names[rope->kind];

    config->branches[BRANCH_ROPE_PARAMETERS] = is_new;
    random_put_int(config, "max_position_embeddings", MAX_POSITIONS);
    if (is_new) {
        put(json, "rope_theta", rope->theta);
        assert_ok(json_put(json, "rope_type", json_from_text(name, strlen(name))));
        assert_ok(json_put(config->json, "rope_parameters", json_retain(json)));
        return;
    }
    random_put_number(config, "rope_theta", rope->theta);
    if (rope->kind != ORACLE_ROPE_NONE) {
        assert_ok(json_put(json, random_chance(draws, 50) ? "type" : "rope_type",
                           json_from_text(name, strlen(name))));
        assert_ok(json_put(config->json, "rope_scaling", json_retain(json)));
    } else if (random_chance(draws, 50)) {
        random_put_null(config, "rope_scaling");
    }
}

void random_rope_draw(struct random_draws *draws, struct random_config *config)
{
    static const enum random_branch branches[] = {BRANCH_ROPE_NONE, BRANCH_YARN, BRANCH_LLAMA3,
                                                  BRANCH_LINEAR};
    static const enum oracle_rope_kind kinds[] = {
        ORACLE_ROPE_NONE, ORACLE_ROPE_NONE, ORACLE_ROPE_YARN,   ORACLE_ROPE_YARN,
        ORACLE_ROPE_YARN, ORACLE_ROPE_YARN, ORACLE_ROPE_LLAMA3, ORACLE_ROPE_LINEAR};
    struct json *json = json_object_create();

    config->oracle.rope =
        (struct oracle_rope){.kind = kinds[random_draw(draws, sizeof(kinds) / sizeof(kinds[0]))],
                             .theta = RANDOM_PICK(draws, 10, 100, 1000, 50000)};
    config->branches[branches[config->oracle.rope.kind]] = true;
    draw_kind(draws, config, json);
    put_rope(draws, config, json);
    json_destroy(json);
}
