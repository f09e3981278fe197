/* Owns the table of attention kinds: to add one, write its six functions and a row here. */
#include "model/policy_attention_internal.h"

const struct policy_attention *policy_attention_of(const struct policy *policy)
{
    static const struct policy_attention kinds[] = {
        [MODEL_ATTENTION_MLA] = {.sizes = policy_mla_sizes,
                                 .find = policy_mla_find,
                                 .plan = policy_mla_plan,
                                 .forward = policy_mla_forward,
                                 .entries = policy_mla_entries,
                                 .backward = policy_mla_backward},
        [MODEL_ATTENTION_GQA] = {.sizes = policy_gqa_sizes,
                                 .find = policy_gqa_find,
                                 .plan = policy_gqa_plan,
                                 .forward = policy_gqa_forward,
                                 .entries = policy_gqa_entries,
                                 .backward = policy_gqa_backward},
    };
    static const struct policy_attention expanded = {.sizes = policy_expanded_sizes,
                                                     .find = policy_mla_find,
                                                     .plan = policy_mla_plan,
                                                     .forward = policy_expanded_forward,
                                                     .entries = policy_expanded_entries,
                                                     .backward = policy_expanded_backward};
    const enum model_attention kind = policy->config.attention;

    return kind == MODEL_ATTENTION_MLA && policy->options.is_expanded ? &expanded : &kinds[kind];
}
