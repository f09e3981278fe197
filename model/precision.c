/* Owns the names of precisions. */
#include "model/precision.h"

#include <string.h>

static const char *const names[] = {
    [PRECISION_F32] = "fp32", [PRECISION_BF16] = "bf16", [PRECISION_FP8] = "fp8"};

enum precision precision_of(enum model_dtype dtype)
{
    static const enum precision precisions[] = {
        [DTYPE_FP32] = PRECISION_F32, [DTYPE_BF16] = PRECISION_BF16, [DTYPE_FP8] = PRECISION_FP8};

    return precisions[dtype];
}

bool precision_parse(const char *name, enum precision *out)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum precision)i;
            return true;
        }
    }
    return false;
}

const char *precision_name(enum precision precision)
{
    return names[precision];
}

enum precision precision_unquantised(enum precision profile)
{
    return profile == PRECISION_F32 ? PRECISION_F32 : PRECISION_BF16;
}

enum precision precision_cache(enum kv_cache_dtype cache, enum precision profile)
{
    switch (cache) {
    case KV_CACHE_FP32:
        return PRECISION_F32;
    case KV_CACHE_BF16:
        return PRECISION_BF16;
    case KV_CACHE_FP8:
        return PRECISION_FP8;
    case KV_CACHE_AUTO:
        break;
    }
    return profile == PRECISION_F32 ? PRECISION_F32 : PRECISION_BF16;
}

bool precision_parse_cache(const char *name, enum kv_cache_dtype *out)
{
    static const char *const cache_names[] = {[KV_CACHE_AUTO] = "auto",
                                              [KV_CACHE_FP32] = "fp32",
                                              [KV_CACHE_BF16] = "bf16",
                                              [KV_CACHE_FP8] = "fp8"};

    for (size_t i = 0; i < sizeof(cache_names) / sizeof(cache_names[0]); i++) {
        if (strcmp(name, cache_names[i]) == 0) {
            *out = (enum kv_cache_dtype)i;
            return true;
        }
    }
    return false;
}
