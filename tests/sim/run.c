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

/* So many operations are still tried. */
#define SHUT_OPS 6u

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
	uint64_t writes = dev_sim_writes(s->dev);
	struct walk w;

	if (s->plan->faults)
		return;
	if (l->fsck)
		tree_fsck(s, false);
	if (!l->look)
		return;
	set_label(s, "read-only mount");
	int rc = world_open(s, VOLUME_READ_ONLY);

	if (rc)
		violation(s, "mount", "read-only: %s", strerror(-rc));
	walk_run(&w, s);
	walk_end(&w);
	world_close(s);
	s->cov->looks++;
	for (unsigned n = s->acked; n <= s->model->nrec; n++) {
		if (s->model->rec[n].hash == w.hash && dev_sim_writes(s->dev) == writes)
			return;
	}
	violation(s, "look", "a read-only mount shows what never was, or has written");
}

/* Some mounts begin read-only.  Not drawn, so that all other seeds stay what they are; with writes cached by the kernel there is no such way. */
static unsigned way_to_mount(const struct sim *s, const struct life *l, unsigned i)
{
	bool raise = !s->plan->cached_bytes && hash_mix(s->plan->seed, l->settle[i % (BOOT_CUTS + 1)] ^ 0x5a5a) % 4 == 0;

	return raise ? WORLD_RAISE : 0;
}

/* One mount; 1: the power went.  -errno: it was rightly refused. */
static int mount_once(struct sim *s, const struct life *l, unsigned i)
{
	bool again = false;

	dev_sim_schedule(s->dev, hash_mix(s->plan->seed, l->settle[i % (BOOT_CUTS + 1)]), s->plan->in_order);
	dev_sim_cut_after(s->dev, i < BOOT_CUTS ? l->boot_cut[i] : 0);
	set_label(s, "mount");
	int rc = world_open(s, way_to_mount(s, l, i));

	trace(s, " %d\n", rc);
	if (world_is_cut(s)) {
		set_label(s, "the power goes while it mounts");
		world_close(s);
		world_reboot(s, l->settle[i % (BOOT_CUTS + 1)], l->torn[i % (BOOT_CUTS + 1)]);
		return 1;
	}
	dev_sim_cut_after(s->dev, 0);
	if (!rc)
		return 0;
	if (!faults_excuse_mount(s, rc, &again))
		violation(s, "mount", "%s", strerror(-rc));
	world_close(s);
	faults_withdraw(s);
	faults_new_life(s);
	return again ? 1 : rc;
}

/* Until a mount gets through.  False: there will be none, and a fault excuses that. */
static bool boot(struct sim *s, const struct life *l)
{
	int rc = 1;

	look(s, l);
	for (unsigned i = 0; rc == 1; i++)
		rc = mount_once(s, l, i);
	if (rc) {
		s->cov->refused++;
		return false;
	}
	s->cov->replayed += s->v->recovery.frames > 0;
	s->cov->torn += s->v->recovery.tail.kind == LOG_TAIL_TORN;
	s->cov->unwritten += s->v->recovery.unwritten_lsn > 0;
	label_judge(s);
	tree_judge(s);
	/* The mount has made a checkpoint of it. */
	s->acked = s->model->nrec;
	faults_mounted(s);
	return true;
}

static void end_life(struct sim *s, const struct life *l)
{
	/* Some go on striking while it closes, and in the next mount. */
	if (l->settle[0] & 1)
		faults_withdraw(s);
	if (world_is_cut(s) || (!l->close && !(s->shut && l->settle[0] & 2))) {
		set_label(s, "the power goes");
		world_cut(s);
	} else {
		set_label(s, "close");
	}
	int rc = world_close(s);

	if (!world_is_cut(s)) {
		dev_sim_cut_after(s->dev, 0);
		/* The volume had failed: as after a cut, only that nothing is lost that the device has seen. */
		if (rc && (faults_write(s) || faults_any(s)))
			return;
		if (rc)
			violation(s, "close", "%s", strerror(-rc));
		if (s->shut)
			return;
		s->acked = s->model->nrec;
		tree_fsck(s, true);
		return;
	}
	world_reboot(s, l->settle[BOOT_CUTS], l->torn[BOOT_CUTS]);
}

/* False: there is no going on. */
static bool live(struct sim *s, const struct life *l)
{
	uint64_t size, start;

	faults_new_life(s);
	s->was_shut = s->shut;
	s->shut = false;
	s->shut_ops = 0;
	if (!boot(s, l))
		return false;
	size = log_size(s->v->log);
	start = log_append_lsn(s->v->log);
	for (unsigned i = 0; i < l->nops && !world_is_cut(s) && s->shut_ops < SHUT_OPS; i++) {
		do_op(s, &l->op[i]);
		s->shut_ops += s->shut;
	}
	s->cov->laps += log_append_lsn(s->v->log) / size - start / size;
	s->cov->lives++;
	end_life(s, l);
	return true;
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
	bool alive = true;

	for (s.life = 0; alive && s.life < plan->nlives; s.life++)
		alive = live(&s, &plan->life[s.life]);
	faults_withdraw(&s);
	faults_new_life(&s);
	/* Everything is there once more, and all of it in order. */
	if (alive && boot(&s, &last)) {
		tree_holes(&s);
		end_life(&s, &last);
	}
	uint32_t dev = dev_sim_digest(s.dev);

	verdict->digest = crc32c(s.digest, &dev, sizeof(dev));
	world_end(&s);
}
