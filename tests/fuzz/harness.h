/* Owns what the fuzz targets share. A target is one file, fuzz_NAME.c, with the entry point below;
 * it is linked to libFuzzer (HONE_FUZZ) or to replay.c, which feeds it the files of corpus/NAME. An
 * input is one text, or several with a NUL byte between them. */
#ifndef HONE_TESTS_FUZZ_HARNESS_H
#define HONE_TESTS_FUZZ_HARNESS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Begins a case: remembers what is on the heap. */
void fuzz_begin(void);
/* Ends it: stops the program when the heap holds more or less than at its begin. */
void fuzz_end(void);
/* True when OK. A failure must be one that hostile bytes may cause, and have a message of one line;
 * else the program stops. */
bool fuzz_is_ok(enum status status);
/* Stops the program, saying so, unless the condition holds. */
void fuzz_check(bool is_right, const char *what);

/* A text of an input. */
struct fuzz_text {
    const char *bytes;
    size_t n;
};
/* Takes the text before the next NUL byte off data[0..*size); the last one takes all. */
struct fuzz_text fuzz_take_text(const uint8_t **data, size_t *size);

/* A folder of this process, gone at its end. */
const char *fuzz_folder(void);
/* Writes a file of that name into it. */
void fuzz_put_file(const char *name, const void *bytes, size_t n);

#endif
