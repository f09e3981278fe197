#include "cli/bench_folder.h"

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum status bench_folder_make(char **out)
{
    const char *root = getenv("TMPDIR");

    TRY(path_join(root != NULL && *root != '\0' ? root : "/tmp", "hone-bench-XXXXXX", out));
    if (mkdtemp(*out) == NULL) {
        const enum status status =
            status_set(STATUS_IO, "%s: cannot make a folder: %s", *out, strerror(errno));

        memory_free(*out);
        *out = NULL;
        return status;
    }
    return STATUS_OK;
}

enum status bench_folder_remove(char *folder, enum status status)
{
    char message[1024];

    /* The message of a failure stays the one to tell. */
    (void)snprintf(message, sizeof(message), "%s", status_message());
    const enum status removed = folder_remove(folder);
    memory_free(folder);
    return status == STATUS_OK ? removed : status_set(status, "%s", message);
}
