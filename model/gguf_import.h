/* Owns what a GGUF file of the llama architecture means: the Hugging Face folder that says the
 * same. Attention's query and key rows are stored for rotation in neighbouring pairs; per head,
 * stored row 2 i + j is row j head_dim / 2 + i here. Everything that cannot be said exactly is
 * refused by name. */
#ifndef HONE_MODEL_GGUF_IMPORT_H
#define HONE_MODEL_GGUF_IMPORT_H

#include "base/status.h"
#include "model/gguf.h"
#include "model/model_config.h"
#include "model/weights.h"

/* The file's architecture, as LlamaForCausalLM's config.json would say it. Errors: BAD_FORMAT (a
 * key is missing or wrong), UNSUPPORTED (another architecture, experts, a kind of rotation or a
 * key of the architecture that this build does not know). */
MUST_CHECK enum status gguf_import_config(const struct gguf *file, struct model_config *out);
/* Fills data (table->n_floats) from the file's tensors. Errors: BAD_FORMAT (a tensor is missing,
 * has another shape, is not of the architecture or holds a value that is not finite). */
MUST_CHECK enum status gguf_import_weights(const struct gguf *file,
                                           const struct model_config *config,
                                           const struct weight_table *table, float *data);
/* The name there of a tensor here: "blk.3.attn_q.weight" for "model.layers.3.self_attn.q_proj.
 * weight"; false when there is none. */
bool gguf_import_name(const char *name, char *out, size_t room);
/* Writes DIR/tokenizer.json, DIR/tokenizer_config.json (with the chat template) and
 * DIR/generation_config.json, and reads the tokenizer back. Errors: UNSUPPORTED (a tokenizer that
 * is not byte-level BPE, a pre-tokenizer without known pattern), BAD_FORMAT, IO, NO_SPACE. */
MUST_CHECK enum status gguf_import_tokenizer(const struct gguf *file,
                                             const struct model_config *config, const char *dir);

#endif
