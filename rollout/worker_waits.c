/* What a worker waits for, when somebody asks. */
#include "base/clock.h"
#include "base/waits.h"
#include "rollout/worker_internal.h"

static void tell_contact(const struct contact *contact, const char *peer)
{
    if (!contact->is_up) {
        const int64_t since_us = clock_now_us() - contact_silence_us(contact, clock_now_us());

        waits_tell(peer, since_us, since_us + WORKER_SILENCE_US, "its answer to HELLO");
    }
}

static void tell_weights(const struct worker *worker)
{
    size_t n_all = 0;
    int64_t since_us = 0;

    if (weights_fetch_is_active(worker->fetch)) {
        const size_t n_here = weights_fetch_progress(worker->fetch, &n_all, &since_us);

        waits_tell("the trainer", since_us, since_us + FETCH_STALL_US,
                   "weights %lld, %zu of %zu chunks are here",
                   (long long)weights_fetch_id(worker->fetch)->version, n_here, n_all);
    }
}

static void tell_work(const struct worker *worker)
{
    const struct contact *trainer = &worker->trainer_contact;
    const size_t n_unanswered = outbox_count(worker->outbox);

    if (n_unanswered > 0) {
        waits_tell("the reward service", 0, worker->is_leaving ? worker->leave_us : 0,
                   "word that %zu samples are stored", n_unanswered);
    }
    if (trainer->is_up && engine_is_idle(worker->engine) &&
        !weights_fetch_is_active(worker->fetch) && !worker->is_leaving) {
        waits_tell("the trainer", trainer->heard_us, trainer->heard_us + WORKER_SILENCE_US, "work");
    }
}

void worker_tell_waits(const struct worker *worker)
{
    if (!waits_are_asked()) {
        return;
    }
    tell_contact(&worker->trainer_contact, "the trainer");
    tell_contact(&worker->reward_contact, "the reward service");
    tell_weights(worker);
    tell_work(worker);
    waits_end();
}
