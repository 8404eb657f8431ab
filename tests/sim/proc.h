/* SPDX-License-Identifier: Apache-2.0 */
/* proc.h - plans in processes of their own, because a failure may be an assertion, a crash or a hang. */
#ifndef HOLDFAST_TESTS_SIM_PROC_H
#define HOLDFAST_TESTS_SIM_PROC_H

#include <sys/types.h>

#include "tests/sim/sim.h"

#define SEED_SECONDS 60	/* of processor time: no seed takes that long; sanitizers included */

/* Shared with a child. */
struct slot {
	struct verdict verdict;
	struct coverage cov;
	_Atomic uint64_t seed;		/* under way, or next */
	_Atomic uint64_t done;
	uint64_t digest;		/* of all seeds done, in any order */
};

struct slot *slots_new(unsigned n);

/* From now on this process has SEED_SECONDS; of a machine that does other things meanwhile, ten times as long. */
void proc_limit(void);

/* Assertions of the code under test say here what they have to say.  Of this process, and those that it forks. */
void proc_assertions(struct verdict *v);

/* What a child's end means; fills in the verdict if the child could not.  True: it failed. */
bool proc_verdict(struct verdict *v, int status);

/* Runs one plan in a child.  `out`: its trace (NULL: none).  True: it failed, and *v says how. */
bool proc_run(struct slot *slot, const struct plan *plan, FILE *out);

/* A shorter plan that fails in the same way; the caller's. */
struct plan *shrink(struct slot *slot, const struct plan *plan, const struct verdict *v, unsigned seconds, bool chatty);

#endif
