/* Owns the ways GGUF stores a tensor's numbers. Rows are cut into blocks of 32 weights:
 *
 *   Q4_0  f16 d, 16 bytes              w = d (q - 8)
 *   Q4_1  f16 d, f16 m, 16 bytes       w = d q + m      low nibbles 0 .. 15, high ones 16 .. 31
 *   Q8_0  f16 d, 32 signed bytes       w = d q
 */
#include "model/gguf.h"
#include "model/safetensors.h"

#include <stdint.h>

#define BLOCK ((size_t)32)

static const struct gguf_layout layouts[] = {
    [GGUF_F32_CODED] = {"F32", 1, 4},   [GGUF_F16_CODED] = {"F16", 1, 2},
    [GGUF_BF16_CODED] = {"BF16", 1, 2}, [GGUF_Q4_0] = {"Q4_0", BLOCK, 18},
    [GGUF_Q4_1] = {"Q4_1", BLOCK, 20},  [GGUF_Q8_0] = {"Q8_0", BLOCK, 34},
};

const struct gguf_layout *gguf_layout_of(uint32_t type, enum gguf_coding *coding)
{
    static const struct {
        uint32_t type;
        enum gguf_coding coding;
    } numbers[] = {{0, GGUF_F32_CODED}, {1, GGUF_F16_CODED}, {2, GGUF_Q4_0},
                   {3, GGUF_Q4_1},      {8, GGUF_Q8_0},      {30, GGUF_BF16_CODED}};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (numbers[i].type == type) {
            *coding = numbers[i].coding;
            return &layouts[*coding];
        }
    }
    return NULL;
}

const char *gguf_type_name(uint32_t type)
{
    static const char *const names[] = {
        "F32",     "F16",    "Q4_0",    "Q4_1",  "unknown", "unknown", "Q5_0",  "Q5_1",
        "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",    "Q5_K",    "Q6_K",  "Q8_K",
        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL",  "IQ3_S",   "IQ2_S", "IQ4_XS",
        "I8",      "I16",    "I32",     "I64",   "F64",     "IQ1_M",   "BF16",
    };

    switch (type) {
    case 34:
        return "TQ1_0";
    case 35:
        return "TQ2_0";
    case 39:
        return "MXFP4";
    default:
        return type < sizeof(names) / sizeof(names[0]) ? names[type] : "unknown";
    }
}

const char *gguf_coding_name(enum gguf_coding coding)
{
    return layouts[coding].name;
}

static void read_q4(const unsigned char *block, bool has_minimum, float *out)
{
    const unsigned char *codes = block + (has_minimum ? 4 : 2);
    float head[2] = {0.0F, 0.0F}; /* d, m */

    tensor_widen(TENSOR_F16, block, has_minimum ? 2 : 1, head);
    for (size_t i = 0; i < BLOCK / 2; i++) {
        const int low = codes[i] & 15, high = codes[i] >> 4;
        const int zero = has_minimum ? 0 : 8;

        out[i] = head[0] * (float)(low - zero) + head[1];
        out[i + BLOCK / 2] = head[0] * (float)(high - zero) + head[1];
    }
}

static void read_q8(const unsigned char *block, float *out)
{
    float scale;

    tensor_widen(TENSOR_F16, block, 1, &scale);
    for (size_t i = 0; i < BLOCK; i++) {
        out[i] = scale * (float)(int8_t)block[2 + i];
    }
}

void gguf_read_floats(const struct gguf_tensor *tensor, size_t first, size_t count, float *out)
{
    const struct gguf_layout *layout = &layouts[tensor->coding];
    const unsigned char *data = tensor->data + first / layout->block_elements * layout->block_bytes;

    switch (tensor->coding) {
    case GGUF_F32_CODED:
        tensor_widen(TENSOR_F32, data, count, out);
        return;
    case GGUF_F16_CODED:
        tensor_widen(TENSOR_F16, data, count, out);
        return;
    case GGUF_BF16_CODED:
        tensor_widen(TENSOR_BF16, data, count, out);
        return;
    case GGUF_Q4_0:
    case GGUF_Q4_1:
    case GGUF_Q8_0:
        break;
    }
    for (size_t i = 0; i < count; i += BLOCK) {
        if (tensor->coding == GGUF_Q8_0) {
            read_q8(data, out + i);
        } else {
            read_q4(data, tensor->coding == GGUF_Q4_1, out + i);
        }
        data += layout->block_bytes;
    }
}
