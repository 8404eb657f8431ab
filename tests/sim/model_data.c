/* SPDX-License-Identifier: Apache-2.0 */
/* model_data.c - contents, attributes and extended attributes. */
#include "tests/sim/model.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs/fs.h"

#define SIZE_LIMIT  ((uint64_t)INT64_MAX)
#define WRITE_LIMIT ((size_t)1 << 20)
#define XATTR_LIMIT 65536u
#define NAME_LIMIT  255u
/* A file up to here may be kept in another form than blocks. */
#define SMALL_FILE  1024u

static const uint8_t zeros[MODEL_PAGE];

/* --- blocks ------------------------------------------------------------------------------------ */

/* Index of the first listed block at or behind `block`. */
static unsigned block_index(const struct mvec *v, uint64_t block)
{
	unsigned lo = 0, hi = v ? v->n : 0;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (v->block[mid].block < block)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct mblock *model_block(const struct minode *i, uint64_t block)
{
	unsigned at = block_index(i->blocks, block);

	return i->blocks && at < i->blocks->n && i->blocks->block[at].block == block ? &i->blocks->block[at] : NULL;
}

bool model_next_nonzero(const struct minode *i, uint64_t block, uint64_t *found)
{
	for (unsigned at = block_index(i->blocks, block); i->blocks && at < i->blocks->n; at++) {
		if (i->blocks->block[at].page) {
			*found = i->blocks->block[at].block;
			return true;
		}
	}
	return false;
}

/* Takes the page over. */
static void block_set(struct minode *i, uint64_t block, enum mstate state, struct blob *page)
{
	struct mvec *v = mvec_own(&i->blocks, sizeof(struct mblock));
	unsigned at = block_index(v, block);

	if (at == v->n || v->block[at].block != block) {
		struct mblock *b = mvec_insert(v, at, sizeof(*b));

		*b = (struct mblock){.block = block};
	}
	struct mblock *b = &v->block[at];

	i->sum -= mblock_hash(b);
	blob_put(b->page);
	b->page = page;
	b->state = state;
	i->sum += mblock_hash(b);
}

/* Blocks from index `at` on become holes, up to `end`. */
static void blocks_drop(struct minode *i, uint64_t first, uint64_t end)
{
	struct mvec *v = i->blocks;
	unsigned at = block_index(v, first), stop = block_index(v, end);

	if (at == stop)
		return;
	for (unsigned k = at; k < stop; k++) {
		i->sum -= mblock_hash(&v->block[k]);
		blob_put(v->block[k].page);
	}
	memmove(&v->block[at], &v->block[stop], (v->n - stop) * sizeof(v->block[0]));
	v->n -= stop - at;
}

static struct blob *page_of(const uint8_t *bytes)
{
	return memcmp(bytes, zeros, MODEL_PAGE) ? blob_new(bytes, MODEL_PAGE) : NULL;
}

/* `len` bytes at `at` of a block; NULL: zeros. */
static void block_write(struct minode *i, uint64_t block, unsigned at, unsigned len, const uint8_t *bytes)
{
	const struct mblock *b = model_block(i, block);
	uint8_t page[MODEL_PAGE];

	if (len < MODEL_PAGE)
		memcpy(page, b && b->page ? b->page->data : zeros, MODEL_PAGE);
	memcpy(page + at, bytes ? bytes : zeros, len);
	block_set(i, block, M_DATA, page_of(page));
}

/* Zeroes [off, end) in the parts of blocks that have contents; whole blocks are the caller's. */
static void zero_parts(struct minode *i, uint64_t off, uint64_t end)
{
	uint64_t first = off / MODEL_PAGE, last = (end - 1) / MODEL_PAGE;

	for (unsigned k = 0; k < 2 && (!k || last > first); k++) {
		uint64_t block = k ? last : first, start = block * MODEL_PAGE;
		uint64_t from = off > start ? off - start : 0;
		uint64_t to = end - start < MODEL_PAGE ? end - start : MODEL_PAGE;
		const struct mblock *b = model_block(i, block);

		if (b && b->page)
			block_write(i, block, (unsigned)from, (unsigned)(to - from), NULL);
	}
}

static void note_small(struct minode *i)
{
	if (i->size <= SMALL_FILE)
		i->first_loose = true;
}

int model_file_check(const struct model *m, uint64_t ino)
{
	const struct minode *i = model_get(m, ino);

	if (!i)
		return -ESTALE;
	return S_ISREG(i->mode) ? 0 : S_ISDIR(i->mode) ? -EISDIR : -EINVAL;
}

/*
 * How a file keeps its contents may have to change before they do, in a step of its own.  That shows nothing but a time of access that was in
 * memory: it is stored with this step, or with the change.
 */
static struct minode *edit_contents(struct model *m, uint64_t ino)
{
	if (model_get(m, ino)->lazy)
		model_atime_store(m, ino);
	return model_edit(m, ino);
}

static int check_write(const struct minode *i, uint64_t off, unsigned how)
{
	if (how & MODEL_FORCED)
		return 0;
	return how & MODEL_APPEND && off == i->size ? minode_check_mutable(i) : minode_check_free(i);
}

int model_write(struct model *m, uint64_t ino, const void *buf, size_t len, uint64_t off, unsigned how)
{
	const uint8_t *bytes = buf;
	int err;

	if (len > WRITE_LIMIT)
		return -EINVAL;
	if (off > SIZE_LIMIT || len > SIZE_LIMIT - off)
		return -EFBIG;
	if (!len)
		return 0;
	err = model_file_check(m, ino);
	if (!err)
		err = check_write(model_get(m, ino), off, how);
	if (err)
		return err;
	struct minode *i = edit_contents(m, ino);

	for (size_t done = 0, n; done < len; done += n) {
		unsigned at = (unsigned)((off + done) % MODEL_PAGE);

		n = len - done < MODEL_PAGE - at ? len - done : MODEL_PAGE - at;
		block_write(i, (off + done) / MODEL_PAGE, at, (unsigned)n, bytes + done);
	}
	if (off + len > i->size)
		i->size = off + len;
	note_small(i);
	if (!(how & MODEL_KEEP_TIMES))
		i->mtime = i->ctime = m->now;
	minode_touch(m, i, true);
	model_commit(m);
	return 0;
}

size_t model_read(const struct minode *i, void *buf, size_t len, uint64_t off)
{
	uint8_t *out = buf;

	if (off >= i->size)
		return 0;
	len = len < i->size - off ? len : (size_t)(i->size - off);
	for (size_t done = 0, n; done < len; done += n) {
		const struct mblock *b = model_block(i, (off + done) / MODEL_PAGE);
		size_t at = (size_t)((off + done) % MODEL_PAGE);

		n = len - done < MODEL_PAGE - at ? len - done : MODEL_PAGE - at;
		memcpy(out + done, b && b->page ? b->page->data + at : zeros, n);
	}
	return len;
}

void model_resize(struct minode *i, uint64_t size)
{
	if (size < i->size) {
		uint64_t end = (size + MODEL_PAGE - 1) / MODEL_PAGE;

		blocks_drop(i, end, UINT64_MAX);
		if (size % MODEL_PAGE)
			zero_parts(i, size, end * MODEL_PAGE);
	}
	/* What is reserved behind the end goes with any truncation. */
	if (size == i->size)
		blocks_drop(i, (size + MODEL_PAGE - 1) / MODEL_PAGE, UINT64_MAX);
	if (i->size > SMALL_FILE && !size)
		i->first_loose = false;
	i->size = size;
	note_small(i);
}

static void punch(struct minode *i, uint64_t off, uint64_t end)
{
	uint64_t first = (off + MODEL_PAGE - 1) / MODEL_PAGE, last = end / MODEL_PAGE;

	if (end >= i->size)
		last = (end + MODEL_PAGE - 1) / MODEL_PAGE;
	zero_parts(i, off, end);
	if (first < last) {
		blocks_drop(i, first, last);
		if (!first && i->size > SMALL_FILE)
			i->first_loose = false;
	}
}

/* What was data may stay so, holding zeros; what was none is reserved. */
static void zero_range(struct minode *i, uint64_t off, uint64_t end)
{
	uint64_t first = (off + MODEL_PAGE - 1) / MODEL_PAGE, last = end / MODEL_PAGE;

	zero_parts(i, off, end);
	for (unsigned at = block_index(i->blocks, first); i->blocks && at < i->blocks->n; at++) {
		struct mblock *b = &i->blocks->block[at];

		if (b->block >= last)
			break;
		if (b->page)
			block_set(i, b->block, M_DATA, NULL);
	}
}

static void reserve(struct minode *i, uint64_t off, uint64_t end)
{
	uint64_t last = (end + MODEL_PAGE - 1) / MODEL_PAGE;

	for (uint64_t block = off / MODEL_PAGE; block < last; block++) {
		if (!model_block(i, block))
			block_set(i, block, M_UNWRITTEN, NULL);
	}
}

int model_fallocate(struct model *m, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	int what = mode & ~FALLOC_FL_KEEP_SIZE;
	bool keep = mode & FALLOC_FL_KEEP_SIZE;
	int err;

	if ((what && what != FALLOC_FL_PUNCH_HOLE && what != FALLOC_FL_ZERO_RANGE) ||
	    (what == FALLOC_FL_PUNCH_HOLE && !keep))
		return -EOPNOTSUPP;
	if (!len)
		return -EINVAL;
	if (off > SIZE_LIMIT || len > SIZE_LIMIT - off)
		return -EFBIG;
	err = model_file_check(m, ino);
	if (!err)
		err = what ? minode_check_free(model_get(m, ino)) : minode_check_mutable(model_get(m, ino));
	if (err)
		return err;
	struct minode *i = edit_contents(m, ino);
	uint64_t end = off + len;

	if (what == FALLOC_FL_PUNCH_HOLE)
		punch(i, off, end);
	if (what == FALLOC_FL_ZERO_RANGE)
		zero_range(i, off, end);
	if (what != FALLOC_FL_PUNCH_HOLE)
		reserve(i, off, end);
	i->mtime = i->ctime = m->now;
	if (!keep && end > i->size)
		i->size = end;
	note_small(i);
	minode_touch(m, i, true);
	model_commit(m);
	return 0;
}

void model_copy_hole(struct model *m, uint64_t ino, uint64_t off, uint64_t len)
{
	struct minode *i = edit_contents(m, ino);

	punch(i, off, off + len);
	if (off + len > i->size)
		i->size = off + len;
	note_small(i);
	i->mtime = i->ctime = m->now;
	minode_touch(m, i, true);
	model_commit(m);
}

void model_fallocate_part(struct model *m, uint64_t ino, int mode, uint64_t off, uint64_t block)
{
	(void)model_fallocate(m, ino, mode | FALLOC_FL_KEEP_SIZE, off, block * MODEL_PAGE - off);
}

/* --- attributes -------------------------------------------------------------------------------- */

static bool nsec_ok(unsigned set, unsigned bit, const struct timespec *t)
{
	return !(set & bit) || (t->tv_nsec >= 0 && t->tv_nsec < 1000000000);
}

static void attr_set(struct model *m, struct minode *i, unsigned set, const struct mattr *to)
{
	if (set & FS_SET_MODE) {
		i->mode = (i->mode & S_IFMT) | (to->mode & 07777);
		minode_follow_mode(i);
	}
	if (set & FS_SET_UID)
		i->uid = to->uid;
	if (set & FS_SET_GID)
		i->gid = to->gid;
	if (set & FS_SET_SIZE)
		i->mtime = m->now;
	if (set & FS_SET_ATIME)
		i->atime = to->atime;
	if (set & FS_SET_ATIME_NOW)
		i->atime = m->now;
	if (set & FS_SET_MTIME)
		i->mtime = to->mtime;
	if (set & FS_SET_MTIME_NOW)
		i->mtime = m->now;
	i->ctime = set & FS_SET_CTIME ? to->ctime : m->now;
}

/* utimes(2) without times is appending's business as well. */
static int check_attr(const struct minode *i, unsigned set)
{
	const unsigned now = FS_SET_ATIME_NOW | FS_SET_MTIME_NOW, times = now | FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME;

	return (set & now) == now && !(set & ~times) ? minode_check_mutable(i) : minode_check_free(i);
}

static int setattr(struct model *m, uint64_t ino, unsigned set, const struct mattr *to, bool forced)
{
	const unsigned known = FS_SET_MODE | FS_SET_UID | FS_SET_GID | FS_SET_SIZE | FS_SET_ATIME | FS_SET_MTIME |
			       FS_SET_CTIME | FS_SET_ATIME_NOW | FS_SET_MTIME_NOW;
	int err = 0;

	if (set & ~known || !nsec_ok(set, FS_SET_ATIME, &to->atime) || !nsec_ok(set, FS_SET_MTIME, &to->mtime) ||
	    !nsec_ok(set, FS_SET_CTIME, &to->ctime))
		return -EINVAL;
	if (set & FS_SET_SIZE)
		err = to->size > SIZE_LIMIT ? -EFBIG : model_file_check(m, ino);
	else if (!model_get(m, ino))
		err = -ESTALE;
	if (!err && !forced)
		err = check_attr(model_get(m, ino), set);
	if (err)
		return err;
	struct minode *i = set & FS_SET_SIZE ? edit_contents(m, ino) : model_edit(m, ino);

	if (set & FS_SET_SIZE)
		model_resize(i, to->size);
	attr_set(m, i, set, to);
	minode_touch(m, i, set & FS_SET_SIZE);
	model_commit(m);
	return 0;
}

int model_setattr(struct model *m, uint64_t ino, unsigned set, const struct mattr *to)
{
	return setattr(m, ino, set, to, false);
}

int model_cached_times(struct model *m, uint64_t ino, const struct mattr *to)
{
	return setattr(m, ino, FS_SET_MTIME | FS_SET_CTIME, to, true);
}

static int time_cmp(const struct timespec *a, const struct timespec *b)
{
	if (a->tv_sec != b->tv_sec)
		return a->tv_sec < b->tv_sec ? -1 : 1;
	return a->tv_nsec < b->tv_nsec ? -1 : a->tv_nsec > b->tv_nsec;
}

bool model_atime_due(const struct model *m, const struct minode *i, bool strict)
{
	if (i->flags & INODE_NOATIME)
		return false;
	if (strict)
		return time_cmp(&i->atime, &m->now) != 0;
	return time_cmp(&i->atime, &i->mtime) <= 0 || time_cmp(&i->atime, &i->ctime) <= 0 ||
	       m->now.tv_sec - i->atime.tv_sec >= 86400;
}

void model_atime(struct model *m, uint64_t ino)
{
	struct minode *i = model_edit(m, ino);

	i->atime = m->now;
	minode_touch(m, i, false);
	model_commit(m);
}

void model_atime_lazy(struct model *m, uint64_t ino)
{
	struct minode *i = model_edit(m, ino);

	if (!i->lazy)
		i->stored_atime = i->atime;
	i->lazy = true;
	i->atime = m->now;
	model_commit(m);
}

void model_atime_store(struct model *m, uint64_t ino)
{
	minode_touch(m, model_edit(m, ino), false);
	model_commit(m);
}

void model_atime_lose(struct model *m, uint64_t ino)
{
	struct minode *i = model_edit(m, ino);

	i->atime = i->stored_atime;
	i->lazy = false;
	model_commit(m);
}

/* --- flags ------------------------------------------------------------------------------------- */

int minode_check_mutable(const struct minode *i)
{
	return i->flags & INODE_IMMUTABLE ? -EPERM : 0;
}

int minode_check_free(const struct minode *i)
{
	return i->flags & (INODE_IMMUTABLE | INODE_APPEND) ? -EPERM : 0;
}

static uint32_t allowed_flags(uint32_t mode)
{
	uint32_t flags = INODE_NODUMP | INODE_NOATIME;

	if (S_ISREG(mode) || S_ISDIR(mode))
		flags |= INODE_SYNC | INODE_IMMUTABLE | INODE_APPEND;
	return S_ISDIR(mode) ? flags | INODE_DIRSYNC : flags;
}

uint32_t minode_inherited_flags(const struct minode *dir, uint32_t mode)
{
	return dir->flags & (INODE_SYNC | INODE_NODUMP | INODE_NOATIME | INODE_DIRSYNC) & allowed_flags(mode);
}

int model_setflags(struct model *m, uint32_t uid, uint64_t ino, uint32_t mask, uint32_t flags)
{
	const struct minode *had = model_get(m, ino);

	if (flags & ~mask || flags & ~allowed_flags(S_IFDIR))
		return -EOPNOTSUPP;
	if (!had)
		return -ESTALE;
	if (flags & ~allowed_flags(had->mode))
		return -EOPNOTSUPP;
	flags |= had->flags & ~mask;
	if (uid && (uid != had->uid || (flags ^ had->flags) & (INODE_IMMUTABLE | INODE_APPEND)))
		return -EPERM;
	struct minode *i = model_edit(m, ino);

	i->flags = flags;
	i->ctime = m->now;
	minode_touch(m, i, false);
	model_commit(m);
	return 0;
}

/* --- extended attributes ----------------------------------------------------------------------- */

static int xattr_index(const struct minode *i, const char *name)
{
	for (unsigned k = 0; i->xattrs && k < i->xattrs->n; k++) {
		if (!strcmp((const char *)i->xattrs->xattr[k].name->data, name))
			return (int)k;
	}
	return -1;
}

const struct mxattr *model_xattr(const struct minode *i, const char *name)
{
	int at = xattr_index(i, name);

	return at < 0 ? NULL : &i->xattrs->xattr[at];
}

static void xattr_drop(struct minode *i, int at)
{
	struct mxattr *x = &i->xattrs->xattr[at];

	i->sum -= mxattr_hash(x);
	blob_put(x->name);
	blob_put(x->value);
	mvec_remove(i->xattrs, (unsigned)at, sizeof(*x));
}

void minode_put_xattr(struct minode *i, const char *name, const void *value, size_t len)
{
	int at = xattr_index(i, name);

	if (at >= 0)
		xattr_drop(i, at);
	if (!value)
		return;
	struct mvec *v = mvec_own(&i->xattrs, sizeof(struct mxattr));
	struct mxattr *x = mvec_insert(v, v->n, sizeof(*x));

	*x = (struct mxattr){blob_new(name, strlen(name)), blob_new(value, len)};
	i->sum += mxattr_hash(x);
}

int model_setxattr(struct model *m, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	size_t name_len = strlen(name);

	if (!name_len || name_len > NAME_LIMIT)
		return -ERANGE;
	if (len > XATTR_LIMIT)
		return -E2BIG;
	if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
		return -EINVAL;
	if (!model_get(m, ino))
		return -ESTALE;
	if (minode_check_free(model_get(m, ino)))
		return -EPERM;
	int at = xattr_index(model_get(m, ino), name);

	if (at >= 0 && flags & XATTR_CREATE)
		return -EEXIST;
	if (at < 0 && flags & XATTR_REPLACE)
		return -ENODATA;
	struct minode *i = model_edit(m, ino);

	minode_put_xattr(i, name, value, len);
	i->ctime = m->now;
	minode_touch(m, i, false);
	model_commit(m);
	return 0;
}

int model_removexattr(struct model *m, uint64_t ino, const char *name)
{
	size_t name_len = strlen(name);

	if (!name_len || name_len > NAME_LIMIT)
		return -ERANGE;
	if (!model_get(m, ino))
		return -ESTALE;
	if (minode_check_free(model_get(m, ino)))
		return -EPERM;
	int at = xattr_index(model_get(m, ino), name);

	if (at < 0)
		return -ENODATA;
	struct minode *i = model_edit(m, ino);

	xattr_drop(i, at);
	i->ctime = m->now;
	minode_touch(m, i, false);
	model_commit(m);
	return 0;
}
