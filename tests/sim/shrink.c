/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shrink.c - a shorter plan that fails in the same way.
 *
 * Lives and operations are left out, in ever smaller portions, as long as the failure's kind stays; then what
 * is unusual about the plan.  A power cut is first tied to the operation in which it struck, so that leaving out
 * others does not move it.
 */
#include "tests/sim/proc.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct shrink {
	struct slot *slot;
	struct plan *best;
	struct verdict verdict;		/* of the best */
	time_t end;
	unsigned tries;
};

static bool is_time_up(const struct shrink *k)
{
	return time(NULL) >= k->end;
}

/* Takes the candidate over: it is the best now, or gone. */
static bool try(struct shrink *k, struct plan *candidate)
{
	k->tries++;
	if (is_time_up(k) || !proc_run(k->slot, candidate, NULL) || strcmp(k->slot->verdict.kind, k->verdict.kind)) {
		plan_free(candidate);
		return false;
	}
	k->verdict = k->slot->verdict;
	plan_free(k->best);
	k->best = candidate;
	return true;
}

static void remove_ops(struct life *l, unsigned from, unsigned n)
{
	memmove(&l->op[from], &l->op[from + n], (l->nops - from - n) * sizeof(*l->op));
	l->nops -= n;
}

static bool shrink_life(struct shrink *k, unsigned life)
{
	bool any = false;

	for (unsigned n = k->best->life[life].nops; n; n /= 2) {
		for (unsigned from = 0; from < k->best->life[life].nops && !is_time_up(k);) {
			struct plan *p = plan_copy(k->best);
			struct life *l = &p->life[life];

			remove_ops(l, from, n < l->nops - from ? n : l->nops - from);
			if (try(k, p))
				any = true;
			else
				from += n;
		}
	}
	return any;
}

static bool drop_lives(struct shrink *k)
{
	bool any = false;

	for (unsigned i = 0; i < k->best->nlives;) {
		struct plan *p = plan_copy(k->best);

		free(p->life[i].op);
		memmove(&p->life[i], &p->life[i + 1], (p->nlives - i - 1) * sizeof(p->life[0]));
		p->nlives--;
		if (try(k, p))
			any = true;
		else
			i++;
	}
	return any;
}

/* The last cut of the plan struck in operation cut_op: there it is asked for. */
static void tie_cut(struct shrink *k)
{
	struct plan *p = plan_copy(k->best);

	for (unsigned i = 0; i < p->nlives; i++) {
		struct life *l = &p->life[i];
		struct op cut = {.kind = OP_CUT, .label = 999999, .r = {k->verdict.cut_writes}};
		unsigned at = 0;

		while (at < l->nops && l->op[at].label != k->verdict.cut_op)
			at++;
		if (at == l->nops || !k->verdict.cut_op || l->op[at].kind == OP_CUT)
			continue;
		for (unsigned j = 0; j < l->nops; j++) {
			if (l->op[j].kind == OP_CUT) {
				remove_ops(l, j, 1);
				at -= j < at;
				break;
			}
		}
		l->op = realloc(l->op, (l->nops + 2) * sizeof(*l->op));
		if (!l->op)
			abort();
		memmove(&l->op[at + 1], &l->op[at], (l->nops - at) * sizeof(*l->op));
		l->op[at] = cut;
		l->nops++;
	}
	try(k, p);
}

static void simplify(struct shrink *k)
{
	for (unsigned what = 0; what < 10; what++) {
		struct plan *p = plan_copy(k->best);

		for (unsigned i = 0; i < p->nlives; i++) {
			struct life *l = &p->life[i];

			if (what == 0)
				memset(l->boot_cut, 0, sizeof(l->boot_cut));
			if (what == 1)
				l->look = l->fsck = false;
			if (what == 2)
				memset(l->torn, 0, sizeof(l->torn));
		}
		if (what == 3)
			p->in_order = true;
		if (what == 4)
			p->background = false;
		if (what == 5)
			p->cache_bytes = 0;
		if (what == 6)
			p->flags = 0;
		if (what == 7)
			p->atime = FS_NOATIME;
		if (what == 8)
			p->lazytime = false;
		if (what == 9)
			p->cached_bytes = 0;
		try(k, p);
	}
}

struct plan *shrink(struct slot *slot, const struct plan *plan, const struct verdict *v, unsigned seconds, bool chatty)
{
	struct shrink k = {.slot = slot, .best = plan_copy(plan), .verdict = *v, .end = time(NULL) + seconds};
	bool again = true;

	tie_cut(&k);
	drop_lives(&k);
	simplify(&k);
	while (again && !is_time_up(&k)) {
		again = false;
		for (unsigned i = 0; i < k.best->nlives; i++)
			again |= shrink_life(&k, i);
		again |= drop_lives(&k);
	}
	simplify(&k);
	if (chatty)
		fprintf(stderr, "sim: %u shorter plans tried\n", k.tries);
	return k.best;
}
