/* Two open-addressing tables of indices over one growing array; the arena holds tokens and
 * log-probabilities. */
#include "trainer/sample_store.h"

#include "base/arena.h"
#include "base/hash.h"
#include "base/memory.h"

#include <string.h>

#define FIRST_CAPACITY ((size_t)1024) /* samples; tables have twice as many slots */
#define EMPTY UINT32_MAX

struct sample_store {
    struct arena *arena;
    struct stored_sample *samples;
    size_t count, capacity;
    uint32_t *by_place, *by_id; /* (2 * capacity) */
};

static enum status tables_alloc(size_t capacity, uint32_t **by_place, uint32_t **by_id)
{
    TRY(memory_alloc(2 * capacity, sizeof(uint32_t), by_place));
    const enum status status = memory_alloc(2 * capacity, sizeof(uint32_t), by_id);
    if (status != STATUS_OK) {
        memory_free(*by_place);
        *by_place = NULL;
        return status;
    }
    memset(*by_place, 0xff, 2 * capacity * sizeof(uint32_t));
    memset(*by_id, 0xff, 2 * capacity * sizeof(uint32_t));
    return STATUS_OK;
}

enum status sample_store_create(struct sample_store **out)
{
    struct sample_store *store = NULL;
    *out = NULL;
    TRY(memory_alloc(1, sizeof(*store), &store));
    store->capacity = FIRST_CAPACITY;
    enum status status = arena_create((size_t)1 << 20, &store->arena);
    if (status == STATUS_OK) {
        status = memory_alloc(store->capacity, sizeof(*store->samples), &store->samples);
    }
    if (status == STATUS_OK) {
        status = tables_alloc(store->capacity, &store->by_place, &store->by_id);
    }
    if (status != STATUS_OK) {
        sample_store_destroy(store);
        return status;
    }
    *out = store;
    return STATUS_OK;
}

void sample_store_destroy(struct sample_store *store)
{
    if (store == NULL) {
        return;
    }
    sample_store_clear(store);
    arena_destroy(store->arena);
    memory_free(store->samples);
    memory_free(store->by_place);
    memory_free(store->by_id);
    memory_free(store);
}

static size_t place_slot(uint64_t group_id, int32_t idx, size_t n_slots)
{
    const uint64_t key[2] = {group_id, (uint64_t)(uint32_t)idx};
    return (size_t)(hash_64(key, sizeof(key)) % n_slots);
}

static size_t id_slot(int64_t sample_id, size_t n_slots)
{
    return (size_t)(hash_64(&sample_id, sizeof(sample_id)) % n_slots);
}

static void put(uint32_t *table, size_t slot, size_t n_slots, size_t index)
{
    while (table[slot] != EMPTY) {
        slot = (slot + 1) % n_slots;
    }
    table[slot] = (uint32_t)index;
}

static void index_sample(struct sample_store *store, size_t index)
{
    const struct stored_sample *stored = &store->samples[index];
    const size_t n_slots = 2 * store->capacity;
    put(store->by_place, place_slot(stored->group_id, stored->sample.idx, n_slots), n_slots, index);
    put(store->by_id, id_slot(stored->sample.sample_id, n_slots), n_slots, index);
}

static enum status grow(struct sample_store *store)
{
    const size_t size = sizeof(*store->samples);
    uint32_t *by_place = NULL;
    uint32_t *by_id = NULL;
    TRY(memory_resize(store->count * size, 2 * store->capacity, size, &store->samples));
    TRY(tables_alloc(2 * store->capacity, &by_place, &by_id));
    memory_free(store->by_place);
    memory_free(store->by_id);
    store->by_place = by_place;
    store->by_id = by_id;
    store->capacity *= 2;
    for (size_t i = 0; i < store->count; i++) {
        index_sample(store, i);
    }
    return STATUS_OK;
}

