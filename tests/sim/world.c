/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.c - a device with a volume on it, opened and closed as a mount does, and what a power cut leaves.
 *
 * Formatting is not part of what is tried, and expensive: each geometry is formatted once per process, and every seed gets a copy.
 */
#include "tests/sim/sim.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/dev_engine.h"
#include "fs/fs_impl.h"

#define COMB_EXTENTS 850u
#define USED_LEFT    (24u << 10)
#define IDLE_LIMIT   200000u

struct image {
	struct image *next;
	struct geometry geo;
	struct dev *dev;
	struct model *model;
};

static const struct timespec image_time = {.tv_sec = 1700000000};

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

struct lab *lab_new(struct coverage *cov)
{
	struct lab *lab = need(calloc(1, sizeof(*lab)));

	lab->cov = cov;
	lab->room = need(dev_alloc(IO_ROOM, true));
	lab->other = need(dev_alloc(IO_ROOM, true));
	return lab;
}

void lab_free(struct lab *lab)
{
	struct image *next;

	for (struct image *image = lab->images; image; image = next) {
		next = image->next;
		dev_close(image->dev);
		model_free(image->model);
		free(image);
	}
	free(lab->room);
	free(lab->other);
	free(lab);
}

/* --- images ------------------------------------------------------------------------------------ */

static void must(int err)
{
	if (err) {
		fprintf(stderr, "sim: an image cannot be made: %s\n", strerror(-err));
		abort();
	}
}

static void image_format(struct dev_queue *q, const struct geometry *geo)
{
	struct format_params p = {
		.nblocks = geo->nblocks,
		.journal_nblocks = geo->journal,
		.uuid = "simulated volume",
		.hash_key = "a secret of 16b",
		.label = "sim",
		.now_sec = image_time.tv_sec,
		.root_mode = 0755,
	};

	must(volume_format(q, &p, NULL, NULL, NULL));
}

static void image_clock(void *arg, struct timespec *now)
{
	(void)arg;
	*now = image_time;
}

/* A file of more extents than one transaction changes. */
static void image_comb(struct fs *fs, struct dev_queue *q, struct model *m, const char *name, uint64_t label)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	const struct mcred mcred = {.uid = 0, .gid = 0};
	struct fs_attr attr;
	uint8_t page[MODEL_PAGE];

	m->label = (uint32_t)label;
	must(fs_create(fs, q, &cred, MODEL_ROOT, name, strlen(name), S_IFREG | 0644, 0, &attr));
	must(model_create(m, &mcred, MODEL_ROOT, name, strlen(name), S_IFREG | 0644, 0, attr.ino));
	for (unsigned i = 0; i < COMB_EXTENTS; i++) {
		uint64_t off = 2 * (uint64_t)i * MODEL_PAGE;

		if (i % 16) {
			must(fs_fallocate(fs, q, attr.ino, 0, off, MODEL_PAGE));
			must(model_fallocate(m, attr.ino, 0, off, MODEL_PAGE));
			continue;
		}
		pattern(page, sizeof(page), off, label);
		must(fs_pwrite(fs, q, attr.ino, page, sizeof(page), off) == sizeof(page) ? 0 : -EIO);
		must(model_write(m, attr.ino, page, sizeof(page), off, 0));
	}
	fs_forget(fs, q, attr.ino, 1);
}

/* One block over and over, through the log, until this is about to begin its third lap. */
static void image_use(struct volume *v, struct fs *fs, struct dev_queue *q, struct model *m)
{
	const struct fs_cred cred = {.uid = 0, .gid = 0};
	const struct mcred mcred = {.uid = 0, .gid = 0};
	struct fs_attr attr;
	uint8_t page[MODEL_PAGE];

	must(fs_create(fs, q, &cred, MODEL_ROOT, "old", 3, S_IFREG | 0644, 0, &attr));
	must(model_create(m, &mcred, MODEL_ROOT, "old", 3, S_IFREG | 0644, 0, attr.ino));
	while (log_append_lsn(v->log) + USED_LEFT < 2 * log_size(v->log)) {
		pattern(page, sizeof(page), 0, log_append_lsn(v->log));
		must(fs_pwrite(fs, q, attr.ino, page, sizeof(page), 0) == sizeof(page) ? 0 : -EIO);
		must(model_write(m, attr.ino, page, sizeof(page), 0, 0));
	}
	fs_forget(fs, q, attr.ino, 1);
}

static void image_fill(struct dev_queue *q, struct model *m, const struct geometry *geo)
{
	struct volume_config vcfg = {.clock = image_clock};
	struct fs_config cfg = {.clock = image_clock};
	struct volume *v;
	struct fs *fs;

	must(volume_open(q, &vcfg, NULL, &v));
	must(fs_open(v, q, &cfg, &fs));
	m->now = image_time;
	if (geo->comb) {
		image_comb(fs, q, m, "comb", 900000);
		image_comb(fs, q, m, "teeth", 900001);
	}
	if (geo->used)
		image_use(v, fs, q, m);
	fs_close(fs, q);
	must(volume_close(v, q));
	model_rebase(m);
}

