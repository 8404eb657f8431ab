/* SPDX-License-Identifier: Apache-2.0 */
/* fsck_hits.c - one damage each, and exactly which codes fsck must find for it. */
#include "tests/unit/fsck_hits.h"

/* --- superblocks and roots --------------------------------------------------------------------- */

static void hit_super(struct bench *b)
{
	block_flip(b, SUPER_BLKNO1);
}

static void hit_super_differs(struct bench *b)
{
	struct super sb = bench_super(b);
	uint8_t block[BLOCK_SIZE];

	strcpy(sb.label, "another");
	super_encode(&sb, 2, block);
	block_poke(b, super_blkno(sb.nblocks, 2), block);
}

/* The device has not written the first copy, or it has come back from somewhere. */
static void hit_super_feature(struct bench *b)
{
	struct super sb = bench_super(b);
	uint8_t block[BLOCK_SIZE];

	sb.incompat = FEATURE_INCOMPAT_INODE_FLAGS;
	for (unsigned copy = 1; copy < SUPER_COPIES; copy++) {
		super_encode(&sb, copy, block);
		block_poke(b, super_blkno(sb.nblocks, copy), block);
	}
}

static void hit_root_copy(struct bench *b)
{
	struct disk_root root = bench_root(b);

	block_flip(b, get64(root.h.blkno[1]));
}

static void hit_root_slot(struct bench *b)
{
	struct super sb = bench_super(b);
	unsigned older = (get64(bench_root(b).h.generation) & 1) ^ 1;

	for (unsigned copy = 0; copy < 2; copy++)
		block_flip(b, root_blkno(&sb, older, copy));
}

static void hit_root_lost(struct bench *b)
{
	struct super sb = bench_super(b);

	for (unsigned i = 0; i < 4; i++)
		block_flip(b, root_blkno(&sb, i / 2, i % 2));
}

/* As if the power had gone between the two copies. */
static void hit_root_interrupted(struct bench *b)
{
	struct disk_root before = bench_root(b);

	bench_open(b);
	bench_close(b);
	block_poke(b, get64(before.h.blkno[1]), &before);
}

static void hit_root_nfree(struct bench *b)
{
	struct disk_root root = bench_root(b);

	root.nfree = put64(get64(root.nfree) - 1);
	block_publish(b, &root);
}

static void hit_root_ninodes(struct bench *b)
{
	struct disk_root root = bench_root(b);

	root.ninodes = put64(get64(root.ninodes) - 1);
	block_publish(b, &root);
}

static void hit_root_next_ino(struct bench *b)
{
	struct disk_root root = bench_root(b);

	root.next_ino = put64(get64(root.next_ino) - 1);
	block_publish(b, &root);
}

static void hit_root_errors(struct bench *b)
{
	struct disk_root root = bench_root(b);

	root.error_count = put64(3);
	block_publish(b, &root);
}

/* --- space ------------------------------------------------------------------------------------- */

static void table_peek(struct bench *b, struct disk_table *table)
{
	struct super sb = bench_super(b);

	block_peek(b, table_blkno(&sb, 0, bench_root(b).table_slot[0] & 1, 0), table);
}

static void hit_table(struct bench *b)
{
	struct disk_table table;

	table_peek(b, &table);
	block_flip(b, get64(table.h.blkno[0]));
}

static void hit_table_both(struct bench *b)
{
	struct disk_table table;

	table_peek(b, &table);
	block_flip(b, get64(table.h.blkno[0]));
	block_flip(b, get64(table.h.blkno[1]));
}

static void hit_table_nfree(struct bench *b)
{
	struct disk_root root = bench_root(b);
	struct disk_table table;

	table_peek(b, &table);
	table.entry[0].info = put32(get32(table.entry[0].info) - 1);
	root.table_csum[0] = put32(block_publish(b, &table));
	root.nfree = put64(get64(root.nfree) - 1);
	block_publish(b, &root);
}

static uint64_t bitmap_where(struct bench *b, unsigned copy)
{
	struct super sb = bench_super(b);
	struct disk_table table;

	table_peek(b, &table);
	return bitmap_blkno(&sb, 0, (get32(table.entry[0].info) & TABLE_SLOT) != 0, copy);
}

