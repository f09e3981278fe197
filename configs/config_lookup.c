/* Owns finding rows of the table: by key, by section, and by what a wrong key most likely meant. */
#include "configs/config_internal.h"

#include <stdio.h>
#include <string.h>

bool setting_is_of_reward(const struct setting *row)
{
    return strncmp(row->key, REWARD_PREFIX, sizeof REWARD_PREFIX - 1) == 0;
}

const struct setting *setting_find(const char *key)
{
    for (size_t i = 0; i < n_settings; i++) {
        if (strcmp(settings[i].key, key) == 0) {
            return &settings[i];
        }
    }
    return NULL;
}

bool setting_is_section(const char *name)
{
    const size_t n = strlen(name);
    for (size_t i = 0; i < n_settings; i++) {
        if (strncmp(settings[i].key, name, n) == 0 && settings[i].key[n] == '.') {
            return true;
        }
    }
    return false;
}

/* Insertions, deletions and replacements from a to b; both at most CONFIG_TEXT_MAX - 1 long. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[CONFIG_TEXT_MAX];
    const size_t n_a = strnlen(a, CONFIG_TEXT_MAX - 1);
    const size_t n_b = strnlen(b, CONFIG_TEXT_MAX - 1);
    for (size_t j = 0; j <= n_b; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            const size_t shifted = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replaced < shifted ? replaced : shifted;
        }
    }
    return row[n_b];
}

static const char *last_segment(const char *key)
{
    const char *const dot = strrchr(key, '.');
    return dot != NULL ? dot + 1 : key;
}

/* true when one of "SYSTEM NAME, SYSTEM NAME ..." is called what `unknown` ends with. */
static bool peer_matches(const char *peers, const char *unknown)
{
    const size_t n_unknown = strlen(unknown);
    while (*peers != '\0') {
        const size_t n_piece = strcspn(peers, ",");
        const char *const space = memchr(peers, ' ', n_piece);
        const char *const name = space != NULL ? space + 1 : peers;
        const size_t n = n_piece - (size_t)(name - peers);
        const char *const tail = n <= n_unknown ? unknown + n_unknown - n : NULL;
        if (tail != NULL && strncmp(tail, name, n) == 0 && (tail == unknown || tail[-1] == '.')) {
            return true;
        }
        peers += n_piece;
        peers += strspn(peers, ", ");
    }
    return false;
}

/* Edits from what was written to a key; a key that was begun and not finished is near. */
static size_t distance_to(const char *unknown, const char *key)
{
    const size_t n = strlen(unknown);
    const bool is_begun =
        strncmp(unknown, key, n) == 0 && last_segment(unknown)[0] != '\0' && n < strlen(key);
    const size_t distance = edit_distance(unknown, key);
    return is_begun && distance > 1 ? 1 : distance;
}

static const char *nearest_by_edits(const char *unknown)
{
    static const char *const sections[] = {"run",     "model", "data",       "grpo",
                                           "rollout", "optim", "sft",        "scoring",
                                           "rewards", "eval",  "checkpoint", "log"};
    const char *best = sections[0];
    size_t best_distance = SIZE_MAX;
    const bool has_dot = strchr(unknown, '.') != NULL;
    for (size_t i = 0; !has_dot && i < sizeof sections / sizeof sections[0]; i++) {
        const size_t distance = edit_distance(unknown, sections[i]);
        if (distance < best_distance) {
            best_distance = distance;
            best = sections[i];
        }
    }
    for (size_t i = 0; i < n_settings; i++) {
        const size_t distance = distance_to(unknown, settings[i].key);
        if (distance < best_distance) {
            best_distance = distance;
            best = settings[i].key;
        }
    }
    return best;
}

const char *setting_nearest(const char *unknown, bool *is_peer)
{
    *is_peer = true;
    for (size_t i = 0; i < n_settings; i++) {
        if (peer_matches(settings[i].peers, unknown)) {
            return settings[i].key;
        }
    }
    for (size_t i = 0; i < n_settings; i++) {
        if (strcmp(last_segment(settings[i].key), last_segment(unknown)) == 0) {
            return settings[i].key;
        }
    }
    *is_peer = false;
    return nearest_by_edits(unknown);
}

const char *setting_range(const struct setting *row, char *out, size_t room)
{
    size_t n = 0;
    out[0] = '\0';
    switch (row->kind) {
    case SETTING_BOOL:
        (void)snprintf(out, room, "true | false");
        break;
    case SETTING_ENUM:
        for (size_t i = 0; row->names[i] != NULL && n < room; i++) {
            n += (size_t)snprintf(out + n, room - n, "%s%s", i > 0 ? " | " : "", row->names[i]);
        }
        break;
    case SETTING_SIZE:
    case SETTING_I64:
    case SETTING_U64:
        (void)snprintf(out, room, "%.0f..%.0f", row->min, row->max);
        break;
    case SETTING_BYTES:
        (void)snprintf(out, room, "bytes, KiB, MiB or GiB");
        break;
    case SETTING_REAL:
        (void)snprintf(out, room, "%g..%g", row->min, row->max);
        break;
    case SETTING_SECONDS:
        (void)snprintf(out, room, "%g..%g s", row->min, row->max);
        break;
    case SETTING_TEXT:
        (void)snprintf(out, room, "text");
        break;
    case SETTING_PATH:
        (void)snprintf(out, room, "path");
        break;
    case SETTING_TEXTS:
        (void)snprintf(out, room, "list of texts");
        break;
    case SETTING_SOURCES:
        (void)snprintf(out, room, "list of files");
        break;
    case SETTING_OBJECT:
        (void)snprintf(out, room, "mapping");
        break;
    case SETTING_REWARDS:
        (void)snprintf(out, room, "list of rewards");
        break;
    }
    return out;
}
