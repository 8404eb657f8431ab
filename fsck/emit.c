/* SPDX-License-Identifier: Apache-2.0 */
/*
 * emit.c - the edited items on their way into the loader, and between them those that the source does not have.
 *
 * New entries find their collision index here, where what is in front of them is known.
 */
#include "fsck/rebuild_impl.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* --- new items --------------------------------------------------------------------------------- */

static int insert(struct rebuilder *r, struct key key, const void *val, unsigned len)
{
	struct fix_insert *in = list_add(&r->inserts, sizeof(*in));

	if (!in)
		return -ENOMEM;
	in->key = key;
	in->len = len;
	in->val = malloc(len);
	if (!in->val)
		return -ENOMEM;
	memcpy(in->val, val, len);
	return 0;
}

int insert_inode(struct rebuilder *r, const struct fix_inode *rec)
{
	struct disk_time now = {.sec = put64((uint64_t)r->now)};
	uint32_t perm = rec->ino == INO_ROOT ? 0755 : rec->ftype == DT_LNK ? 0777 : rec->ftype == DT_DIR ? 0700 : 0600;
	struct disk_inode di = {
		.size = put64(rec->size),
		.nblocks = put64(rec->nblocks),
		.mode = put32(DTTOIF(rec->ftype) | perm),
		.nlink = put32(rec->nlink),
		.flags = put64(rec->flags & FIX_INLINE ? INODE_INLINE : 0),
		.parent = put64(rec->ftype == DT_DIR ? rec->parent : 0),
		.generation = put64(r->generation - 1),
		.atime = now,
		.mtime = now,
		.ctime = now,
		.btime = now,
	};

	return insert(r, key_make(rec->ino, ITEM_INODE, 0), &di, sizeof(di));
}

int insert_entry(struct rebuilder *r, uint64_t dir, const char *name, uint64_t ino, uint8_t ftype)
{
	struct disk_dirent de = {.ino = put64(ino), .ftype = ftype, .name_len = (uint8_t)strlen(name)};
	uint8_t val[sizeof(de) + MAX_NAME];

	memcpy(val, &de, sizeof(de));
	memcpy(val + sizeof(de), name, de.name_len);
	return insert(r, key_make(dir, ITEM_DIRENT, name_hash(r, name)), val, (unsigned)sizeof(de) + de.name_len);
}

static int insert_cmp(const void *a, const void *b)
{
	const struct fix_insert *x = a, *y = b;

	return key_cmp(&x->key, &y->key);
}

void inserts_sort(struct rebuilder *r)
{
	if (r->inserts.n)
		qsort(r->inserts.item, r->inserts.n, sizeof(struct fix_insert), insert_cmp);
}

/* --- in order ---------------------------------------------------------------------------------- */

static int put(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	/* Only a source that tells another story than before gets here with anything else. */
	if (r->out->nitems && key_cmp(key, &r->last) <= 0)
		return -EUCLEAN;
	r->last = *key;
	r->out->nitems++;
	return r->bulk ? bulk_add(r->bulk, key, val, len) : 0;
}

/* Where a new entry goes: behind whatever of its hash has been emitted. */
static struct key insert_key(const struct rebuilder *r, const struct fix_insert *in)
{
	struct key key = in->key;

	if (r->out->nitems && key.object == r->last.object && key.type == r->last.type && key.offset <= r->last.offset)
		key.offset = r->last.offset + 1;
	return key;
}

static int put_insert(struct rebuilder *r, const struct fix_insert *in, const struct key *key)
{
	const struct disk_dirent *de = in->val;
	int err = 0;

	if (key->type == ITEM_DIRENT && key->offset / HASH_COLLISIONS != in->key.offset / HASH_COLLISIONS) {
		diag(r->opts->diag, DIAG_ERR, "%s: directory %llu has no room for one more name of this hash", r->q->dev->path,
		     (unsigned long long)key->object);
		return -ENOSPC;
	}
	if (key->type == ITEM_DIRENT && r->want_names)
		err = notes_name(r, key->object, de->name, de->name_len, get64(de->ino));
	return err ? err : put(r, key, in->val, in->len);
}

