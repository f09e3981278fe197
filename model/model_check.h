/* Owns the comparison of a model folder with known numbers: a safetensors file with input_ids and
 * any of logits, loss, hidden states, routes, MTP results and gradients (`hone model check DIR
 * --against IO`). The model runs once as a trainer would; each kind of tensor has its tolerance. */
#ifndef HONE_MODEL_MODEL_CHECK_H
#define HONE_MODEL_MODEL_CHECK_H

#include "base/status.h"
#include "kernels/backend.h"

#include <stdbool.h>
#include <stddef.h>

#define MODEL_CHECK_KINDS_MAX ((size_t)32)

/* The worst deviation among the tensors of one kind. */
struct model_check_line {
    const char *kind; /* "logits", "hidden", "grad" ... */
    size_t n_tensors;
    double share;     /* of the tolerance; above 1 fails; infinite: not a number, or wrong index */
    double got, want; /* there */
    char where[160];  /* tensor[element] */
};
struct model_check {
    struct model_check_line lines[MODEL_CHECK_KINDS_MAX];
    size_t n_lines;
    bool has_passed;
};

/* Loads dir, runs it on io_path's input_ids (B, T) and compares everything the file holds. Results
 * of W8A8 arithmetic (model.md 10.3) are compared with FP8 runs, codes first:
 *   logits_w8a8, codes_w8a8.LINEAR, scales_w8a8.LINEAR  every linear layer, kv_b too, under scales
 * of the checkpoint's kind (amax / 448, or powers of two where all of its scales are);
 *   ..._w8a8_absorbed  the same with kv_b absorbed, its input not quantised;
 *   ..._w8a8_requantised  as absorbed, under power-of-two scales: what the FP8 profile computes.
 * A tensor of no known kind, or a file with nothing to compare, is BAD_FORMAT.
 * mtp_input of a fixture.json in dir replaces the configuration's. out_path (or NULL): what was
 * computed, under the same names. */
MUST_CHECK enum status model_check_against(struct backend *backend, const char *dir,
                                           const char *io_path, const char *out_path,
                                           struct model_check *out);

/* Loads dir (configuration, every tensor, finite), saves it into the empty folder scratch_dir and
 * loads that: BAD_FORMAT unless both give identical bits. */
MUST_CHECK enum status model_check_round_trip(const char *dir, const char *scratch_dir);

#endif
