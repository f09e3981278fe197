/* Owns writing of weights in the forms that other programs read: F32, BF16, or FP8 as the family's
 * released checkpoints have it (model.md 10.2), in one file or in shards with an index. */
#ifndef HONE_MODEL_WEIGHTS_EXPORT_H
#define HONE_MODEL_WEIGHTS_EXPORT_H

#include "base/status.h"
#include "model/model_config.h"
#include "model/weights.h"

#include <stddef.h>

/* e_score_correction_bias is F32 in all of them. FP8: every linear of attention and MLPs as E4M3
 * with F32 scales that are powers of two; embedding, head, norms, biases, routers and eh_proj are
 * BF16. */
enum weights_format { WEIGHTS_F32, WEIGHTS_BF16, WEIGHTS_FP8 };

struct weights_export_options {
    enum weights_format format;
    size_t shard_bytes; /* of tensors in one file; a larger tensor has a file of its own */
};
struct weights_export_stats {
    size_t n_files, n_tensors; /* scales count as tensors */
    size_t n_coded;            /* parameters stored as FP8 */
    size_t bytes;              /* of tensors */
};

/* Bytes of tensors that weights_export would write. */
size_t weights_export_bytes(const struct model_config *config, const struct weight_table *table,
                            enum weights_format format);
/* Writes DIR/model.safetensors, or DIR/model-00001-of-000NN.safetensors ... and the index last; one
 * shard's converted tensors are in memory at a time. Durable when it returns. Errors: IO, NO_SPACE,
 * NO_MEMORY, UNSUPPORTED (a value too large for the format). */
MUST_CHECK enum status weights_export(const char *dir, const struct model_config *config,
                                      const struct weight_table *table, const float *data,
                                      const struct weights_export_options *options,
                                      struct weights_export_stats *out);

#endif
