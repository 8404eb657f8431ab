/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rules.c - an item by itself, and among those of its inode.
 *
 * Every pass runs the same code over the same items, so what the first one has counted is what the last one keeps.  What depends on
 * items that come later (is an attribute complete? has the file extents?) the first pass writes down.
 *
 * An inode whose item is lost is made again if it has contents: their kind says what it was.
 */
#include "fsck/rebuild_impl.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"

/* An attribute whose value goes on in chunks. */
struct attr_head {
	uint64_t offset;
	uint32_t value_len;
	unsigned next;		/* chunk expected next */
	uint8_t name_len;
	uint8_t name[MAX_NAME];
};

struct fix_inode *rec_find(struct rebuilder *r, uint64_t ino)
{
	uint64_t lo = 0, hi = r->recs.n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (rec_at(r, mid)->ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->recs.n && rec_at(r, lo)->ino == ino ? rec_at(r, lo) : NULL;
}

/* --- attributes -------------------------------------------------------------------------------- */

static unsigned chunk_count(uint32_t value_len)
{
	return value_len <= XATTR_HEAD_MAX ? 0 : (value_len - XATTR_HEAD_MAX + XATTR_CHUNK - 1) / XATTR_CHUNK;
}

static unsigned chunk_len(uint32_t value_len, unsigned chunk)
{
	uint32_t left = value_len - XATTR_HEAD_MAX - chunk * XATTR_CHUNK;

	return left < XATTR_CHUNK ? left : XATTR_CHUNK;
}

/* No more chunks of it will come. */
static int head_finish(struct rebuilder *r, const struct attr_head *h)
{
	struct object *o = r->o;

	if (r->pass != PASS_COLLECT || h->next == chunk_count(h->value_len))
		return 0;
	struct fix_attr *a = list_add(&r->attrs, sizeof(*a));

	if (!a)
		return -ENOMEM;
	*a = (struct fix_attr){o->ino, h->offset};
	return note(r, REBUILD_LOST, o->ino, "the extended attribute \"%.*s\" is incomplete and was dropped", (int)h->name_len,
		    (const char *)h->name);
}

static int heads_finish(struct rebuilder *r, uint64_t below)
{
	struct object *o = r->o;
	const struct attr_head *h = o->heads.item;
	int err = 0;

	for (; !err && o->next_head < o->heads.n && h[o->next_head].offset < below; o->next_head++)
		err = head_finish(r, &h[o->next_head]);
	return err;
}

static bool attr_is_bad(struct rebuilder *r, uint64_t offset)
{
	const struct fix_attr *a = r->attrs.item;

	if (r->pass == PASS_COLLECT)
		return false;
	while (r->next_attr < r->attrs.n && (a[r->next_attr].ino < r->o->ino ||
					     (a[r->next_attr].ino == r->o->ino && a[r->next_attr].offset < offset)))
		r->next_attr++;
	return r->next_attr < r->attrs.n && a[r->next_attr].ino == r->o->ino && a[r->next_attr].offset == offset;
}

static int xattr_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	const uint8_t *name = (const uint8_t *)val + sizeof(struct disk_xattr);
	struct object *o = r->o;
	struct disk_xattr xa;

	memcpy(&xa, val, sizeof(xa));
	if (name_seen(&o->names, ITEM_XATTR, key->offset, name, xa.name_len))
		return r->pass == PASS_COLLECT ? note(r, REBUILD_LOST, o->ino, "a second extended attribute \"%.*s\" was dropped",
						      (int)xa.name_len, (const char *)name) :
						 0;
	if (acl_is_bad(val))
		return r->pass == PASS_COLLECT ? note(r, REBUILD_LOST, o->ino, "\"%.*s\" was dropped: it is no access control list",
						      (int)xa.name_len, (const char *)name) :
						 0;
	if (attr_is_bad(r, key->offset))
		return 0;
	if (chunk_count(get32(xa.value_len))) {
		struct attr_head *h = list_add(&o->heads, sizeof(*h));

		if (!h)
			return -ENOMEM;
		h->offset = key->offset;
		h->value_len = get32(xa.value_len);
		h->name_len = xa.name_len;
		memcpy(h->name, name, xa.name_len);
	}
	return emit(r, key, val, len);
}

static int xattr_more_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	struct object *o = r->o;
	uint64_t offset = key->offset >> 7;
	unsigned chunk = key->offset & 127;
	int err = heads_finish(r, offset);
	struct attr_head *h = o->heads.item;

	if (err)
		return err;
	h = o->next_head < o->heads.n && h[o->next_head].offset == offset ? &h[o->next_head] : NULL;
	if (h && chunk == h->next && chunk < chunk_count(h->value_len) && len == chunk_len(h->value_len, chunk)) {
		h->next++;
		return emit(r, key, val, len);
	}
	/* Chunks of an attribute that is dropped are no news. */
	return r->pass == PASS_COLLECT ? note(r, REBUILD_LOST, o->ino, "part %u of an extended attribute that it does not belong to was dropped",
					      chunk) :
					 0;
}

