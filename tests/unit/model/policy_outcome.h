/* Owns what tests of two policies with the same weights share: a policy of the variant at hand, and
 * all that it computes of a batch. Include it after cmocka.h. */
#ifndef HONE_TESTS_UNIT_MODEL_POLICY_OUTCOME_H
#define HONE_TESTS_UNIT_MODEL_POLICY_OUTCOME_H

#include "tests/unit/model/policy_fixture.h"

static inline struct policy *make_variant(struct backend *backend, struct policy_options options)
{
    struct model_config config;
    struct policy *policy;

    variant_config(&config);
    assert_ok(policy_create(backend, &config, &options, &policy));
    return policy;
}

struct policy_outcome {
    float logp[MAX_ROWS], entropy[MAX_ROWS], mtp_logp[MAX_ROWS];
};

static inline void policy_outcome(struct policy *policy, struct policy_outcome *out)
{
    struct batch batch;

    memset(out, 0, sizeof(*out));
    batch_fill(&batch);
    forward(policy, &batch, 0, N_SEQUENCES, plain, out->logp, out->entropy);
    if (policy_config(policy)->n_mtp_modules == 0) {
        return;
    }
    assert_ok(policy_mtp_forward(policy,
                                 &(struct policy_mtp_args){.target_rows = batch.mtp_rows,
                                                           .targets = batch.mtp_targets,
                                                           .n_targets = batch.n_mtp},
                                 out->mtp_logp));
}

/* Both compute the same bits. */
static inline void compare_policies(struct policy *one, struct policy *other)
{
    struct policy_outcome want, got;

    policy_outcome(one, &want);
    policy_outcome(other, &got);
    assert_memory_equal(&want, &got, sizeof(want));
}

#endif
