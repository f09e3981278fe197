/* Memory that processes read together: found by name, never mistaken, never resized. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/shared_memory.h"
#include "tests/support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES ((size_t)10000)
#define PAGES ((size_t)3) /* that hold them */

static void assert_no_block(const struct shared_memory_name *name, enum status wanted)
{
    struct shared_memory *memory;

    assert_status(shared_memory_attach(name, &memory), wanted, NULL);
    assert_null(memory);
}

static void a_block_is_zeroed_aligned_and_counted(void **state)
{
    static const size_t sizes[] = {1, 4096, BYTES, ((size_t)1 << 25) + 1};
    const size_t n_before = shared_memory_bytes();

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct shared_memory *memory;

        assert_ok(shared_memory_create(sizes[i], &memory));
        const char *data = shared_memory_data(memory);
        assert_int_equal((uintptr_t)data % SHARED_MEMORY_AT, 0);
        assert_int_equal(data[0], 0);
        assert_memory_equal(data, data + 1, sizes[i] - 1);
        assert_int_equal(shared_memory_bytes(), n_before + sizes[i]);
        assert_int_equal(shared_memory_version(memory), -1);
        shared_memory_close(memory);
        assert_int_equal(shared_memory_bytes(), n_before);
    }
}

static void a_reader_sees_what_the_owner_writes(void **state)
{
    struct shared_memory *owner, *reader;

    (void)state;
    assert_ok(shared_memory_create(BYTES, &owner));
    const struct shared_memory_name name = shared_memory_name(owner);
    assert_int_equal(name.pid, getpid());
    assert_int_equal(name.n_bytes, BYTES);
    assert_ok(shared_memory_attach(&name, &reader));
    assert_int_equal((uintptr_t)shared_memory_data(reader) % SHARED_MEMORY_AT, 0);
    memset(shared_memory_data(owner), 7, BYTES);
    shared_memory_set_version(owner, 3);
    assert_int_equal(shared_memory_version(reader), 3);
    assert_memory_equal(shared_memory_data(reader), shared_memory_data(owner), BYTES);
    assert_false(shared_memory_is_orphan(reader));
    const size_t n_bytes = shared_memory_bytes();
    shared_memory_close(reader);
    assert_int_equal(shared_memory_bytes(), n_bytes); /* it was never the reader's */
    shared_memory_close(owner);
}

static void another_nonce_size_descriptor_or_process_is_refused(void **state)
{
    struct shared_memory *owner;

    (void)state;
    assert_ok(shared_memory_create(BYTES, &owner));
    const struct shared_memory_name name = shared_memory_name(owner);
    struct shared_memory_name wrong = name;
    wrong.nonce[SHARED_MEMORY_NONCE - 1] ^= 1;
    assert_no_block(&wrong, STATUS_PEER);
    wrong = name;
    wrong.n_bytes = BYTES - 1; /* of the same number of pages */
    assert_no_block(&wrong, STATUS_PEER);
    wrong.n_bytes = BYTES + 4096;
    assert_no_block(&wrong, STATUS_IO);
    wrong.n_bytes = SIZE_MAX;
    assert_no_block(&wrong, STATUS_PEER);
    wrong = name;
    wrong.fd = 1000;
    assert_no_block(&wrong, STATUS_IO);
    wrong.fd = -1;
    assert_no_block(&wrong, STATUS_IO);
    shared_memory_close(owner);
    assert_no_block(&name, STATUS_IO);
}

/* A file of the right size that could shrink under its reader is not trusted. */
static void a_file_without_seals_is_refused(void **state)
{
    struct shared_memory *owner;

    (void)state;
    assert_ok(shared_memory_create(BYTES, &owner));
    struct shared_memory_name name = shared_memory_name(owner);
    const int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)(SHARED_MEMORY_AT + PAGES * 4096)), 0);
    name.fd = fd;
    assert_no_block(&name, STATUS_PEER);
    assert_int_equal(close(fd), 0);
    shared_memory_close(owner);
}

