#include "cli/bench_report.h"

#include "base/json.h"
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static struct json *text_or_null(const char *text)
{
    return text == NULL ? json_null_create() : json_from_text(text, strlen(text));
}

static double share_of(double value, double limit)
{
    return limit > 0 ? value / limit : 0;
}

/* Prints the object, or gives it back when it could not be filled. */
static enum status finish(struct json *object, enum status status)
{
    if (status != STATUS_OK) {
        json_destroy(object);
        return status;
    }
    return cli_print_json(object);
}

/* The keys that every line has. */
static enum status put_common(struct json *object, const char *preset, const char *dtype,
                              size_t batch, double tokens_per_s, double share)
{
    TRY(json_put(object, "preset", text_or_null(preset)));
    TRY(json_put(object, "dtype", text_or_null(dtype)));
    TRY(json_put(object, "batch", batch == 0 ? json_null_create() : json_from_int((int64_t)batch)));
    TRY(json_put(object, "tokens_per_s",
                 tokens_per_s > 0 ? json_from_number(tokens_per_s) : json_null_create()));
    return json_put(object, "share_of_peak",
                    share > 0 ? json_from_number(share) : json_null_create());
}

/* --- A model's rate --- */

static enum status fill_rate(struct json *object, const struct bench_rate *rate)
{
    const double flops = rate->tokens_per_s * rate->flop_per_token;
    const double bytes = rate->tokens_per_s * rate->byte_per_token;

    TRY(json_put(object, "bench", text_or_null(rate->bench)));
    TRY(put_common(object, rate->preset, rate->dtype, rate->batch, rate->tokens_per_s,
                   share_of(flops, rate->peak)));
    TRY(json_put(object, "context", json_from_int((int64_t)rate->context)));
    TRY(json_put(object, "best", json_from_number(rate->best)));
    TRY(json_put(object, "flop_per_token", json_from_number(rate->flop_per_token)));
    TRY(json_put(object, "gflop_per_s", json_from_number(1e-9 * flops)));
    TRY(json_put(object, "peak_gflop_per_s", json_from_number(1e-9 * rate->peak)));
    TRY(json_put(object, "gb_per_s", json_from_number(1e-9 * bytes)));
    return json_put(object, "share_of_memory", json_from_number(share_of(bytes, rate->memory)));
}

void bench_report_heading(void)
{
    (void)printf("%-34s %10s %10s %6s %8s %6s %12s\n", "", "tokens/s", "GFLOP/s", "peak", "GB/s",
                 "memory", "best");
}

enum status bench_report_rate(const struct bench_rate *rate, bool is_json)
{
    const double flops = rate->tokens_per_s * rate->flop_per_token;
    const double bytes = rate->tokens_per_s * rate->byte_per_token;
    char name[96];

    if (is_json) {
        struct json *object = json_object_create();
        return finish(object, fill_rate(object, rate));
    }
    (void)snprintf(name, sizeof(name), "%s %s %s, %zu x %zu", rate->bench, rate->preset,
                   rate->dtype, rate->batch, rate->context);
    (void)printf("%-34s %10.0f %10.1f %4.0f %% %8.1f %4.0f %% %12.0f\n", name, rate->tokens_per_s,
                 1e-9 * flops, 100 * share_of(flops, rate->peak), 1e-9 * bytes,
                 100 * share_of(bytes, rate->memory), rate->best);
    (void)fflush(stdout);
    return STATUS_OK;
}

/* --- With and without drafts --- */

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static enum status put_drafts(struct json *object, const struct bench_speculation *r)
{
    TRY(json_put(object, "acceptance",
                 json_from_number(ratio((double)r->n_right, (double)r->n_fed))));
    TRY(json_put(object, "tokens_per_turn",
                 json_from_number(ratio((double)r->n_turn_tokens, (double)r->n_turns))));
    TRY(json_put(object, "drafts_max", json_from_int((int64_t)r->n_drafts)));
    TRY(json_put(object, "drafts", json_from_int((int64_t)r->n_fed)));
    return json_put(object, "drafts_right", json_from_int((int64_t)r->n_right));
}

