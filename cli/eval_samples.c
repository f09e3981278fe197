#include "cli/eval_samples.h"

#include "base/memory.h"
#include "cli/ordered_lines.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct eval_samples {
    FILE *file;
    struct ordered_lines *lines;
    const struct scoring_component *components; /* borrowed */
    size_t n_components;
};

static enum status open_file(struct eval_samples *samples, const char *path, size_t n_samples)
{
    samples->file = fopen(path, "w");
    if (samples->file == NULL) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: %s", path, strerror(errno));
    }
    return ordered_lines_create(n_samples, samples->file, &samples->lines);
}

enum status eval_samples_open(const char *path, size_t n_samples, const struct scoring *scoring,
                              struct eval_samples **out)
{
    struct eval_samples *samples = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*samples), &samples));
    samples->n_components = scoring_components(scoring, &samples->components);
    const enum status status = open_file(samples, path, n_samples);
    if (status != STATUS_OK) {
        if (samples->file != NULL) {
            (void)fclose(samples->file);
        }
        memory_free(samples);
        return status;
    }
    *out = samples;
    return STATUS_OK;
}

enum status eval_samples_close(struct eval_samples *samples)
{
    if (samples == NULL) {
        return STATUS_OK;
    }
    enum status status = ordered_lines_flush(samples->lines);
    if (fclose(samples->file) != 0 && status == STATUS_OK) {
        status = status_set(STATUS_IO, "the samples' file: %s", strerror(errno));
    }
    ordered_lines_destroy(samples->lines);
    memory_free(samples);
    return status;
}

static enum status put_text(struct json *object, const char *key, const char *text)
{
    return json_put(object, key, json_from_text(text, strlen(text)));
}

static enum status fill_tokens(const struct completion *completion, struct json *ids,
                               struct json *logprobs)
{
    for (size_t i = 0; i < completion->n_tokens; i++) {
        TRY(json_append(ids, json_from_int(completion->tokens[i])));
        TRY(json_append(logprobs, json_from_number((double)completion->logprobs[i])));
    }
    return STATUS_OK;
}

/* Empty lists first: they then belong to the object, whatever fails. */
static enum status put_tokens(struct json *object, const struct completion *completion)
{
    TRY(json_put(object, "ids", json_array_create()));
    TRY(json_put(object, "logprobs", json_array_create()));
    return fill_tokens(completion, json_get(object, "ids"), json_get(object, "logprobs"));
}

static enum status fill_object(const struct eval_sample *sample, struct json *object)
{
    TRY(json_put(object, "row", json_from_int((int64_t)sample->row_index)));
    TRY(json_put(object, "line", json_from_int((int64_t)sample->row->line)));
    TRY(put_text(object, "source", sample->row->data_source));
    TRY(json_put(object, "sample", json_from_int(sample->completion->sample)));
    TRY(json_put(object, "prompt",
                 json_from_text(sample->prompt->text, sample->prompt->text_bytes)));
    TRY(json_put(object, "text", json_from_text(sample->text, sample->text_bytes)));
    TRY(put_tokens(object, sample->completion));
    return put_text(object, "finish", finish_name(sample->completion->finish));
}

enum status eval_samples_describe(const struct eval_sample *sample, struct json **out)
{
    *out = json_object_create();
    const enum status status = fill_object(sample, *out);
    if (status != STATUS_OK) {
        json_destroy(*out);
        *out = NULL;
    }
    return status;
}

/* A score that there is none of is null. */
static enum status fill_scores(const struct eval_samples *samples,
                               const struct score_result *result, struct json *scores)
{
    for (size_t i = 0; i < samples->n_components; i++) {
        const struct score *score = &result->scores[i];
        const double value = score->status == SCORE_OK ? score->value : (double)NAN;

        TRY(json_put(scores, samples->components[i].name, json_from_number(value)));
    }
    return STATUS_OK;
}

static enum status complete(const struct eval_samples *samples, const struct score_result *result,
                            bool passes, struct json *object, char **line)
{
    const double reward = result->has_total ? result->total : (double)NAN;

    TRY(json_put(object, "reward", json_from_number(reward)));
    TRY(json_put(object, "passed", json_from_bool(passes)));
    TRY(json_put(object, "scores", json_object_create()));
    TRY(fill_scores(samples, result, json_get(object, "scores")));
    return json_print(object, line, NULL);
}

enum status eval_samples_add(struct eval_samples *samples, size_t index, struct json *object,
                             const struct score_result *result, bool passes)
{
    char *line = NULL;
    const enum status status = complete(samples, result, passes, object, &line);

    json_destroy(object);
    return status == STATUS_OK ? ordered_lines_add(samples->lines, index, line) : status;
}
