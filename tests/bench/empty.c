/* SPDX-License-Identifier: Apache-2.0 */
/* empty.c - inodes, names and attributes; see the header. */
#include "tests/bench/empty.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOT 1u
#define FIRST_SEQ 3u /* cookies of "." and ".." come before */
#define MIN_BUCKETS 16u
#define STATFS_BLOCKS (1u << 28)

struct entry {
	struct entry *next; /* in its bucket */
	uint64_t ino, seq;
	uint32_t hash;
	uint8_t ftype, len;
	char name[];
};

/* In the order in which they were made; the place of one that is gone stays, until half of them are gone. */
struct place {
	uint64_t seq; /* the cookie that leads behind it */
	struct entry *entry;
};

struct dir {
	pthread_mutex_t lock;
	_Atomic uint64_t parent;
	_Atomic uint64_t count;
	struct entry **bucket;
	uint32_t nbuckets; /* a power of two */
	struct place *place;
	uint64_t nplaces, room, next_seq;
};

/* --- inodes --- */

static struct node *node_take(struct fs *fs, uint64_t *ino, uint64_t *generation)
{
	struct node *n;

	pthread_mutex_lock(&fs->lock);
	n = fs->free;
	if (n) {
		fs->free = n->next_free;
		*ino = n->attr.ino;
		*generation = n->attr.generation + 1;
	} else {
		uint64_t part = fs->nnodes / PART;

		if (part < NPARTS && !fs->part[part])
			fs->part[part] = calloc(PART, sizeof(*n));
		if (part < NPARTS && fs->part[part]) {
			*ino = fs->nnodes++;
			*generation = 0;
			n = node_of(fs, *ino);
		}
	}
	pthread_mutex_unlock(&fs->lock);
	return n;
}

static void dir_free(struct dir *d)
{
	free(d->bucket);
	free(d->place);
	free(d);
}

static void node_free(struct fs *fs, struct node *n)
{
	if (S_ISDIR(n->attr.mode))
		dir_free(n->dir);
	else if (S_ISREG(n->attr.mode))
		contents_free(&n->contents);
	else if (S_ISLNK(n->attr.mode))
		free(n->target);
	pthread_rwlock_destroy(&n->lock);
	pthread_mutex_lock(&fs->lock);
	n->next_free = fs->free;
	fs->free = n;
	pthread_mutex_unlock(&fs->lock);
}

static struct dir *dir_new(uint64_t parent)
{
	struct dir *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->bucket = calloc(MIN_BUCKETS, sizeof(*d->bucket));
	if (!d->bucket) {
		free(d);
		return NULL;
	}
	pthread_mutex_init(&d->lock, NULL);
	d->parent = parent;
	d->nbuckets = MIN_BUCKETS;
	d->next_seq = FIRST_SEQ;
	return d;
}

/* With one reference and no name. */
static struct node *node_new(struct fs *fs, const struct fs_cred *cred, struct node *parent, uint32_t mode,
			     uint64_t rdev)
{
	uint64_t ino, generation;
	struct node *n = node_take(fs, &ino, &generation);
	bool is_dir = S_ISDIR(mode);
	struct timespec now;

	if (!n)
		return NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	*n = (struct node){
		.refs = 1,
		.attr = {.ino = ino,
			 .generation = generation,
			 .rdev = rdev,
			 .mode = mode & ~cred->umask,
			 .nlink = is_dir ? 2 : 1,
			 .uid = cred->uid,
			 .gid = cred->gid,
			 .atime = now,
			 .mtime = now,
			 .ctime = now,
			 .btime = now},
	};
	pthread_rwlock_init(&n->lock, NULL);
	if (parent && parent->attr.mode & S_ISGID) {
		n->attr.gid = parent->attr.gid;
		n->attr.mode |= is_dir ? S_ISGID : 0;
	}
	if (is_dir) {
		n->dir = dir_new(parent ? parent->attr.ino : ino);
		if (!n->dir) {
			n->attr.mode = 0;
			node_free(fs, n);
			return NULL;
		}
	}
	fs->known++;
	return n;
}

