/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs.c - open and close, the table of known inodes, the step driver, inode items, and orphans.
 *
 * Always, under the volume's lock:
 *   1. An entry of the table exists while nlookup, npin, `queued`, `orphan` or `trimming` says so.
 *   2. Whoever removes an inode has pinned it, so that its entry stays and nobody else removes it.
 *
 * What is removed how (extents, inline data, xattrs) is truncate.c's.
 */
#include <stdlib.h>
#include <string.h>

#include "core/bug.h"
#include "fs/fs_impl.h"

#define HASH_MIN 1024u
#define REAP_AT_ONCE 4u /* transactions spent on an orphan by the operation that dropped it */
#define REAP_AT_SERVICE 16u /* ... by one fs_service() */
#define SETTLE_ROUNDS 1000u
#define SETTLE_MS 10
#define REAP_AT_OPEN 256u /* ... by fs_open() on all unlinked files together */

/* --- the step driver --- */

enum how {
	ALONE = 0,
	SHARED = 1,
	SHUT_TOO = 2,
};

static int try(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, unsigned how, struct miss *miss)
{
	return volume_is_shut(fs->v) && !(how & SHUT_TOO) && !BUG(SHUT_FORGOTTEN) ? -EIO : step(fs, q, arg, miss);
}

static int try_once(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, unsigned how, struct miss *miss)
{
	int err = -ENOLCK;

	*miss = (struct miss){.kind = MISS_NONE};
	if (how & SHARED) {
		volume_share(fs->v);
		err = try(fs, q, step, arg, how, miss);
		volume_unshare(fs->v);
	}
	if (err == -ENOLCK) {
		volume_lock(fs->v);
		err = try(fs, q, step, arg, how, miss);
		volume_unlock(fs->v);
		assert(err != -ENOLCK);
	}
	if (err == -EAGAIN) {
		assert(miss->kind != MISS_NONE);
		fs->v->stats.retries++;
	}
	return err;
}

static int run(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, unsigned how)
{
	for (;;) {
		struct miss miss;
		int err = try_once(fs, q, step, arg, how, &miss);

		if (err != -EAGAIN)
			return fs_verdict(fs, err);
		err = volume_provide(fs->v, q, &miss);
		if (err)
			return fs_verdict(fs, err);
	}
}

int fs_run(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg)
{
	return run(fs, q, step, arg, ALONE);
}

int fs_look(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg)
{
	return run(fs, q, step, arg, SHARED);
}

int fs_look_shut_too(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg)
{
	return run(fs, q, step, arg, SHARED | SHUT_TOO);
}

int fs_look_once(struct fs *fs, struct dev_queue *q, fs_step_fn *step, void *arg, struct miss *miss)
{
	return try_once(fs, q, step, arg, SHARED, miss);
}

/* --- known inodes --- */

static struct inode **inode_bucket(struct inode **hash, uint64_t nhash, uint64_t ino)
{
	/* Those next to each other, which were made together, share a cache line. */
	uint64_t line = (ino >> 3) * UINT64_C(0x9e3779b97f4a7c15) >> 32;

	return &hash[(line << 3 | (ino & 7)) & (nhash - 1)];
}

struct inode *inode_find(struct fs *fs, uint64_t ino)
{
	/* Another one who shares the lock may be adding some. */
	struct inode *inode = __atomic_load_n(inode_bucket(fs->hash, fs->nhash, ino), __ATOMIC_ACQUIRE);

	while (inode && inode->ino != ino)
		inode = inode->hash_next;
	return inode;
}

/* Without memory the old table does, only slower. */
static void inode_grow_table(struct fs *fs)
{
	uint64_t nhash = 2 * fs->nhash;
	struct inode **hash = calloc(nhash, sizeof(*hash));

	if (!hash)
		return;
	for (uint64_t i = 0; i < fs->nhash; i++) {
		struct inode *next;

		for (struct inode *inode = fs->hash[i]; inode; inode = next) {
			struct inode **b = inode_bucket(hash, nhash, inode->ino);

			next = inode->hash_next;
			inode->hash_next = *b;
			*b = inode;
		}
	}
	free(fs->hash);
	fs->hash = hash;
	fs->nhash = nhash;
}

