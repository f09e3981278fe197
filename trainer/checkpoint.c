#include "trainer/checkpoint.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/publisher.h"
#include "trainer/setup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_ROOM 4096u

struct optimizer_header {
    char magic[8];
    uint64_t n_floats, updates;
};
static const char optimizer_magic[8] = {'H', 'O', 'N', 'E', 'O', 'P', 'T', '1'};

static enum status compose(char *out, const char *dir, size_t step, const char *suffix)
{
    const int n = snprintf(out, PATH_ROOM, "%s/step_%zu%s", dir, step, suffix);
    if (n < 0 || (size_t)n >= PATH_ROOM) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: the path is too long", dir);
    }
    return STATUS_OK;
}

static enum status put_optimizer(struct file_writer *writer, struct learner *learner)
{
    struct optimizer *optimizer = learner_optimizer(learner);
    const size_t n_floats = policy_table(learner_policy(learner))->n_floats;
    struct optimizer_header header = {.n_floats = n_floats,
                                      .updates = optimizer_updates(optimizer)};
    memcpy(header.magic, optimizer_magic, sizeof(header.magic));
    TRY(file_writer_put(writer, &header, sizeof(header)));
    TRY(file_writer_put(writer, optimizer_first_moment(optimizer), n_floats * sizeof(float)));
    return file_writer_put(writer, optimizer_second_moment(optimizer), n_floats * sizeof(float));
}

static enum status write_optimizer(const char *folder, struct learner *learner)
{
    char *state = NULL;
    char *path = NULL;
    struct file_writer *writer = NULL;
    enum status status = path_join(folder, "state", &state);
    if (status == STATUS_OK) {
        status = folder_create(state);
    }
    if (status == STATUS_OK) {
        status = path_join(state, "optimizer.bin", &path);
    }
    if (status == STATUS_OK) {
        status = file_writer_open(path, &writer);
    }
    if (status == STATUS_OK) {
        status = put_optimizer(writer, learner);
    }
    if (status == STATUS_OK) {
        status = file_writer_commit(writer);
        writer = NULL;
    }
    if (status == STATUS_OK) {
        status = folder_sync(state);
    }
    file_writer_abandon(writer);
    memory_free(path);
    memory_free(state);
    return status;
}

/* N of "step_N" + suffix, or false for any other name. */
static bool parse_step(const char *name, const char *suffix, size_t *step)
{
    char *end = NULL;
    const bool has_zero = strncmp(name, "step_0", 6) == 0 && name[6] >= '0' && name[6] <= '9';
    if (strncmp(name, "step_", 5) != 0 || name[5] < '0' || name[5] > '9' || has_zero) {
        return false;
    }
    errno = 0;
    const unsigned long long value = strtoull(name + 5, &end, 10);
    *step = (size_t)value;
    return errno == 0 && strcmp(end, suffix) == 0;
}

/* The highest step below `below` that has a folder; false when there is none. */
static bool newest_below(const struct file_list *list, size_t below, size_t *out)
{
    bool is_found = false;
    for (size_t i = 0; i < list->count; i++) {
        size_t step = 0;
        if (parse_step(list->names[i], "", &step) && step < below && (!is_found || step > *out)) {
            *out = step;
            is_found = true;
        }
    }
    return is_found;
}

/* A folder on its way out loses its name first, so that a crash never leaves half a checkpoint
 * under a good name. */
static enum status remove_checkpoint(const char *dir, size_t step)
{
    char path[PATH_ROOM];
    char doomed[PATH_ROOM];
    TRY(compose(path, dir, step, ""));
    TRY(compose(doomed, dir, step, ".tmp"));
    TRY(file_rename_new(path, doomed));
    return folder_remove(doomed);
}

static enum status prune(const char *dir, size_t keep_last)
{
    struct file_list list;
    size_t below = SIZE_MAX;
    size_t step = 0;
    enum status status = STATUS_OK;
    TRY(file_list(dir, &list));
    for (size_t kept = 0; status == STATUS_OK && newest_below(&list, below, &step); kept++) {
        if (kept >= keep_last) {
            status = remove_checkpoint(dir, step);
        }
        below = step;
    }
    file_list_free(&list);
    return status;
}

/* Everything into `folder`, MANIFEST last, and read back. */
static enum status write_checkpoint(const char *folder, struct learner *learner,
                                    const struct checkpoint_info *info, const char *model_dir)
{
    struct checkpoint_info written;
    TRY(folder_create(folder));
    TRY(setup_save_model(folder, learner_policy(learner), model_dir));
    TRY(write_optimizer(folder, learner));
    TRY(checkpoint_manifest_write(folder, info));
    TRY(folder_sync(folder));
    return checkpoint_manifest_verify(folder, &written);
}

enum status checkpoint_save(const char *checkpoints_dir, struct learner *learner,
                            const struct checkpoint_info *info, const char *model_dir,
                            size_t keep_last)
{
    char temporary[PATH_ROOM];
    char path[PATH_ROOM];
    TRY(compose(temporary, checkpoints_dir, info->step, ".tmp"));
    TRY(compose(path, checkpoints_dir, info->step, ""));
    TRY(folder_create(checkpoints_dir));
    if (folder_exists(path)) {
        return STATUS_OK; /* the same step again after a resume: equal by construction */
    }
    TRY(folder_remove(temporary));
    TRY(write_checkpoint(temporary, learner, info, model_dir));
    TRY(file_rename_new(temporary, path));
    return prune(checkpoints_dir, keep_last);
}

