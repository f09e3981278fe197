/* Owns the comparison of a model folder with known numbers: a safetensors file with input_ids and
 * any of logits, loss, hidden states, routes, MTP results and gradients (`hone model check DIR
 * --against IO`). The model runs once as a trainer would; each kind of tensor has its tolerance. */
#ifndef HONE_MODEL_MODEL_CHECK_H
#define HONE_MODEL_MODEL_CHECK_H

#include "base/status.h"
#include "kernels/backend.h"

#include <stdbool.h>
#include <stddef.h>

#define MODEL_CHECK_KINDS_MAX ((size_t)16)

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
    /* Stored results of W8A8 arithmetic in other variants than hone's: not compared. */
    size_t n_not_computed;
    char not_computed[160]; /* the first of them */
    bool has_passed;        /* of what was compared, which is never nothing */
};

/* Loads dir, runs it on io_path's input_ids (B, T) and compares everything the file holds. Results
 * of W8A8 arithmetic (logits_w8a8*, codes_w8a8*, scales_w8a8*) are compared with an FP8 run where
 * weights have power-of-two scales and kv_b is absorbed, else counted as not computed; a tensor of
 * no known kind, or a file with nothing to compare, is BAD_FORMAT.
 * mtp_input of a fixture.json in dir replaces the configuration's. out_path (or NULL): what was
 * computed, under the same names. */
MUST_CHECK enum status model_check_against(struct backend *backend, const char *dir,
                                           const char *io_path, const char *out_path,
                                           struct model_check *out);

/* Loads dir (configuration, every tensor, finite), saves it into the empty folder scratch_dir and
 * loads that: BAD_FORMAT unless both give identical bits. */
MUST_CHECK enum status model_check_round_trip(const char *dir, const char *scratch_dir);

#endif
