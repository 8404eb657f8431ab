/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format.c - geometry, and the blocks that live at fixed addresses: superblocks, roots, tables,
 * bitmaps.
 *
 * The verifiers are exact: a block that passes is one this code could have written, down to the
 * padding.  They take nothing for granted except that `block` is BLOCK_SIZE bytes of memory.
 * Nodes and items are format_node.c's.
 */
#include "core/format_impl.h"

#include <inttypes.h>

#include "core/crc32c.h"

#define NSEC_PER_SEC 1000000000u

/* --- geometry --------------------------------------------------------------------------------- */

int super_layout(struct super *sb)
{
	uint64_t area, begin, end;

	if (sb->nblocks < MIN_BLOCKS || sb->nblocks > MAX_BLOCKS)
		return -EINVAL;
	if (sb->journal_nblocks < MIN_JOURNAL || sb->journal_nblocks > MAX_JOURNAL)
		return -EINVAL;
	uint32_t ngroups = (uint32_t)((sb->nblocks + GROUP_BLOCKS - 1) / GROUP_BLOCKS);
	uint32_t ntables = (ngroups + TABLE_GROUPS - 1) / TABLE_GROUPS;

	area = 2 * ((uint64_t)ngroups + ntables);
	begin = JOURNAL_BLKNO + sb->journal_nblocks + area;
	end = sb->nblocks - 3;
	if (begin + MIN_DATA + area > end)
		return -EINVAL;
	sb->ngroups = ngroups;
	sb->ntables = ntables;
	sb->journal_blkno = JOURNAL_BLKNO;
	sb->table_blkno[0] = begin - area;
	sb->table_blkno[1] = end - area;
	for (unsigned copy = 0; copy < 2; copy++)
		sb->bitmap_blkno[copy] = sb->table_blkno[copy] + 2 * (uint64_t)ntables;
	return 0;
}

bool super_is_fixed(const struct super *sb, uint64_t blkno)
{
	return blkno < super_data_begin(sb) || blkno >= super_data_end(sb);
}

uint64_t super_fixed_end(const struct super *sb, uint64_t blkno)
{
	if (blkno < super_data_begin(sb))
		return super_data_begin(sb);
	return blkno < super_data_end(sb) ? super_data_end(sb) : sb->nblocks;
}

/* --- the common header ------------------------------------------------------------------------ */

static uint32_t block_csum(const void *block)
{
	return crc32c(0, (const uint8_t *)block + 4, BLOCK_SIZE - 4);
}

void header_init(void *block, uint32_t magic, const uint8_t uuid[UUID_BYTES], uint64_t blkno0,
		 uint64_t blkno1, uint64_t generation)
{
	struct disk_header *h = block;

	h->magic = put32(magic);
	h->blkno[0] = put64(blkno0);
	h->blkno[1] = put64(blkno1);
	h->generation = put64(generation);
	memcpy(h->uuid, uuid, UUID_BYTES);
}

uint32_t header_seal(void *block)
{
	struct disk_header *h = block;
	uint32_t csum = block_csum(block);

	h->csum = put32(csum);
	return csum;
}

int header_check(const void *block, uint32_t magic, const struct super *sb, uint64_t blkno,
		 const struct diag *d)
{
	const struct disk_header *h = block;

	if (get32(h->magic) != magic)
		return corrupt(d, "block %" PRIu64 ": magic is %08" PRIx32 ", not %08" PRIx32, blkno,
			       get32(h->magic), magic);
	if (get32(h->csum) != block_csum(block))
		return corrupt(d, "block %" PRIu64 ": checksum mismatch", blkno);
	if (memcmp(h->uuid, sb->uuid, UUID_BYTES) != 0)
		return corrupt(d, "block %" PRIu64 ": belongs to another volume", blkno);
	if (get64(h->blkno[0]) != blkno && get64(h->blkno[1]) != blkno)
		return corrupt(d, "block %" PRIu64 ": was written for %" PRIu64 " and %" PRIu64, blkno,
			       get64(h->blkno[0]), get64(h->blkno[1]));
	return 0;
}

/* Of a block whose both addresses are known. */
static int header_check_pair(const void *block, uint32_t magic, const struct super *sb, uint64_t blkno0,
			     uint64_t blkno1, const struct diag *d)
{
	const struct disk_header *h = block;
	int err = header_check(block, magic, sb, blkno0, d);

	if (err)
		return err;
	if (get64(h->blkno[0]) != blkno0 || get64(h->blkno[1]) != blkno1)
		return corrupt(d, "block %" PRIu64 ": second address is not %" PRIu64, blkno0, blkno1);
	if (get64(h->generation) == 0)
		return corrupt(d, "block %" PRIu64 ": generation 0", blkno0);
	return 0;
}

