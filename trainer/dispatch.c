#include "trainer/dispatch.h"

#include "base/memory.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define NO_WORKER SIZE_MAX
#define SILENCE_MAX_US INT64_C(120000000)
#define NAME_ROOM 65u

struct worker {
    struct peer_id peer;
    char name[NAME_ROOM];
    size_t credit;
    int64_t last_seen_us;
    int64_t gap_max_us; /* longest silence that was taken for death and was not: a long forward of a
                           large model */
    bool is_alive;
};

struct group {
    uint64_t id;
    size_t n_missing;
    size_t attempt; /* of the next lease */
    size_t worker;  /* lease holder, or NO_WORKER */
    int64_t lease_end_us;
};

struct dispatch {
    struct dispatch_limits limits;
    struct worker *workers;
    size_t n_workers;
    struct group *groups;
    size_t n_groups;
    bool *has_sample; /* (max_groups, group_size) */
    int32_t *missing; /* (group_size) scratch of dispatch_next */
};

enum status dispatch_create(const struct dispatch_limits *limits, struct dispatch **out)
{
    struct dispatch *dispatch = NULL;
    size_t n_samples = 0;
    *out = NULL;
    if (!size_multiply(limits->max_groups, limits->group_size, &n_samples)) {
        return status_set(STATUS_BAD_ARGUMENT, "%zu groups of %zu samples are too many",
                          limits->max_groups, limits->group_size);
    }
    TRY(memory_alloc(1, sizeof(*dispatch), &dispatch));
    dispatch->limits = *limits;
    enum status status =
        memory_alloc(DISPATCH_WORKERS_MAX, sizeof(struct worker), &dispatch->workers);
    if (status == STATUS_OK) {
        status = memory_alloc(limits->max_groups, sizeof(struct group), &dispatch->groups);
    }
    if (status == STATUS_OK) {
        status = memory_alloc(n_samples, sizeof(bool), &dispatch->has_sample);
    }
    if (status == STATUS_OK) {
        status = memory_alloc(limits->group_size, sizeof(int32_t), &dispatch->missing);
    }
    if (status != STATUS_OK) {
        dispatch_destroy(dispatch);
        return status;
    }
    *out = dispatch;
    return STATUS_OK;
}

void dispatch_destroy(struct dispatch *dispatch)
{
    if (dispatch == NULL) {
        return;
    }
    memory_free(dispatch->workers);
    memory_free(dispatch->groups);
    memory_free(dispatch->has_sample);
    memory_free(dispatch->missing);
    memory_free(dispatch);
}

static struct worker *find_peer(struct dispatch *dispatch, const struct peer_id *peer)
{
    for (size_t i = 0; i < dispatch->n_workers; i++) {
        if (peer_id_equal(&dispatch->workers[i].peer, peer)) {
            return &dispatch->workers[i];
        }
    }
    return NULL;
}

static struct worker *find_name(struct dispatch *dispatch, const char *name)
{
    for (size_t i = 0; i < dispatch->n_workers; i++) {
        if (strcmp(dispatch->workers[i].name, name) == 0) {
            return &dispatch->workers[i];
        }
    }
    return NULL;
}

/* Ends the leases of a worker; returns how many there were. */
static size_t free_leases(struct dispatch *dispatch, const struct worker *worker)
{
    const size_t index = (size_t)(worker - dispatch->workers);
    size_t n = 0;
    for (size_t g = 0; g < dispatch->n_groups; g++) {
        if (dispatch->groups[g].worker == index) {
            dispatch->groups[g].worker = NO_WORKER;
            n += dispatch->groups[g].n_missing > 0 ? 1 : 0;
        }
    }
    return n;
}