static struct image *image_make(struct lab *lab, const struct geometry *geo)
{
	struct image *image = need(calloc(1, sizeof(*image)));
	struct sim_config cfg = {
		.size = (uint64_t)geo->nblocks << BLOCK_SHIFT,
		.sector = geo->sector,
		.seed = 1,
		.in_order = true,
	};
	struct dev_queue *q;

	image->geo = *geo;
	must(dev_sim_create(&cfg, NULL, &image->dev));
	must(dev_queue_create(image->dev, &q));
	image->model = model_new(0755, &image_time);
	image_format(q, geo);
	if (geo->comb || geo->used)
		image_fill(q, image->model, geo);
	dev_queue_destroy(q);
	image->next = lab->images;
	lab->images = image;
	return image;
}

static bool same_geometry(const struct geometry *a, const struct geometry *b)
{
	return a->nblocks == b->nblocks && a->journal == b->journal && a->sector == b->sector && a->comb == b->comb &&
	       a->used == b->used;
}

static const struct image *image_get(struct lab *lab, const struct geometry *geo)
{
	for (const struct image *image = lab->images; image; image = image->next) {
		if (same_geometry(&image->geo, geo))
			return image;
	}
	return image_make(lab, geo);
}

/* --- the device, with us listening ------------------------------------------------------------- */

static struct sim *sim_of(struct dev *dev)
{
	return ((const struct hook *)dev->ops)->sim;
}

static unsigned count_orphans(const struct sim *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < HELD_MAX; i++) {
		const struct minode *inode = s->held[i].ino ? model_get(s->model, s->held[i].ino) : NULL;

		n += inode && !inode->nlink;
	}
	return n;
}

/* The power went during this poll, or since the last. */
static void note_cut(struct sim *s)
{
	struct coverage *cov = s->cov;

	s->cut_seen = true;
	cov->cuts++;
	cov->cut_open += s->opening;
	cov->cut_close += s->closing;
	cov->cut_flight += s->nlent > 0;
	cov->cut_orphans += count_orphans(s) > 0;
	cov->cut_checkpoint += s->v && s->v->checkpoint_running;
	cov->label_cut += s->labelling;
	s->verdict->cut_op = s->op ? s->op->label : 0;
	s->verdict->cut_writes = (uint32_t)(dev_sim_writes(s->dev) - s->op_writes);
}

static int hook_poll(struct dev_queue *q, int timeout_ms)
{
	struct sim *s = sim_of(q->dev);
	int ran = s->hook.real->poll(q, s->crew ? 0 : timeout_ms);

	if (!s->cut_seen && dev_sim_is_cut(s->dev))
		note_cut(s);
	cached_poll(s);
	if (ran)
		s->idle_polls = 0;
	else if (++s->idle_polls > IDLE_LIMIT)
		violation(s, "hang", "nothing happens any more, and somebody waits");
	if (s->crew && timeout_ms && !ran)
		crew_yield(s->crew);
	return ran;
}

static void hook_submit(struct dev_queue *q, struct dev_io *io)
{
	struct sim *s = sim_of(q->dev);

	s->hook.real->submit(q, io);
	if (s->plan->faults)
		faults_watch(s, io);
}

/* Those who wait on a queue are told apart by this: without a crew nobody else could wake them. */
static int hook_queue_fd(struct dev_queue *q)
{
	return sim_of(q->dev)->crew ? 0 : -1;
}

static void hook_on(struct sim *s)
{
	s->hook.real = s->dev->ops;
	s->hook.ops = *s->dev->ops;
	s->hook.ops.poll = hook_poll;
	s->hook.ops.submit = hook_submit;
	s->hook.ops.queue_fd = hook_queue_fd;
	s->hook.sim = s;
	s->dev->ops = &s->hook.ops;
}

void world_begin(struct sim *s)
{
	const struct image *image = image_get(s->lab, &s->plan->geo);

	must(dev_sim_clone(image->dev, &s->dev));
	s->dev->diag = &s->diag;
	s->model = model_clone(image->model);
	hook_on(s);
	dev_sim_schedule(s->dev, s->plan->seed, s->plan->in_order);
	must(dev_queue_create(s->dev, &s->q));
	s->clock = image_time;
	s->faults = faults_new(s->plan->geo.nblocks);
}

void world_end(struct sim *s)
{
	dev_queue_destroy(s->q);
	dev_close(s->dev);
	model_free(s->model);
	faults_free(s->faults);
}

bool world_is_cut(struct sim *s)
{
	return dev_sim_is_cut(s->dev);
}

/* --- a mount ----------------------------------------------------------------------------------- */