/* --- superblock ------------------------------------------------------------------------------- */

void super_encode(const struct super *sb, unsigned copy, void *block)
{
	struct disk_super *ds = memset(block, 0, BLOCK_SIZE);

	header_init(block, MAGIC_SUPER, sb->uuid, super_blkno(sb->nblocks, copy), 0, 0);
	memcpy(ds->signature, SUPER_SIGNATURE, sizeof(ds->signature));
	ds->version = put32(FORMAT_VERSION);
	ds->block_size = put32(BLOCK_SIZE);
	ds->compat = put32(sb->compat);
	ds->ro_compat = put32(sb->ro_compat);
	ds->incompat = put32(sb->incompat);
	ds->ngroups = put32(sb->ngroups);
	ds->nblocks = put64(sb->nblocks);
	ds->journal_blkno = put64(sb->journal_blkno);
	ds->journal_nblocks = put64(sb->journal_nblocks);
	for (unsigned i = 0; i < 2; i++) {
		ds->table_blkno[i] = put64(sb->table_blkno[i]);
		ds->bitmap_blkno[i] = put64(sb->bitmap_blkno[i]);
	}
	ds->ntables = put32(sb->ntables);
	ds->created_nsec = put32(sb->created_nsec);
	ds->created_sec = put64((uint64_t)sb->created_sec);
	memcpy(ds->hash_key, sb->hash_key, sizeof(ds->hash_key));
	memcpy(ds->label, sb->label, strnlen(sb->label, LABEL_BYTES - 1));
	header_seal(block);
}

static void super_unpack(const struct disk_super *ds, struct super *sb)
{
	memset(sb, 0, sizeof(*sb));
	memcpy(sb->uuid, ds->h.uuid, UUID_BYTES);
	memcpy(sb->hash_key, ds->hash_key, sizeof(sb->hash_key));
	memcpy(sb->label, ds->label, LABEL_BYTES);
	sb->nblocks = get64(ds->nblocks);
	sb->journal_blkno = get64(ds->journal_blkno);
	sb->journal_nblocks = get64(ds->journal_nblocks);
	for (unsigned i = 0; i < 2; i++) {
		sb->table_blkno[i] = get64(ds->table_blkno[i]);
		sb->bitmap_blkno[i] = get64(ds->bitmap_blkno[i]);
	}
	sb->ngroups = get32(ds->ngroups);
	sb->ntables = get32(ds->ntables);
	sb->compat = get32(ds->compat);
	sb->ro_compat = get32(ds->ro_compat);
	sb->incompat = get32(ds->incompat);
	sb->created_sec = (int64_t)get64(ds->created_sec);
	sb->created_nsec = get32(ds->created_nsec);
}

/* The layout follows from two sizes, so there is nothing to believe beyond them. */
static bool super_geometry_ok(const struct super *sb)
{
	struct super want = *sb;

	return super_layout(&want) == 0 && want.ngroups == sb->ngroups && want.ntables == sb->ntables &&
	       want.journal_blkno == sb->journal_blkno && want.table_blkno[0] == sb->table_blkno[0] &&
	       want.table_blkno[1] == sb->table_blkno[1] && want.bitmap_blkno[0] == sb->bitmap_blkno[0] &&
	       want.bitmap_blkno[1] == sb->bitmap_blkno[1];
}

static bool super_address_ok(const struct disk_super *ds, uint64_t blkno)
{
	bool is_home = false;

	for (unsigned copy = 0; copy < SUPER_COPIES; copy++)
		is_home |= super_blkno(get64(ds->nblocks), copy) == blkno;
	return is_home && get64(ds->h.blkno[0]) == blkno && get64(ds->h.blkno[1]) == 0;
}

static bool label_ok(const uint8_t label[LABEL_BYTES])
{
	size_t len = strnlen((const char *)label, LABEL_BYTES);

	return len < LABEL_BYTES && bytes_zero(label + len, LABEL_BYTES - len);
}

