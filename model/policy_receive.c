/* Owns weights that come in order: matrices are packed as soon as they are whole, and a policy that
 * drops weights then gives their floats back, so that it never holds a version twice. What is read
 * as floats (embedding, norms, biases) stays. */
#include "base/memory.h"
#include "model/policy_internal.h"

/* Rows that are read where they are; of others the packed copies are. */
static bool is_read_as_floats(const struct policy *policy, const struct weight_row *row)
{
    return row->n_dims < 2 || row->offset == policy->embedding;
}

size_t policy_float_bytes(const struct policy *policy, size_t *largest_dropped)
{
    const struct weight_table *table = policy->table;
    size_t n_kept = 0, n_largest = 0;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        if (is_read_as_floats(policy, row)) {
            n_kept += row->count;
        } else if (row->count > n_largest) {
            n_largest = row->count;
        }
    }
    *largest_dropped = policy->options.drops_weights ? n_largest * sizeof(float) : 0;
    return (policy->options.drops_weights ? n_kept : table->n_floats) * sizeof(float);
}

void policy_begin_weights(struct policy *policy)
{
    policy_return_weights(policy);
    policy->taking = (struct policy_taking){.n_rows = 0};
}

/* A row that is whole: packs made of it, then its floats, with those of dropped rows in front of it
 * so that no page between two of them stays. */
static enum status take_row(struct policy *policy, const struct weight_row *row)
{
    struct policy_taking *taking = &policy->taking;
    const size_t end = row->offset + row->count;

    while (taking->n_packs < policy->n_packs &&
           policy->packs[taking->n_packs].src < policy->weights + end) {
        TRY(policy->backend->ops->pack(policy->backend, &policy->packs[taking->n_packs]));
        taking->n_packs++;
    }
    if (!policy->options.drops_weights) {
        return STATUS_OK;
    }
    if (is_read_as_floats(policy, row)) {
        taking->dropped_from = end;
    } else {
        policy->backend->ops->forget(policy->backend, policy->weights + taking->dropped_from,
                                     (end - taking->dropped_from) * sizeof(float));
    }
    return STATUS_OK;
}

enum status policy_take_weights(struct policy *policy, size_t n_floats)
{
    const struct weight_table *table = policy->table;
    struct policy_taking *taking = &policy->taking;

    while (taking->n_rows < table->n_rows &&
           table->rows[taking->n_rows].offset + table->rows[taking->n_rows].count <= n_floats) {
        TRY(take_row(policy, &table->rows[taking->n_rows]));
        taking->n_rows++;
    }
    return STATUS_OK;
}

enum status policy_refresh(struct policy *policy)
{
    policy_begin_weights(policy);
    return policy_take_weights(policy, policy->table->n_floats);
}
