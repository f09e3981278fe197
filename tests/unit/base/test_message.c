/* The codec of message_wire.c against its table: every type both ways, and hostile frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/message.h"
#include "tests/support/support.h"
#include "tests/unit/base/message_fixture.h"

#include <math.h>
#include <string.h>

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
        cmocka_unit_test(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
