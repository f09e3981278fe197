/* Owns the parts of `hone model convert` besides the weights. */
#ifndef HONE_CLI_MODEL_CONVERT_H
#define HONE_CLI_MODEL_CONVERT_H

#include "base/status.h"
#include "model/weights_export.h"

#include <stddef.h>

/* Writes to_dir/config.json: from_dir's keys with the storage type, quantization_config and number
 * of MTP modules of what is stored now. */
MUST_CHECK enum status model_convert_config(const char *from_dir, const char *to_dir,
                                            enum weights_format format, size_t n_mtp_modules);
/* Copies tokenizer, chat template, generation_config.json and licence, those that are there. */
MUST_CHECK enum status model_convert_carry(const char *from_dir, const char *to_dir);

#endif
