/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format_node.c - verifiers of tree nodes and of the items in leaves.
 *
 * They look at one node or item by itself.  What ties items to each other (an inode and its
 * extents, an entry and its inode) is fsck's business.
 */
#include "core/format_impl.h"

#include <dirent.h>
#include <inttypes.h>
#include <sys/stat.h>

#define NSEC_PER_SEC 1000000000u

/* First file block that no file has. */
#define FILE_BLOCKS_END (UINT64_C(1) << (63 - BLOCK_SHIFT))

/* --- nodes ------------------------------------------------------------------------------------ */

bool ptr_in_range(const struct super *sb, const struct disk_ptr *ptr)
{
	uint64_t b0 = get64(ptr->blkno[0]), b1 = get64(ptr->blkno[1]);

	return b0 != b1 && b0 < sb->nblocks && b1 < sb->nblocks && !super_is_fixed(sb, b0) &&
	       !super_is_fixed(sb, b1);
}

static int node_check_header(const struct disk_node *n, const struct super *sb, const struct disk_ptr *ptr,
			     uint64_t blkno, unsigned level, const struct diag *d)
{
	int err = header_check(n, MAGIC_NODE, sb, blkno, d);

	if (err)
		return err;
	if (get64(n->h.blkno[0]) != get64(ptr->blkno[0]) || get64(n->h.blkno[1]) != get64(ptr->blkno[1]) ||
	    get64(n->h.generation) != get64(ptr->generation) || get32(n->h.csum) != get32(ptr->csum))
		return corrupt(d, "node at block %" PRIu64 ": not the version its parent names", blkno);
	if (n->level != level)
		return corrupt(d, "node at block %" PRIu64 ": level %u, not %u", blkno, n->level, level);
	if (!bytes_zero(n->pad, sizeof(n->pad)))
		return corrupt(d, "node at block %" PRIu64 ": reserved bytes are not zero", blkno);
	return 0;
}

/* After this every slot lies in the block, and so does every value. */
static int node_check_slots(const struct disk_node *n, uint64_t blkno, const struct diag *d)
{
	unsigned nitems = get16(n->nitems), end = BLOCK_SIZE;

	if (nitems > MAX_NODE_ITEMS || (n->level > 0 && nitems == 0))
		return corrupt(d, "node at block %" PRIu64 ": %u items", blkno, nitems);
	unsigned slots_end = (unsigned)(sizeof(*n) + nitems * sizeof(n->slot[0]));

	for (unsigned i = 0; i < nitems; i++) {
		const struct disk_slot *s = &n->slot[i];
		unsigned pos = get16(s->pos), len = get16(s->len);

		if (pos < slots_end || len > MAX_ITEM || pos + len != end)
			return corrupt(d, "node at block %" PRIu64 ": value of slot %u is misplaced", blkno,
				       i);
		if (s->pad0 != 0 || get16(s->pad1) != 0)
			return corrupt(d, "node at block %" PRIu64 ": reserved bytes of slot %u are not zero",
				       blkno, i);
		end = pos;
	}
	if (get16(n->data_pos) != end)
		return corrupt(d, "node at block %" PRIu64 ": data_pos is %u, not %u", blkno,
			       get16(n->data_pos), end);
	if (!bytes_zero((const uint8_t *)n + slots_end, end - slots_end))
		return corrupt(d, "node at block %" PRIu64 ": unused bytes are not zero", blkno);
	return 0;
}

static int node_check_keys(const struct disk_node *n, uint64_t blkno, const struct key *lo,
			   const struct key *hi, const struct diag *d)
{
	struct key prev = *lo, lowest = key_make(0, 0, 0);

	if (get16(n->nitems) == 0 && (hi || key_cmp(lo, &lowest) != 0))
		return corrupt(d, "node at block %" PRIu64 ": empty, and not the whole tree", blkno);
	for (unsigned i = 0; i < get16(n->nitems); i++) {
		struct key key = slot_key(&n->slot[i]);
		int cmp = key_cmp(&prev, &key);

		if (cmp > 0 || (i > 0 && cmp == 0))
			return corrupt(d, "node at block %" PRIu64 ": key of slot %u is out of order", blkno,
				       i);
		if (hi && key_cmp(&key, hi) >= 0)
			return corrupt(d, "node at block %" PRIu64 ": key of slot %u belongs elsewhere",
				       blkno, i);
		prev = key;
	}
	return 0;
}

int node_check_form(const void *block, const struct super *sb, const struct disk_ptr *ptr, uint64_t blkno,
		    unsigned level, const struct diag *d)
{
	int err = node_check_header(block, sb, ptr, blkno, level, d);

	return err ? err : node_check_slots(block, blkno, d);
}

