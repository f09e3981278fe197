/* Owns what a table of single settings cannot say: which must be given for what, which must fit
 * together, and the values that are derived from others. */
#include "configs/config_internal.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct check {
    struct run_config *config;
    struct config_report *report;
    const char *where; /* the file */
};

/* Where a setting was given, or the file when it is a default. */
static const char *place_of(const struct check *check, const char **origins, const char *key)
{
    const struct setting *const row = setting_find(key);
    const char *const origin = row != NULL ? origins[row - settings] : NULL;
    return origin == NULL || strcmp(origin, "default") == 0 ? check->where : origin;
}

static void complain(const struct check *check, const char *key, const char *message)
{
    report_add(check->report, place_of(check, check->config->origins, key), 0, 0, "%s: %s", key,
               message);
}

static bool is_default(const struct run_config *config, const char *key)
{
    return strcmp(config->origins[setting_find(key) - settings], "default") == 0;
}

/* --- Derived values --- */

/* "dir/run.yaml" gives the name "run". */
static enum status derive_name(struct run_config *config, const char *where)
{
    const char *const slash = strrchr(where, '/');
    const char *const base = slash != NULL ? slash + 1 : where;
    const char *const dot = strrchr(base, '.');
    const size_t n = dot != NULL && dot != base ? (size_t)(dot - base) : strlen(base);
    if (*config->run.name != '\0') {
        return STATUS_OK;
    }
    return arena_copy_text(config->arena, base, n, &config->run.name);
}

static void derive_rewards(struct run_config *config)
{
    const size_t on_error_index = (size_t)(setting_find("rewards[].on_error") - settings);
    for (size_t i = 0; i < config->n_rewards; i++) {
        struct reward_config *const reward = &config->rewards[i];
        if (reward->timeout_s <= 0) {
            reward->timeout_s = strncmp(reward->source, "cmd:", 4) == 0 ? 30 : 5;
        }
        if (strcmp(reward->origins[on_error_index], "default") == 0) {
            reward->on_error = config->scoring.on_error;
        }
    }
}

/* The constant-length loss goes with unscaled advantages (grpo.md 7). */
static void derive_scale(const struct check *check)
{
    struct run_config *const config = check->config;
    if (config->grpo.loss_type != LOSS_DR_GRPO || config->grpo.scale_rewards == SCALE_NONE) {
        return;
    }
    if (!is_default(config, "grpo.scale_rewards")) {
        complain(check, "grpo.scale_rewards", "loss_type dr_grpo needs scale_rewards none");
    }
    config->grpo.scale_rewards = SCALE_NONE;
}

/* --- What must be given --- */

static bool is_empty(const struct setting *row, const void *base)
{
    const char *const at = (const char *)base + row->offset;
    struct text_list list = {0};
    const char *text = NULL;
    if (row->kind == SETTING_SOURCES || row->kind == SETTING_TEXTS) {
        memcpy(&list, at, sizeof list);
        return list.count == 0;
    }
    if (row->kind == SETTING_REWARDS) {
        return ((const struct run_config *)base)->n_rewards == 0;
    }
    memcpy(&text, at, sizeof(char *));
    return text == NULL || *text == '\0';
}

static void check_required(const struct check *check, enum config_use use)
{
    static const struct {
        unsigned flag;
        const char *command;
    } uses[] = {[CONFIG_RUN] = {SETTING_FOR_RUN, "hone run"},
                [CONFIG_SFT] = {SETTING_FOR_SFT, "hone sft"},
                [CONFIG_EVAL] = {SETTING_FOR_EVAL, "hone eval"},
                [CONFIG_ANY] = {0, ""}};
    for (size_t i = 0; i < n_settings; i++) {
        if ((settings[i].flags & uses[use].flag) != 0 && is_empty(&settings[i], check->config)) {
            report_add(check->report, check->where, 0, 0, "%s: %s needs it (%s)", settings[i].key,
                       uses[use].command, settings[i].help);
        }
    }
}

/* --- Words with a form --- */

static bool is_made_of(const char *text, const char *letters, size_t n_max)
{
    const size_t n = strlen(text);
    return n > 0 && n <= n_max && text[strspn(text, letters)] == '\0';
}

