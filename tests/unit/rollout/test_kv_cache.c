#include "base/memory.h"
#include "kernels/backend.h"
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
    assert_int_equal(kv_cache_pages_for(KV_BLOCK_TOKENS), 1);
    assert_int_equal(kv_cache_pages_for(KV_BLOCK_TOKENS + 1), 2);
}

static struct digest256 name_of(unsigned char n)
{
    struct digest256 name = {.bytes = {0}};

    name.bytes[0] = (unsigned char)(n % 2); /* few buckets */
    name.bytes[31] = n;
    return name;
}

static int32_t take(struct kv_cache *cache)
{
    int32_t page = -1;

    assert_true(kv_cache_take(cache, &page));
    return page;
}

/* A page with a name, which was written in a turn that is over. */
static int32_t take_named(struct kv_cache *cache, unsigned char n)
{
    const int32_t page = take(cache);
    const struct digest256 name = name_of(n);

    kv_cache_name(cache, page, &name);
    kv_cache_begin_turn(cache);
    return page;
}

static enum kv_found find(struct kv_cache *cache, unsigned char n, int32_t *page)
{
    const struct digest256 name = name_of(n);

    return kv_cache_find(cache, &name, page);
}

static void take_fails_when_every_page_has_an_owner(void **state)
{
    struct kv_cache *cache = make_cache(2);
    int32_t page = -1;
    (void)state;

    const int32_t first = take(cache);
    const int32_t second = take(cache);
    assert_int_not_equal(first, second);
    assert_int_equal(kv_cache_n_available(cache), 0);
    assert_false(kv_cache_take(cache, &page));
    kv_cache_release(cache, first);
    assert_int_equal(kv_cache_n_used(cache), 1);
    assert_int_equal(take(cache), first);
    kv_cache_destroy(cache);
}

static void a_shared_page_is_freed_by_its_last_owner(void **state)
{
    struct kv_cache *cache = make_cache(1);
    int32_t page = -1;
    (void)state;

    page = take(cache);
    kv_cache_share(cache, page);
    kv_cache_share(cache, page);
    kv_cache_release(cache, page);
    kv_cache_release(cache, page);
    assert_int_equal(kv_cache_n_used(cache), 1);
    assert_false(kv_cache_take(cache, &page));
    kv_cache_release(cache, page);
    assert_int_equal(kv_cache_n_used(cache), 0);
    assert_true(kv_cache_take(cache, &page));
    kv_cache_destroy(cache);
}

static void a_named_page_is_found_from_the_next_turn_on(void **state)
{
    struct kv_cache *cache = make_cache(8);
    const struct digest256 name = name_of(1);
    int32_t found = -1;
    (void)state;

    const int32_t page = take(cache);
    assert_int_equal(find(cache, 1, &found), KV_ABSENT);
    kv_cache_name(cache, page, &name);
    assert_int_equal(find(cache, 1, &found), KV_COMING);
    kv_cache_begin_turn(cache);
    assert_int_equal(find(cache, 1, &found), KV_READY);
    assert_int_equal(found, page);
    kv_cache_release(cache, page);
    kv_cache_release(cache, page);
    assert_int_equal(kv_cache_n_used(cache), 0);
    assert_int_equal(kv_cache_n_available(cache), 8);
    assert_int_equal(find(cache, 1, &found), KV_READY); /* kept without an owner */
    assert_int_equal(found, page);
    assert_int_equal(kv_cache_n_used(cache), 1);
    assert_int_equal(find(cache, 3, &found), KV_ABSENT); /* of the same bucket */
    kv_cache_destroy(cache);
}

static void a_name_stays_with_the_page_that_had_it_first(void **state)
{
    struct kv_cache *cache = make_cache(8);
    int32_t found = -1;
    (void)state;

    const int32_t first = take_named(cache, 1);
    const int32_t second = take_named(cache, 1);
    assert_int_equal(find(cache, 1, &found), KV_READY);
    assert_int_equal(found, first);
    kv_cache_release(cache, second);
    assert_int_equal(take(cache), second); /* it was free at once */
    kv_cache_destroy(cache);
}

static void the_page_kept_longest_makes_room_first(void **state)
{
    struct kv_cache *cache = make_cache(8);
    int32_t pages[4];
    int32_t found = -1;
    (void)state;

    for (unsigned char i = 0; i < 4; i++) {
        pages[i] = take_named(cache, i);
    }
    kv_cache_release(cache, pages[2]);
    kv_cache_release(cache, pages[0]); /* two are kept: a quarter */
    for (size_t i = 0; i < 4; i++) {
        (void)take(cache);
    }
    assert_int_equal(kv_cache_n_available(cache), 2);
    assert_int_equal(find(cache, 2, &found), KV_READY);
    kv_cache_release(cache, found); /* used last now */
    assert_int_equal(take(cache), pages[0]);
    assert_int_equal(find(cache, 0, &found), KV_ABSENT);
    assert_int_equal(find(cache, 1, &found), KV_READY);
    assert_int_equal(find(cache, 2, &found), KV_READY);
    assert_int_equal(kv_cache_n_available(cache), 0);
    assert_false(kv_cache_take(cache, &found));
    kv_cache_destroy(cache);
}

static void no_more_than_a_share_of_the_pages_is_kept(void **state)
{
    struct kv_cache *cache = make_cache(8);
    int32_t pages[4];
    int32_t found = -1;
    (void)state;

    for (unsigned char i = 0; i < 4; i++) {
        pages[i] = take_named(cache, i);
    }
    for (size_t i = 4; i > 0; i--) {
        kv_cache_release(cache, pages[i - 1]); /* the end of a prompt first */
    }
    assert_int_equal(kv_cache_n_available(cache), 8);
    assert_int_equal(find(cache, 3, &found), KV_ABSENT);
    assert_int_equal(find(cache, 2, &found), KV_ABSENT);
    assert_int_equal(find(cache, 1, &found), KV_READY);
    assert_int_equal(find(cache, 0, &found), KV_READY);
    kv_cache_destroy(cache);
}

static void forget_leaves_no_name(void **state)
{
    struct kv_cache *cache = make_cache(8);
    int32_t found = -1;
    (void)state;

    const int32_t owned = take_named(cache, 1);
    kv_cache_release(cache, take_named(cache, 2));
    kv_cache_forget(cache);
    assert_int_equal(find(cache, 1, &found), KV_ABSENT);
    assert_int_equal(find(cache, 2, &found), KV_ABSENT);
    assert_int_equal(kv_cache_n_used(cache), 1);
    kv_cache_release(cache, owned);
    assert_int_equal(kv_cache_n_used(cache), 0);
    assert_int_equal(take_named(cache, 1), owned); /* free, not kept */
    assert_int_equal(find(cache, 1, &found), KV_READY);
    kv_cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create_fails_cleanly_at_every_allocation),
        cmocka_unit_test(create_refuses_an_empty_cache),
        cmocka_unit_test(pages_for_rounds_up),
        cmocka_unit_test(take_fails_when_every_page_has_an_owner),
        cmocka_unit_test(a_shared_page_is_freed_by_its_last_owner),
        cmocka_unit_test(a_named_page_is_found_from_the_next_turn_on),
        cmocka_unit_test(a_name_stays_with_the_page_that_had_it_first),
        cmocka_unit_test(the_page_kept_longest_makes_room_first),
        cmocka_unit_test(no_more_than_a_share_of_the_pages_is_kept),
        cmocka_unit_test(forget_leaves_no_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