static int node_check_value(const struct disk_node *n, const struct super *sb, uint64_t blkno, unsigned i,
			    const struct diag *d)
{
	const struct disk_slot *s = &n->slot[i];
	const uint8_t *val = (const uint8_t *)n + get16(s->pos);
	struct key key = slot_key(s);
	struct disk_ptr ptr;

	if (n->level == 0) {
		if (item_check(sb, &key, val, get16(s->len), d) != 0)
			return corrupt(d, "node at block %" PRIu64 ": bad item in slot %u", blkno, i);
		return 0;
	}
	if (get16(s->len) != sizeof(ptr))
		return corrupt(d, "node at block %" PRIu64 ": pointer of slot %u has %u bytes", blkno, i,
			       get16(s->len));
	memcpy(&ptr, val, sizeof(ptr));
	if (!ptr_is_valid(sb, &ptr, get64(n->h.generation)))
		return corrupt(d, "node at block %" PRIu64 ": bad pointer in slot %u", blkno, i);
	return 0;
}

int node_check(const void *block, const struct super *sb, const struct disk_ptr *ptr, uint64_t blkno,
	       unsigned level, const struct key *lo, const struct key *hi, const struct diag *d)
{
	const struct disk_node *n = block;
	int err = node_check_form(block, sb, ptr, blkno, level, d);

	if (!err)
		err = node_check_keys(n, blkno, lo, hi, d);
	for (unsigned i = 0; !err && i < get16(n->nitems); i++)
		err = node_check_value(n, sb, blkno, i, d);
	return err;
}

/* --- items: each returns what is wrong, or NULL ----------------------------------------------- */

static bool time_ok(const struct disk_time *t)
{
	return get32(t->nsec) < NSEC_PER_SEC && get32(t->pad) == 0;
}

static bool mode_ok(uint32_t mode)
{
	if ((mode & ~(uint32_t)(S_IFMT | 07777)) != 0)
		return false;
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) ||
	       S_ISFIFO(mode) || S_ISSOCK(mode);
}

uint32_t inode_user_mask(uint32_t mode)
{
	if (S_ISDIR(mode))
		return INODE_USER_FLAGS;
	return S_ISREG(mode) ? INODE_USER_FLAGS & ~INODE_DIRSYNC : INODE_NODUMP | INODE_NOATIME;
}

/* What the size and the blocks of an inode may be depends on its type. */
static const char *inode_wrong_contents(const struct super *sb, const struct disk_inode *in)
{
	uint64_t size = get64(in->size), flags = get64(in->flags);
	uint32_t mode = get32(in->mode);

	if (size > MAX_FILE_SIZE || (S_ISLNK(mode) && size > MAX_SYMLINK))
		return "size out of range";
	if (get64(in->nblocks) > sb->nblocks || (!S_ISREG(mode) && get64(in->nblocks) != 0))
		return "block count out of range";
	if ((flags & ~(uint64_t)INODE_FLAGS_KNOWN) != 0)
		return "unknown flags";
	if ((flags & INODE_USER_FLAGS & ~(uint64_t)inode_user_mask(mode)) != 0)
		return "flags that its type cannot have";
	if ((flags & INODE_INLINE) == 0)
		return NULL;
	if (!S_ISREG(mode) && !S_ISLNK(mode))
		return "inline flag on a wrong type";
	if (get64(in->nblocks) != 0 || (S_ISREG(mode) && size > INLINE_MAX))
		return "inline flag on a file with blocks";
	return NULL;
}

static const char *inode_wrong(const struct super *sb, const struct key *key, const void *val, unsigned len)
{
	struct disk_inode in;

	if (key->offset != 0 || len != sizeof(in))
		return "malformed inode";
	memcpy(&in, val, sizeof(in));
	if (!mode_ok(get32(in.mode)))
		return "invalid mode";
	if (get32(in.nlink) > MAX_LINKS)
		return "too many links";
	if (S_ISDIR(get32(in.mode)) ? get64(in.parent) == 0 && get32(in.nlink) != 0 : get64(in.parent) != 0)
		return "invalid parent";
	if (!time_ok(&in.atime) || !time_ok(&in.mtime) || !time_ok(&in.ctime) || !time_ok(&in.btime))
		return "invalid time";
	return inode_wrong_contents(sb, &in);
}

static const char *inline_wrong(const struct key *key, unsigned len)
{
	if (key->offset % INLINE_CHUNK != 0 || key->offset > MAX_SYMLINK)
		return "inline data at a wrong offset";
	if (len > INLINE_MAX || key->offset + len > MAX_SYMLINK)
		return "inline data too long";
	return NULL;
}

static bool ftype_ok(uint8_t t)
{
	return t == DT_REG || t == DT_DIR || t == DT_LNK || t == DT_CHR || t == DT_BLK || t == DT_FIFO ||
	       t == DT_SOCK;
}

