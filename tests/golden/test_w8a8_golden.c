/* Owns two foundations of the W8A8 comparisons: a checkpoint's scales that are no powers of two
 * come back from its weights, and latent attention gives the same logits absorbed and written down.
 */
#include "base/memory.h"
#include "kernels/backend.h"
#include "model/model_config.h"
#include "model/policy.h"
#include "model/safetensors.h"
#include "model/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/support.h"

#define ROWS_MAX ((size_t)128)
#define SEQUENCES_MAX ((size_t)8)

static void fixture_dir(const char *fixture, char *dir, size_t room)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "golden/%s", fixture);
    if (!support_shared_path(name, dir, room)) {
        skip();
    }
}

struct tokens {
    int32_t ids[ROWS_MAX];
    size_t offsets[SEQUENCES_MAX + 1];
    size_t n_rows, n_sequences;
};

static void read_tokens(const char *dir, struct tokens *out)
{
    char path[544];
    struct safetensors *io;

    (void)snprintf(path, sizeof(path), "%s/io.safetensors", dir);
    assert_ok(safetensors_open(path, &io));

    const struct tensor *ids = safetensors_find(io, "input_ids");

    assert_true(ids->n_elements <= ROWS_MAX && ids->shape[0] <= SEQUENCES_MAX);
    assert_ok(tensor_read_integers(ids, out->ids));
    out->n_rows = ids->n_elements;
    out->n_sequences = ids->shape[0];
    for (size_t i = 0; i <= out->n_sequences; i++) {
        out->offsets[i] = i * ids->shape[1];
    }
    safetensors_close(io);
}

/* Logits (rows, V) of the model in dir; the caller frees them. */
static float *compute_logits(struct backend *backend, const char *dir, bool is_expanded, size_t *n)
{
    struct tokens tokens;
    struct policy *policy;
    float logp, *logits;
    const int32_t target_row = 0, target = 0;

    read_tokens(dir, &tokens);

    const struct policy_options options = {
        .max_rows = tokens.n_rows, .is_trainable = true, .is_expanded = is_expanded};
    const struct policy_batch batch = {.tokens = tokens.ids,
                                       .n_rows = tokens.n_rows,
                                       .offsets = tokens.offsets,
                                       .n_sequences = tokens.n_sequences,
                                       .target_rows = &target_row,
                                       .targets = &target,
                                       .n_targets = 1,
                                       .sampling = {.temperature = 1, .top_p = 1}};

    assert_ok(policy_load(backend, dir, &options, &policy));
    assert_true((strstr(policy_numerics(policy), "/expanded") != NULL) == is_expanded);
    assert_ok(policy_forward(policy, &batch, &logp, NULL));
    *n = tokens.n_rows * policy_config(policy)->vocab_size;
    assert_ok(memory_alloc(*n, sizeof(float), &logits));
    assert_ok(policy_read_trace(policy, &(struct policy_trace){.logits = logits}));
    if (is_expanded) {
        const float g = 1;

        assert_status(policy_backward(policy, &g, NULL), STATUS_UNSUPPORTED, "no backward pass");
    }
    policy_destroy(policy);
    return logits;
}

/* state is the fixture's name. */
static void written_down_and_absorbed_attention_agree(void **state)
{
    const struct tolerance tolerance = {2e-5, 1e-4};
    char dir[512];
    struct backend *backend;
    size_t n;

    fixture_dir(*state, dir, sizeof(dir));
    assert_ok(backend_open("cpu", 2, &backend));

    float *absorbed = compute_logits(backend, dir, false, &n);
    float *expanded = compute_logits(backend, dir, true, &n);

    support_compare(*state, expanded, absorbed, n, tolerance);
    assert_memory_not_equal(expanded, absorbed, n * sizeof(float));
    memory_free(absorbed);
    memory_free(expanded);
    backend_close(backend);
}

/* Packs a weight (n_out, n_in); the caller frees it. */
static float *pack_weight(struct backend *backend, const struct tensor *codes, const float *values,
                          struct pack_args args)
{
    const size_t n_out = codes->shape[0], n_in = codes->shape[1];
    float *packed;

    assert_ok(memory_alloc(packed_words(args.precision, n_in, n_out), sizeof(float), &packed));
    args.src = values;
    args.src_stride = n_in;
    args.n_in = n_in;
    args.n_out = n_out;
    args.dst = packed;
    assert_ok(backend->ops->pack(backend, &args));
    return packed;
}

