/* Owns which page of the latent cache is whose: reference counts, a free list, and names of pages
 * that hold a full block of some prompt. A named page that nobody owns any more is kept, the one
 * that was given back last for longest, until its room is wanted: so a prompt finds what another
 * one with the same beginning has computed. Pure: page numbers only; the floats behind them are
 * policy_cache's, and the names are the caller's business (scheduler). */
#ifndef HONE_ROLLOUT_KV_CACHE_H
#define HONE_ROLLOUT_KV_CACHE_H

#include "base/hash.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kv_cache;

MUST_CHECK enum status kv_cache_create(size_t n_pages, struct kv_cache **out);
void kv_cache_destroy(struct kv_cache *cache); /* NULL is legal */

/* Pages that hold n_tokens tokens. */
size_t kv_cache_pages_for(size_t n_tokens);

/* A page with one owner and without a name: a free one, else the one kept longest. False when every
 * page has an owner. */
bool kv_cache_take(struct kv_cache *cache, int32_t *page);
/* One more owner of a page. */
void kv_cache_share(struct kv_cache *cache, int32_t page);
/* One owner less. Without any the page is kept if it has a name, else free. Of pages that make up a
 * prompt the last is to be given back first, for without those before it it is of no use. */
void kv_cache_release(struct kv_cache *cache, int32_t page);

/* A forward begins: what was named before is written by now. */
void kv_cache_begin_turn(struct kv_cache *cache);
/* The forward that begins fills the page, which has an owner, with what the name stands for. A name
 * that another page has already stays with that one. */
void kv_cache_name(struct kv_cache *cache, int32_t page, const struct digest256 *name);
enum kv_found {
    KV_ABSENT,
    KV_COMING, /* named in this turn: nobody may read it before the next */
    KV_READY,  /* *page has one more owner */
};
enum kv_found kv_cache_find(struct kv_cache *cache, const struct digest256 *name, int32_t *page);
/* No page has a name any more: the weights are others. */
void kv_cache_forget(struct kv_cache *cache);

size_t kv_cache_n_pages(const struct kv_cache *cache);
size_t kv_cache_n_used(const struct kv_cache *cache);      /* pages with an owner */
size_t kv_cache_n_available(const struct kv_cache *cache); /* free or kept */

#endif
