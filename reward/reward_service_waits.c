/* What the reward service waits for, when somebody asks. */
#include "base/waits.h"
#include "reward/reward_service_internal.h"

static void tell_trainer(const struct service *service)
{
    int64_t since_us = 0;
    const size_t n_unanswered = intake_unanswered(service->intake, &since_us);
    const size_t n_parcels = service->n_parcels - service->parcel_head;

    if (!service->has_trainer) {
        waits_tell("the trainer", 0, 0, "its HELLO");
        return;
    }
    if (n_unanswered > 0) {
        waits_tell("the trainer", since_us, 0, "word that %zu scored samples have come",
                   n_unanswered);
    }
    if (n_parcels > 0) {
        waits_tell("the trainer", 0, 0, "room for %zu messages", n_parcels);
    }
}

void service_tell_waits(const struct service *service)
{
    if (!waits_are_asked()) {
        return;
    }
    if (service->paused_since_us != 0) {
        waits_tell("the database", service->paused_since_us, service->pause_ends_us,
                   "that it takes rows again");
    }
    tell_trainer(service);
    scoring_tell_waits(service->scoring);
    waits_end();
}
