/* SPDX-License-Identifier: Apache-2.0 */
/*
 * walk.c - everything that can be seen of the real tree: each inode is hashed as the model hashes its own.
 *
 * What cannot be read, where a fault excuses that, is noted, block by block for contents; and everything else is looked at all the same.
 */
#include "tests/sim/sim.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/fs_impl.h"

static const uint8_t zeros[MODEL_PAGE];

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

/* True: rc is 0.  False: it cannot be read, and that is excused. */
static bool metadata_ok(struct walk *w, int rc, uint64_t ino, const char *what)
{
	if (!rc)
		return true;
	if (!world_is_cut(w->s) && !(w->s->plan->faults && faults_excuse_metadata(w->s, rc)))
		violation(w->s, "walk", "inode %llu: %s: %s", (unsigned long long)ino, what, strerror(-rc));
	w->s->cov->unreadable++;
	return false;
}

/* --- one inode --------------------------------------------------------------------------------- */

static void from_attr(struct wnode *n, const struct fs_attr *a)
{
	*n = (struct wnode){.sectors = a->blocks};
	n->i = (struct minode){
		.ino = a->ino,
		.mode = a->mode,
		.nlink = a->nlink,
		.uid = a->uid,
		.gid = a->gid,
		.rdev = a->rdev,
		.size = a->size,
		.atime = a->atime,
		.mtime = a->mtime,
		.ctime = a->ctime,
		.btime = a->btime,
	};
}

uint64_t wnode_hash(const struct wnode *n)
{
	struct minode i = n->i;
	struct blob target = {.hash = n->target_hash};

	if (S_ISLNK(i.mode))
		i.target = &target;
	return minode_hash(&i);
}

struct rd {
	struct fs_io io;
	struct dev_event done;
};

static void rd_done(struct fs_io *io)
{
	dev_event_set(&((struct rd *)io)->done);
}

static void add_bad(struct walk *w, uint64_t ino, uint64_t block)
{
	if (w->nbad == w->cap_bad) {
		w->cap_bad = w->cap_bad ? 2 * w->cap_bad : 64;
		w->bad = need(reallocarray(w->bad, w->cap_bad, sizeof(*w->bad)));
	}
	w->bad[w->nbad++] = (struct wbad){ino, block};
	w->s->cov->unreadable++;
}

static void add_pages(struct minode *i, uint64_t off, size_t len, const uint8_t *bytes)
{
	for (size_t at = 0; at < len; at += MODEL_PAGE) {
		const uint8_t *page = bytes + at;
		uint8_t last[MODEL_PAGE] = {0};

		if (len - at < MODEL_PAGE)
			page = memcpy(last, page, len - at);
		if (memcmp(page, zeros, MODEL_PAGE))
			i->sum += hash_mix((off + at) / MODEL_PAGE + 1, hash_bytes(1, page, MODEL_PAGE));
	}
}

static bool contents_excused(const struct sim *s, int rc)
{
	return dev_sim_is_cut(s->dev) || (s->plan->faults && faults_excuse_contents(s, rc));
}

/* [off, off + len), which begins with a block.  If it cannot be read as a whole, block by block. */
static void add_range(struct walk *w, struct minode *i, uint64_t off, size_t len)
{
	struct sim *s = w->s;
	struct rd rd = {.io = {.ino = i->ino, .off = off, .len = len, .buf = s->lab->room, .done = rd_done}};

	dev_event_init(&rd.done, s->q);
	fs_read(s->fs, s->q, &rd.io);
	world_wait(s, &rd.done);
	if (rd.io.result < 0 && contents_excused(s, (int)rd.io.result)) {
		if (len <= MODEL_PAGE)
			add_bad(w, i->ino, off / MODEL_PAGE);
		for (size_t at = 0; at < len && len > MODEL_PAGE; at += MODEL_PAGE)
			add_range(w, i, off + at, len - at < MODEL_PAGE ? len - at : MODEL_PAGE);
		return;
	}
	if (rd.io.result < 0 || (size_t)rd.io.result != len)
		violation(s, "walk", "inode %llu: %zd of %zu bytes at %llu", (unsigned long long)i->ino, rd.io.result, len,
			  (unsigned long long)off);
	add_pages(i, off, len, rd.io.data);
}

