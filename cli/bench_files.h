/* Owns measuring what stands between a model folder and the first token: loading weights, and
 * tokenizing text. */
#ifndef HONE_CLI_BENCH_FILES_H
#define HONE_CLI_BENCH_FILES_H

#include "kernels/bench/bench.h"

/* Where a measurement finds and leaves files. */
struct bench_places {
    const char *model_dir; /* NULL: none given */
    const char *scratch;   /* folder in which folders are made and removed again */
};
/* Called with each result as it is there. */
typedef enum status bench_report(void *context, const struct bench_result *result);

/* GB of checkpoint per second into a fresh FP32 buffer, files in the page cache, all cores: of
 * model_dir, or (NULL) of F32, BF16 and FP8 folders that are made in scratch (450 MB) and
 * removed again. memory_gb_per_s: read rate of the machine, 0: unknown; the limit is what it allows
 * when every byte of the files and of the buffer crosses it once. */
MUST_CHECK enum status bench_load(const struct bench_places *places, double memory_gb_per_s,
                                  bench_report *report, void *context);
/* MB of text per second on one core: digits with the demo's tokenizer, and with model_dir's (NULL:
 * none) words, numbers, code and other scripts. */
MUST_CHECK enum status bench_tokenize(const struct bench_places *places, bench_report *report,
                                      void *context);

#endif
