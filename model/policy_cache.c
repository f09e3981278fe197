/* Owns the latent cache of sampling: pages of entries of every layer, and of the modules that
 * draft. Which page is whose is the engine's matter (rollout/kv_cache.h). */
#include "base/memory.h"
#include "model/policy_internal.h"

/* The model's, and those of the modules that draft. */
static size_t cached_layers(const struct policy *policy)
{
    return policy->config.n_layers + policy_draft_modules(policy);
}

enum status policy_cache_create(struct policy *policy, size_t n_pages, struct policy_cache **out)
{
    struct policy_cache *cache;
    size_t n;
    enum status status;

    *out = NULL;
    if (n_pages > (size_t)INT32_MAX ||
        !size_multiply(n_pages * cached_layers(policy), policy->sizes.page_stride, &n)) {
        return status_set(STATUS_NO_MEMORY, "a cache of %zu pages overflows a size", n_pages);
    }
    TRY(memory_alloc(1, sizeof(*cache), &cache));
    cache->policy = policy;
    cache->n_pages = n_pages;
    status = policy->backend->ops->alloc(policy->backend, n, sizeof(float), &cache->data);
    if (status == STATUS_OK) {
        status = memory_alloc(n_pages, sizeof(*cache->writers), &cache->writers);
    }
    if (status != STATUS_OK) {
        policy_cache_destroy(cache);
        return status;
    }
    *out = cache;
    return STATUS_OK;
}

void policy_cache_destroy(struct policy_cache *cache)
{
    if (cache != NULL) {
        cache->policy->backend->ops->release(cache->policy->backend, cache->data);
        memory_free(cache->writers);
        memory_free(cache);
    }
}

size_t policy_cache_page_bytes(const struct policy *policy)
{
    return cached_layers(policy) * policy->sizes.page_stride * sizeof(float);
}

struct kv_pages policy_cache_layer(const struct policy_cache *cache, size_t layer)
{
    const struct policy *policy = cache->policy;
    const struct policy_sizes *s = &policy->sizes;
    struct kv_pages pages = policy_cache_form(policy);

    pages.data = cache->data + layer * cache->n_pages * s->page_stride;
    pages.entry_stride = s->entry_stride;
    pages.page_stride = s->page_stride;
    return pages;
}

enum status policy_cache_copy_page(struct policy_cache *cache, int32_t from, int32_t to,
                                   size_t n_tokens)
{
    const struct policy *policy = cache->policy;
    const size_t page = policy->sizes.page_stride;
    const size_t n = n_tokens < KV_BLOCK_TOKENS ? n_tokens : KV_BLOCK_TOKENS;

    if (from < 0 || to < 0 || (size_t)from >= cache->n_pages || (size_t)to >= cache->n_pages) {
        return status_set(STATUS_BAD_ARGUMENT, "page %d to %d: the cache has %zu", (int)from,
                          (int)to, cache->n_pages);
    }
    for (size_t i = 0; i < cached_layers(policy); i++) {
        float *data = policy_cache_layer(cache, i).data;

        TRY(policy->backend->ops->gather_rows(
            policy->backend, &(struct rows_args){.src = data + (size_t)from * page,
                                                 .src_stride = page,
                                                 .rows = policy->identity,
                                                 .dst = data + (size_t)to * page,
                                                 .dst_stride = page,
                                                 .n_rows = 1,
                                                 .d = n * policy->sizes.entry_stride}));
    }
    return STATUS_OK;
}

enum status policy_check_spans(const struct policy_cache *cache, const struct kv_span *spans,
                               size_t n_spans, size_t n_rows)
{
    size_t n_covered = 0;

    for (size_t i = 0; i < n_spans; i++) {
        const struct kv_span *span = &spans[i];
        const size_t n_tokens = span->n_cached + span->n_rows;

        if (span->first_row != n_covered || span->n_rows > n_rows - n_covered) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "span %zu begins at row %zu, want %zu and %zu rows in all", i,
                              span->first_row, n_covered, n_rows);
        }
        for (size_t j = 0; j * KV_BLOCK_TOKENS < n_tokens; j++) {
            if (span->blocks[j] < 0 || (size_t)span->blocks[j] >= cache->n_pages) {
                return status_set(STATUS_BAD_ARGUMENT, "span %zu names page %d of %zu", i,
                                  (int)span->blocks[j], cache->n_pages);
            }
        }
        n_covered += span->n_rows;
    }
    if (n_covered != n_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "the spans cover %zu of %zu rows", n_covered,
                          n_rows);
    }
    return STATUS_OK;
}