static enum status copy_arrays(struct sample_store *store, const struct message *scored,
                               struct sample *sample)
{
    int32_t *tokens = NULL;
    float *logprobs = NULL;
    size_t n_logprobs = 0;
    const void *message_tokens = message_array(scored, "tokens", &sample->n_tokens);
    const void *message_logprobs = message_array(scored, "logprobs", &n_logprobs);
    if (sample->n_tokens == 0 || n_logprobs != sample->n_tokens) {
        return status_set(STATUS_BAD_FORMAT, "sample %lld has %zu tokens and %zu log-probabilities",
                          (long long)sample->sample_id, sample->n_tokens, n_logprobs);
    }
    TRY(arena_alloc(store->arena, sample->n_tokens, sizeof(int32_t), &tokens));
    TRY(arena_alloc(store->arena, sample->n_tokens, sizeof(float), &logprobs));
    memcpy(tokens, message_tokens, sample->n_tokens * sizeof(int32_t));
    memcpy(logprobs, message_logprobs, sample->n_tokens * sizeof(float));
    sample->tokens = tokens;
    sample->logprobs = logprobs;
    return STATUS_OK;
}

enum status sample_store_add(struct sample_store *store, const struct message *scored, bool *is_new)
{
    const char *sample_status = message_text(scored, "status", "");
    struct stored_sample stored = {
        .group_id = (uint64_t)message_int(scored, "group_id", 0),
        .sample = {.sample_id = message_int(scored, "sample_id", 0),
                   .seed = message_hex64(scored, "seed"),
                   .idx = (int32_t)message_int(scored, "idx", 0),
                   .has_reward = strcmp(sample_status, "ok") == 0,
                   .is_truncated = strcmp(message_text(scored, "finish", ""), "length") == 0,
                   .reward = message_number(scored, "reward", 0.0)},
        .is_masked = strcmp(sample_status, "masked") == 0,
        .version = (size_t)message_int(scored, "version_first", 0),
    };
    *is_new = sample_store_find(store, stored.group_id, stored.sample.idx) == NULL;
    if (!*is_new) {
        return STATUS_OK;
    }
    if (store->count == store->capacity) {
        TRY(grow(store));
    }
    TRY(copy_arrays(store, scored, &stored.sample));
    stored.scores = json_retain(message_json(scored, "scores"));
    store->samples[store->count] = stored;
    index_sample(store, store->count++);
    return STATUS_OK;
}

const struct stored_sample *sample_store_find(const struct sample_store *store, uint64_t group_id,
                                              int32_t idx)
{
    const size_t n_slots = 2 * store->capacity;
    size_t slot = place_slot(group_id, idx, n_slots);
    while (store->by_place[slot] != EMPTY) {
        const struct stored_sample *stored = &store->samples[store->by_place[slot]];
        if (stored->group_id == group_id && stored->sample.idx == idx) {
            return stored;
        }
        slot = (slot + 1) % n_slots;
    }
    return NULL;
}

const struct stored_sample *sample_store_find_id(const struct sample_store *store,
                                                 int64_t sample_id)
{
    const size_t n_slots = 2 * store->capacity;
    size_t slot = id_slot(sample_id, n_slots);
    while (store->by_id[slot] != EMPTY) {
        const struct stored_sample *stored = &store->samples[store->by_id[slot]];
        if (stored->sample.sample_id == sample_id) {
            return stored;
        }
        slot = (slot + 1) % n_slots;
    }
    return NULL;
}

size_t sample_store_count(const struct sample_store *store)
{
    return store->count;
}

const struct stored_sample *sample_store_at(const struct sample_store *store, size_t index)
{
    return &store->samples[index];
}

void sample_store_clear(struct sample_store *store)
{
    if (store->samples == NULL) {
        return;
    }
    for (size_t i = 0; i < store->count; i++) {
        json_destroy(store->samples[i].scores);
    }
    store->count = 0;
    if (store->by_place != NULL) {
        memset(store->by_place, 0xff, 2 * store->capacity * sizeof(uint32_t));
        memset(store->by_id, 0xff, 2 * store->capacity * sizeof(uint32_t));
    }
    arena_reset(store->arena);
}
