/* Owns what the tests of shared prefixes have in common: groups of sequences with a prompt each,
 * packed whole or with their prompts once, and what a policy makes of them. Include it after
 * cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_PREFIX_FIXTURE_H
#define HONE_TESTS_UNIT_MODEL_PREFIX_FIXTURE_H

#include "base/memory.h"
#include "tests/unit/model/policy_fixture.h"

#include <math.h>

#define ROWS_MAX ((size_t)1024)
#define GROUPS_MAX ((size_t)8)
#define GROUP_SIZE_MAX ((size_t)7)
#define RESPONSE_MAX ((size_t)9)
#define MODULES_MAX ((size_t)2)

/* Around the borders of pages and blocks of keys. */
static const size_t prompt_lengths[GROUPS_MAX] = {1, 2, 15, 16, 17, 63, 64, 65};
static const size_t group_sizes[] = {7, 1, 2};

/* Groups of sequences with a prompt in common, as a batch. */
struct packed {
    int32_t tokens[ROWS_MAX], rows[ROWS_MAX], targets[ROWS_MAX];
    float g[ROWS_MAX], h[ROWS_MAX];
    size_t n_rows, n_targets;
    size_t offsets[GROUPS_MAX * (GROUP_SIZE_MAX + 1) + 1];
    bool continues[GROUPS_MAX * (GROUP_SIZE_MAX + 1)];
    size_t n_sequences;
    struct {
        int32_t rows[ROWS_MAX], targets[ROWS_MAX];
        float g[ROWS_MAX];
        size_t n;
    } mtp[MODULES_MAX];
    size_t n_modules;
    size_t n_sequence_rows; /* of the sequences as if they were whole */
};

/* What a batch gives. */
struct outcome {
    float logp[ROWS_MAX], entropy[ROWS_MAX];
    float mtp_logp[MODULES_MAX][ROWS_MAX];
    uint32_t counts[64];
    float *gradients;
};

struct member {
    size_t group, index, n_prompt, n_response;
};

static inline int32_t token_of(const struct member *member, size_t position)
{
    const size_t key = position < member->n_prompt ? 1000 * member->group
                                                   : 1000 * member->group + 10 + member->index;

    return (int32_t)random_below(5, RANDOM_TEST, key, position, 64);
}

static inline size_t rows_of(const struct member *member)
{
    return member->n_prompt + member->n_response - 1;
}

/* Tokens [from, rows) of a sequence become a piece of the batch. */
static inline void add_piece(struct packed *out, const struct member *member, size_t from,
                             size_t end, bool continues)
{
    for (size_t i = from; i < end; i++) {
        out->tokens[out->n_rows++] = token_of(member, i);
    }
    out->continues[out->n_sequences++] = continues;
    out->offsets[out->n_sequences] = out->n_rows;
}

/* Every token behind the prompt is predicted by the row before it and by a row of each module. */
static inline void add_targets(struct packed *out, const struct member *member, size_t n_shared)
{
    const size_t first = out->n_rows - (rows_of(member) - n_shared) - n_shared;
    const size_t key = 100 + 10 * member->group + member->index;

    for (size_t p = member->n_prompt; p <= rows_of(member); p++) {
        out->rows[out->n_targets] = (int32_t)(first + p - 1);
        out->targets[out->n_targets] = token_of(member, p);
        out->g[out->n_targets] = normal(key, p);
        out->h[out->n_targets++] = 0.1f * normal(key, 500 + p);
        for (size_t m = 0; m < out->n_modules && p >= m + 2; m++) {
            const size_t j = out->mtp[m].n++;

            out->mtp[m].rows[j] = (int32_t)(first + p - m - 2);
            out->mtp[m].targets[j] = token_of(member, p);
            out->mtp[m].g[j] = normal(key, 1000 * (m + 1) + p);
        }
    }
    out->n_sequence_rows += rows_of(member);
}

static inline void add_group(struct packed *out, size_t group, size_t n_prompt, size_t n_members,
                             bool shares)
{
    const size_t n_own = 1 + out->n_modules;
    const size_t n_shared = shares && n_members > 1 && n_prompt > n_own ? n_prompt - n_own : 0;

    for (size_t i = 0; i < n_members; i++) {
        const struct member member = {.group = group,
                                      .index = i,
                                      .n_prompt = n_prompt,
                                      .n_response = 1 + (4 * i + 3 * group) % RESPONSE_MAX};

        if (i == 0 && n_shared > 0) {
            add_piece(out, &member, 0, n_shared, false);
        }
        add_piece(out, &member, n_shared, rows_of(&member), n_shared > 0);
        add_targets(out, &member, n_shared);
    }
}

