/* Owns damage to JSON text that no reader may accept: what comes out is never JSON. */
#ifndef HONE_TESTS_SUPPORT_JSON_DAMAGE_H
#define HONE_TESTS_SUPPORT_JSON_DAMAGE_H

#include "base/status.h"
#include "base/text_buffer.h"

#include <stddef.h>
#include <stdint.h>

enum json_damage {
    DAMAGE_CUT,     /* the text ends early */
    DAMAGE_DROP,    /* a bracket, colon or comma is gone */
    DAMAGE_SWAP,    /* or is another one */
    DAMAGE_UTF8,    /* a byte FF in a string */
    DAMAGE_CONTROL, /* a control character in a string */
    DAMAGE_TWICE,   /* a key comes twice in its object */
    DAMAGE_DEEP,    /* a value under thousands of brackets */
    DAMAGE_TAIL,    /* more behind the end */
    DAMAGE_HEAD,    /* a byte order mark in front */
    DAMAGE_NUMBER,  /* a value is NaN */
    JSON_DAMAGES
};
const char *json_damage_name(enum json_damage damage);

/* Puts a damaged copy of text[0..n), an object with strings, into the empty *out, which the caller
 * disposes. place: any number; the same gives the same copy. */
MUST_CHECK enum status json_damage(const char *text, size_t n, enum json_damage damage,
                                   uint64_t place, struct text_buffer *out);

#endif
