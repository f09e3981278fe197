#include "cli/model_memory.h"

#include "model/policy.h"
#include "rollout/engine.h"
#include "rollout/rollout.h"
#include "rollout/weights_fetch.h"
#include "trainer/grpo.h"
#include "trainer/learner.h"
#include "trainer/setup.h"

#include <stdio.h>

#define MEBI 1048576.0

static const struct {
    const char *key, *name;
} kinds[MODEL_MEMORY_KINDS] = {
    [MODEL_MEMORY_WEIGHTS] = {"weights", "weights"},
    [MODEL_MEMORY_PACKED] = {"packed", "packed copies"},
    [MODEL_MEMORY_RECEIVED] = {"received", "next weights, arriving"},
    [MODEL_MEMORY_GRADIENTS] = {"gradients", "gradients"},
    [MODEL_MEMORY_MOMENTS] = {"moments", "optimizer moments"},
    [MODEL_MEMORY_REFERENCE] = {"reference", "reference policy"},
    [MODEL_MEMORY_ACTIVATIONS] = {"activations", "activations"},
    [MODEL_MEMORY_CACHE] = {"cache", "key-value cache"},
    [MODEL_MEMORY_SCRATCH] = {"scratch", "kernel scratch"},
};

static void set_policy(const struct policy_memory *policy, size_t rows, struct model_memory *out)
{
    *out = (struct model_memory){.rows = rows};
    out->bytes[MODEL_MEMORY_WEIGHTS] = policy->weights;
    out->bytes[MODEL_MEMORY_PACKED] = policy->packed;
    out->bytes[MODEL_MEMORY_GRADIENTS] = policy->gradients;
    out->bytes[MODEL_MEMORY_ACTIVATIONS] = policy->activations;
}

/* resting: what is given back while the process waits. */
static void add_up(struct model_memory *memory, size_t resting)
{
    for (size_t i = 0; i < MODEL_MEMORY_KINDS; i++) {
        memory->total += memory->bytes[i];
    }
    memory->waiting = memory->total - resting;
}

/* What the kernels take of their own, gone through without computing anything. */
static enum status learning_scratch(const struct run_config *run, const struct model_config *model,
                                    const struct policy_options *sizes, size_t *out)
{
    const struct learner_options options = grpo_learner_options(run);
    struct backend *backend = NULL;

    TRY(backend_open(run->run.device, run->run.threads, &backend));
    const enum status status = setup_rehearse(backend, model, &options, sizes, run->grpo.beta > 0);
    *out = backend_scratch_bytes(backend);
    backend_close(backend);
    return status;
}

static enum status sampling_scratch(const struct run_config *run, const struct model_config *model,
                                    size_t *out)
{
    const struct engine_options options = rollout_engine_options(run);
    struct backend *backend = NULL;

    TRY(backend_open(run->run.device, rollout_thread_count(run), &backend));
    const enum status status = engine_rehearse(backend, model, &options);
    *out = backend_scratch_bytes(backend);
    backend_close(backend);
    return status;
}

static enum status measure_trainer(const struct run_config *run, const struct model_config *model,
                                   struct model_memory *out)
{
    const struct learner_options options = grpo_learner_options(run);
    const size_t max_rows = learner_max_rows(&options);
    struct policy_options sizes;
    struct policy_memory policy, reference;

    TRY(setup_policy_options(run, model, &options, &sizes));
    TRY(policy_measure(model, &sizes, &policy));
    size_t resting = policy.resting;

    set_policy(&policy, max_rows, out);
    out->bytes[MODEL_MEMORY_MOMENTS] = 2 * policy.weights;
    out->recomputes = sizes.recomputes;
    TRY(learning_scratch(run, model, &sizes, &out->bytes[MODEL_MEMORY_SCRATCH]));
    if (run->grpo.beta > 0) {
        sizes = setup_reference_options(&sizes);
        TRY(policy_measure(model, &sizes, &reference));
        out->bytes[MODEL_MEMORY_REFERENCE] =
            reference.weights + reference.packed + reference.activations;
        resting += reference.resting;
    }
    add_up(out, setup_rests(&policy) ? resting : 0);
    return STATUS_OK;
}

static enum status measure_sampler(const struct run_config *run, const struct model_config *model,
                                   struct model_memory *out)
{
    const struct engine_options options = rollout_engine_options(run);
    const struct policy_options sizes = engine_policy_options(&options);
    struct policy_memory policy;
    size_t n_pages = 0;

