/* Owns what one token costs by a model's shape: the arithmetic and the bytes that no implementation
 * can do without, which measurements are divided by. */
#ifndef HONE_MODEL_MODEL_COST_H
#define HONE_MODEL_MODEL_COST_H

#include "kernels/backend.h"
#include "model/model_config.h"

#include <stdbool.h>
#include <stddef.h>

/* Flop of the forward pass of one token that sees n_keys keys (itself included), without softmax,
 * norms and gates:
 *   2 for each active parameter (top_k experts; with_head: the head too);
 *   for each layer and key 2 heads (key width + value width): one latent entry for all heads
 *   (is_cached, and what decoding must do), or each head's own keys and values (cheaper where many
 *   rows share their keys: prefill, training), whichever the model's attention has;
 *   the indexer of sparse attention on all keys, attention then on index_topk at most. */
double model_forward_flops(const struct model_config *config, double n_keys, bool is_cached,
                           bool with_head);
/* What a forward pass went over: rows through the layers, keys that each of them saw, summed over
 * rows, and rows that passed the head. */
struct model_work {
    double n_rows, n_keys, n_heads;
};
/* The same for all of it; sparse attention as if every row saw the mean of keys. */
double model_work_flops(const struct model_config *config, const struct model_work *work,
                        bool is_cached);
/* Of an MTP module: its layer, eh_proj and the head; own keys or absorbed, as above. */
double model_module_flops(const struct model_config *config, const struct model_work *work,
                          bool is_cached);
/* n_new rows of a sequence behind n_cached others: the keys they see, summed. */
double model_span_keys(size_t n_cached, size_t n_new);
/* Bytes of weights that a forward of n_rows rows reads once: everything but the embedding, and of
 * the experts as many as n_rows rows take when all are equally likely. head_bytes: of a value of
 * the head. */
double model_weight_bytes(const struct model_config *config, size_t n_rows, size_t value_bytes,
                          size_t head_bytes);
/* Bytes of cache that one token reads which sees n_keys keys. */
double model_cache_bytes(const struct model_config *config, double n_keys, enum precision cache);

#endif
