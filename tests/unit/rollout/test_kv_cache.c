#include "base/memory.h"
#include "rollout/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct kv_cache *make_cache(size_t n_pages)
{
    struct kv_cache *cache = NULL;

    assert_int_equal(kv_cache_create(n_pages, &cache), STATUS_OK);
    return cache;
}

static void create_fails_cleanly_at_every_allocation(void **state)
{
    struct kv_cache *cache = NULL;
    const size_t n_live = memory_live_blocks();
    enum status status = STATUS_NO_MEMORY;
    (void)state;

    for (long n = 0; status != STATUS_OK; n++) {
        memory_fail_after(n);
        status = kv_cache_create(4, &cache);
        memory_fail_after(-1);
        if (status != STATUS_OK) {
            assert_int_equal(status, STATUS_NO_MEMORY);
            assert_null(cache);
            assert_int_equal(memory_live_blocks(), n_live);
        }
    }
    kv_cache_destroy(cache);
    kv_cache_destroy(NULL);
    assert_int_equal(memory_live_blocks(), n_live);
}

static void create_refuses_an_empty_cache(void **state)
{
    struct kv_cache *cache = NULL;
    (void)state;

    assert_int_equal(kv_cache_create(0, &cache), STATUS_BAD_ARGUMENT);
    assert_null(cache);
}

static void pages_for_rounds_up(void **state)
{
    (void)state;
    assert_int_equal(kv_cache_pages_for(0), 0);
    assert_int_equal(kv_cache_pages_for(1), 1);
    assert_int_equal(kv_cache_pages_for(64), 1);
    assert_int_equal(kv_cache_pages_for(65), 2);
}

static void reserve_fails_when_every_page_is_promised_or_owned(void **state)
{
    struct kv_cache *cache = make_cache(3);
    (void)state;

    assert_true(kv_cache_reserve(cache, 2));
    assert_false(kv_cache_reserve(cache, 2));
    const int32_t page = kv_cache_take(cache);
    assert_int_equal(kv_cache_n_available(cache), 1);
    assert_int_equal(kv_cache_n_used(cache), 1);
    assert_true(kv_cache_reserve(cache, 1));
    assert_false(kv_cache_reserve(cache, 1));
    kv_cache_unreserve(cache, 2);
    assert_int_equal(kv_cache_n_available(cache), 2);
    kv_cache_release(cache, page);
    assert_int_equal(kv_cache_n_available(cache), 3);
    kv_cache_destroy(cache);
}

static void a_shared_page_is_freed_by_its_last_owner(void **state)
{
    struct kv_cache *cache = make_cache(1);
    (void)state;

    assert_true(kv_cache_reserve(cache, 1));
    const int32_t page = kv_cache_take(cache);
    kv_cache_share(cache, page);
    kv_cache_share(cache, page);
    kv_cache_release(cache, page);
    kv_cache_release(cache, page);
    assert_int_equal(kv_cache_n_used(cache), 1);
    assert_false(kv_cache_reserve(cache, 1));
    kv_cache_release(cache, page);
    assert_int_equal(kv_cache_n_used(cache), 0);
    assert_true(kv_cache_reserve(cache, 1));
    kv_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_fails_cleanly_at_every_allocation),
        cmocka_unit_test(create_refuses_an_empty_cache),
        cmocka_unit_test(pages_for_rounds_up),
        cmocka_unit_test(reserve_fails_when_every_page_is_promised_or_owned),
        cmocka_unit_test(a_shared_page_is_freed_by_its_last_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