enum status dispatch_hello(struct dispatch *dispatch, const struct peer_id *peer, const char *name,
                           int64_t now_us)
{
    struct worker *worker = find_name(dispatch, name);
    if (worker == NULL) {
        if (dispatch->n_workers == DISPATCH_WORKERS_MAX) {
            return status_set(STATUS_PEER, "more than %u workers", DISPATCH_WORKERS_MAX);
        }
        worker = &dispatch->workers[dispatch->n_workers++];
        const int n = snprintf(worker->name, sizeof(worker->name), "%s", name);
        assert(n >= 0);
    } else if (peer_id_equal(&worker->peer, peer)) {
        worker->last_seen_us = now_us; /* HELLO is repeated until it is answered */
        worker->is_alive = true;
        return STATUS_OK;
    }
    (void)free_leases(dispatch, worker);
    worker->peer = *peer;
    worker->credit = 0;
    worker->last_seen_us = now_us;
    worker->is_alive = true;
    return STATUS_OK;
}

void dispatch_ready(struct dispatch *dispatch, const struct peer_id *peer, size_t credit)
{
    struct worker *worker = find_peer(dispatch, peer);
    if (worker != NULL) {
        worker->credit += credit;
    }
}

bool dispatch_seen(struct dispatch *dispatch, const struct peer_id *peer, int64_t now_us)
{
    struct worker *worker = find_peer(dispatch, peer);
    if (worker == NULL) {
        return false;
    }
    const int64_t gap_us = now_us - worker->last_seen_us;
    if (!worker->is_alive && gap_us > worker->gap_max_us) {
        worker->gap_max_us = gap_us;
    }
    worker->last_seen_us = now_us;
    worker->is_alive = true;
    return true;
}

static size_t give_up(struct dispatch *dispatch, struct worker *worker)
{
    worker->is_alive = false;
    return free_leases(dispatch, worker);
}

void dispatch_bye(struct dispatch *dispatch, const struct peer_id *peer)
{
    struct worker *worker = find_peer(dispatch, peer);
    if (worker != NULL) {
        worker->credit = 0;
        (void)give_up(dispatch, worker);
    }
}

void dispatch_undelivered(struct dispatch *dispatch, const struct peer_id *peer)
{
    struct worker *worker = find_peer(dispatch, peer);
    if (worker != NULL) {
        worker->credit++;
        (void)give_up(dispatch, worker);
    }
}

size_t dispatch_workers_alive(const struct dispatch *dispatch)
{
    size_t n = 0;
    for (size_t i = 0; i < dispatch->n_workers; i++) {
        n += dispatch->workers[i].is_alive ? 1 : 0;
    }
    return n;
}

bool dispatch_peer(const struct dispatch *dispatch, size_t index, struct peer_id *out)
{
    if (index >= dispatch->n_workers) {
        return false;
    }
    *out = dispatch->workers[index].peer;
    return true;
}

enum status dispatch_open(struct dispatch *dispatch, uint64_t group_id)
{
    if (dispatch->n_groups == dispatch->limits.max_groups) {
        return status_set(STATUS_BAD_ARGUMENT, "more than %zu open groups",
                          dispatch->limits.max_groups);
    }
    const size_t g = dispatch->n_groups++;
    dispatch->groups[g] = (struct group){
        .id = group_id, .n_missing = dispatch->limits.group_size, .worker = NO_WORKER};
    memset(dispatch->has_sample + g * dispatch->limits.group_size, 0,
           dispatch->limits.group_size * sizeof(bool));
    return STATUS_OK;
}

enum dispatch_verdict dispatch_sample(struct dispatch *dispatch, uint64_t group_id, size_t idx)
{
    for (size_t g = 0; g < dispatch->n_groups; g++) {
        struct group *group = &dispatch->groups[g];
        if (group->id != group_id || idx >= dispatch->limits.group_size) {
            continue;
        }
        bool *has_sample = &dispatch->has_sample[g * dispatch->limits.group_size + idx];
        if (*has_sample) {
            return DISPATCH_DUPLICATE;
        }
        *has_sample = true;
        group->n_missing--;
        return DISPATCH_TAKEN;
    }
    return DISPATCH_UNKNOWN;
}

size_t dispatch_missing(const struct dispatch *dispatch)
{
    size_t n = 0;
    for (size_t g = 0; g < dispatch->n_groups; g++) {
        n += dispatch->groups[g].n_missing;
    }
    return n;
}

