/* Owns how the reward service starts, ends, and begins anew after a rollback. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/run_paths.h"
#include "reward/reward_service_internal.h"

#include <stdio.h>
#include <string.h>

static enum status register_components(struct service *service)
{
    service->n_components = scoring_components(service->scoring, &service->components);
    if (service->n_components > FN_MAX) {
        return status_set(STATUS_BAD_CONFIG, "%zu rewards; %u is the most", service->n_components,
                          FN_MAX);
    }
    for (size_t i = 0; i < service->n_components; i++) {
        const struct scoring_component *const component = &service->components[i];
        const struct fn_row row = {.name = component->name,
                                   .source = component->source,
                                   .scope = component->scope,
                                   .config_json = component->config_json,
                                   .sha_hex = component->sha,
                                   .weight = component->weight};
        TRY(writer_put_fn(service->writer, service->run_id, &row, &service->fn_ids[i]));
    }
    return STATUS_OK;
}

static enum status register_run(struct service *service)
{
    char *text = NULL;
    char build[64];
    struct json *json = NULL;
    struct run_row row = {.name = service->config->run.name,
                          .model = service->config->model.path,
                          .build_json = build,
                          .created_ns = clock_wall_ns()};

    (void)snprintf(build, sizeof(build), "{\"sqlite\":\"%s\"}", db_sqlite_version());
    TRY(config_digest(service->config, service->config_sha));
    if (!hash_unhex(service->config_sha, row.config_sha.bytes, sizeof(row.config_sha.bytes))) {
        return status_set(STATUS_BAD_CONFIG, "the configuration's digest is not hexadecimal");
    }
    TRY(config_to_json(service->config, &json));
    enum status status = json_print(json, &text, NULL);
    json_destroy(json);
    if (status == STATUS_OK) {
        row.config_json = text;
        status = writer_put_run(service->writer, &row, &service->run_id);
    }
    memory_free(text);
    return status;
}

/* The trainer that was there before this service started, if it did not say BYE. */
static enum status find_holder(struct service *service)
{
    struct incarnation_row row;

    arena_reset(service->arena);
    TRY(reader_incarnation(writer_db(service->writer), service->run_id, service->arena, &row));
    service->holder.inc = row.inc;
    service->holder.pid = row.pid;
    service->holder.is_gone = row.has_ended;
    (void)snprintf(service->holder.host, sizeof(service->holder.host), "%s", row.host);
    return STATUS_OK;
}

static enum status open_socket(struct service *service, const char *run_dir,
                               enum run_endpoint which, struct socket **out)
{
    char *endpoint = NULL;

    TRY(run_endpoint(run_dir, which, &endpoint));
    const enum status status = socket_listen(service->context, endpoint, out);
    memory_free(endpoint);
    return status;
}

static enum status open_database(struct service *service, const char *run_dir)
{
    char *path = NULL;

    TRY(run_database_path(run_dir, &path));
    const enum status status = writer_open(path, &service->writer);
    (void)snprintf(service->database, sizeof(service->database), "%s", path);
    memory_free(path);
    TRY(status);
    TRY(register_run(service));
    TRY(register_components(service));
    TRY(writer_commit(service->writer));
    return find_holder(service);
}

enum status service_open(struct service *service, const struct run_config *config,
                         const char *run_dir)
{
    service->config = config;
    service->budget.rate_max = config->scoring.max_error_rate;
    service->budget.n_expected = config->grpo.prompts_per_step * config->grpo.num_generations;
    service->next_sample_id = 1;
    TRY(arena_create((size_t)1 << 16, &service->arena));
    TRY(intake_create(group_data_destroy, &service->intake));
    TRY(scoring_create(config, &service->scoring)); /* children first: no sockets to inherit */
    TRY(open_database(service, run_dir));
    TRY(service_load(service));
    TRY(socket_context_create(&service->context));
    TRY(open_socket(service, run_dir, ENDPOINT_RESULTS, &service->results));
    return open_socket(service, run_dir, ENDPOINT_SCORED, &service->scored);
}

static void drop_inbox(struct service *service)
{
    for (size_t i = 0; i < service->n_inbox; i++) {
        message_destroy(service->inbox[i].message);
    }
    service->n_inbox = 0;
    service->n_done = 0;
}

void service_close(struct service *service)
{
    drop_inbox(service);
    service_drop_answers(service);
    service_drop_parcels(service);
    socket_close(service->results);
    socket_close(service->scored);
    socket_context_destroy(service->context);
    scoring_destroy(service->scoring);
    writer_close(service->writer);
    intake_destroy(service->intake);
    error_budget_dispose(&service->budget);
    byte_buffer_dispose(&service->scratch);
    arena_destroy(service->arena);
    memory_free(service->answers);
    memory_free(service->parcels);
}

enum status service_rebuild(struct service *service)
{
    struct scoring *scoring = NULL;
    struct intake *intake = NULL;

    TRY(scoring_create(service->config, &scoring)); /* what is in flight was rolled back */
    scoring_destroy(service->scoring);
    service->scoring = scoring;
    service->n_components = scoring_components(scoring, &service->components);
    TRY(intake_create(group_data_destroy, &intake));
    intake_destroy(service->intake);
    service->intake = intake;
    TRY(find_holder(service));
    return service_load(service);
}
