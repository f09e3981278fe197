/* Owns a map from 64-bit ids to pointers: linear probing, no tombstones. */
#ifndef HONE_REWARD_ID_MAP_H
#define HONE_REWARD_ID_MAP_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct id_entry {
    int64_t id;
    void *value; /* NULL: free slot */
};
/* Zeros are an empty map. */
struct id_map {
    struct id_entry *entries;
    size_t room, count; /* room: 0 or a power of two */
};
void id_map_dispose(struct id_map *map);
void *id_map_find(const struct id_map *map, int64_t id); /* NULL when absent */
/* Adds or replaces; value is not NULL. Errors: NO_MEMORY. */
MUST_CHECK enum status id_map_put(struct id_map *map, int64_t id, void *value);
void id_map_remove(struct id_map *map, int64_t id); /* absent is fine */

#endif
