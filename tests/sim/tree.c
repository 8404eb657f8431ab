/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c - everything that can be seen of the real tree, and which state of the model it is.
 *
 * Each inode is hashed as the model hashes its own, and the sum of these hashes is looked for in the model's history.  So one walk
 * decides about any number of possible states; only if none fits are they looked at one by one, to say what is wrong.
 */
#include "tests/sim/sim.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/fs_impl.h"
#include "fsck/check.h"

/* An inode as it is found: of the model's form, without the parts that `sum` stands for. */
struct walk {
	struct sim *s;
	struct minode *node;
	unsigned n, cap;
	uint32_t *at;		/* by inode number: 1 + its index; 0: not met */
	uint64_t nat;
	uint64_t hash;
	struct minode *dir;	/* that is being read */
	bool plus;
};

static const uint8_t zeros[MODEL_PAGE];

static void must(struct walk *w, int rc, uint64_t ino, const char *what)
{
	if (rc)
		violation(w->s, "walk", "inode %llu: %s: %s", (unsigned long long)ino, what, strerror(-rc));
}

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

/* --- one inode --------------------------------------------------------------------------------- */

static void from_attr(struct minode *i, const struct fs_attr *a)
{
	*i = (struct minode){
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

struct rd {
	struct fs_io io;
	struct dev_event done;
};

static void rd_done(struct fs_io *io)
{
	dev_event_set(&((struct rd *)io)->done);
}

static void add_page(struct minode *i, uint64_t block, const uint8_t *bytes)
{
	if (memcmp(bytes, zeros, MODEL_PAGE))
		i->sum += hash_mix(block + 1, hash_bytes(1, bytes, MODEL_PAGE));
}

/* [off, off + len), which begins with a block. */
static void add_range(struct walk *w, struct minode *i, uint64_t off, size_t len)
{
	struct sim *s = w->s;
	struct rd rd = {.io = {.ino = i->ino, .off = off, .len = len, .buf = s->lab->room, .done = rd_done}};

	dev_event_init(&rd.done, s->q);
	fs_read(s->fs, s->q, &rd.io);
	world_wait(s, &rd.done);
	must(w, rd.io.result < 0 ? (int)rd.io.result : 0, i->ino, "read");
	if ((size_t)rd.io.result != len)
		violation(s, "walk", "inode %llu: %zd of %zu bytes at %llu", (unsigned long long)i->ino, rd.io.result, len,
			  (unsigned long long)off);
	for (size_t at = 0; at < len; at += MODEL_PAGE) {
		const uint8_t *page = (const uint8_t *)rd.io.data + at;
		uint8_t last[MODEL_PAGE] = {0};

		if (len - at < MODEL_PAGE)
			page = memcpy(last, page, len - at);
		add_page(i, (off + at) / MODEL_PAGE, page);
	}
}

static void add_contents(struct walk *w, struct minode *i)
{
	uint64_t pos = 0, data = 0, hole = 0;
	int rc;

	while (pos < i->size && !(rc = fs_lseek(w->s->fs, w->s->q, i->ino, pos, SEEK_DATA, &data))) {
		must(w, fs_lseek(w->s->fs, w->s->q, i->ino, data, SEEK_HOLE, &hole), i->ino, "seek");
		if (hole <= data || hole > i->size || data % MODEL_PAGE)
			violation(w->s, "walk", "inode %llu: data from %llu to %llu", (unsigned long long)i->ino,
				  (unsigned long long)data, (unsigned long long)hole);
		for (uint64_t off = data; off < hole; off += FS_IO_MAX)
			add_range(w, i, off, hole - off < FS_IO_MAX ? (size_t)(hole - off) : FS_IO_MAX);
		pos = hole;
	}
	if (pos < i->size && rc != -ENXIO)
		must(w, rc, i->ino, "seek");
}

static void add_xattrs(struct walk *w, struct minode *i)
{
	struct sim *s = w->s;
	char list[4096];
	size_t len = sizeof(list), value_len;

	must(w, fs_listxattr(s->fs, s->q, i->ino, list, &len), i->ino, "listxattr");
	for (const char *name = list; name < list + len; name += strlen(name) + 1) {
		value_len = MAX_XATTR;
		must(w, fs_getxattr(s->fs, s->q, i->ino, name, s->lab->other, &value_len), i->ino, "getxattr");
		i->sum += hash_mix(hash_bytes(3, name, strlen(name)), hash_bytes(1, s->lab->other, value_len));
	}
}

static uint64_t target_hash(struct walk *w, const struct minode *i)
{
	char target[MAX_SYMLINK + 1];

	must(w, fs_readlink(w->s->fs, w->s->q, i->ino, target), i->ino, "readlink");
	if (strlen(target) != i->size)
		violation(w->s, "walk", "inode %llu: a target of %zu bytes, not %llu", (unsigned long long)i->ino,
			  strlen(target), (unsigned long long)i->size);
	return hash_bytes(1, target, strlen(target));
}

/* --- the walk ---------------------------------------------------------------------------------- */

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
};

static int found_entry(void *arg, const struct fs_dirent *e)
{
	struct found *f = arg;
	struct walk *w = f->w;
	struct sim *s = w->s;
	struct minode *dir = &w->node[f->dir];
	struct fs_attr attr;

	if (e->len == 2 && e->name[0] == '.' && e->name[1] == '.')
		dir->parent = e->ino;
	if (e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.')))
		return 0;
	dir->sum += mentry_hash(e->name, e->len, e->ino, DTTOIF(e->ftype));
	if (e->attr)
		attr = *e->attr;
	else
		must(w, fs_lookup(s->fs, s->q, dir->ino, e->name, e->len, &attr), e->ino, "lookup");
	if (attr.ino != e->ino || (attr.mode & S_IFMT) != (uint32_t)DTTOIF(e->ftype))
		violation(s, "walk", "\"%.*s\" is listed as inode %llu, and is %llu", (int)e->len, e->name,
			  (unsigned long long)e->ino, (unsigned long long)attr.ino);
	walk_add(w, &attr);
	fs_forget(s->fs, s->q, attr.ino, 1);
	return 0;
}

static void walk_one(struct walk *w, unsigned at)
{
	struct sim *s = w->s;
	struct found f = {w, at};
	uint64_t extra = 0;

	if (S_ISDIR(w->node[at].mode))
		must(w, fs_readdir(s->fs, s->q, w->node[at].ino, 0, w->plus, found_entry, &f), w->node[at].ino, "readdir");
	struct minode *i = &w->node[at];

	if (S_ISREG(i->mode))
		add_contents(w, i);
	add_xattrs(w, i);
	if (S_ISLNK(i->mode)) {
		/* minode_hash() takes it from the target's bytes. */
		struct blob b = {.hash = target_hash(w, i)};

		i->target = &b;
		i->hash = minode_hash(i);
		i->target = NULL;
	} else {
		i->hash = minode_hash(i);
	}
	w->hash += i->hash + extra;
}

static void walk_run(struct walk *w, struct sim *s)
{
	enum fs_atime atime = s->fs->cfg.atime;
	struct fs_attr a;

	*w = (struct walk){.s = s, .nat = s->v->next_ino + 1, .plus = s->plan->seed & 1};
	w->at = need(calloc(w->nat, sizeof(*w->at)));
	/* Looking changes nothing. */
	s->fs->cfg.atime = FS_NOATIME;
	must(w, fs_getattr(s->fs, s->q, MODEL_ROOT, &a), MODEL_ROOT, "getattr");
	walk_add(w, &a);
	for (unsigned at = 0; at < w->n; at++)
		walk_one(w, at);
	s->fs->cfg.atime = atime;
	s->cov->compared++;
}

static void walk_end(struct walk *w)
{
	free(w->node);
	free(w->at);
}

uint64_t tree_hash(struct sim *s)
{
	struct walk w;

	walk_run(&w, s);
	walk_end(&w);
	return w.hash;
}

/* --- saying what is wrong ---------------------------------------------------------------------- */

static const struct minode *walk_get(const struct walk *w, uint64_t ino)
{
	return ino < w->nat && w->at[ino] ? &w->node[w->at[ino] - 1] : NULL;
}

static unsigned count_differences(struct sim *s, const struct walk *w)
{
	unsigned n = 0;

	for (uint64_t ino = 0; ino < s->model->ntab || ino < w->nat; ino++) {
		const struct minode *want = model_get(s->model, ino), *got = walk_get(w, ino);

		if (want && !want->nlink)
			want = NULL;
		n += (!want != !got) || (want && want->hash != got->hash);
	}
	return n;
}

static int describe(char *out, size_t room, const struct minode *want, const struct minode *got)
{
	int n = snprintf(out, room, "; inode %llu", (unsigned long long)(want ? want->ino : got->ino));

#define SAY(...) n += snprintf(out + n, (size_t)n < room ? room - (size_t)n : 0, __VA_ARGS__)
#define FIELD(name, format, type)                                                                                      \
	if (want->name != got->name)                                                                                   \
	SAY(" " #name " " format " not " format, (type)got->name, (type)want->name)
#define TIME(name)                                                                                                     \
	if (memcmp(&want->name, &got->name, sizeof(want->name)))                                                       \
	SAY(" " #name " %lld.%09ld not %lld.%09ld", (long long)got->name.tv_sec, got->name.tv_nsec,                    \
	    (long long)want->name.tv_sec, want->name.tv_nsec)
	if (!want || !got) {
		SAY(want ? " (label %llu) is missing" : " is too many", (unsigned long long)(want ? want->label : 0));
		return n;
	}
	FIELD(mode, "%o", unsigned);
	FIELD(nlink, "%u", unsigned);
	FIELD(uid, "%u", unsigned);
	FIELD(gid, "%u", unsigned);
	FIELD(size, "%llu", unsigned long long);
	FIELD(parent, "%llu", unsigned long long);
	TIME(atime);
	TIME(mtime);
	TIME(ctime);
	TIME(btime);
	if (want->sum != got->sum)
		SAY(" other contents, entries or xattrs");
#undef SAY
#undef FIELD
#undef TIME
	return n;
}

static void describe_all(struct sim *s, const struct walk *w, char *out, size_t room)
{
	size_t n = 0;

	for (uint64_t ino = 0; (ino < s->model->ntab || ino < w->nat) && n + 200 < room; ino++) {
		const struct minode *want = model_get(s->model, ino), *got = walk_get(w, ino);

		if (want && !want->nlink)
			want = NULL;
		if ((!want != !got) || (want && want->hash != got->hash))
			n += (size_t)describe(out + n, room - n, want, got);
	}
}

/* No state fits: the nearest is named, with what differs. */
static _Noreturn void no_moment(struct sim *s, const struct walk *w)
{
	struct model *m = s->model;
	unsigned all = m->nrec, best = all, least = UINT32_MAX;
	struct model *copy = model_clone(m);
	char text[1400] = "";

	for (unsigned n = 0; n <= all; n++) {
		if (m->rec[n].hash == w->hash)
			violation(s, "durability", "%u changes survived of %u, and %u were acknowledged as durable", n, all,
				  s->acked);
	}
	for (unsigned n = all + 1; n-- > 0;) {
		model_rollback(m, n);
		unsigned differ = count_differences(s, w);

		if (n >= s->acked && differ < least) {
			least = differ;
			best = n;
		}
		if (n == best)
			describe_all(s, w, text, sizeof(text));
	}
	model_free(copy);
	violation(s, "moment", "the tree is none that ever was; nearest: after %u of %u changes (%u acknowledged), "
			       "%u inodes differ%s",
		  best, all, s->acked, least, text);
}

/* --- half done --------------------------------------------------------------------------------- */

/* Of change n + 1, which may be seen half done: the tree is as it was somewhere in it.  Leaves the model there. */
static bool part_fits(struct model *m, unsigned n, uint64_t hash)
{
	const struct mrec r = m->rec[n + 1];
	uint64_t last = (r.off + r.len) / MODEL_PAGE;

	model_rollback(m, n);
	m->now = r.now;
	for (uint64_t block = r.off / MODEL_PAGE + 1; block <= last && block - r.off / MODEL_PAGE < 20000; block++) {
		model_fallocate_part(m, r.ino, r.mode, r.off, block);
		if (m->hash == hash)
			return true;
		model_rollback(m, n);
	}
	return false;
}

/* Changes that may be seen half done, the latest first. */
static bool any_part_fits(struct sim *s, uint64_t hash)
{
	struct model *m = s->model;

	for (unsigned n = m->nrec; n-- > s->acked;) {
		if (m->rec[n + 1].len && part_fits(m, n, hash))
			return true;
	}
	return false;
}

void tree_partly(struct sim *s, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct model *m = s->model;
	uint64_t block = off / MODEL_PAGE, last = (off + len) / MODEL_PAGE;
	unsigned n = m->nrec;
	struct fs_attr a;
	struct walk w = {.s = s};

	must(&w, fs_getattr(s->fs, s->q, ino, &a), ino, "getattr");
	w.node = need(calloc(1, sizeof(*w.node)));
	from_attr(w.node, &a);
	enum fs_atime atime = s->fs->cfg.atime;

	s->fs->cfg.atime = FS_NOATIME;
	walk_one(&w, 0);
	s->fs->cfg.atime = atime;
	while (model_get(m, ino)->hash != w.hash ||
	       (!model_get(m, ino)->first_loose && model_get(m, ino)->blocks->n * 8 != a.blocks)) {
		model_rollback(m, n);
		if (block++ == last)
			violation(s, "partly", "inode %llu: what has been done is none of its steps", (unsigned long long)ino);
		model_fallocate_part(m, ino, mode, off, block);
	}
	free(w.node);
	s->cov->partly++;
	trace(s, " (up to block %llu)", (unsigned long long)block);
}

/* --- judging ----------------------------------------------------------------------------------- */

void tree_judge(struct sim *s)
{
	struct model *m = s->model;
	struct walk w;
	unsigned n = s->acked;

	walk_run(&w, s);
	while (n <= m->nrec && m->rec[n].hash != w.hash)
		n++;
	unsigned all = m->nrec;

	if (n > all && any_part_fits(s, w.hash)) {
		s->cov->partly++;
		n = m->nrec;
	} else if (n > all) {
		no_moment(s, &w);
	}
	walk_end(&w);
	trace(s, "       %u of %u changes are there, %u were acknowledged\n", n, all, s->acked);
	s->cov->cut_lost += n < all;
	s->cov->cut_beyond += n > s->acked;
	model_rollback(m, n);
	model_rebase(m);
	s->acked = 0;
}

void tree_same(struct sim *s)
{
	s->acked = s->model->nrec;
	tree_judge(s);
}

static void fsck_found(void *arg, const struct fsck_finding *f)
{
	struct sim *s = arg;
	const struct fsck_code_info *info = fsck_code_info(f->code);

	trace(s, "       fsck: %s %s: %s\n", info->code, info->name, f->text);
	if (info->severity == FSCK_ERROR)
		violation(s, "fsck", "%s %s: %s", info->code, info->name, f->text);
}

void tree_fsck(struct sim *s, bool clean)
{
	struct fsck_opts opts = {.data = true, .try_replay = true, .found = fsck_found, .arg = s, .diag = &s->diag};
	struct fsck_result res;
	int rc = fsck_check(s->q, &opts, &res);

	s->cov->fscks++;
	if (rc)
		violation(s, "fsck", "it cannot be checked: %s", strerror(-rc));
	if (clean && (res.ninfos || !res.root_clean))
		violation(s, "fsck", "something is left over after an orderly end");
}
