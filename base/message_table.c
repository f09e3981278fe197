/* Owns the table of every message and field. Keys are the contract between folders that do not know
 * each other. */
#include "base/message.h"

#define INT(type, key, required, min, max)                                                         \
    {                                                                                              \
        key, min, max, type, FIELD_INT, DTYPE_U8, required                                         \
    }
#define NUMBER(type, key, required)                                                                \
    {                                                                                              \
        key, 0, 0, type, FIELD_NUMBER, DTYPE_U8, required                                          \
    }
#define TEXT(type, key, required, max)                                                             \
    {                                                                                              \
        key, 0, max, type, FIELD_TEXT, DTYPE_U8, required                                          \
    }
#define BOOL(type, key, required)                                                                  \
    {                                                                                              \
        key, 0, 0, type, FIELD_BOOL, DTYPE_U8, required                                            \
    }
#define OBJECT(type, key, required)                                                                \
    {                                                                                              \
        key, 0, 0, type, FIELD_OBJECT, DTYPE_U8, required                                          \
    }
#define ARRAY(type, key, required, dtype, max)                                                     \
    {                                                                                              \
        key, 0, max, type, FIELD_ARRAY, dtype, required                                            \
    }

#define ID_MAX INT64_C(0x7fffffffffffffff)
#define STEP_MAX INT64_C(1000000000)
#define TOKENS_MAX INT64_C(4194304)
#define BYTES_MAX INT64_C(16777216)

