/* Frames that no peer of ours would send: changed, cut, too many; none may break the codec. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/message.h"
#include "base/random.h"
#include "tests/support/support.h"
#include "tests/unit/base/message_fixture.h"

#include <string.h>

static struct frames copy_frames(const struct frames *from)
{
    struct frames copy = {.count = from->count};

    for (size_t i = 0; i < from->count; i++) {
        copy.items[i].bytes = from->items[i].bytes;
        assert_ok(memory_alloc(from->items[i].bytes, 1, &copy.items[i].data));
        if (from->items[i].bytes > 0) {
            memcpy(copy.items[i].data, from->items[i].data, from->items[i].bytes);
        }
    }
    return copy;
}

/* Makes the sum right again, so that a change gets past it. */
static void fix_sum(struct frames *frames)
{
    struct hash_part parts[MESSAGE_ARRAYS_MAX + 1];
    const size_t last = frames->count - 1;

    for (size_t i = 0; i < last; i++) {
        parts[i] = (struct hash_part){frames->items[i].data, frames->items[i].bytes};
    }
    const uint64_t sum = hash_64_parts(parts, last);
    if (frames->items[last].bytes == sizeof(sum)) {
        memcpy(frames->items[last].data, &sum, sizeof(sum));
    }
}

/* Decodes; what is accepted must be encodable again, which is the check against the table. */
static bool try_decode(const struct frames *frames)
{
    struct frames again;
    struct message *message;
    const enum status status = message_decode(frames, &message);

    if (status != STATUS_OK) {
        assert_int_equal(status, STATUS_BAD_FORMAT);
        assert_null(message);
        return false;
    }
    assert_ok(message_encode(message, &again));
    for (size_t i = 0; i < n_message_fields; i++) {
        const struct message_field *field = &message_fields[i];
        size_t n;
        if (field->type == message_type_of(message) && field->kind == FIELD_ARRAY) {
            const unsigned char *items = message_array(message, field->key, &n);
            assert_true(items != NULL || !field->is_required);
            assert_true(n == 0 || items[n * dtype_bytes[field->dtype] - 1] < 256);
        }
    }
    frames_dispose(&again);
    message_destroy(message);
    return true;
}

static void mutate(struct frames *frames, uint64_t draw)
{
    struct frame *frame = &frames->items[(draw >> 8) % frames->count];
    const size_t at = frame->bytes == 0 ? 0 : (size_t)((draw >> 16) % frame->bytes);

    if (frame->bytes == 0) {
        return;
    }
    switch (draw % 4) {
    case 0:
        frame->data[at] ^= (unsigned char)(1u << (draw >> 60) % 8);
        break;
    case 1:
        frame->bytes = at; /* truncated */
        break;
    case 2:
        frame->data[at] = (unsigned char)("{}[]\",:0-9e\\ntva"[(draw >> 56) % 16]);
        break;
    default:
        frame->bytes -= frame->bytes > 1 ? 1 : 0;
        break;
    }
}

static void mutated_frames_never_break_the_table(void **state)
{
    size_t n_accepted = 0;

    (void)state;
    for (unsigned type = 0; type < MESSAGE_TYPES; type++) {
        struct message *message = sample_message((enum message_type)type);
        struct frames good;
        assert_ok(message_encode(message, &good));
        for (uint64_t round = 0; round < 400; round++) {
            struct frames bad = copy_frames(&good);
            mutate(&bad, random_bits(3, RANDOM_TEST, type, 2 * round));
            if (round % 3 == 0) {
                mutate(&bad, random_bits(3, RANDOM_TEST, type, 2 * round + 1));
            }
            fix_sum(&bad);
            n_accepted += try_decode(&bad) ? 1 : 0;
            frames_dispose(&bad);
        }
        frames_dispose(&good);
        message_destroy(message);
    }
    assert_true(n_accepted > 0); /* the sum was really got past */
}

