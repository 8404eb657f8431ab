/* SPDX-License-Identifier: Apache-2.0 */
/*
 * power_cut_rig.h - a file system on a sim device, and operations for a script of what happens to it.
 *
 * A script is a table of operations on paths, each of which is one transaction to whoever looks at the tree.  The clock stands still
 * during each and depends on its number alone, so the tree after the first k operations is always the same, after however many
 * lives.
 */
#ifndef HOLDFAST_TESTS_POWER_CUT_RIG_H
#define HOLDFAST_TESTS_POWER_CUT_RIG_H

#include "tests/unit/volume_rig.h"

#include <fcntl.h>
#include <unistd.h>

#include "fs/fs.h"

#define RUN_INODES 1024u	/* inode numbers of a script are below this */
#define RUN_SLOTS  2u

struct run {
	struct rig r;
	struct fs *fs;
	struct timespec clock;
	char label[120];	/* which case this is, for messages */
	unsigned at;		/* number of the operation under way */
	unsigned acked;		/* so many operations must survive */
	/* Behind the last operation that changed an inode (its contents or size), as far as this life knows. */
	unsigned changed[RUN_INODES], contents[RUN_INODES];
	uint64_t held[RUN_SLOTS];	/* inodes kept known; 0: none in this life */
	bool warm;		/* the first life, whose course is known: what it needs of the tree is in memory */
	unsigned nlent;		/* writes whose buffer has not come back */
	unsigned nlate;		/* syncs that nobody waits for and that have not ended */
};

struct op {
	int (*act)(struct run *c, const struct op *op);
	const char *a, *b;	/* paths; "@N" is the inode held in slot N */
	uint64_t off, len;
	int arg;
};

static inline void run_clock(void *arg, struct timespec *now)
{
	*now = ((struct run *)arg)->clock;
}

static inline void run_tick(struct run *c, unsigned at)
{
	c->at = at;
	c->clock = (struct timespec){.tv_sec = 1700000000 + at, .tv_nsec = (at * 7919 + 1) % 1000000000};
}

static inline int run_open(struct run *c)
{
	struct fs_config cfg = {.clock = run_clock, .clock_arg = c};
	int err = volume_open(c->r.q, &c->r.cfg, &c->r.diag, &c->r.v);

	if (err) {
		c->r.v = NULL;
		return err;
	}
	err = fs_open(c->r.v, c->r.q, &cfg, &c->fs);
	if (err)
		c->fs = NULL;
	return err;
}

static inline void run_forget(struct run *c)
{
	memset(c->changed, 0, sizeof(c->changed));
	memset(c->contents, 0, sizeof(c->contents));
	memset(c->held, 0, sizeof(c->held));
}

static inline int run_close(struct run *c)
{
	while (c->nlate)
		assert_true(dev_poll(c->r.q, -1) > 0);
	if (c->fs)
		fs_close(c->fs, c->r.q);
	c->fs = NULL;
	assert_int_equal(c->nlent, 0);
	run_forget(c);
	int err = c->r.v ? volume_close(c->r.v, c->r.q) : 0;
	c->r.v = NULL;
	c->warm = false;
	return err;
}

/* The power has gone: memory is lost, and `seed` says what the device still has. */
static inline void run_reboot(struct run *c, uint64_t seed)
{
	run_close(c);
	rig_after_cut(&c->r, seed);
}

/* The same, with all writes but the end of the last one, of which `left` sectors are there.  Returns how many it has. */
static inline uint64_t run_reboot_torn(struct run *c, uint64_t left)
{
	run_close(c);
	dev_queue_destroy(c->r.q);
	uint64_t sectors = dev_sim_reboot_torn(c->r.dev, left);

	c->r.q = rig_queue(c->r.dev);
	return sectors;
}

/* On a copy of the device. */
static inline void run_clone(struct run *c, const struct run *from)
{
	memset(c, 0, sizeof(*c));
	c->r.diag = from->r.diag;
	c->r.cfg = from->r.cfg;
	c->warm = !c->r.cfg.cache_bytes;
	assert_int_equal(dev_sim_clone(from->r.dev, &c->r.dev), 0);
	c->r.q = rig_queue(c->r.dev);
}