static void hit_bitmap(struct bench *b)
{
	block_flip(b, bitmap_where(b, 1));
}

static void hit_bitmap_both(struct bench *b)
{
	block_flip(b, bitmap_where(b, 0));
	block_flip(b, bitmap_where(b, 1));
}

static void hit_leaked(struct bench *b)
{
	bench_open(b);
	block_alloc(b);
	bench_close(b);
}

static void hit_unmarked(struct bench *b)
{
	bench_open(b);
	change(b, &(struct change){.what = CHANGE_FREE, .blkno = data_blkno(b) + 1});
	bench_close(b);
}

static void hit_shared(struct bench *b)
{
	bench_open(b);
	unwritten_put(b, b->twin, 0, data_blkno(b), 1);
	inode_add(b, b->twin, 0, 0, 1);
	bench_close(b);
}

/* --- nodes ------------------------------------------------------------------------------------- */

static void hit_node_copy(struct bench *b)
{
	block_flip(b, get64(leaf_ptr(b, 0).blkno[0]));
}

static void hit_leaf(struct bench *b)
{
	struct disk_ptr ptr = leaf_ptr(b, 1);

	block_flip(b, get64(ptr.blkno[0]));
	block_flip(b, get64(ptr.blkno[1]));
}

static void hit_top(struct bench *b)
{
	struct disk_root root = bench_root(b);

	block_flip(b, get64(root.tree.blkno[0]));
	block_flip(b, get64(root.tree.blkno[1]));
}

static void hit_node_shared(struct bench *b)
{
	uint8_t node[BLOCK_SIZE] __attribute__((aligned(8)));
	struct disk_ptr ptr = leaf_ptr(b, 0);

	top_peek(b, node);
	memcpy(top_value(node, 1), &ptr, sizeof(ptr));
	top_publish(b, node);
}

/* An item that is not valid by itself, in a node whose checksums are. */
static void hit_item(struct bench *b)
{
	uint8_t leaf[BLOCK_SIZE] __attribute__((aligned(8)));
	const struct disk_node *n = (const struct disk_node *)leaf;

	block_peek(b, get64(leaf_ptr(b, 0).blkno[0]), leaf);
	assert_int_equal(n->slot[0].type, ITEM_INODE);
	memset(leaf + get16(n->slot[0].pos) + offsetof(struct disk_inode, mode), 0xff, 4);
	leaf_publish(b, 0, leaf);
}

/* --- inodes ------------------------------------------------------------------------------------ */

static struct key xattr_key(struct bench *b, const char *name)
{
	return key_make(b->attrs, ITEM_XATTR, xattr_offset(&b->r.v->sb, name, strlen(name)));
}

static void hit_item_stray(struct bench *b)
{
	uint8_t val[MAX_ITEM];

	bench_open(b);
	struct key key = xattr_key(b, SMALL_XATTR);
	unsigned len = item_get(b, key, val);

	key.object = 1000000;
	item_put(b, key, val, len);
	bench_close(b);
}

static void hit_item_kind(struct bench *b)
{
	bench_open(b);
	item_put(b, key_make(b->fifo, ITEM_INLINE, 0), "inline", 6);
	bench_close(b);
}

static void hit_nblocks(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->data, 0, 0, 1);
	bench_close(b);
}

static void hit_inode_flags(struct bench *b)
{
	struct key key = key_make(b->data, ITEM_INODE, 0);
	struct disk_inode di;

	bench_open(b);
	assert_int_equal(item_get(b, key, (uint8_t *)&di), sizeof(di));
	di.flags = put64(get64(di.flags) | INODE_IMMUTABLE | INODE_NODUMP);
	item_put(b, key, &di, sizeof(di));
	bench_close(b);
}

static void hit_inline(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->tiny, 1, 0, 0);
	bench_close(b);
}

static void hit_symlink(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->sym, -1, 0, 0);
	bench_close(b);
}