static int super_check_fields(const struct disk_super *ds, const struct super *sb, uint64_t blkno,
			      const struct diag *d)
{
	if (get32(ds->block_size) != BLOCK_SIZE)
		return corrupt(d, "superblock at block %" PRIu64 ": block size %" PRIu32, blkno,
			       get32(ds->block_size));
	if (!super_geometry_ok(sb))
		return corrupt(d, "superblock at block %" PRIu64 ": impossible geometry", blkno);
	if (!super_address_ok(ds, blkno))
		return corrupt(d, "superblock at block %" PRIu64 ": does not belong there", blkno);
	if (!label_ok(ds->label))
		return corrupt(d, "superblock at block %" PRIu64 ": malformed label", blkno);
	if (sb->created_nsec >= NSEC_PER_SEC)
		return corrupt(d, "superblock at block %" PRIu64 ": malformed time", blkno);
	if (get64(ds->h.generation) != 0 || !bytes_zero(ds->pad, sizeof(ds->pad)))
		return corrupt(d, "superblock at block %" PRIu64 ": reserved bytes are not zero", blkno);
	return 0;
}

int super_decode(const void *block, uint64_t blkno, uint64_t dev_nblocks, const struct diag *d,
		 struct super *sb)
{
	const struct disk_super *ds = block;
	bool has_magic = get32(ds->h.magic) == MAGIC_SUPER;
	bool has_signature = memcmp(ds->signature, SUPER_SIGNATURE, sizeof(ds->signature)) == 0;
	struct super found;

	if (!has_magic && !has_signature)
		return -ENOENT;
	if (!has_magic || !has_signature || get32(ds->h.csum) != block_csum(block))
		return corrupt(d, "superblock at block %" PRIu64 ": checksum mismatch", blkno);
	if (get32(ds->version) != FORMAT_VERSION) {
		diag(d, DIAG_ERR,
		     "superblock at block %" PRIu64 ": format version %" PRIu32 " is not supported", blkno,
		     get32(ds->version));
		return -ENOTSUP;
	}
	super_unpack(ds, &found);
	int err = super_check_fields(ds, &found, blkno, d);
	if (err)
		return err;
	if (found.nblocks > dev_nblocks) {
		diag(d, DIAG_ERR, "the volume has %" PRIu64 " blocks, the device only %" PRIu64,
		     found.nblocks, dev_nblocks);
		return -ENOSPC;
	}
	*sb = found;
	return 0;
}

/* --- root ------------------------------------------------------------------------------------- */

static bool root_tree_ok(const struct disk_root *r, const struct super *sb)
{
	if (r->tree_level >= MAX_LEVEL || !bytes_zero(r->pad0, sizeof(r->pad0)))
		return false;
	if (get64(r->tree.blkno[0]) == 0 && get64(r->tree.blkno[1]) == 0)
		return r->tree_level == 0 && bytes_zero(&r->tree, sizeof(r->tree));
	return ptr_is_valid(sb, &r->tree, get64(r->h.generation));
}

/* Nothing is said of tables that the volume does not have. */
static bool root_tables_ok(const struct disk_root *r, const struct super *sb)
{
	for (uint32_t t = sb->ntables; t < MAX_TABLES; t++)
		if ((r->table_slot[t / 8] >> (t % 8) & 1) != 0 || get32(r->table_csum[t]) != 0)
			return false;
	return true;
}

int root_check(const void *block, const struct super *sb, unsigned slot, const struct diag *d)
{
	const struct disk_root *r = block;
	uint64_t blkno = root_blkno(sb, slot, 0);
	int err = header_check_pair(block, MAGIC_ROOT, sb, blkno, root_blkno(sb, slot, 1), d);

	if (err)
		return err;
	if ((get64(r->h.generation) & 1) != slot)
		return corrupt(d, "root at block %" PRIu64 ": generation %" PRIu64 " in the wrong slot",
			       blkno, get64(r->h.generation));
	if (get64(r->replay_lsn) % BLOCK_SIZE != 0)
		return corrupt(d, "root at block %" PRIu64 ": replay LSN is not on a block boundary", blkno);
	if (get64(r->next_ino) < INO_FIRST || get64(r->ninodes) > get64(r->next_ino))
		return corrupt(d, "root at block %" PRIu64 ": impossible inode counters", blkno);
	if (get64(r->nfree) > super_data_end(sb) - super_data_begin(sb))
		return corrupt(d, "root at block %" PRIu64 ": more free blocks than the volume has", blkno);
	if ((get64(r->flags) & ~(uint64_t)ROOT_CLEAN) != 0)
		return corrupt(d, "root at block %" PRIu64 ": unknown flags", blkno);
	if (!root_tree_ok(r, sb))
		return corrupt(d, "root at block %" PRIu64 ": bad tree pointer", blkno);
	if (!root_tables_ok(r, sb) || !bytes_zero(r->pad, sizeof(r->pad)))
		return corrupt(d, "root at block %" PRIu64 ": reserved bytes are not zero", blkno);
	return 0;
}

