/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_sim.h - a device in memory for deterministic tests.
 *
 * The fault model.  Everything below comes from the seeds and the sequence of calls alone.
 *
 * Time.  An operation takes effect at the moment its callback runs, some polls after it was submitted; in which order, the seed
 * says.  A flush takes longer than a write.  Operations that are in flight together are unordered.
 *
 * Power cut.  Completed writes live in a volatile cache until a flush that was submitted after their
 * completion completes (or, for DEV_DURABLE, until their own completion).  A power cut keeps
 * everything that is durable and, of each sector written since, some version: the durable one or any
 * of the later ones, chosen per sector from the seed; a multi-sector write may thus survive in part
 * and tear at sector granularity.  Operations still in flight at the cut count as written but volatile.
 *
 * Troubles (enum sim_trouble), each ordered for the n-th operation of a kind or drawn with a probability:
 *   error        the operation ends in an errno.  A failed write leaves each of its sectors old or new, a failed read leaves
 *                rubbish in the buffer, a failed flush makes nothing durable.
 *   lost         success is reported and nothing was done: a write or discard that never reaches the medium, reads go on finding
 *                what was there before; a flush that makes nothing durable.
 *   misdirected  success is reported, but a write put its bytes to another place (as often as not one whose address differs in
 *                one bit), and the intended place is as it was; a read fetched them from another place.
 *   in parts     a short transfer: the device transfers only a part and the engine asks for the rest.  Each part takes effect
 *                at a time of its own, other operations and flushes come between, and so may the cut.
 *   slow         the operation takes hundreds of polls.
 *   full         a write that needs memory never written before (4 KiB, as a block of a sparse image file) ends in -ENOSPC and leaves
 *                everything as it was; overwriting goes on.
 * And at rest, bits rot: dev_sim_flip(), dev_sim_rot().
 *
 * Orders and rates stay through cuts and reboots, which count as no operation; a clone is a healthy device.
 */
#ifndef HOLDFAST_CORE_DEV_SIM_H
#define HOLDFAST_CORE_DEV_SIM_H

#include "core/dev.h"

struct sim_config {
	uint64_t size;		/* bytes; memory is allocated as it is written */
	uint32_t sector;	/* 512 or 4096: granularity of tearing, and the device's alignment */
	uint64_t seed;
	bool in_order;		/* complete at the first poll, in submission order, unless in parts or slow */
};

/* What happens to the n-th operation of a kind from now on (counting from 1). */
enum sim_fault { SIM_FAULT_NONE, SIM_FAULT_ONCE, SIM_FAULT_STICKY };

enum sim_trouble { SIM_ERROR, SIM_LOST, SIM_MISDIRECTED, SIM_IN_PARTS, SIM_SLOW, SIM_FULL, SIM_NTROUBLES };

#define SIM_NOPS 4 /* kinds of operations, by enum dev_op */

/* How many of a million operations of each kind meet each trouble; an error is -EIO. */
struct sim_rates {
	uint64_t seed;
	uint32_t ppm[SIM_NTROUBLES][SIM_NOPS];
};

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

/*
 * The n-th operation of kind `op` from now on (n >= 1; only those that touch [off, off+len) count when len != 0, and for SIM_FULL
 * only writes that need memory) meets `what`; with STICKY all later ones too.  NONE withdraws it.  A new order
 * replaces the one for the same trouble and kind.
 */
void dev_sim_trouble(struct dev *dev, enum sim_trouble what, enum dev_op op, uint64_t n, enum sim_fault mode,
		     uint64_t off, uint64_t len);

/* The same for SIM_ERROR, with the errno to report. */
void dev_sim_fail(struct dev *dev, enum dev_op op, uint64_t n, enum sim_fault mode, int err,
		  uint64_t off, uint64_t len);

/* Sets all rates; NULL: nothing happens by chance any more. */
void dev_sim_set_rates(struct dev *dev, const struct sim_rates *rates);

/* How many operations of kind `op` have met `what` since creation. */
uint64_t dev_sim_struck(struct dev *dev, enum sim_trouble what, enum dev_op op);

/* Flips one bit at rest, durable and cached copies alike. */
void dev_sim_flip(struct dev *dev, uint64_t byte, unsigned bit);

/* The same for a bit, drawn from *state, of what was ever written in [off, off+len).  Returns the byte; UINT64_MAX and nothing
 * happened: nothing was. */
uint64_t dev_sim_rot(struct dev *dev, uint64_t off, uint64_t len, uint64_t *state);

/* Reads or writes the current contents behind the engine's back (tests that prepare an image). */
void dev_sim_peek(struct dev *dev, uint64_t off, void *buf, uint64_t len);
void dev_sim_poke(struct dev *dev, uint64_t off, const void *buf, uint64_t len);

/* From now on delays, orders and the other random choices of operations come from this seed. */
void dev_sim_schedule(struct dev *dev, uint64_t seed, bool in_order);

/* CRC-32C over every operation submitted so far (kind, flags, offset, length, data): same seed, same digest. */
uint32_t dev_sim_digest(struct dev *dev);

/* An independent copy of the device's present state (as after a cut with everything kept), powered on and without troubles. */
int dev_sim_clone(struct dev *dev, struct dev **out);

#endif
