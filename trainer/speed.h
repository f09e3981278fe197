/* Owns what shares of the machine's peak in step lines are divided by. Processes that start beside
 * the trainer make a rate measured once at start too low, so it is looked at again before the first
 * updates, when the trainer alone computes, and the best counts. */
#ifndef HONE_TRAINER_SPEED_H
#define HONE_TRAINER_SPEED_H

#include "base/status.h"
#include "kernels/backend.h"

struct speed;

/* precision: of the products, whose rate is the peak: fp32 FMA or bf16 pairs. Errors: NO_MEMORY. */
MUST_CHECK enum status speed_create(struct backend *backend, enum precision precision,
                                    struct speed **out);
void speed_destroy(struct speed *speed); /* NULL is legal */
/* Before an update: half a millisecond of the first ones. */
void speed_look(struct speed *speed);
/* flops in these seconds as a share of the peak, 0 to 1: what was reached is no less than the peak.
 */
double speed_share(struct speed *speed, double flops, double seconds);

#endif
