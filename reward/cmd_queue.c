#include "reward/cmd_queue.h"

#include "base/memory.h"

#include <string.h>

enum status cmd_queue_put(struct cmd_queue *queue, const struct cmd_job *job)
{
    if (queue->count == queue->room) {
        const size_t room = 2 * queue->room + 64;
        TRY(memory_resize(queue->count * sizeof(*job), room, sizeof(*job), &queue->jobs));
        queue->room = room;
    }
    queue->jobs[queue->count++] = *job;
    return STATUS_OK;
}

static void drop(struct cmd_queue *queue, size_t first, size_t n)
{
    queue->count -= n;
    memmove(queue->jobs + first, queue->jobs + first + n,
            (queue->count - first) * sizeof(*queue->jobs));
}

size_t cmd_queue_take(struct cmd_queue *queue, size_t most, struct cmd_job *out)
{
    size_t n = 0;
    while (n < queue->count && n < most && (n == 0 || !queue->jobs[n].goes_alone)) {
        out[n] = queue->jobs[n];
        n++;
        if (out[0].goes_alone) {
            break;
        }
    }
    drop(queue, 0, n);
    return n;
}

bool cmd_queue_take_expired(struct cmd_queue *queue, int64_t now_us, struct cmd_job *out)
{
    for (size_t i = 0; i < queue->count; i++) {
        if (queue->jobs[i].goes_alone && now_us > queue->jobs[i].expires_us) {
            *out = queue->jobs[i];
            drop(queue, i, 1);
            return true;
        }
    }
    return false;
}

bool cmd_queue_take_older(struct cmd_queue *queue, int64_t before_us, struct cmd_job *out)
{
    return queue->count > 0 && queue->jobs[0].submit_us < before_us &&
           cmd_queue_take(queue, 1, out) == 1;
}

void cmd_queue_dispose(struct cmd_queue *queue)
{
    memory_free(queue->jobs);
    *queue = (struct cmd_queue){0};
}
