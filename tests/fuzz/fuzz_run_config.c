/* A run configuration: what is accepted has a digest and prints, what is not is reported. */
#include "base/json.h"
#include "base/memory.h"
#include "configs/config.h"
#include "tests/fuzz/harness.h"

#include <stdio.h>
#include <string.h>

static void use(const struct run_config *config)
{
    struct json *json = NULL;
    struct config_line *lines = NULL;
    size_t n = 0;
    char digest[65];

    fuzz_check(config_digest(config, digest) == STATUS_OK && strlen(digest) == 64, "a digest");
    fuzz_check(config_to_json(config, &json) == STATUS_OK, "as JSON");
    fuzz_check(config_lines(config, &lines, &n) == STATUS_OK && n > 0, "as lines");
    config_lines_free(lines);
    json_destroy(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[600];
    struct run_config *config = NULL;
    char *report = NULL;

    (void)snprintf(path, sizeof(path), "%s/run.yaml", fuzz_folder());
    const struct config_source source = {.path = path, .use = CONFIG_ANY};
    fuzz_put_file("run.yaml", data, size);
    fuzz_begin();
    if (fuzz_is_ok(config_load(&source, &config, &report))) {
        use(config);
        fuzz_check(report == NULL, "a report without a mistake");
    }
    memory_free(report);
    config_destroy(config);
    fuzz_end();
    return 0;
}
