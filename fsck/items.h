/* SPDX-License-Identifier: Apache-2.0 */
/* items.h - the inode whose items are passing by; shared by items.c and contents.c. */
#ifndef HOLDFAST_FSCK_ITEMS_H
#define HOLDFAST_FSCK_ITEMS_H

#include <sys/stat.h>

#include "fsck/check_impl.h"

/* An xattr whose value goes on in chunks. */
struct xattr_head {
	uint64_t offset;
	uint32_t value_len;
	unsigned next;		/* chunk expected next */
};

/* The names met under the present hash value. */
struct name_set {
	uint64_t hash;
	uint8_t type;		/* of the items; 0: none yet */
	unsigned n;
	uint8_t len[HASH_COLLISIONS];
	uint8_t name[HASH_COLLISIONS][MAX_NAME];
};

struct item_state {
	uint64_t ino;		/* FSCK_NOWHERE: none yet */
	bool exists;		/* its inode item has been met */
	bool partial;		/* some of its items are lost */
	bool stray_said;	/* items without an inode were reported */
	struct disk_inode di;
	uint64_t rec;		/* index in check.recs, if it exists */
	bool orphan;

	uint64_t nblocks, end_block;	/* of extents: sum, and behind the last one */
	uint64_t nextents, npieces;
	uint64_t end_blkno;		/* on the device, behind the extent met last */
	bool extents_bad;		/* something was found about them */
	uint64_t nentries;
	unsigned ninline;
	uint64_t inline_bytes;
	bool inline_hole;
	struct list heads;		/* struct xattr_head, ascending */
	uint64_t next_head;
	struct name_set names;
};

static inline uint32_t item_mode(const struct item_state *s)
{
	return get32(s->di.mode);
}

/* contents.c */
int item_inline(struct check *c, struct item_state *s, uint64_t offset, unsigned len);
int item_extent(struct check *c, struct item_state *s, uint64_t offset, const void *val, unsigned len);
int item_xattr(struct check *c, struct item_state *s, uint64_t offset, const void *val);
int item_xattr_more(struct check *c, struct item_state *s, uint64_t offset, unsigned len);
/* Whatever can be said only when all items have been seen. */
void contents_judge(struct check *c, struct item_state *s);

/* May an inode of this type have such an item? */
bool item_fits(uint32_t mode, uint8_t type);

/* Is this attribute an ACL that makes no sense?  As far as the head item shows it, whose value this is. */
bool acl_is_bad(const void *head);

/* Is this name in the set of its hash value already?  If not it is now. */
bool name_seen(struct name_set *set, uint8_t type, uint64_t offset, const uint8_t *name, uint8_t len);

#endif