/* Opening one end of a pipe would wait for the other, or take what is in it for the reader. */
static void a_pipe_is_not_even_opened(void **state)
{
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    const struct shared_memory_name name = {.pid = getpid(), .fd = ends[1], .n_bytes = BYTES};
    assert_no_block(&name, STATUS_IO);
    assert_int_equal(close(ends[0]), 0);
    assert_int_equal(close(ends[1]), 0);
}

static void nobody_resizes_a_block_or_writes_through_a_reader(void **state)
{
    struct shared_memory *owner, *reader;
    char path[64];

    (void)state;
    assert_ok(shared_memory_create(BYTES, &owner));
    const struct shared_memory_name name = shared_memory_name(owner);
    assert_int_equal(ftruncate((int)name.fd, 0), -1);
    assert_int_equal(errno, EPERM);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", (int)name.fd);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        assert_int_equal(close(fd), 0);
    }
    assert_ok(shared_memory_attach(&name, &reader));
    const pid_t child = fork();
    if (child == 0) {
        (void)signal(SIGSEGV, SIG_DFL); /* neither cmocka nor a sanitizer shall catch it */
        ((volatile char *)shared_memory_data(reader))[0] = 1;
        _exit(0);
    }
    int ended = 0;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFSIGNALED(ended) || WEXITSTATUS(ended) != 0);
    assert_int_equal(((const char *)shared_memory_data(owner))[0], 0);
    shared_memory_close(reader);
    shared_memory_close(owner);
}

/* Makes a block of version 5, tells its name, and waits to be killed. */
static void own_until_killed(int out)
{
    struct shared_memory *memory;

    if (shared_memory_create(BYTES, &memory) != STATUS_OK) {
        _exit(1);
    }
    memset(shared_memory_data(memory), 9, BYTES);
    shared_memory_set_version(memory, 5);
    const struct shared_memory_name name = shared_memory_name(memory);
    if (write(out, &name, sizeof(name)) != (ssize_t)sizeof(name)) {
        _exit(1);
    }
    for (;;) {
        (void)pause();
    }
}

static void a_block_outlives_its_owner_in_a_reader(void **state)
{
    struct shared_memory_name name;
    struct shared_memory *reader;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        own_until_killed(ends[1]);
    }
    assert_int_equal(read(ends[0], &name, sizeof(name)), sizeof(name));
    assert_ok(shared_memory_attach(&name, &reader));
    assert_false(shared_memory_is_orphan(reader));
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_true(shared_memory_is_orphan(reader));
    assert_int_equal(shared_memory_version(reader), 5);
    assert_int_equal(((const char *)shared_memory_data(reader))[BYTES - 1], 9);
    shared_memory_close(reader);
    assert_no_block(&name, STATUS_IO);
    assert_int_equal(close(ends[0]), 0);
    assert_int_equal(close(ends[1]), 0);
}

static enum status make_and_share(void *context)
{
    struct shared_memory *owner, *reader;

    (void)context;
    TRY(shared_memory_create(BYTES, &owner));
    const struct shared_memory_name name = shared_memory_name(owner);
    const enum status status = shared_memory_attach(&name, &reader);
    shared_memory_close(reader);
    shared_memory_close(owner);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    assert_int_equal(support_fail_allocations(make_and_share, NULL), 2);
}

static void what_no_address_space_holds_is_refused(void **state)
{
    struct shared_memory *memory;

    (void)state;
    assert_status(shared_memory_create(SIZE_MAX, &memory), STATUS_NO_MEMORY, "address space");
    assert_null(memory);
    assert_status(shared_memory_create((size_t)PTRDIFF_MAX / 2, &memory), STATUS_NO_MEMORY, NULL);
    assert_null(memory);
    shared_memory_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_is_zeroed_aligned_and_counted),
        cmocka_unit_test(a_reader_sees_what_the_owner_writes),
        cmocka_unit_test(another_nonce_size_descriptor_or_process_is_refused),
        cmocka_unit_test(a_file_without_seals_is_refused),
        cmocka_unit_test(a_pipe_is_not_even_opened),
        cmocka_unit_test(nobody_resizes_a_block_or_writes_through_a_reader),
        cmocka_unit_test(a_block_outlives_its_owner_in_a_reader),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(what_no_address_space_holds_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