static struct inode *inode_new(struct fs *fs, uint64_t ino)
{
	struct inode *inode = calloc(1, sizeof(*inode));

	if (!inode)
		return NULL;
	inode->ino = ino;
	inode->lsn_change = inode->lsn_data = fs->v->applied_lsn;
	return inode;
}

static void inode_insert(struct fs *fs, struct inode *inode)
{
	struct inode **b = inode_bucket(fs->hash, fs->nhash, inode->ino);

	inode->hash_next = *b;
	__atomic_store_n(b, inode, __ATOMIC_RELEASE);
	fs->ninodes++;
	cached_known_changed(fs);
}

static struct inode *inode_add(struct fs *fs, uint64_t ino)
{
	struct inode *inode = inode_new(fs, ino);

	if (!inode)
		return NULL;
	if (fs->ninodes >= fs->nhash)
		inode_grow_table(fs);
	inode_insert(fs, inode);
	return inode;
}

static void inode_remove(struct fs *fs, struct inode *inode)
{
	struct inode **p = inode_bucket(fs->hash, fs->nhash, inode->ino);

	while (*p != inode)
		p = &(*p)->hash_next;
	*p = inode->hash_next;
	fs->ninodes--;
	cached_known_changed(fs);
	atime_written(fs, inode);
	free(inode);
}

struct inode *inode_ref(struct fs *fs, uint64_t ino, uint64_t n)
{
	LOCK_ASSERT_HELD(&fs->v->lock);
	struct inode *inode = inode_find(fs, ino);

	if (!inode)
		inode = inode_add(fs, ino);
	if (inode)
		inode->nlookup += n;
	return inode;
}

static void inode_know_more(struct inode *inode)
{
	__atomic_fetch_add(&inode->nlookup, 1, __ATOMIC_RELAXED);
}

/* Of one that was not known a moment ago; another one who shares the lock may have been faster. */
static int inode_add_shared(struct fs *fs, uint64_t ino)
{
	struct inode *new = inode_new(fs, ino), *inode;
	int err = 0;

	if (!new)
		return -ENOMEM;
	lock_take(&fs->known);
	inode = inode_find(fs, ino);
	if (!inode && fs->ninodes >= fs->nhash) {
		err = -ENOLCK;
	} else if (!inode) {
		inode_insert(fs, new);
		inode = new;
		new = NULL;
	}
	if (inode)
		inode_know_more(inode);
	lock_drop(&fs->known);
	free(new);
	return err;
}

int inode_know(struct fs *fs, uint64_t ino)
{
	if (volume_is_alone(fs->v))
		return inode_ref(fs, ino, 1) ? 0 : -ENOMEM;
	VOLUME_ASSERT_SHARED(fs->v);
	struct inode *inode = inode_find(fs, ino);
	if (!inode)
		return inode_add_shared(fs, ino);
	inode_know_more(inode);
	return 0;
}

static void reap_put(struct fs *fs, struct inode *inode, bool ask)
{
	LOCK_ASSERT_HELD(&fs->v->lock);
	inode->queued = true;
	STAILQ_INSERT_TAIL(&fs->reap, inode, reap_link);
	if (ask && fs->cfg.want_service)
		fs->cfg.want_service(fs->cfg.service_arg);
}

void reap_queue(struct fs *fs, struct inode *inode)
{
	reap_put(fs, inode, true);
}

struct inode *inode_unref_claim(struct fs *fs, struct inode *inode, uint64_t n)
{
	LOCK_ASSERT_HELD(&fs->v->lock);
	/* A count from outside that is too high takes what there is. */
	inode->nlookup -= n < inode->nlookup ? n : inode->nlookup;
	if (inode->nlookup || inode->npin || inode->queued || (inode->trimming && !inode->orphan))
		return NULL;
	if (!inode->orphan) {
		inode_remove(fs, inode);
		return NULL;
	}
	inode->npin = 1;
	fs->reaping++;
	return inode;
}