static void hit_overlap(struct bench *b)
{
	bench_open(b);
	unwritten_put(b, b->data, 1, block_alloc(b), 1);
	inode_add(b, b->data, 0, 0, 1);
	bench_close(b);
}

static void hit_beyond(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->data, -(int)BLOCK_SIZE, 0, 0);
	bench_close(b);
}

static void hit_xattr_incomplete(struct bench *b)
{
	bench_open(b);
	item_del(b, key_make(b->attrs, ITEM_XATTR_MORE, xattr_key(b, BIG_XATTR).offset << 7 | 2));
	bench_close(b);
}

static void hit_xattr_stray(struct bench *b)
{
	bench_open(b);
	item_put(b, key_make(b->attrs, ITEM_XATTR_MORE, xattr_key(b, SMALL_XATTR).offset << 7), "more", 4);
	bench_close(b);
}

/* Four entries' worth of bytes, and the mask twice. */
static void hit_xattr_acl(struct bench *b)
{
	static const char name[] = "system.posix_acl_access";
	static const uint8_t acl[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255,
				      16, 0, 7, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255};
	struct disk_xattr xa = {.value_len = put32(sizeof(acl)), .name_len = sizeof(name) - 1};
	uint8_t val[MAX_ITEM];

	memcpy(val, &xa, sizeof(xa));
	memcpy(val + sizeof(xa), name, sizeof(name) - 1);
	memcpy(val + sizeof(xa) + sizeof(name) - 1, acl, sizeof(acl));
	bench_open(b);
	item_put(b, xattr_key(b, name), val, (unsigned)(sizeof(xa) + sizeof(name) - 1 + sizeof(acl)));
	bench_close(b);
}

static void hit_xattr_duplicate(struct bench *b)
{
	uint8_t val[MAX_ITEM];

	bench_open(b);
	struct key key = xattr_key(b, SMALL_XATTR);
	unsigned len = item_get(b, key, val);

	key.offset++;
	item_put(b, key, val, len);
	bench_close(b);
}

/* --- names ------------------------------------------------------------------------------------- */

static void hit_dir_size(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->dir, 1, 0, 0);
	bench_close(b);
}

static void hit_dir_duplicate(struct bench *b)
{
	uint8_t val[MAX_ITEM];

	bench_open(b);
	struct key key = dirent_key(b, b->dir, "fifo");
	unsigned len = item_get(b, key, val);

	key.offset++;
	item_put(b, key, val, len);
	inode_add(b, b->dir, 1, 0, 0);
	inode_add(b, b->fifo, 0, 1, 0);
	bench_close(b);
}

static void hit_root_dir(struct bench *b)
{
	bench_open(b);
	struct disk_inode di = inode_read(b, INO_ROOT);

	di.parent = put64(b->dir);
	inode_write(b, INO_ROOT, &di);
	bench_close(b);
}

static void hit_dangling(struct bench *b)
{
	bench_open(b);
	item_del(b, key_make(b->fifo, ITEM_INODE, 0));
	bench_close(b);
}

static void hit_entry_type(struct bench *b)
{
	bench_open(b);
	dirent_write(b, b->dir, "fifo", b->fifo, DT_SOCK);
	bench_close(b);
}

static void hit_link_count(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->attrs, 0, 1, 0);
	bench_close(b);
}

static void hit_dir_link_count(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->dir, 0, -1, 0);
	bench_close(b);
}

static void remove_entry(struct bench *b, uint64_t dir, const char *name)
{
	item_del(b, dirent_key(b, dir, name));
	inode_add(b, dir, -1, 0, 0);
}

static void hit_unreachable(struct bench *b)
{
	bench_open(b);
	remove_entry(b, b->dir, "fifo");
	bench_close(b);
}

/* No links and no entry, but nobody was told to remove it. */
static void hit_unlisted_orphan(struct bench *b)
{
	bench_open(b);
	remove_entry(b, b->dir, "fifo");
	inode_add(b, b->fifo, 0, -1, 0);
	bench_close(b);
}

static void hit_dir_parent(struct bench *b)
{
	bench_open(b);
	struct disk_inode di = inode_read(b, b->sub);

	di.parent = put64(INO_ROOT);
	inode_write(b, b->sub, &di);
	bench_close(b);
}