/* The new items that belong in front of `key`; NULL: all that are left. */
static int put_inserts(struct rebuilder *r, const struct key *key)
{
	const struct fix_insert *in = r->inserts.item;
	int err = 0;

	while (!err && r->next_insert < r->inserts.n) {
		struct key at = insert_key(r, &in[r->next_insert]);

		if (key && key_cmp(&at, key) >= 0)
			break;
		err = put_insert(r, &in[r->next_insert++], &at);
	}
	return err;
}

int emit(struct rebuilder *r, const struct key *key, const void *val, unsigned len)
{
	if (r->pass != PASS_WRITE)
		return 0;
	int err = put_inserts(r, key);

	return err ? err : put(r, key, val, len);
}

int emit_rest(struct rebuilder *r)
{
	return r->pass == PASS_WRITE ? put_inserts(r, NULL) : 0;
}

/* --- edited items ------------------------------------------------------------------------------ */

int emit_inode(struct rebuilder *r, const struct fix_inode *rec, const struct disk_inode *di)
{
	struct key key = key_make(rec->ino, ITEM_INODE, 0);
	struct disk_inode out = *di;
	bool is_content = rec->ftype == DT_REG || rec->ftype == DT_LNK || (rec->ftype == DT_DIR && !(rec->flags & FIX_CLEANUP));

	out.nlink = put32(rec->nlink);
	out.nblocks = put64(rec->nblocks);
	if (is_content)
		out.size = put64(rec->size);
	if (rec->ftype == DT_DIR)
		out.parent = put64(rec->parent);
	if (rec->ftype == DT_REG || rec->ftype == DT_LNK)
		out.flags = put64((get64(di->flags) & INODE_USER_FLAGS) | (rec->flags & FIX_INLINE ? INODE_INLINE : 0));
	r->flagged |= get64(out.flags) & INODE_USER_FLAGS;
	return emit(r, &key, &out, sizeof(out));
}

static const char *why_dropped(struct rebuilder *r, const struct fix_entry *e)
{
	const struct fix_inode *rec = rec_find(r, e->ino);

	if (e->dir_flags & ENT_SAME)
		return "was there twice; the second one";
	if (e->dir_flags & ENT_LOOP)
		return "made a directory its own ancestor";
	if (!rec || rec->flags & FIX_GONE)
		return "named an inode that does not exist";
	if (rec->ino == INO_ROOT)
		return "named the root directory";
	return rec->ftype == DT_DIR ? "was one more name of a directory" : "was more than the names that a file can have";
}

int emit_entry(struct rebuilder *r, const struct fix_entry *e, const struct key *key, const void *val, unsigned len)
{
	const struct fix_inode *rec;
	struct disk_dirent de;
	uint8_t out[sizeof(de) + MAX_NAME];

	memcpy(&de, val, sizeof(de));
	if (get64(de.ino) != e->ino)
		return -EUCLEAN;
	const uint8_t *name = (const uint8_t *)val + sizeof(de);
	if (e->dir_flags & ENT_DROP)
		return note_entry(r, e->dir_flags & ENT_LOOP ? REBUILD_KEPT : REBUILD_LOST, key->object, name, de.name_len,
				  "entry of inode %llu: %s; it was removed", (unsigned long long)e->ino, why_dropped(r, e));
	int err = r->want_names ? notes_name(r, key->object, name, de.name_len, e->ino) : 0;
	if (err)
		return err;
	rec = rec_find(r, e->ino);
	de.ftype = rec->ftype;
	memcpy(out, &de, sizeof(de));
	memcpy(out + sizeof(de), name, de.name_len);
	return emit(r, key, out, len);
}