static inline void run_destroy(struct run *c)
{
	run_close(c);
	dev_queue_destroy(c->r.q);
	dev_close(c->r.dev);
}

/* --- paths ------------------------------------------------------------------------------------- */

static inline void mark(struct run *c, uint64_t ino, bool contents)
{
	assert_true(ino < RUN_INODES);
	c->changed[ino] = c->at + 1;
	if (contents)
		c->contents[ino] = c->at + 1;
}

/* What `len` bytes of a path lead to, with a reference. */
static inline int path_take(struct run *c, const char *path, size_t len, uint64_t *ino)
{
	struct fs_attr attr;
	int err = fs_lookup(c->fs, c->r.q, INO_ROOT, ".", 1, &attr);

	for (size_t at = 0; !err && at < len;) {
		uint64_t dir = attr.ino;
		size_t n = strcspn(path + ++at, "/");

		if (n > len - at)
			n = len - at;
		if (!n)
			break;
		err = fs_lookup(c->fs, c->r.q, dir, path + at, n, &attr);
		fs_forget(c->fs, c->r.q, dir, 1);
		at += n;
	}
	*ino = attr.ino;
	return err;
}

/* -ENODATA: a slot that is empty because its inode was taken in an earlier life. */
static inline int take(struct run *c, const char *path, uint64_t *ino)
{
	if (*path != '@')
		return path_take(c, path, strlen(path), ino);
	*ino = c->held[path[1] - '0'];
	return *ino ? 0 : -ENODATA;
}

static inline void drop(struct run *c, const char *path, uint64_t ino)
{
	if (*path != '@')
		fs_forget(c->fs, c->r.q, ino, 1);
}

/* The directory that a path's last name is in, with a reference, and that name. */
static inline int take_parent(struct run *c, const char *path, uint64_t *dir, const char **name)
{
	*name = strrchr(path, '/') + 1;
	return path_take(c, path, (size_t)(*name - path) - 1, dir);
}

/* --- operations on names ----------------------------------------------------------------------- */

static inline int act_make(struct run *c, const struct op *op)
{
	struct fs_cred cred = {.uid = 1000 + c->at, .gid = 100};
	struct fs_attr attr;
	const char *name;
	uint64_t dir;
	int err = take_parent(c, op->a, &dir, &name);

	if (err)
		return err;
	if (op->b)
		err = fs_symlink(c->fs, c->r.q, &cred, dir, name, strlen(name), op->b, &attr);
	else
		err = fs_create(c->fs, c->r.q, &cred, dir, name, strlen(name), (uint32_t)op->arg, op->off, &attr);
	fs_forget(c->fs, c->r.q, dir, 1);
	if (err)
		return err;
	mark(c, dir, true);
	mark(c, attr.ino, true);
	fs_forget(c->fs, c->r.q, attr.ino, 1);
	return 0;
}

/* A file without a name, kept in slot `arg`. */
static inline int act_nameless(struct run *c, const struct op *op)
{
	struct fs_cred cred = {.uid = 1000 + c->at, .gid = 100};
	struct fs_attr attr;
	uint64_t dir;
	int err = path_take(c, op->a, strlen(op->a), &dir);

	if (err)
		return err;
	err = fs_tmpfile(c->fs, c->r.q, &cred, dir, 0600, &attr);
	fs_forget(c->fs, c->r.q, dir, 1);
	if (err)
		return err;
	mark(c, attr.ino, true);
	c->held[op->arg] = attr.ino;
	return 0;
}

static inline int act_link(struct run *c, const struct op *op)
{
	struct fs_attr attr;
	const char *name;
	uint64_t ino, dir;
	int err = take(c, op->a, &ino);

	if (err)
		return err;
	err = take_parent(c, op->b, &dir, &name);
	if (err)
		return err;
	err = fs_link(c->fs, c->r.q, ino, dir, name, strlen(name), &attr);
	if (!err) {
		mark(c, ino, false);
		mark(c, dir, true);
		fs_forget(c->fs, c->r.q, ino, 1);
	}
	fs_forget(c->fs, c->r.q, dir, 1);
	drop(c, op->a, ino);
	return err;
}