const struct message_field message_fields[] = {
    TEXT(MESSAGE_HELLO, "role", true, 16), /* trainer | rollout | reward */
    TEXT(MESSAGE_HELLO, "name", true, 64), INT(MESSAGE_HELLO, "pid", true, 1, ID_MAX),
    TEXT(MESSAGE_HELLO, "host", true, 256), TEXT(MESSAGE_HELLO, "run", true, 64),
    TEXT(MESSAGE_HELLO, "build", true, 128),
    TEXT(MESSAGE_HELLO, "numerics", true, 128),  /* backend's numerics id */
    TEXT(MESSAGE_HELLO, "config_sha", true, 64), /* digest of the parts that must agree */
    INT(MESSAGE_HELLO, "inc", false, 0, ID_MAX), INT(MESSAGE_HELLO_OK, "inc", true, 0, ID_MAX),
    INT(MESSAGE_HELLO_OK, "weight_version", false, 0, STEP_MAX),
    TEXT(MESSAGE_HELLO_OK, "weight_digest", false, 32), TEXT(MESSAGE_REFUSE, "reason", true, 1024),
    INT(MESSAGE_READY, "credit", true, 0, 65536), /* groups this worker will hold at once */

    INT(MESSAGE_WORK, "group_id", true, 0, ID_MAX), INT(MESSAGE_WORK, "attempt", true, 0, 1000000),
    INT(MESSAGE_WORK, "inc", true, 0, ID_MAX),
    TEXT(MESSAGE_WORK, "seed", true, 18), /* hexadecimal */
    INT(MESSAGE_WORK, "weight_version", true, 0, STEP_MAX),
    TEXT(MESSAGE_WORK, "weight_digest", true, 32),
    INT(MESSAGE_WORK, "max_tokens", true, 1, TOKENS_MAX), NUMBER(MESSAGE_WORK, "temperature", true),
    INT(MESSAGE_WORK, "top_k", true, 0, TOKENS_MAX), NUMBER(MESSAGE_WORK, "top_p", true),
    NUMBER(MESSAGE_WORK, "min_p", true), INT(MESSAGE_WORK, "deadline_ms", true, 1, ID_MAX),
    ARRAY(MESSAGE_WORK, "idx", true, DTYPE_I32, 65536), /* which samples of the group */
    ARRAY(MESSAGE_WORK, "prompt", true, DTYPE_I32, TOKENS_MAX),

    INT(MESSAGE_COMPLETION, "group_id", true, 0, ID_MAX),
    INT(MESSAGE_COMPLETION, "idx", true, 0, 65535),
    INT(MESSAGE_COMPLETION, "attempt", true, 0, 1000000),
    INT(MESSAGE_COMPLETION, "inc", true, 0, ID_MAX), TEXT(MESSAGE_COMPLETION, "seed", true, 18),
    INT(MESSAGE_COMPLETION, "version_first", true, 0, STEP_MAX),
    INT(MESSAGE_COMPLETION, "version_last", true, 0, STEP_MAX),
    TEXT(MESSAGE_COMPLETION, "weight_digest", true, 32),
    TEXT(MESSAGE_COMPLETION, "finish", true,
         16), /* stop | length | stop_string | abort | timeout */
    INT(MESSAGE_COMPLETION, "gen_us", true, 0, ID_MAX),
    ARRAY(MESSAGE_COMPLETION, "tokens", true, DTYPE_I32,
          TOKENS_MAX), /* the completion's, end token included */
    ARRAY(MESSAGE_COMPLETION, "logprobs", true, DTYPE_F32, TOKENS_MAX),
    ARRAY(MESSAGE_COMPLETION, "text", true, DTYPE_U8,
          BYTES_MAX), /* without the end token; may be broken UTF-8 */

    INT(MESSAGE_ACK, "group_id", true, 0, ID_MAX), INT(MESSAGE_ACK, "idx", true, 0, 65535),
    INT(MESSAGE_ACK, "attempt", true, 0, 1000000), INT(MESSAGE_NACK, "group_id", true, 0, ID_MAX),
    INT(MESSAGE_NACK, "idx", true, 0, 65535), INT(MESSAGE_NACK, "attempt", true, 0, 1000000),
    TEXT(MESSAGE_NACK, "reason", true, 1024),

    INT(MESSAGE_GROUP, "group_id", true, 0, ID_MAX), INT(MESSAGE_GROUP, "step", true, 0, STEP_MAX),
    TEXT(MESSAGE_GROUP, "kind", true, 8), /* train | eval */
    INT(MESSAGE_GROUP, "n", true, 1, 65536), TEXT(MESSAGE_GROUP, "row_sha", true, 64),
    TEXT(MESSAGE_GROUP, "data_source", false, 256),
    ARRAY(MESSAGE_GROUP, "row", true, DTYPE_U8, BYTES_MAX), /* canonical JSON of the dataset row */
    ARRAY(MESSAGE_GROUP, "prompt_text", true, DTYPE_U8, BYTES_MAX), /* rendered */
    ARRAY(MESSAGE_GROUP, "answer", false, DTYPE_U8, BYTES_MAX), /* raw JSON of the answer column */
    ARRAY(MESSAGE_GROUP, "prompt", true, DTYPE_I32, TOKENS_MAX),
    INT(MESSAGE_GROUP_OK, "group_id", true, 0, ID_MAX),

    INT(MESSAGE_SCORED, "sample_id", true, 0, ID_MAX),
    INT(MESSAGE_SCORED, "group_id", true, 0, ID_MAX), INT(MESSAGE_SCORED, "idx", true, 0, 65535),
    INT(MESSAGE_SCORED, "attempt", true, 0, 1000000),
    TEXT(MESSAGE_SCORED, "status", true,
         16), /* ok | masked | na: every weighted component was n/a */
    NUMBER(MESSAGE_SCORED, "reward", false), /* absent unless status is ok */
    TEXT(MESSAGE_SCORED, "finish", true, 16), TEXT(MESSAGE_SCORED, "seed", true, 18),
    INT(MESSAGE_SCORED, "version_first", true, 0, STEP_MAX),
    TEXT(MESSAGE_SCORED, "weight_digest", false, 32),
    INT(MESSAGE_SCORED, "gen_us", true, 0, ID_MAX),
    OBJECT(MESSAGE_SCORED, "scores",
           true), /* {"name": {"status": "ok", "value": 1.0, "us": 3}, ...} */
    ARRAY(MESSAGE_SCORED, "tokens", true, DTYPE_I32, TOKENS_MAX),
    ARRAY(MESSAGE_SCORED, "logprobs", true, DTYPE_F32, TOKENS_MAX),
    INT(MESSAGE_TAKEN, "sample_id", true, 0, ID_MAX),
    TEXT(MESSAGE_TAKEN, "verdict", true, 8), /* ok | late | stale */

    INT(MESSAGE_MANIFEST, "step", true, 0, STEP_MAX), INT(MESSAGE_MANIFEST, "inc", true, 0, ID_MAX),
    INT(MESSAGE_MANIFEST, "version_in", true, 0, STEP_MAX),
    TEXT(MESSAGE_MANIFEST, "digest", true,
         32), /* over sample tokens, log-probabilities and advantages in order */
    ARRAY(MESSAGE_MANIFEST, "sample_ids", true, DTYPE_U64, 2000000),
    ARRAY(MESSAGE_MANIFEST, "advantages", true, DTYPE_F32, 2000000),
    INT(MESSAGE_MANIFEST_OK, "step", true, 0, STEP_MAX),

    INT(MESSAGE_STEP, "step", true, 0, STEP_MAX), INT(MESSAGE_STEP, "inc", true, 0, ID_MAX),
    TEXT(MESSAGE_STEP, "status", true, 8), /* trained | skipped */
    INT(MESSAGE_STEP, "version_out", true, 0, STEP_MAX),
    TEXT(MESSAGE_STEP, "weight_digest", true, 32), /* of the weights after the step */
    OBJECT(MESSAGE_STEP, "metrics", true),         /* {"name": number} */
    ARRAY(MESSAGE_STEP, "sample_ids", true, DTYPE_U64, 2000000),
    ARRAY(MESSAGE_STEP, "sample_stats", true, DTYPE_F32,
          10000000), /* (n, 5): kl entropy clip_frac mismatch_kl ratio_max */
    ARRAY(MESSAGE_STEP, "expert_load", false, DTYPE_U32,
          1000000), /* (n_moe_layers, n_experts) tokens */
    ARRAY(MESSAGE_STEP, "expert_bias", false, DTYPE_F32, 1000000),
    ARRAY(MESSAGE_STEP, "moe_layers", false, DTYPE_I32, 1024), /* layer index of each row above */
    INT(MESSAGE_STEP_OK, "step", true, 0, STEP_MAX),
    INT(MESSAGE_FETCH, "after_step", true, -1, STEP_MAX), /* -1: everything */
    INT(MESSAGE_FETCHED, "n_manifests", true, 0, STEP_MAX),
    INT(MESSAGE_FETCHED, "n_samples", true, 0, ID_MAX),

    INT(MESSAGE_W_GET, "version", true, 0, STEP_MAX),
    INT(MESSAGE_W_GET, "first", true, -1,
        ID_MAX), /* -1: send W_INFO; else the first chunk wanted */
    INT(MESSAGE_W_GET, "count", true, 0, 16), INT(MESSAGE_W_INFO, "version", true, 0, STEP_MAX),
    INT(MESSAGE_W_INFO, "bytes", true, 0, ID_MAX),
    INT(MESSAGE_W_INFO, "chunk_bytes", true, 1, BYTES_MAX),
    TEXT(MESSAGE_W_INFO, "root", true, 32), /* weight digest: XXH3-128 over the chunk digests */
    ARRAY(MESSAGE_W_INFO, "digests", true, DTYPE_U8, BYTES_MAX), /* 16 bytes a chunk */
    /* Memory that a worker of the same host may map instead (base/shared_memory.h): all or none. */
    INT(MESSAGE_W_INFO, "pid", false, 1, ID_MAX), INT(MESSAGE_W_INFO, "fd", false, 0, ID_MAX),
    INT(MESSAGE_W_INFO, "shared_bytes", false, 0, ID_MAX),
    INT(MESSAGE_W_INFO, "weights_at", false, 0, ID_MAX), /* bytes from where its data begin */
    INT(MESSAGE_W_INFO, "packed_at", false, 0, ID_MAX), TEXT(MESSAGE_W_INFO, "nonce", false, 32),
    TEXT(MESSAGE_W_INFO, "packing", false, 32), /* how packed copies lie: policy_packing */
    INT(MESSAGE_W_CHUNK, "version", true, 0, STEP_MAX),
    INT(MESSAGE_W_CHUNK, "index", true, 0, ID_MAX),
    ARRAY(MESSAGE_W_CHUNK, "data", true, DTYPE_U8, BYTES_MAX),

    INT(MESSAGE_PING, "n_tokens", false, 0, ID_MAX), /* generated so far: progress, not mere life */
    INT(MESSAGE_PING, "weight_version", false, 0, STEP_MAX),
    INT(MESSAGE_PING, "queue", false, 0, ID_MAX), /* sequences running or waiting */
    INT(MESSAGE_PONG, "weight_version", false, 0, STEP_MAX), TEXT(MESSAGE_PONG, "phase", false, 16),
    TEXT(MESSAGE_BYE, "reason", false, 256),

    INT(MESSAGE_SAMPLING, "weight_version", true, 0, STEP_MAX),
    INT(MESSAGE_SAMPLING, "tokens", true, 0, ID_MAX), /* drawn */
    INT(MESSAGE_SAMPLING, "turns", true, 0, ID_MAX),  /* of samples, behind their first token */
    INT(MESSAGE_SAMPLING, "turn_tokens", true, 0, ID_MAX),  /* that these gave */
    INT(MESSAGE_SAMPLING, "drafts", true, 0, ID_MAX),       /* that were judged */
    INT(MESSAGE_SAMPLING, "drafts_right", true, 0, ID_MAX), /* ... and were what was drawn */
    INT(MESSAGE_SAMPLING, "preempted", true, 0, ID_MAX),    /* samples put off for want of pages */
    INT(MESSAGE_SAMPLING, "resumed_tokens", true, 0, ID_MAX), /* computed anew for them */
    INT(MESSAGE_SAMPLING, "prompt_tokens", true, 0, ID_MAX),  /* of prompts, computed */
    INT(MESSAGE_SAMPLING, "prefix_tokens", true, 0, ID_MAX),  /* ... found computed */
    INT(MESSAGE_SAMPLING, "memory_bytes", false, 0, ID_MAX),  /* that the worker holds now */
};
const size_t n_message_fields = sizeof(message_fields) / sizeof(message_fields[0]);

static const char *const type_names[MESSAGE_TYPES] = {
    "HELLO", "HELLO_OK", "REFUSE",   "READY",    "WORK",  "COMPLETION", "ACK",
    "NACK",  "GROUP",    "GROUP_OK", "SCORED",   "TAKEN", "MANIFEST",   "MANIFEST_OK",
    "STEP",  "STEP_OK",  "FETCH",    "FETCHED",  "W_GET", "W_INFO",     "W_CHUNK",
    "PING",  "PONG",     "BYE",      "SAMPLING",
};

const char *message_type_name(enum message_type type)
{
    return type < MESSAGE_TYPES ? type_names[type] : "?";
}
