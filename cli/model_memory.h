/* Owns the table of what each process of a run holds of a model. */
#ifndef HONE_CLI_MODEL_MEMORY_H
#define HONE_CLI_MODEL_MEMORY_H

#include "base/json.h"
#include "base/status.h"
#include "configs/config.h"
#include "model/model_config.h"

#include <stddef.h>

enum model_memory_kind {
    MODEL_MEMORY_WEIGHTS,
    MODEL_MEMORY_PACKED,      /* copies as the kernels read them */
    MODEL_MEMORY_RECEIVED,    /* what of the next version waits to be packed */
    MODEL_MEMORY_GRADIENTS,   /* a tied head's own part included */
    MODEL_MEMORY_MOMENTS,     /* of the optimizer */
    MODEL_MEMORY_REFERENCE,   /* the frozen policy of grpo.beta, as a whole */
    MODEL_MEMORY_ACTIVATIONS, /* and gradients of them, for the configured rows */
    MODEL_MEMORY_CACHE,       /* pages of keys and values */
    MODEL_MEMORY_SCRATCH,     /* of the kernels */
    MODEL_MEMORY_KINDS
};

/* Bytes in one process. */
struct model_memory {
    size_t bytes[MODEL_MEMORY_KINDS];
    size_t rows; /* of one forward pass */
    size_t total;
    size_t waiting;  /* of total while the other process works: without what rests then */
    size_t shared;   /* of total, what a worker on the trainer's host has in common with it */
    bool recomputes; /* activations are made again, layer by layer */
};

/* As the trainer and a worker of run size themselves. Errors: those of sizes that overflow, and
 * BAD_CONFIG when the cache does not hold one sequence. */
MUST_CHECK enum status model_memory_measure(const struct run_config *run,
                                            const struct model_config *model,
                                            struct model_memory *trainer,
                                            struct model_memory *sampler);
void model_memory_print(const struct model_memory *trainer, const struct model_memory *sampler,
                        size_t n_samplers);
/* One object, bytes by kind, kinds of 0 left out. */
MUST_CHECK enum status model_memory_describe(const struct model_memory *memory, struct json **out);

#endif
