/* A GGUF file: container, then as a model: its config, its weights if they are few, its tokenizer.
 */
#include "base/memory.h"
#include "model/gguf.h"
#include "model/gguf_import.h"
#include "tests/fuzz/harness.h"

#include <math.h>

#define FLOATS_MAX ((size_t)1 << 20)

static void read_tensor(const struct gguf_tensor *tensor)
{
    const size_t row = tensor->n_dims == 0 ? 1 : tensor->shape[tensor->n_dims - 1];
    float *values = NULL;

    if (tensor->n_elements == 0 || tensor->n_elements > FLOATS_MAX || row == 0) {
        return;
    }
    fuzz_check(memory_alloc(tensor->n_elements, sizeof(*values), &values) == STATUS_OK, "memory");
    gguf_read_floats(tensor, 0, tensor->n_elements, values);
    gguf_read_floats(tensor, tensor->n_elements - row, row, values);
    memory_free(values);
}

static void read_container(const struct gguf *file)
{
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);

        fuzz_check(value->type < GGUF_TYPES && value->item < GGUF_TYPES, "a type");
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);

        fuzz_check(gguf_tensor_find(file, tensor->name) == tensor, "a tensor is not found");
        read_tensor(tensor);
    }
}

static void read_weights(const struct gguf *file, const struct model_config *config)
{
    struct weight_table *table = NULL;
    float *data = NULL;

    if (fuzz_is_ok(weight_table_create(config, &table)) && table->n_floats <= FLOATS_MAX &&
        memory_alloc(table->n_floats, sizeof(*data), &data) == STATUS_OK &&
        fuzz_is_ok(gguf_import_weights(file, config, table, data))) {
        fuzz_check(isfinite(data[0]) != 0, "a weight that is not finite");
    }
    memory_free(data);
    weight_table_destroy(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *file = NULL;
    struct model_config config;

    fuzz_begin();
    if (fuzz_is_ok(gguf_parse("model.gguf", data, size, &file))) {
        read_container(file);
        if (fuzz_is_ok(gguf_import_config(file, &config))) {
            if (model_config_parameters(&config) <= FLOATS_MAX) {
                read_weights(file, &config);
            }
            (void)fuzz_is_ok(gguf_import_tokenizer(file, &config, fuzz_folder()));
        }
    }
    gguf_close(file);
    fuzz_end();
    return 0;
}
