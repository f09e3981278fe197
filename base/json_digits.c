/* Owns how many digits printed numbers have: the fewest that give every one of them back. */
#include "base/json_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define DIGITS_MIN 15 /* any decimal of 15 digits comes back from a double as it was */
#define DIGITS_MAX 17 /* any double comes back from 17 digits */

static int digits_of_number(double value, int digits)
{
    char text[40];

    while (digits < DIGITS_MAX) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, value);
        if (!(strtod(text, NULL) < value) && !(strtod(text, NULL) > value)) {
            break;
        }
        digits++;
    }
    return digits;
}

static int digits_of(const struct json *value, int digits)
{
    struct json_iterator members = {.object = value};

    if (json_is(value, JSON_REAL)) {
        return digits_of_number(json_number(value, 0), digits);
    }
    if (json_is(value, JSON_ARRAY)) {
        for (size_t i = 0; i < json_count(value) && digits < DIGITS_MAX; i++) {
            digits = digits_of(json_at(value, i), digits);
        }
    }
    while (json_is(value, JSON_OBJECT) && digits < DIGITS_MAX && json_next(&members)) {
        digits = digits_of(members.value, digits);
    }
    return digits;
}

int json_digits(const struct json *value)
{
    return digits_of(value, DIGITS_MIN);
}
