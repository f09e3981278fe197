/* Files: what is read is whole, what is written is all or nothing, what is removed stays inside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "tests/support/support.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
    char folder[128];
    char path[192]; /* folder/name, from path_in */
};

static int set_up(void **state)
{
    static struct fixture fixture;

    support_temp_dir(fixture.folder, sizeof(fixture.folder));
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    const struct fixture *fixture = *state;

    support_temp_dir_remove(fixture->folder);
    return 0;
}

static const char *path_in(struct fixture *fixture, const char *name)
{
    (void)snprintf(fixture->path, sizeof(fixture->path), "%s/%s", fixture->folder, name);
    return fixture->path;
}

static void assert_content(const char *path, const char *wanted)
{
    char *text;
    size_t n;

    assert_ok(file_read(path, 1 << 20, &text, &n));
    assert_string_equal(text, wanted);
    assert_int_equal(n, strlen(wanted));
    memory_free(text);
}

static void atomic_writes_replace_and_leave_nothing_over(void **state)
{
    struct fixture *fixture = *state;
    const char *path = path_in(fixture, "a.txt");
    struct file_list list;

    assert_ok(file_write_atomic(path, "one", 3));
    assert_content(path, "one");
    assert_ok(file_write_atomic(path, "", 0));
    assert_content(path, "");
    assert_ok(file_write_atomic(path, "three", 5));
    assert_content(path, "three");
    assert_ok(file_list(fixture->folder, &list));
    assert_int_equal(list.count, 1);
    assert_string_equal(list.names[0], "a.txt");
    file_list_free(&list);
}

static void limits_and_absences_are_named(void **state)
{
    struct fixture *fixture = *state;
    const char *path = path_in(fixture, "limit");
    char *text;
    size_t n;

    assert_status(file_read(path, 10, &text, &n), STATUS_IO, "limit: cannot open: No such file");
    assert_null(text);
    assert_ok(file_write_atomic(path, "0123456789", 10));
    assert_status(file_read(path, 9, &text, &n), STATUS_BAD_FORMAT, "limit: larger than 9 bytes");
    assert_ok(file_read(path, 10, &text, &n));
    memory_free(text);
    assert_ok(file_read(path, SIZE_MAX, &text, &n));
    memory_free(text);
    assert_status(file_read(fixture->folder, 10, &text, &n), STATUS_IO, "directory");
    assert_status(file_write_atomic("/nonexistent/a", "", 0), STATUS_IO, "/nonexistent/a");
}

static void files_without_a_size_are_read_to_their_end(void **state)
{
    char *text;
    size_t n;

    (void)state;
    assert_ok(file_read("/proc/self/maps", 1 << 24, &text, &n));
    assert_true(n > 500 && strlen(text) == n);
    memory_free(text);
    assert_status(file_read("/proc/self/maps", 100, &text, &n), STATUS_BAD_FORMAT, "100");
    assert_status(file_read("/dev/zero", 100000, &text, &n), STATUS_BAD_FORMAT, "100000");
}

static void writers_buffer_but_lose_nothing(void **state)
{
    struct fixture *fixture = *state;
    const char *path = path_in(fixture, "big");
    const size_t n_words = 700000;
    struct file_writer *writer;
    struct file_map map;
    uint32_t *words;

    assert_ok(memory_alloc(n_words, sizeof(*words), &words));
    for (uint32_t i = 0; i < n_words; i++) {
        words[i] = i * 2654435761u;
    }
    assert_ok(file_writer_open(path, &writer));
    assert_ok(file_writer_put(writer, words, (size_t)400));
    assert_ok(file_writer_put(writer, words + 100, (size_t)2000000));
    for (size_t i = 500100; i < n_words; i += 100) {
        assert_ok(file_writer_put(writer, words + i, 400));
    }
    assert_ok(file_writer_commit(writer));
    assert_ok(file_map_open(path, &map));
    assert_int_equal(map.bytes, 4 * n_words);
    assert_memory_equal(map.data, words, map.bytes);
    file_map_close(&map);
    assert_null(map.data);
    memory_free(words);
    file_writer_abandon(NULL);
}

static void a_full_disk_is_told_with_path_and_bytes(void **state)
{
    struct file_writer *writer;

    (void)state;
    if (access("/dev/full", W_OK) != 0) {
        (void)fprintf(stderr, "skipped: /dev/full is absent\n");
        skip();
    }
    assert_ok(file_writer_open("/dev/full", &writer));
    assert_ok(file_writer_put(writer, "1234", 4));
    assert_status(file_writer_commit(writer), STATUS_NO_SPACE, "/dev/full: cannot write 4 bytes");
}

