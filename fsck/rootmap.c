/* SPDX-License-Identifier: Apache-2.0 */
/* rootmap.c - tables and bitmaps of one root. */
#include "fsck/rootmap.h"

#include <stdlib.h>
#include <string.h>

enum { GROUP_UNREAD, GROUP_READ, GROUP_EMPTY, GROUP_LOST };

int rootmap_init(struct rootmap *m, struct dev_queue *q, const struct super *sb, const struct disk_root *root)
{
	*m = (struct rootmap){.q = q, .sb = sb, .root = root};
	m->group = calloc(sb->ngroups, sizeof(m->group[0]));
	m->state = calloc(sb->ngroups, 1);
	return m->group && m->state ? 0 : -ENOMEM;
}

void rootmap_fini(struct rootmap *m)
{
	for (uint32_t g = 0; m->group && g < m->sb->ngroups; g++)
		free(m->group[g]);
	free(m->group);
	free(m->state);
}

/* The entry of a group in the root's table, from either copy. */
static bool entry_read(struct rootmap *m, uint32_t g, struct disk_table_entry *out)
{
	uint32_t t = g / TABLE_GROUPS;
	unsigned slot = m->root->table_slot[t / 8] >> (t % 8) & 1;
	auto_free struct disk_table *table = dev_alloc(BLOCK_SIZE, false);

	for (unsigned copy = 0; table && copy < 2; copy++) {
		if (dev_read(m->q, table_blkno(m->sb, t, slot, copy) * BLOCK_SIZE, table, BLOCK_SIZE) ||
		    table_check(table, m->sb, t, slot, get32(m->root->table_csum[t]), NULL))
			continue;
		*out = table->entry[g % TABLE_GROUPS];
		return true;
	}
	return false;
}

static int group_read(struct rootmap *m, uint32_t g)
{
	struct disk_table_entry e;

	if (!entry_read(m, g, &e))
		return GROUP_LOST;
	if (get32(e.info) & TABLE_UNINIT)
		return GROUP_EMPTY;
	unsigned slot = (get32(e.info) & TABLE_SLOT) != 0;
	uint8_t *block = dev_alloc(BLOCK_SIZE, false);

	for (unsigned copy = 0; block && copy < 2; copy++) {
		if (dev_read(m->q, bitmap_blkno(m->sb, g, slot, copy) * BLOCK_SIZE, block, BLOCK_SIZE) ||
		    bitmap_check(block, m->sb, g, slot, get32(e.csum), NULL))
			continue;
		m->group[g] = block;
		return GROUP_READ;
	}
	free(block);
	return GROUP_LOST;
}

enum rootmap_use rootmap_get(struct rootmap *m, uint64_t blkno)
{
	uint32_t g = (uint32_t)(blkno / GROUP_BLOCKS), b = (uint32_t)(blkno % GROUP_BLOCKS);

	if (!m->root)
		return ROOTMAP_UNKNOWN;
	if (m->state[g] == GROUP_UNREAD)
		m->state[g] = (uint8_t)group_read(m, g);
	if (m->state[g] == GROUP_LOST)
		return ROOTMAP_UNKNOWN;
	if (m->state[g] == GROUP_EMPTY)
		return ROOTMAP_FREE;
	const struct disk_bitmap *bm = (const struct disk_bitmap *)m->group[g];

	return bm->bits[b / 8] >> (b % 8) & 1 ? ROOTMAP_USED : ROOTMAP_FREE;
}
