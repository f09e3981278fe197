#include "reward/cmd_messages.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

#define DETAIL_BYTES_MAX ((size_t)16384)

static struct json *text_value(const char *text)
{
    return json_from_text(text, strlen(text));
}

/* First failure of a run of json_put calls; each takes its value's reference either way. */
static void put(enum status *status, struct json *object, const char *key, struct json *value)
{
    const enum status result = json_put(object, key, value);
    *status = *status == STATUS_OK ? result : *status;
}

static enum status finish(enum status status, struct json *object, char **out, size_t *n_out)
{
    if (status == STATUS_OK) {
        status = json_print(object, out, n_out);
    }
    json_destroy(object);
    return status;
}

enum status cmd_hello(const struct run_config *config, const struct reward_config *reward,
                      char **out, size_t *n_out)
{
    struct json *hello = json_object_create();
    enum status status = STATUS_OK;
    put(&status, hello, "t", text_value("hello"));
    put(&status, hello, "proto", json_from_int(1));
    put(&status, hello, "run", text_value(config->run.name != NULL ? config->run.name : ""));
    put(&status, hello, "reward", text_value(reward->name));
    put(&status, hello, "scope", text_value("sample"));
    put(&status, hello, "config",
        reward->config != NULL ? json_retain(reward->config) : json_object_create());
    put(&status, hello, "needs_ids", json_from_bool(false));
    return finish(status, hello, out, n_out);
}

static enum status put_sample(struct json *samples, const struct score_sample *sample)
{
    struct json *object = json_object_create();
    char *repaired = NULL;
    size_t n = 0;
    bool is_lossy = false;
    const struct json *messages = json_get(sample->row, "prompt");
    enum status status =
        utf8_repair(sample->completion, sample->completion_bytes, &repaired, &n, &is_lossy);
    put(&status, object, "sample_id", json_from_int(sample->sample_id));
    put(&status, object, "group", json_from_int(sample->group_id));
    put(&status, object, "idx", json_from_int(sample->idx));
    put(&status, object, "finish", text_value(sample->finish));
    put(&status, object, "version", json_from_int(sample->version));
    put(&status, object, "prompt", json_from_text(sample->prompt, sample->prompt_bytes));
    if (json_is(messages, JSON_ARRAY)) {
        put(&status, object, "messages", json_retain(json_get(sample->row, "prompt")));
    }
    put(&status, object, "completion", json_from_text(repaired != NULL ? repaired : "", n));
    put(&status, object, "answer",
        sample->answer != NULL ? json_retain(sample->answer) : json_null_create());
    put(&status, object, "data_source", text_value(sample->data_source));
    put(&status, object, "row",
        sample->row != NULL ? json_retain(sample->row) : json_null_create());
    put(&status, object, "n_tok", json_from_int((int64_t)sample->n_tokens));
    put(&status, object, "lossy", json_from_bool(is_lossy));
    memory_free(repaired);
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return json_append(samples, object);
}

enum status cmd_request(const struct score_sample *const *samples, size_t n, int64_t id,
                        int64_t deadline_ms, char **out, size_t *n_out)
{
    struct json *request = json_object_create();
    struct json *list = json_array_create();
    enum status status = STATUS_OK;
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        status = put_sample(list, samples[i]);
    }
    put(&status, request, "t", text_value("score"));
    put(&status, request, "id", json_from_int(id));
    put(&status, request, "step", json_from_int(n > 0 ? samples[0]->step : 0));
    put(&status, request, "deadline_ms", json_from_int(deadline_ms));
    put(&status, request, "samples", list);
    return finish(status, request, out, n_out);
}

static char *print_detail(const struct json *detail)
{
    static const char cut[] = "{\"truncated\":true}";
    char *text = NULL;
    size_t n = 0;
    if (detail == NULL || !json_is(detail, JSON_OBJECT) ||
        json_print(detail, &text, &n) != STATUS_OK) {
        return NULL;
    }
    if (n > DETAIL_BYTES_MAX) {
        memory_free(text);
        return memory_copy_text(cut, strlen(cut), &text) == STATUS_OK ? text : NULL;
    }
    return text;
}

struct score cmd_error(enum score_status status, const char *kind, const char *message)
{
    struct json *detail = json_object_create();
    enum status put_status = STATUS_OK;
    struct score score = {.status = status, .tries = 1};
    put(&put_status, detail, "kind", text_value(kind));
    put(&put_status, detail, "msg", text_value(message));
    if (put_status == STATUS_OK) {
        score.detail = print_detail(detail);
    }
    json_destroy(detail);
    return score;
}

static struct score read_number(const struct json *value)
{
    const double number = json_number(value, (double)NAN);
    return isfinite(number) ? (struct score){.status = SCORE_OK, .value = number}
                            : cmd_error(SCORE_ERROR, "nonfinite", "the score is not finite");
}

static struct score read_object(const struct json *entry)
{
    const struct json *error = json_get(entry, "error");
    const struct json *value = json_get(entry, "v");
    if (json_is(error, JSON_STRING)) {
        return cmd_error(SCORE_ERROR, "exception", json_text(error, ""));
    }
    struct score score = {.status = SCORE_NA};
    if (json_is(value, JSON_INT) || json_is(value, JSON_REAL)) {
        score = read_number(value);
    } else if (value != NULL && !json_is(value, JSON_NULL)) {
        return cmd_error(SCORE_ERROR, "protocol", "v is neither a number nor null");
    }
    if (score.detail == NULL) {
        score.detail = print_detail(json_get(entry, "detail"));
    }
    return score;
}

void cmd_read_score(const struct json *entry, struct score *out)
{
    const enum json_kind kind = json_kind_of(entry);
    if (kind == JSON_INT || kind == JSON_REAL) {
        *out = read_number(entry);
    } else if (kind == JSON_NULL) {
        *out = (struct score){.status = SCORE_NA};
    } else if (kind == JSON_OBJECT) {
        *out = read_object(entry);
    } else {
        *out = cmd_error(SCORE_ERROR, "protocol", "a score is neither number, null nor object");
    }
}
