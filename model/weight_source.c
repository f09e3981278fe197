/* Owns de-quantisation on load. A code times its scale is one rounding of an exact product. */
#include "model/weight_source.h"

#include "model/quant.h"

#include <math.h>
#include <string.h>

/* A scale of the file as a float: F32, or the exponent byte of E8M0 (which some store as U8). */
static float scale_at(const struct tensor *scales, size_t index)
{
    const unsigned char *data = scales->data;
    float value;

    if (scales->dtype != TENSOR_F32) {
        return quant_e8m0_value(data[index]);
    }
    memcpy(&value, data + index * sizeof(value), sizeof(value));
    return value;
}

static enum status check_scale_values(const char *path, const struct tensor *scales)
{
    if (scales->dtype != TENSOR_F32 && scales->dtype != TENSOR_F8_E8M0 &&
        scales->dtype != TENSOR_U8) {
        return status_set(STATUS_UNSUPPORTED, "%s: tensor %s is %s; scales are F32, F8_E8M0 or U8",
                          path, scales->name, tensor_dtype_name(scales->dtype));
    }
    for (size_t i = 0; i < scales->n_elements; i++) {
        const float scale = scale_at(scales, i);

        if (!(scale > 0) || !isfinite(scale)) {
            return status_set(STATUS_BAD_FORMAT, "%s: tensor %s: scale %zu is %g", path,
                              scales->name, i, (double)scale);
        }
    }
    return STATUS_OK;
}

/* The scales must be the tensor's shape in blocks. */
static enum status check_scales(const char *path, const struct tensor *tensor,
                                const struct tensor *scales)
{
    const size_t n = tensor->n_dims;
    bool fits;

    if (scales == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s is %s, but %s_scale_inv is missing",
                          path, tensor->name, tensor_dtype_name(tensor->dtype), tensor->name);
    }
    if (n < 2) {
        return status_set(STATUS_UNSUPPORTED, "%s: tensor %s is an F8_E4M3 vector", path,
                          tensor->name);
    }
    fits = scales->n_dims == n && scales->shape[n - 1] == quant_blocks(tensor->shape[n - 1]) &&
           scales->shape[n - 2] == quant_blocks(tensor->shape[n - 2]) &&
           (n < 3 || scales->shape[0] == tensor->shape[0]);
    if (!fits) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tensor %s does not hold the %zux%zu scales of %s's blocks of "
                          "%zux%zu",
                          path, scales->name, quant_blocks(tensor->shape[n - 2]),
                          quant_blocks(tensor->shape[n - 1]), tensor->name, QUANT_BLOCK,
                          QUANT_BLOCK);
    }
    return check_scale_values(path, scales);
}

enum status weight_source_create(const char *path, const struct tensor *tensor,
                                 const struct tensor *scales, size_t matrix, size_t first_row,
                                 struct weight_source *out)
{
    const size_t n = tensor->n_dims;
    const size_t n_columns = n == 0 ? 1 : tensor->shape[n - 1];
    const size_t n_rows = n < 2 ? 1 : tensor->shape[n - 2];
    const bool is_coded = tensor->dtype == TENSOR_F8_E4M3;

    if (!is_coded && tensor->dtype != TENSOR_F32 && tensor->dtype != TENSOR_BF16 &&
        tensor->dtype != TENSOR_F16) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: tensor %s is %s; this build reads F32, BF16, F16 and F8_E4M3", path,
                          tensor->name, tensor_dtype_name(tensor->dtype));
    }
    if (is_coded) {
        TRY(check_scales(path, tensor, scales));
    } else if (scales != NULL) {
        return status_set(STATUS_BAD_FORMAT, "%s: tensor %s has scales, but is %s, not F8_E4M3",
                          path, tensor->name, tensor_dtype_name(tensor->dtype));
    }
    *out = (struct weight_source){
        .dtype = tensor->dtype,
        .values = (const unsigned char *)tensor->data +
                  (matrix * n_rows + first_row) * n_columns * tensor_dtype_bytes(tensor->dtype),
        .n_columns = n_columns,
        .scales = is_coded ? scales : NULL,
        .first_scale = matrix * quant_blocks(n_rows) * quant_blocks(n_columns),
        .n_scales_across = quant_blocks(n_columns),
        .first_row = first_row,
    };
    return STATUS_OK;
}

/* Codes [first, first + n), a run of one block at a time. */
static void read_coded(const struct weight_source *source, size_t first, size_t n, float *out)
{
    float table[256];
    size_t row = first / source->n_columns, column = first % source->n_columns;
    const unsigned char *codes = source->values + first;

    quant_e4m3_table(table);
    while (n > 0) {
        const size_t block = (source->first_row + row) / QUANT_BLOCK * source->n_scales_across +
                             column / QUANT_BLOCK;
        const float scale = scale_at(source->scales, source->first_scale + block);
        const size_t block_end = (column / QUANT_BLOCK + 1) * QUANT_BLOCK;
        const size_t end = block_end < source->n_columns ? block_end : source->n_columns;
        const size_t run = end - column < n ? end - column : n;

        for (size_t i = 0; i < run; i++) {
            out[i] = table[codes[i]] * scale;
        }
        codes += run;
        out += run;
        n -= run;
        column += run;
        if (column == source->n_columns) {
            column = 0;
            row++;
        }
    }
}

void weight_source_read(const struct weight_source *source, size_t first, size_t n, float *out)
{
    if (source->dtype == TENSOR_F8_E4M3) {
        read_coded(source, first, n, out);
    } else {
        tensor_widen(source->dtype, source->values + first * tensor_dtype_bytes(source->dtype), n,
                     out);
    }
}
