/* Owns what tests share: where the shared data is, folders that go away, comparison of floats, and
 * the loop that fails every allocation in turn. Include it after cmocka.h. */
#ifndef HONE_TESTS_SUPPORT_SUPPORT_H
#define HONE_TESTS_SUPPORT_SUPPORT_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Path of a shared file or folder: below the environment's HONE_SHARED, else ../shared. false, with
 * a line on stderr, when it is absent: the test should then call skip(). */
bool support_shared_path(const char *relative, char *out, size_t room);

/* Makes an empty folder and writes its path to out. Fails the test when that is impossible. */
void support_temp_dir(char *out, size_t room);
/* Removes what support_temp_dir made, with its content. */
void support_temp_dir_remove(const char *path);

/* Allowed difference: absolute + relative * |want|. */
struct tolerance {
    double absolute, relative;
};
/* Fails the test unless every got[i] is within the tolerance of want[i]; NaN never is. The message
 * names `what`, the worst index and both values there. */
void support_compare(const char *what, const float *got, const float *want, size_t n,
                     struct tolerance tolerance);
void support_compare_double(const char *what, const double *got, const double *want, size_t n,
                            struct tolerance tolerance);
/* Largest |got - want| over n; for reports. */
double support_difference_max(const float *got, const float *want, size_t n);

/* Builds and destroys a thing; what it built must be gone when it returns, on failure too. */
typedef enum status support_attempt(void *context);
/* Calls attempt with the allocation 0, 1, 2, ... failing until it makes fewer than that. Each call
 * must give STATUS_NO_MEMORY (or succeed all the same, where there is a way to do without) and
 * leave the number of live blocks unchanged. Returns how many failure points there were. */
size_t support_fail_allocations(support_attempt *attempt, void *context);

/* Bytes of memory that this process holds, and of mapped files among them. The kernel counts
 * loosely: some hundreds of pages may be late. */
struct support_memory {
    size_t resident, mapped_files;
};
struct support_memory support_memory(void);

/* Bytes of [bytes, bytes + n) that have memory behind them, by whole pages inside. */
size_t support_resident_bytes(void *bytes, size_t n);

/* Fails the test, printing the thread's message, unless the status is STATUS_OK. */
#define assert_ok(expression) support_assert_ok((expression), #expression, __FILE__, __LINE__)
void support_assert_ok(enum status status, const char *expression, const char *file, int line);
/* Fails unless the status is `wanted` and the message contains `part` (NULL: any message). */
#define assert_status(expression, wanted, part)                                                    \
    support_assert_status((expression), (wanted), (part), __FILE__, __LINE__)
void support_assert_status(enum status status, enum status wanted, const char *part,
                           const char *file, int line);

#endif
