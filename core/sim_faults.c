/* SPDX-License-Identifier: Apache-2.0 */
/* sim_faults.c - see sim_faults.h. */
#include "core/sim_faults.h"

#include "core/sim_store.h"

bool sim_faults_apply(enum sim_trouble what, enum dev_op op)
{
	switch (what) {
	case SIM_ERROR:
	case SIM_SLOW:
		return true;
	case SIM_LOST:
		return op != DEV_READ;
	case SIM_MISDIRECTED:
	case SIM_IN_PARTS:
		return op == DEV_READ || op == DEV_WRITE;
	case SIM_FULL:
		return op == DEV_WRITE;
	default:
		return false;
	}
}

void sim_faults_order(struct sim_faults *f, enum sim_trouble what, enum dev_op op,
		      const struct sim_order *order)
{
	assert(sim_faults_apply(what, op));
	f->orders[what][op] = *order;
	f->any = true;
}

void sim_faults_set_rates(struct sim_faults *f, const struct sim_rates *rates)
{
	for (int what = 0; what < SIM_NTROUBLES; what++)
		for (int op = 0; op < SIM_NOPS; op++)
			assert(!rates->ppm[what][op] ||
			       sim_faults_apply((enum sim_trouble)what, (enum dev_op)op));
	f->rates = *rates;
	f->rng = rates->seed;
	f->any = true;
}

static bool in_range(const struct sim_order *o, const struct dev_io *io)
{
	return !o->len || io->op == DEV_FLUSH || (io->off < o->off + o->len && o->off < io->off + io->len);
}

static bool told(struct sim_order *o, const struct dev_io *io)
{
	if (o->mode == SIM_FAULT_NONE || !in_range(o, io))
		return false;
	if (o->left && --o->left)
		return false;
	if (o->mode == SIM_FAULT_ONCE)
		o->mode = SIM_FAULT_NONE;
	return true;
}

bool sim_faults_strike(struct sim_faults *f, enum sim_trouble what, const struct dev_io *io)
{
	uint32_t ppm = f->rates.ppm[what][io->op];
	bool hit = f->any && told(&f->orders[what][io->op], io);

	if (ppm && sim_random(&f->rng) % 1000000 < ppm)
		hit = true;
	f->struck[what][io->op] += hit;
	return hit;
}

int sim_faults_err(const struct sim_faults *f, enum dev_op op)
{
	int err = f->orders[SIM_ERROR][op].err;

	return err ? err : -EIO;
}
