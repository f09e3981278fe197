/* The demo's configuration files. They are ordinary ones: whoever wants to try something else edits
 * them and types the command that the demo showed. */
#include "cli/demo.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/precision.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_ROOM 2048u

/* {seed, dtype} */
static const char phase1_text[] =
    "# Cold start, phase 1: worked examples only. Both losses are small after about 200 steps; the "
    "rest\n"
    "# makes the sums reliable.\n"
    "run: {seed: %" PRIu64 "}\n"
    "model: {path: model, dtype: %s, router_bias_update: 3e-3, mtp_train: true, mtp_coef: 0.3}\n"
    "data: {train: data/sft-worked.jsonl}\n"
    "optim: {learning_rate: 1e-3, lr_scheduler_type: wsd, warmup_steps: 20, decay_ratio: 0.2}\n"
    "sft:\n"
    "  batch_size: 24\n"
    "  max_steps: 500\n"
    "  output: sft-phase1\n"
    "log: {every_steps: 25}\n";

/* {seed, dtype} */
static const char phase2_text[] =
    "# Cold start, phase 2: one worked example to four bare answers, so that the model can think\n"
    "# but seldom does.\n"
    "run: {seed: %" PRIu64 "}\n"
    "model: {path: sft-phase1, dtype: %s, router_bias_update: 3e-3, mtp_train: true, mtp_coef: "
    "0.3}\n"
    "data: {train: data/sft-mix.jsonl}\n"
    "optim: {learning_rate: 1e-3, lr_scheduler_type: linear, warmup_steps: 20}\n"
    "sft: {batch_size: 64, max_steps: 100, output: sft}\n"
    "log: {every_steps: 25}\n";

/* {seed, steps, dtype} */
static const char run_text[] =
    "# GRPO: a point for the right answer, nothing for the form.\n"
    "run: {name: rl, output_dir: runs, seed: %" PRIu64 ", max_steps: %zu}\n"
    "model: {path: sft, dtype: %s}\n"
    "data: {train: data/train.jsonl, eval: data/heldout.jsonl}\n"
    "grpo: {prompts_per_step: 16, num_generations: 16, loss_type: dapo, scale_rewards: group}\n"
    "rollout: {max_completion_length: 24, temperature: 1, workers: 2}\n"
    "optim: {learning_rate: 3e-4, lr_scheduler_type: linear, warmup_steps: 10}\n"
    "rewards:\n"
    "  - name: correct\n"
    "    source: \"builtin:regex\"\n"
    "    config: {pattern: \"<answer>([0-9])</answer>$\", group: 1, require_stop: true}\n"
    "eval: {temperature: 1, max_rows: 1024}\n"
    "checkpoint: {every_steps: 10}\n";

static enum status write_file(const char *dir, const char *name, const char *text)
{
    char *path = NULL;
    TRY(path_join(dir, name, &path));
    const enum status status = file_write_atomic(path, text, strlen(text));
    memory_free(path);
    return status;
}

enum status demo_write_files(const struct demo *demo)
{
    const char *const dtype = precision_name(demo->precision);
    char text[FILE_ROOM];
    (void)snprintf(text, sizeof text, phase1_text, demo->seed, dtype);
    TRY(write_file(demo->dir, "sft-phase1.yaml", text));
    (void)snprintf(text, sizeof text, phase2_text, demo->seed, dtype);
    TRY(write_file(demo->dir, "sft.yaml", text));
    (void)snprintf(text, sizeof text, run_text, demo->seed, demo->steps, dtype);
    return write_file(demo->dir, "run.yaml", text);
}

static const char *const folders[] = {"data", "model", "sft-phase1", "sft", "runs"};
static const char *const files[] = {"sft-phase1.yaml", "sft.yaml", "run.yaml"};
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static enum status clear_folder(const char *dir, const char *name)
{
    char *path = NULL;
    TRY(path_join(dir, name, &path));
    const enum status status = folder_remove(path);
    memory_free(path);
    return status;
}

static enum status clear_file(const char *dir, const char *name)
{
    char *path = NULL;
    TRY(path_join(dir, name, &path));
    enum status status = STATUS_OK;
    if (file_exists(path) && unlink(path) != 0) {
        status = status_set(STATUS_IO, "%s: cannot be removed", path);
    }
    memory_free(path);
    return status;
}

enum status demo_clear(const char *dir)
{
    for (size_t i = 0; i < COUNT_OF(folders); i++) {
        TRY(clear_folder(dir, folders[i]));
    }
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        TRY(clear_file(dir, files[i]));
    }
    return STATUS_OK;
}

enum status demo_is_there(const char *dir, bool *out)
{
    *out = false;
    for (size_t i = 0; i < COUNT_OF(folders); i++) {
        char *path = NULL;
        TRY(path_join(dir, folders[i], &path));
        *out |= folder_exists(path);
        memory_free(path);
    }
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char *path = NULL;
        TRY(path_join(dir, files[i], &path));
        *out |= file_exists(path);
        memory_free(path);
    }
    return STATUS_OK;
}
