/* Owns what json.c shares with its helpers. */
#ifndef HONE_BASE_JSON_INTERNAL_H
#define HONE_BASE_JSON_INTERNAL_H

#include "base/json.h"

/* Digits, 15 to 17, after which every number inside value reads back as the same double: 1e-5 is
 * not printed as 1.0000000000000001e-5. */
int json_digits(const struct json *value);

#endif