/* --- inline contents --------------------------------------------------------------------------- */

static bool is_symlink(const struct object *o)
{
	return S_ISLNK(get32(o->di.mode));
}

static int inline_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	struct object *o = r->o;
	/* Of a regular file only the first; of what is not known yet, as many as there are. */
	bool fits = key->offset == o->inline_bytes && len && (key->offset == 0 || is_symlink(o) || o->made);

	if (!fits) {
		o->nmisfit++;
		return 0;
	}
	o->inline_bytes += len;
	o->ninline++;
	if (r->pass != PASS_WRITE || !(rec_at(r, o->rec)->flags & FIX_INLINE))
		return 0;
	return emit(r, key, val, len);
}

/* All of the file's items are known. */
static int regular_finish(struct rebuilder *r, struct fix_inode *rec)
{
	struct object *o = r->o;
	uint64_t size = get64(o->di.size);
	bool marked = get64(o->di.flags) & INODE_INLINE;

	if (o->inline_bytes && (marked || (o->nblocks == 0 && size <= INLINE_MAX))) {
		rec->flags |= FIX_INLINE;
		rec->nblocks = 0;
		rec->size = o->inline_bytes;
		/* More than one item: only a symlink has that. */
		if (o->made && o->ninline > 1)
			rec->ftype = DT_LNK;
		return 0;
	}
	if (o->made)
		rec->size = o->end_written << BLOCK_SHIFT;
	if (marked && size && o->nblocks == 0) {
		rec->size = 0;
		return note(r, REBUILD_LOST, o->ino, "all of its %llu bytes are lost", (unsigned long long)size);
	}
	if (o->inline_bytes)
		return note(r, REBUILD_LOST, o->ino, "%llu bytes of inline contents beside its blocks were dropped",
			    (unsigned long long)o->inline_bytes);
	if (get64(o->di.nblocks) <= o->nblocks_seen)
		return 0;
	/* Where nothing of the tree is missing the count is wrong, not the file. */
	return note(r, r->src->nlost ? REBUILD_LOST : REBUILD_KEPT, o->ino,
		    "counted %llu blocks of contents, %llu are there; what is missing reads as zeros",
		    (unsigned long long)get64(o->di.nblocks), (unsigned long long)o->nblocks_seen);
}

/* A target that is cut off would lead elsewhere. */
static int symlink_finish(struct rebuilder *r, struct fix_inode *rec)
{
	struct object *o = r->o;
	uint64_t size = get64(o->di.size), have = o->inline_bytes;

	rec->flags |= FIX_INLINE;
	rec->size = have;
	if (have && (have >= size || have % INLINE_CHUNK))
		return 0;
	rec->flags |= FIX_GONE;
	return note(r, REBUILD_LOST, o->ino, "the symlink was removed: its target is lost");
}

/* --- inodes ------------------------------------------------------------------------------------ */

static int rec_add(struct rebuilder *r, uint64_t ino, uint64_t *index)
{
	struct fix_inode *rec;

	/* The root is always there, and first, so that indexes need not move if it has to be made. */
	if (r->recs.n == 0 && ino != INO_ROOT) {
		uint64_t root;
		int err = rules_make_inode(r, INO_ROOT, DT_DIR, &root);

		if (err)
			return err;
	}
	rec = list_add(&r->recs, sizeof(*rec));
	if (!rec)
		return -ENOMEM;
	rec->ino = ino;
	*index = r->recs.n - 1;
	return 0;
}

int rules_make_inode(struct rebuilder *r, uint64_t ino, uint8_t ftype, uint64_t *index)
{
	int err = rec_add(r, ino, index);

	if (err)
		return err;
	rec_at(r, *index)->ftype = ftype;
	rec_at(r, *index)->flags = FIX_MADE;
	return 0;
}

/* The list of orphans ascends as the inodes do. */
static bool is_listed(struct rebuilder *r, uint64_t ino)
{
	const uint64_t *o = r->orphans.item;

	while (r->next_orphan < r->orphans.n && o[r->next_orphan] < ino)
		r->next_orphan++;
	return r->next_orphan < r->orphans.n && o[r->next_orphan] == ino;
}

