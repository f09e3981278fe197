/* Page bookkeeping: a stack of free pages, a reference count each, a table of names, and a list of
 * kept pages in the order in which they were given back. */
#include "rollout/kv_cache.h"

#include "base/memory.h"
#include "kernels/backend.h"

#include <assert.h>
#include <string.h>

#define NO_PAGE (-1)
/* Of all pages, those that are kept at most: memory that was never touched is not used up for
 * prompts that may not come again. */
#define KEPT_SHARE ((size_t)4)

struct page {
    struct digest256 name;
    uint64_t turn;         /* in which it was named; 0: no name */
    uint32_t n_owners;     /* 0: free, or kept if it has a name */
    int32_t next;          /* with a name of the same bucket */
    int32_t before, after; /* among the kept */
};

struct kv_cache {
    size_t n_pages, n_free, n_kept, n_buckets;
    uint64_t turn;
    int32_t *free_pages; /* a stack: the page freed last is taken first */
    struct page *pages;  /* (n_pages) */
    int32_t *buckets;    /* (n_buckets), a power of two: first page, or NO_PAGE */
    int32_t first_kept, last_kept;
};

static enum status allocate(struct kv_cache *cache)
{
    TRY(memory_alloc(cache->n_pages, sizeof(*cache->free_pages), &cache->free_pages));
    TRY(memory_alloc(cache->n_pages, sizeof(*cache->pages), &cache->pages));
    return memory_alloc(cache->n_buckets, sizeof(*cache->buckets), &cache->buckets);
}

enum status kv_cache_create(size_t n_pages, struct kv_cache **out)
{
    struct kv_cache *cache = NULL;

    *out = NULL;
    if (n_pages == 0 || n_pages > (size_t)INT32_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "a cache of %zu pages, want 1 to %d", n_pages,
                          INT32_MAX);
    }
    TRY(memory_alloc(1, sizeof(*cache), &cache));
    *cache = (struct kv_cache){.n_pages = n_pages,
                               .n_free = n_pages,
                               .n_buckets = 1,
                               .turn = 1,
                               .first_kept = NO_PAGE,
                               .last_kept = NO_PAGE};
    while (cache->n_buckets < n_pages) {
        cache->n_buckets *= 2;
    }
    const enum status status = allocate(cache);
    if (status != STATUS_OK) {
        kv_cache_destroy(cache);
        return status;
    }
    for (size_t i = 0; i < n_pages; i++) {
        cache->free_pages[i] = (int32_t)(n_pages - 1 - i); /* page 0 is on top */
    }
    for (size_t i = 0; i < cache->n_buckets; i++) {
        cache->buckets[i] = NO_PAGE;
    }
    *out = cache;
    return STATUS_OK;
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    memory_free(cache->buckets);
    memory_free(cache->pages);
    memory_free(cache->free_pages);
    memory_free(cache);
}

size_t kv_cache_pages_for(size_t n_tokens)
{
    return n_tokens / KV_BLOCK_TOKENS + (n_tokens % KV_BLOCK_TOKENS != 0 ? 1 : 0);
}

static int32_t *bucket_of(struct kv_cache *cache, const struct digest256 *name)
{
    uint64_t bits;

    memcpy(&bits, name->bytes, sizeof(bits));
    return &cache->buckets[bits & (cache->n_buckets - 1)];
}

static int32_t page_named(struct kv_cache *cache, const struct digest256 *name)
{
    int32_t page = *bucket_of(cache, name);

    while (page != NO_PAGE &&
           memcmp(cache->pages[page].name.bytes, name->bytes, sizeof(name->bytes)) != 0) {
        page = cache->pages[page].next;
    }
    return page;
}

static void remove_name(struct kv_cache *cache, int32_t page)
{
    int32_t *link = bucket_of(cache, &cache->pages[page].name);

    while (*link != page) {
        link = &cache->pages[*link].next;
    }
    *link = cache->pages[page].next;
    cache->pages[page].turn = 0;
}

static void keep(struct kv_cache *cache, int32_t page)
{
    cache->pages[page].before = cache->last_kept;
    cache->pages[page].after = NO_PAGE;
    *(cache->last_kept == NO_PAGE ? &cache->first_kept : &cache->pages[cache->last_kept].after) =
        page;
    cache->last_kept = page;
    cache->n_kept++;
}

static void unkeep(struct kv_cache *cache, int32_t page)
{
    const int32_t before = cache->pages[page].before;
    const int32_t after = cache->pages[page].after;

    *(before == NO_PAGE ? &cache->first_kept : &cache->pages[before].after) = after;
    *(after == NO_PAGE ? &cache->last_kept : &cache->pages[after].before) = before;
    cache->n_kept--;
}

/* The page kept longest becomes free. */
static void drop_kept(struct kv_cache *cache)
{
    const int32_t page = cache->first_kept;

    unkeep(cache, page);
    remove_name(cache, page);
    cache->free_pages[cache->n_free++] = page;
}

bool kv_cache_take(struct kv_cache *cache, int32_t *page)
{
    if (kv_cache_n_available(cache) == 0) {
        return false;
    }
    if (cache->n_free == 0) {
        drop_kept(cache);
    }
    *page = cache->free_pages[--cache->n_free];
    cache->pages[*page].n_owners = 1;
    return true;
}

void kv_cache_share(struct kv_cache *cache, int32_t page)
{
    assert(cache->pages[page].n_owners > 0);
    cache->pages[page].n_owners++;
}

void kv_cache_release(struct kv_cache *cache, int32_t page)
{
    assert(cache->pages[page].n_owners > 0);
    if (--cache->pages[page].n_owners > 0) {
        return;
    }
    if (cache->pages[page].turn == 0) {
        cache->free_pages[cache->n_free++] = page;
        return;
    }
    keep(cache, page);
    if (cache->n_kept > cache->n_pages / KEPT_SHARE) {
        drop_kept(cache);
    }
}

void kv_cache_begin_turn(struct kv_cache *cache)
{
    cache->turn++;
}

void kv_cache_name(struct kv_cache *cache, int32_t page, const struct digest256 *name)
{
    struct page *named = &cache->pages[page];
    int32_t *bucket = bucket_of(cache, name);

    assert(named->n_owners > 0);
    if (named->turn != 0 || page_named(cache, name) != NO_PAGE) {
        return;
    }
    named->name = *name;
    named->turn = cache->turn;
    named->next = *bucket;
    *bucket = page;
}

enum kv_found kv_cache_find(struct kv_cache *cache, const struct digest256 *name, int32_t *page)
{
    const int32_t found = page_named(cache, name);

    if (found == NO_PAGE) {
        return KV_ABSENT;
    }
    if (cache->pages[found].turn == cache->turn) {
        return KV_COMING;
    }
    if (cache->pages[found].n_owners == 0) {
        unkeep(cache, found);
    }
    cache->pages[found].n_owners++;
    *page = found;
    return KV_READY;
}

void kv_cache_forget(struct kv_cache *cache)
{
    while (cache->n_kept > 0) {
        drop_kept(cache);
    }
    for (size_t i = 0; i < cache->n_pages; i++) {
        cache->pages[i].turn = 0;
    }
    for (size_t i = 0; i < cache->n_buckets; i++) {
        cache->buckets[i] = NO_PAGE;
    }
}

size_t kv_cache_n_pages(const struct kv_cache *cache)
{
    return cache->n_pages;
}

size_t kv_cache_n_used(const struct kv_cache *cache)
{
    return cache->n_pages - cache->n_free - cache->n_kept;
}

size_t kv_cache_n_available(const struct kv_cache *cache)
{
    return cache->n_free + cache->n_kept;
}