/* --- free space ------------------------------------------------------------------------------- */

static uint64_t bitmap_word(const struct disk_bitmap *b, uint32_t w)
{
	le64 raw;

	memcpy(&raw, b->bits + 8 * (size_t)w, sizeof(raw));
	return get64(raw);
}

/* Bits of word `w` of `group` that stand for a fixed block or for none. */
static uint64_t bitmap_fixed_bits(const struct super *sb, uint32_t group, uint32_t w)
{
	uint64_t first = (uint64_t)group * GROUP_BLOCKS + 64 * (uint64_t)w;
	uint64_t begin = super_data_begin(sb), end = super_data_end(sb);
	uint64_t low, data;

	if (first + 64 <= begin || first >= end)
		return UINT64_MAX;
	low = first < begin ? (UINT64_C(1) << (begin - first)) - 1 : 0;
	data = first + 64 > end ? (UINT64_C(1) << (end - first)) - 1 : UINT64_MAX;
	return low | ~data;
}

int bitmap_check(const void *block, const struct super *sb, uint32_t group, unsigned slot, uint32_t csum,
		 const struct diag *d)
{
	const struct disk_bitmap *b = block;
	uint64_t blkno = bitmap_blkno(sb, group, slot, 0);
	uint32_t nfree = 0;
	int err = header_check_pair(block, MAGIC_BITMAP, sb, blkno, bitmap_blkno(sb, group, slot, 1), d);

	if (err)
		return err;
	if (get32(b->h.csum) != csum)
		return corrupt(d, "bitmap at block %" PRIu64 ": an outdated version", blkno);
	if (get32(b->group) != group || !bytes_zero(b->pad, sizeof(b->pad)))
		return corrupt(d, "bitmap at block %" PRIu64 ": malformed head", blkno);
	for (uint32_t w = 0; w < GROUP_BLOCKS / 64; w++) {
		uint64_t fixed = bitmap_fixed_bits(sb, group, w), bits = bitmap_word(b, w);

		if ((bits & fixed) != fixed)
			return corrupt(d, "bitmap at block %" PRIu64 ": fixed blocks are marked free", blkno);
		nfree += (uint32_t)__builtin_popcountll(~bits);
	}
	if (get32(b->nfree) != nfree)
		return corrupt(d, "bitmap at block %" PRIu64 ": %" PRIu32 " clear bits, %" PRIu32 " claimed",
			       blkno, nfree, get32(b->nfree));
	return 0;
}

static bool table_entry_ok(const struct super *sb, const struct disk_table_entry *e, uint32_t group)
{
	uint32_t info = get32(e->info), ndata = group_ndata(sb, group);

	if ((info & ~TABLE_INFO_KNOWN) != 0 || TABLE_NFREE(info) > ndata)
		return false;
	if (info & TABLE_UNINIT)
		return get32(e->csum) == 0 && info == (TABLE_UNINIT | ndata);
	return true;
}

int table_check(const void *block, const struct super *sb, uint32_t index, unsigned slot, uint32_t csum,
		const struct diag *d)
{
	const struct disk_table *t = block;
	uint64_t blkno = table_blkno(sb, index, slot, 0);
	uint32_t first = index * TABLE_GROUPS, left = sb->ngroups - first;
	uint32_t n = left < TABLE_GROUPS ? left : TABLE_GROUPS;
	int err = header_check_pair(block, MAGIC_TABLE, sb, blkno, table_blkno(sb, index, slot, 1), d);

	if (err)
		return err;
	if (get32(t->h.csum) != csum)
		return corrupt(d, "table at block %" PRIu64 ": an outdated version", blkno);
	if (get32(t->index) != index || get32(t->nentries) != n || !bytes_zero(t->pad, sizeof(t->pad)))
		return corrupt(d, "table at block %" PRIu64 ": malformed head", blkno);
	for (uint32_t e = 0; e < n; e++)
		if (!table_entry_ok(sb, &t->entry[e], first + e))
			return corrupt(d, "table at block %" PRIu64 ": bad entry of group %" PRIu32, blkno,
				       first + e);
	if (!bytes_zero(&t->entry[n], (TABLE_GROUPS - n) * sizeof(t->entry[0])))
		return corrupt(d, "table at block %" PRIu64 ": reserved bytes are not zero", blkno);
	return 0;
}
