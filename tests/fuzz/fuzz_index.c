/* model.safetensors.index.json beside two small shards: a.safetensors holds x and y, b.safetensors
 * holds z. */
#include "model/safetensors.h"
#include "tests/fuzz/harness.h"

#include <stdio.h>
#include <string.h>

static void put_shard(const char *name, const char *header, size_t n_values)
{
    unsigned char file[512] = {(unsigned char)strlen(header)};
    const size_t n_header = strlen(header);

    (void)snprintf((char *)file + 8, sizeof(file) - 8, "%s", header);
    fuzz_put_file(name, file, 8 + n_header + 4 * n_values);
}

static void put_shards(void)
{
    static bool is_done;

    if (is_done) {
        return;
    }
    put_shard("a.safetensors",
              "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
              "\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
              3);
    put_shard("b.safetensors", "{\"z\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}}",
              2);
    is_done = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *file = NULL;

    put_shards();
    fuzz_put_file("model.safetensors.index.json", data, size);
    fuzz_begin();
    if (fuzz_is_ok(safetensors_open_folder(fuzz_folder(), &file))) {
        fuzz_check(safetensors_count(file) == 0 || safetensors_count(file) == 1 ||
                       safetensors_find(file, "x") != NULL,
                   "a shard's tensors are not all there");
        fuzz_check(fuzz_is_ok(safetensors_verify(file)), "files without a digest are right");
    }
    safetensors_close(file);
    fuzz_end();
    return 0;
}