static void hit_dir_links(struct bench *b)
{
	bench_open(b);
	dirent_write(b, b->dir, "sub too", b->sub, DT_DIR);
	inode_add(b, b->dir, 1, 1, 0);
	bench_close(b);
}

/* A directory is moved into its own child. */
static void hit_dir_cycle(struct bench *b)
{
	bench_open(b);
	remove_entry(b, INO_ROOT, "dir");
	inode_add(b, INO_ROOT, 0, -1, 0);
	dirent_write(b, b->sub, "dir", b->dir, DT_DIR);
	inode_add(b, b->sub, 1, 1, 0);
	struct disk_inode di = inode_read(b, b->dir);

	di.parent = put64(b->sub);
	inode_write(b, b->dir, &di);
	bench_close(b);
}

static void hit_orphan_stray(struct bench *b)
{
	bench_open(b);
	item_put(b, key_make(INO_VOLUME, ITEM_ORPHAN, 1000000), "", 0);
	bench_close(b);
}

static void make_orphan(struct bench *b)
{
	bench_open(b);
	remove_entry(b, b->dir, "fifo");
	inode_add(b, b->fifo, 0, -1, 0);
	item_put(b, key_make(INO_VOLUME, ITEM_ORPHAN, b->fifo), "", 0);
	bench_close(b);
}

/* A truncation that is not finished: what is behind the end is still there, and that is known. */
static void make_truncated(struct bench *b)
{
	bench_open(b);
	inode_add(b, b->data, -(int)BLOCK_SIZE, 0, 0);
	item_put(b, key_make(INO_VOLUME, ITEM_ORPHAN, b->data), "", 0);
	bench_close(b);
}

/* --- contents ---------------------------------------------------------------------------------- */

void hit_data(struct bench *b)
{
	bench_open(b);
	uint64_t blkno = data_blkno(b);

	bench_close(b);
	block_flip(b, blkno + 1);
}

static void hit_data_read(struct bench *b)
{
	bench_open(b);
	uint64_t blkno = data_blkno(b);

	bench_close(b);
	dev_sim_fail(b->r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, (blkno + 2) * BLOCK_SIZE, BLOCK_SIZE);
}

/* --- the journal ------------------------------------------------------------------------------- */

/* Appends what `payload` says as it is, and makes it durable. */
static void log_raw(struct bench *b, const void *payload, uint32_t len)
{
	uint64_t end;

	assert_int_equal(log_append(b->r.v->log, b->r.q, payload, len, NULL, &end), 0);
	assert_int_equal(log_sync_wait(b->r.v->log, b->r.q, end), 0);
}

/* A group of its own: a change of root's times. */
static void log_change(struct bench *b)
{
	inode_add(b, INO_ROOT, 0, 0, 0);
	assert_int_equal(log_sync_wait(b->r.v->log, b->r.q, log_append_lsn(b->r.v->log)), 0);
}

/* The byte of the device that holds a byte of the log. */
static void log_flip(struct bench *b, uint64_t lsn)
{
	struct super sb = bench_super(b);

	dev_sim_flip(b->r.dev, sb.journal_blkno * BLOCK_SIZE + lsn % (sb.journal_nblocks * BLOCK_SIZE), 0);
}

/* Three synced groups behind the checkpoint, then the power goes.  Returns where the first begins. */
static uint64_t crash(struct bench *b)
{
	bench_open(b);
	uint64_t start = log_append_lsn(b->r.v->log);

	for (unsigned i = 0; i < 3; i++)
		log_change(b);
	rig_after_cut(&b->r, 1);
	return start;
}

static void make_crash(struct bench *b)
{
	crash(b);
}

static void make_super_interrupted(struct bench *b)
{
	crash(b);
	struct super sb = bench_super(b);
	uint8_t block[BLOCK_SIZE];

	strcpy(sb.label, "new");
	sb.incompat = FEATURE_INCOMPAT_INODE_FLAGS;
	super_encode(&sb, 0, block);
	block_poke(b, super_blkno(sb.nblocks, 0), block);
}