static void any_flipped_bit_is_caught_by_the_sum(void **state)
{
    struct message *message = sample_message(MESSAGE_SCORED);
    struct frames frames;

    (void)state;
    assert_ok(message_encode(message, &frames));
    for (size_t f = 0; f < frames.count; f++) {
        for (size_t i = 0; i < frames.items[f].bytes; i++) {
            frames.items[f].data[i] ^= 0x10;
            assert_false(try_decode(&frames));
            frames.items[f].data[i] ^= 0x10;
        }
    }
    assert_true(try_decode(&frames));
    frames_dispose(&frames);
    message_destroy(message);
}

static void frame_counts_outside_the_limits_are_refused(void **state)
{
    struct message *message = sample_message(MESSAGE_SCORED);
    struct frames frames;

    (void)state;
    assert_ok(message_encode(message, &frames));
    const size_t count = frames.count;
    for (size_t n = 0; n < count; n++) {
        frames.count = n;
        assert_false(try_decode(&frames));
    }
    frames.count = MESSAGE_ARRAYS_MAX + 3;
    assert_false(try_decode(&frames));
    frames.count = count;
    frames_dispose(&frames);
    message_destroy(message);
}

/* Decodes a head and no arrays, its sum right. */
static enum status decode_head(const char *head)
{
    struct frames frames = {.count = 2};
    struct message *message;

    frames.items[0].bytes = strlen(head);
    assert_ok(memory_copy_text(head, strlen(head), (char **)&frames.items[0].data));
    frames.items[1].bytes = 8;
    assert_ok(memory_alloc(8, 1, &frames.items[1].data));
    fix_sum(&frames);
    const enum status status = message_decode(&frames, &message);
    message_destroy(message);
    frames_dispose(&frames);
    return status;
}

static void heads_that_break_a_rule_are_refused(void **state)
{
    static const struct {
        const char *head, *why;
    } cases[] = {
        {"", ""},
        {"[]", "type"},
        {"{\"t\":\"NOPE\",\"v\":[1,0],\"a\":[]}", "NOPE"},
        {"{\"t\":\"PING\",\"a\":[]}", "version"},
        {"{\"t\":\"PING\",\"v\":[2,0],\"a\":[]}", "2.0"},
        {"{\"t\":\"PING\",\"v\":[1],\"a\":[]}", "version"},
        {"{\"t\":\"PING\",\"v\":[1,0]}", "arrays"},
        {"{\"t\":\"PING\",\"v\":[1,0],\"a\":[{}]}", "1 arrays described, 0 sent"},
        {"{\"t\":\"PING\",\"v\":[1,0],\"a\":[],\"n_tokens\":-1}", "out of range"},
        {"{\"t\":\"PING\",\"v\":[1,0],\"a\":[],\"n_tokens\":1.5}", "wrong kind"},
        {"{\"t\":\"PING\",\"v\":[1,0],\"a\":[],\"n_tokens\":99999999999999999999}", ""},
        {"{\"t\":\"PING\",\"v\":[1,0],\"a\":[],\"who\":1}", "\"who\""},
        {"{\"t\":\"PING\",\"t\":\"PING\",\"v\":[1,0],\"a\":[]}", "duplicate"},
        {"{\"t\":\"PONG\",\"v\":[1,0],\"a\":[],\"phase\":\"a\\u0000b\"}", ""},
        {"{\"t\":\"PONG\",\"v\":[1,0],\"a\":[],\"phase\":\"\xff\"}", ""},
        {"{\"t\":\"PONG\",\"v\":[1,0],\"a\":[],\"phase\":\"longer than sixteen bytes\"}", "phase"},
        {"{\"t\":\"PONG\",\"v\":[1,0],\"a\":[[[[[[[[[]]]]]]]]]}", "nests deeper"},
    };

    (void)state;
    assert_ok(decode_head("{\"t\":\"PING\",\"v\":[1,9],\"a\":[],\"n_tokens\":null}"));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_status(decode_head(cases[i].head), STATUS_BAD_FORMAT, cases[i].why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_frames_never_break_the_table),
        cmocka_unit_test(any_flipped_bit_is_caught_by_the_sum),
        cmocka_unit_test(frame_counts_outside_the_limits_are_refused),
        cmocka_unit_test(heads_that_break_a_rule_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