static int inode_collect(struct rebuilder *r, const struct disk_inode *di)
{
	struct object *o = r->o;
	uint8_t ftype = IFTODT(get32(di->mode));

	if (o->ino == INO_ROOT && ftype != DT_DIR)
		return note(r, REBUILD_LOST, FSCK_NOWHERE, "inode 1, which was no directory, was dropped: it is the root directory's");
	int err = rec_add(r, o->ino, &o->rec);
	if (err)
		return err;
	struct fix_inode *rec = rec_at(r, o->rec);

	rec->ftype = ftype;
	rec->parent = get64(di->parent);
	rec->nlink = get32(di->nlink);
	rec->flags = o->orphan ? FIX_LISTED : 0;
	rec->size = ftype == DT_REG ? get64(di->size) : 0;
	o->exists = true;
	o->di = *di;
	return 0;
}

static int inode_item(struct rebuilder *r, const void *val)
{
	struct object *o = r->o;
	struct disk_inode di;

	memcpy(&di, val, sizeof(di));
	if (r->pass == PASS_COLLECT)
		return inode_collect(r, &di);
	if (!o->exists || o->made)
		return 0;
	o->di = di;
	return r->pass == PASS_WRITE ? emit_inode(r, rec_at(r, o->rec), &di) : 0;
}

/* --- entries ----------------------------------------------------------------------------------- */

static bool name_begins(const uint8_t *name, unsigned len, const char *with)
{
	return len >= strlen(with) && memcmp(name, with, strlen(with)) == 0;
}

/* Names that could be in the way of those that are made for lost+found. */
static int remember_name(struct rebuilder *r, const struct key *key, const uint8_t *name, unsigned len, uint64_t ino)
{
	struct list *l;

	if (key->object == INO_ROOT && name_begins(name, len, "lost+found"))
		l = &r->root_names;
	else if (key->object == r->lf_ino && name_begins(name, len, "#"))
		l = &r->lf_names;
	else
		return 0;
	if (l == &r->root_names && len == strlen("lost+found") && !r->lf_ino)
		r->lf_ino = ino;
	uint64_t *hash = list_add(l, sizeof(*hash));

	if (!hash)
		return -ENOMEM;
	*hash = key->offset & ~(uint64_t)(HASH_COLLISIONS - 1);
	return 0;
}

static int entry_collect(struct rebuilder *r, const struct key *key, const void *val)
{
	const uint8_t *name = (const uint8_t *)val + sizeof(struct disk_dirent);
	struct fix_entry *e = list_add(&r->entries, sizeof(*e));
	struct disk_dirent de;

	if (!e)
		return -ENOMEM;
	memcpy(&de, val, sizeof(de));
	e->ino = get64(de.ino);
	e->dir_flags = r->o->rec << 8 | (de.ftype & ENT_FTYPE);
	if (name_seen(&r->o->names, ITEM_DIRENT, key->offset, name, de.name_len))
		e->dir_flags |= ENT_SAME | ENT_DROP;
	return remember_name(r, key, name, de.name_len, e->ino);
}

static int entry_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	if (r->pass == PASS_COLLECT)
		return entry_collect(r, key, val);
	if (r->next_entry == r->entries.n)
		return -EUCLEAN;
	const struct fix_entry *e = (const struct fix_entry *)r->entries.item + r->next_entry++;

	return r->pass == PASS_WRITE ? emit_entry(r, e, key, val, len) : 0;
}

/* --- objects ----------------------------------------------------------------------------------- */

static int object_notes(struct rebuilder *r)
{
	const struct object *o = r->o;
	int err = 0;

	if (o->nwrong)
		err = note(r, REBUILD_LOST, o->ino, "%llu items that make no sense were dropped", (unsigned long long)o->nwrong);
	if (!err && o->nmisfit)
		err = note(r, REBUILD_LOST, o->ino, "%llu items that it cannot have were dropped", (unsigned long long)o->nmisfit);
	if (!err && !o->exists && o->nstray)
		err = note(r, REBUILD_LOST, o->ino, "%llu items of this inode, which does not exist, were dropped",
			   (unsigned long long)o->nstray);
	if (!err && o->ncut)
		err = note(r, REBUILD_LOST, o->ino, "%llu blocks of contents that overlap others or lie behind its end were dropped",
			   (unsigned long long)o->ncut);
	return err;
}

static int object_finish(struct rebuilder *r)
{
	struct object *o = r->o;
	int err = heads_finish(r, UINT64_MAX);

	if (!err && r->pass == PASS_COLLECT)
		err = object_notes(r);
	if (err || r->pass != PASS_COLLECT || !o->exists)
		return err;
	struct fix_inode *rec = rec_at(r, o->rec);

	rec->nblocks = o->nblocks;
	if (rec->ftype == DT_REG)
		return regular_finish(r, rec);
	return rec->ftype == DT_LNK ? symlink_finish(r, rec) : 0;
}