void inode_unref(struct fs *fs, struct inode *inode, uint64_t n)
{
	inode = inode_unref_claim(fs, inode, n);
	if (!inode)
		return;
	inode->npin = 0;
	fs->reaping--;
	reap_queue(fs, inode);
}

void inode_changed(struct fs *fs, uint64_t ino, uint64_t lsn, bool data)
{
	struct inode *inode = inode_find(fs, ino);

	if (!inode || BUG(CHANGE_NOT_NOTED))
		return;
	inode->lsn_change = lsn;
	/* Every change puts the whole item, with the time that inode_get() has given. */
	atime_written(fs, inode);
	if (data)
		inode->lsn_data = lsn;
}

void inode_orphaned(struct fs *fs, struct inode *inode)
{
	inode->orphan = true;
	inode_unref(fs, inode, 0);
}

/* --- removing orphans, trimming interrupted truncations --- */

struct reap {
	struct inode *inode; /* pinned */
	bool more;
	bool whole; /* the last transaction was of the removal of an orphan; else what is behind a file's end goes */
};

static int reap_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	struct reap *r = arg;

	/* Somebody holds it again: its contents stay until that reference goes. */
	if (r->inode->orphan && r->inode->nlookup)
		return -EBUSY;
	r->whole = r->inode->orphan;
	return truncate_some(fs, q, r->inode->ino, r->whole, miss, &r->more);
}

/* Something of this inode cannot be read; the volume as a whole is fine. */
static bool is_damage(struct fs *fs, int err)
{
	return (err == -EUCLEAN || err == -EIO) && !volume_writable(fs->v);
}

/* Gives the pin back after work on it ended with `err`. */
static void reap_end(struct fs *fs, const struct reap *r, int err)
{
	bool done = err == -ESTALE || (!err && !r->more);
	struct inode *inode = r->inode;

	inode->npin--;
	fs->reaping--;
	if (is_damage(fs, err)) {
		/* The orphan item stays on the volume: the next mount, or fsck, tries again. */
		diag(fs->v->diag, DIAG_ERR, "inode %llu: what it no longer needs could not be freed",
		     (unsigned long long)inode->ino);
		done = true;
	}
	/* Not one whose last name has gone since what was behind its end has: all of that is still to be removed. */
	if (done && r->whole)
		inode->orphan = inode->trimming = false;

	bool stuck = !done && err && err != -EBUSY;

	/* What is in its way, memory perhaps, may be so for long: who does the service is told once, not to try again at once for ever. */
	if (stuck && !inode->queued && !(inode->orphan && inode->nlookup))
		reap_put(fs, inode, !fs->reap_stuck);
	else if (!done && !inode->orphan && !inode->queued)
		reap_queue(fs, inode);
	fs->reap_stuck = stuck && inode->queued;
	inode_unref(fs, inode, 0);
}

/* At most `max` transactions; gives the pin back.  Returns 0, or why nothing more can be done now with any inode. */
static int reap_run(struct fs *fs, struct dev_queue *q, struct inode *inode, uint64_t max)
{
	struct reap r = {.inode = inode, .more = true};
	int err = 0;

	for (; max && r.more && !err; max--)
		err = fs_run(fs, q, reap_step, &r);
	volume_lock(fs->v);
	reap_end(fs, &r, err);
	if (err == -EBUSY || err == -ESTALE || is_damage(fs, err))
		err = 0;
	volume_unlock(fs->v);
	return err;
}

/*
 * Most have nothing but their item, which is in memory: one transaction, in the critical section in which the last reference went.  False: it takes
 * more than that; *max is lowered by what has been done.
 */
static bool reap_at_once(struct fs *fs, struct dev_queue *q, struct inode *inode, uint64_t *max)
{
	struct reap r = {.inode = inode};
	struct miss miss = {.kind = MISS_NONE};

	LOCK_ASSERT_HELD(&fs->v->lock);
	if (volume_writable(fs->v))
		return false;
	int err = try(fs, q, reap_step, &r, ALONE, &miss);
	if (err == -EAGAIN)
		return false;
	--*max;
	if (!err && r.more)
		return false;
	reap_end(fs, &r, err);
	return true;
}

