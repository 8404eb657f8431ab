/* SPDX-License-Identifier: Apache-2.0 */
/* contents.c - inline contents, extents and xattrs against the inode that they belong to. */
#include <stdio.h>
#include <string.h>

#include "fsck/items.h"

/* --- inline ------------------------------------------------------------------------------------ */

int item_inline(struct check *c, struct item_state *s, uint64_t offset, unsigned len)
{
	(void)c;
	/* Offsets are multiples of INLINE_CHUNK, so this also finds a short chunk before the last. */
	if (offset != s->inline_bytes)
		s->inline_hole = true;
	s->ninline++;
	s->inline_bytes = offset + len;
	return 0;
}

static void judge_symlink(struct check *c, struct item_state *s)
{
	uint64_t size = get64(s->di.size);

	if (!s->inline_hole && size && s->inline_bytes == size && get64(s->di.flags) & INODE_INLINE)
		return;
	found(c, FSCK_INODE_SYMLINK, AT_INO(s->ino), "symlink %llu: has a target of %llu bytes%s, the inode says %llu",
	      (unsigned long long)s->ino, (unsigned long long)s->inline_bytes, s->inline_hole ? " with a hole" : "",
	      (unsigned long long)size);
}

static void judge_inline(struct check *c, struct item_state *s)
{
	bool flag = get64(s->di.flags) & INODE_INLINE;
	uint64_t size = get64(s->di.size);

	if (!flag && s->ninline)
		found(c, FSCK_INODE_INLINE, AT_INO(s->ino), "inode %llu: has inline contents, but is not marked so",
		      (unsigned long long)s->ino);
	if (flag && s->nblocks)
		found(c, FSCK_INODE_INLINE, AT_INO(s->ino), "inode %llu: is marked as inline, but has %llu blocks",
		      (unsigned long long)s->ino, (unsigned long long)s->nblocks);
	if (flag && (s->ninline != 1 || s->inline_hole || s->inline_bytes != size))
		found(c, FSCK_INODE_INLINE, AT_INO(s->ino), "inode %llu: is %llu bytes long, its inline contents are %llu",
		      (unsigned long long)s->ino, (unsigned long long)size, (unsigned long long)s->inline_bytes);
}

/* --- extents ----------------------------------------------------------------------------------- */

/* What was found by now about extents. A file with one that adds to it is left out of the pieces. */
static uint64_t extent_findings(const struct check *c)
{
	return c->res->count[FSCK_EXTENT_OVERLAP] + c->res->count[FSCK_EXTENT_BEYOND] + c->res->count[FSCK_SPACE_SHARED];
}

/* Does it go on where the one before ended, in the file and on the device?  Before s->end_block moves. */
static void count_piece(struct item_state *s, uint64_t offset, uint64_t blkno, uint32_t n)
{
	if (s->nextents == 0 || offset != s->end_block || blkno != s->end_blkno)
		s->npieces++;
	s->nextents++;
	s->end_blkno = blkno + n;
}

static void sum_pieces(struct check *c, const struct item_state *s)
{
	struct fsck_result *res = c->res;

	/* Extents of what is no regular file, or of an inline one, are a finding too. */
	if (s->extents_bad || s->nextents == 0 || !S_ISREG(item_mode(s)) || get64(s->di.flags) & INODE_INLINE)
		return;
	res->nmapped++;
	res->nsplit += s->npieces > 1;
	res->nextents += s->nextents;
	res->npieces += s->npieces;
	res->nmapped_blocks += s->nblocks;
}

/* First file block behind the end of the file. */
static uint64_t size_in_blocks(uint64_t size)
{
	return (size >> BLOCK_SHIFT) + (size % BLOCK_SIZE != 0);
}

static void judge_extent_place(struct check *c, struct item_state *s, uint64_t offset, uint32_t n, bool written)
{
	struct where at = {FSCK_NOWHERE, s->ino, offset << BLOCK_SHIFT};

	if (offset < s->end_block)
		found(c, FSCK_EXTENT_OVERLAP, at, "inode %llu: the extent at file block %llu overlaps the one before, which ends at %llu",
		      (unsigned long long)s->ino, (unsigned long long)offset, (unsigned long long)s->end_block);
	/* Unwritten ones may be there (fallocate); written ones only while a truncation is being finished. */
	if (s->exists && written && !s->orphan && offset + n > size_in_blocks(get64(s->di.size)))
		found(c, FSCK_EXTENT_BEYOND, at, "inode %llu: is %llu bytes long, but file blocks %llu..%llu are written",
		      (unsigned long long)s->ino, (unsigned long long)get64(s->di.size), (unsigned long long)offset,
		      (unsigned long long)(offset + n - 1));
}

