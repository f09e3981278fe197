/* Owns the tolerances, and the comparison of one tensor. */
#include "model/model_check_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* How far a value may be off: absolute + relative |reference| + of_max * largest |reference|. */
struct tolerance {
    const char *kind;
    double absolute, relative, of_max;
};
static const struct tolerance tolerances[] = {
    {"logits", 2e-5, 1e-4, 0},
    {"loss", 1e-5, 0, 0},
    {"hidden", 2e-5, 1e-4, 0},
    {"router_indices", 0, 0, 0},
    {"router_weights", 2e-5, 1e-4, 0},
    {"mtp_logits", 2e-5, 1e-4, 0},
    {"mtp_hidden", 2e-5, 1e-4, 0},
    {"mtp_ce", 1e-5, 0, 0},
    {"mtp_loss", 1e-5, 0, 0},
    {"grad", 1e-9, 0, 1e-4},
    {"grad_detached", 1e-9, 0, 1e-4},
    {"index_scores", 2e-5, 1e-4, 0},
    {"index_topk", 0, 0, 0},
    {"indexer_loss", 1e-5, 1e-5, 0},
    {"grad_indexer_dense", 1e-9, 0, 1e-4},
    {"grad_indexer_sparse", 1e-9, 0, 1e-4},
    {"logits_w8a8", 2e-4, 2e-4, 0},
    {"codes_w8a8", 0, 0, 0},
    {"scales_w8a8", 0, 0, 0},
    {"logits_w8a8_absorbed", 2e-4, 2e-4, 0},
    {"codes_w8a8_absorbed", 0, 0, 0},
    {"scales_w8a8_absorbed", 0, 0, 0},
    {"logits_w8a8_requantised", 2e-4, 2e-4, 0},
    {"codes_w8a8_requantised", 0, 0, 0},
    {"scales_w8a8_requantised", 0, 0, 0},
};

static const struct tolerance *find_tolerance(const char *name)
{
    const size_t n = strcspn(name, ".");

    for (size_t i = 0; i < sizeof(tolerances) / sizeof(tolerances[0]); i++) {
        if (strlen(tolerances[i].kind) == n && memcmp(tolerances[i].kind, name, n) == 0) {
            return &tolerances[i];
        }
    }
    return NULL;
}

bool model_check_kind(const char *name, const char **kind, const char **rest)
{
    const struct tolerance *tolerance = find_tolerance(name);
    const char *dot = strchr(name, '.');

    *kind = tolerance == NULL ? NULL : tolerance->kind;
    *rest = dot == NULL ? "" : dot + 1;
    return tolerance != NULL;
}

static struct model_check_line *line_of(struct model_check *check, const char *kind)
{
    for (size_t i = 0; i < check->n_lines; i++) {
        if (strcmp(check->lines[i].kind, kind) == 0) {
            return &check->lines[i];
        }
    }
    check->lines[check->n_lines] = (struct model_check_line){.kind = kind, .share = -1};
    check->n_lines++;
    return &check->lines[check->n_lines - 1];
}

/* Keeps the element if it is worse than what the line has. */
static void note(struct model_check_line *line, const struct tensor *tensor, size_t index,
                 double got, double want, double allowed)
{
    const double off = fabs(got - want);
    const double share = off == 0                       ? 0
                         : isfinite(off) && allowed > 0 ? off / allowed
                                                        : (double)INFINITY;

    if (share <= line->share) {
        return;
    }
    line->share = share;
    line->got = got;
    line->want = want;
    (void)snprintf(line->where, sizeof(line->where), "%s[%zu]", tensor->name, index);
}

static void compare_floats(const struct tolerance *tolerance, const struct tensor *tensor,
                           const float *want, const float *got, struct model_check_line *line)
{
    double largest = 0;

    for (size_t i = 0; i < tensor->n_elements; i++) {
        largest = fmax(largest, fabs((double)want[i]));
    }
    for (size_t i = 0; i < tensor->n_elements; i++) {
        const double reference = (double)want[i];
        double allowed = tolerance->absolute + tolerance->relative * fabs(reference);

        if (tolerance->of_max > 0 && largest > 0) {
            allowed = tolerance->of_max * largest; /* the absolute part is for zeros only */
        }
        note(line, tensor, i, (double)got[i], reference, allowed);
    }
}

/* Integers, or the bytes of codes. */
static enum status read_integers(const struct tensor *tensor, int32_t *out)
{
    if (tensor->dtype != TENSOR_U8) {
        return tensor_read_integers(tensor, out);
    }
    for (size_t i = 0; i < tensor->n_elements; i++) {
        out[i] = ((const uint8_t *)tensor->data)[i];
    }
    return STATUS_OK;
}

static enum status compare_values(const struct tolerance *tolerance, const struct tensor *tensor,
                                  const struct computed *computed, void *want,
                                  struct model_check_line *line)
{
    if (computed->integers == NULL) {
        TRY(tensor_read_floats(tensor, want));
        compare_floats(tolerance, tensor, want, computed->floats, line);
        return STATUS_OK;
    }
    TRY(read_integers(tensor, want));
    for (size_t i = 0; i < tensor->n_elements; i++) {
        note(line, tensor, i, (double)computed->integers[i], (double)((int32_t *)want)[i], 0);
    }
    return STATUS_OK;
}

enum status model_check_compare(struct model_comparison *comparison, const struct tensor *tensor,
                                const struct computed *computed)
{
    const struct tolerance *tolerance = find_tolerance(tensor->name);
    struct tensor *result = &comparison->results[comparison->n_results];
    struct model_check_line *line;
    void *want;

    if (computed->n != tensor->n_elements) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s has %zu values, the model gives %zu",
                          safetensors_path(comparison->io), tensor->name, tensor->n_elements,
                          computed->n);
    }
    line = line_of(comparison->check, tolerance->kind);
    line->n_tensors++;
    TRY(arena_alloc(comparison->arena, tensor->n_elements, sizeof(int32_t), &want));
    TRY(compare_values(tolerance, tensor, computed, want, line));
    *result = *tensor;
    result->dtype = computed->integers != NULL ? TENSOR_I32 : TENSOR_F32;
    result->data = computed->integers != NULL ? (const void *)computed->integers : computed->floats;
    comparison->n_results++;
    return STATUS_OK;
}