static void make_torn(struct bench *b)
{
	log_flip(b, crash(b) + 2 * BLOCK_SIZE + 100);
}

static void hit_log(struct bench *b)
{
	log_flip(b, crash(b) + 100);
}

static void hit_log_read(struct bench *b)
{
	struct super sb = bench_super(b);

	crash(b);
	dev_sim_fail(b->r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, sb.journal_blkno * BLOCK_SIZE,
		     sb.journal_nblocks * BLOCK_SIZE);
}

static void hit_log_unclean(struct bench *b)
{
	crash(b);
	struct disk_root root = bench_root(b);

	root.flags = put64(ROOT_CLEAN);
	block_publish(b, &root);
}

struct raw_txn {
	struct disk_txn txn;
	struct disk_op op;
};

static void hit_log_malformed(struct bench *b)
{
	struct raw_txn raw = {.txn = {.type = RECORD_TXN, .nops = put32(1)}, .op = {.op = 99}};

	bench_open(b);
	log_raw(b, &raw, sizeof(raw));
	rig_after_cut(&b->r, 1);
}

/* Well-formed, but it deletes what does not exist. */
static void hit_log_replay(struct bench *b)
{
	struct raw_txn raw = {
		.txn = {.type = RECORD_TXN, .nops = put32(1)},
		.op = {.op = OP_DEL, .type = ITEM_INODE, .object = put64(1000000)},
	};

	bench_open(b);
	log_raw(b, &raw, sizeof(raw));
	rig_after_cut(&b->r, 1);
}

/* --- the table --------------------------------------------------------------------------------- */

static void nothing(struct bench *b)
{
	(void)b;
}