static void sim_clock(void *arg, struct timespec *now)
{
	*now = ((struct sim *)arg)->clock;
}

/* What is there is looked at before and after. */
static int world_raise(struct sim *s)
{
	uint64_t writes = dev_sim_writes(s->dev);
	struct walk before, after;

	if (s->plan->faults)
		return fs_begin_writing(s->fs, s->q);
	walk_run(&before, s);
	if (!world_is_cut(s) && dev_sim_writes(s->dev) != writes)
		violation(s, "raise", "a read-only mount has written");

	int err = fs_begin_writing(s->fs, s->q);

	if (!err && !world_is_cut(s)) {
		walk_run(&after, s);
		/* Who works in the background may have made the write at which the power goes. */
		if (!world_is_cut(s) && after.hash != before.hash)
			violation(s, "raise", "what was there before has changed when the mount became writable");
		walk_end(&after);
	}
	walk_end(&before);
	s->cov->raised += !err;
	return err;
}

int world_open(struct sim *s, unsigned flags)
{
	struct volume_config vcfg = {
		.flags = s->plan->flags | flags,
		.cache_bytes = s->plan->cache_bytes,
		.clock = sim_clock,
		.clock_arg = s,
		.arg = s,
	};
	struct fs_config cfg = {
		.atime = (enum fs_atime)s->plan->atime,
		.lazytime = s->plan->lazytime,
		.clock = sim_clock,
		.clock_arg = s,
		.service_arg = s,
		.cached_bytes = flags & VOLUME_READ_ONLY ? 0 : s->plan->cached_bytes,
		.space_low = cached_low,
		.low_arg = s,
	};
	bool crew = s->plan->background && !(flags & VOLUME_READ_ONLY);
	int err;

	if (flags & WORLD_RAISE)
		vcfg.flags = (vcfg.flags & ~WORLD_RAISE) | VOLUME_READ_ONLY;

	if (crew) {
		vcfg.want_checkpoint = crew_want_checkpoint;
		cfg.want_service = crew_want_service;
	}
	s->opening = true;
	s->v = NULL;
	s->fs = NULL;
	err = volume_open(s->q, &vcfg, &s->diag, &s->v);
	if (err)
		s->v = NULL;
	if (!err && crew)
		s->crew = crew_start(s);
	if (!err)
		err = fs_open(s->v, s->q, &cfg, &s->fs);
	if (err)
		s->fs = NULL;
	if (!err && flags & WORLD_RAISE)
		err = world_raise(s);
	if (!err && crew)
		crew_serve(s->crew);
	/* Nobody can write yet. */
	if (!err && s->told_in) {
		s->told_in = 1;
		cached_poll(s);
	}
	s->opening = false;
	return err;
}

/* As fs/daemon.c does. */
int world_close(struct sim *s)
{
	int err = 0;

	if (s->fs && !s->shut && !world_is_cut(s))
		cached_all(s);
	s->closing = true;
	if (s->fs) {
		drain_all(s);
		if (s->crew)
			crew_end_service(s->crew);
		lazy_end(s, !s->shut && !world_is_cut(s));
		note_filled(s);
		fs_close(s->fs, s->q);
	}
	s->fs = NULL;
	s->ncached = s->told_in = 0;
	s->told = false;
	if (s->crew)
		crew_end(s->crew);
	s->crew = NULL;
	if (s->nlent)
		violation(s, "buffer", "%u buffers of writes have not come back", s->nlent);
	if (s->v) {
		s->cov->checkpoints += s->v->stats.checkpoints;
		s->cov->loads += s->v->stats.loads;
		faults_note(s);
		err = volume_close(s->v, s->q);
	}
	s->v = NULL;
	/* The next mount finds the device as it is. */
	atomic_store(&s->dev->shut, false);
	s->closing = false;
	memset(s->held, 0, sizeof(s->held));
	return err;
}

void world_cut(struct sim *s)
{
	dev_sim_cut(s->dev);
	if (!s->cut_seen)
		note_cut(s);
}

void world_reboot(struct sim *s, uint64_t seed, bool torn)
{
	world_cut(s);
	dev_queue_destroy(s->q);
	s->digest = crc32c(s->digest, &seed, sizeof(seed));
	if (torn)
		dev_sim_reboot_torn(s->dev, seed % 16);
	else
		dev_sim_reboot(s->dev, seed);
	s->cut_seen = false;
	must(dev_queue_create(s->dev, &s->q));
}

void world_service(struct sim *s)
{
	if (s->crew) {
		crew_yield(s->crew);
		return;
	}
	(void)volume_service(s->v, s->q);
	fs_service(s->fs, s->q);
	lazy_look(s);
}

void world_wait(struct sim *s, struct dev_event *ev)
{
	volume_event_wait(s->v, ev);
}

bool world_want_checkpoint(struct sim *s)
{
	if (s->crew)
		crew_force(s->crew);
	return s->crew;
}