static enum status fill_speculation(struct json *object, const struct bench_speculation *r)
{
    const double speedup = ratio(r->tokens_per_s, r->plain_tokens_per_s);
    const double total = ratio(r->all_tokens_per_s, r->plain_all_tokens_per_s);

    TRY(json_put(object, "bench", text_or_null("speculate")));
    TRY(put_common(object, r->preset, r->dtype, r->batch, r->tokens_per_s,
                   share_of(r->tokens_per_s * r->flop_per_token, r->peak)));
    TRY(json_put(object, "plain_tokens_per_s", json_from_number(r->plain_tokens_per_s)));
    TRY(json_put(object, "speedup", json_from_number(speedup)));
    TRY(json_put(object, "speedup_with_prompts", json_from_number(total)));
    TRY(put_drafts(object, r));
    TRY(json_put(object, "prompts", json_from_int((int64_t)r->n_rows)));
    TRY(json_put(object, "tokens", json_from_int((int64_t)r->n_tokens)));
    TRY(json_put(object, "context", json_from_number(r->context)));
    return json_put(object, "peak_gflop_per_s", json_from_number(1e-9 * r->peak));
}

enum status bench_report_speculation(const struct bench_speculation *r, bool is_json)
{
    if (is_json) {
        struct json *object = json_object_create();
        return finish(object, fill_speculation(object, r));
    }
    (void)printf("decode %s %s, batch %zu: %.0f tokens/s without drafts, %.0f with up to %zu: "
                 "%.2f times (prompts included %.2f)\n"
                 "  %.1f %% of %zu drafts right, %.2f tokens a turn; %zu prompts, %zu tokens, on "
                 "both sides the same\n",
                 r->preset, r->dtype, r->batch, r->plain_tokens_per_s, r->tokens_per_s, r->n_drafts,
                 ratio(r->tokens_per_s, r->plain_tokens_per_s),
                 ratio(r->all_tokens_per_s, r->plain_all_tokens_per_s),
                 100 * ratio((double)r->n_right, (double)r->n_fed), r->n_fed,
                 ratio((double)r->n_turn_tokens, (double)r->n_turns), r->n_rows, r->n_tokens);
    (void)fflush(stdout);
    return STATUS_OK;
}

/* --- Other results --- */

/* A rate under its unit, for those who look for one number. */
static enum status put_in_unit(struct json *object, const struct bench_result *result)
{
    static const struct {
        const char *unit, *key;
    } keys[] = {{"GB/s", "gb_per_s"}, {"MB/s", "mb_per_s"}, {"GFLOP/s", "gflop_per_s"}};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strcmp(result->unit, keys[i].unit) == 0) {
            return json_put(object, keys[i].key, json_from_number(result->value));
        }
    }
    return STATUS_OK;
}

/* "gemm" of "gemm 8 x 1024 x 1024". */
static enum status fill_result(struct json *object, const struct bench_result *result)
{
    const bool is_product = result->n_rows > 0;

    TRY(json_put(object, "bench", json_from_text(result->name, strcspn(result->name, " ,"))));
    TRY(put_common(object, NULL, result->dtype, result->n_rows, result->tokens_per_s,
                   is_product ? result->share : 0));
    TRY(put_in_unit(object, result));
    TRY(json_put(object, "name", text_or_null(result->name)));
    TRY(json_put(object, "unit", text_or_null(result->unit)));
    TRY(json_put(object, "value", json_from_number(result->value)));
    TRY(json_put(object, "best", json_from_number(result->best)));
    TRY(json_put(object, "limit", json_from_number(result->limit)));
    return json_put(object, "share", json_from_number(result->share));
}

enum status bench_report_result(const struct bench_result *result, bool is_json)
{
    char share[16] = "";

    if (is_json) {
        struct json *object = json_object_create();
        return finish(object, fill_result(object, result));
    }
    if (result->limit > 0) {
        (void)snprintf(share, sizeof(share), "%5.1f %%", 100 * result->share);
    }
    (void)printf("%-36s %12.5g %-9s %8s   best %.5g\n", result->name, result->value, result->unit,
                 share, result->best);
    (void)fflush(stdout);
    return STATUS_OK;
}