static bool file_name_ok(const char *name, unsigned len)
{
	if (memchr(name, '/', len) || memchr(name, 0, len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

/* Equal but for the collision index. */
static bool hash_matches(uint64_t offset, uint64_t first)
{
	return (offset & ~(uint64_t)(HASH_COLLISIONS - 1)) == first;
}

static const char *dirent_wrong(const struct super *sb, const struct key *key, const void *val, unsigned len)
{
	struct disk_dirent de;
	const char *name = (const char *)val + sizeof(de);

	if (len < sizeof(de))
		return "truncated directory entry";
	memcpy(&de, val, sizeof(de));
	if (de.name_len == 0 || len != sizeof(de) + de.name_len)
		return "length of a directory entry";
	if (get64(de.ino) == 0 || !ftype_ok(de.ftype) || !bytes_zero(de.pad, sizeof(de.pad)))
		return "malformed directory entry";
	if (!file_name_ok(name, de.name_len))
		return "invalid file name";
	if (!hash_matches(key->offset, dirent_offset(sb, name, de.name_len)))
		return "directory entry under a wrong hash";
	return NULL;
}

static const char *xattr_wrong(const struct super *sb, const struct key *key, const void *val, unsigned len)
{
	struct disk_xattr xa;
	const char *name = (const char *)val + sizeof(xa);

	if (len < sizeof(xa))
		return "truncated xattr";
	memcpy(&xa, val, sizeof(xa));
	uint32_t value_len = get32(xa.value_len);
	uint32_t head_len = value_len < XATTR_HEAD_MAX ? value_len : XATTR_HEAD_MAX;

	if (xa.name_len == 0 || value_len > MAX_XATTR || len != sizeof(xa) + xa.name_len + head_len)
		return "length of an xattr";
	if (!bytes_zero(xa.pad, sizeof(xa.pad)) || memchr(name, 0, xa.name_len))
		return "malformed xattr";
	if (!hash_matches(key->offset, xattr_offset(sb, name, xa.name_len)))
		return "xattr under a wrong hash";
	return NULL;
}

static const char *xattr_more_wrong(const struct key *key, unsigned len)
{
	unsigned chunk = (unsigned)(key->offset & 127);

	if (key->offset >> 63 != 0 || key->offset >> 7 < HASH_COLLISIONS)
		return "xattr chunk at a wrong offset";
	if (chunk >= (MAX_XATTR - XATTR_HEAD_MAX + XATTR_CHUNK - 1) / XATTR_CHUNK)
		return "xattr chunk behind the longest value";
	if (len == 0 || len > XATTR_CHUNK)
		return "length of an xattr chunk";
	return NULL;
}

static const char *extent_wrong(const struct super *sb, const struct key *key, const void *val, unsigned len)
{
	struct disk_extent ex;

	if (len < sizeof(ex))
		return "truncated extent";
	memcpy(&ex, val, sizeof(ex));
	uint64_t blkno = get64(ex.blkno);
	uint32_t nblocks = get32(ex.nblocks), flags = get32(ex.flags);

	if (nblocks < 1 || nblocks > EXTENT_MAX_BLOCKS || (flags & ~EXTENT_UNWRITTEN) != 0)
		return "malformed extent";
	if (len != sizeof(ex) + (flags & EXTENT_UNWRITTEN ? 0 : 4 * nblocks))
		return "length of an extent";
	if (super_is_fixed(sb, blkno) || nblocks > super_data_end(sb) - blkno)
		return "extent outside the data blocks";
	if (key->offset > FILE_BLOCKS_END - nblocks)
		return "extent behind the largest file";
	return NULL;
}

static const char *item_wrong(const struct super *sb, const struct key *key, const void *val, unsigned len)
{
	if ((key->object == INO_VOLUME) != (key->type == ITEM_ORPHAN))
		return "type does not go with its object";
	switch (key->type) {
	case ITEM_INODE:
		return inode_wrong(sb, key, val, len);
	case ITEM_INLINE:
		return inline_wrong(key, len);
	case ITEM_XATTR:
		return xattr_wrong(sb, key, val, len);
	case ITEM_XATTR_MORE:
		return xattr_more_wrong(key, len);
	case ITEM_DIRENT:
		return dirent_wrong(sb, key, val, len);
	case ITEM_EXTENT:
		return extent_wrong(sb, key, val, len);
	case ITEM_ORPHAN:
		return key->offset == 0 || len != 0 ? "malformed orphan" : NULL;
	default:
		return "unknown type";
	}
}

int item_check(const struct super *sb, const struct key *key, const void *val, unsigned len,
	       const struct diag *d)
{
	const char *wrong = item_wrong(sb, key, val, len);

	if (wrong)
		return corrupt(d, "item (%" PRIu64 ", %u, %" PRIu64 "): %s", key->object, key->type,
			       key->offset, wrong);
	return 0;
}
