/* Owns the scored samples that the reward service has handed over and no step has used up: copied
 * out of messages into an arena, found by (group, idx) when a step is put together and by sample id
 * when a stored manifest is replayed. */
#ifndef HONE_TRAINER_SAMPLE_STORE_H
#define HONE_TRAINER_SAMPLE_STORE_H

#include "base/message.h"
#include "base/status.h"
#include "trainer/samples.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sample_store;

struct stored_sample {
    uint64_t group_id;
    struct sample sample;
    bool is_masked;      /* an error of a weighted scorer: not trained on */
    size_t version;      /* of the weights that drew it */
    struct json *scores; /* {"name": {"status", "value"}}, borrowed from the store */
};

MUST_CHECK enum status sample_store_create(struct sample_store **out);
void sample_store_destroy(struct sample_store *store);
/* Copies a SCORED message. *is_new is false when (group, idx) is here already; nothing changes
 * then. */
MUST_CHECK enum status sample_store_add(struct sample_store *store, const struct message *scored,
                                        bool *is_new);
/* NULL when it is not here. Borrowed until the next clear. */
const struct stored_sample *sample_store_find(const struct sample_store *store, uint64_t group_id,
                                              int32_t idx);
const struct stored_sample *sample_store_find_id(const struct sample_store *store,
                                                 int64_t sample_id);
size_t sample_store_count(const struct sample_store *store);
const struct stored_sample *sample_store_at(const struct sample_store *store, size_t index);
/* Forgets everything. */
void sample_store_clear(struct sample_store *store);

#endif
