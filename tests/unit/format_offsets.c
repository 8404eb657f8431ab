/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format_offsets.c - prints what the compiler makes of core/format.h, for check_format_doc.py:
 *
 *	struct NAME SIZE
 *	field STRUCT NAME OFFSET SIZE	(SIZE "var": an array without a length)
 *	const NAME VALUE
 *
 * The script sees to it that nothing is missing here: it reads the header too, and fields must fill their struct.
 */
#include <inttypes.h>
#include <stdio.h>

#include "journal/log_impl.h"

#define STRUCT(s)   printf("struct %s %zu\n", #s, sizeof(struct s))
#define FIELD(s, f) printf("field %s %s %zu %zu\n", #s, #f, offsetof(struct s, f), sizeof(((struct s *)0)->f))
#define VAR(s, f)   printf("field %s %s %zu var\n", #s, #f, offsetof(struct s, f))
#define CONST(c)    printf("const %s %" PRIu64 "\n", #c, (uint64_t)(c))

static void print_blocks(void)
{
	STRUCT(disk_header);
	FIELD(disk_header, csum);
	FIELD(disk_header, magic);
	FIELD(disk_header, blkno);
	FIELD(disk_header, generation);
	FIELD(disk_header, uuid);

	STRUCT(disk_super);
	FIELD(disk_super, h);
	FIELD(disk_super, signature);
	FIELD(disk_super, version);
	FIELD(disk_super, block_size);
	FIELD(disk_super, compat);
	FIELD(disk_super, ro_compat);
	FIELD(disk_super, incompat);
	FIELD(disk_super, ngroups);
	FIELD(disk_super, nblocks);
	FIELD(disk_super, journal_blkno);
	FIELD(disk_super, journal_nblocks);
	FIELD(disk_super, table_blkno);
	FIELD(disk_super, bitmap_blkno);
	FIELD(disk_super, ntables);
	FIELD(disk_super, created_nsec);
	FIELD(disk_super, created_sec);
	FIELD(disk_super, hash_key);
	FIELD(disk_super, label);
	FIELD(disk_super, pad);

	STRUCT(disk_ptr);
	FIELD(disk_ptr, blkno);
	FIELD(disk_ptr, generation);
	FIELD(disk_ptr, csum);
	FIELD(disk_ptr, pad);

	STRUCT(disk_root);
	FIELD(disk_root, h);
	FIELD(disk_root, replay_lsn);
	FIELD(disk_root, applied_lsn);
	FIELD(disk_root, next_ino);
	FIELD(disk_root, ninodes);
	FIELD(disk_root, nfree);
	FIELD(disk_root, flags);
	FIELD(disk_root, written_sec);
	FIELD(disk_root, mount_count);
	FIELD(disk_root, error_count);
	FIELD(disk_root, last_error_sec);
	FIELD(disk_root, tree);
	FIELD(disk_root, tree_level);
	FIELD(disk_root, pad0);
	FIELD(disk_root, table_slot);
	FIELD(disk_root, table_csum);
	FIELD(disk_root, pad);

	STRUCT(disk_bitmap);
	FIELD(disk_bitmap, h);
	FIELD(disk_bitmap, group);
	FIELD(disk_bitmap, nfree);
	FIELD(disk_bitmap, pad);
	FIELD(disk_bitmap, bits);

	STRUCT(disk_table_entry);
	FIELD(disk_table_entry, csum);
	FIELD(disk_table_entry, info);

	STRUCT(disk_table);
	FIELD(disk_table, h);
	FIELD(disk_table, index);
	FIELD(disk_table, nentries);
	FIELD(disk_table, pad);
	FIELD(disk_table, entry);
}

static void print_tree(void)
{
	STRUCT(disk_slot);
	FIELD(disk_slot, object);
	FIELD(disk_slot, offset);
	FIELD(disk_slot, type);
	FIELD(disk_slot, pad0);
	FIELD(disk_slot, pos);
	FIELD(disk_slot, len);
	FIELD(disk_slot, pad1);

	STRUCT(disk_node);
	FIELD(disk_node, h);
	FIELD(disk_node, nitems);
	FIELD(disk_node, data_pos);
	FIELD(disk_node, level);
	FIELD(disk_node, pad);
	VAR(disk_node, slot);

	STRUCT(disk_time);
	FIELD(disk_time, sec);
	FIELD(disk_time, nsec);
	FIELD(disk_time, pad);

	STRUCT(disk_inode);
	FIELD(disk_inode, size);
	FIELD(disk_inode, nblocks);
	FIELD(disk_inode, mode);
	FIELD(disk_inode, uid);
	FIELD(disk_inode, gid);
	FIELD(disk_inode, nlink);
	FIELD(disk_inode, rdev);
	FIELD(disk_inode, flags);
	FIELD(disk_inode, parent);
	FIELD(disk_inode, generation);
	FIELD(disk_inode, atime);
	FIELD(disk_inode, mtime);
	FIELD(disk_inode, ctime);
	FIELD(disk_inode, btime);

	STRUCT(disk_dirent);
	FIELD(disk_dirent, ino);
	FIELD(disk_dirent, ftype);
	FIELD(disk_dirent, name_len);
	FIELD(disk_dirent, pad);
	VAR(disk_dirent, name);

	STRUCT(disk_xattr);
	FIELD(disk_xattr, value_len);
	FIELD(disk_xattr, name_len);
	FIELD(disk_xattr, pad);
	VAR(disk_xattr, name);

	STRUCT(disk_extent);
	FIELD(disk_extent, blkno);
	FIELD(disk_extent, nblocks);
	FIELD(disk_extent, flags);
	VAR(disk_extent, csum);
}

