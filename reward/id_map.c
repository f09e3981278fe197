/* Owns the id map. Removal shifts later entries of the run back, so look-ups never meet a gap. */
#include "reward/id_map.h"

#include "base/memory.h"

#include <stdbool.h>

#define ROOM_MIN 64u

void id_map_dispose(struct id_map *map)
{
    memory_free(map->entries);
    *map = (struct id_map){0};
}

static size_t home_of(const struct id_map *map, int64_t id)
{
    const uint64_t mixed = (uint64_t)id * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)(mixed >> 20) & (map->room - 1);
}

/* The entry of id, or the free one where it would go. The map has room. */
static size_t find_place(const struct id_map *map, int64_t id)
{
    size_t i = home_of(map, id);

    while (map->entries[i].value != NULL && map->entries[i].id != id) {
        i = (i + 1) & (map->room - 1);
    }
    return i;
}

void *id_map_find(const struct id_map *map, int64_t id)
{
    return map->room == 0 ? NULL : map->entries[find_place(map, id)].value;
}

static enum status grow(struct id_map *map)
{
    struct id_map larger = {.room = map->room == 0 ? ROOM_MIN : 2 * map->room};

    TRY(memory_alloc(larger.room, sizeof(*larger.entries), &larger.entries));
    for (size_t i = 0; i < map->room; i++) {
        if (map->entries[i].value != NULL) {
            larger.entries[find_place(&larger, map->entries[i].id)] = map->entries[i];
        }
    }
    larger.count = map->count;
    memory_free(map->entries);
    *map = larger;
    return STATUS_OK;
}

enum status id_map_put(struct id_map *map, int64_t id, void *value)
{
    if (2 * (map->count + 1) > map->room) {
        TRY(grow(map));
    }
    struct id_entry *const entry = &map->entries[find_place(map, id)];
    map->count += entry->value == NULL ? 1 : 0;
    *entry = (struct id_entry){.id = id, .value = value};
    return STATUS_OK;
}

/* true when the entry at i may move to the gap: its home is not between gap and i. */
static bool may_move(const struct id_map *map, size_t gap, size_t i)
{
    const size_t mask = map->room - 1;
    const size_t distance_home = (i - home_of(map, map->entries[i].id)) & mask;
    const size_t distance_gap = (i - gap) & mask;
    return distance_home >= distance_gap;
}

void id_map_remove(struct id_map *map, int64_t id)
{
    if (map->room == 0) {
        return;
    }
    size_t gap = find_place(map, id);
    if (map->entries[gap].value == NULL) {
        return;
    }
    size_t i = gap;
    for (;;) {
        i = (i + 1) & (map->room - 1);
        if (map->entries[i].value == NULL) {
            break;
        }
        if (may_move(map, gap, i)) {
            map->entries[gap] = map->entries[i];
            gap = i;
        }
    }
    map->entries[gap] = (struct id_entry){0};
    map->count--;
}