/* What the name leads to changes too: its links, its ctime. */
static inline void mark_named(struct run *c, const char *path)
{
	uint64_t ino;

	if (path_take(c, path, strlen(path), &ino))
		return;
	mark(c, ino, false);
	fs_forget(c->fs, c->r.q, ino, 1);
}

static inline int act_unlink(struct run *c, const struct op *op)
{
	const char *name;
	uint64_t dir;
	int err = take_parent(c, op->a, &dir, &name);

	if (err)
		return err;
	mark_named(c, op->a);
	if (op->arg == S_IFDIR)
		err = fs_rmdir(c->fs, c->r.q, dir, name, strlen(name));
	else
		err = fs_unlink(c->fs, c->r.q, dir, name, strlen(name));
	if (!err)
		mark(c, dir, true);
	fs_forget(c->fs, c->r.q, dir, 1);
	return err;
}

static inline int act_rename(struct run *c, const struct op *op)
{
	const char *name, *new_name;
	uint64_t dir, new_dir;
	int err = take_parent(c, op->a, &dir, &name);

	if (err)
		return err;
	err = take_parent(c, op->b, &new_dir, &new_name);
	if (err)
		return err;
	mark_named(c, op->a);
	mark_named(c, op->b);
	struct fs_cred cred = {.uid = 1000 + c->at, .gid = 100};
	err = fs_rename(c->fs, c->r.q, &cred, dir, name, strlen(name), new_dir, new_name, strlen(new_name),
			(unsigned)op->arg);
	if (!err) {
		mark(c, dir, true);
		mark(c, new_dir, true);
	}
	fs_forget(c->fs, c->r.q, dir, 1);
	fs_forget(c->fs, c->r.q, new_dir, 1);
	return err;
}

/* Keeps what the path leads to known, in slot `arg`; or, without a path, lets it go. */
static inline int act_hold(struct run *c, const struct op *op)
{
	if (op->a)
		return path_take(c, op->a, strlen(op->a), &c->held[op->arg]);
	if (c->held[op->arg])
		fs_forget(c->fs, c->r.q, c->held[op->arg], 1);
	c->held[op->arg] = 0;
	return 0;
}

/* --- operations on inodes ---------------------------------------------------------------------- */

static inline uint8_t op_byte(const struct run *c, uint64_t i)
{
	return (uint8_t)(1 + (c->at * 37 + i + (i >> 9) * 5) % 255);
}

#define LENT  1	/* from memory that is the write's until its data is home */
#define SHORT 2	/* where there is no room for all of it, less will do */

struct lent {
	struct fs_io io;
	struct dev_event done;
	struct run *c;
	uint8_t *mem;
	bool answered, released;
};

static inline void lent_done(struct fs_io *io)
{
	dev_event_set(&((struct lent *)io)->done);
}

static inline void lent_release(struct fs_io *io)
{
	struct lent *w = (struct lent *)io;

	/* Whoever still used it would be seen. */
	memset(w->mem, 0xee, io->len);
	free(w->mem);
	w->c->nlent--;
	w->released = true;
	if (w->answered)
		free(w);
}

static inline struct lent *lent_new(struct run *c, uint64_t ino, const struct op *op)
{
	struct lent *w = calloc(1, sizeof(*w));
	uint8_t *buf;

	assert_non_null(w);
	w->c = c;
	w->mem = dev_alloc(op->len + BLOCK_SIZE, false);
	assert_non_null(w->mem);
	buf = w->mem + op->off % BLOCK_SIZE;
	for (uint64_t i = 0; i < op->len; i++)
		buf[i] = op_byte(c, i);
	w->io = (struct fs_io){.ino = ino, .off = op->off, .len = op->len, .done = lent_done, .release = lent_release};
	w->io.buf = buf;
	dev_event_init(&w->done, c->r.q);
	c->nlent++;
	return w;
}

/* Waits until it counts, not until its data is home. */
static inline ssize_t lent_end(struct run *c, struct lent *w)
{
	volume_event_wait(c->r.v, &w->done);
	ssize_t result = w->io.result;
	w->answered = true;
	if (w->released)
		free(w);
	return result;
}

