/* Owns what tests of ops on a paged cache share: pages of whole sequences, in an order that is not
 * the tokens', and the spans of all their rows or of some. Include it after cmocka.h. */
#ifndef HONE_TESTS_OPS_PAGED_CACHE_H
#define HONE_TESTS_OPS_PAGED_CACHE_H

#include "tests/ops/op_fixture.h"

#define CACHE_SEQUENCES_MAX 8

struct cache {
    struct kv_pages pages;
    int32_t *blocks[CACHE_SEQUENCES_MAX];
    size_t n_pages;
};

static inline size_t pages_of(size_t n_tokens)
{
    return (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

static inline size_t cache_floats(const struct cache *cache)
{
    return cache->n_pages * cache->pages.page_stride;
}

/* Pages of zeroes; `pages` has what entries are, but neither data nor a stride of pages. */
static inline void cache_allocate(struct kv_pages pages, size_t n_sequences, const size_t *lengths,
                                  struct cache *cache)
{
    size_t next = 0;

    *cache = (struct cache){.pages = pages};
    for (size_t s = 0; s < n_sequences; s++) {
        cache->n_pages += pages_of(lengths[s]);
    }
    cache->pages.page_stride = KV_BLOCK_TOKENS * pages.entry_stride + 5;
    cache->pages.data = new_floats(cache_floats(cache));
    for (size_t s = 0; s < n_sequences; s++) {
        assert_ok(memory_alloc(pages_of(lengths[s]), sizeof(int32_t), &cache->blocks[s]));
        for (size_t p = 0; p < pages_of(lengths[s]); p++) {
            cache->blocks[s][p] = (int32_t)(cache->n_pages - 1 - next++);
        }
    }
}

static inline void drop_cache(struct cache *cache)
{
    memory_free(cache->pages.data);
    for (size_t s = 0; s < CACHE_SEQUENCES_MAX; s++) {
        memory_free(cache->blocks[s]);
    }
}

static inline void whole_spans(size_t n_sequences, const size_t *lengths, const struct cache *cache,
                               struct kv_span *spans)
{
    size_t row = 0;

    for (size_t s = 0; s < n_sequences; s++) {
        spans[s] = (struct kv_span){row, lengths[s], 0, cache->blocks[s]};
        row += lengths[s];
    }
}

/* Tokens at .. at + step - 1 of each sequence that has some; returns of how many. */
static inline size_t step_spans(size_t n_sequences, const size_t *lengths,
                                const struct cache *cache, size_t at, size_t step,
                                struct kv_span *spans)
{
    size_t n_spans = 0, row = 0;

    for (size_t s = 0; s < n_sequences; s++) {
        if (at < lengths[s]) {
            const size_t left = lengths[s] - at;
            spans[n_spans++] =
                (struct kv_span){row + at, left < step ? left : step, at, cache->blocks[s]};
        }
        row += lengths[s];
    }
    return n_spans;
}

#endif
