/* Owns what finite differences need: weights moved along a fixed random direction. Include it after
 * policy_fixture.h. */
#ifndef HONE_TESTS_UNIT_MODEL_SLOPE_H
#define HONE_TESTS_UNIT_MODEL_SLOPE_H

#include "tests/unit/model/policy_fixture.h"

static inline bool every_trainable(const struct weight_row *row)
{
    return row->is_trainable;
}

/* Moves the tensors that `moves` names by step along the direction of a stream; returns the
 * gradients' component along it. */
static inline double move_weights(struct policy *policy, const float *gradients, uint64_t stream,
                                  bool (*moves)(const struct weight_row *), float step)
{
    const struct weight_table *table = policy_table(policy);
    double component = 0;

    for (size_t i = 0; i < table->n_rows; i++) {
        const struct weight_row *row = &table->rows[i];

        for (size_t j = 0; j < row->count && moves(row); j++) {
            const float direction = normal(stream + i, j);

            policy_weights(policy)[row->offset + j] += step * direction;
            component += (double)direction * (double)gradients[row->offset + j];
        }
    }
    assert_ok(policy_refresh(policy));
    return component;
}

#endif