/* In the passes after the first: is it part of the result? */
static void object_lookup(struct rebuilder *r)
{
	struct object *o = r->o;

	while (r->next_rec < r->recs.n && rec_at(r, r->next_rec)->ino < o->ino)
		r->next_rec++;
	if (r->next_rec == r->recs.n || rec_at(r, r->next_rec)->ino != o->ino)
		return;
	const struct fix_inode *rec = rec_at(r, r->next_rec);

	o->rec = r->next_rec;
	o->exists = !(rec->flags & FIX_GONE);
	o->made = rec->flags & FIX_MADE;
	o->di.mode = put32(DTTOIF(rec->ftype));
}

static int object_begin(struct rebuilder *r, uint64_t ino)
{
	struct object *o = r->o;
	int err = object_finish(r);
	struct list heads = o->heads;

	if (err)
		return err;
	memset(o, 0, offsetof(struct object, names));
	o->names.type = 0;
	o->heads = (struct list){.item = heads.item, .cap = heads.cap};
	o->ino = ino;
	o->orphan = is_listed(r, ino);
	if (r->pass != PASS_COLLECT)
		object_lookup(r);
	return 0;
}

/* The inode item would have come first, so there is none.  What the item says about the inode that had it. */
static int object_make(struct rebuilder *r, uint8_t type)
{
	struct object *o = r->o;
	uint8_t ftype = type == ITEM_DIRENT || o->ino == INO_ROOT ? DT_DIR : DT_REG;
	int err = rules_make_inode(r, o->ino, ftype, &o->rec);

	if (err)
		return err;
	o->exists = o->made = true;
	o->di.mode = put32(DTTOIF(ftype));
	if (o->orphan)
		rec_at(r, o->rec)->flags |= FIX_LISTED;
	return 0;
}

/* --- the stream -------------------------------------------------------------------------------- */

static int orphan_item(struct rebuilder *r, const struct key *key, const void *val)
{
	if (r->pass == PASS_COLLECT) {
		uint64_t *ino = list_add(&r->orphans, sizeof(*ino));

		if (!ino)
			return -ENOMEM;
		*ino = key->offset;
		return 0;
	}
	if (r->pass != PASS_WRITE)
		return 0;
	const struct fix_inode *rec = rec_find(r, key->offset);

	/* Finishing a truncation does no harm to a file that needs none. */
	bool keep = rec && !(rec->flags & FIX_GONE) && (rec->flags & FIX_CLEANUP || rec->ftype == DT_REG);
	return keep ? emit(r, key, val, 0) : 0;
}

static int content_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	switch (key->type) {
	case ITEM_INLINE:
		return inline_item(r, key, val, len);
	case ITEM_XATTR:
		return xattr_item(r, key, val, len);
	case ITEM_XATTR_MORE:
		return xattr_more_item(r, key, val, len);
	case ITEM_DIRENT:
		return entry_item(r, key, val, len);
	default:
		return extent_item(r, key, val, len);
	}
}

static void digest_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	uint64_t head[4] = {key->object, key->type, key->offset, len};

	r->seen_digest = crc32c(crc32c(r->seen_digest, head, sizeof(head)), val, len);
	r->seen_items++;
}

int rules_item(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	struct object *o = r->o;
	int err = 0;

	digest_item(r, key, val, len);
	if (key->object != INO_VOLUME && key->object != o->ino)
		err = object_begin(r, key->object);
	if (err)
		return err;
	if (key->object >= INO_LIMIT || item_check(r->sb, key, val, len, NULL)) {
		o->nwrong++;
		return 0;
	}
	if (key->type == ITEM_ORPHAN)
		return orphan_item(r, key, val);
	if (key->type == ITEM_INODE)
		return inode_item(r, val);
	bool attr = key->type == ITEM_XATTR || key->type == ITEM_XATTR_MORE;
	if (!o->exists && r->pass == PASS_COLLECT && !attr)
		err = object_make(r, key->type);
	if (err)
		return err;
	if (!o->exists) {
		o->nstray++;
		/* The attributes of one that is made later count. */
		return attr && r->pass == PASS_COLLECT ? content_item(r, key, val, len) : 0;
	}
	if (!item_fits(get32(o->di.mode), key->type)) {
		o->nmisfit++;
		return 0;
	}
	return content_item(r, key, val, len);
}

int rules_end(struct rebuilder *r)
{
	uint64_t root;
	int err = object_finish(r);

	if (!err && r->pass == PASS_COLLECT && r->recs.n == 0)
		err = rules_make_inode(r, INO_ROOT, DT_DIR, &root);
	return err ? err : emit_rest(r);
}
