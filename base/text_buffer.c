#include "base/text_buffer.h"

#include "base/memory.h"

#include <string.h>

enum status text_buffer_reserve(struct text_buffer *buffer, size_t n_more)
{
    size_t wanted;

    if (!size_add(buffer->count, n_more, &wanted) || !size_add(wanted, 1, &wanted)) {
        return status_set(STATUS_NO_MEMORY, "a text of %zu + %zu bytes is too long", buffer->count,
                          n_more);
    }
    if (wanted <= buffer->room) {
        return STATUS_OK;
    }
    const size_t room = wanted < 64 ? 64 : wanted + wanted / 2;
    TRY(memory_resize(buffer->count, room, 1, &buffer->bytes));
    buffer->room = room;
    return STATUS_OK;
}

enum status text_buffer_put(struct text_buffer *buffer, const char *bytes, size_t n)
{
    TRY(text_buffer_reserve(buffer, n));
    if (n > 0) {
        memcpy(buffer->bytes + buffer->count, bytes, n);
    }
    buffer->count += n;
    buffer->bytes[buffer->count] = '\0';
    return STATUS_OK;
}

void text_buffer_dispose(struct text_buffer *buffer)
{
    memory_free(buffer->bytes);
    *buffer = (struct text_buffer){0};
}
