/* SPDX-License-Identifier: Apache-2.0 */
/* dev_record.h - a filter that logs every write, flush, discard and mark to a trace file. */
#ifndef HOLDFAST_CORE_DEV_RECORD_H
#define HOLDFAST_CORE_DEV_RECORD_H

#include <stdio.h>

#include "core/dev.h"

/* Wraps `below` (owned by the result from then on) and appends to `trace` (caller's; closed by nobody
 * here).  The trace format is documented at the head of dev_record.c. */
int dev_record_create(struct dev *below, FILE *trace, struct dev **out);

/* Writes a mark with a text of the caller's choice between the operations submitted before and after. */
void dev_record_mark(struct dev *dev, const char *text);

#endif
