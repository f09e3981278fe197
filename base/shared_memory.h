/* Owns memory that processes of one host read together: a block that its owner writes and others
 * map read-only, so that many readers cost what one copy costs. It has no name in the file system;
 * who knows the owner's pid and descriptor finds it in /proc, and a random nonce in the block says
 * that it is the one that was meant.
 *
 *   0                header: magic, data bytes, nonce, version
 *   SHARED_MEMORY_AT data, from a border of 2 MiB on; the file cannot change its size
 *
 * The version says what the data are just now. Readers look before and after they read: what they
 * made of the data in between counts if both times it was what they wanted (a sequence lock whose
 * numbers do not come back). */
#ifndef HONE_BASE_SHARED_MEMORY_H
#define HONE_BASE_SHARED_MEMORY_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHARED_MEMORY_AT ((size_t)1 << 21)
#define SHARED_MEMORY_NONCE 16

struct shared_memory;

/* How another process finds a block. */
struct shared_memory_name {
    int64_t pid, fd;
    size_t n_bytes; /* of data */
    unsigned char nonce[SHARED_MEMORY_NONCE];
};

/* n_bytes of zeros with version -1; large ones in pages of 2 MiB where the kernel can. All of it is
 * there at once, so that no write can fail later. Errors: NO_MEMORY, UNSUPPORTED (no such memory
 * here). */
MUST_CHECK enum status shared_memory_create(size_t n_bytes, struct shared_memory **out);
/* Maps a block of another process (or this one), which cannot be written through it. What is
 * reached may be anything, as pids and descriptors are of the host and the moment: it is only
 * looked at. Errors: IO (nothing there, or not permitted), PEER (something else). */
MUST_CHECK enum status shared_memory_attach(const struct shared_memory_name *name,
                                            struct shared_memory **out);
/* NULL is legal. The memory itself goes with the last process that has it mapped. */
void shared_memory_close(struct shared_memory *memory);

struct shared_memory_name shared_memory_name(const struct shared_memory *memory);
/* 2 MiB aligned; read-only if it was attached. */
void *shared_memory_data(const struct shared_memory *memory);

/* The owner's word on what the data are. -1 before it writes them: no write behind this call is
 * seen by who still reads another version behind its own reads. */
void shared_memory_set_version(struct shared_memory *memory, int64_t version);
int64_t shared_memory_version(const struct shared_memory *memory);
/* No process has the owner's pid any more, so that the version will never change again. */
bool shared_memory_is_orphan(const struct shared_memory *memory);

/* Bytes of data in the blocks that this process has created: beside memory_live_bytes. */
size_t shared_memory_bytes(void);

#endif
