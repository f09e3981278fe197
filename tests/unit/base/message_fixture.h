/* Owns what tests of the codec share: a message of any type with every field filled. Include it
 * after cmocka.h. */
#ifndef HONE_TESTS_UNIT_BASE_MESSAGE_FIXTURE_H
#define HONE_TESTS_UNIT_BASE_MESSAGE_FIXTURE_H

#include "base/message.h"
#include "base/random.h"
#include "tests/support/support.h"

#include <string.h>

#define ARRAY_ITEMS 5u

static const size_t dtype_bytes[] = {4, 4, 8, 2, 1, 4};

/* Puts a legal value for one row of the table. */
static inline void put_sample(struct message *message, const struct message_field *field)
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

static inline struct message *sample_message(enum message_type type)
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

#endif