static void add_contents(struct walk *w, unsigned at)
{
	struct minode *i = &w->node[at].i;
	uint64_t pos = 0, data = 0, hole = 0;
	int rc = 0;

	while (pos < i->size && !(rc = fs_lseek(w->s->fs, w->s->q, i->ino, pos, SEEK_DATA, &data))) {
		rc = fs_lseek(w->s->fs, w->s->q, i->ino, data, SEEK_HOLE, &hole);
		if (rc)
			break;
		if (hole <= data || hole > i->size || data % MODEL_PAGE)
			violation(w->s, "walk", "inode %llu: data from %llu to %llu", (unsigned long long)i->ino,
				  (unsigned long long)data, (unsigned long long)hole);
		for (uint64_t off = data; off < hole; off += FS_IO_MAX)
			add_range(w, i, off, hole - off < FS_IO_MAX ? (size_t)(hole - off) : FS_IO_MAX);
		pos = hole;
	}
	if (rc != -ENXIO && !metadata_ok(w, rc, i->ino, "seek"))
		w->node[at].bad = true;
}

static void add_xattrs(struct walk *w, struct wnode *n)
{
	struct sim *s = w->s;
	char list[4096];
	size_t len = sizeof(list), value_len;
	int rc = fs_listxattr(s->fs, s->q, n->i.ino, true, list, &len);

	for (const char *name = list; !rc && name < list + len; name += strlen(name) + 1) {
		value_len = MAX_XATTR;
		rc = fs_getxattr(s->fs, s->q, n->i.ino, name, s->lab->other, &value_len);
		if (!rc)
			n->i.sum += hash_mix(hash_bytes(3, name, strlen(name)), hash_bytes(1, s->lab->other, value_len));
	}
	if (!metadata_ok(w, rc, n->i.ino, "extended attributes"))
		n->bad = true;
}

static void add_target(struct walk *w, struct wnode *n)
{
	char target[MAX_SYMLINK + 1] = "";
	int rc = fs_readlink(w->s->fs, w->s->q, n->i.ino, target);

	if (!metadata_ok(w, rc, n->i.ino, "readlink"))
		n->bad = true;
	else if (strlen(target) != n->i.size)
		violation(w->s, "walk", "inode %llu: a target of %zu bytes, not %llu", (unsigned long long)n->i.ino,
			  strlen(target), (unsigned long long)n->i.size);
	n->target_hash = hash_bytes(1, target, strlen(target));
}

static void add_flags(struct walk *w, struct wnode *n)
{
	int rc = fs_get_flags(w->s->fs, w->s->q, n->i.ino, &n->i.flags);

	if (!metadata_ok(w, rc, n->i.ino, "flags"))
		n->bad = true;
	else if (n->i.flags && !(w->s->v->sb.incompat & FEATURE_INCOMPAT_INODE_FLAGS) && !faults_damage(w->s))
		violation(w->s, "flags", "inode %llu has flags, and the volume does not say so", (unsigned long long)n->i.ino);
}

/* --- all of them ------------------------------------------------------------------------------- */

static void walk_add(struct walk *w, const struct fs_attr *a)
{
	if (a->ino >= w->nat)
		violation(w->s, "walk", "inode number %llu has never been given out", (unsigned long long)a->ino);
	if (w->at[a->ino])
		return;
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 64;
		w->node = need(reallocarray(w->node, w->cap, sizeof(*w->node)));
	}
	from_attr(&w->node[w->n++], a);
	w->at[a->ino] = w->n;
}

struct found {
	struct walk *w;
	unsigned dir;		/* index: nodes move */
	unsigned n;
	uint64_t cookie;	/* behind the last one */
};

