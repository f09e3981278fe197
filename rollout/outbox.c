/* A short array in order of arrival: a few hundred entries at most, so searches are scans. */
#include "rollout/outbox.h"

#include "base/memory.h"

#include <string.h>

#define NEVER_SENT INT64_MIN

struct entry {
    struct outbox_key key;
    struct message *message;
    int64_t sent_us;
};

struct outbox {
    struct entry *entries;
    size_t count, capacity;
    size_t due; /* index that outbox_due gave last */
};

enum status outbox_create(size_t capacity, struct outbox **out)
{
    struct outbox *outbox = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*outbox), &outbox));
    const enum status status = memory_alloc(capacity, sizeof(*outbox->entries), &outbox->entries);
    if (status != STATUS_OK) {
        memory_free(outbox);
        return status;
    }
    outbox->capacity = capacity;
    *out = outbox;
    return STATUS_OK;
}

void outbox_destroy(struct outbox *outbox)
{
    if (outbox == NULL) {
        return;
    }
    for (size_t i = 0; i < outbox->count; i++) {
        message_destroy(outbox->entries[i].message);
    }
    memory_free(outbox->entries);
    memory_free(outbox);
}

size_t outbox_count(const struct outbox *outbox)
{
    return outbox->count;
}

/* Index of the key, or count. */
static size_t find(const struct outbox *outbox, struct outbox_key key)
{
    for (size_t i = 0; i < outbox->count; i++) {
        const struct outbox_key *other = &outbox->entries[i].key;

        if (other->group == key.group && other->sample == key.sample &&
            other->attempt == key.attempt) {
            return i;
        }
    }
    return outbox->count;
}

enum status outbox_adopt(struct outbox *outbox, struct outbox_key key, struct message *message)
{
    if (find(outbox, key) < outbox->count) {
        message_destroy(message);
        return STATUS_OK;
    }
    if (outbox->count == outbox->capacity) {
        return status_set(STATUS_BAD_ARGUMENT, "the outbox is full with %zu samples",
                          outbox->count);
    }
    outbox->entries[outbox->count++] =
        (struct entry){.key = key, .message = message, .sent_us = NEVER_SENT};
    return STATUS_OK;
}

const struct message *outbox_due(struct outbox *outbox, int64_t now_us)
{
    for (size_t i = 0; i < outbox->count; i++) {
        const int64_t sent_us = outbox->entries[i].sent_us;

        if (sent_us == NEVER_SENT || now_us - sent_us >= OUTBOX_RESEND_US) {
            outbox->due = i;
            return outbox->entries[i].message;
        }
    }
    return NULL;
}

void outbox_sent(struct outbox *outbox, int64_t now_us)
{
    outbox->entries[outbox->due].sent_us = now_us;
}

bool outbox_settle(struct outbox *outbox, struct outbox_key key)
{
    const size_t i = find(outbox, key);

    if (i == outbox->count) {
        return false;
    }
    message_destroy(outbox->entries[i].message);
    outbox->count--;
    memmove(&outbox->entries[i], &outbox->entries[i + 1],
            (outbox->count - i) * sizeof(*outbox->entries));
    return true;
}

void outbox_resend_all(struct outbox *outbox)
{
    for (size_t i = 0; i < outbox->count; i++) {
        outbox->entries[i].sent_us = NEVER_SENT;
    }
}
