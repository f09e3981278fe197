/* Owns how much arithmetic the last forward pass was, by the rows that it computed. */
#include "model/model_cost.h"
#include "model/policy_internal.h"

static struct model_work work_of(const struct kv_span *spans, size_t n_spans, size_t n_heads)
{
    struct model_work work = {.n_heads = (double)n_heads};

    for (size_t i = 0; i < n_spans; i++) {
        work.n_rows += (double)spans[i].n_rows;
        work.n_keys += model_span_keys(spans[i].n_cached, spans[i].n_rows);
    }
    return work;
}

double policy_forward_flops(const struct policy *policy)
{
    const struct model_work trunk = work_of(policy->spans, policy->n_spans, policy->n_targets);
    double flops = model_work_flops(&policy->config, &trunk, false);

    for (size_t i = 0; i < policy->n_mtp_run; i++) {
        const struct policy_mtp_module *module = &policy->modules[i];
        const struct model_work work = work_of(module->spans, module->n_spans, module->n_targets);

        flops += model_module_flops(&policy->config, &work, false);
    }
    return flops;
}
