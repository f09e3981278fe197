/* Owns where one parameter's values lie in a checkpoint and how they become floats: plain F32, BF16
 * or F16, or E4M3 codes in blocks of 128 x 128 with a scale each (model.md 10.2); a matrix of its
 * own, or an expert's part of a fused tensor. Everything that can be wrong is found when the source
 * is made; reading it then cannot fail, so that threads can share the work. */
#ifndef HONE_MODEL_WEIGHT_SOURCE_H
#define HONE_MODEL_WEIGHT_SOURCE_H

#include "base/status.h"
#include "model/safetensors.h"

#include <stddef.h>

struct weight_source {
    enum tensor_dtype dtype;
    const unsigned char *values; /* of the parameter alone; any alignment */
    size_t n_columns;
    const struct tensor *scales;         /* NULL: the values stand for themselves */
    size_t first_scale, n_scales_across; /* of the matrix of blocks that holds the parameter */
    size_t first_row;                    /* of the parameter inside that matrix */
};

/* Makes the source of rows [first_row, ...) of matrix number `matrix` in tensor, which is (rows,
 * columns) or (matrices, rows, columns), or a vector. scales: the tensor named NAME_scale_inv, or
 * NULL when the file has none. path stands in front of messages. Errors: UNSUPPORTED (a type that
 * is not read), BAD_FORMAT (no scale for E4M3, a scale for another type, wrong shape, a scale that
 * is not positive and finite). */
MUST_CHECK enum status weight_source_create(const char *path, const struct tensor *tensor,
                                            const struct tensor *scales, size_t matrix,
                                            size_t first_row, struct weight_source *out);
/* Values [first, first + n) of the parameter. Codes and scales that are NaN give NaN. */
void weight_source_read(const struct weight_source *source, size_t first, size_t n, float *out);

#endif
