#include "cli/bench_model.h"

#include "base/memory.h"
#include "base/random.h"
#include "model/model_cost.h"
#include "model/precision.h"

#include <stdlib.h>

#define SEED 1u
/* Random weights repeat after so many, a prime, so that no two rows of a matrix are equal: speed
 * does not depend on the values, and drawing hundreds of millions takes a minute. */
#define NORMALS ((size_t)65537)

static void fill_weights(const struct model_config *config, const struct weight_table *table,
                         const float *normals, float *data)
{
    const float range = (float)config->initializer_range;
    size_t next = 0;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        for (size_t j = 0; j < row->count && row->is_trainable && !row->is_bias; j++) {
            data[row->offset + j] = row->n_dims == 1 ? 1.0F : range * normals[next];
            next = next + 1 == NORMALS ? 0 : next + 1;
        }
    }
}

static enum status fill_policy(const struct model_config *config, struct policy *policy)
{
    float *normals = NULL;

    TRY(memory_alloc(NORMALS, sizeof(*normals), &normals));
    for (size_t i = 0; i < NORMALS; i++) {
        normals[i] = random_normal(SEED, RANDOM_INIT, 0, i);
    }
    fill_weights(config, policy_table(policy), normals, policy_weights(policy));
    memory_free(normals);
    return policy_refresh(policy);
}

static enum status load_policy(const struct bench_subject *subject, struct policy *policy)
{
    if (subject->dir == NULL) {
        return fill_policy(&subject->config, policy);
    }
    TRY(weights_load(subject->dir, policy_table(policy), policy_weights(policy)));
    return policy_refresh(policy);
}

double bench_weight_bytes(const struct bench_subject *subject, size_t n_rows)
{
    static const size_t bytes[] = {
        [PRECISION_F32] = sizeof(float), [PRECISION_BF16] = 2, [PRECISION_FP8] = 1};

    return model_weight_bytes(&subject->config, n_rows, bytes[subject->precision],
                              bytes[precision_unquantised(subject->precision)]);
}

enum status bench_open_policy(const struct bench_subject *subject,
                              const struct policy_options *options, struct policy **out)
{
    TRY(policy_create(subject->backend, &subject->config, options, out));
    const enum status status = load_policy(subject, *out);
    if (status != STATUS_OK) {
        policy_destroy(*out);
        *out = NULL;
    }
    return status;
}

enum status bench_subject_load(const char *preset, const char *dir, struct bench_subject *subject)
{
    subject->dir = dir;
    subject->label = dir != NULL ? dir : preset;
    if (dir == NULL) {
        TRY(model_config_preset(preset, &subject->config));
    } else {
        TRY(model_config_load(dir, &subject->config));
        TRY(weights_probe_mtp(dir, &subject->config));
    }
    subject->config.n_eos_ids = 0; /* no sequence ends before its time */
    return STATUS_OK;
}

void bench_times_add(struct bench_times *times, double seconds_per_token)
{
    times->seconds[times->count % BENCH_SAMPLES_MAX] = seconds_per_token;
    times->count++;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_times_rate(struct bench_times *times, const struct bench_subject *subject,
                      struct bench_rate *rate)
{
    const size_t n = times->count < BENCH_SAMPLES_MAX ? times->count : BENCH_SAMPLES_MAX;

    qsort(times->seconds, n, sizeof(times->seconds[0]), compare_doubles);
    rate->preset = subject->label;
    rate->dtype = precision_name(subject->precision);
    rate->memory = subject->memory;
    rate->peak = bench_meter_peak(subject->meter);
    if (n > 0) {
        rate->tokens_per_s = 1 / times->seconds[n / 2];
        rate->best = 1 / times->seconds[0];
    }
}