bool dispatch_is_complete(const struct dispatch *dispatch)
{
    return dispatch_missing(dispatch) == 0;
}

void dispatch_close_all(struct dispatch *dispatch)
{
    dispatch->n_groups = 0;
}

/* A worker that was once silent for long and came back is given twice as long the next time, up to
 * SILENCE_MAX_US: it was busy. */
static int64_t patience_us(const struct dispatch *dispatch, const struct worker *worker)
{
    const int64_t twice_us = 2 * worker->gap_max_us;
    const int64_t wanted_us =
        twice_us > dispatch->limits.silence_us ? twice_us : dispatch->limits.silence_us;
    return wanted_us < SILENCE_MAX_US ? wanted_us : SILENCE_MAX_US;
}

static void add_debt(const struct group *group, struct dispatch_debt *debt)
{
    debt->n_groups++;
    debt->n_missing += group->n_missing;
    if (debt->lease_end_us == 0 || group->lease_end_us < debt->lease_end_us) {
        debt->lease_end_us = group->lease_end_us;
    }
}

bool dispatch_debt_of(const struct dispatch *dispatch, size_t index, struct dispatch_debt *out)
{
    if (index >= dispatch->n_workers) {
        return false;
    }
    const struct worker *worker = &dispatch->workers[index];

    *out = (struct dispatch_debt){
        .worker = worker->name, .seen_us = worker->last_seen_us, .is_alive = worker->is_alive};
    for (size_t i = 0; i < dispatch->n_groups; i++) {
        const struct group *group = &dispatch->groups[i];

        if (group->worker == index && group->n_missing > 0) {
            add_debt(group, out);
        }
    }
    return true;
}

size_t dispatch_expire(struct dispatch *dispatch, int64_t now_us, const char **who)
{
    size_t n = 0;
    *who = "";
    for (size_t i = 0; i < dispatch->n_workers; i++) {
        struct worker *worker = &dispatch->workers[i];
        if (worker->is_alive && now_us - worker->last_seen_us > patience_us(dispatch, worker)) {
            n += give_up(dispatch, worker);
            *who = worker->name;
        }
    }
    for (size_t g = 0; g < dispatch->n_groups; g++) {
        struct group *group = &dispatch->groups[g];
        if (group->worker != NO_WORKER && group->n_missing > 0 && now_us > group->lease_end_us) {
            *who = dispatch->workers[group->worker].name;
            group->worker = NO_WORKER;
            n++;
        }
    }
    return n;
}

static struct worker *most_credit(struct dispatch *dispatch)
{
    struct worker *best = NULL;
    for (size_t i = 0; i < dispatch->n_workers; i++) {
        struct worker *worker = &dispatch->workers[i];
        if (worker->is_alive && worker->credit > 0 &&
            (best == NULL || worker->credit > best->credit)) {
            best = worker;
        }
    }
    return best;
}

static size_t list_missing(struct dispatch *dispatch, size_t g)
{
    const bool *has_sample = dispatch->has_sample + g * dispatch->limits.group_size;
    size_t n = 0;
    for (size_t i = 0; i < dispatch->limits.group_size; i++) {
        if (!has_sample[i]) {
            dispatch->missing[n++] = (int32_t)i;
        }
    }
    return n;
}

bool dispatch_next(struct dispatch *dispatch, int64_t now_us, struct assignment *out)
{
    struct worker *worker = most_credit(dispatch);
    for (size_t g = 0; worker != NULL && g < dispatch->n_groups; g++) {
        struct group *group = &dispatch->groups[g];
        if (group->n_missing == 0 || group->worker != NO_WORKER) {
            continue;
        }
        worker->credit--;
        group->worker = (size_t)(worker - dispatch->workers);
        group->lease_end_us = now_us + dispatch->limits.lease_us;
        *out = (struct assignment){.peer = worker->peer,
                                   .worker = worker->name,
                                   .group_id = group->id,
                                   .attempt = group->attempt++,
                                   .idx = dispatch->missing,
                                   .n_idx = list_missing(dispatch, g)};
        return true;
    }
    return false;
}
