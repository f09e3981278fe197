/* Owns which page of the latent cache is whose: reference counts, a free list, and promises. A
 * sequence is admitted only after all pages it can ever need are promised (kv_cache_reserve), so a
 * running sequence never waits for a page and nothing can deadlock. Pure: page numbers only; the
 * floats behind them are policy_cache's. */
#ifndef HONE_ROLLOUT_KV_CACHE_H
#define HONE_ROLLOUT_KV_CACHE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_cache;

MUST_CHECK enum status kv_cache_create(size_t n_pages, struct kv_cache **out);
void kv_cache_destroy(struct kv_cache *cache); /* NULL is legal */

/* Pages that hold n_tokens tokens. */
size_t kv_cache_pages_for(size_t n_tokens);

/* Promises n pages for later kv_cache_take; false, and nothing promised, when they are not there.
 */
bool kv_cache_reserve(struct kv_cache *cache, size_t n);
/* Gives back n promises that will not be taken. */
void kv_cache_unreserve(struct kv_cache *cache, size_t n);
/* Turns one promise into a page with one reference. There must be a promise. */
int32_t kv_cache_take(struct kv_cache *cache);
/* One more owner of a page. */
void kv_cache_share(struct kv_cache *cache, int32_t page);
/* One owner less; the last one frees the page. */
void kv_cache_release(struct kv_cache *cache, int32_t page);

size_t kv_cache_n_pages(const struct kv_cache *cache);
size_t kv_cache_n_used(const struct kv_cache *cache);      /* pages with an owner */
size_t kv_cache_n_available(const struct kv_cache *cache); /* neither owned nor promised */

#endif