static inline ssize_t write_lent(struct run *c, uint64_t ino, const struct op *op)
{
	struct lent *w = lent_new(c, ino, op);

	fs_write(c->fs, c->r.q, &w->io);
	return lent_end(c, w);
}

static inline ssize_t write_copied(struct run *c, uint64_t ino, const struct op *op)
{
	uint8_t *buf = malloc(op->len);

	assert_non_null(buf);
	for (uint64_t i = 0; i < op->len; i++)
		buf[i] = op_byte(c, i);
	ssize_t n = fs_pwrite(c->fs, c->r.q, ino, buf, op->len, op->off);
	free(buf);
	return n;
}

static inline int act_write(struct run *c, const struct op *op)
{
	uint64_t ino;
	int err = take(c, op->a, &ino);

	if (err)
		return err;
	ssize_t n = op->arg & LENT ? write_lent(c, ino, op) : write_copied(c, ino, op);
	if (n > 0)
		mark(c, ino, true);
	drop(c, op->a, ino);
	if (n < 0)
		return (int)n;
	return n == (ssize_t)op->len || op->arg & SHORT ? 0 : -ENOSPC;
}

/* With relatime this may change the time of access, which a later sync need not bring along as a change. */
static inline int act_read(struct run *c, const struct op *op)
{
	uint64_t ino;
	int err = take(c, op->a, &ino);

	if (err)
		return err;
	uint8_t *buf = malloc(op->len);

	assert_non_null(buf);
	ssize_t n = fs_pread(c->fs, c->r.q, ino, buf, op->len, op->off);
	free(buf);
	drop(c, op->a, ino);
	return n < 0 ? (int)n : 0;
}

/* `arg`: what to set; `off`: the new size, or what the other values are made of. */
static inline int act_setattr(struct run *c, const struct op *op)
{
	struct fs_attr attr = {
		.size = op->off,
		.mode = (uint32_t)(op->off % 01000),
		.uid = (uint32_t)(op->off % 5000),
		.gid = (uint32_t)(op->off % 7000),
		.atime = {(int64_t)op->off, 999999999},
		.mtime = {-(int64_t)op->off, 1},
	};
	uint64_t ino;
	int err = take(c, op->a, &ino);

	if (err)
		return err;
	err = fs_setattr(c->fs, c->r.q, ino, (unsigned)op->arg, &attr, &attr);
	if (!err)
		mark(c, ino, op->arg & FS_SET_SIZE);
	drop(c, op->a, ino);
	return err;
}

static inline int act_fallocate(struct run *c, const struct op *op)
{
	uint64_t ino;
	int err = take(c, op->a, &ino);

	if (err)
		return err;
	err = fs_fallocate(c->fs, c->r.q, ino, op->arg, op->off, op->len);
	if (!err)
		mark(c, ino, true);
	drop(c, op->a, ino);
	return err;
}

/* `arg` < 0: removes it. */
static inline int act_xattr(struct run *c, const struct op *op)
{
	uint8_t *value = malloc(op->len + 1);
	uint64_t ino;
	int err = take(c, op->a, &ino);

	assert_non_null(value);
	for (uint64_t i = 0; i < op->len; i++)
		value[i] = op_byte(c, i);
	if (!err && op->arg < 0)
		err = fs_removexattr(c->fs, c->r.q, ino, op->b);
	else if (!err)
		err = fs_setxattr(c->fs, c->r.q, ino, op->b, value, op->len, op->arg);
	free(value);
	if (err)
		return err;
	mark(c, ino, false);
	drop(c, op->a, ino);
	return 0;
}

/* What must survive from now on: everything, or up to the last change of one inode (`arg`: of its contents). */
static inline int act_sync(struct run *c, const struct op *op)
{
	unsigned acked = c->at;
	uint64_t ino = 0;
	int err = op->a ? take(c, op->a, &ino) : 0;

	if (err)
		return err;
	err = fs_sync(c->fs, c->r.q, ino, op->arg);
	if (ino)
		acked = op->arg ? c->contents[ino] : c->changed[ino];
	if (!err && acked > c->acked)
		c->acked = acked;
	if (ino)
		drop(c, op->a, ino);
	return err;
}

