/* The heap: zeroes, alignment, counts, failure on request; and the arena on top of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/memory.h"
#include "tests/support/support.h"

#include <string.h>

static bool is_zero(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static void blocks_are_zeroed_aligned_and_counted(void **state)
{
    const size_t n_live = memory_live_blocks();
    const size_t n_total = memory_total_blocks();

    (void)state;
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *block;
        assert_ok(memory_alloc(n, 3, &block));
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        assert_true(is_zero(block, 3 * n));
        assert_int_equal(memory_live_blocks(), n_live + 1);
        memset(block, 0xff, 3 * n);
        memory_free(block);
    }
    assert_int_equal(memory_live_blocks(), n_live);
    assert_int_equal(memory_total_blocks(), n_total + 43);
    memory_free(NULL);
}

static void sizes_that_overflow_are_no_memory(void **state)
{
    void *block = &block;

    (void)state;
    assert_status(memory_alloc(SIZE_MAX / 2, 3, &block), STATUS_NO_MEMORY, NULL);
    assert_null(block);
    assert_status(memory_alloc(SIZE_MAX, 1, &block), STATUS_NO_MEMORY, NULL);
    assert_status(memory_alloc(SIZE_MAX - 70, 1, &block), STATUS_NO_MEMORY, NULL);
    assert_status(memory_resize(0, SIZE_MAX / 2, 3, &block), STATUS_NO_MEMORY, NULL);
    size_t size;
    assert_false(size_multiply(SIZE_MAX, 2, &size));
    assert_false(size_add(SIZE_MAX, 1, &size));
    assert_true(size_multiply(6, 7, &size) && size == 42);
    assert_true(size_add(SIZE_MAX, 0, &size) && size == SIZE_MAX);
}

static void resize_keeps_the_old_and_zeroes_the_new(void **state)
{
    unsigned char *block = NULL;

    (void)state;
    assert_ok(memory_resize(0, 10, 1, &block));
    memset(block, 0xab, 10);
    assert_ok(memory_resize(10, 1000, 1, &block));
    assert_int_equal(block[9], 0xab);
    assert_true(is_zero(block + 10, 990));
    assert_ok(memory_resize(1000, 5, 1, &block));
    assert_int_equal(block[4], 0xab);
    memory_fail_after(0);
    unsigned char *const before = block;
    assert_status(memory_resize(5, 50, 1, &block), STATUS_NO_MEMORY, NULL);
    assert_ptr_equal(block, before);
    memory_free(block);
}

static void exactly_the_asked_for_allocation_fails(void **state)
{
    void *blocks[4];

    (void)state;
    memory_fail_after(2);
    assert_ok(memory_alloc(1, 1, &blocks[0]));
    assert_ok(memory_alloc(1, 1, &blocks[1]));
    assert_true(memory_fail_is_pending());
    assert_status(memory_alloc(1, 1, &blocks[2]), STATUS_NO_MEMORY, NULL);
    assert_false(memory_fail_is_pending());
    assert_null(blocks[2]);
    assert_ok(memory_alloc(1, 1, &blocks[3]));
    memory_fail_after(0);
    assert_null(memory_library_alloc(5));
    memory_fail_after(-1);
    memory_free(blocks[0]);
    memory_free(blocks[1]);
    memory_free(blocks[3]);
}

static void texts_are_copied_with_an_end(void **state)
{
    char *text;

    (void)state;
    assert_ok(memory_copy_text("abcdef", 3, &text));
    assert_string_equal(text, "abc");
    memory_free(text);
    assert_ok(memory_copy_text(NULL, 0, &text));
    assert_string_equal(text, "");
    memory_free(text);
}

static void arena_blocks_do_not_overlap_and_are_zeroed_after_reset(void **state)
{
    struct arena *arena;
    unsigned char *parts[50];

    (void)state;
    assert_ok(arena_create(100, &arena));
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 50; i++) {
            assert_ok(arena_alloc(arena, i + 1, 10, &parts[i]));
            assert_int_equal((uintptr_t)parts[i] % 64, 0);
            assert_true(is_zero(parts[i], 10 * (i + 1)));
            memset(parts[i], (int)i + 1, 10 * (i + 1));
        }
        for (size_t i = 0; i < 50; i++) {
            assert_int_equal(parts[i][0], i + 1);
            assert_int_equal(parts[i][10 * i + 9], i + 1);
        }
        arena_reset(arena);
    }
    assert_true(arena_high_water(arena) > 12749);
    arena_destroy(arena);
    arena_destroy(NULL);
}

static void a_steady_round_allocates_nothing(void **state)
{
    struct arena *arena;
    void *part;
    char *text;

    (void)state;
    assert_ok(arena_create(64, &arena));
    size_t n_total = 0;
    for (int round = 0; round < 5; round++) {
        for (size_t i = 1; i < 100; i++) {
            assert_ok(arena_alloc(arena, i, 8, &part));
        }
        assert_ok(arena_copy_text(arena, "hello", 5, &text));
        assert_string_equal(text, "hello");
        arena_reset(arena);
        n_total = round == 0 ? memory_total_blocks() : n_total;
    }
    assert_int_equal(memory_total_blocks(), n_total);
    arena_destroy(arena);
}

static void a_reset_without_memory_keeps_the_largest_block(void **state)
{
    struct arena *arena;
    void *part;

    (void)state;
    assert_ok(arena_create(64, &arena));
    assert_ok(arena_alloc(arena, 1000, 1, &part));
    assert_ok(arena_alloc(arena, 9000, 1, &part));
    memory_fail_after(0);
    arena_reset(arena);
    assert_false(memory_fail_is_pending());
    memory_fail_after(0);
    assert_ok(arena_alloc(arena, 9000, 1, &part)); /* still fits without the heap */
    memory_fail_after(-1);
    assert_status(arena_alloc(arena, SIZE_MAX / 2, 3, &part), STATUS_NO_MEMORY, NULL);
    assert_null(part);
    arena_destroy(arena);
}

