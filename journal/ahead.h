/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.h - reads a missing leaf together with its neighbours. */
#ifndef HOLDFAST_JOURNAL_AHEAD_H
#define HOLDFAST_JOURNAL_AHEAD_H

#include "journal/volume.h"

struct ahead;

/* Runs in dev_poll().  True: all that was good is in the tree, the leaf that was missed among it; false: that one is to be read by itself. */
typedef void ahead_done_fn(struct provide *p, bool arrived, int err);

/* NULL if only the leaf itself is worth being read, or for want of memory.  *miss: what the tree wants.  Lock held. */
struct ahead *ahead_plan(struct volume *v, const struct miss *miss);
/* Within a volume_read_begin() that came in the same critical section as the plan.  Ends with `done`. */
void ahead_start(struct ahead *a, struct dev_queue *q, struct provide *p, ahead_done_fn *done);

#endif