void node_touch(struct node *n, bool contents)
{
	clock_gettime(CLOCK_REALTIME, &n->attr.ctime);
	if (contents)
		n->attr.mtime = n->attr.ctime;
}

/* It gets or loses links and references; goes with the last of both. */
static void node_count(struct fs *fs, struct node *n, int links, int64_t refs, struct fs_attr *out)
{
	bool dead, had;

	pthread_rwlock_wrlock(&n->lock);
	had = n->refs;
	n->attr.nlink += (uint32_t)links;
	n->refs += (uint64_t)refs;
	if (links)
		node_touch(n, false);
	if (out)
		*out = n->attr;
	dead = !n->attr.nlink && !n->refs;
	fs->known += (n->refs != 0) - had;
	pthread_rwlock_unlock(&n->lock);
	if (dead)
		node_free(fs, n);
}

/* A directory's entries have changed; `links`: so many more of them are directories. */
static void dir_changed(struct node *n, int links)
{
	pthread_rwlock_wrlock(&n->lock);
	n->attr.nlink += (uint32_t)links;
	node_touch(n, true);
	pthread_rwlock_unlock(&n->lock);
}

/* --- a directory's table, its lock held --- */

static uint32_t hash_of(const char *name, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)name[i]) * 16777619u;
	return h;
}

/* What points to the entry, or to NULL. */
static struct entry **dir_find(struct dir *d, const char *name, size_t len)
{
	uint32_t h = hash_of(name, len);
	struct entry **at = &d->bucket[h & (d->nbuckets - 1)];

	while (*at && ((*at)->hash != h || (*at)->len != len || memcmp((*at)->name, name, len) != 0))
		at = &(*at)->next;
	return at;
}

static int dir_grow(struct dir *d)
{
	if (d->nplaces == d->room) {
		uint64_t room = d->room ? d->room * 2 : MIN_BUCKETS;
		struct place *p = realloc(d->place, room * sizeof(*p));

		if (!p)
			return -ENOSPC;
		d->place = p;
		d->room = room;
	}
	if (d->count < d->nbuckets)
		return 0;

	struct entry **b = calloc(d->nbuckets * 4ul, sizeof(*b));

	if (!b)
		return -ENOSPC;
	for (uint32_t i = 0; i < d->nbuckets; i++) {
		for (struct entry *e = d->bucket[i], *next; e; e = next) {
			struct entry **at = &b[e->hash & (d->nbuckets * 4 - 1)];

			next = e->next;
			e->next = *at;
			*at = e;
		}
	}
	free(d->bucket);
	d->bucket = b;
	d->nbuckets *= 4;
	return 0;
}

static int dir_insert(struct dir *d, const char *name, size_t len, const struct node *n)
{
	int err = dir_grow(d);
	struct entry *e = err ? NULL : malloc(sizeof(*e) + len);

	if (!e)
		return -ENOSPC;
	*e = (struct entry){.ino = n->attr.ino,
			    .seq = d->next_seq++,
			    .hash = hash_of(name, len),
			    .len = (uint8_t)len,
			    .ftype = (uint8_t)IFTODT(n->attr.mode)};
	memcpy(e->name, name, len);

	struct entry **at = &d->bucket[e->hash & (d->nbuckets - 1)];

	e->next = *at;
	*at = e;
	d->place[d->nplaces++] = (struct place){e->seq, e};
	d->count++;
	return 0;
}

