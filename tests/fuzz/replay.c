/* Owns main() of fuzz targets without libFuzzer: each argument is an input, or a folder of inputs,
 * which must not be empty. Prints what cmocka would, so that inputs are counted as tests. */
#include "base/file.h"
#include "base/memory.h"
#include "tests/fuzz/harness.h"

#include <stdio.h>

#define INPUT_BYTES_MAX ((size_t)16 << 20)

static size_t n_replayed;

static enum status replay_file(const char *path)
{
    char *text = NULL;
    uint8_t *copy = NULL;
    size_t n = 0;

    TRY(file_read(path, INPUT_BYTES_MAX, &text, &n));
    (void)fprintf(stderr, "fuzz: %s\n", path); /* the last line names the input that crashed */
    /* of exactly n bytes, for sanitizers: file_read's block holds a NUL behind them */
    const enum status status = memory_alloc(n, 1, &copy);
    for (size_t i = 0; status == STATUS_OK && i < n; i++) {
        copy[i] = (uint8_t)text[i];
    }
    memory_free(text);
    if (status == STATUS_OK) {
        (void)LLVMFuzzerTestOneInput(copy, n);
        n_replayed++;
    }
    memory_free(copy);
    return status;
}

static enum status replay(const char *path)
{
    struct file_list list = {0};
    enum status status = STATUS_OK;

    if (!folder_exists(path)) {
        return replay_file(path);
    }
    TRY(file_list(path, &list));
    if (list.count == 0) {
        status = status_set(STATUS_BAD_ARGUMENT, "%s: an empty corpus", path);
    }
    for (size_t i = 0; i < list.count && status == STATUS_OK; i++) {
        char *file = NULL;

        status = path_join(path, list.names[i], &file);
        if (status == STATUS_OK) {
            status = replay_file(file);
        }
        memory_free(file);
    }
    file_list_free(&list);
    return status;
}

int main(int argc, char **argv)
{
    enum status status = argc > 1 ? STATUS_OK : status_set(STATUS_BAD_ARGUMENT, "no input named");

    for (int i = 1; i < argc && status == STATUS_OK; i++) {
        status = replay(argv[i]);
    }
    if (status != STATUS_OK) {
        (void)fprintf(stderr, "fuzz: %s\n", status_message());
        (void)printf("[  FAILED  ] 1 test(s)\n");
        return 1;
    }
    (void)printf("[  PASSED  ] %zu test(s).\n", n_replayed);
    return 0;
}
