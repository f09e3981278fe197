/* Owns what the trainer says of whole steps: MANIFEST, STEP, FETCH. Each can come again and is
 * answered again. */
#include "base/clock.h"
#include "base/log.h"
#include "reward/reward_service_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define METRIC_NAME_MAX 128u

/* Refuses what a superseded trainer says about a step; *is_refused tells. */
static enum status check_incarnation(struct service *service, const struct inbox_entry *entry,
                                     bool *is_refused)
{
    char text[128];
    const int64_t inc = message_int(entry->message, "inc", 0);

    *is_refused = inc != service->holder.inc;
    if (!*is_refused) {
        return STATUS_OK;
    }
    (void)snprintf(text, sizeof(text), "incarnation %lld is superseded by %lld", (long long)inc,
                   (long long)service->holder.inc);
    return service_refuse_trainer(service, entry, text);
}

static enum status refuse_manifest(struct service *service, const struct inbox_entry *entry,
                                   int64_t step, int64_t unfit)
{
    char text[192];

    if (unfit >= 0) {
        (void)snprintf(text, sizeof(text),
                       "the manifest of step %lld holds sample %lld, which is unknown, not scored "
                       "ok, or of another manifest",
                       (long long)step, (long long)unfit);
    } else {
        (void)snprintf(text, sizeof(text), "step %lld has another manifest already",
                       (long long)step);
    }
    return service_refuse_trainer(service, entry, text);
}

enum status service_on_manifest(struct service *service, const struct inbox_entry *entry)
{
    const struct message *const message = entry->message;
    struct manifest_row row = {.step = message_int(message, "step", 0),
                               .version_in = message_int(message, "version_in", 0)};
    enum manifest_verdict verdict;
    bool is_refused;
    int64_t unfit;
    size_t n_advantages;

    TRY(check_incarnation(service, entry, &is_refused));
    if (is_refused) {
        return STATUS_OK;
    }
    row.sample_ids = message_array(message, "sample_ids", &row.n);
    row.advantages = message_array(message, "advantages", &n_advantages);
    if (n_advantages != row.n || !hash_unhex(message_text(message, "digest", ""), row.digest.bytes,
                                             sizeof(row.digest.bytes))) {
        return service_refuse_trainer(service, entry,
                                      "a manifest of unequal lists or without a digest");
    }
    TRY(service_check_budget(service, row.step));
    TRY(writer_put_manifest(service->writer, service->run_id, &row, &verdict, &unfit));
    if (verdict == MANIFEST_DIFFERS || verdict == MANIFEST_UNFIT) {
        return refuse_manifest(service, entry, row.step, unfit);
    }
    intake_close_step(service->intake, row.step);
    error_budget_forget(&service->budget, row.step);
    service->is_urgent = true;
    return service_answer_int(service, entry, MESSAGE_MANIFEST_OK, "step", row.step);
}

static bool is_metric(const struct json_iterator *it)
{
    return (json_is(it->value, JSON_REAL) || json_is(it->value, JSON_INT)) &&
           it->key_bytes <= METRIC_NAME_MAX;
}

/* The values that have a column of their own; NaN for those that did not come. How long the step
 * waited for rewards is known here alone. */
static void read_columns(const struct service *service, const struct message *message, int64_t step,
                         double *columns)
{
    const struct json *const metrics = message_json(message, "metrics");

    for (size_t i = 0; i < n_step_columns; i++) {
        columns[i] = strcmp(step_columns[i], "t_reward_us") == 0
                         ? service_reward_us(service, step)
                         : json_number(json_get(metrics, step_columns[i]), (double)NAN);
    }
}

static enum status put_metrics(struct service *service, const struct message *message, int64_t step)
{
    struct json_iterator it = {.object = message_json(message, "metrics")};
    enum status status = STATUS_OK;

    while (status == STATUS_OK && json_next(&it)) {
        if (is_metric(&it)) {
            status = writer_put_metric(service->writer, service->run_id, step, it.key,
                                       json_number(it.value, (double)NAN));
        }
    }
    return status;
}

static enum status put_experts(struct service *service, const struct message *message, int64_t step)
{
    struct expert_rows experts = {0};
    size_t n_tokens;
    size_t n_bias;

    experts.layers = message_array(message, "moe_layers", &experts.n_layers);
    experts.tokens = message_array(message, "expert_load", &n_tokens);
    experts.bias = message_array(message, "expert_bias", &n_bias);
    if (experts.n_layers == 0 || n_tokens % experts.n_layers != 0) {
        return STATUS_OK; /* a dense model has none */
    }
    experts.n_experts = n_tokens / experts.n_layers;
    experts.bias = n_bias == n_tokens ? experts.bias : NULL;
    return writer_put_experts(service->writer, service->run_id, step, &experts);
}

