#include "cli/eval_tally.h"

#include "base/memory.h"

#include <string.h>

enum status eval_tally_init(const struct scoring *scoring, const struct pass_at_list *pass_at,
                            struct eval_tally *tally)
{
    const struct scoring_component *components = NULL;
    const size_t n = scoring_components(scoring, &components);

    *tally = (struct eval_tally){.n_components = n, .pass_at = *pass_at};
    TRY(memory_alloc(n, sizeof(*tally->components), &tally->components));
    TRY(memory_alloc(SOURCES_MAX, sizeof(*tally->sources), &tally->sources));
    for (size_t i = n; i > 0; i--) {
        tally->components[i - 1].name = components[i - 1].name;
        tally->components[i - 1].weight = components[i - 1].weight;
        if (components[i - 1].weight != 0.0) {
            tally->pass_component = i - 1;
        }
    }
    return STATUS_OK;
}

void eval_tally_dispose(struct eval_tally *tally)
{
    for (size_t i = 0; i < tally->n_sources; i++) {
        memory_free(tally->sources[i].name);
    }
    memory_free(tally->sources);
    memory_free(tally->components);
    *tally = (struct eval_tally){.components = NULL};
}

enum status eval_tally_source(struct eval_tally *tally, const char *name, struct source_tally **out)
{
    name = name == NULL ? "" : name;
    *out = NULL;
    for (size_t i = 0; i < tally->n_sources; i++) {
        if (strcmp(tally->sources[i].name, name) == 0) {
            *out = &tally->sources[i];
            return STATUS_OK;
        }
    }
    if (tally->n_sources < SOURCES_MAX) {
        TRY(memory_copy_text(name, strlen(name), &tally->sources[tally->n_sources].name));
        *out = &tally->sources[tally->n_sources++];
    }
    return STATUS_OK;
}

static void count_completion(struct source_tally *source, const struct completion *completion)
{
    source->n_samples++;
    source->n_tokens += completion->n_tokens;
}

void eval_tally_add_completion(struct eval_tally *tally, struct source_tally *source,
                               const struct completion *completion)
{
    tally->n_finished[completion->finish]++;
    count_completion(&tally->all, completion);
    if (source != NULL) {
        count_completion(source, completion);
    }
}

static void count_result(struct source_tally *source, const struct score_result *result,
                         bool passes)
{
    source->n_passed += passes ? 1 : 0;
    if (result->has_total) {
        source->reward_sum += result->total;
        source->n_rewards++;
    }
}

bool eval_tally_add_result(struct eval_tally *tally, struct source_tally *source,
                           const struct score_result *result)
{
    bool passes = false;

    for (size_t i = 0; i < tally->n_components; i++) {
        const struct score *score = &result->scores[i];

        tally->components[i].counts[score->status]++;
        if (score->status == SCORE_OK) {
            tally->components[i].sum += score->value;
            passes = passes || (i == tally->pass_component && score->value >= 1.0);
        }
    }
    count_result(&tally->all, result, passes);
    if (source != NULL) {
        count_result(source, result, passes);
    }
    return passes;
}

static void count_row(const struct pass_at_list *pass_at, struct source_tally *source,
                      size_t n_samples, size_t n_passed)
{
    source->n_rows++;
    for (size_t i = 0; i < pass_at->count; i++) {
        source->pass_sums[i] += pass_at_k(n_samples, n_passed, pass_at->items[i]);
    }
}

void eval_tally_add_row(struct eval_tally *tally, struct source_tally *source, size_t n_samples,
                        size_t n_passed)
{
    count_row(&tally->pass_at, &tally->all, n_samples, n_passed);
    if (source != NULL) {
        count_row(&tally->pass_at, source, n_samples, n_passed);
    }
}
