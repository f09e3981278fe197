/* Owns the work items of a worker, from WORK to the last sample: which to start, which weights to
 * get first, and how much credit to give back. Running samples are all of one weight version; work
 * for other weights waits until they are done. Pure: events in, decisions out. */
#ifndef HONE_ROLLOUT_WORK_QUEUE_H
#define HONE_ROLLOUT_WORK_QUEUE_H

#include "base/hash.h"
#include "base/message.h"
#include "base/status.h"
#include "kernels/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which weights: a version alone does not name bits across restarts of the trainer. */
struct weights_id {
    int64_t version; /* -1: none */
    char digest[DIGEST128_TEXT];
};
bool weights_id_equal(const struct weights_id *a, const struct weights_id *b);

struct work {
    struct work *next;
    struct weights_id weights;
    uint64_t group, seed;
    int64_t inc;
    uint32_t attempt;
    size_t max_tokens;
    struct sampling_params sampling;
    int32_t *samples; /* (n_samples) */
    int32_t *prompt;  /* (n_prompt) */
    size_t n_samples, n_prompt;
    size_t n_left; /* samples not finished */
    bool is_started;
};

/* From a WORK message that passed the table. Free with memory_free. Errors: BAD_FORMAT (no prompt,
 * no sample, a negative id), NO_MEMORY. */
MUST_CHECK enum status work_create(const struct message *message, struct work **out);

struct work_queue {
    struct work *first, **last;
    size_t n_freed; /* work items gone since work_queue_credit_given */
};

void work_queue_init(struct work_queue *queue);
void work_queue_clear(struct work_queue *queue); /* drops everything; no credit is counted */

enum work_verdict {
    WORK_ADDED,
    WORK_REPLACES, /* an older attempt of the group is gone: cancel what runs of it */
    WORK_KNOWN     /* this attempt, or a newer one, is here: the new item was dropped */
};
/* Takes the item over. */
enum work_verdict work_queue_add(struct work_queue *queue, struct work *work);
/* The next item to start with the weights held, or NULL. Mark it with is_started. */
struct work *work_queue_next(const struct work_queue *queue, const struct weights_id *held);
/* The first item that waits for other weights than those held, or NULL. */
const struct work *work_queue_wanted(const struct work_queue *queue, const struct weights_id *held);
/* One sample of the item is done; the item goes with its last one (*work is then gone). */
void work_queue_finish_sample(struct work_queue *queue, struct work *work);
/* Drops the items of these weights, started ones too (cancel what runs of them before). */
void work_queue_drop_weights(struct work_queue *queue, const struct weights_id *weights);
/* Groups to announce with READY. */
size_t work_queue_credit(const struct work_queue *queue);
void work_queue_credit_given(struct work_queue *queue, size_t n);

#endif
