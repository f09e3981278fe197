/* The table of parameters of every family, and Mixtral's experts in both styles of files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

static void the_table_of_every_family_counts_its_parameters(void **state)
{
    static const char *const names[] = {"v2",    "tied",      "llama",  "qwen2",
                                        "qwen3", "qwen3-moe", "mixtral"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct model_config config;
        struct weight_table *table;
        size_t n = 0;

        assert_ok(model_config_preset(names[i], &config));
        config.has_o_bias = config.has_qkv_bias = i % 2 == 1 && config.n_kv_heads > 0;
        assert_ok(weight_table_create(&config, &table));
        for (size_t j = 0; j < table->n_rows; j++) {
            n += table->rows[j].count;
        }
        assert_int_equal(n, model_config_parameters(&config));
        weight_table_destroy(table);
    }
}

#define N_EXPERTS ((size_t)4)
#define WIDTH ((size_t)24)
#define D ((size_t)32)

/* A file as newest transformers write it: mlp.experts.gate_up_proj, mlp.experts.down_proj and
 * mlp.gate.weight. */
struct fused_file {
    float gate_up[2][N_EXPERTS * 2 * WIDTH * D], down[2][N_EXPERTS * D * WIDTH]; /* by layer */
    char names[6][96];
    struct tensor tensors[64];
    size_t n, n_names;
};

/* Puts the experts' values of one part behind `first` into their matrices of a fused tensor. */
static void fuse(const struct weight_table *table, const float *data, const char *part,
                 size_t layer, float *out, size_t first, size_t stride)
{
    for (size_t j = 0; j < N_EXPERTS; j++) {
        char name[96];
        const struct weight_row *row;

        (void)snprintf(name, sizeof(name),
                       "model.layers.%zu.block_sparse_moe.experts.%zu.%s.weight", layer, j, part);
        row = weight_table_find(table, name);
        assert_non_null(row);
        memcpy(out + j * stride + first, data + row->offset, row->count * sizeof(float));
    }
}

/* A name of the file's own: "model.layers.LAYER.mlp.REST". */
static const char *new_name(struct fused_file *file, size_t layer, const char *rest)
{
    char *name = file->names[file->n_names++];

    (void)snprintf(name, sizeof(file->names[0]), "model.layers.%zu.mlp.%s", layer, rest);
    return name;
}

static void add_plain(struct fused_file *file, const struct weight_row *row, const float *data)
{
    const bool is_router = strstr(row->name, "block_sparse_moe.gate") != NULL;
    const size_t layer = strstr(row->name, "layers.1.") != NULL ? 1 : 0;

    file->tensors[file->n++] =
        (struct tensor){.name = is_router ? new_name(file, layer, "gate.weight") : row->name,
                        .dtype = TENSOR_F32,
                        .n_dims = row->n_dims,
                        .shape = {row->shape[0], row->shape[1]},
                        .n_elements = row->count,
                        .data = data + row->offset};
}

static void add_fused(struct fused_file *file, size_t layer, const struct weight_table *table,
                      const float *data)
{
    float *gate_up = file->gate_up[layer], *down = file->down[layer];

    fuse(table, data, "w1", layer, gate_up, 0, 2 * WIDTH * D);
    fuse(table, data, "w3", layer, gate_up, WIDTH * D, 2 * WIDTH * D);
    fuse(table, data, "w2", layer, down, 0, D * WIDTH);
    file->tensors[file->n++] =
        (struct tensor){.name = new_name(file, layer, "experts.gate_up_proj"),
                        .dtype = TENSOR_F32,
                        .n_dims = 3,
                        .shape = {N_EXPERTS, 2 * WIDTH, D},
                        .n_elements = N_EXPERTS * 2 * WIDTH * D,
                        .data = gate_up};
    file->tensors[file->n++] = (struct tensor){.name = new_name(file, layer, "experts.down_proj"),
                                               .dtype = TENSOR_F32,
                                               .n_dims = 3,
                                               .shape = {N_EXPERTS, D, WIDTH},
                                               .n_elements = N_EXPERTS * D * WIDTH,
                                               .data = down};
}

static void fused_file_write(const char *dir, const struct weight_table *table, const float *data)
{
    static struct fused_file file;
    char *path;

    for (size_t i = 0; i < table->n_rows; i++) {
        if (strstr(table->rows[i].name, ".experts.") == NULL) {
            add_plain(&file, &table->rows[i], data);
        }
    }
    add_fused(&file, 0, table, data);
    add_fused(&file, 1, table, data);
    assert_ok(path_join(dir, "model.safetensors", &path));
    assert_ok(safetensors_write(path, file.tensors, file.n, false));
    memory_free(path);
}

static void mixtral_in_the_newest_style_loads_the_same_bits(void **state)
{
    struct model_config config;
    struct weight_table *table;
    float *data, *loaded;
    char dir[256];

    (void)state;
    support_temp_dir(dir, sizeof(dir));
    assert_ok(model_config_preset("mixtral", &config));
    assert_ok(weight_table_create(&config, &table));
    assert_ok(memory_alloc(table->n_floats, sizeof(float), &data));
    assert_ok(memory_alloc(table->n_floats, sizeof(float), &loaded));
    weights_init(&config, table, 3, data);
    fused_file_write(dir, table, data);
    assert_ok(weights_load(dir, table, loaded));
    assert_memory_equal(data, loaded, table->n_floats * sizeof(float));
    memory_free(data);
    memory_free(loaded);
    weight_table_destroy(table);
    support_temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_every_family_counts_its_parameters),
        cmocka_unit_test(mixtral_in_the_newest_style_loads_the_same_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
