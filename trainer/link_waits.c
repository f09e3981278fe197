/* What the trainer waits for, when somebody asks. */
#include "base/clock.h"
#include "base/waits.h"
#include "trainer/link_internal.h"

/* Samples that a worker owes, or the reward service their scores: of which the trainer hears with
 * the score alone. */
static void tell_worker(const struct dispatch_debt *debt, int64_t now_us)
{
    waits_tell(debt->worker, 0, debt->lease_end_us,
               "%zu scored samples of %zu groups (heard of it %.1f s ago%s)", debt->n_missing,
               debt->n_groups, (double)(now_us - debt->seen_us) * 1e-6,
               debt->is_alive ? "" : ", taken for dead");
}

static void tell_workers(const struct link *link)
{
    const int64_t now_us = clock_now_us();
    const size_t n_alive = dispatch_workers_alive(link->dispatch);
    size_t n_left = dispatch_missing(link->dispatch);
    struct dispatch_debt debt;

    for (size_t i = 0; dispatch_debt_of(link->dispatch, i, &debt); i++) {
        if (debt.n_missing > 0) {
            tell_worker(&debt, now_us);
            n_left -= debt.n_missing;
        }
    }
    if (n_left > 0 && n_alive > 0) {
        waits_tell("a rollout worker", 0, 0, "room for %zu samples that no worker has taken",
                   n_left);
    } else if (n_left > 0) {
        waits_tell("a rollout worker", link->idle_since_us, link->idle_since_us + LINK_IDLE_US,
                   "none is there and %zu samples are missing", n_left);
    }
}

void link_tell_waits(const struct link *link)
{
    if (!waits_are_asked()) {
        return;
    }
    if (link->expected != NULL) {
        waits_tell("the reward service", link->expected_since_us, link->expected_until_us, "%s",
                   link->expected);
    }
    tell_workers(link);
    waits_end();
}

void link_expect(struct link *link, const char *what, int64_t deadline_s)
{
    link->expected = what;
    link->expected_since_us = clock_now_us();
    link->expected_until_us = link->expected_since_us + deadline_s * 1000000;
}
