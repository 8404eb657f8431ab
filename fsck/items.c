/* SPDX-License-Identifier: Apache-2.0 */
/*
 * items.c - takes the items of all leaves in key order, cuts them into inodes, and keeps what the names pass needs.
 *
 * Each item by itself has passed item_check().
 */
#include "core/acl.h"
#include "fsck/items.h"
#include "journal/volume.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

bool name_seen(struct name_set *set, uint8_t type, uint64_t offset, const uint8_t *name, uint8_t len)
{
	uint64_t hash = offset / HASH_COLLISIONS;

	if (set->type != type || set->hash != hash) {
		set->type = type;
		set->hash = hash;
		set->n = 0;
	}
	for (unsigned i = 0; i < set->n; i++)
		if (set->len[i] == len && memcmp(set->name[i], name, len) == 0)
			return true;
	if (set->n < HASH_COLLISIONS) {
		set->len[set->n] = len;
		memcpy(set->name[set->n++], name, len);
	}
	return false;
}

/* --- orphans ----------------------------------------------------------------------------------- */

static int item_orphan(struct check *c, uint64_t ino)
{
	uint64_t *o = list_add(&c->orphans, sizeof(*o));

	if (!o)
		return -ENOMEM;
	*o = ino;
	c->res->norphans++;
	return 0;
}

/* Orphans below `ino` have no inode.  Is `ino` one?  Both come in ascending order. */
static bool orphans_pass(struct check *c, uint64_t ino)
{
	const uint64_t *o = c->orphans.item;

	for (; c->next_orphan < c->orphans.n && o[c->next_orphan] < ino; c->next_orphan++)
		if (!c->lost_nodes)
			found(c, FSCK_ORPHAN_STRAY, AT_INO(o[c->next_orphan]), "inode %llu is listed for removal but does not exist",
			      (unsigned long long)o[c->next_orphan]);
	if (c->next_orphan == c->orphans.n || o[c->next_orphan] != ino)
		return false;
	c->next_orphan++;
	return true;
}

/* --- one inode --------------------------------------------------------------------------------- */

static void count_kind(struct check *c, uint32_t mode)
{
	if (S_ISDIR(mode))
		c->res->ndirs++;
	else if (S_ISREG(mode))
		c->res->nfiles++;
	else
		c->res->nothers++;
}

static int item_inode(struct check *c, struct item_state *s, const void *val)
{
	struct inode_rec *rec = list_add(&c->recs, sizeof(*rec));

	if (!rec)
		return -ENOMEM;
	memcpy(&s->di, val, sizeof(s->di));
	s->exists = true;
	s->rec = c->recs.n - 1;
	s->orphan = orphans_pass(c, s->ino);
	rec->ino = s->ino;
	rec->parent = get64(s->di.parent);
	rec->nlink = get32(s->di.nlink);
	rec->ftype = IFTODT(item_mode(s));
	rec->flags = s->orphan ? REC_ORPHAN : 0;
	count_kind(c, item_mode(s));
	if (get64(s->di.flags) & INODE_USER_FLAGS && !c->nflagged++)
		c->first_flagged = s->ino;
	if (s->ino >= get64(c->root->next_ino))
		found(c, FSCK_ROOT_NEXT_INO, AT_INO(s->ino), "inode %llu exists, but the next number to be given out is %llu",
		      (unsigned long long)s->ino, (unsigned long long)get64(c->root->next_ino));
	return 0;
}

static int item_dirent(struct check *c, struct item_state *s, uint64_t offset, const void *val)
{
	struct entry_rec *e = list_add(&c->entries, sizeof(*e));
	const uint8_t *name = (const uint8_t *)val + sizeof(struct disk_dirent);
	struct disk_dirent de;

	if (!e)
		return -ENOMEM;
	memcpy(&de, val, sizeof(de));
	e->ino = get64(de.ino);
	e->dir_ftype = (s->exists ? s->rec : ENTRY_NO_DIR) << 4 | (de.ftype & 15);
	s->nentries++;
	if (name_seen(&s->names, ITEM_DIRENT, offset, name, de.name_len))
		found(c, FSCK_DIR_DUPLICATE, AT_INO(s->ino), "directory %llu: has the name \"%.*s\" twice",
		      (unsigned long long)s->ino, (int)de.name_len, (const char *)name);
	return 0;
}

static const char *kind_name(uint8_t type)
{
	static const char *const name[] = {
		[ITEM_INODE] = "an inode",	     [ITEM_INLINE] = "inline contents", [ITEM_XATTR] = "an extended attribute",
		[ITEM_XATTR_MORE] = "part of an xattr", [ITEM_DIRENT] = "a directory entry", [ITEM_EXTENT] = "an extent",
	};

	return name[type];
}

bool item_fits(uint32_t mode, uint8_t type)
{
	switch (type) {
	case ITEM_INLINE:
		return S_ISREG(mode) || S_ISLNK(mode);
	case ITEM_DIRENT:
		return S_ISDIR(mode);
	case ITEM_EXTENT:
		return S_ISREG(mode);
	default:
		return true;
	}
}

static void judge_kind(struct check *c, struct item_state *s, uint8_t type)
{
	if (s->exists && !item_fits(item_mode(s), type))
		found(c, FSCK_ITEM_KIND, AT_INO(s->ino), "inode %llu: has %s, which its type (mode %o) cannot have",
		      (unsigned long long)s->ino, kind_name(type), item_mode(s));
	/* The inode item has the lowest key, so it will not come any more. */
	if (!s->exists && !s->partial && !s->stray_said) {
		found(c, FSCK_ITEM_STRAY, AT_INO(s->ino), "inode %llu: does not exist, but there is %s of it",
		      (unsigned long long)s->ino, kind_name(type));
		s->stray_said = true;
	}
}