static inline int act_checkpoint(struct run *c, const struct op *op)
{
	int err = volume_checkpoint(c->r.v, c->r.q, CHECKPOINT_FORCE);

	(void)op;
	if (!err)
		c->acked = c->at;
	return err;
}

struct late {
	struct fs_sync sync;
	struct run *c;
	unsigned acked;
};

static inline void late_done(struct fs_sync *sync)
{
	struct late *l = (struct late *)sync;

	if (!sync->result && l->acked > l->c->acked)
		l->c->acked = l->acked;
	l->c->nlate--;
	free(l);
}

/* Of everything; other operations go on meanwhile. */
static inline int act_sync_late(struct run *c, const struct op *op)
{
	struct late *l = calloc(1, sizeof(*l));

	(void)op;
	assert_non_null(l);
	*l = (struct late){.sync = {.done = late_done}, .c = c, .acked = c->at};
	c->nlate++;
	fs_fsync(c->fs, c->r.q, &l->sync);
	return 0;
}

/* --- operations in the middle of a checkpoint -------------------------------------------------- */

/* After so many polls of it.  What happens then is behind everything that the checkpoint is of. */
struct amid {
	struct dev_task task;
	struct run *c;
	unsigned polls;
	struct lent *w;		/* begins; or, if NULL: */
	int (*act)(struct run *c, const struct op *op);
	const struct op *op;
	bool done;
	int err;
};

static inline void amid_do(struct amid *m)
{
	m->done = true;
	if (m->w)
		fs_write(m->c->fs, m->c->r.q, &m->w->io);
	else
		m->err = m->act(m->c, m->op);
}

static inline void amid_poll(struct dev_task *task)
{
	struct amid *m = (struct amid *)task;

	if (m->polls--)
		dev_post(m->c->r.q, task);
	else
		amid_do(m);
}

static inline int amid_run(struct amid *m)
{
	struct run *c = m->c;

	m->task.run = amid_poll;
	dev_post(c->r.q, &m->task);
	int err = act_checkpoint(c, m->op);
	while (!m->done)
		dev_poll(c->r.q, 0);
	return err;
}

/* `arg`: how many polls. */
static inline int act_write_amid(struct run *c, const struct op *op)
{
	struct amid m = {.c = c, .op = op, .polls = (unsigned)op->arg};
	uint64_t ino;
	int err = take(c, op->a, &ino);

	if (err)
		return err;
	m.w = lent_new(c, ino, op);
	err = amid_run(&m);
	ssize_t n = lent_end(c, m.w);
	if (n > 0)
		mark(c, ino, true);
	drop(c, op->a, ino);
	return n < 0 ? (int)n : err;
}

/* Those that wait for what they need cannot begin in a callback, unless they need nothing. */
static inline int act_amid(struct run *c, const struct op *op, int (*act)(struct run *c, const struct op *op))
{
	struct amid m = {.c = c, .op = op, .act = act, .polls = (unsigned)op->len};

	if (!c->warm) {
		int err = act_checkpoint(c, op);
		return err ? err : act(c, op);
	}
	int err = amid_run(&m);
	return err ? err : m.err;
}

/* `len`: how many polls. */
static inline int act_unlink_amid(struct run *c, const struct op *op)
{
	return act_amid(c, op, act_unlink);
}

static inline int act_rename_amid(struct run *c, const struct op *op)
{
	return act_amid(c, op, act_rename);
}

static inline int act_setattr_amid(struct run *c, const struct op *op)
{
	return act_amid(c, op, act_setattr);
}

/* One operation, and what the daemon does between two.  0 also if it is of no use in this life. */
static inline int run_op(struct run *c, const struct op *op, unsigned at)
{
	run_tick(c, at);
	int err = op->act(c, op);
	if (err == -ENODATA)
		err = 0;
	if (!err)
		err = volume_service(c->r.v, c->r.q);
	if (!err)
		fs_service(c->fs, c->r.q);
	return err;
}

#endif