/* What reap_at_once() has left. */
static void reap_soon(struct fs *fs, struct dev_queue *q, struct inode *inode, uint64_t max)
{
	volume_lock(fs->v);
	bool writable = !volume_writable(fs->v);
	volume_unlock(fs->v);
	reap_run(fs, q, inode, writable ? max : 0);
}

void inode_reap(struct fs *fs, struct dev_queue *q, struct inode *inode)
{
	reap_soon(fs, q, inode, REAP_AT_ONCE);
}

/* Takes the head of the list, pinned; NULL if there is none or the volume takes no changes. */
static struct inode *reap_take(struct fs *fs)
{
	struct inode *inode = NULL;

	volume_lock(fs->v);
	if (!volume_writable(fs->v))
		inode = STAILQ_FIRST(&fs->reap);
	if (inode) {
		STAILQ_REMOVE_HEAD(&fs->reap, reap_link);
		inode->queued = false;
		inode->npin++;
		fs->reaping++;
	}
	volume_unlock(fs->v);
	return inode;
}

bool fs_service(struct fs *fs, struct dev_queue *q)
{
	bool old = atime_expire(fs, q);
	struct inode *inode = reap_take(fs);

	if (!inode)
		return old;
	if (reap_run(fs, q, inode, REAP_AT_SERVICE))
		return false;
	volume_lock(fs->v);
	bool more = !STAILQ_EMPTY(&fs->reap);
	volume_unlock(fs->v);
	return more || old;
}

bool fs_service_left(struct fs *fs)
{
	volume_lock(fs->v);
	bool left = !STAILQ_EMPTY(&fs->reap) && !fs->v->resting && !volume_writable(fs->v);
	volume_unlock(fs->v);
	return left;
}

static bool is_settled(struct fs *fs)
{
	volume_lock(fs->v);
	bool settled = (STAILQ_EMPTY(&fs->reap) && !fs->reaping) || volume_writable(fs->v);
	volume_unlock(fs->v);
	return settled;
}

void fs_settle(struct fs *fs, struct dev_queue *q)
{
	fs_flush_times(fs, q, 0);
	/* What another thread works on, or what cannot be freed now, is not waited for without end. */
	for (unsigned idle = 0; idle < SETTLE_ROUNDS && !is_settled(fs);) {
		if (fs_service(fs, q)) {
			idle = 0;
			continue;
		}
		dev_poll(q, SETTLE_MS);
		idle++;
	}
}

void fs_forget(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t n)
{
	uint64_t max = REAP_AT_ONCE;

	volume_lock(fs->v);
	struct inode *inode = inode_find(fs, ino);
	if (inode && inode->lazy && n >= inode->nlookup && !inode->orphan && !BUG(LAZY_TIME_DROPPED)) {
		volume_unlock(fs->v);
		fs_flush_times(fs, q, ino);
		volume_lock(fs->v);
		inode = inode_find(fs, ino);
	}
	if (inode)
		inode = inode_unref_claim(fs, inode, n);
	if (inode && reap_at_once(fs, q, inode, &max))
		inode = NULL;
	volume_unlock(fs->v);
	if (inode)
		reap_soon(fs, q, inode, max);
}

/* --- open and close --- */

/* One orphan item found at open: the inode goes on the list, for removal or for trimming. */
static int orphan_found(struct fs *fs, uint64_t ino, struct miss *miss)
{
	struct disk_inode di;
	int err = inode_get(fs, ino, miss, &di);

	if (err == -ESTALE) {
		inode_corrupt(fs, ino, "is listed for removal but does not exist");
		return 0;
	}
	if (err)
		return err;
	struct inode *inode = inode_ref(fs, ino, 0);
	if (!inode)
		return -ENOMEM;
	inode->orphan = get32(di.nlink) == 0;
	inode->trimming = !inode->orphan;
	if (!inode->queued)
		reap_queue(fs, inode);
	return 0;
}

