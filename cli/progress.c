#include "cli/progress.h"

#include "cli/chart.h"
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A report's number under its name: the one table behind pairs and JSON. */
struct number {
    const char *name;
    double value;
    bool is_whole;
};
#define NUMBERS_MAX 20u

static size_t step_numbers(const struct step_report *r, struct number *out)
{
    const struct number numbers[] = {
        {"step", (double)r->step, true},
        {"max_steps", (double)r->max_steps, true},
        {"reward", r->reward, false},
        {"length", r->length, false},
        {"kl", r->kl, false},
        {"entropy", r->entropy, false},
        {"mismatch", r->mismatch, false},
        {"loss", r->loss, false},
        {"grad_norm", r->grad_norm, false},
        {"lr", r->lr, false},
        {"tokens_per_s", r->tokens_per_s, false},
        {"share_of_peak", r->share_of_peak, false},
        {"generate_s", r->generate_s, false},
        {"train_s", r->train_s, false},
        {"mtp_acceptance", r->mtp_acceptance, false},
        {"max_violation", r->max_violation, false},
        {"eta_s", r->eta_s, false},
    };
    memcpy(out, numbers, sizeof numbers);
    return sizeof numbers / sizeof numbers[0];
}

static size_t sft_numbers(const struct sft_report *r, struct number *out)
{
    const struct number numbers[] = {
        {"step", (double)r->step, true},
        {"max_steps", (double)r->max_steps, true},
        {"loss", r->loss, false},
        {"mtp_loss", r->mtp_loss, false},
        {"grad_norm", r->grad_norm, false},
        {"lr", r->lr, false},
        {"tokens_per_s", r->tokens_per_s, false},
        {"share_of_peak", r->share_of_peak, false},
        {"max_violation", r->max_violation, false},
        {"balance_loss", r->balance_loss, false},
        {"indexer_loss", r->indexer_loss, false},
    };
    memcpy(out, numbers, sizeof numbers);
    return sizeof numbers / sizeof numbers[0];
}

/* "step=3 reward=0.5"; a number that does not exist (NaN) is left out. */
static const char *print_pairs(const struct number *numbers, size_t n, char *out, size_t room)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n && used < room; i++) {
        if (isnan(numbers[i].value)) {
            continue;
        }
        used += (size_t)snprintf(out + used, room - used,
                                 numbers[i].is_whole ? "%s%s=%.0f" : "%s%s=%.6g",
                                 used > 0 ? " " : "", numbers[i].name, numbers[i].value);
    }
    return out;
}

static struct json *print_json(const struct number *numbers, size_t n)
{
    struct json *object = json_object_create();
    for (size_t i = 0; i < n && object != NULL; i++) {
        struct json *const value = numbers[i].is_whole ? json_from_int((int64_t)numbers[i].value)
                                                       : json_from_number(numbers[i].value);
        if (json_put(object, numbers[i].name, value) != STATUS_OK) {
            json_destroy(object);
            return NULL;
        }
    }
    return object;
}

const char *progress_step_pairs(const struct step_report *report, char *out, size_t room)
{
    struct number numbers[NUMBERS_MAX];
    return print_pairs(numbers, step_numbers(report, numbers), out, room);
}

const char *progress_sft_pairs(const struct sft_report *report, char *out, size_t room)
{
    struct number numbers[NUMBERS_MAX];
    return print_pairs(numbers, sft_numbers(report, numbers), out, room);
}

struct json *progress_step_json(const struct step_report *report)
{
    struct number numbers[NUMBERS_MAX];
    return print_json(numbers, step_numbers(report, numbers));
}

struct json *progress_sft_json(const struct sft_report *report)
{
    struct number numbers[NUMBERS_MAX];
    return print_json(numbers, sft_numbers(report, numbers));
}

const char *progress_step_text(const struct progress *progress, const struct step_report *report,
                               char *out, size_t room)
{
    char spark[3 * CHART_SPARK_MAX + 1];
    char speed[16];
    char eta[16];
    char kl[32] = "";
    const double total_s = report->generate_s + report->train_s;
    const double percent = total_s > 0 ? 100 / total_s : 0;
    if (report->kl > 0 || report->kl < 0) {
        (void)snprintf(kl, sizeof kl, "  kl %.3g", report->kl);
    }
    (void)snprintf(out, room,
                   "step %zu/%zu  reward %.2f %s%s  len %.1f  mismatch %.3g  %s tok/s  %.0f%% of "
                   "peak  gen %.0f%% train %.0f%%  eta %s",
                   report->step, report->max_steps, report->reward,
                   chart_spark(progress->rewards, progress->n_rewards, spark, sizeof spark), kl,
                   report->length, report->mismatch,
                   cli_count_text(report->tokens_per_s, speed, sizeof speed),
                   100 * report->share_of_peak, percent * report->generate_s,
                   percent * report->train_s, cli_seconds_text(report->eta_s, eta, sizeof eta));
    return out;
}