static int found_entry(void *arg, const struct fs_dirent *e)
{
	struct found *f = arg;
	struct walk *w = f->w;
	struct sim *s = w->s;
	struct minode *dir = &w->node[f->dir].i;
	struct fs_attr attr;
	int rc = 0;

	f->n++;
	f->cookie = e->cookie;
	if (e->len == 2 && e->name[0] == '.' && e->name[1] == '.')
		dir->parent = e->ino;
	if (e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.')))
		return 0;
	dir->sum += mentry_hash(e->name, e->len, e->ino, DTTOIF(e->ftype));
	if (e->attr)
		attr = *e->attr;
	else
		rc = fs_lookup(s->fs, s->q, dir->ino, e->name, e->len, &attr);
	if (!metadata_ok(w, rc, e->ino, "lookup")) {
		w->holes = true;
		return 0;
	}
	if (attr.ino != e->ino || (attr.mode & S_IFMT) != (uint32_t)DTTOIF(e->ftype))
		violation(s, "walk", "\"%.*s\" is listed as inode %llu, and is %llu", (int)e->len, e->name,
			  (unsigned long long)e->ino, (unsigned long long)attr.ino);
	walk_add(w, &attr);
	fs_forget(s->fs, s->q, attr.ino, 1);
	return 0;
}

/* What could be read is given out before an error is told to who asks for what is behind it: so until there is no more. */
static void add_entries(struct walk *w, unsigned at)
{
	struct sim *s = w->s;
	struct found f = {.w = w, .dir = at};
	uint64_t ino = w->node[at].i.ino;
	int rc;

	do {
		f.n = 0;
		rc = fs_readdir(s->fs, s->q, ino, f.cookie, w->plus, found_entry, &f);
	} while (!rc && f.n && s->plan->faults);
	if (!metadata_ok(w, rc, ino, "readdir"))
		w->node[at].bad = w->holes = true;
}

static void walk_one(struct walk *w, unsigned at, bool below)
{
	if (S_ISDIR(w->node[at].i.mode) && below)
		add_entries(w, at);
	else if (S_ISREG(w->node[at].i.mode))
		add_contents(w, at);
	else if (S_ISLNK(w->node[at].i.mode))
		add_target(w, &w->node[at]);
	add_xattrs(w, &w->node[at]);
	add_flags(w, &w->node[at]);
	w->node[at].i.hash = wnode_hash(&w->node[at]);
	w->hash += w->node[at].i.hash;
}

static void walk_begin(struct walk *w, struct sim *s, uint64_t ino)
{
	struct fs_attr a;

	*w = (struct walk){.s = s, .nat = s->v->next_ino + 1, .plus = s->plan->seed & 1};
	w->at = need(calloc(w->nat, sizeof(*w->at)));
	if (metadata_ok(w, fs_getattr(s->fs, s->q, ino, &a), ino, "getattr"))
		walk_add(w, &a);
	else
		w->holes = true;
}

void walk_run(struct walk *w, struct sim *s)
{
	enum fs_atime atime = s->fs->cfg.atime;

	/* Looking changes nothing. */
	s->fs->cfg.atime = FS_NOATIME;
	walk_begin(w, s, MODEL_ROOT);
	for (unsigned at = 0; at < w->n; at++)
		walk_one(w, at, true);
	s->fs->cfg.atime = atime;
	s->cov->compared++;
}

void walk_inode(struct walk *w, struct sim *s, uint64_t ino)
{
	enum fs_atime atime = s->fs->cfg.atime;

	s->fs->cfg.atime = FS_NOATIME;
	walk_begin(w, s, ino);
	if (w->n)
		walk_one(w, 0, false);
	s->fs->cfg.atime = atime;
}

void walk_end(struct walk *w)
{
	free(w->node);
	free(w->at);
	free(w->bad);
}

const struct wnode *walk_get(const struct walk *w, uint64_t ino)
{
	return ino < w->nat && w->at[ino] ? &w->node[w->at[ino] - 1] : NULL;
}

bool walk_is_whole(const struct walk *w)
{
	for (unsigned at = 0; at < w->n; at++) {
		if (w->node[at].bad)
			return false;
	}
	return !w->holes && !w->nbad;
}