/* Values that are codes times such a scale stay as they are, and the scales are the stored ones;
 * returns how many bytes power-of-two scales change. */
static size_t check_weight(struct backend *backend, const struct safetensors *file,
                           const struct tensor *codes, const float *values)
{
    const size_t n_in = codes->shape[1], n_out = codes->shape[0];
    const size_t bytes = packed_floats(n_in, n_out) * sizeof(float);
    const size_t panel = packed_words(PRECISION_FP8, n_in, 1);
    char name[160];

    (void)snprintf(name, sizeof(name), "%s_scale_inv", codes->name);

    const struct tensor *scales = safetensors_find(file, name);
    struct pack_args rounded = {.rounding = PRECISION_FP8, .has_float_scales = true};
    float *exact = pack_weight(backend, codes, values, (struct pack_args){.src = NULL});
    float *kept = pack_weight(backend, codes, values, rounded);

    rounded.has_float_scales = false;

    float *moved = pack_weight(backend, codes, values, rounded);
    float *coded =
        pack_weight(backend, codes, values,
                    (struct pack_args){.precision = PRECISION_FP8, .has_float_scales = true});
    size_t n_changed = 0;

    assert_memory_equal(kept, exact, bytes);
    for (size_t i = 0; i < packed_floats(n_in, n_out); i++) {
        n_changed += moved[i] != exact[i];
    }
    for (size_t i = 0; i < (n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS; i++) {
        const unsigned char *row = (const unsigned char *)scales->data +
                                   i * PANEL_COLUMNS / FP8_BLOCK * scales->shape[1] * sizeof(float);

        assert_memory_equal(coded + i * panel, row, scales->shape[1] * sizeof(float));
    }
    memory_free(exact);
    memory_free(kept);
    memory_free(moved);
    memory_free(coded);
    return n_changed;
}

static void a_checkpoints_own_scales_come_back_from_its_weights(void **state)
{
    char dir[512];
    struct backend *backend;
    struct model_config config;
    struct weight_table *table;
    struct safetensors *file;
    size_t n_weights = 0, n_changed = 0;
    float *data;

    (void)state;
    fixture_dir("fp8", dir, sizeof(dir));
    assert_ok(backend_open("cpu", 2, &backend));
    assert_ok(model_config_load(dir, &config));
    assert_ok(weight_table_create(&config, &table));
    assert_ok(memory_alloc(table->n_floats, sizeof(float), &data));
    assert_ok(weights_load(dir, table, data));
    assert_ok(safetensors_open_folder(dir, &file));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct tensor *tensor = safetensors_at(file, i);

        if (tensor->dtype == TENSOR_F8_E4M3) {
            n_changed += check_weight(backend, file, tensor,
                                      data + weight_table_find(table, tensor->name)->offset);
            n_weights++;
        }
    }
    assert_true(n_weights > 20);
    assert_true(n_changed > 1000);
    safetensors_close(file);
    memory_free(data);
    weight_table_destroy(table);
    backend_close(backend);
}

#define FIXTURE(name)                                                                              \
    {                                                                                              \
        "written down and absorbed: " name, written_down_and_absorbed_attention_agree, NULL, NULL, \
            (char[])                                                                               \
        {                                                                                          \
            name                                                                                   \
        }                                                                                          \
    }

static const struct CMUnitTest tests[] = {
    FIXTURE("v3-core"),
    FIXTURE("v3-yarn"),
    FIXTURE("v3-fused"),
    FIXTURE("v2-lite"),
    FIXTURE("v2"),
    FIXTURE("moonlight"),
    FIXTURE("kimi-yarn-step"),
    FIXTURE("kimi-yarn-degenerate"),
    FIXTURE("attention-bias"),
    FIXTURE("rope-half"),
    FIXTURE("tied-head"),
    FIXTURE("no-norm-topk"),
    FIXTURE("options"),
    FIXTURE("negative-bias"),
    FIXTURE("mtp1"),
    FIXTURE("mtp1-prenorm"),
    FIXTURE("mtp2"),
    FIXTURE("dsa"),
    FIXTURE("fp8"),
    FIXTURE("fp8-ue8m0"),
    FIXTURE("fp8-e8m0"),
    cmocka_unit_test(a_checkpoints_own_scales_come_back_from_its_weights),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