static void inode_finish(struct check *c, struct item_state *s)
{
	if (s->ino == FSCK_NOWHERE || !s->exists || s->partial)
		return;
	contents_judge(c, s);
	if (S_ISDIR(item_mode(s)) && s->nentries != get64(s->di.size) && get32(s->di.nlink) != 0)
		found(c, FSCK_DIR_SIZE, AT_INO(s->ino), "directory %llu: counts %llu entries, has %llu", (unsigned long long)s->ino,
		      (unsigned long long)get64(s->di.size), (unsigned long long)s->nentries);
}

static void inode_start(struct check *c, struct item_state *s, uint64_t ino)
{
	struct list heads = s->heads;

	inode_finish(c, s);
	memset(s, 0, offsetof(struct item_state, names));
	s->names.type = 0;
	s->heads = (struct list){.item = heads.item, .cap = heads.cap};
	s->ino = ino;
	s->partial = c->gap;
	c->gap = false;
}

/* --- the stream -------------------------------------------------------------------------------- */

static int item_take(struct check *c, const struct key *key, const void *val, unsigned len)
{
	struct item_state *s = c->items;

	if (key->type == ITEM_ORPHAN)
		return item_orphan(c, key->offset);
	s->partial |= c->gap;
	if (key->object != s->ino)
		inode_start(c, s, key->object);
	c->gap = false;
	if (key->type == ITEM_INODE)
		return item_inode(c, s, val);
	judge_kind(c, s, key->type);
	switch (key->type) {
	case ITEM_INLINE:
		return item_inline(c, s, key->offset, len);
	case ITEM_XATTR:
		return item_xattr(c, s, key->offset, val);
	case ITEM_XATTR_MORE:
		return item_xattr_more(c, s, key->offset, len);
	case ITEM_DIRENT:
		return item_dirent(c, s, key->offset, val);
	default:	/* item_check() lets nothing else pass */
		assert(key->type == ITEM_EXTENT);
		return item_extent(c, s, key->offset, val, len);
	}
}

int items_leaf(struct check *c, const struct disk_node *n)
{
	for (unsigned i = 0; i < get16(n->nitems); i++) {
		const struct disk_slot *slot = &n->slot[i];
		struct key key = slot_key(slot);
		int err = item_take(c, &key, (const uint8_t *)n + get16(slot->pos), get16(slot->len));

		if (err)
			return err;
	}
	return 0;
}

int items_begin(struct check *c)
{
	c->items = calloc(1, sizeof(*c->items));
	if (!c->items)
		return -ENOMEM;
	c->items->ino = FSCK_NOWHERE;
	return 0;
}

/* The checksums of their nodes are right, so they are meant, and it is the superblock that has been left behind. */
static int judge_feature(struct check *c)
{
	struct super sb = c->sb;

	if (!c->nflagged || sb.incompat & FEATURE_INCOMPAT_INODE_FLAGS)
		return 0;
	found(c, FSCK_INODE_FLAGS, AT_INO(c->first_flagged), "inode %llu: has flags, as %llu others, and the superblock does not say that any may",
	      (unsigned long long)c->first_flagged, (unsigned long long)c->nflagged - 1);
	if (!c->opts->heal)
		return 0;
	sb.incompat |= FEATURE_INCOMPAT_INODE_FLAGS;
	int err = super_write(c->q, &sb);
	/* A copy that cannot be written stays a finding. */
	if (err)
		return err == -EIO ? 0 : err;
	c->sb = c->res->sb = sb;
	c->res->nhealed++;
	c->res->healed[FSCK_INODE_FLAGS]++;
	return 0;
}

int items_end(struct check *c)
{
	uint64_t n = c->recs.n, want = get64(c->root->ninodes);

	c->items->partial |= c->gap;
	inode_finish(c, c->items);
	orphans_pass(c, UINT64_MAX);
	if (n != want && !c->lost_nodes)
		found(c, FSCK_ROOT_NINODES, AT_NOWHERE, "the root counts %llu inodes, there are %llu", (unsigned long long)want,
		      (unsigned long long)n);
	if (c->res->norphans)
		found(c, FSCK_ORPHAN_PENDING, AT_NOWHERE, "%llu unlinked or truncated files are to be cleaned up by the next mount",
		      (unsigned long long)c->res->norphans);
	return judge_feature(c);
}

void items_free(struct check *c)
{
	if (c->items)
		free(c->items->heads.item);
	free(c->items);
	c->items = NULL;
}

bool acl_is_bad(const void *head)
{
	const uint8_t *name = (const uint8_t *)head + sizeof(struct disk_xattr);
	struct disk_xattr xa;
	char text[MAX_NAME + 1];

	memcpy(&xa, head, sizeof(xa));
	memcpy(text, name, xa.name_len);
	text[xa.name_len] = 0;
	if (strlen(text) != xa.name_len || acl_kind(text) == ACL_IS_NONE)
		return false;
	uint32_t len = get32(xa.value_len);

	if (len <= XATTR_HEAD_MAX)
		return !acl_valid(name + xa.name_len, len);
	return len > ACL_MAX_BYTES || (len - ACL_HEAD_BYTES) % ACL_ENTRY_BYTES;
}
