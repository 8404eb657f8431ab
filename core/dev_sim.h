/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_sim.h - a device in memory for deterministic tests.
 *
 * Fault model: completed writes live in a volatile cache until a flush that was submitted after their
 * completion completes (or, for DEV_DURABLE, until their own completion).  A power cut keeps
 * everything that is durable and, of each sector written since, some version: the durable one or any
 * of the later ones, chosen per sector from the seed; a multi-sector write may thus survive in part
 * and tear at sector granularity.  Operations still in flight at the cut count as written but volatile.
 * Completion order and the number of polls an operation takes come from the seed alone.
 */
#ifndef HOLDFAST_CORE_DEV_SIM_H
#define HOLDFAST_CORE_DEV_SIM_H

#include "core/dev.h"

struct sim_config {
	uint64_t size;		/* bytes; memory is allocated as it is written */
	uint32_t sector;	/* 512 or 4096: granularity of tearing, and the device's alignment */
	uint64_t seed;
	bool in_order;		/* complete at the first poll, in submission order */
};

/* What happens to the n-th operation of a kind from now on (counting from 1). */
enum sim_fault { SIM_FAULT_NONE, SIM_FAULT_ONCE, SIM_FAULT_STICKY };

/* Creates a device of zeros. */
int dev_sim_create(const struct sim_config *cfg, const struct diag *diag, struct dev **out);

/*
 * The power is cut when the n-th write or flush from now on has been submitted, that one included in what is
 * volatile; n == 0: never.  From the cut on every operation ends in -EIO until dev_sim_reboot().
 */
void dev_sim_cut_after(struct dev *dev, uint64_t n);
/* Cuts now. */
void dev_sim_cut(struct dev *dev);
bool dev_sim_is_cut(struct dev *dev);
/* Writes and flushes submitted since creation, to choose cut points from. */
uint64_t dev_sim_writes(struct dev *dev);

/* After a cut and after all queues are gone: decides from `seed` what survived, and powers on. */
void dev_sim_reboot(struct dev *dev, uint64_t seed);

/* Instead of that: everything survived but the end of the last write, of which the first `nsectors` are left.  Returns how many
 * sectors that write has; 0: nothing was volatile. */
uint64_t dev_sim_reboot_torn(struct dev *dev, uint64_t nsectors);

/* The n-th operation of kind `op` (n >= 1; only those that touch [off, off+len) count when len != 0)
 * ends with `err` (negative errno); with STICKY all later ones too.  NONE withdraws it; a reboot does not.
 * A failed write leaves each of its sectors old or new, a failed read leaves rubbish in the buffer, a
 * failed flush makes nothing durable. */
void dev_sim_fail(struct dev *dev, enum dev_op op, uint64_t n, enum sim_fault mode, int err,
		  uint64_t off, uint64_t len);

/* Flips one bit at rest, durable and cached copies alike. */
void dev_sim_flip(struct dev *dev, uint64_t byte, unsigned bit);

/* Reads or writes the current contents behind the engine's back (tests that prepare an image). */
void dev_sim_peek(struct dev *dev, uint64_t off, void *buf, uint64_t len);
void dev_sim_poke(struct dev *dev, uint64_t off, const void *buf, uint64_t len);

/* CRC-32C over every operation submitted so far (kind, flags, offset, length, data): same seed, same digest. */
uint32_t dev_sim_digest(struct dev *dev);

/* An independent copy of the device's present state (as after a cut with everything kept), powered on. */
int dev_sim_clone(struct dev *dev, struct dev **out);

#endif
