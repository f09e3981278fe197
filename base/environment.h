/* Owns picking variables of our environment for a child's: everything else stays out. */
#ifndef HONE_BASE_ENVIRONMENT_H
#define HONE_BASE_ENVIRONMENT_H

#include "base/arena.h"
#include "base/status.h"

#include <stddef.h>

/* NULL-terminated list of "NAME=value" for those of names that are set, in the arena. */
MUST_CHECK enum status environment_pick(const char *const *names, size_t n, struct arena *arena,
                                        const char ***out);

#endif
