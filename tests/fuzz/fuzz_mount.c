/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_mount.c - target: mounts a volume that was edited, looks at everything in it, changes things, unmounts, mounts again, checks.
 *
 * The changes are the EDIT_CALLs of the input, or a short list of everything if there are none.  how & 1: mounted read-only;
 * how & 2: small extents of memory, so that nodes come and go.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fs.h"
#include "fsck/check.h"

#define MAX_SEEN 256u
#define MAX_NAMES 512u
#define READ_MAX ((size_t)64 << 10)

struct name {
	uint64_t dir;
	uint8_t len;
	char text[MAX_NAME + 1];
};

struct walk {
	struct volume *v;
	struct fs *fs;
	struct dev_queue *q;
	uint64_t ino[MAX_SEEN];		/* met, each once; a reference is held */
	unsigned ninos;
	struct name *name;
	unsigned nnames;
	uint8_t *buf;			/* READ_MAX + MAX_XATTR */
};

static void walk_clock(void *arg, struct timespec *now)
{
	(void)arg;
	*now = (struct timespec){.tv_sec = 1800000000};
}

/* --- looking ----------------------------------------------------------------------------------- */

static bool is_known(const struct walk *w, uint64_t ino)
{
	for (unsigned i = 0; i < w->ninos; i++)
		if (w->ino[i] == ino)
			return true;
	return false;
}

struct listing {
	struct walk *w;
	uint64_t dir, cookie;
	unsigned n;
};

static int take_entry(void *arg, const struct fs_dirent *e)
{
	struct listing *l = arg;
	struct walk *w = l->w;

	assert(e->len >= 1 && e->len <= MAX_NAME);
	if (++l->n > 64)
		return 1;
	assert(e->cookie > l->cookie);
	l->cookie = e->cookie;
	if (e->len == 1 && e->name[0] == '.')
		return 0;
	if (w->nnames < MAX_NAMES) {
		struct name *n = &w->name[w->nnames++];

		n->dir = l->dir;
		n->len = (uint8_t)e->len;
		memcpy(n->text, e->name, e->len);
		n->text[e->len] = '\0';
	}
	return 0;
}

/* In two ways; how often it goes on is bounded by the number of names that fit a volume of this size. */
static void look_dir(struct walk *w, uint64_t ino)
{
	struct listing l = {.w = w, .dir = ino};
	unsigned first = w->nnames;

	for (unsigned i = 0; i < 64; i++) {
		l.n = 0;
		if (fs_readdir(w->fs, w->q, ino, l.cookie, false, take_entry, &l) || l.n <= 64)
			break;
	}
	for (unsigned i = first; i < w->nnames; i++) {
		struct fs_attr attr;

		if (fs_lookup(w->fs, w->q, ino, w->name[i].text, w->name[i].len, &attr))
			continue;
		if (is_known(w, attr.ino) || w->ninos == MAX_SEEN)
			fs_forget(w->fs, w->q, attr.ino, 1);
		else
			w->ino[w->ninos++] = attr.ino;
	}
}

static void look_xattrs(struct walk *w, uint64_t ino)
{
	char names[4096];
	size_t len = sizeof(names), at;

	if (fs_listxattr(w->fs, w->q, ino, true, names, &len))
		return;
	for (at = 0; at < len; at += strlen(names + at) + 1) {
		size_t n = MAX_XATTR;

		if (!fs_getxattr(w->fs, w->q, ino, names + at, w->buf, &n))
			assert(n <= MAX_XATTR);
	}
}

/* The beginning, the end, and where data begins. */
static void look_contents(struct walk *w, uint64_t ino, uint64_t size)
{
	uint64_t at = 0, hole, blkno;

	(void)fs_pread(w->fs, w->q, ino, w->buf, READ_MAX, 0);
	if (size > READ_MAX)
		(void)fs_pread(w->fs, w->q, ino, w->buf, 5000, size - 4500);
	for (unsigned i = 0; i < 16; i++) {
		if (fs_lseek(w->fs, w->q, ino, at, SEEK_DATA, &at) || fs_lseek(w->fs, w->q, ino, at, SEEK_HOLE, &hole))
			break;
		assert(hole >= at);
		(void)fs_bmap(w->fs, w->q, ino, at >> BLOCK_SHIFT, &blkno);
		(void)fs_pread(w->fs, w->q, ino, w->buf, READ_MAX, at);
		at = hole;
	}
}

static void look_inode(struct walk *w, uint64_t ino)
{
	char target[MAX_SYMLINK + 1];
	struct fs_attr attr;
	uint32_t flags;

	if (fs_getattr(w->fs, w->q, ino, &attr))
		return;
	if (!fs_get_flags(w->fs, w->q, ino, &flags))
		assert(!(flags & ~inode_user_mask(attr.mode)));
	(void)fs_must_sync(w->fs, w->q, ino, true);
	if (S_ISDIR(attr.mode))
		look_dir(w, ino);
	if (S_ISREG(attr.mode))
		look_contents(w, ino, attr.size);
	if (S_ISLNK(attr.mode))
		(void)fs_readlink(w->fs, w->q, ino, target);
	look_xattrs(w, ino);
}