/* All prompt lengths with groups of one, two and seven, turned by `turn`. */
static inline struct packed *pack(size_t n_modules, size_t turn, bool shares)
{
    struct packed *out;

    assert_ok(memory_alloc(1, sizeof(*out), &out));
    out->n_modules = n_modules;
    for (size_t i = 0; i < GROUPS_MAX; i++) {
        add_group(out, i, prompt_lengths[i], group_sizes[(i + turn) % 3], shares);
    }
    assert_true(out->n_rows <= ROWS_MAX);
    return out;
}

static inline struct policy_batch batch_of(const struct packed *packed)
{
    return (struct policy_batch){.tokens = packed->tokens,
                                 .n_rows = packed->n_rows,
                                 .offsets = packed->offsets,
                                 .n_sequences = packed->n_sequences,
                                 .continues = packed->continues,
                                 .target_rows = packed->rows,
                                 .targets = packed->targets,
                                 .n_targets = packed->n_targets,
                                 .sampling = plain};
}

static inline struct policy *open_policy(struct backend *backend, bool is_trainable)
{
    const struct policy_options options = {.max_rows = ROWS_MAX,
                                           .max_entries = 2 * ROWS_MAX,
                                           .max_draws = 1,
                                           .is_trainable = is_trainable,
                                           .precision = precision,
                                           .unquantised = unquantised,
                                           .cache = cache_precision};

    return variant_policy(backend, &options);
}

static inline void run_forward(struct policy *policy, const struct packed *packed, bool detached,
                               struct outcome *out)
{
    const struct policy_batch batch = batch_of(packed);

    assert_ok(policy_forward(policy, &batch, out->logp, out->entropy));
    for (size_t m = 0; m < packed->n_modules; m++) {
        assert_ok(policy_mtp_forward(policy,
                                     &(struct policy_mtp_args){.module = m,
                                                               .target_rows = packed->mtp[m].rows,
                                                               .targets = packed->mtp[m].targets,
                                                               .n_targets = packed->mtp[m].n,
                                                               .detached = detached},
                                     out->mtp_logp[m]));
    }
    policy_expert_counts(policy, out->counts);
}

/* Forward, and for a trainable policy backward from zeroed gradients. */
static inline struct outcome *learn(struct policy *policy, const struct packed *packed,
                                    bool detached)
{
    const size_t n = policy_table(policy)->n_floats;
    struct outcome *out;

    assert_ok(memory_alloc(1, sizeof(*out), &out));
    assert_ok(memory_alloc(n, sizeof(float), &out->gradients));
    run_forward(policy, packed, detached, out);
    if (policy_gradients(policy) == NULL) {
        return out;
    }
    memset(policy_gradients(policy), 0, n * sizeof(float));
    for (size_t m = packed->n_modules; m-- > 0;) {
        assert_ok(policy_mtp_backward(policy, packed->mtp[m].g));
    }
    assert_ok(policy_backward(policy, packed->g, packed->h));
    assert_ok(policy_finish_gradients(policy));
    memcpy(out->gradients, policy_gradients(policy), n * sizeof(float));
    return out;
}

static inline void dispose(struct outcome *outcome)
{
    memory_free(outcome->gradients);
    memory_free(outcome);
}

static inline void assert_same_outcome(const struct packed *packed, const struct outcome *got,
                                       const struct outcome *want)
{
    assert_memory_equal(got->logp, want->logp, packed->n_targets * sizeof(float));
    assert_memory_equal(got->entropy, want->entropy, packed->n_targets * sizeof(float));
    assert_memory_equal(got->counts, want->counts, sizeof(want->counts));
    for (size_t m = 0; m < packed->n_modules; m++) {
        assert_memory_equal(got->mtp_logp[m], want->mtp_logp[m], packed->mtp[m].n * sizeof(float));
    }
}

/* Of every tensor: the difference beside the size, in the root of sums of squares. In 16 bits the
 * sum of gradients that a shared row gets is rounded once, where whole sequences round each. */
static inline void assert_gradients_agree(struct policy *policy, const float *got,
                                          const float *want)
{
    const struct weight_table *table = policy_table(policy);
    const double allowed = precision == PRECISION_F32 ? 3e-6 : 2e-2;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        double difference = 0, size = 0;

        for (size_t j = row->offset; j < row->offset + row->count; j++) {
            difference += pow((double)got[j] - (double)want[j], 2);
            size += pow((double)want[j], 2);
        }
        if (!(sqrt(difference) <= allowed * sqrt(size) + 1e-9)) {
            fail_msg("variant %u, precision %d, %s: gradients differ by %g of %g", variant,
                     (int)precision, row->name, sqrt(difference), sqrt(size));
        }
    }
}

#endif