/* Goes on behind what it has queued when it runs again. */
static int orphan_scan_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	uint64_t *next = arg;
	struct key key = key_make(INO_VOLUME, ITEM_ORPHAN, *next);
	struct tree_cursor c;
	int err;

	(void)q;
	for (err = tree_first(fs->v->tree, &c, &key, miss); !err; err = tree_next(fs->v->tree, &c, miss)) {
		if (c.key.object != INO_VOLUME || c.key.type != ITEM_ORPHAN)
			return 0;
		err = orphan_found(fs, c.key.offset, miss);
		if (err)
			return err;
		if (c.key.offset == UINT64_MAX)
			return 0;
		*next = c.key.offset + 1;
	}
	return err == -ENOENT ? 0 : err;
}

static int orphans_find(struct fs *fs, struct dev_queue *q)
{
	uint64_t next = 0;

	return fs_run(fs, q, orphan_scan_step, &next);
}

/* A bounded number of transactions; fs_service() does the rest. */
static void orphans_reap(struct fs *fs, struct dev_queue *q)
{
	uint64_t budget = REAP_AT_OPEN / REAP_AT_ONCE;
	struct inode *inode;

	volume_lock(fs->v);
	uint64_t n = fs->ninodes;
	volume_unlock(fs->v);
	for (; n && budget && (inode = reap_take(fs)); n--, budget--) {
		if (reap_run(fs, q, inode, REAP_AT_ONCE))
			break;
	}
}

static void ask_for_service(struct fs *fs)
{
	volume_lock(fs->v);
	if (fs->cfg.want_service && !STAILQ_EMPTY(&fs->reap))
		fs->cfg.want_service(fs->cfg.service_arg);
	volume_unlock(fs->v);
}

/* Those that are found wait until the volume takes changes. */
int fs_begin_writing(struct fs *fs, struct dev_queue *q)
{
	int err = volume_writable(fs->v) == -EROFS ? orphans_find(fs, q) : 0;

	if (!err)
		err = volume_begin_writing(fs->v, q);
	if (err)
		return err;
	orphans_reap(fs, q);
	ask_for_service(fs);
	return 0;
}

static void fs_free(struct fs *fs)
{
	for (uint64_t i = 0; fs->hash && i < fs->nhash; i++) {
		while (fs->hash[i]) {
			assert(!fs->hash[i]->npin);
			inode_remove(fs, fs->hash[i]);
		}
	}
	free(fs->hash);
	lock_fini(&fs->known);
	free(fs);
}

int fs_open(struct volume *v, struct dev_queue *q, const struct fs_config *cfg, struct fs **out)
{
	struct fs *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return -ENOMEM;
	fs->v = v;
	fs->nhash = HASH_MIN;
	fs->hash = calloc(fs->nhash, sizeof(*fs->hash));
	STAILQ_INIT(&fs->reap);
	STAILQ_INIT(&fs->stalled);
	TAILQ_INIT(&fs->lazy);
	STAILQ_INIT(&fs->held);
	lock_init(&fs->known);
	if (!fs->hash) {
		fs_free(fs);
		return -ENOMEM;
	}
	if (cfg)
		fs->cfg = *cfg;
	fs_set_lazy_period(fs, 0);
	/* Nobody can serve an fs that is not open yet. */
	fs->cfg.want_service = NULL;
	int err = v->flags & VOLUME_READ_ONLY ? 0 : orphans_find(fs, q);
	if (err) {
		fs_free(fs);
		return err;
	}
	if (!(v->flags & VOLUME_READ_ONLY))
		orphans_reap(fs, q);
	cached_open(fs);
	fs->cfg.want_service = cfg ? cfg->want_service : NULL;
	ask_for_service(fs);
	*out = fs;
	return 0;
}

static void flight_wait(struct fs *fs, struct dev_queue *q)
{
	struct dev_event idle;

	dev_event_init(&idle, q);
	volume_lock(fs->v);
	bool wait = fs->flight_bytes != 0;
	if (wait)
		fs->idle = &idle;
	volume_unlock(fs->v);
	if (!wait)
		return;
	dev_event_wait(&idle);
	volume_lock(fs->v);
	fs->idle = NULL;
	volume_unlock(fs->v);
}

