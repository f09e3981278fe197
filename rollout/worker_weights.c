/* How a worker comes by the weights that its work names, and what becomes of work whose weights are
 * gone. On the trainer's host they are read where the trainer has them; else they are fetched in
 * chunks and packed as they come. */
#include "base/clock.h"
#include "base/log.h"
#include "rollout/worker_internal.h"

/* The version that came, all of it packed, goes live. */
static enum status install_weights(struct worker *worker)
{
    const int64_t since_us = clock_now_us();

    worker_log_stats(worker);
    worker->held = *weights_fetch_id(worker->fetch);
    weights_fetch_end(worker->fetch);
    const enum status status = engine_measure(worker->engine);
    worker->rest_us = clock_now_us() + WORKER_REST_US;
    if (worker_is_overtaken(worker)) {
        worker_lose_weights(worker);
        return STATUS_OK;
    }
    log_debug("rollout", "weights version=%lld digest=%s mapped=%d ms=%lld",
              (long long)worker->held.version, worker->held.digest, worker->reads_shared ? 1 : 0,
              (long long)((clock_now_us() - since_us) / 1000));
    return status;
}

static enum status request_chunks(struct worker *worker)
{
    struct fetch_request request;
    bool was_sent = true;

    while (was_sent && weights_fetch_next(worker->fetch, clock_now_us(), &request)) {
        struct message *get = NULL;

        TRY(message_create(MESSAGE_W_GET, &get));
        message_put_int(get, "version", request.version);
        message_put_int(get, "first", request.first);
        message_put_int(get, "count", (int64_t)request.count);
        TRY(worker_send(worker->weights, get, &was_sent));
        if (was_sent) {
            weights_fetch_asked(worker->fetch, &request, clock_now_us());
        }
    }
    return STATUS_OK;
}

/* From here on the policy's weights are those of no version. */
static void leave_weights(struct worker *worker)
{
    worker->held.version = -1;
    worker->reads_shared = false;
    policy_return_weights(worker->policy);
}

static void begin_weights(struct worker *worker, const struct weights_id *id)
{
    leave_weights(worker);
    worker->is_mapped = false;
    policy_begin_weights(worker->policy);
    weights_fetch_begin(worker->fetch, id, clock_now_us());
}

static enum status install_mapped(struct worker *worker)
{
    if (shared_weights_version(&worker->shared) != weights_fetch_id(worker->fetch)->version) {
        worker_weights_gone(worker);
        return STATUS_OK;
    }
    shared_weights_lend(&worker->shared, worker->policy);
    worker->reads_shared = true;
    return install_weights(worker);
}

bool worker_wants_weights(const struct worker *worker)
{
    return engine_is_idle(worker->engine) && !weights_fetch_is_active(worker->fetch) &&
           work_queue_wanted(&worker->queue, &worker->held) != NULL;
}

/* A trainer that was killed leaves its memory to those who have mapped it: who waits for the next
 * one does not keep it. */
static void leave_the_dead(struct worker *worker)
{
    if (engine_is_idle(worker->engine) && shared_weights_is_orphan(&worker->shared)) {
        log_info("rollout", "the trainer is gone, and its weights with it");
        worker_unmap_weights(worker);
    }
}

enum status worker_advance_weights(struct worker *worker)
{
    const struct work *wanted = work_queue_wanted(&worker->queue, &worker->held);

    if (wanted == NULL) {
        weights_fetch_end(worker->fetch);
        leave_the_dead(worker);
        return STATUS_OK;
    }
    if (!engine_is_idle(worker->engine)) {
        return STATUS_OK;
    }
    if (!weights_fetch_is_active(worker->fetch) ||
        !weights_id_equal(weights_fetch_id(worker->fetch), &wanted->weights)) {
        begin_weights(worker, &wanted->weights);
    }
    if (worker->is_mapped) {
        return install_mapped(worker);
    }
    TRY(request_chunks(worker));
    TRY(policy_take_weights(worker->policy, weights_fetch_ready(worker->fetch)));
    return weights_fetch_is_complete(worker->fetch) ? install_weights(worker) : STATUS_OK;
}

enum status worker_map_weights(struct worker *worker, const struct message *info)
{
    if (!worker->config->rollout.share_weights || !weights_fetch_is_described(worker->fetch)) {
        return STATUS_OK;
    }
    return shared_weights_map(&worker->shared, info, worker->policy, &worker->is_mapped);
}

void worker_unmap_weights(struct worker *worker)
{
    if (worker->reads_shared) {
        leave_weights(worker);
    }
    weights_fetch_end(worker->fetch);
    worker->is_mapped = false;
    shared_weights_unmap(&worker->shared);
}

/* Work for weights that the trainer has no more will be given out again, if at all. */
void worker_weights_gone(struct worker *worker)
{
    if (!weights_fetch_is_active(worker->fetch)) {
        return;
    }
    const struct weights_id id = *weights_fetch_id(worker->fetch);

    log_warn("rollout", "the trainer has no weights of version %lld any more",
             (long long)id.version);
    weights_fetch_end(worker->fetch);
    work_queue_drop_weights(&worker->queue, &id);
}

bool worker_is_overtaken(const struct worker *worker)
{
    return worker->reads_shared && shared_weights_version(&worker->shared) != worker->held.version;
}

void worker_lose_weights(struct worker *worker)
{
    const struct weights_id id = worker->held;

    log_warn("rollout",
             "the trainer has gone on from weights version %lld, and their samples "
             "with it",
             (long long)id.version);
    for (const struct work *work = worker->queue.first; work != NULL; work = work->next) {
        if (work->is_started) {
            engine_cancel(worker->engine, work->group);
        }
    }
    work_queue_drop_weights(&worker->queue, &id);
    leave_weights(worker);
}
