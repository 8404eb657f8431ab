/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev_sim_impl.h - shared by dev_sim.c (when things happen) and dev_sim_apply.c (what happens then).
 *
 * In a struct dev_io of this engine `result` is the error that it will end in, `sim.due` the poll at which it does,
 * `sim.in_parts` that it does so in several steps, and `sim.place` where the bytes go or come from, NOWHERE for a lost
 * operation.  What a flush covers is a write number, and is in sim.place, too.
 */
#ifndef HOLDFAST_CORE_DEV_SIM_IMPL_H
#define HOLDFAST_CORE_DEV_SIM_IMPL_H

#include "core/dev_engine.h"
#include "core/sim_faults.h"
#include "core/sim_store.h"

#define NOWHERE UINT64_MAX

struct sim_queue {
	struct engine_queue base;
	LIST_ENTRY(sim_queue) link;
	struct dev_io_list pending; /* in random order, none due before its time */
	struct dev_io_list ready; /* due in the present poll; still in flight */
	uint64_t tick; /* polls so far */
	uint64_t next_due; /* nothing that is pending is due before */
};

struct sim_dev {
	struct engine_dev base;
	struct sim_config cfg;
	struct sim_store *store;
	uint64_t rng;
	uint64_t seq; /* number of the last write that took effect */
	uint64_t nwrites; /* writes and flushes submitted */
	uint64_t cut_at; /* the power goes when nwrites gets there; 0: never */
	bool cut;
	uint32_t digest;
	struct sim_faults faults;
	LIST_HEAD(, sim_queue) queues;
};

static inline struct sim_dev *sim_of(struct dev *dev)
{
	return (struct sim_dev *)dev;
}

/* Does what is due of `io`; false: it goes on.  Else *err is how it ends. */
bool sim_apply(struct sim_dev *dev, struct dev_io *io, int *err);

/* Writes and discards in flight take effect in `to`; returns the first error. */
int sim_apply_in_flight(struct sim_dev *dev, struct sim_store *to, bool durable);

#endif
