/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_rig.h - a log on a small device, for the tests of journal/log.h.
 *
 * Test frames are self-describing: (number, length, salt) determine every byte, so a reader can tell which frame it
 * has got, and whose.  A salt is a life of the log; frames of different lives differ though numbers and lengths agree.
 */
#ifndef HOLDFAST_TESTS_LOG_RIG_H
#define HOLDFAST_TESTS_LOG_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev_sim.h"
#include "journal/log_impl.h"

#define RIG_JOURNAL_BLKNO 8u
#define MIN_TXN ((uint32_t)sizeof(struct disk_txn))

struct rig {
	struct dev *dev;
	struct dev_queue *q;
	struct super sb;
	struct log *l;
	struct diag diag;
	_Atomic unsigned nfailed;	/* calls of failed() */
	int failed_err;
	uint64_t lsn;			/* where the log of this life begins */
	uint32_t salt;
};

/* Identity and geometry of a volume whose journal has `nblocks` blocks. */
struct super rig_super(uint64_t nblocks);
/* A sim device of zeros, a queue and a log that begins at `lsn`. */
void rig_open(struct rig *r, uint64_t nblocks, uint64_t seed, bool in_order, uint64_t lsn);
/* The same over a device that the caller opened, which the rig owns from then on. */
void rig_open_dev(struct rig *r, struct dev *dev, uint64_t nblocks, uint64_t lsn);
void rig_log(struct rig *r, uint64_t lsn);
void rig_close(struct rig *r);
/* Ends the log and the queue, cuts the power if that has not happened, and comes back with a new queue and no log. */
void rig_power_cycle(struct rig *r, uint64_t seed);

/* splitmix64. */
uint64_t rig_random(uint64_t *state);

void rig_payload(uint32_t salt, uint32_t number, uint32_t len, uint8_t *out);
/* The frame's number; fails the test if its bytes are not those of (number, len, salt). */
uint32_t rig_check_payload(uint32_t salt, const void *payload, uint32_t len);

/* Appends frame `number`; fails the test on an error.  Returns its end. */
uint64_t rig_append(struct rig *r, uint32_t number, uint32_t len, struct log_hold *hold);
int rig_try_append(struct rig *r, uint32_t number, uint32_t len, uint64_t *end_lsn);
void rig_sync(struct rig *r, uint64_t lsn);

/* What a reader saw: numbers first .. first + count - 1 without a gap, in order, of this life. */
struct rig_seen {
	uint32_t first, count;
	uint64_t end_lsn;	/* of the last one, or where it began */
	struct log_tail tail;
};
/* Reads `dev` from `lsn`; every frame must be of `salt` and follow the one before. */
void rig_read(struct rig *r, struct dev *dev, uint64_t lsn, uint32_t salt, struct rig_seen *out);

/* A waiter that counts. */
struct rig_waiter {
	struct log_waiter w;
	_Atomic int calls;
	int err;
};
void rig_waiter_init(struct rig_waiter *w);
/* Polls until it was called; fails the test if nothing is left that could do it. */
void rig_wait(struct rig *r, struct rig_waiter *w);

#endif