static void print_journal(void)
{
	STRUCT(disk_frame);
	FIELD(disk_frame, magic);
	FIELD(disk_frame, len);

	STRUCT(disk_group);
	FIELD(disk_group, type);
	FIELD(disk_group, flags);
	FIELD(disk_group, pad);
	FIELD(disk_group, durable_lsn);
	FIELD(disk_group, len);

	STRUCT(disk_txn);
	FIELD(disk_txn, type);
	FIELD(disk_txn, pad);
	FIELD(disk_txn, nops);

	STRUCT(disk_op);
	FIELD(disk_op, op);
	FIELD(disk_op, type);
	FIELD(disk_op, at);
	FIELD(disk_op, len);
	FIELD(disk_op, object);
	FIELD(disk_op, offset);

	STRUCT(disk_home);
	FIELD(disk_home, blkno);
	FIELD(disk_home, nblocks);
}

static void print_constants(void)
{
	CONST(BLOCK_SIZE);
	CONST(BLOCK_SHIFT);
	CONST(UUID_BYTES);
	CONST(MAGIC_SUPER);
	CONST(MAGIC_ROOT);
	CONST(MAGIC_NODE);
	CONST(MAGIC_BITMAP);
	CONST(MAGIC_TABLE);
	printf("const SUPER_SIGNATURE \"%s\"\n", SUPER_SIGNATURE);
	CONST(FORMAT_VERSION);
	CONST(LABEL_BYTES);
	CONST(SUPER_COPIES);
	CONST(FEATURE_COMPAT_KNOWN);
	CONST(FEATURE_RO_COMPAT_KNOWN);
	CONST(FEATURE_INCOMPAT_INODE_FLAGS);
	CONST(FEATURE_INCOMPAT_KNOWN);
	CONST(MAX_TABLES);
	CONST(ROOT_CLEAN);
	CONST(GROUP_BLOCKS);
	CONST(TABLE_UNINIT);
	CONST(TABLE_SLOT);
	CONST(TABLE_INFO_KNOWN);
	CONST(TABLE_GROUPS);
	CONST(NODE_SPACE);
	CONST(MAX_ITEM);
	CONST(MAX_LEVEL);
	CONST(MAX_NODE_ITEMS);
	CONST(ITEM_INODE);
	CONST(ITEM_INLINE);
	CONST(ITEM_XATTR);
	CONST(ITEM_XATTR_MORE);
	CONST(ITEM_DIRENT);
	CONST(ITEM_EXTENT);
	CONST(ITEM_ORPHAN);
	CONST(INO_VOLUME);
	CONST(INO_ROOT);
	CONST(INO_FIRST);
	CONST(MAX_FILE_SIZE);
	CONST(MAX_NAME);
	CONST(MAX_SYMLINK);
	CONST(MAX_LINKS);
	CONST(INLINE_MAX);
	CONST(INLINE_CHUNK);
	CONST(INODE_INLINE);
	CONST(INODE_SYNC);
	CONST(INODE_IMMUTABLE);
	CONST(INODE_APPEND);
	CONST(INODE_NODUMP);
	CONST(INODE_NOATIME);
	CONST(INODE_DIRSYNC);
	CONST(INODE_USER_FLAGS);
	CONST(INODE_FLAGS_KNOWN);
	CONST(XATTR_HEAD_MAX);
	CONST(XATTR_CHUNK);
	CONST(MAX_XATTR);
	CONST(EXTENT_MAX_BLOCKS);
	CONST(EXTENT_UNWRITTEN);
	CONST(FRAME_MAGIC);
	CONST(FRAME_OVERHEAD);
	CONST(GROUP_ONE_FLUSH);
	CONST(RECORD_GROUP);
	CONST(RECORD_TXN);
	CONST(RECORD_PAD);
	CONST(OP_PUT);
	CONST(OP_DEL);
	CONST(OP_PATCH);
	CONST(OP_ALLOC);
	CONST(OP_FREE);
	CONST(OP_DATA);
	CONST(OP_NEXT_INO);
	CONST(OP_HOME);
	CONST(OP_DATA_FRESH);
	CONST(TXN_MAX_OPS);
	CONST(TXN_MAX_DATA);
	CONST(UNPROVEN_MAX);
	CONST(UNPROVEN_GROUPS);
	CONST(SUPER_BLKNO0);
	CONST(SUPER_BLKNO1);
	CONST(ROOT_BLKNO);
	CONST(JOURNAL_BLKNO);
	CONST(MIN_BLOCKS);
	CONST(MIN_DATA);
	CONST(MIN_JOURNAL);
	CONST(MAX_JOURNAL);
	CONST(MAX_BLOCKS);
	CONST(HASH_COLLISIONS);
	/* The format depends on these two of journal/log_impl.h. */
	CONST(LOG_PAYLOAD_MAX);
	CONST(GROUP_FRAME_BYTES);
}

int main(void)
{
	print_blocks();
	print_tree();
	print_journal();
	print_constants();
	return 0;
}
