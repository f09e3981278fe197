/* The codec of message_wire.c against its table: every type both ways, and hostile frames. */
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

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ARRAY_ITEMS 5u

static const size_t dtype_bytes[] = {4, 4, 8, 2, 1, 4};

/* Puts a legal value for one row of the table. */
static void put_sample(struct message *message, const struct message_field *field)
{
    uint64_t items[ARRAY_ITEMS];

    switch (field->kind) {
    case FIELD_INT:
        message_put_int(message, field->key, field->max);
        break;
    case FIELD_NUMBER:
        message_put_number(message, field->key, 0.1);
        break;
    case FIELD_TEXT:
        message_put_text(message, field->key, "0x1f");
        break;
    case FIELD_BOOL:
        message_put_bool(message, field->key, true);
        break;
    case FIELD_OBJECT: {
        struct json *object = json_object_create();
        assert_ok(json_put(object, "x", json_from_number(1.5)));
        message_put_json(message, field->key, object);
        break;
    }
    case FIELD_ARRAY:
        for (size_t i = 0; i < ARRAY_ITEMS; i++) {
            items[i] = random_bits(1, RANDOM_TEST, i, (uint64_t)field->dtype);
        }
        message_put_array(message, field->key, field->dtype, items, ARRAY_ITEMS);
        break;
    }
}

static struct message *sample_message(enum message_type type)
{
    struct message *message;

    assert_ok(message_create(type, &message));
    for (size_t i = 0; i < n_message_fields; i++) {
        if (message_fields[i].type == type) {
            put_sample(message, &message_fields[i]);
        }
    }
    return message;
}

static void assert_same_frames(const struct frames *a, const struct frames *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_int_equal(a->items[i].bytes, b->items[i].bytes);
        assert_memory_equal(a->items[i].data, b->items[i].data, a->items[i].bytes);
    }
}

static void every_type_survives_the_wire_unchanged(void **state)
{
    (void)state;
    for (unsigned type = 0; type < MESSAGE_TYPES; type++) {
        struct frames first, second;
        struct message *sent = sample_message((enum message_type)type);
        struct message *received;

        assert_ok(message_encode(sent, &first));
        assert_ok(message_decode(&first, &received));
        assert_int_equal(message_type_of(received), type);
        assert_ok(message_encode(received, &second));
        assert_same_frames(&first, &second);
        frames_dispose(&first);
        frames_dispose(&second);
        message_destroy(sent);
        message_destroy(received);
    }
}

static void getters_give_what_was_put(void **state)
{
    const float logprobs[] = {-0.5f, -1.25f, 0.0f};
    const int32_t tokens[] = {1, -2, 3};
    struct frames frames;
    struct message *message;
    size_t n;

    (void)state;
    assert_ok(message_create(MESSAGE_COMPLETION, &message));
    message_put_int(message, "group_id", INT64_C(0x7fffffffffffffff));
    message_put_int(message, "idx", 3);
    message_put_int(message, "attempt", 0);
    message_put_int(message, "inc", 7);
    message_put_hex64(message, "seed", UINT64_C(0xfedcba9876543210));
    message_put_int(message, "version_first", 4);
    message_put_int(message, "version_last", 4);
    message_put_text(message, "weight_digest", "00112233445566778899aabbccddeeff");
    message_put_text(message, "finish", "stop");
    message_put_int(message, "gen_us", 12);
    message_put_array(message, "text", DTYPE_U8, "a\xff\0b", 4);
    message_put_array(message, "tokens", DTYPE_I32, tokens, 3);
    message_put_array(message, "logprobs", DTYPE_F32, logprobs, 3);
    assert_ok(message_encode(message, &frames));
    message_destroy(message);

    assert_ok(message_decode(&frames, &message));
    assert_int_equal(message_int(message, "group_id", 0), INT64_C(0x7fffffffffffffff));
    assert_int_equal(message_hex64(message, "seed"), UINT64_C(0xfedcba9876543210));
    assert_string_equal(message_text(message, "finish", ""), "stop");
    assert_memory_equal(message_array(message, "logprobs", &n), logprobs, sizeof(logprobs));
    assert_int_equal(n, 3);
    assert_int_equal((uintptr_t)message_array(message, "tokens", &n) % 8, 0);
    assert_memory_equal(message_array(message, "text", &n), "a\xff\0b", 4);
    assert_null(message_array(message, "routes", &n));
    assert_int_equal(n, 0);
    assert_int_equal(message_int(message, "absent", -9), -9);
    frames_dispose(&frames);
    message_destroy(message);
}