int item_extent(struct check *c, struct item_state *s, uint64_t offset, const void *val, unsigned len)
{
	struct where at = {FSCK_NOWHERE, s->ino, offset << BLOCK_SHIFT};
	le32 csum[EXTENT_MAX_BLOCKS];
	struct disk_extent ex;
	uint64_t findings = extent_findings(c);
	char what[48];

	memcpy(&ex, val, sizeof(ex));
	memcpy(csum, (const uint8_t *)val + sizeof(ex), len - sizeof(ex));
	uint32_t n = get32(ex.nblocks);
	bool written = !(get32(ex.flags) & EXTENT_UNWRITTEN);

	judge_extent_place(c, s, offset, n, written);
	count_piece(s, offset, get64(ex.blkno), n);
	if (offset + n > s->end_block)
		s->end_block = offset + n;
	s->nblocks += n;
	snprintf(what, sizeof(what), "inode %llu", (unsigned long long)s->ino);
	int err = check_use(c, get64(ex.blkno), n, at, what);
	s->extents_bad |= extent_findings(c) != findings;
	if (err || !written || !c->opts->data)
		return err;
	return data_verify(c, s->ino, offset, get64(ex.blkno), n, csum);
}

/* --- xattrs ------------------------------------------------------------------------------------ */

static unsigned chunk_count(uint32_t value_len)
{
	return value_len <= XATTR_HEAD_MAX ? 0 : (value_len - XATTR_HEAD_MAX + XATTR_CHUNK - 1) / XATTR_CHUNK;
}

static unsigned chunk_len(uint32_t value_len, unsigned chunk)
{
	uint32_t left = value_len - XATTR_HEAD_MAX - chunk * XATTR_CHUNK;

	return left < XATTR_CHUNK ? left : XATTR_CHUNK;
}

int item_xattr(struct check *c, struct item_state *s, uint64_t offset, const void *val)
{
	const uint8_t *name = (const uint8_t *)val + sizeof(struct disk_xattr);
	struct disk_xattr xa;

	memcpy(&xa, val, sizeof(xa));
	if (name_seen(&s->names, ITEM_XATTR, offset, name, xa.name_len))
		found(c, FSCK_XATTR_DUPLICATE, AT_INO(s->ino), "inode %llu: has the attribute \"%.*s\" twice",
		      (unsigned long long)s->ino, (int)xa.name_len, (const char *)name);
	if (acl_is_bad(val))
		found(c, FSCK_XATTR_ACL, AT_INO(s->ino), "inode %llu: its \"%.*s\" is no access control list",
		      (unsigned long long)s->ino, (int)xa.name_len, (const char *)name);
	if (chunk_count(get32(xa.value_len)) == 0)
		return 0;
	struct xattr_head *h = list_add(&s->heads, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->offset = offset;
	h->value_len = get32(xa.value_len);
	return 0;
}

/* The head's chunks have ended; were they all? */
static void head_finish(struct check *c, struct item_state *s, const struct xattr_head *h)
{
	unsigned want = chunk_count(h->value_len);

	/* Removal of an unlinked file goes in pieces. */
	if (h->next == want || s->partial || (s->exists && get32(s->di.nlink) == 0))
		return;
	found(c, FSCK_XATTR_INCOMPLETE, AT_INO(s->ino), "inode %llu: an attribute of %u bytes has %u of its %u further parts",
	      (unsigned long long)s->ino, h->value_len, h->next, want);
}

int item_xattr_more(struct check *c, struct item_state *s, uint64_t offset, unsigned len)
{
	uint64_t head = offset >> 7;
	unsigned chunk = offset & 127;
	struct xattr_head *h = s->heads.item;

	for (; s->next_head < s->heads.n && h[s->next_head].offset < head; s->next_head++)
		head_finish(c, s, &h[s->next_head]);
	h = s->next_head < s->heads.n && h[s->next_head].offset == head ? &h[s->next_head] : NULL;
	if (h && chunk == h->next && chunk < chunk_count(h->value_len) && len == chunk_len(h->value_len, chunk)) {
		h->next++;
		return 0;
	}
	if (!s->partial && !(s->exists && get32(s->di.nlink) == 0))
		found(c, FSCK_XATTR_STRAY, AT_INO(s->ino), "inode %llu: part %u (%u bytes) of an attribute does not fit it",
		      (unsigned long long)s->ino, chunk, len);
	return 0;
}

/* --- all of it --------------------------------------------------------------------------------- */

void contents_judge(struct check *c, struct item_state *s)
{
	const struct xattr_head *h = s->heads.item;
	uint32_t mode = item_mode(s);

	for (; s->next_head < s->heads.n; s->next_head++)
		head_finish(c, s, &h[s->next_head]);
	sum_pieces(c, s);
	if (s->nblocks != get64(s->di.nblocks))
		found(c, FSCK_INODE_NBLOCKS, AT_INO(s->ino), "inode %llu: counts %llu blocks, its extents have %llu",
		      (unsigned long long)s->ino, (unsigned long long)get64(s->di.nblocks), (unsigned long long)s->nblocks);
	if (S_ISREG(mode))
		judge_inline(c, s);
	else if (S_ISLNK(mode) && get32(s->di.nlink) != 0)
		judge_symlink(c, s);
}