    TRY(policy_measure(model, &sizes, &policy));
    TRY(engine_pages(&options, policy.cache_page, &n_pages));
    set_policy(&policy, options.max_batch_tokens, out);
    out->bytes[MODEL_MEMORY_RECEIVED] = policy.arriving + FETCH_WINDOW * WEIGHTS_CHUNK_BYTES;
    out->bytes[MODEL_MEMORY_CACHE] = n_pages * policy.cache_page;
    TRY(sampling_scratch(run, model, &out->bytes[MODEL_MEMORY_SCRATCH]));
    add_up(out, policy.resting + engine_resting_bytes(n_pages * policy.cache_page));
    out->shared = run->rollout.share_weights
                      ? policy.weights + policy.packed + out->bytes[MODEL_MEMORY_RECEIVED]
                      : 0;
    return STATUS_OK;
}

enum status model_memory_measure(const struct run_config *run, const struct model_config *model,
                                 struct model_memory *trainer, struct model_memory *sampler)
{
    TRY(measure_trainer(run, model, trainer));
    return measure_sampler(run, model, sampler);
}

static void print_bytes(size_t bytes)
{
    if (bytes == 0) {
        (void)printf(" %12s", "-");
    } else {
        (void)printf(" %12.1f", (double)bytes / MEBI);
    }
}

/* All processes, by who works. */
static void print_phases(const struct model_memory *trainer, const struct model_memory *sampler,
                         size_t n_samplers)
{
    const size_t learning = trainer->total + n_samplers * (sampler->waiting - sampler->shared);
    const size_t sampling = trainer->waiting + n_samplers * (sampler->total - sampler->shared);

    (void)printf("a run on one host: %.1f MiB while it samples, %.1f while it learns%s\n",
                 (double)sampling / MEBI, (double)learning / MEBI,
                 sampler->shared > 0 ? ", the trainer's weights read in place" : "");
}

void model_memory_print(const struct model_memory *trainer, const struct model_memory *sampler,
                        size_t n_samplers)
{
    (void)printf("\n%-24s %12s %12s\n", "memory in MiB", "trainer", "each worker");
    for (size_t i = 0; i < MODEL_MEMORY_KINDS; i++) {
        if (trainer->bytes[i] + sampler->bytes[i] > 0) {
            (void)printf("%-24s", kinds[i].name);
            print_bytes(trainer->bytes[i]);
            print_bytes(sampler->bytes[i]);
            (void)printf("\n");
        }
    }
    (void)printf("%-24s", "total");
    print_bytes(trainer->total);
    print_bytes(sampler->total);
    (void)printf("\n%-24s", "  while it waits");
    print_bytes(trainer->waiting);
    print_bytes(sampler->waiting);
    (void)printf("\n");
    print_phases(trainer, sampler, n_samplers);
    (void)printf("%zu rows in a forward pass of the trainer, %zu in one of each of %zu worker%s; "
                 "activations %s\n(--config FILE: of that run)\n",
                 trainer->rows, sampler->rows, n_samplers, n_samplers == 1 ? "" : "s",
                 trainer->recomputes ? "are made again, layer by layer" : "of all layers are kept");
}

static enum status put_all(const struct model_memory *memory, struct json *object)
{
    for (size_t i = 0; i < MODEL_MEMORY_KINDS; i++) {
        if (memory->bytes[i] == 0) {
            continue;
        }
        TRY(json_put(object, kinds[i].key, json_from_int((int64_t)memory->bytes[i])));
    }
    TRY(json_put(object, "recomputes", json_from_bool(memory->recomputes)));
    TRY(json_put(object, "rows", json_from_int((int64_t)memory->rows)));
    if (memory->shared > 0) {
        TRY(json_put(object, "shared", json_from_int((int64_t)memory->shared)));
    }
    TRY(json_put(object, "waiting", json_from_int((int64_t)memory->waiting)));
    return json_put(object, "total", json_from_int((int64_t)memory->total));
}

enum status model_memory_describe(const struct model_memory *memory, struct json **out)
{
    struct json *object = json_object_create();
    const enum status status = put_all(memory, object);

    *out = NULL;
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    *out = object;
    return STATUS_OK;
}