static void hexadecimal_numbers_are_read_strictly(void **state)
{
    static const char *const bad[] = {"", "0x", "12", "0xg", "-0x1", "0x11111111111111111", " 0x1"};
    struct message *message;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_ok(message_create(MESSAGE_WORK, &message));
        message_put_text(message, "seed", bad[i]);
        assert_int_equal(message_hex64(message, "seed"), 0);
        message_destroy(message);
    }
}

static void encode_names_the_field_that_is_wrong(void **state)
{
    struct frames frames;
    struct message *message;

    (void)state;
    assert_ok(message_create(MESSAGE_ACK, &message));
    message_put_int(message, "group_id", 1);
    message_put_int(message, "attempt", 0);
    assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT, "ACK: field idx");
    message_put_int(message, "idx", 65536);
    assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT, "idx is out of range");
    message_put_text(message, "idx", "1");
    assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT,
                  "idx is of the wrong kind");
    message_put_int(message, "idx", 1);
    message_put_int(message, "extra", 1);
    assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT, "\"extra\"");
    message_destroy(message);

    assert_ok(message_create(MESSAGE_TAKEN, &message));
    message_put_array(message, "tokens", DTYPE_I32, NULL, 0);
    message_put_int(message, "sample_id", 1);
    message_put_text(message, "verdict", "ok");
    assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT, "no array tokens");
    message_destroy(message);

    assert_ok(message_create(MESSAGE_SCORED, &message));
    message_put_number(message, "reward", (double)NAN);
    assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT, "not finite");
    message_destroy(message);
}

static void every_required_field_is_required(void **state)
{
    (void)state;
    for (size_t omitted = 0; omitted < n_message_fields; omitted++) {
        const struct message_field *field = &message_fields[omitted];
        struct frames frames;
        struct message *message;

        assert_ok(message_create(field->type, &message));
        for (size_t i = 0; i < n_message_fields; i++) {
            if (message_fields[i].type == field->type && i != omitted) {
                put_sample(message, &message_fields[i]);
            }
        }
        if (field->is_required) {
            assert_status(message_encode(message, &frames), STATUS_BAD_ARGUMENT, field->key);
        } else {
            assert_ok(message_encode(message, &frames));
        }
        frames_dispose(&frames);
        message_destroy(message);
    }
}

/* ---- Hostile frames ---- */

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

static enum status build_and_read(void *context)
{
    struct frames frames = {0};
    struct message *sent = NULL;
    struct message *received = NULL;
    const int32_t tokens[2] = {1, 2};

    (void)context;
    enum status status = message_create(MESSAGE_WORK, &sent);
    if (status == STATUS_OK) {
        for (size_t i = 0; i < n_message_fields; i++) {
            if (message_fields[i].type == MESSAGE_WORK && message_fields[i].kind != FIELD_ARRAY) {
                put_sample(sent, &message_fields[i]);
            }
        }
        message_put_array(sent, "idx", DTYPE_I32, tokens, 2);
        message_put_array(sent, "prompt", DTYPE_I32, tokens, 2);
        status = message_encode(sent, &frames);
    }
    if (status == STATUS_OK) {
        status = message_decode(&frames, &received);
    }
    message_destroy(sent);
    message_destroy(received);
    frames_dispose(&frames);
    return status;
}

static void short_memory_is_reported_at_every_point(void **state)
{
    (void)state;
    assert_true(support_fail_allocations(build_and_read, NULL) > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_survives_the_wire_unchanged),
        cmocka_unit_test(getters_give_what_was_put),
        cmocka_unit_test(hexadecimal_numbers_are_read_strictly),
        cmocka_unit_test(encode_names_the_field_that_is_wrong),
        cmocka_unit_test(every_required_field_is_required),
        cmocka_unit_test(mutated_frames_never_break_the_table),
        cmocka_unit_test(any_flipped_bit_is_caught_by_the_sum),
        cmocka_unit_test(frame_counts_outside_the_limits_are_refused),
        cmocka_unit_test(heads_that_break_a_rule_are_refused),
        cmocka_unit_test(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