static void a_reader_can_give_back_what_it_has_read(void **state)
{
    const size_t n_bytes = (size_t)16 << 20, quarter = n_bytes / 4 + 1;
    unsigned char *bytes;
    struct file_map map;

    assert_ok(memory_alloc(n_bytes, 1, &bytes));
    for (size_t i = 0; i < n_bytes; i++) {
        bytes[i] = (unsigned char)(i * 7 % 251);
    }
    assert_ok(file_write_atomic(path_in(*state, "large"), bytes, n_bytes));
    assert_ok(file_map_open(path_in(*state, "large"), &map));
    assert_memory_equal(map.data, bytes, n_bytes);

    const size_t before = support_memory().mapped_files;

    for (size_t begin = 0; begin < n_bytes; begin += quarter) {
        file_map_forget(&map, begin, begin + quarter < n_bytes ? begin + quarter : n_bytes);
    }
    assert_true(support_memory().mapped_files + n_bytes / 2 < before);
    assert_memory_equal(map.data, bytes, n_bytes);
    file_map_forget(&map, 0, n_bytes + 1); /* not of the map: nothing happens */
    file_map_close(&map);
    file_map_forget(&map, 0, 0);
    memory_free(bytes);
}

static void maps_of_what_is_no_file_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct file_map map;

    assert_status(file_map_open(fixture->folder, &map), STATUS_IO, "not a regular file");
    assert_ok(file_write_atomic(path_in(fixture, "empty"), "", 0));
    assert_ok(file_map_open(fixture->path, &map));
    assert_null(map.data);
    assert_int_equal(map.bytes, 0);
    file_map_close(&map);
}

static void folders_are_made_with_their_parents(void **state)
{
    struct fixture *fixture = *state;
    struct stat info;

    assert_ok(folder_create(path_in(fixture, "a/b//c/")));
    assert_true(folder_exists(fixture->path));
    assert_false(file_exists(fixture->path));
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(info.st_mode & 0777u, 0700);
    assert_ok(folder_create(fixture->path));
    assert_ok(file_write_atomic(path_in(fixture, "file"), "", 0));
    assert_status(folder_create(path_in(fixture, "file/below")), STATUS_BAD_ARGUMENT,
                  "file: is a file");
    assert_ok(folder_sync(fixture->folder));
}

static void removal_does_not_follow_links(void **state)
{
    struct fixture *fixture = *state;
    char outside[192];
    char inside[192];

    (void)snprintf(outside, sizeof(outside), "%s/outside", fixture->folder);
    (void)snprintf(inside, sizeof(inside), "%s/inside", fixture->folder);
    assert_ok(folder_create(outside));
    assert_ok(file_write_atomic(path_in(fixture, "outside/kept"), "x", 1));
    assert_ok(folder_create(path_in(fixture, "inside/deep/er")));
    assert_ok(file_write_atomic(path_in(fixture, "inside/deep/file"), "x", 1));
    assert_int_equal(symlink(outside, path_in(fixture, "inside/deep/link")), 0);
    assert_ok(folder_remove(inside));
    assert_false(folder_exists(inside));
    assert_true(file_exists(path_in(fixture, "outside/kept")));
    assert_ok(folder_remove(inside)); /* absent is as good */
    assert_int_equal(symlink(outside, inside), 0);
    assert_status(folder_remove(inside), STATUS_IO, "not a folder");
    assert_status(folder_remove(path_in(fixture, "outside/kept")), STATUS_IO, "not a folder");
}

static void a_rename_to_a_new_name_replaces_nothing(void **state)
{
    struct fixture *fixture = *state;
    char from[192];
    char to[192];

    (void)snprintf(from, sizeof(from), "%s/from", fixture->folder);
    (void)snprintf(to, sizeof(to), "%s/to", fixture->folder);
    assert_ok(folder_create(from));
    assert_ok(file_rename_new(from, to));
    assert_true(folder_exists(to));
    assert_ok(folder_create(from));
    assert_status(file_rename_new(from, to), STATUS_IO, "exists");
}

