#include "cli/bench_folder.h"

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum status bench_folder_make(const char *root, char **out)
{
    TRY(path_join(root, "hone-bench-XXXXXX", out));
    if (mkdtemp(*out) == NULL) {
        const enum status status =
            status_set(STATUS_BAD_ARGUMENT, "%s: cannot make a folder: %s", *out, strerror(errno));

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
