/* Owns the way from a configuration's dtype to the precision of products. */
#ifndef HONE_MODEL_PRECISION_H
#define HONE_MODEL_PRECISION_H

#include "configs/config.h"
#include "kernels/backend.h"

#include <stdbool.h>

enum precision precision_of(enum model_dtype dtype);
/* "fp32", "bf16", "fp8". False: another name; *out is untouched. */
bool precision_parse(const char *name, enum precision *out);
const char *precision_name(enum precision precision);
/* What a profile leaves unquantised (policy_options.unquantised): floats under fp32, else BF16, in
 * which V3's checkpoints keep head and eh_proj. */
enum precision precision_unquantised(enum precision profile);
/* What the cache of a profile holds (policy_options.cache); auto: floats under fp32, else BF16. */
enum precision precision_cache(enum kv_cache_dtype cache, enum precision profile);
/* "auto", "fp32", "bf16", "fp8"; as precision_parse. */
bool precision_parse_cache(const char *name, enum kv_cache_dtype *out);

#endif
