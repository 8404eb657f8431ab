/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - lives one after the other.
 *
 * A life begins with a mount, which may be cut short and begun again; what is there then must be what was, as tree.c judges.
 * It ends when the power goes, at a write that the plan chose, or in an orderly way.
 */
#include "tests/sim/sim.h"

#include <string.h>

#include "core/crc32c.h"

static void show_diag(void *arg, enum diag_level level, const char *line)
{
	trace(arg, " [%d %s]", (int)level, line);
}

static void set_label(struct sim *s, const char *what)
{
	trace(s, "life %u: %s\n", s->life, what);
	s->op = NULL;
	s->op_writes = dev_sim_writes(s->dev);
}

/* The device as the reboot left it, before anything is written. */
static void look(struct sim *s, const struct life *l)
{
	uint64_t writes = dev_sim_writes(s->dev), hash;

	if (l->fsck)
		tree_fsck(s, false);
	if (!l->look)
		return;
	set_label(s, "read-only mount");
	int rc = world_open(s, VOLUME_READ_ONLY);

	if (rc)
		violation(s, "mount", "read-only: %s", strerror(-rc));
	hash = tree_hash(s);
	world_close(s);
	s->cov->looks++;
	for (unsigned n = s->acked; n <= s->model->nrec; n++) {
		if (s->model->rec[n].hash == hash && dev_sim_writes(s->dev) == writes)
			return;
	}
	violation(s, "look", "a read-only mount shows what never was, or has written");
}

/* Until a mount gets through. */
static void boot(struct sim *s, const struct life *l)
{
	look(s, l);
	for (unsigned i = 0;; i++) {
		dev_sim_schedule(s->dev, hash_mix(s->plan->seed, l->settle[i]), s->plan->in_order);
		dev_sim_cut_after(s->dev, i < BOOT_CUTS ? l->boot_cut[i] : 0);
		set_label(s, "mount");
		int rc = world_open(s, 0);

		trace(s, " %d\n", rc);
		if (!world_is_cut(s)) {
			dev_sim_cut_after(s->dev, 0);
			if (rc)
				violation(s, "mount", "%s", strerror(-rc));
			break;
		}
		set_label(s, "the power goes while it mounts");
		world_close(s);
		world_reboot(s, l->settle[i], l->torn[i]);
	}
	s->cov->replayed += s->v->recovery.frames > 0;
	s->cov->torn += s->v->recovery.tail.kind == LOG_TAIL_TORN;
	tree_judge(s);
	/* The mount has made a checkpoint of it. */
	s->acked = s->model->nrec;
}

static void end_life(struct sim *s, const struct life *l)
{
	if (world_is_cut(s) || !l->close) {
		set_label(s, "the power goes");
		world_cut(s);
	} else {
		set_label(s, "close");
	}
	int rc = world_close(s);

	if (!world_is_cut(s)) {
		if (rc)
			violation(s, "close", "%s", strerror(-rc));
		dev_sim_cut_after(s->dev, 0);
		s->acked = s->model->nrec;
		tree_fsck(s, true);
		return;
	}
	world_reboot(s, l->settle[BOOT_CUTS], l->torn[BOOT_CUTS]);
}

static void live(struct sim *s, const struct life *l)
{
	uint64_t size, start;

	boot(s, l);
	size = log_size(s->v->log);
	start = log_append_lsn(s->v->log);
	for (unsigned i = 0; i < l->nops && !world_is_cut(s); i++)
		do_op(s, &l->op[i]);
	s->cov->laps += (log_append_lsn(s->v->log) - start) / size;
	s->cov->lives++;
	end_life(s, l);
}

void run_plan(struct lab *lab, const struct plan *plan, struct verdict *verdict, FILE *out)
{
	struct sim s = {.lab = lab, .plan = plan, .cov = lab->cov, .verdict = verdict, .trace = out};
	const struct life last = {.close = true};

	if (out)
		s.diag = (struct diag){.emit = show_diag, .arg = &s};
	trace(&s, "seed %llu: profile %s, %u blocks, journal %u, sector %u, cache %u, %s\n", (unsigned long long)plan->seed,
	      plan->profile->name, plan->geo.nblocks, plan->geo.journal, plan->geo.sector, plan->cache_bytes,
	      plan->background ? "with background threads" : "checkpoints inline");
	world_begin(&s);
	for (s.life = 0; s.life < plan->nlives; s.life++)
		live(&s, &plan->life[s.life]);
	/* Everything is there once more, and all of it in order. */
	boot(&s, &last);
	tree_holes(&s);
	end_life(&s, &last);
	uint32_t dev = dev_sim_digest(s.dev);

	verdict->digest = crc32c(s.digest, &dev, sizeof(dev));
	world_end(&s);
}
