/* SPDX-License-Identifier: Apache-2.0 */
/*
 * power_cut_snap.h - everything that can be seen of a tree, as text: paths, attributes, times, checksums of contents and extended
 * attributes.  Two trees are the same if their texts are.
 */
#ifndef HOLDFAST_TESTS_POWER_CUT_SNAP_H
#define HOLDFAST_TESTS_POWER_CUT_SNAP_H

#include "tests/unit/power_cut_rig.h"

#include "core/crc32c.h"
#include "fs/fs_impl.h"

#define SNAP_CHUNK (64u << 10)

struct names_list {
	char **name;
	unsigned n, cap;
};

static inline int names_add(void *arg, const struct fs_dirent *e)
{
	struct names_list *l = arg;

	if (e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.')))
		return 0;
	if (l->n == l->cap) {
		l->cap = 2 * l->cap + 16;
		l->name = realloc(l->name, l->cap * sizeof(*l->name));
		assert_non_null(l->name);
	}
	l->name[l->n] = strndup(e->name, e->len);
	assert_non_null(l->name[l->n++]);
	return 0;
}

static inline int names_cmp(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The blocks of [off, end) that are not all zeros, whether they are data or not. */
static inline uint32_t snap_blocks(struct run *c, uint64_t ino, uint64_t off, uint64_t end, uint8_t *buf, uint32_t crc)
{
	static const uint8_t zeros[BLOCK_SIZE];

	off &= ~(uint64_t)(BLOCK_SIZE - 1);
	while (off < end) {
		uint64_t len = end - off < SNAP_CHUNK ? end - off : SNAP_CHUNK;

		if (fs_pread(c->fs, c->r.q, ino, buf, len, off) != (ssize_t)len)
			fail_msg("%s: inode %llu cannot be read at %llu", c->label, (unsigned long long)ino,
				 (unsigned long long)off);
		for (uint64_t at = 0; at < len; at += BLOCK_SIZE) {
			uint64_t n = len - at < BLOCK_SIZE ? len - at : BLOCK_SIZE, pos = off + at;

			if (!memcmp(buf + at, zeros, n))
				continue;
			crc = crc32c(crc, &pos, sizeof(pos));
			crc = crc32c(crc, buf + at, n);
		}
		off += len;
	}
	return crc;
}

static inline uint32_t snap_contents(struct run *c, const struct fs_attr *a)
{
	uint8_t *buf = malloc(SNAP_CHUNK);
	uint64_t data = 0, hole = 0;
	uint32_t crc = 0;
	int err;

	assert_non_null(buf);
	while (!(err = fs_lseek(c->fs, c->r.q, a->ino, hole, SEEK_DATA, &data))) {
		assert_int_equal(fs_lseek(c->fs, c->r.q, a->ino, data, SEEK_HOLE, &hole), 0);
		assert_true(hole > data && hole <= a->size);
		crc = snap_blocks(c, a->ino, data, hole, buf, crc);
	}
	assert_int_equal(err, -ENXIO);
	free(buf);
	return crc;
}

static inline void snap_xattrs(struct run *c, uint64_t ino, FILE *out)
{
	size_t len = SNAP_CHUNK, value_len;
	char *names = malloc(len);
	uint8_t *value = malloc(MAX_XATTR);

	assert_non_null(names);
	assert_non_null(value);
	assert_int_equal(fs_listxattr(c->fs, c->r.q, ino, true, names, &len), 0);
	for (char *name = names; name < names + len; name += strlen(name) + 1) {
		value_len = MAX_XATTR;
		assert_int_equal(fs_getxattr(c->fs, c->r.q, ino, name, value, &value_len), 0);
		fprintf(out, " %s=%zu:%08x", name, value_len, crc32c(0, value, value_len));
	}
	free(value);
	free(names);
}

static inline void snap_time(FILE *out, const char *what, const struct timespec *t)
{
	fprintf(out, " %s %lld.%09ld", what, (long long)t->tv_sec, t->tv_nsec);
}

/* Not st_blocks and the generation: those are no promise. */
static inline void snap_inode(struct run *c, const char *path, const struct fs_attr *a, FILE *out)
{
	char target[MAX_SYMLINK + 1];

	fprintf(out, "%s ino %llu mode %o nlink %u owner %u:%u rdev %llu size %llu", path, (unsigned long long)a->ino,
		a->mode, a->nlink, a->uid, a->gid, (unsigned long long)a->rdev, (unsigned long long)a->size);
	snap_time(out, "a", &a->atime);
	snap_time(out, "m", &a->mtime);
	snap_time(out, "c", &a->ctime);
	snap_time(out, "b", &a->btime);
	if (S_ISREG(a->mode))
		fprintf(out, " contents %08x", snap_contents(c, a));
	if (S_ISLNK(a->mode)) {
		assert_int_equal(fs_readlink(c->fs, c->r.q, a->ino, target), 0);
		fprintf(out, " target %zu:%08x", strlen(target), crc32c(0, target, strlen(target)));
	}
	snap_xattrs(c, a->ino, out);
	fputc('\n', out);
}

static inline void snap_dir(struct run *c, const char *path, uint64_t dir, FILE *out)
{
	struct names_list l = {0};
	struct fs_attr a;
	char sub[1024];

	assert_int_equal(fs_readdir(c->fs, c->r.q, dir, 0, false, names_add, &l), 0);
	if (l.n)
		qsort(l.name, l.n, sizeof(*l.name), names_cmp);
	for (unsigned i = 0; i < l.n; i++) {
		assert_int_equal(fs_lookup(c->fs, c->r.q, dir, l.name[i], strlen(l.name[i]), &a), 0);
		snprintf(sub, sizeof(sub), "%s/%s", path, l.name[i]);
		snap_inode(c, sub, &a, out);
		if (S_ISDIR(a.mode))
			snap_dir(c, sub, a.ino, out);
		fs_forget(c->fs, c->r.q, a.ino, 1);
		free(l.name[i]);
	}
	free(l.name);
}

/* Everything that can be seen of the tree, as text; to be freed.  Looking changes nothing. */
static inline char *snapshot(struct run *c)
{
	enum fs_atime atime = c->fs->cfg.atime;
	struct fs_attr a;
	size_t len;
	char *text;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	c->fs->cfg.atime = FS_NOATIME;
	assert_int_equal(fs_getattr(c->fs, c->r.q, INO_ROOT, &a), 0);
	snap_inode(c, "", &a, out);
	snap_dir(c, "", INO_ROOT, out);
	c->fs->cfg.atime = atime;
	assert_int_equal(fclose(out), 0);
	return text;
}

#endif