static void check_forgotten(unsigned char *block, size_t n, size_t begin, size_t n_forgotten)
{
    memset(block, 7, n);
    memory_forget(block + begin, n_forgotten);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(block[i], i >= begin && i < begin + n_forgotten ? 0 : 7);
    }
}

static void forgotten_bytes_are_zero_and_their_neighbours_stay(void **state)
{
    const size_t page = 4096, n = 5 * page + 77;
    unsigned char *block;

    (void)state;
    assert_ok(memory_alloc(n, 1, &block));
    check_forgotten(block, n, 100, 3 * page + 50);
    check_forgotten(block, n, 1, 4000); /* no whole page, wherever it begins */
    check_forgotten(block, n, 2 * page - 10, 20);
    check_forgotten(block, n, 7, 0);
    check_forgotten(block, n, 0, n);
    memory_free(block);
}

static void forgotten_pages_go_back(void **state)
{
    const size_t n = MEMORY_HUGE_BYTES, page = 4096;
    unsigned char *block;

    (void)state;
    assert_ok(memory_alloc(n, 1, &block));
    memset(block, 7, n);
    assert_true(support_resident_bytes(block, n) >= n - 2 * page);
    memory_forget(block, n / 2);
    assert_true(support_resident_bytes(block, n) <= n / 2 + 2 * page);
    memory_forget(block, n);
    assert_true(support_resident_bytes(block, n) <= 2 * page);
    memory_free(block);
}

static enum status use_an_arena(void *context)
{
    struct arena *arena;
    void *part;

    (void)context;
    TRY(arena_create(64, &arena));
    enum status status = arena_alloc(arena, 100, 1, &part);
    if (status == STATUS_OK) {
        status = arena_alloc(arena, 1000, 1, &part);
    }
    arena_destroy(arena);
    return status;
}

static void short_memory_is_reported_at_every_point(void **state)
{
    (void)state;
    assert_int_equal(support_fail_allocations(use_an_arena, NULL), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_zeroed_aligned_and_counted),
        cmocka_unit_test(sizes_that_overflow_are_no_memory),
        cmocka_unit_test(resize_keeps_the_old_and_zeroes_the_new),
        cmocka_unit_test(exactly_the_asked_for_allocation_fails),
        cmocka_unit_test(texts_are_copied_with_an_end),
        cmocka_unit_test(arena_blocks_do_not_overlap_and_are_zeroed_after_reset),
        cmocka_unit_test(a_steady_round_allocates_nothing),
        cmocka_unit_test(a_reset_without_memory_keeps_the_largest_block),
        cmocka_unit_test(forgotten_bytes_are_zero_and_their_neighbours_stay),
        cmocka_unit_test(forgotten_pages_go_back),
        cmocka_unit_test(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
