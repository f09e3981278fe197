#include "base/environment.h"

#include <string.h>
#include <unistd.h>

static const char *find(const char *name)
{
    const size_t n = strlen(name);
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        if (strncmp(*entry, name, n) == 0 && (*entry)[n] == '=') {
            return *entry;
        }
    }
    return NULL;
}

enum status environment_pick(const char *const *names, size_t n, struct arena *arena,
                             const char ***out)
{
    size_t count = 0;
    TRY(arena_alloc(arena, n + 1, sizeof(char *), out));
    for (size_t i = 0; i < n; i++) {
        const char *entry = find(names[i]);
        char *copy = NULL;
        if (entry == NULL) {
            continue;
        }
        const enum status status = arena_copy_text(arena, entry, strlen(entry), &copy);
        if (status != STATUS_OK) {
            return status;
        }
        (*out)[count++] = copy;
    }
    return STATUS_OK;
}