static enum status store_step(struct service *service, const struct message *message,
                              const struct step_row *row, enum step_verdict *verdict)
{
    size_t n_ids;
    size_t n_stats;
    double *columns = NULL;

    const uint64_t *const ids = message_array(message, "sample_ids", &n_ids);
    const float *const stats = message_array(message, "sample_stats", &n_stats);
    TRY(arena_alloc(service->arena, n_step_columns, sizeof(*columns), (void *)&columns));
    read_columns(service, message, row->step, columns);
    TRY(writer_put_step(service->writer, service->run_id, row, columns, verdict));
    if (*verdict == STEP_SAME) {
        return STATUS_OK; /* a replay: its timings are not the step's */
    }
    TRY(put_metrics(service, message, row->step));
    if (n_stats == n_ids * TRAIN_STATS) {
        TRY(writer_put_train_stats(service->writer, ids, stats, n_ids));
    }
    return put_experts(service, message, row->step);
}

enum status service_on_step(struct service *service, const struct inbox_entry *entry)
{
    const struct message *const message = entry->message;
    struct step_row row = {.step = message_int(message, "step", 0),
                           .version_out = message_int(message, "version_out", 0),
                           .ended_ns = clock_wall_ns(),
                           .is_skipped =
                               strcmp(message_text(message, "status", ""), "skipped") == 0};
    enum step_verdict verdict;
    bool is_refused;

    TRY(check_incarnation(service, entry, &is_refused));
    if (is_refused) {
        return STATUS_OK;
    }
    if (!hash_unhex(message_text(message, "weight_digest", ""), row.weight_digest.bytes,
                    sizeof(row.weight_digest.bytes))) {
        return service_refuse_trainer(service, entry, "a STEP without a weight digest");
    }
    TRY(store_step(service, message, &row, &verdict));
    if (verdict == STEP_DIFFERS) {
        log_warn("reward", "step=%lld was trained to other weights before", (long long)row.step);
        TRY(service_event(service, "error", "replay_differs", row.step, -1,
                          "trained again to other weights"));
    }
    intake_close_step(service->intake, row.step);
    error_budget_forget(&service->budget, row.step);
    service->is_urgent = true;
    service->wants_checkpoint = true;
    return service_answer_int(service, entry, MESSAGE_STEP_OK, "step", row.step);
}

/* The samples of one manifest, then the manifest. */
static enum status post_manifest(struct service *service, int64_t step, int64_t *n_samples)
{
    struct manifest_row row;
    bool found;

    arena_reset(service->arena);
    TRY(reader_manifest(writer_db(service->writer), service->run_id, step, service->arena, &row,
                        &found));
    for (size_t i = 0; found && i < row.n; i++) {
        TRY(service_post(service, PARCEL_REPLAY, (int64_t)row.sample_ids[i], NULL));
    }
    *n_samples += (int64_t)row.n;
    return service_post(service, PARCEL_MANIFEST, step, NULL);
}

static enum status post_manifests(struct service *service, int64_t after_step, int64_t *n_manifests,
                                  int64_t *n_samples)
{
    struct id_list steps;
    struct arena *arena;

    TRY(arena_create(4096, &arena));
    enum status status = reader_manifest_steps(writer_db(service->writer), service->run_id,
                                               after_step, arena, &steps);
    for (size_t i = 0; status == STATUS_OK && i < steps.count; i++) {
        status = post_manifest(service, steps.ids[i], n_samples);
    }
    *n_manifests = status == STATUS_OK ? (int64_t)steps.count : 0;
    arena_destroy(arena);
    return status;
}

enum status service_on_fetch(struct service *service, const struct inbox_entry *entry)
{
    const int64_t after_step = message_int(entry->message, "after_step", -1);
    struct message *fetched;
    int64_t n_manifests = 0;
    int64_t n_samples = 0;
    int64_t n_open = 0;

    service_drop_parcels(service);
    TRY(post_manifests(service, after_step, &n_manifests, &n_samples));
    TRY(service_load_open(service, after_step, &n_open));
    log_info("reward", "fetch after_step=%lld manifests=%lld samples=%lld open=%lld",
             (long long)after_step, (long long)n_manifests, (long long)n_samples,
             (long long)n_open);
    TRY(message_create(MESSAGE_FETCHED, &fetched));
    message_put_int(fetched, "n_manifests", n_manifests);
    message_put_int(fetched, "n_samples", n_samples + n_open);
    return service_post(service, PARCEL_MESSAGE, 0, fetched);
}