/* The first place behind a cookie. */
static uint64_t dir_seek(const struct dir *d, uint64_t cookie)
{
	uint64_t low = 0, high = d->nplaces;

	while (low < high) {
		uint64_t mid = (low + high) / 2;

		if (d->place[mid].seq <= cookie)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void dir_remove(struct dir *d, struct entry **at)
{
	struct entry *e = *at;

	*at = e->next;
	d->place[dir_seek(d, e->seq - 1)].entry = NULL;
	free(e);
	d->count--;
	if (d->nplaces < MIN_BUCKETS || d->count > d->nplaces / 2)
		return;

	uint64_t n = 0;

	for (uint64_t i = 0; i < d->nplaces; i++)
		if (d->place[i].entry)
			d->place[n++] = d->place[i];
	d->nplaces = n;
}

/* --- fs.h: life --- */

int fs_open(struct volume *v, struct dev_queue *q, const struct fs_config *cfg, struct fs **out)
{
	static const struct fs_cred root;
	struct fs *fs = calloc(1, sizeof(*fs));
	struct node *n;

	(void)q;
	(void)cfg;
	if (!fs)
		return -ENOMEM;
	fs->volume = v;
	fs->nnodes = ROOT;
	pthread_mutex_init(&fs->lock, NULL);
	n = node_new(fs, &root, NULL, S_IFDIR | 0755, 0);
	if (!n) {
		free(fs);
		return -ENOMEM;
	}
	*out = fs;
	return 0;
}

/* The daemon ends with it, and so does all memory. */
void fs_close(struct fs *fs, struct dev_queue *q)
{
	(void)fs;
	(void)q;
}

struct volume *fs_volume(struct fs *fs)
{
	return fs->volume;
}

void fs_get_stats(struct fs *fs, struct fs_stats *out)
{
	*out = (struct fs_stats){.known_inodes = fs->known};
}

int fs_statfs(struct fs *fs, struct fs_statfs *out)
{
	(void)fs;
	*out = (struct fs_statfs){.blocks = STATFS_BLOCKS,
				  .bfree = STATFS_BLOCKS / 2,
				  .bavail = STATFS_BLOCKS / 2,
				  .files = STATFS_BLOCKS,
				  .ffree = STATFS_BLOCKS / 2};
	return 0;
}

/* --- fs.h: names --- */

int fs_lookup(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len,
	      struct fs_attr *out)
{
	struct dir *d = node_of(fs, parent)->dir;
	int err = 0;

	(void)q;
	if (len && len <= 2 && memcmp(name, "..", len) == 0) {
		node_count(fs, node_of(fs, len == 1 ? parent : d->parent), 0, 1, out);
		return 0;
	}
	pthread_mutex_lock(&d->lock);
	struct entry *e = *dir_find(d, name, len);
	if (e)
		node_count(fs, node_of(fs, e->ino), 0, 1, out);
	else
		err = -ENOENT;
	pthread_mutex_unlock(&d->lock);
	return err;
}

void fs_forget(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t n)
{
	(void)q;
	if (ino != ROOT)
		node_count(fs, node_of(fs, ino), 0, -(int64_t)n, NULL);
}

/* The new node gets its name, or goes. */
static int add(struct fs *fs, struct node *parent, const char *name, size_t len, struct node *n,
	       struct fs_attr *out)
{
	struct dir *d = parent->dir;
	int err;

	*out = n->attr;
	pthread_mutex_lock(&d->lock);
	err = *dir_find(d, name, len) ? -EEXIST : dir_insert(d, name, len, n);
	pthread_mutex_unlock(&d->lock);
	if (err) {
		fs->known--;
		node_free(fs, n);
		return err;
	}
	dir_changed(parent, S_ISDIR(out->mode) ? 1 : 0);
	return 0;
}

int fs_create(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent,
	      const char *name, size_t len, uint32_t mode, uint64_t rdev, struct fs_attr *out)
{
	struct node *p = node_of(fs, parent), *n = node_new(fs, cred, p, mode, rdev);

	(void)q;
	return n ? add(fs, p, name, len, n, out) : -ENOSPC;
}

int fs_symlink(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent,
	       const char *name, size_t len, const char *target, struct fs_attr *out)
{
	struct node *p = node_of(fs, parent), *n = node_new(fs, cred, p, S_IFLNK | 0777, 0);

	(void)q;
	if (!n)
		return -ENOSPC;
	n->attr.mode = S_IFLNK | 0777;
	n->attr.size = strlen(target);
	n->target = strdup(target);
	return add(fs, p, name, len, n, out);
}

int fs_readlink(struct fs *fs, struct dev_queue *q, uint64_t ino, char *buf)
{
	const struct node *n = node_of(fs, ino);

	(void)q;
	memcpy(buf, n->target, n->attr.size + 1);
	return 0;
}

int fs_tmpfile(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent, uint32_t mode,
	       struct fs_attr *out)
{
	struct node *n = node_new(fs, cred, node_of(fs, parent), mode, 0);

	(void)q;
	if (!n)
		return -ENOSPC;
	n->attr.nlink = 0;
	*out = n->attr;
	return 0;
}

int fs_link(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t parent, const char *name, size_t len,
	    struct fs_attr *out)
{
	struct node *p = node_of(fs, parent), *n = node_of(fs, ino);
	int err;

	(void)q;
	pthread_mutex_lock(&p->dir->lock);
	err = *dir_find(p->dir, name, len) ? -EEXIST : dir_insert(p->dir, name, len, n);
	if (!err)
		node_count(fs, n, 1, 1, out);
	pthread_mutex_unlock(&p->dir->lock);
	if (!err)
		dir_changed(p, 0);
	return err;
}

int fs_unlink(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len)
{
	struct node *p = node_of(fs, parent), *n = NULL;

	(void)q;
	pthread_mutex_lock(&p->dir->lock);
	struct entry **at = dir_find(p->dir, name, len);
	if (*at) {
		n = node_of(fs, (*at)->ino);
		dir_remove(p->dir, at);
	}
	pthread_mutex_unlock(&p->dir->lock);
	if (!n)
		return -ENOENT;
	node_count(fs, n, -1, 0, NULL);
	dir_changed(p, 0);
	return 0;
}

/* The kernel holds the directory that goes, so nobody puts anything into it. */
int fs_rmdir(struct fs *fs, struct dev_queue *q, uint64_t parent, const char *name, size_t len)
{
	struct node *p = node_of(fs, parent), *n = NULL;
	int err = 0;

	(void)q;
	pthread_mutex_lock(&p->dir->lock);
	struct entry **at = dir_find(p->dir, name, len);
	if (!*at) {
		err = -ENOENT;
	} else {
		n = node_of(fs, (*at)->ino);
		err = n->dir->count ? -ENOTEMPTY : 0;
		if (!err)
			dir_remove(p->dir, at);
	}
	pthread_mutex_unlock(&p->dir->lock);
	if (err)
		return err;
	node_count(fs, n, -2, 0, NULL);
	dir_changed(p, -1);
	return 0;
}

static void entry_point(struct entry *e, const struct node *n)
{
	e->ino = n->attr.ino;
	e->ftype = (uint8_t)IFTODT(n->attr.mode);
}

/* Names of both directories are held. */
static int move(struct fs *fs, struct node *from, const char *name, size_t len, struct node *to,
		const char *newname, size_t newlen, unsigned flags)
{
	struct entry *old = *dir_find(from->dir, name, len), *new = *dir_find(to->dir, newname, newlen);
	struct node *moved = old ? node_of(fs, old->ino) : NULL,
		    *replaced = new ? node_of(fs, new->ino) : NULL;

	if (!old || (flags & RENAME_EXCHANGE && !new))
		return -ENOENT;
	if (flags & RENAME_NOREPLACE && new)
		return -EEXIST;
	if (moved == replaced)
		return 0;

	bool is_dir = S_ISDIR(moved->attr.mode), other_is_dir = replaced && S_ISDIR(replaced->attr.mode);

	if (other_is_dir && !(flags & RENAME_EXCHANGE) && replaced->dir->count)
		return -ENOTEMPTY;
	if (is_dir)
		moved->dir->parent = to->attr.ino;
	if (flags & RENAME_EXCHANGE) {
		if (other_is_dir)
			replaced->dir->parent = from->attr.ino;
		entry_point(old, replaced);
		entry_point(new, moved);
		dir_changed(from, other_is_dir - is_dir);
		dir_changed(to, is_dir - other_is_dir);
		return 0;
	}
	if (new) {
		entry_point(new, moved);
		node_count(fs, replaced, other_is_dir ? -2 : -1, 0, NULL);
	} else {
		int err = dir_insert(to->dir, newname, newlen, moved);

		if (err)
			return err;
	}
	dir_remove(from->dir, dir_find(from->dir, name, len));
	node_count(fs, moved, 0, 0, NULL);
	dir_changed(from, -is_dir);
	dir_changed(to, is_dir - other_is_dir);
	return 0;
}

int fs_rename(struct fs *fs, struct dev_queue *q, const struct fs_cred *cred, uint64_t parent,
	      const char *name, size_t len, uint64_t newparent, const char *newname, size_t newlen,
	      unsigned flags)
{
	struct node *from = node_of(fs, parent), *to = node_of(fs, newparent);
	struct dir *first = parent < newparent ? from->dir : to->dir,
		   *second = parent < newparent ? to->dir : from->dir;
	int err;

	(void)q;
	(void)cred;
	if (flags & ~(unsigned)(RENAME_EXCHANGE | RENAME_NOREPLACE))
		return -EINVAL;
	pthread_mutex_lock(&first->lock);
	if (second != first)
		pthread_mutex_lock(&second->lock);
	err = move(fs, from, name, len, to, newname, newlen, flags);
	if (second != first)
		pthread_mutex_unlock(&second->lock);
	pthread_mutex_unlock(&first->lock);
	return err;
}

static int fill_dots(struct node *n, uint64_t cookie, fs_fill_fn *fill, void *arg)
{
	for (uint64_t i = cookie; i < FIRST_SEQ - 1; i++) {
		struct fs_dirent e = {.name = "..",
				      .len = i + 1,
				      .ino = i ? n->dir->parent : n->attr.ino,
				      .ftype = DT_DIR,
				      .cookie = i + 1};

		if (fill(arg, &e))
			return 1;
	}
	return 0;
}

int fs_readdir(struct fs *fs, struct dev_queue *q, uint64_t ino, uint64_t cookie, bool plus, fs_fill_fn *fill,
	       void *arg)
{
	struct node *n = node_of(fs, ino);
	struct dir *d = n->dir;

	(void)q;
	if (fill_dots(n, cookie, fill, arg))
		return 0;
	pthread_mutex_lock(&d->lock);
	for (uint64_t i = dir_seek(d, cookie); i < d->nplaces; i++) {
		const struct entry *e = d->place[i].entry;
		struct fs_attr attr;

		if (!e)
			continue;

		struct fs_dirent out = {.name = e->name,
					.len = e->len,
					.ino = e->ino,
					.ftype = e->ftype,
					.cookie = e->seq,
					.attr = plus ? &attr : NULL};

		if (plus)
			node_count(fs, node_of(fs, e->ino), 0, 1, &attr);
		if (fill(arg, &out)) {
			if (plus)
				node_count(fs, node_of(fs, e->ino), 0, -1, NULL);
			break;
		}
	}
	pthread_mutex_unlock(&d->lock);
	return 0;
}

/* --- fs.h: attributes --- */

int fs_getattr(struct fs *fs, struct dev_queue *q, uint64_t ino, struct fs_attr *out)
{
	struct node *n = node_of(fs, ino);

	(void)q;
	pthread_rwlock_rdlock(&n->lock);
	*out = n->attr;
	pthread_rwlock_unlock(&n->lock);
	return 0;
}

static void set_times(struct node *n, unsigned set, const struct fs_attr *in)
{
	node_touch(n, set & (FS_SET_SIZE | FS_SET_MTIME_NOW));
	if (set & FS_SET_ATIME_NOW)
		n->attr.atime = n->attr.ctime;
	if (set & FS_SET_ATIME)
		n->attr.atime = in->atime;
	if (set & FS_SET_MTIME)
		n->attr.mtime = in->mtime;
	if (set & FS_SET_CTIME)
		n->attr.ctime = in->ctime;
}

int fs_setattr(struct fs *fs, struct dev_queue *q, uint64_t ino, unsigned set, const struct fs_attr *in,
	       struct fs_attr *out)
{
	struct node *n = node_of(fs, ino);
	int err = 0;

	(void)q;
	pthread_rwlock_wrlock(&n->lock);
	if (set & FS_SET_SIZE)
		err = contents_truncate(n, in->size);
	if (!err) {
		if (set & FS_SET_MODE)
			n->attr.mode = (n->attr.mode & S_IFMT) | (in->mode & 07777);
		if (set & FS_SET_UID)
			n->attr.uid = in->uid;
		if (set & FS_SET_GID)
			n->attr.gid = in->gid;
		set_times(n, set, in);
	}
	*out = n->attr;
	pthread_rwlock_unlock(&n->lock);
	return err;
}