const struct hit hits[] = {
	{"nothing", nothing, 0, MENDS, 0},
	{"superblock copy", hit_super, SET(SUPER_COPY), MENDS, 0},
	{"superblock differs", hit_super_differs, SET(SUPER_DIFFERS), MENDS, 0},
	{"superblock feature", hit_super_feature, SET(SUPER_DIFFERS), MENDS, 0},
	{"superblock interrupted", make_super_interrupted, SET(SUPER_INTERRUPTED) | SET(LOG_PENDING), MENDS, 0},
	{"root copy", hit_root_copy, SET(ROOT_COPY), MENDS, 0},
	{"older root lost", hit_root_slot, SET(ROOT_SLOT), MENDS, 0},
	{"all roots lost", hit_root_lost, SET(ROOT_LOST), NO_ROOT, 0},
	{"root interrupted", hit_root_interrupted, SET(ROOT_INTERRUPTED), MENDS, 0},
	{"root nfree", hit_root_nfree, SET(ROOT_NFREE), MENDS, 0},
	{"root ninodes", hit_root_ninodes, SET(ROOT_NINODES), MENDS, 0},
	{"root next_ino", hit_root_next_ino, SET(ROOT_NEXT_INO), MENDS, 0},
	{"root errors", hit_root_errors, SET(ROOT_ERRORS), MENDS, 0},
	{"table copy", hit_table, SET(TABLE_COPY), MENDS, 0},
	{"table lost", hit_table_both, SET(TABLE_LOST), MENDS, 0},
	{"table nfree", hit_table_nfree, SET(TABLE_NFREE), MENDS, 0},
	{"bitmap copy", hit_bitmap, SET(BITMAP_COPY), MENDS, 0},
	{"bitmap lost", hit_bitmap_both, SET(BITMAP_LOST), MENDS, 0},
	{"leaked", hit_leaked, SET(SPACE_LEAKED), MENDS, 0},
	{"unmarked", hit_unmarked, SET(SPACE_UNMARKED), MENDS, 0},
	{"shared", hit_shared, SET(SPACE_SHARED), MENDS, 0},
	{"node copy", hit_node_copy, SET(NODE_COPY), MENDS, 0},
	{"leaf lost", hit_leaf, SET(NODE_LOST) | SET(NOT_CHECKED), LOSES, SOME},
	{"top node lost", hit_top, SET(NODE_LOST) | SET(NOT_CHECKED), LOSES, SOME},
	{"bad item", hit_item, SET(NODE_LOST) | SET(NOT_CHECKED), LOSES, 0},
	{"node shared", hit_node_shared, SET(NODE_SHARED) | SET(NOT_CHECKED), LOSES, SOME},
	{"stray item", hit_item_stray, SET(ITEM_STRAY), LOSES, 0},
	{"item kind", hit_item_kind, SET(ITEM_KIND), LOSES, 0},
	{"nblocks", hit_nblocks, SET(INODE_NBLOCKS), MENDS, 0},
	{"inode flags", hit_inode_flags, SET(INODE_FLAGS), MENDS, 0},
	{"inline", hit_inline, SET(INODE_INLINE), MENDS, 0},
	{"symlink", hit_symlink, SET(INODE_SYMLINK), MENDS, 0},
	{"overlap", hit_overlap, SET(EXTENT_OVERLAP), MENDS, 0},
	{"beyond", hit_beyond, SET(EXTENT_BEYOND), LOSES, 0},
	{"xattr incomplete", hit_xattr_incomplete, SET(XATTR_INCOMPLETE), LOSES, 0},
	{"xattr stray", hit_xattr_stray, SET(XATTR_STRAY), LOSES, 0},
	{"xattr duplicate", hit_xattr_duplicate, SET(XATTR_DUPLICATE), LOSES, 0},
	{"xattr acl", hit_xattr_acl, SET(XATTR_ACL), LOSES, 0},
	{"dir size", hit_dir_size, SET(DIR_SIZE), MENDS, 0},
	{"dir duplicate", hit_dir_duplicate, SET(DIR_DUPLICATE), LOSES, 0},
	{"root dir", hit_root_dir, SET(ROOT_DIR), MENDS, 0},
	{"dangling", hit_dangling, SET(ENTRY_DANGLING), LOSES, 1},
	{"entry type", hit_entry_type, SET(ENTRY_TYPE), MENDS, 0},
	{"link count", hit_link_count, SET(LINK_COUNT), MENDS, 0},
	{"directory link count", hit_dir_link_count, SET(LINK_COUNT), MENDS, 0},
	{"unreachable", hit_unreachable, SET(UNREACHABLE), MENDS, 0},
	{"unlisted orphan", hit_unlisted_orphan, SET(UNREACHABLE), MENDS, 0},
	{"dir parent", hit_dir_parent, SET(DIR_PARENT), MENDS, 0},
	{"dir links", hit_dir_links, SET(DIR_LINKS), LOSES, 0},
	{"dir cycle", hit_dir_cycle, SET(DIR_CYCLE), MENDS, 0},
	{"stray orphan", hit_orphan_stray, SET(ORPHAN_STRAY) | SET(ORPHAN_PENDING), MENDS, 0},
	{"orphan", make_orphan, SET(ORPHAN_PENDING), MENDS, 1},
	{"truncation", make_truncated, SET(ORPHAN_PENDING), MENDS, 1},
	{"data", hit_data, SET(DATA_CSUM), KEEPS_DATA_BAD, 1},
	{"data read", hit_data_read, SET(DATA_READ), KEEPS_DATA_BAD, 0},
	{"crash", make_crash, SET(LOG_PENDING), MENDS, 0},
	{"torn log", make_torn, SET(LOG_PENDING) | SET(LOG_TORN), MENDS, 0},
	{"damaged log", hit_log, SET(LOG_DAMAGED) | SET(LOG_STAKE), KEEPS_LOG_BAD, 0},
	{"unreadable log", hit_log_read, SET(LOG_UNREADABLE), KEEPS_LOG_BAD, 0},
	{"unclean log", hit_log_unclean, SET(LOG_UNCLEAN), MENDS, 0},
	{"malformed log", hit_log_malformed, SET(LOG_MALFORMED), KEEPS_LOG_BAD, 0},
	{"unreplayable log", hit_log_replay, SET(LOG_PENDING) | SET(LOG_REPLAY), KEEPS_LOG_BAD, 0},
};
const unsigned nhits = sizeof(hits) / sizeof(hits[0]);
