/* Owns the helpers of harness.h. */
#include "tests/fuzz/harness.h"

#include "base/file.h"
#include "base/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_ROOM 512

static size_t n_live_before;
static char folder[PATH_ROOM];

void fuzz_check(bool is_right, const char *what)
{
    if (!is_right) {
        (void)fprintf(stderr, "fuzz: %s (last message: %s)\n", what, status_message());
        abort();
    }
}

void fuzz_begin(void)
{
    n_live_before = memory_live_blocks();
}

void fuzz_end(void)
{
    fuzz_check(memory_live_blocks() == n_live_before, "blocks were leaked");
}

bool fuzz_is_ok(enum status status)
{
    if (status == STATUS_OK) {
        return true;
    }
    fuzz_check(status == STATUS_BAD_FORMAT || status == STATUS_UNSUPPORTED ||
                   status == STATUS_BAD_CONFIG,
               "a status that bytes must not cause");
    const size_t n = strlen(status_message());
    fuzz_check(n > 0 && memchr(status_message(), '\n', n) == NULL, "not a message of one line");
    return false;
}

struct fuzz_text fuzz_take_text(const uint8_t **data, size_t *size)
{
    const uint8_t *end = *size == 0 ? NULL : memchr(*data, 0, *size);
    const struct fuzz_text text = {.bytes = (const char *)*data,
                                   .n = end == NULL ? *size : (size_t)(end - *data)};
    const size_t n_taken = end == NULL ? *size : text.n + 1;

    *data += n_taken;
    *size -= n_taken;
    return text;
}

static void remove_folder(void)
{
    if (folder_remove(folder) != STATUS_OK) {
        (void)fprintf(stderr, "fuzz: %s\n", status_message());
    }
}

const char *fuzz_folder(void)
{
    const char *root = getenv("TMPDIR");

    if (folder[0] != '\0') {
        return folder;
    }
    (void)snprintf(folder, sizeof(folder), "%s/hone-fuzz-XXXXXX",
                   root == NULL || root[0] == '\0' ? "/tmp" : root);
    fuzz_check(mkdtemp(folder) != NULL, "no folder for files");
    fuzz_check(atexit(remove_folder) == 0, "atexit");
    return folder;
}

void fuzz_put_file(const char *name, const void *bytes, size_t n)
{
    char path[PATH_ROOM + 64];

    (void)snprintf(path, sizeof(path), "%s/%s", fuzz_folder(), name);
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fuzz_check(file >= 0, "a file cannot be made");
    fuzz_check(write(file, bytes, n) == (ssize_t)n, "a file cannot be written");
    fuzz_check(close(file) == 0, "a file cannot be closed");
}
