/* Owns the splitting of a command into words like a shell's, without any expansion: blanks
 * separate, '...' and "..." group, a backslash outside single quotes takes the next character as it
 * is. */
#ifndef HONE_REWARD_WORDS_H
#define HONE_REWARD_WORDS_H

#include "base/arena.h"
#include "base/status.h"

/* NULL-terminated words in the arena. Errors: BAD_CONFIG (an open quote, no word). */
MUST_CHECK enum status words_split(const char *text, struct arena *arena, const char ***out,
                                   size_t *n_out);

#endif