static void look(struct walk *w)
{
	struct fs_attr attr;

	if (fs_lookup(w->fs, w->q, INO_ROOT, ".", 1, &attr))
		return;
	w->ino[w->ninos++] = attr.ino;
	for (unsigned i = 0; i < w->ninos; i++)
		look_inode(w, w->ino[i]);
}

/* --- changing ---------------------------------------------------------------------------------- */

enum call {
	CALL_WRITE, CALL_READ, CALL_RESIZE, CALL_UNLINK, CALL_RMDIR, CALL_CREATE, CALL_MKDIR, CALL_LINK, CALL_SYMLINK, CALL_RENAME,
	CALL_EXCHANGE, CALL_SETXATTR, CALL_REMOVEXATTR, CALL_ALLOCATE, CALL_PUNCH, CALL_ZERO, CALL_SYNC, CALL_CHECKPOINT,
	CALL_SERVICE, CALL_FORGET, CALL_LOOK, NCALLS
};

struct call_args {
	uint64_t ino, other;
	const struct name *name, *to;
	char text[8];		/* a new name */
	uint64_t off, len;
};

static void call_args(struct walk *w, const struct edit *e, struct call_args *a)
{
	static const struct name none = {.dir = INO_ROOT, .len = 4, .text = "none"};
	uint64_t v = edit_value(e);

	a->ino = w->ninos ? w->ino[get16(e->index) % w->ninos] : INO_ROOT;
	a->other = w->ninos ? w->ino[e->aux % w->ninos] : INO_ROOT;
	a->name = w->nnames ? &w->name[get16(e->index) % w->nnames] : &none;
	a->to = w->nnames ? &w->name[e->aux % w->nnames] : &none;
	snprintf(a->text, sizeof(a->text), "n%u", e->aux);
	/* Mostly where there is something, sometimes where nothing can be. */
	a->off = e->len & 0x80 ? v : v & 0x3ffff;
	a->len = (uint64_t)get16(e->offset) + 1;
	if (e->len & 0x40)
		a->len <<= 5;
}

static void call_names(struct walk *w, enum call call, const struct call_args *a)
{
	const struct fs_cred cred = {.uid = 1, .gid = 1};
	struct fs_attr attr = {0};
	int err = -ENOENT;

	switch (call) {
	case CALL_UNLINK:
		(void)fs_unlink(w->fs, w->q, a->name->dir, a->name->text, a->name->len);
		break;
	case CALL_RMDIR:
		(void)fs_rmdir(w->fs, w->q, a->name->dir, a->name->text, a->name->len);
		break;
	case CALL_CREATE:
		err = fs_create(w->fs, w->q, &cred, a->ino, a->text, strlen(a->text), S_IFREG | 0644, 0, &attr);
		break;
	case CALL_MKDIR:
		err = fs_create(w->fs, w->q, &cred, a->ino, a->text, strlen(a->text), S_IFDIR | 0755, 0, &attr);
		break;
	case CALL_SYMLINK:
		err = fs_symlink(w->fs, w->q, &cred, a->ino, a->text, strlen(a->text), "target", &attr);
		break;
	case CALL_LINK:
		err = fs_link(w->fs, w->q, a->ino, a->to->dir, a->text, strlen(a->text), &attr);
		break;
	case CALL_RENAME:
		(void)fs_rename(w->fs, w->q, NULL, a->name->dir, a->name->text, a->name->len, a->other, a->text, strlen(a->text), 0);
		break;
	case CALL_EXCHANGE:
		(void)fs_rename(w->fs, w->q, NULL, a->name->dir, a->name->text, a->name->len, a->to->dir, a->to->text, a->to->len,
				RENAME_EXCHANGE);
		break;
	default:
		break;
	}
	if (!err)
		fs_forget(w->fs, w->q, attr.ino, 1);
}

static void call_contents(struct walk *w, enum call call, const struct call_args *a)
{
	struct fs_attr attr = {.size = a->off};
	size_t len = a->len < READ_MAX ? a->len : READ_MAX;

	switch (call) {
	case CALL_WRITE:
		(void)fs_pwrite(w->fs, w->q, a->ino, w->buf, len, a->off);
		break;
	case CALL_READ:
		(void)fs_pread(w->fs, w->q, a->ino, w->buf, len, a->off);
		break;
	case CALL_RESIZE:
		(void)fs_setattr(w->fs, w->q, a->ino, FS_SET_SIZE | FS_SET_MODE, &attr, &attr);
		break;
	case CALL_SETXATTR:
		(void)fs_setxattr(w->fs, w->q, a->ino, "user.fuzz", w->buf, len % 6000, 0);
		break;
	case CALL_REMOVEXATTR:
		(void)fs_removexattr(w->fs, w->q, a->ino, a->off & 1 ? "user.fuzz" : "user.big");
		break;
	case CALL_ALLOCATE:
		(void)fs_fallocate(w->fs, w->q, a->ino, FALLOC_FL_KEEP_SIZE, a->off, a->len);
		break;
	case CALL_PUNCH:
		(void)fs_fallocate(w->fs, w->q, a->ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a->off, a->len);
		break;
	case CALL_ZERO:
		(void)fs_fallocate(w->fs, w->q, a->ino, FALLOC_FL_ZERO_RANGE, a->off, a->len);
		break;
	default:
		break;
	}
}

