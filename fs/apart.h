/* SPDX-License-Identifier: Apache-2.0 */
/*
 * apart.h - answers that are given by a thread of its own, because the kernel may wait in the middle of them until other requests are answered.
 *
 * An O_DIRECT read may go into a mapping of a file of this very mount.  When it is answered the kernel marks the pages dirty, for which it locks them, on the
 * thread that answers; and whoever has one locked may be waiting until it is written back, by a worker.  With requests over io_uring a thread of the
 * kernel's does it (ring.h).
 */
#ifndef HOLDFAST_FS_APART_H
#define HOLDFAST_FS_APART_H

#include <sys/queue.h>

#include "core/dev.h"

struct apart;

/* The thread's from apart_send() until `sent` is posted to q. */
struct apart_answer {
	void (*send)(struct apart_answer *a); /* on the thread */
	struct dev_task sent;
	struct dev_queue *q;
	STAILQ_ENTRY(apart_answer) link;
};

/* Starts the thread. */
int apart_start(struct apart **out);
/* From any thread. */
void apart_send(struct apart *a, struct apart_answer *answer);
/* Ends the thread; all have been sent (loop_drain()).  NULL is fine. */
void apart_end(struct apart *a);

#endif
