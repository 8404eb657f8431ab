/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_faults.h - which operation of the sim device goes wrong, and in which way.
 *
 * A trouble is ordered for the n-th operation of a kind ("told"), or comes with a probability ("rate"); what it
 * does is dev_sim.c's, and described in dev_sim.h.  Nothing is allocated, and nothing drawn while no rate is set.
 */
#ifndef HOLDFAST_CORE_SIM_FAULTS_H
#define HOLDFAST_CORE_SIM_FAULTS_H

#include "core/dev_sim.h"

/* An order; `mode` NONE: none. */
struct sim_order {
	enum sim_fault mode;
	uint64_t left; /* operations until it strikes */
	int err; /* SIM_ERROR's */
	uint64_t off, len; /* len 0: anywhere */
};

struct sim_faults {
	bool any; /* an order or a rate was ever set */
	struct sim_order orders[SIM_NTROUBLES][SIM_NOPS];
	struct sim_rates rates;
	uint64_t rng; /* the rates' own, so that setting them leaves the completion order as it was */
	uint64_t struck[SIM_NTROUBLES][SIM_NOPS];
};

/* Whether `what` makes sense for operations of kind `op`. */
bool sim_faults_apply(enum sim_trouble what, enum dev_op op);

void sim_faults_order(struct sim_faults *f, enum sim_trouble what, enum dev_op op, const struct sim_order *order);
void sim_faults_set_rates(struct sim_faults *f, const struct sim_rates *rates);

/* Counts one operation of its kind; true: it is struck. */
bool sim_faults_strike(struct sim_faults *f, enum sim_trouble what, const struct dev_io *io);

/* The errno of the SIM_ERROR that has just struck an operation of kind `op`. */
int sim_faults_err(const struct sim_faults *f, enum dev_op op);

#endif
