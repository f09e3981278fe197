/* Owns MANIFEST: which files a checkpoint has, their sizes and block digests. Only checkpoint.c
 * uses it. */
#ifndef HONE_TRAINER_CHECKPOINT_MANIFEST_H
#define HONE_TRAINER_CHECKPOINT_MANIFEST_H

#include "base/status.h"
#include "trainer/checkpoint.h"

/* Digests every file of folder (one level of subfolders) and writes folder/MANIFEST durably. */
MUST_CHECK enum status checkpoint_manifest_write(const char *folder,
                                                 const struct checkpoint_info *info);
/* Reads folder/MANIFEST into *info and compares every file with it. */
MUST_CHECK enum status checkpoint_manifest_verify(const char *folder, struct checkpoint_info *info);

#endif
