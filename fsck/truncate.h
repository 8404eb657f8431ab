/* SPDX-License-Identifier: Apache-2.0 */
/* truncate.h - cuts a damaged journal off where the damage begins, on the user's explicit word. */
#ifndef HOLDFAST_FSCK_TRUNCATE_H
#define HOLDFAST_FSCK_TRUNCATE_H

#include "journal/volume.h"

/*
 * Replays what is in front of the damage, makes that the volume's state, and starts the journal behind everything that the old one may
 * hold.  Blocks of it that cannot be read are overwritten at the end.  Damage is: LOG_TAIL_DAMAGED, LOG_TAIL_UNREADABLE, or a transaction that does not make sense on this volume.
 * 0: *out says what was replayed and dropped.  -ENODATA: the journal is not damaged, nothing was written; else why it cannot be
 * done, said through diag, and the old state is what counts.
 */
int truncate_journal(struct dev_queue *q, const struct diag *d, struct volume_recovery *out);

#endif
