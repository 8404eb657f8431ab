/* SPDX-License-Identifier: Apache-2.0 */
/* dev_undo.h - a filter that saves what a block held before it is overwritten for the first time. */
#ifndef HOLDFAST_CORE_DEV_UNDO_H
#define HOLDFAST_CORE_DEV_UNDO_H

#include "core/undo.h"

/*
 * Wraps `below` (owned by the result from then on, if this succeeds).  The head has been written when this returns.  All queues
 * must be used from one thread.  Discards are hints, and are not passed on.
 */
int dev_undo_create(struct dev *below, const struct super *sb, const struct undo_sink *sink, int64_t now_sec, struct dev **out);

/* The repair is over: writes the last batch.  Nothing may be in flight. */
int dev_undo_finish(struct dev_queue *q);

/* Blocks saved so far; 0: nothing was overwritten. */
uint64_t dev_undo_saved(const struct dev *dev);

#endif
