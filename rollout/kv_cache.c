/* Page bookkeeping: a stack of free pages, a reference count each, and a count of promises. */
#include "rollout/kv_cache.h"

#include "base/memory.h"
#include "kernels/backend.h"

#include <assert.h>

struct kv_cache {
    size_t n_pages, n_free, n_promised; /* n_promised <= n_free always */
    int32_t *free_pages;                /* a stack: the page freed last is taken first */
    uint32_t *n_owners;                 /* (n_pages) */
};

enum status kv_cache_create(size_t n_pages, struct kv_cache **out)
{
    struct kv_cache *cache = NULL;

    *out = NULL;
    if (n_pages == 0 || n_pages > (size_t)INT32_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "a cache of %zu pages, want 1 to %d", n_pages,
                          INT32_MAX);
    }
    enum status status = memory_alloc(1, sizeof(*cache), &cache);
    if (status != STATUS_OK) {
        return status;
    }
    status = memory_alloc(n_pages, sizeof(*cache->free_pages), &cache->free_pages);
    if (status == STATUS_OK) {
        status = memory_alloc(n_pages, sizeof(*cache->n_owners), &cache->n_owners);
    }
    if (status != STATUS_OK) {
        kv_cache_destroy(cache);
        return status;
    }
    cache->n_pages = n_pages;
    cache->n_free = n_pages;
    for (size_t i = 0; i < n_pages; i++) {
        cache->free_pages[i] = (int32_t)(n_pages - 1 - i); /* page 0 is on top */
    }
    *out = cache;
    return STATUS_OK;
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    memory_free(cache->n_owners);
    memory_free(cache->free_pages);
    memory_free(cache);
}

size_t kv_cache_pages_for(size_t n_tokens)
{
    return n_tokens / KV_BLOCK_TOKENS + (n_tokens % KV_BLOCK_TOKENS != 0 ? 1 : 0);
}

bool kv_cache_reserve(struct kv_cache *cache, size_t n)
{
    if (n > kv_cache_n_available(cache)) {
        return false;
    }
    cache->n_promised += n;
    return true;
}

void kv_cache_unreserve(struct kv_cache *cache, size_t n)
{
    assert(n <= cache->n_promised);
    cache->n_promised -= n;
}

int32_t kv_cache_take(struct kv_cache *cache)
{
    assert(cache->n_promised > 0);
    cache->n_promised--;
    const int32_t page = cache->free_pages[--cache->n_free];
    cache->n_owners[page] = 1;
    return page;
}

void kv_cache_share(struct kv_cache *cache, int32_t page)
{
    assert(cache->n_owners[page] > 0);
    cache->n_owners[page]++;
}

void kv_cache_release(struct kv_cache *cache, int32_t page)
{
    assert(cache->n_owners[page] > 0);
    if (--cache->n_owners[page] == 0) {
        cache->free_pages[cache->n_free++] = page;
    }
}

size_t kv_cache_n_pages(const struct kv_cache *cache)
{
    return cache->n_pages;
}

size_t kv_cache_n_used(const struct kv_cache *cache)
{
    return cache->n_pages - cache->n_free;
}

size_t kv_cache_n_available(const struct kv_cache *cache)
{
    return cache->n_free - cache->n_promised;
}
