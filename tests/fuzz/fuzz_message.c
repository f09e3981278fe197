/* A message between processes: the text of its head, then for each array two bytes of length
 * (little-endian) and its bytes. The harness adds the right sum, which no mutation would find; what
 * is accepted is sent on unchanged. */
#include "base/hash.h"
#include "base/memory.h"
#include "base/message.h"
#include "tests/fuzz/harness.h"

#include <string.h>

static void put_frame(struct frames *frames, const void *bytes, size_t n)
{
    struct frame *frame = &frames->items[frames->count];

    fuzz_check(memory_alloc(n, 1, &frame->data) == STATUS_OK, "memory for a frame");
    memcpy(frame->data, bytes, n);
    frame->bytes = n;
    frames->count++;
}

static void put_sum(struct frames *frames)
{
    struct hash_part parts[MESSAGE_ARRAYS_MAX + 1];
    unsigned char sum[8];
    uint64_t value;

    for (size_t i = 0; i < frames->count; i++) {
        parts[i] =
            (struct hash_part){.data = frames->items[i].data, .bytes = frames->items[i].bytes};
    }
    value = hash_64_parts(parts, frames->count);
    for (size_t i = 0; i < sizeof(sum); i++) {
        sum[i] = (unsigned char)(value >> (8 * i));
    }
    put_frame(frames, sum, sizeof(sum));
}

static void cut(const uint8_t *data, size_t size, struct frames *out)
{
    const struct fuzz_text head = fuzz_take_text(&data, &size);

    *out = (struct frames){.count = 0};
    put_frame(out, head.bytes, head.n);
    while (size >= 2 && out->count <= MESSAGE_ARRAYS_MAX) {
        const size_t wanted = data[0] + ((size_t)data[1] << 8);
        const size_t n = wanted < size - 2 ? wanted : size - 2;

        put_frame(out, data + 2, n);
        data += 2 + n;
        size -= 2 + n;
    }
    put_sum(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frames frames, again, third;
    struct message *message = NULL, *copy = NULL;

    fuzz_begin();
    cut(data, size, &frames);
    if (fuzz_is_ok(message_decode(&frames, &message))) {
        fuzz_check(message_encode(message, &again) == STATUS_OK, "what was read cannot be sent");
        fuzz_check(message_decode(&again, &copy) == STATUS_OK, "what was sent is refused");
        fuzz_check(message_encode(copy, &third) == STATUS_OK && third.count == again.count,
                   "the copy cannot be sent");
        for (size_t i = 0; i < third.count; i++) {
            fuzz_check(third.items[i].bytes == again.items[i].bytes &&
                           memcmp(third.items[i].data, again.items[i].data, third.items[i].bytes) ==
                               0,
                       "the copy differs");
        }
        frames_dispose(&third);
        frames_dispose(&again);
    }
    message_destroy(copy);
    message_destroy(message);
    frames_dispose(&frames);
    fuzz_end();
    return 0;
}
