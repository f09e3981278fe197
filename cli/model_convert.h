/* Owns the parts of `hone model convert` besides the weights. */
#ifndef HONE_CLI_MODEL_CONVERT_H
#define HONE_CLI_MODEL_CONVERT_H

#include "base/status.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "model/weights_export.h"

#include <stdbool.h>
#include <stddef.h>

struct gguf;

/* A model in memory. */
struct model_source {
    const char *path;  /* borrowed */
    struct gguf *file; /* NULL: path is a folder */
    struct model_config config;
    struct weight_table *table;
    float *data; /* table->n_floats */
};
/* Reads a folder, or a GGUF file. */
MUST_CHECK enum status model_source_open(const char *path, bool is_file, struct model_source *out);
void model_source_close(struct model_source *source);
/* Writes into to_dir all that is not weights: config.json, tokenizer, generation_config.json. */
MUST_CHECK enum status model_source_carry(const struct model_source *source, const char *to_dir,
                                          enum weights_format format);

/* Writes to_dir/config.json: from_dir's keys with the storage type, quantization_config and number
 * of MTP modules of what is stored now. */
MUST_CHECK enum status model_convert_config(const char *from_dir, const char *to_dir,
                                            enum weights_format format, size_t n_mtp_modules);
/* Copies tokenizer, chat template, generation_config.json and licence, those that are there. */
MUST_CHECK enum status model_convert_carry(const char *from_dir, const char *to_dir);

#endif
