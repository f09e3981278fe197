/* Owns a folder for the files that a measurement makes. */
#ifndef HONE_CLI_BENCH_FOLDER_H
#define HONE_CLI_BENCH_FOLDER_H

#include "base/status.h"

/* A new folder in root. Caller gives *out to bench_folder_remove. */
MUST_CHECK enum status bench_folder_make(const char *root, char **out);
/* Removes and frees it; gives status back, or if that is OK what the removal gave. */
MUST_CHECK enum status bench_folder_remove(char *folder, enum status status);

#endif