const char *progress_sft_text(const struct sft_report *report, char *out, size_t room)
{
    char speed[16];
    char mtp[32] = "";
    if (!isnan(report->mtp_loss)) {
        (void)snprintf(mtp, sizeof mtp, "  mtp %.4f", report->mtp_loss);
    }
    (void)snprintf(out, room, "step %zu/%zu  loss %.4f%s  lr %.2g  %s tok/s  %.0f%% of peak",
                   report->step, report->max_steps, report->loss, mtp, report->lr,
                   cli_count_text(report->tokens_per_s, speed, sizeof speed),
                   100 * report->share_of_peak);
    return out;
}

void progress_begin(struct progress *progress, bool is_json, size_t every_steps)
{
    *progress = (struct progress){.form = PROGRESS_PIPE, .every_steps = every_steps};
    if (is_json) {
        progress->form = PROGRESS_JSON;
    } else if (cli_is_terminal(stdout)) {
        progress->form = PROGRESS_TERMINAL;
    }
}

static bool is_due(const struct progress *progress, size_t step, size_t max_steps)
{
    return step == max_steps || progress->every_steps <= 1 || step % progress->every_steps == 0;
}

/* Bytes of text that fill at most `columns` columns; a UTF-8 character counts as one. */
static size_t fitting_bytes(const char *text, size_t columns)
{
    size_t n = 0;
    for (size_t n_columns = 0; text[n] != '\0'; n++) {
        n_columns += ((unsigned char)text[n] & 0xc0u) != 0x80u;
        if (n_columns > columns) {
            break;
        }
    }
    return n;
}

/* Writes a line in place of the last one; it may not wrap, or it could not be rewritten. */
static void rewrite(struct progress *progress, const char *text)
{
    const size_t n = fitting_bytes(text, cli_columns() - 1);
    (void)printf("\r\033[K%.*s", (int)n, text);
    (void)fflush(stdout);
    progress->has_line = true;
}

/* A progress line is a courtesy: without memory for it, training goes on without. */
static void print_json_line(struct json *value)
{
    if (value != NULL && cli_print_json(value) != STATUS_OK) {
        (void)fprintf(stderr, "hone: %s\n", status_message());
    }
}

static void remember_reward(struct progress *progress, double reward)
{
    if (progress->n_rewards == PROGRESS_HISTORY) {
        progress->n_rewards--;
        memmove(progress->rewards, progress->rewards + 1,
                progress->n_rewards * sizeof progress->rewards[0]);
    }
    progress->rewards[progress->n_rewards++] = reward;
}

static void print_line(const char *text)
{
    (void)puts(text);
    (void)fflush(stdout);
}

void progress_step(void *context, const struct step_report *report)
{
    struct progress *const progress = context;
    char text[1024];
    remember_reward(progress, report->reward);
    if (!is_due(progress, report->step, report->max_steps)) {
        return;
    }
    if (progress->form == PROGRESS_JSON) {
        print_json_line(progress_step_json(report));
    } else if (progress->form == PROGRESS_TERMINAL) {
        rewrite(progress, progress_step_text(progress, report, text, sizeof text));
    } else {
        print_line(progress_step_pairs(report, text, sizeof text));
    }
}

void progress_sft(void *context, const struct sft_report *report)
{
    struct progress *const progress = context;
    char text[1024];
    if (!is_due(progress, report->step, report->max_steps)) {
        return;
    }
    if (progress->form == PROGRESS_JSON) {
        print_json_line(progress_sft_json(report));
    } else if (progress->form == PROGRESS_TERMINAL) {
        rewrite(progress, progress_sft_text(report, text, sizeof text));
    } else {
        print_line(progress_sft_pairs(report, text, sizeof text));
    }
}

void progress_end(struct progress *progress)
{
    if (progress->has_line) {
        (void)puts("");
        (void)fflush(stdout);
        progress->has_line = false;
    }
    clearerr(stdout); /* lines that nobody could take are no failure of the training */
}
