/* One safetensors file: its header's checks, then every value of every tensor is read. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "model/safetensors_internal.h"
#include "tests/fuzz/harness.h"

#include <string.h>

#define LABEL "model.safetensors"

static void read_values(const struct tensor *tensor)
{
    struct digest128 sum = {{0}};
    float *values = NULL;

    tensor_digest_add(tensor, &sum);
    fuzz_check(tensor->name[0] != '\0' && tensor->n_dims <= TENSOR_DIMS_MAX, "a tensor's header");
    if (!fuzz_is_ok(memory_alloc(tensor->n_elements, sizeof(*values), &values))) {
        return;
    }
    if (fuzz_is_ok(tensor_read_floats(tensor, values)) && tensor->n_elements > 0) {
        const volatile float last = values[tensor->n_elements - 1];
        (void)last;
    }
    memory_free(values);
}

static void read_file_map(const struct file_map *map)
{
    struct json *header = NULL;
    struct tensor *tensors = NULL;
    size_t header_bytes = 0, n = 0;

    if (fuzz_is_ok(safetensors_read_header(LABEL, map, &header, &header_bytes)) &&
        fuzz_is_ok(memory_alloc(json_count(header), sizeof(*tensors), &tensors)) &&
        fuzz_is_ok(safetensors_read_tensors(LABEL, map, header, header_bytes, tensors, &n))) {
        for (size_t i = 0; i < n; i++) {
            read_values(&tensors[i]);
        }
    }
    memory_free(tensors);
    json_destroy(header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct file_map map = {.data = data, .bytes = size};

    fuzz_begin();
    read_file_map(&map);
    fuzz_end();
    return 0;
}
