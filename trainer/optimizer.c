/* Rows that are updated alike and lie side by side are one call of the op. Padding has zero
 * gradients and moments, so it stays zero. */
#include "trainer/optimizer.h"

#include "base/memory.h"

#include <math.h>

struct optimizer {
    struct backend *backend;
    const struct weight_table *table;
    struct optimizer_options options;
    float *m, *v;
    uint64_t updates;
};

enum status optimizer_create(struct backend *backend, const struct weight_table *table,
                             const struct optimizer_options *options, struct optimizer **out)
{
    struct optimizer *optimizer = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*optimizer), &optimizer));
    optimizer->backend = backend;
    optimizer->table = table;
    optimizer->options = *options;
    enum status status =
        backend->ops->alloc(backend, table->n_floats, sizeof(float), &optimizer->m);
    if (status == STATUS_OK) {
        status = backend->ops->alloc(backend, table->n_floats, sizeof(float), &optimizer->v);
    }
    if (status != STATUS_OK) {
        optimizer_destroy(optimizer);
        return status;
    }
    *out = optimizer;
    return STATUS_OK;
}

void optimizer_destroy(struct optimizer *optimizer)
{
    if (optimizer == NULL) {
        return;
    }
    optimizer->backend->ops->release(optimizer->backend, optimizer->m);
    optimizer->backend->ops->release(optimizer->backend, optimizer->v);
    memory_free(optimizer);
}

/* Modules behind the first have no gradient here: without it decay alone would move them. */
static bool is_updated(const struct optimizer *optimizer, const struct weight_row *row)
{
    const enum optimizer_indexers indexers = optimizer->options.indexers;
    return row->is_trainable &&
           (row->is_indexer ? indexers != INDEXERS_FROZEN : indexers != INDEXERS_ALONE) &&
           !(row->is_mtp && (optimizer->options.freezes_mtp || row->mtp_module > 0));
}

/* One past the last row of the run of rows that are updated like row `first`. */
static size_t run_end(const struct optimizer *optimizer, size_t first)
{
    const struct weight_table *table = optimizer->table;
    const bool decays = table->rows[first].decays && optimizer->options.weight_decay != 0.0;
    size_t end = first + 1;
    while (end < table->n_rows && is_updated(optimizer, &table->rows[end]) &&
           table->rows[end].is_indexer == table->rows[first].is_indexer &&
           (table->rows[end].decays && optimizer->options.weight_decay != 0.0) == decays) {
        end++;
    }
    return end;
}

static enum status update_run(struct optimizer *optimizer, size_t first, size_t end,
                              struct adamw_args *args, float *weights, const float *gradients)
{
    const struct weight_row *rows = optimizer->table->rows;
    const size_t begin = rows[first].offset;
    args->w = weights + begin;
    args->g = gradients + begin;
    args->m = optimizer->m + begin;
    args->v = optimizer->v + begin;
    args->n = rows[end - 1].offset + rows[end - 1].count - begin;
    args->weight_decay = rows[first].decays ? (float)optimizer->options.weight_decay : 0.0F;
    return optimizer->backend->ops->adamw(optimizer->backend, args);
}

/* The norm of indexers' gradients, or of all others. */
static enum status part_norm(const struct optimizer *optimizer, const float *gradients,
                             bool is_indexer, double *norm)
{
    const struct weight_table *table = optimizer->table;
    double sum = 0.0;
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];
        double squares = 0.0;
        if (row->is_indexer != is_indexer) {
            continue;
        }
        TRY(optimizer->backend->ops->sum_squares(optimizer->backend, gradients + row->offset,
                                                 row->count, &squares));
        sum += squares;
    }
    *norm = sqrt(sum);
    return STATUS_OK;
}

/* norms[0] of the model, norms[1] of the indexers where they move beside it, else of everything. */
static enum status measure_norms(const struct optimizer *optimizer, const float *gradients,
                                 double norms[2])
{
    double squares = 0.0;
    if (optimizer->options.indexers == INDEXERS_BESIDE) {
        TRY(part_norm(optimizer, gradients, false, &norms[0]));
        return part_norm(optimizer, gradients, true, &norms[1]);
    }
    TRY(optimizer->backend->ops->sum_squares(optimizer->backend, gradients,
                                             optimizer->table->n_floats, &squares));
    norms[0] = sqrt(squares);
    norms[1] = norms[0];
    return STATUS_OK;
}

static float clip_of(const struct optimizer_options *options, double norm)
{
    return options->max_grad_norm > 0.0 ? (float)fmin(1.0, options->max_grad_norm / (norm + 1e-6))
                                        : 1.0F;
}

static struct adamw_args common_args(const struct optimizer *optimizer, double learning_rate)
{
    const struct optimizer_options *options = &optimizer->options;
    const double t = (double)optimizer->updates;
    return (struct adamw_args){
        .lr = (float)learning_rate,
        .beta1 = (float)options->beta1,
        .beta2 = (float)options->beta2,
        .eps = (float)options->epsilon,
        .correction1 = (float)(1.0 - pow(options->beta1, t)),
        .correction2 = (float)(1.0 - pow(options->beta2, t)),
    };
}

enum status optimizer_step(struct optimizer *optimizer, float *weights, const float *gradients,
                           double learning_rate, double *grad_norm)
{
    const struct weight_table *table = optimizer->table;
    double norms[2];
    TRY(measure_norms(optimizer, gradients, norms));
    *grad_norm = norms[0];
    if (!isfinite(norms[0]) || !isfinite(norms[1])) {
        return status_set(
            STATUS_NUMERICS, "gradient norm is %f after %llu updates; the weights were left alone",
            isfinite(norms[0]) ? norms[1] : norms[0], (unsigned long long)optimizer->updates);
    }
    optimizer->updates++;
    struct adamw_args args = common_args(optimizer, learning_rate);
    for (size_t first = 0; first < table->n_rows;) {
        if (!is_updated(optimizer, &table->rows[first])) {
            first++;
            continue;
        }
        const size_t end = run_end(optimizer, first);
        args.grad_scale = clip_of(&optimizer->options, norms[table->rows[first].is_indexer]);
        const enum status status = update_run(optimizer, first, end, &args, weights, gradients);
        if (status != STATUS_OK) {
            return status;
        }
        first = end;
    }
    return STATUS_OK;
}

uint64_t optimizer_updates(const struct optimizer *optimizer)
{
    return optimizer->updates;
}

float *optimizer_first_moment(struct optimizer *optimizer)
{
    return optimizer->m;
}

float *optimizer_second_moment(struct optimizer *optimizer)
{
    return optimizer->v;
}

void optimizer_set_updates(struct optimizer *optimizer, uint64_t updates)
{
    optimizer->updates = updates;
}