/* Half-written and half-removed checkpoints; what else is in the folder is not ours. */
static enum status remove_leftovers(const char *dir, const struct file_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        size_t step = 0;
        char path[PATH_ROOM];
        if (!parse_step(list->names[i], ".tmp", &step)) {
            continue;
        }
        enum status status = compose(path, dir, step, ".tmp");
        if (status == STATUS_OK) {
            status = folder_remove(path);
        }
        if (status != STATUS_OK) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status set_aside(const char *dir, size_t step)
{
    char path[PATH_ROOM];
    char aside[PATH_ROOM];
    log_warn("checkpoint", "step_%zu is damaged (%s); it becomes step_%zu.corrupt", step,
             status_message(), step);
    TRY(compose(path, dir, step, ""));
    TRY(compose(aside, dir, step, ".corrupt"));
    TRY(folder_remove(aside));
    return file_rename_new(path, aside);
}

static enum status search(const char *dir, const struct file_list *list, char **path,
                          struct checkpoint_info *info)
{
    size_t below = SIZE_MAX;
    size_t step = 0;
    while (newest_below(list, below, &step)) {
        char candidate[PATH_ROOM];
        enum status status = compose(candidate, dir, step, "");
        if (status == STATUS_OK) {
            status = checkpoint_manifest_verify(candidate, info);
        }
        if (status == STATUS_OK && info->step != step) {
            status = status_set(STATUS_BAD_FORMAT, "its MANIFEST is of step %zu", info->step);
        }
        if (status == STATUS_OK) {
            return memory_copy_text(candidate, strlen(candidate), path);
        }
        if (status != STATUS_OK && status != STATUS_BAD_FORMAT && status != STATUS_IO) {
            return status; /* short of memory is not damage */
        }
        status = set_aside(dir, step);
        if (status != STATUS_OK) {
            return status;
        }
        below = step;
    }
    return STATUS_OK;
}

enum status checkpoint_find(const char *checkpoints_dir, char **path, struct checkpoint_info *info)
{
    struct file_list list = {0};
    *path = NULL;
    if (!folder_exists(checkpoints_dir)) {
        return STATUS_OK;
    }
    TRY(file_list(checkpoints_dir, &list));
    enum status status = remove_leftovers(checkpoints_dir, &list);
    if (status == STATUS_OK) {
        status = search(checkpoints_dir, &list, path, info);
    }
    file_list_free(&list);
    return status;
}

/* n bytes at `at` of the map to out. */
static void read_piecewise(const struct file_map *map, size_t at, size_t n, void *out)
{
    const size_t piece = (size_t)4 << 20;
    for (size_t begin = 0; begin < n; begin += piece) {
        const size_t count = n - begin < piece ? n - begin : piece;
        memcpy((char *)out + begin, map->data + at + begin, count);
        file_map_forget(map, at + begin, at + begin + count);
    }
}

static enum status read_optimizer(const char *path, struct learner *learner)
{
    struct optimizer *optimizer = learner_optimizer(learner);
    const size_t n_floats = policy_table(learner_policy(learner))->n_floats;
    const size_t bytes = n_floats * sizeof(float);
    struct optimizer_header header;
    struct file_map map;
    TRY(file_map_open(path, &map));
    enum status status = STATUS_OK;
    if (map.bytes != sizeof(header) + 2 * bytes) {
        status = status_set(STATUS_BAD_FORMAT, "%s: %zu bytes, this model needs %zu", path,
                            map.bytes, sizeof(header) + 2 * bytes);
    } else {
        memcpy(&header, map.data, sizeof(header));
        if (memcmp(header.magic, optimizer_magic, sizeof(header.magic)) != 0 ||
            header.n_floats != n_floats) {
            status = status_set(STATUS_BAD_FORMAT, "%s: not the optimizer of this model", path);
        } else {
            read_piecewise(&map, sizeof(header), bytes, optimizer_first_moment(optimizer));
            read_piecewise(&map, sizeof(header) + bytes, bytes, optimizer_second_moment(optimizer));
            optimizer_set_updates(optimizer, header.updates);
        }
    }
    file_map_close(&map);
    return status;
}

/* The digest that the trainer announced for these weights, and wrote into MANIFEST. */
static enum status published_digest(const float *weights, size_t n_floats, struct digest128 *out)
{
    struct publisher *publisher = NULL;
    TRY(publisher_create(weights, n_floats, &publisher));
    publisher_offer(publisher, 0);
    *out = publisher_digest(publisher);
    publisher_destroy(publisher);
    return STATUS_OK;
}

enum status checkpoint_load(const char *path, const struct checkpoint_info *info,
                            struct learner *learner)
{
    struct policy *policy = learner_policy(learner);
    const struct weight_table *table = policy_table(policy);
    struct digest128 digest;
    char *state = NULL;
    TRY(weights_load(path, table, policy_weights(policy)));
    TRY(published_digest(policy_weights(policy), table->n_floats, &digest));
    if (!digest128_equal(&digest, &info->weight_digest)) {
        return status_set(STATUS_BAD_FORMAT, "%s: the weights are not those of its MANIFEST", path);
    }
    TRY(path_join(path, "state/optimizer.bin", &state));
    const enum status status = read_optimizer(state, learner);
    memory_free(state);
    TRY(status);
    return policy_refresh(policy);
}