static void lists_are_sorted(void **state)
{
    struct fixture *fixture = *state;
    static const char *const names[] = {"b", "a10", "a2", ".hidden", "B"};
    static const char *const sorted[] = {".hidden", "B", "a10", "a2", "b"};
    struct file_list list;

    for (size_t i = 0; i < 5; i++) {
        assert_ok(file_write_atomic(path_in(fixture, names[i]), "", 0));
    }
    assert_ok(file_list(fixture->folder, &list));
    assert_int_equal(list.count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_string_equal(list.names[i], sorted[i]);
    }
    file_list_free(&list);
    assert_status(file_list("/nonexistent", &list), STATUS_IO, "/nonexistent");
    uint64_t n_free;
    assert_ok(file_free_bytes(fixture->folder, &n_free));
    assert_true(n_free > 0);
}

static void assert_joined(const char *dir, const char *name, const char *wanted)
{
    char *path;

    assert_ok(path_join(dir, name, &path));
    assert_string_equal(path, wanted);
    memory_free(path);
}

static void assert_parent(const char *path, const char *wanted)
{
    char *parent;

    assert_ok(path_parent(path, &parent));
    assert_string_equal(parent, wanted);
    memory_free(parent);
}

static void paths_are_joined_and_taken_apart(void **state)
{
    (void)state;
    assert_joined("a", "b", "a/b");
    assert_joined("a/", "b", "a/b");
    assert_joined("", "b", "b");
    assert_joined("a", "/b", "/b");
    assert_joined("/", "b", "/b");
    assert_parent("a/b", "a");
    assert_parent("a/b/", "a");
    assert_parent("a//b", "a");
    assert_parent("a", ".");
    assert_parent("a/", ".");
    assert_parent("/a", "/");
    assert_parent("/", "/");
    assert_parent("", ".");
}

static void a_lock_is_held_by_one_and_names_its_holder(void **state)
{
    struct fixture *fixture = *state;
    const char *path = path_in(fixture, "LOCK");
    struct file_lock *first;
    struct file_lock *second;

    assert_ok(file_lock_acquire(path, "pid 1 on host a, a long text", &first));
    assert_status(file_lock_acquire(path, "pid 2", &second), STATUS_BUSY,
                  "held by pid 1 on host a, a long text");
    assert_null(second);
    assert_content(path, "pid 1 on host a, a long text"); /* reading does not drop the lock */
    assert_status(file_lock_acquire(path, "pid 2", &second), STATUS_BUSY, NULL);
    file_lock_release(first);
    assert_ok(file_lock_acquire(path, "pid 2", &second));
    assert_content(path, "pid 2");
    file_lock_release(second);
    file_lock_release(NULL);
}

static void a_lock_ends_with_its_process(void **state)
{
    struct fixture *fixture = *state;
    const char *path = path_in(fixture, "LOCK");
    struct file_lock *lock;
    int ends[2];
    char byte;

    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        const bool is_held = file_lock_acquire(path, "child", &lock) == STATUS_OK;
        if (write(ends[1], is_held ? "y" : "n", 1) == 1) {
            (void)pause();
        }
        _exit(0);
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_status(file_lock_acquire(path, "parent", &lock), STATUS_BUSY, "held by child");
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_ok(file_lock_acquire(path, "parent", &lock));
    file_lock_release(lock);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static enum status use_files(void *context)
{
    struct fixture *fixture = context;
    struct file_list list;
    struct file_lock *lock;
    char *text;
    size_t n;

    TRY(file_write_atomic(path_in(fixture, "x"), "abc", 3));
    TRY(file_read(fixture->path, 10, &text, &n));
    memory_free(text);
    TRY(folder_create(path_in(fixture, "d/e")));
    TRY(file_list(fixture->folder, &list));
    file_list_free(&list);
    TRY(file_lock_acquire(path_in(fixture, "LOCK"), "me", &lock));
    file_lock_release(lock);
    return STATUS_OK;
}

static void short_memory_is_reported_at_every_point(void **state)
{
    assert_true(support_fail_allocations(use_files, *state) > 8);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(atomic_writes_replace_and_leave_nothing_over),
        TEST(limits_and_absences_are_named),
        TEST(files_without_a_size_are_read_to_their_end),
        TEST(writers_buffer_but_lose_nothing),
        TEST(a_full_disk_is_told_with_path_and_bytes),
        TEST(a_reader_can_give_back_what_it_has_read),
        TEST(maps_of_what_is_no_file_are_refused),
        TEST(folders_are_made_with_their_parents),
        TEST(removal_does_not_follow_links),
        TEST(a_rename_to_a_new_name_replaces_nothing),
        TEST(lists_are_sorted),
        TEST(paths_are_joined_and_taken_apart),
        TEST(a_lock_is_held_by_one_and_names_its_holder),
        TEST(a_lock_ends_with_its_process),
        TEST(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
