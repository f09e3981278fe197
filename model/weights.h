/* Owns parameters: one flat FP32 buffer and a table of rows (DESIGN section 3). Gradients and
 * optimizer state mirror the layout, so optimizer, clipping, publication, hashing and checkpoints
 * are loops over rows or slices, never over layer types. */
#ifndef HONE_MODEL_WEIGHTS_H
#define HONE_MODEL_WEIGHTS_H

#include "base/hash.h"
#include "base/status.h"
#include "model/model_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WEIGHTS_CHUNK_BYTES ((size_t)1 << 20) /* hashing and publication unit */

struct weight_row {
    char name[96]; /* Hugging Face name */
    size_t shape[2];
    size_t n_dims;
    size_t offset, count; /* in floats, inside the flat buffer */
    size_t mtp_module;    /* which, if is_mtp: the trainer moves module 0 only */
    bool decays;          /* weight decay applies: matrices, but not embeddings */
    bool is_trainable;    /* false for e_score_correction_bias */
    bool is_mtp;          /* belongs to an MTP module */
    bool is_indexer;      /* of the sparse attention's indexer: learns from its own loss alone */
    bool is_bias;         /* of a projection or a LayerNorm: starts as zero */
};

struct weight_table {
    struct weight_row *rows;
    const struct weight_row **by_name; /* (n_rows) the same, for weight_table_find */
    size_t n_rows;
    size_t n_floats; /* of the whole buffer, padding included (padding is zero for ever) */
};

/* What a family calls the tensors that not all call the same: "model.layers.I.MOE.gate.weight",
 * "model.layers.I.MOE.experts.J.PART.weight" with the parts gate, up, down. */
struct weight_names {
    const char *moe;
    const char *expert_parts[3];
};
const struct weight_names *weight_names(enum model_family family);

/* The table for an architecture. Experts of a layer lie one after another: gate, up, down of expert
 * 0, of expert 1,
 * ...; the shared copies of embedding and head in MTP modules have no rows of their own. */
MUST_CHECK enum status weight_table_create(const struct model_config *config,
                                           struct weight_table **out);
void weight_table_destroy(struct weight_table *table);
/* Row by name, or NULL. */
const struct weight_row *weight_table_find(const struct weight_table *table, const char *name);

/* Random weights: normal with config->initializer_range keyed by (seed, row), norms 1, biases 0.
 * data: n_floats. */
void weights_init(const struct model_config *config, const struct weight_table *table,
                  uint64_t seed, float *data);
/* Reads DIR/model*.safetensors (F32, BF16, F16; single file or index) into data and checks every
 * name and shape, that all is finite, and the digest of files that hone wrote.
 * config->n_mtp_modules is what the tensors hold (call weights_probe_mtp before
 * weight_table_create). */
MUST_CHECK enum status weights_load(const char *dir, const struct weight_table *table, float *data);
/* The same without a buffer: names, shapes, types and FP8 scales, and with_values the rest too (all
 * bytes are read then). Nothing is said about FP8. */
MUST_CHECK enum status weights_check(const char *dir, const struct weight_table *table,
                                     bool with_values);
/* Sets config->n_mtp_modules to what DIR's tensors hold; a config that promises more is warned
 * about. */
MUST_CHECK enum status weights_probe_mtp(const char *dir, struct model_config *config);
/* Writes DIR/model.safetensors (F32, Hugging Face names, MTP copies of embedding and head written
 * again). Durable when it returns. */
MUST_CHECK enum status weights_save(const char *dir, const struct model_config *config,
                                    const struct weight_table *table, const float *data);
/* Digest of chunk i of WEIGHTS_CHUNK_BYTES (the last may be short), and of all of them: XXH3-128
 * over the chunk digests (each time 1,024 of them are together, they become the first of the next).
 */
size_t weights_chunks(size_t n_floats);
struct digest128 weights_chunk_digest(const float *data, size_t n_floats, size_t chunk);
struct digest128 weights_digest(const float *data, size_t n_floats);
/* weights_digest from the digests of all chunks. */
struct digest128 weights_root(const struct digest128 *digests, size_t n);
/* False with *row set when a value is not finite. */
bool weights_are_finite(const struct weight_table *table, const float *data,
                        const struct weight_row **row);

#endif