void fs_close(struct fs *fs, struct dev_queue *q)
{
	flight_wait(fs, q);
	fs_flush_times(fs, q, 0);
	volume_lock(fs->v);
	cached_close(fs);
	fs->cfg.want_service = NULL;
	for (uint64_t i = 0; i < fs->nhash; i++) {
		struct inode *next;

		for (struct inode *inode = fs->hash[i]; inode; inode = next) {
			next = inode->hash_next;
			inode_unref(fs, inode, inode->nlookup);
		}
	}
	volume_unlock(fs->v);
	while (fs_service(fs, q))
		;
	fs_free(fs);
}

struct volume *fs_volume(struct fs *fs)
{
	return fs->v;
}

void fs_get_stats(struct fs *fs, struct fs_stats *out)
{
	volume_lock(fs->v);
	*out = fs->stats;
	out->reads = tally_sum(&fs->looked, FS_READS);
	out->read_bytes = tally_sum(&fs->looked, FS_READ_BYTES);
	out->known_inodes = fs->ninodes;
	out->flight_bytes = fs->flight_bytes;
	volume_unlock(fs->v);
}

uint64_t *fs_known_inodes(struct fs *fs, uint64_t *n)
{
	uint64_t *inos;

	*n = 0;
	volume_lock(fs->v);
	inos = malloc((fs->ninodes + 1) * sizeof(*inos));
	if (inos) {
		inos[(*n)++] = INO_ROOT;
		for (uint64_t i = 0; i < fs->nhash; i++)
			for (const struct inode *inode = fs->hash[i]; inode; inode = inode->hash_next)
				if (inode->ino != INO_ROOT)
					inos[(*n)++] = inode->ino;
	}
	volume_unlock(fs->v);
	return inos;
}

/* --- inode items --- */

int inode_corrupt(struct fs *fs, uint64_t ino, const char *what)
{
	VOLUME_ASSERT_SHARED(fs->v);
	if (!volume_is_alone(fs->v))
		return -ENOLCK;
	volume_note_damage(fs->v);
	return corrupt(fs->v->diag, "inode %llu: %s", (unsigned long long)ino, what);
}

int inode_get(struct fs *fs, uint64_t ino, struct miss *miss, struct disk_inode *out)
{
	struct key key = key_make(ino, ITEM_INODE, 0);
	const void *val;
	unsigned len;
	int err = tree_lookup(fs->v->tree, &key, miss, &val, &len);

	if (err == -ENOENT)
		return -ESTALE;
	if (err)
		return err;
	if (len != sizeof(*out))
		return inode_corrupt(fs, ino, "item of a wrong length");
	memcpy(out, val, sizeof(*out));
	atime_overlay(fs, ino, out);
	return 0;
}

void inode_put(struct txn *t, uint64_t ino, const struct disk_inode *di)
{
	struct key key = key_make(ino, ITEM_INODE, 0);

	txn_put(t, &key, di, sizeof(*di));
}

int inode_get_dir(struct fs *fs, uint64_t ino, struct miss *miss, struct disk_inode *out)
{
	int err = inode_get(fs, ino, miss, out);

	if (err)
		return err;
	if (!mode_is(out, S_IFDIR))
		return -ENOTDIR;
	return get32(out->nlink) ? 0 : -ENOENT;
}

struct disk_time time_encode(const struct timespec *ts)
{
	return (struct disk_time){.sec = put64((uint64_t)ts->tv_sec), .nsec = put32((uint32_t)ts->tv_nsec)};
}

struct timespec time_decode(const struct disk_time *dt)
{
	return (struct timespec){.tv_sec = (int64_t)get64(dt->sec), .tv_nsec = get32(dt->nsec)};
}

void fs_now(struct fs *fs, struct timespec *now)
{
	if (fs->cfg.clock)
		fs->cfg.clock(fs->cfg.clock_arg, now);
	else
		clock_gettime(CLOCK_REALTIME, now);
}
