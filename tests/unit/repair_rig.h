/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repair_rig.h - repairs of a damaged bench, and whether what was there before is still there: by inode, for names may
 * have changed.
 */
#ifndef HOLDFAST_TESTS_REPAIR_RIG_H
#define HOLDFAST_TESTS_REPAIR_RIG_H

#include "tests/unit/fsck_hits.h"

#include "core/crc32c.h"
#include "fsck/repair.h"

/* --- what a file is ---------------------------------------------------------------------------- */

struct seen {
	uint64_t ino;
	uint32_t mode;
	uint64_t size;		/* not of directories */
	uint32_t crc;		/* of contents or target, and of extended attributes */
	int err;		/* of reading them */
};

struct sight {
	struct seen *seen;	/* ascending, each inode once */
	unsigned n, cap;
};

struct sight_dirs {
	uint64_t *ino;
	unsigned n, cap;
};

static inline void *grow(void *list, unsigned n, unsigned *cap, size_t size)
{
	if (n < *cap)
		return list;
	*cap = 2 * *cap + 64;
	list = realloc(list, *cap * size);
	assert_non_null(list);
	return list;
}

static inline int sight_entry(void *arg, const struct fs_dirent *e)
{
	struct sight_dirs *d = arg;

	if (e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.')))
		return 0;
	d->ino = grow(d->ino, d->n, &d->cap, sizeof(*d->ino));
	d->ino[d->n++] = e->ino;
	return 0;
}

static inline int sight_contents(struct fs *fs, struct dev_queue *q, const struct fs_attr *a, uint32_t *crc)
{
	size_t len = 64 << 10;
	char *buf = malloc(len);
	ssize_t got = 1;

	assert_non_null(buf);
	for (uint64_t off = 0; got > 0 && S_ISREG(a->mode) && off < a->size && off < 4 << 20; off += (uint64_t)got) {
		got = fs_pread(fs, q, a->ino, buf, len, off);
		if (got > 0)
			*crc = crc32c(*crc, buf, (size_t)got);
	}
	if (S_ISLNK(a->mode)) {
		got = fs_readlink(fs, q, a->ino, buf);
		if (got >= 0)
			*crc = crc32c(*crc, buf, strlen(buf));
	}
	free(buf);
	return got < 0 ? (int)got : 0;
}

static inline int sight_xattrs(struct fs *fs, struct dev_queue *q, uint64_t ino, uint32_t *crc)
{
	size_t len = 64 << 10, value_len;
	char *names = malloc(len), *value = malloc(MAX_XATTR);

	assert_non_null(names);
	assert_non_null(value);
	int err = fs_listxattr(fs, q, ino, true, names, &len);
	for (char *name = names; !err && name < names + len; name += strlen(name) + 1) {
		value_len = MAX_XATTR;
		err = fs_getxattr(fs, q, ino, name, value, &value_len);
		if (!err)
			*crc = crc32c(crc32c(*crc, name, strlen(name)), value, value_len);
	}
	free(value);
	free(names);
	return err;
}

static inline int seen_cmp(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static inline void sight_inode(struct fs *fs, struct dev_queue *q, struct sight *s, uint64_t ino, bool *dir)
{
	struct fs_attr a;
	struct seen seen = {.ino = ino};

	*dir = false;
	seen.err = fs_getattr(fs, q, ino, &a);
	if (!seen.err) {
		seen.mode = a.mode;
		seen.size = S_ISDIR(a.mode) ? 0 : a.size;
		seen.err = sight_contents(fs, q, &a, &seen.crc);
		*dir = S_ISDIR(a.mode);
	}
	if (!seen.err)
		seen.err = sight_xattrs(fs, q, ino, &seen.crc);
	s->seen = grow(s->seen, s->n, &s->cap, sizeof(*s->seen));
	s->seen[s->n++] = seen;
}

/* Opens a copy of the volume and looks at all that can be reached. */
static inline void sight_take(struct bench *from, struct sight *s)
{
	struct fs_config cfg = {.atime = FS_NOATIME};
	struct sight_dirs todo = {0};
	struct bench b;
	struct fs *fs;
	bool dir;

	memset(s, 0, sizeof(*s));
	bench_clone(&b, from);
	bench_open(&b);
	assert_int_equal(fs_open(b.r.v, b.r.q, &cfg, &fs), 0);
	sight_entry(&todo, &(struct fs_dirent){.name = "/", .len = 1, .ino = INO_ROOT});
	for (unsigned i = 0; i < todo.n; i++) {
		sight_inode(fs, b.r.q, s, todo.ino[i], &dir);
		if (dir)
			assert_int_equal(fs_readdir(fs, b.r.q, todo.ino[i], 0, false, sight_entry, &todo), 0);
	}
	fs_close(fs, b.r.q);
	assert_int_equal(volume_close(b.r.v, b.r.q), 0);
	b.r.v = NULL;
	rig_destroy(&b.r);
	free(todo.ino);
	qsort(s->seen, s->n, sizeof(*s->seen), seen_cmp);
}

static inline const struct seen *sight_find(const struct sight *s, uint64_t ino)
{
	return bsearch(&(struct seen){.ino = ino}, s->seen, s->n, sizeof(*s->seen), seen_cmp);
}

/* --- repairing --------------------------------------------------------------------------------- */

struct told {
	unsigned kept, lost;
	bool lost_unknown;	/* something was lost of which nobody knows whose it was */
	uint64_t lost_ino[4096];
	char last_path[256];
};

static inline void told_note(void *arg, const struct rebuild_note *n)
{
	struct told *t = arg;

	if (getenv("HOLDFAST_TEST_VERBOSE"))
		fprintf(stderr, "%s inode %lld %s: %s\n", n->what == REBUILD_LOST ? "LOST" : "kept", (long long)n->ino,
			n->path ? n->path : "-", n->text);
	snprintf(t->last_path, sizeof(t->last_path), "%s", n->path ? n->path : "");
	if (n->what == REBUILD_KEPT) {
		t->kept++;
		return;
	}
	if (n->ino == FSCK_NOWHERE || t->lost == 4096)
		t->lost_unknown = true;
	else
		t->lost_ino[t->lost++] = n->ino;
}

/* Check, heal, repair: what the program does with -y, or -p. */
static inline int repair(struct bench *b, bool all, struct told *t)
{
	struct fsck_opts co = {.data = true, .try_replay = true, .heal = true, .found = bench_found, .arg = b, .diag = &b->r.diag};
	struct repair_opts ro = {.all = all, .note = told_note, .arg = t, .diag = &b->r.diag};
	struct repair_result rr;

	memset(t, 0, sizeof(*t));
	memset(b->found, 0, sizeof(b->found));
	int err = fsck_check(b->r.q, &co, &b->res);

	return err ? err : fsck_repair(b->r.q, &b->res, &ro, &rr);
}

static inline bool told_lost(const struct told *t, uint64_t ino)
{
	for (unsigned i = 0; i < t->lost; i++)
		if (t->lost_ino[i] == ino)
			return true;
	return false;
}

/* How many files are gone or changed without a word about it. */
static inline unsigned sight_missing(const struct sight *before, const struct sight *after, const struct told *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < before->n; i++) {
		const struct seen *was = &before->seen[i], *is = sight_find(after, was->ino);
		bool same = is && is->mode == was->mode && is->size == was->size && is->crc == was->crc && is->err == was->err;

		if (same || told_lost(t, was->ino))
			continue;
		n++;
		if (getenv("HOLDFAST_TEST_VERBOSE"))
			fprintf(stderr, "inode %llu: %s\n", (unsigned long long)was->ino, is ? "changed" : "gone");
	}
	return n;
}

#endif