static void check_words(const struct check *check)
{
    static const char name_letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    static const char *const devices[] = {"auto",       "cpu",      "cpu-avx512bf16",
                                          "cpu-avx512", "cpu-avx2", "cpu-portable"};
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    const struct run_config *const config = check->config;
    bool is_device = false;
    bool is_level = false;
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        is_device |= strcmp(config->run.device, devices[i]) == 0;
    }
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        is_level |= strcmp(config->log.level, levels[i]) == 0;
    }
    if (!is_made_of(config->run.name, name_letters, 64) || config->run.name[0] == '.') {
        complain(check, "run.name", "want 1 to 64 of A-Z a-z 0-9 . _ -, no dot first");
    }
    if (!is_device) {
        complain(check, "run.device",
                 "want auto, cpu, cpu-avx512bf16, cpu-avx512, cpu-avx2 or cpu-portable");
    }
    if (!is_level) {
        complain(check, "log.level", "want error, warn, info or debug");
    }
}

static void check_reward(const struct check *check, size_t index)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    const struct reward_config *const reward = &check->config->rewards[index];
    const char *const place = place_of(check, check->config->origins, "rewards");
    const char *const name_place = place_of(check, reward->origins, "rewards[].name");
    const char *const source_place = place_of(check, reward->origins, "rewards[].source");
    if (!is_made_of(reward->name, letters, 32)) {
        report_add(check->report, *reward->name == '\0' ? place : name_place, 0, 0,
                   "rewards: reward %zu: name: want 1 to 32 of a-z 0-9 _", index + 1);
    }
    for (size_t i = 0; i < index; i++) {
        if (strcmp(check->config->rewards[i].name, reward->name) == 0) {
            report_add(check->report, name_place, 0, 0,
                       "rewards: the name \"%.32s\" is given twice", reward->name);
        }
    }
    const bool is_known =
        strncmp(reward->source, "builtin:", 8) == 0 || strncmp(reward->source, "cmd:", 4) == 0;
    if (!is_known) {
        report_add(check->report, *reward->source == '\0' ? place : source_place, 0, 0,
                   "rewards.%.32s.source: \"%.60s\": want builtin:NAME or cmd:PROGRAM",
                   reward->name, reward->source);
    }
}

static void check_rewards(const struct check *check)
{
    bool has_weight = false;
    for (size_t i = 0; i < check->config->n_rewards; i++) {
        check_reward(check, i);
        has_weight |= check->config->rewards[i].weight > 0 || check->config->rewards[i].weight < 0;
    }
    if (check->config->n_rewards > 0 && !has_weight) {
        complain(check, "rewards", "every weight is 0, so there is nothing to learn from");
    }
}

/* --- What must fit together --- */

static void check_run(const struct check *check)
{
    const struct run_config *const config = check->config;
    const bool is_filtered =
        config->rollout.top_p < 1 || config->rollout.top_k > 0 || config->rollout.min_p > 0;
    if (config->grpo.num_generations < 2) {
        complain(check, "grpo.num_generations",
                 "a group of 1 has no advantage to learn from; take 2 or more");
    }
    if (config->grpo.prompts_per_step % config->grpo.num_minibatches != 0) {
        report_add(check->report, place_of(check, config->origins, "grpo.num_minibatches"), 0, 0,
                   "grpo.num_minibatches: %zu does not divide grpo.prompts_per_step %zu",
                   config->grpo.num_minibatches, config->grpo.prompts_per_step);
    }
    if (is_filtered && config->grpo.num_iterations * config->grpo.num_minibatches > 1) {
        complain(check, "grpo.num_iterations",
                 "with top_p, top_k or min_p only one update a step is defined: what they keep "
                 "changes with the weights");
    }
    if (config->rollout.temperature <= 0) {
        complain(check, "rollout.temperature",
                 "0 draws the same completion every time; a run needs more than 0");
    }
}

enum status config_check(struct run_config *config, enum config_use use, const char *where,
                         struct config_report *report)
{
    const struct check check = {.config = config, .report = report, .where = where};
    TRY(derive_name(config, where));
    derive_rewards(config);
    derive_scale(&check);
    check_required(&check, use);
    check_words(&check);
    check_rewards(&check);
    if (use == CONFIG_RUN) {
        check_run(&check);
    }
    return STATUS_OK;
}