/* Flags come and go, whatever the image had; what it says of them then holds. */
static void call_flags(struct walk *w, const struct call_args *a)
{
	uint32_t want = (uint32_t)a->off & INODE_USER_FLAGS, flags;

	if (fs_set_flags(w->fs, w->q, a->len & 1 ? 0 : 1, a->ino, INODE_USER_FLAGS, want))
		return;
	assert(w->v->sb.incompat & FEATURE_INCOMPAT_INODE_FLAGS || !want);
	if (!fs_get_flags(w->fs, w->q, a->ino, &flags))
		assert(flags == want);
}

static void call(struct walk *w, const struct edit *e)
{
	enum call call = (enum call)(e->what % NCALLS);
	struct call_args a;

	call_args(w, e, &a);
	switch (call) {
	case CALL_SYNC:
		/* In here, so that what older inputs do stays the same, but for this bit. */
		if (e->len & 0x20)
			call_flags(w, &a);
		else
			(void)fs_sync(w->fs, w->q, 0, false);
		break;
	case CALL_CHECKPOINT:
		(void)volume_checkpoint(w->v, w->q, CHECKPOINT_FORCE);
		break;
	case CALL_SERVICE:
		(void)fs_service(w->fs, w->q);
		break;
	case CALL_FORGET:
		fs_forget(w->fs, w->q, a.ino, 1);
		break;
	case CALL_LOOK:
		look_inode(w, a.ino);
		break;
	default:
		call_names(w, call, &a);
		call_contents(w, call, &a);
	}
	(void)volume_service(w->v, w->q);
}

static void change(struct walk *w, const struct input *in)
{
	bool any = false;

	for (unsigned i = 0; i < in->n; i++) {
		if (in->edit[i].kind != EDIT_CALL)
			continue;
		any = true;
		call(w, &in->edit[i]);
	}
	/* A little of everything, on different inodes. */
	for (unsigned i = 0; !any && i < 2 * NCALLS; i++) {
		struct edit e = {.kind = EDIT_CALL, .what = (uint8_t)i, .index = put16((uint16_t)(i * 7)), .aux = (uint8_t)(i * 3)};

		e.offset = put16((uint16_t)(i * 523));
		e.value[1] = (uint8_t)(i * 5);
		call(w, &e);
	}
}

/* --- a life ------------------------------------------------------------------------------------ */

static void walk_fs(struct walk *w, const struct input *in, bool writing)
{
	struct fs_config cfg = {.clock = walk_clock, .atime = FS_STRICTATIME};
	struct fs_statfs st;

	if (fs_open(w->v, w->q, &cfg, &w->fs))
		return;
	w->ninos = w->nnames = 0;
	look(w);
	(void)fs_statfs(w->fs, &st);
	if (writing)
		change(w, in);
	fs_close(w->fs, w->q);
}

static bool live(struct walk *w, const struct input *in, bool read_only, bool writing)
{
	struct volume_config cfg = {
		.flags = read_only ? VOLUME_READ_ONLY : 0,
		.cache_bytes = in->head.how & 2 ? 64u << 10 : 1u << 20,
	};

	if (volume_open(w->q, &cfg, &fuzz_diag, &w->v))
		return false;
	walk_fs(w, in, writing);
	(void)volume_close(w->v, w->q);
	return true;
}

static void mount_it(struct dev *dev, const struct input *in)
{
	struct fsck_opts opts = {.data = true, .try_replay = true, .diag = &fuzz_diag};
	struct walk w = {.name = malloc(MAX_NAMES * sizeof(struct name)), .buf = calloc(1, READ_MAX + MAX_XATTR)};
	struct fsck_result res;

	if (w.name && w.buf && !dev_queue_create(dev, &w.q)) {
		bool read_only = in->head.how & 1;

		if (live(&w, in, read_only, !read_only))
			live(&w, in, read_only, false);
		(void)fsck_check(w.q, &opts, &res);
		dev_queue_destroy(w.q);
	}
	free(w.name);
	free(w.buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in;
	struct dev *dev;

	input_parse(data, size, &in);
	(void)fuzz_base_get(in.head.base);
	fuzz_begin();
	dev = image_make(&in);
	if (dev) {
		mount_it(dev, &in);
		dev_close(dev);
	}
	fuzz_end();
	return 0;
}
