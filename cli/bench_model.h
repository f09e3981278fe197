/* Owns measuring whole-model rates: tokens per second of decoding and of training for a preset with
 * random weights, against what the machine's FMA peak allows. */
#ifndef HONE_CLI_BENCH_MODEL_H
#define HONE_CLI_BENCH_MODEL_H

#include "kernels/bench/bench.h"

/* Decoding with n_seqs sequences at once, for about half a second. peak: flop/s of the backend. */
MUST_CHECK enum status bench_decode(struct backend *backend, const char *preset, size_t n_seqs,
                                    double peak, struct bench_result *out);
/* Updates (forward, backward, AdamW) on packed sequences of the demo's lengths. */
MUST_CHECK enum status bench_training(struct backend *backend, const char *preset, double peak,
                                      struct bench_result *out);

#endif
