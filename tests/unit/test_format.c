/* SPDX-License-Identifier: Apache-2.0 */
/* test_format.c - geometry, encoding, and that every verifier refuses what is not exactly right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/format.h"

#define TIB_BLOCKS (UINT64_C(1) << (40 - BLOCK_SHIFT))
#define GENERATION 6u

/* --- helpers ---------------------------------------------------------------------------------- */

struct block {
	_Alignas(BLOCK_SIZE) uint8_t b[BLOCK_SIZE];
};

static struct super make_super(uint64_t nblocks, uint64_t journal_nblocks)
{
	struct super sb = {.nblocks = nblocks,
			   .journal_nblocks = journal_nblocks,
			   .created_sec = -5,
			   .created_nsec = 999999999};

	for (unsigned i = 0; i < 16; i++) {
		sb.uuid[i] = (uint8_t)(0xa0 + i);
		sb.hash_key[i] = (uint8_t)i;
	}
	strcpy(sb.label, "kelp");
	assert_int_equal(super_layout(&sb), 0);
	return sb;
}

static struct super small_super(void)
{
	return make_super(3 * GROUP_BLOCKS + 1000, 1024);
}

struct lines {
	unsigned n;
	char last[512];
};

static void count_line(void *arg, enum diag_level level, const char *line)
{
	struct lines *l = arg;

	assert_true(level >= DIAG_ERR && level <= DIAG_INFO);
	l->n++;
	snprintf(l->last, sizeof(l->last), "%s", line);
}

/* A block under test: how to verify it, and what of it no single byte may change. */
struct subject {
	struct super sb;
	struct block block;
	struct disk_ptr ptr; /* nodes */
	int (*check)(const struct subject *s, const struct diag *d);
};

static uint32_t subject_csum(const struct subject *s)
{
	return get32(((const struct disk_header *)s->block.b)->csum);
}

/* What a damaged block must get: a refusal, and with a diag a line that is not empty. */
static void assert_refused(const struct subject *s)
{
	struct lines lines = {0};
	struct diag d = {.emit = count_line, .arg = &lines};

	assert_int_equal(s->check(s, NULL), -EUCLEAN);
	assert_int_equal(s->check(s, &d), -EUCLEAN);
	assert_true(lines.n >= 1 && lines.last[0] != 0);
}

static void assert_every_flip_refused(struct subject *s)
{
	assert_int_equal(s->check(s, NULL), 0);
	for (unsigned i = 0; i < BLOCK_SIZE; i++) {
		uint8_t was = s->block.b[i];

		s->block.b[i] ^= (uint8_t)(1u << (i % 8));
		assert_int_equal(s->check(s, NULL), -EUCLEAN);
		s->block.b[i] = (uint8_t)~was;
		assert_int_equal(s->check(s, NULL), -EUCLEAN);
		s->block.b[i] = was;
	}
	assert_int_equal(s->check(s, NULL), 0);
}

/* Sets bytes, seals again (the pointer follows), expects a refusal, and puts everything back. */
static void assert_damage_refused(struct subject *s, size_t at, const void *bytes, size_t len)
{
	struct subject was = *s;

	assert_true(at + len <= BLOCK_SIZE);
	memcpy(s->block.b + at, bytes, len);
	s->ptr.csum = put32(header_seal(s->block.b));
	assert_memory_not_equal(s->block.b, was.block.b, BLOCK_SIZE);
	assert_refused(s);
	*s = was;
	assert_int_equal(s->check(s, NULL), 0);
}

static void assert_damage64_refused(struct subject *s, size_t at, uint64_t v)
{
	le64 raw = put64(v);

	assert_damage_refused(s, at, &raw, sizeof(raw));
}

static void assert_damage32_refused(struct subject *s, size_t at, uint32_t v)
{
	le32 raw = put32(v);

	assert_damage_refused(s, at, &raw, sizeof(raw));
}

static void assert_damage16_refused(struct subject *s, size_t at, uint16_t v)
{
	le16 raw = put16(v);

	assert_damage_refused(s, at, &raw, sizeof(raw));
}

static void assert_damage8_refused(struct subject *s, size_t at, uint8_t v)
{
	assert_damage_refused(s, at, &v, sizeof(v));
}

/* Any byte of [from, to) that is not zero is refused even under a good checksum. */
static void assert_padding_checked(struct subject *s, size_t from, size_t to)
{
	assert_true(from < to);
	for (size_t at = from; at < to; at++)
		assert_damage8_refused(s, at, (uint8_t)(1u << (at % 8)));
}

/* The header's fields, for blocks whose both addresses the verifier knows. */
static void assert_header_checked(struct subject *s)
{
	const struct disk_header *h = (const void *)s->block.b;

	assert_damage32_refused(s, offsetof(struct disk_header, magic), 0x12345678);
	assert_damage64_refused(s, offsetof(struct disk_header, blkno), get64(h->blkno[0]) + 1);
	assert_damage64_refused(s, offsetof(struct disk_header, blkno) + 8, get64(h->blkno[1]) + 1);
	assert_damage8_refused(s, offsetof(struct disk_header, uuid), 0);
	assert_damage8_refused(s, offsetof(struct disk_header, uuid) + 15, 0);
	assert_damage64_refused(s, offsetof(struct disk_header, generation), 0);
}

/* --- geometry --------------------------------------------------------------------------------- */

static void check_fixed_areas(const struct super *sb)
{
	uint64_t table = 2 * (uint64_t)sb->ntables, bitmap = 2 * (uint64_t)sb->ngroups, nfixed = 0, ndata = 0;
	struct {
		uint64_t from, to;
	} area[] = {
		{0, 64},
		{sb->journal_blkno, sb->journal_blkno + sb->journal_nblocks},
		{sb->table_blkno[0], sb->table_blkno[0] + table},
		{sb->bitmap_blkno[0], sb->bitmap_blkno[0] + bitmap},
		{sb->table_blkno[1], sb->table_blkno[1] + table},
		{sb->bitmap_blkno[1], sb->bitmap_blkno[1] + bitmap},
		{sb->nblocks - 3, sb->nblocks},
	};
	unsigned n = sizeof(area) / sizeof(area[0]);

	for (unsigned i = 0; i < n; i++) {
		assert_true(area[i].from < area[i].to && area[i].to <= sb->nblocks);
		assert_true(i == 0 || area[i - 1].to <= area[i].from);
		assert_true(super_is_fixed(sb, area[i].from));
		assert_true(super_is_fixed(sb, area[i].to - 1));
		nfixed += area[i].to - area[i].from;
	}
	for (uint64_t b = 0, end; b < sb->nblocks; b = end) {
		end = super_fixed_end(sb, b);
		assert_true(end > b && end <= sb->nblocks);
		assert_int_equal(super_is_fixed(sb, b), super_is_fixed(sb, end - 1));
		ndata += super_is_fixed(sb, b) ? 0 : end - b;
	}
	assert_true(ndata >= MIN_DATA);
	assert_int_equal(nfixed + ndata, sb->nblocks);

	uint64_t sum = 0, size = 0;
	for (uint32_t g = 0; g < sb->ngroups; g++) {
		sum += group_ndata(sb, g);
		size += group_nblocks(sb, g);
	}
	assert_int_equal(sum, ndata);
	assert_int_equal(size, sb->nblocks);
}

static void test_layout(void **state)
{
	static const uint64_t sizes[] = {
		MIN_BLOCKS,
		MIN_BLOCKS + 1,
		5000,
		GROUP_BLOCKS - 1,
		GROUP_BLOCKS,
		GROUP_BLOCKS + 1,
		GROUP_BLOCKS + 2,
		GROUP_BLOCKS + 5,
		1u << 18,
		2621440,
		(uint64_t)TABLE_GROUPS * GROUP_BLOCKS,
		(uint64_t)TABLE_GROUPS * GROUP_BLOCKS + 1,
		TIB_BLOCKS,
		5 * TIB_BLOCKS + 12345,
		MAX_BLOCKS - 1,
		MAX_BLOCKS,
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		static const uint64_t journals[] = {MIN_JOURNAL, 500, 8192, MAX_JOURNAL};

		for (unsigned j = 0; j < 4; j++) {
			struct super sb = {.nblocks = sizes[i], .journal_nblocks = journals[j]};
			int err = super_layout(&sb);

			if (j == 0 || sizes[i] > 2 * journals[j])
				assert_int_equal(err, 0);
			if (err)
				assert_int_equal(err, -EINVAL);
			else
				check_fixed_areas(&sb);
		}
	}
}

static void test_layout_limits(void **state)
{
	static const uint64_t bad[][2] = {
		{0, MIN_JOURNAL},
		{MIN_BLOCKS - 1, MIN_JOURNAL},
		{MIN_BLOCKS, MIN_JOURNAL - 1},
		{MIN_BLOCKS, MIN_BLOCKS},
		{MIN_BLOCKS, 800},
		{MAX_BLOCKS + 1, MIN_JOURNAL},
		{47 * TIB_BLOCKS, MIN_JOURNAL},
		{UINT64_MAX, MIN_JOURNAL},
		{TIB_BLOCKS, MAX_JOURNAL + 1},
		{TIB_BLOCKS, UINT64_MAX},
		{TIB_BLOCKS, 0},
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct super sb = {.nblocks = bad[i][0], .journal_nblocks = bad[i][1]};

		assert_int_equal(super_layout(&sb), -EINVAL);
	}
}

static void test_layout_keeps_identity(void **state)
{
	struct super sb = small_super(), again = sb;

	(void)state;
	assert_int_equal(super_layout(&again), 0);
	assert_memory_equal(&sb, &again, sizeof(sb));
	assert_int_equal(root_blkno(&sb, 1, 0), 18);
	assert_int_equal(root_blkno(&sb, 1, 1), sb.nblocks - 2);
	assert_int_equal(bitmap_blkno(&sb, sb.ngroups - 1, 1, 1), sb.nblocks - 4);
	assert_int_equal(table_blkno(&sb, 0, 0, 0), 64 + 1024);
}

/* --- superblock ------------------------------------------------------------------------------- */

static int check_super(const struct subject *s, const struct diag *d)
{
	struct super out;
	int err = super_decode(s->block.b, SUPER_BLKNO1, s->sb.nblocks, d, &out);

	return err;
}

static struct subject make_super_subject(void)
{
	struct subject s = {.sb = small_super(), .check = check_super};

	super_encode(&s.sb, 1, s.block.b);
	return s;
}

static void test_super_round_trip(void **state)
{
	struct super sb = small_super(), out;
	struct block block;

	(void)state;
	sb.compat = 7;
	sb.ro_compat = 8;
	sb.incompat = 9;
	memset(sb.label, 'x', LABEL_BYTES - 1);
	for (unsigned copy = 0; copy < SUPER_COPIES; copy++) {
		memset(&block, 0xee, sizeof(block));
		super_encode(&sb, copy, block.b);
		memset(&out, 0x11, sizeof(out));
		assert_int_equal(super_decode(block.b, super_blkno(sb.nblocks, copy), sb.nblocks, NULL, &out),
				 0);
		assert_memory_equal(&out, &sb, sizeof(sb));
		assert_int_equal(super_decode(block.b, 48, sb.nblocks, NULL, &out), -EUCLEAN);
	}
}

static void test_super_verdicts(void **state)
{
	struct subject s = make_super_subject();
	struct disk_super *ds = (void *)s.block.b;
	struct block other = {{0}};
	struct super out;

	(void)state;
	memset(&out, 0x11, sizeof(out));
	struct super untouched = out;
	assert_int_equal(super_decode(other.b, 16, s.sb.nblocks, NULL, &out), -ENOENT);
	memset(&other, 0xff, sizeof(other));
	assert_int_equal(super_decode(other.b, 16, s.sb.nblocks, NULL, &out), -ENOENT);
	assert_int_equal(super_decode(s.block.b, 32, s.sb.nblocks - 1, NULL, &out), -ENOSPC);
	ds->version = put32(2);
	assert_int_equal(super_decode(s.block.b, 32, s.sb.nblocks, NULL, &out), -EUCLEAN);
	header_seal(ds);
	assert_int_equal(super_decode(s.block.b, 32, s.sb.nblocks, NULL, &out), -ENOTSUP);
	assert_memory_equal(&out, &untouched, sizeof(out));
}

static void test_super_damage(void **state)
{
	struct subject s = make_super_subject();
	const struct disk_super *ds = (const void *)s.block.b;

	(void)state;
	assert_every_flip_refused(&s);
	assert_damage32_refused(&s, offsetof(struct disk_super, h.magic), MAGIC_NODE);
	assert_damage64_refused(&s, offsetof(struct disk_super, h.blkno), SUPER_BLKNO0);
	assert_damage64_refused(&s, offsetof(struct disk_super, h.blkno) + 8, 1);
	assert_damage64_refused(&s, offsetof(struct disk_super, h.generation), 1);
	assert_damage8_refused(&s, offsetof(struct disk_super, signature), 'h');
	assert_damage32_refused(&s, offsetof(struct disk_super, block_size), 8192);
	assert_damage32_refused(&s, offsetof(struct disk_super, ngroups), s.sb.ngroups + 1);
	assert_damage32_refused(&s, offsetof(struct disk_super, ntables), 0);
	assert_damage64_refused(&s, offsetof(struct disk_super, nblocks), s.sb.nblocks - 1);
	assert_damage64_refused(&s, offsetof(struct disk_super, nblocks), UINT64_MAX);
	assert_damage64_refused(&s, offsetof(struct disk_super, nblocks), 0);
	assert_damage64_refused(&s, offsetof(struct disk_super, journal_blkno), 65);
	assert_damage64_refused(&s, offsetof(struct disk_super, journal_nblocks), 1025);
	for (unsigned i = 0; i < 2; i++) {
		assert_damage64_refused(&s, offsetof(struct disk_super, table_blkno) + 8 * i, 0);
		assert_damage64_refused(&s, offsetof(struct disk_super, bitmap_blkno) + 8 * i,
					get64(ds->bitmap_blkno[i]) + 1);
	}
	assert_damage32_refused(&s, offsetof(struct disk_super, created_nsec), 1000000000);
	assert_damage8_refused(&s, offsetof(struct disk_super, label) + 200, 'x');
	uint8_t endless[LABEL_BYTES];
	memset(endless, 'x', sizeof(endless));
	assert_damage_refused(&s, offsetof(struct disk_super, label), endless, sizeof(endless));
	assert_padding_checked(&s, offsetof(struct disk_super, pad), BLOCK_SIZE);
}

/* --- root ------------------------------------------------------------------------------------- */

static int check_root(const struct subject *s, const struct diag *d)
{
	return root_check(s->block.b, &s->sb, GENERATION & 1, d);
}

static struct disk_ptr make_ptr(const struct super *sb, uint64_t distance, uint64_t generation)
{
	struct disk_ptr p = {.generation = put64(generation), .csum = put32(0xabcdef)};

	p.blkno[0] = put64(super_data_begin(sb) + distance);
	p.blkno[1] = put64(super_data_end(sb) - 1 - distance);
	return p;
}

static struct subject make_root_subject(void)
{
	struct subject s = {.sb = small_super(), .check = check_root};
	struct disk_root *r = (void *)s.block.b;

	header_init(r, MAGIC_ROOT, s.sb.uuid, root_blkno(&s.sb, 0, 0), root_blkno(&s.sb, 0, 1), GENERATION);
	r->replay_lsn = put64(BLOCK_SIZE * 77);
	r->next_ino = put64(100);
	r->ninodes = put64(80);
	r->nfree = put64(5000);
	r->flags = put64(ROOT_CLEAN);
	r->mount_count = put64(UINT64_MAX);
	r->tree = make_ptr(&s.sb, 3, GENERATION);
	r->tree_level = MAX_LEVEL - 1;
	r->table_slot[0] = 1;
	r->table_csum[0] = put32(0x1234);
	header_seal(r);
	return s;
}

#define ROOT_AT(field) offsetof(struct disk_root, field)

static void test_root_damage(void **state)
{
	struct subject s = make_root_subject();
	const struct super *sb = &s.sb;

	(void)state;
	assert_every_flip_refused(&s);
	assert_header_checked(&s);
	assert_damage64_refused(&s, ROOT_AT(h.generation), GENERATION + 1);
	assert_damage64_refused(&s, ROOT_AT(h.generation), GENERATION - 2); /* younger pointer */
	assert_damage64_refused(&s, ROOT_AT(replay_lsn), BLOCK_SIZE * 77 + 8);
	assert_damage64_refused(&s, ROOT_AT(next_ino), INO_FIRST - 1);
	assert_damage64_refused(&s, ROOT_AT(next_ino), 79);
	assert_damage64_refused(&s, ROOT_AT(ninodes), 101);
	assert_damage64_refused(&s, ROOT_AT(nfree), super_data_end(sb) - super_data_begin(sb) + 1);
	assert_damage64_refused(&s, ROOT_AT(flags), ROOT_CLEAN | 2);
	assert_damage64_refused(&s, ROOT_AT(tree.blkno), 0);
	assert_damage64_refused(&s, ROOT_AT(tree.blkno), super_data_begin(sb) - 1);
	assert_damage64_refused(&s, ROOT_AT(tree.blkno) + 8, super_data_end(sb));
	assert_damage64_refused(&s, ROOT_AT(tree.blkno) + 8, UINT64_MAX);
	assert_damage64_refused(&s, ROOT_AT(tree.blkno) + 8, super_data_begin(sb) + 3);
	assert_damage64_refused(&s, ROOT_AT(tree.generation), GENERATION + 1);
	assert_damage64_refused(&s, ROOT_AT(tree.generation), 0);
	assert_damage32_refused(&s, ROOT_AT(tree.pad), 1);
	assert_damage8_refused(&s, ROOT_AT(tree_level), MAX_LEVEL);
	assert_damage8_refused(&s, ROOT_AT(table_slot), 3);
	assert_damage32_refused(&s, ROOT_AT(table_csum) + 4, 1);
	assert_damage32_refused(&s, ROOT_AT(table_csum) + 4 * (MAX_TABLES - 1), 1);
	assert_padding_checked(&s, ROOT_AT(pad0), ROOT_AT(table_slot));
	assert_padding_checked(&s, ROOT_AT(pad), BLOCK_SIZE);
}

static void test_root_empty_tree(void **state)
{
	struct subject s = make_root_subject();
	struct disk_root *r = (void *)s.block.b;

	(void)state;
	assert_int_equal(root_check(r, &s.sb, 1, NULL), -EUCLEAN);
	memset(&r->tree, 0, sizeof(r->tree));
	r->tree_level = 0;
	header_seal(r);
	assert_int_equal(check_root(&s, NULL), 0);
	assert_damage8_refused(&s, ROOT_AT(tree_level), 1);
	assert_damage64_refused(&s, ROOT_AT(tree.generation), 1);
	assert_damage32_refused(&s, ROOT_AT(tree.csum), 1);
}

/* --- bitmaps and tables ----------------------------------------------------------------------- */

/* The group that holds the data area's end, so that its last bits are of every kind. */
#define LAST_GROUP 3u

static int check_bitmap(const struct subject *s, const struct diag *d)
{
	return bitmap_check(s->block.b, &s->sb, LAST_GROUP, 1, subject_csum(s), d);
}

static struct subject make_bitmap_subject(void)
{
	struct subject s = {.sb = small_super(), .check = check_bitmap};
	struct disk_bitmap *b = (void *)s.block.b;

	header_init(b, MAGIC_BITMAP, s.sb.uuid, bitmap_blkno(&s.sb, LAST_GROUP, 1, 0),
		    bitmap_blkno(&s.sb, LAST_GROUP, 1, 1), GENERATION);
	b->group = put32(LAST_GROUP);
	b->nfree = put32(group_ndata(&s.sb, LAST_GROUP) - 1);
	memset(b->bits, 0xff, sizeof(b->bits));
	for (uint32_t i = 1; i < group_ndata(&s.sb, LAST_GROUP); i++)
		b->bits[i / 8] &= (uint8_t) ~(1u << (i % 8));
	header_seal(b);
	return s;
}

static void test_bitmap_damage(void **state)
{
	struct subject s = make_bitmap_subject();
	struct disk_bitmap *b = (void *)s.block.b;
	uint32_t nfree = get32(b->nfree), ndata = nfree + 1;

	(void)state;
	assert_int_equal(ndata, 1000 - 3 - 2 * 5);
	assert_every_flip_refused(&s);
	assert_header_checked(&s);
	assert_int_equal(bitmap_check(b, &s.sb, LAST_GROUP, 0, subject_csum(&s), NULL), -EUCLEAN);
	assert_int_equal(bitmap_check(b, &s.sb, LAST_GROUP - 1, 1, subject_csum(&s), NULL), -EUCLEAN);
	assert_int_equal(bitmap_check(b, &s.sb, LAST_GROUP, 1, subject_csum(&s) + 1, NULL), -EUCLEAN);
	assert_damage32_refused(&s, offsetof(struct disk_bitmap, group), LAST_GROUP + 1);
	assert_damage32_refused(&s, offsetof(struct disk_bitmap, nfree), nfree + 1);
	assert_damage8_refused(&s, offsetof(struct disk_bitmap, bits), 0);
	assert_padding_checked(&s, offsetof(struct disk_bitmap, pad), offsetof(struct disk_bitmap, bits));

	/* A fixed block, the volume's last, one behind its end: free in the bits, and counted. */
	uint32_t wrong[] = {ndata, 999, 1000, GROUP_BLOCKS - 1};
	for (unsigned i = 0; i < 4; i++) {
		struct subject was = s;

		b->bits[wrong[i] / 8] &= (uint8_t) ~(1u << (wrong[i] % 8));
		b->nfree = put32(nfree + 1);
		header_seal(b);
		assert_refused(&s);
		s = was;
	}
}

/* The group in which the fixed areas of the front end. */
static void test_bitmap_front(void **state)
{
	struct super sb = small_super();
	struct subject s = make_bitmap_subject();
	struct disk_bitmap *b = (void *)s.block.b;
	uint32_t begin = (uint32_t)super_data_begin(&sb);

	(void)state;
	header_init(b, MAGIC_BITMAP, sb.uuid, bitmap_blkno(&sb, 0, 0, 0), bitmap_blkno(&sb, 0, 0, 1), 1);
	b->group = put32(0);
	for (unsigned used = begin - 1; used <= begin + 1; used++) {
		memset(b->bits, 0, sizeof(b->bits));
		for (uint32_t i = 0; i < used; i++)
			b->bits[i / 8] |= (uint8_t)(1u << (i % 8));
		b->nfree = put32(GROUP_BLOCKS - used);
		uint32_t csum = header_seal(b);
		assert_int_equal(bitmap_check(b, &sb, 0, 0, csum, NULL), used < begin ? -EUCLEAN : 0);
	}
}

static int check_table(const struct subject *s, const struct diag *d)
{
	return table_check(s->block.b, &s->sb, 0, 1, subject_csum(s), d);
}

static struct subject make_table_subject(void)
{
	struct subject s = {.sb = small_super(), .check = check_table};
	struct disk_table *t = (void *)s.block.b;

	header_init(t, MAGIC_TABLE, s.sb.uuid, table_blkno(&s.sb, 0, 1, 0), table_blkno(&s.sb, 0, 1, 1),
		    GENERATION);
	t->nentries = put32(s.sb.ngroups);
	t->entry[0].csum = put32(77);
	t->entry[0].info = put32(TABLE_SLOT | 17);
	t->entry[1].info = put32(TABLE_UNINIT | GROUP_BLOCKS);
	t->entry[2].info = put32(0);
	t->entry[3].csum = put32(78);
	t->entry[3].info = put32(group_ndata(&s.sb, 3));
	header_seal(t);
	return s;
}

#define ENTRY_AT(e, field) (offsetof(struct disk_table, entry[0].field) + 8 * (size_t)(e))

static void test_table_damage(void **state)
{
	struct subject s = make_table_subject();

	(void)state;
	assert_every_flip_refused(&s);
	assert_header_checked(&s);
	assert_int_equal(table_check(s.block.b, &s.sb, 0, 0, subject_csum(&s), NULL), -EUCLEAN);
	assert_int_equal(table_check(s.block.b, &s.sb, 0, 1, subject_csum(&s) ^ 1, NULL), -EUCLEAN);
	assert_damage32_refused(&s, offsetof(struct disk_table, index), 1);
	assert_damage32_refused(&s, offsetof(struct disk_table, nentries), 3);
	assert_damage32_refused(&s, offsetof(struct disk_table, nentries), 5);
	assert_damage32_refused(&s, offsetof(struct disk_table, nentries), UINT32_MAX);
	assert_damage32_refused(&s, ENTRY_AT(0, info), TABLE_SLOT | (GROUP_BLOCKS + 1));
	assert_damage32_refused(&s, ENTRY_AT(0, info), TABLE_SLOT | 17 | 0x10000);
	assert_damage32_refused(&s, ENTRY_AT(1, csum), 1);
	assert_damage32_refused(&s, ENTRY_AT(1, info), TABLE_UNINIT | (GROUP_BLOCKS - 1));
	assert_damage32_refused(&s, ENTRY_AT(1, info), TABLE_UNINIT | TABLE_SLOT | GROUP_BLOCKS);
	assert_damage32_refused(&s, ENTRY_AT(3, info), group_ndata(&s.sb, 3) + 1);
	assert_damage32_refused(&s, ENTRY_AT(4, csum), 1);
	assert_damage32_refused(&s, ENTRY_AT(TABLE_GROUPS - 1, info), 1);
	assert_padding_checked(&s, offsetof(struct disk_table, pad), offsetof(struct disk_table, entry));
}

/* --- nodes ------------------------------------------------------------------------------------ */

static const struct key key_zero;

/* A leaf between two keys, an inner node without an upper bound. */
#define LEAF_LO key_make(20, ITEM_INODE, 0)
#define LEAF_HI key_make(40, ITEM_INODE, 0)
#define INNER_LO key_make(9, ITEM_EXTENT, 5)

static int check_leaf(const struct subject *s, const struct diag *d)
{
	struct key lo = LEAF_LO, hi = LEAF_HI;

	return node_check(s->block.b, &s->sb, &s->ptr, get64(s->ptr.blkno[1]), 0, &lo, &hi, d);
}

static int check_inner(const struct subject *s, const struct diag *d)
{
	struct key lo = INNER_LO;

	return node_check(s->block.b, &s->sb, &s->ptr, get64(s->ptr.blkno[0]), 2, &lo, NULL, d);
}

static void node_add(struct disk_node *n, struct key key, const void *val, unsigned len)
{
	unsigned i = get16(n->nitems), pos = get16(n->data_pos) - len;

	memcpy((uint8_t *)n + pos, val, len);
	n->slot[i] = (struct disk_slot){.object = put64(key.object),
					.offset = put64(key.offset),
					.type = key.type,
					.pos = put16((uint16_t)pos),
					.len = put16((uint16_t)len)};
	n->nitems = put16((uint16_t)(i + 1));
	n->data_pos = put16((uint16_t)pos);
}

static struct subject make_node_subject(unsigned level)
{
	struct subject s = {.sb = small_super(), .check = level ? check_inner : check_leaf};
	struct disk_node *n = (void *)s.block.b;

	s.ptr = make_ptr(&s.sb, 11, GENERATION);
	header_init(n, MAGIC_NODE, s.sb.uuid, get64(s.ptr.blkno[0]), get64(s.ptr.blkno[1]), GENERATION);
	n->level = (uint8_t)level;
	n->data_pos = put16(BLOCK_SIZE);
	return s;
}

static void subject_seal(struct subject *s)
{
	s->ptr.csum = put32(header_seal(s->block.b));
}

static struct disk_inode make_inode(void)
{
	struct disk_inode in = {.size = put64(4096),
				.nblocks = put64(1),
				.mode = put32(S_IFREG | 04755),
				.nlink = put32(1)};

	in.mtime.nsec = put32(999999999);
	return in;
}

static struct subject make_leaf_subject(void)
{
	struct subject s = make_node_subject(0);
	struct disk_node *n = (void *)s.block.b;
	struct disk_inode in = make_inode();
	uint8_t text[100] = "some text";

	for (uint64_t ino = 20; ino < 24; ino++) {
		node_add(n, key_make(ino, ITEM_INODE, 0), &in, sizeof(in));
		node_add(n, key_make(ino, ITEM_INLINE, 0), text, (unsigned)(sizeof(text) - ino));
	}
	subject_seal(&s);
	return s;
}

static struct subject make_inner_subject(void)
{
	struct subject s = make_node_subject(2);
	struct disk_node *n = (void *)s.block.b;

	for (unsigned i = 0; i < 5; i++) {
		struct disk_ptr p = make_ptr(&s.sb, 100 + i, i + 1);

		node_add(n, i == 0 ? INNER_LO : key_make(10 + i, ITEM_INODE, 0), &p, sizeof(p));
	}
	subject_seal(&s);
	return s;
}

#define SLOT_AT(i, field)                                                                                    \
	(sizeof(struct disk_node) + sizeof(struct disk_slot) * (size_t)(i) +                                 \
	 offsetof(struct disk_slot, field))
#define NODE_AT(field) offsetof(struct disk_node, field)

static void assert_node_head_checked(struct subject *s)
{
	const struct disk_node *n = (const void *)s->block.b;
	unsigned nitems = get16(n->nitems);

	assert_every_flip_refused(s);
	assert_header_checked(s);
	assert_damage64_refused(s, NODE_AT(h.generation), GENERATION + 1);
	assert_damage64_refused(s, NODE_AT(h.generation), GENERATION - 1);
	assert_damage8_refused(s, NODE_AT(level), (uint8_t)(n->level + 1));
	assert_damage16_refused(s, NODE_AT(nitems), (uint16_t)(nitems - 1));
	assert_damage16_refused(s, NODE_AT(nitems), (uint16_t)(nitems + 1));
	assert_damage16_refused(s, NODE_AT(nitems), 0);
	assert_damage16_refused(s, NODE_AT(nitems), UINT16_MAX);
	assert_damage16_refused(s, NODE_AT(data_pos), (uint16_t)(get16(n->data_pos) - 1));
	assert_damage16_refused(s, NODE_AT(data_pos), (uint16_t)(get16(n->data_pos) + 1));
	assert_damage16_refused(s, NODE_AT(data_pos), 0);
	assert_padding_checked(s, NODE_AT(pad), NODE_AT(slot));
	assert_padding_checked(s, SLOT_AT(nitems, object), get16(n->data_pos));
	for (unsigned i = 0; i < nitems; i++) {
		unsigned pos = get16(n->slot[i].pos), len = get16(n->slot[i].len);

		assert_damage8_refused(s, SLOT_AT(i, pad0), 1);
		assert_damage16_refused(s, SLOT_AT(i, pad1), 1);
		assert_damage16_refused(s, SLOT_AT(i, pos), (uint16_t)(pos - 1));
		assert_damage16_refused(s, SLOT_AT(i, pos), 0);
		assert_damage16_refused(s, SLOT_AT(i, pos), UINT16_MAX);
		assert_damage16_refused(s, SLOT_AT(i, len), (uint16_t)(len + 1));
		assert_damage16_refused(s, SLOT_AT(i, len), 0);
		assert_damage16_refused(s, SLOT_AT(i, len), UINT16_MAX);
		if (i > 0)
			assert_damage_refused(s, SLOT_AT(i, object), &n->slot[i - 1], 17); /* the same key */
	}
	/* Read from where neither copy lives; named by a pointer to other copies. */
	struct disk_ptr ptr = s->ptr;
	s->ptr.blkno[0] = s->ptr.blkno[1] = put64(get64(ptr.blkno[0]) + 1);
	assert_refused(s);
	s->ptr = ptr;
	s->ptr.csum = put32(get32(ptr.csum) ^ 1);
	assert_refused(s);
	s->ptr = ptr;
}

static void test_leaf_damage(void **state)
{
	struct subject s = make_leaf_subject();

	(void)state;
	assert_node_head_checked(&s);
	assert_damage64_refused(&s, SLOT_AT(0, object), 19); /* below lo */
	assert_damage64_refused(&s, SLOT_AT(7, object), 40); /* not below hi */
	assert_damage64_refused(&s, SLOT_AT(4, object), 21); /* order */
	assert_damage8_refused(&s, SLOT_AT(7, type), 8);
	assert_damage8_refused(&s, SLOT_AT(7, type), ITEM_EXTENT);
	assert_damage64_refused(&s, SLOT_AT(2, offset), 1); /* an inode's offset */
}

static void test_inner_damage(void **state)
{
	struct subject s = make_inner_subject();
	const struct disk_node *n = (const void *)s.block.b;

	(void)state;
	assert_node_head_checked(&s);
	assert_damage64_refused(&s, SLOT_AT(0, offset), 4); /* below the parent's key */
	assert_damage64_refused(&s, SLOT_AT(0, object), 8);
	assert_damage64_refused(&s, SLOT_AT(0, object), 12); /* order */
	assert_damage64_refused(&s, SLOT_AT(2, object), 11);
	for (unsigned i = 0; i < 5; i++) {
		size_t at = get16(n->slot[i].pos);

		assert_damage64_refused(&s, at, 0);
		assert_damage64_refused(&s, at + 8, s.sb.nblocks);
		assert_damage64_refused(&s, at + 16, 0);
		assert_damage64_refused(&s, at + 16, GENERATION + 1);
		assert_damage32_refused(&s, at + 28, 1);
	}
}

/* An inner node whose values are packed but are no pointers. */
static void test_inner_value_size(void **state)
{
	struct subject s = make_node_subject(2);
	struct disk_ptr p[2] = {make_ptr(&s.sb, 1, 1), make_ptr(&s.sb, 2, 1)};

	(void)state;
	node_add((void *)s.block.b, INNER_LO, p, 40);
	subject_seal(&s);
	assert_refused(&s);

	/* Slot 0 may begin higher than the parent says. */
	s = make_node_subject(2);
	node_add((void *)s.block.b, key_make(10, ITEM_EXTENT, 5), p, sizeof(p[0]));
	subject_seal(&s);
	assert_int_equal(check_inner(&s, NULL), 0);
}

static void test_node_limits(void **state)
{
	struct subject s = make_node_subject(0);
	struct disk_node *n = (void *)s.block.b;
	struct key hi = key_make(1, 0, 0);
	uint8_t big[MAX_ITEM + 1] = {0};

	(void)state;
	/* An empty leaf is the empty tree or nothing, an empty inner node is nothing. */
	subject_seal(&s);
	assert_refused(&s);
	assert_int_equal(node_check(n, &s.sb, &s.ptr, get64(s.ptr.blkno[0]), 0, &key_zero, &hi, NULL),
			 -EUCLEAN);
	assert_int_equal(node_check(n, &s.sb, &s.ptr, get64(s.ptr.blkno[0]), 0, &key_zero, NULL, NULL), 0);
	n->level = 1;
	subject_seal(&s);
	assert_int_equal(node_check(n, &s.sb, &s.ptr, get64(s.ptr.blkno[0]), 1, &key_zero, NULL, NULL),
			 -EUCLEAN);

	/* As many orphans as fit, none of them with a byte of value. */
	n->level = 0;
	for (unsigned i = 0; i < MAX_NODE_ITEMS; i++)
		node_add(n, key_make(0, ITEM_ORPHAN, 100 + i), "", 0);
	subject_seal(&s);
	assert_int_equal(node_check(n, &s.sb, &s.ptr, get64(s.ptr.blkno[0]), 0, &key_zero, &hi, NULL), 0);
	n->nitems = put16(MAX_NODE_ITEMS + 1);
	subject_seal(&s);
	assert_int_equal(node_check(n, &s.sb, &s.ptr, get64(s.ptr.blkno[0]), 0, &key_zero, &hi, NULL),
			 -EUCLEAN);

	/* Values that reach into the slots. */
	s = make_node_subject(0);
	for (unsigned i = 0; i < 3; i++)
		node_add(n, key_make(20 + i, ITEM_EXTENT, 0), big, MAX_ITEM);
	node_add(n, key_make(24, ITEM_EXTENT, 0), big, 100);
	subject_seal(&s);
	assert_refused(&s);

	/* A value that is packed but too long. */
	s = make_node_subject(0);
	node_add(n, LEAF_LO, big, sizeof(big));
	subject_seal(&s);
	assert_refused(&s);
}

/* Whatever a sealed node holds, its verifier stays inside it; run under ASan this says something. */
static void test_node_garbage(void **state)
{
	struct subject leaf = make_leaf_subject(), inner = make_inner_subject();
	unsigned refused = 0;

	(void)state;
	srandom(7);
	for (unsigned round = 0; round < 20000; round++) {
		struct subject s = round & 1 ? inner : leaf;

		for (unsigned i = 0; i <= round % 4; i++)
			s.block.b[48 + (unsigned)random() % (i % 2 ? 300 : 4048)] = (uint8_t)random();
		subject_seal(&s);
		refused += s.check(&s, NULL) == -EUCLEAN;
	}
	assert_true(refused > 1000);
}

/* --- items ------------------------------------------------------------------------------------ */

struct item {
	struct super sb;
	struct key key;
	unsigned len;
	_Alignas(8) uint8_t val[2048];
};

static int check_item(const struct item *it)
{
	/* In memory of exactly its length, so that ASan sees a verifier that looks further. */
	uint8_t *val = malloc(it->len ? it->len : 1);

	assert_non_null(val);
	memcpy(val, it->val, it->len);
	int err = item_check(&it->sb, &it->key, val, it->len, NULL);
	free(val);
	return err;
}

/* Changes an item, expects the verdict, puts it back. */
static void item_verdict(struct item *it, size_t at, uint64_t v, unsigned size, int verdict)
{
	le64 raw = put64(v);
	struct item was = *it;

	memcpy(it->val + at, &raw, size);
	assert_int_equal(check_item(it), verdict);
	*it = was;
}

static void key_verdict(struct item *it, struct key key, int verdict)
{
	struct key was = it->key;

	it->key = key;
	assert_int_equal(check_item(it), verdict);
	it->key = was;
}

static void len_verdict(struct item *it, unsigned len, int verdict)
{
	unsigned was = it->len;

	it->len = len;
	assert_int_equal(check_item(it), verdict);
	it->len = was;
}

static struct item make_item(uint8_t type, uint64_t offset, const void *val, unsigned len)
{
	struct item it = {.sb = small_super(),
			  .key = key_make(type == ITEM_ORPHAN ? 0 : 30, type, offset),
			  .len = len};

	memcpy(it.val, val, len);
	assert_int_equal(check_item(&it), 0);
	if (type != ITEM_ORPHAN)
		key_verdict(&it, key_make(0, type, offset), -EUCLEAN);
	return it;
}

#define INODE_AT(field) offsetof(struct disk_inode, field)

static void test_item_inode(void **state)
{
	static const uint32_t good[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};
	static const uint32_t bad[] = {0,         0170000, 0130000, S_IFREG | 0200000, S_IFREG | 0x80000000,
				       010000 * 3};
	struct disk_inode in = make_inode();
	struct item it = make_item(ITEM_INODE, 0, &in, sizeof(in));

	(void)state;
	key_verdict(&it, key_make(30, ITEM_INODE, 1), -EUCLEAN);
	len_verdict(&it, sizeof(in) - 1, -EUCLEAN);
	len_verdict(&it, sizeof(in) + 1, -EUCLEAN);
	len_verdict(&it, 0, -EUCLEAN);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		item_verdict(&it, INODE_AT(mode), bad[i], 4, -EUCLEAN);
	item_verdict(&it, INODE_AT(nlink), MAX_LINKS, 4, 0);
	item_verdict(&it, INODE_AT(nlink), MAX_LINKS + 1, 4, -EUCLEAN);
	item_verdict(&it, INODE_AT(size), MAX_FILE_SIZE, 8, 0);
	item_verdict(&it, INODE_AT(size), MAX_FILE_SIZE + 1, 8, -EUCLEAN);
	item_verdict(&it, INODE_AT(nblocks), it.sb.nblocks + 1, 8, -EUCLEAN);
	item_verdict(&it, INODE_AT(flags), 2, 8, -EUCLEAN);
	item_verdict(&it, INODE_AT(flags), INODE_INLINE, 8, -EUCLEAN); /* it has a block */
	item_verdict(&it, INODE_AT(parent), 1, 8, -EUCLEAN);
	for (size_t t = INODE_AT(atime); t < sizeof(in); t += sizeof(struct disk_time)) {
		item_verdict(&it, t, UINT64_MAX, 8, 0);
		item_verdict(&it, t + 8, 1000000000, 4, -EUCLEAN);
		item_verdict(&it, t + 12, 1, 4, -EUCLEAN);
	}
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		in.mode = put32(good[i] | 07777);
		in.nblocks = put64(0);
		in.size = put64(900);
		in.parent = put64(S_ISDIR(good[i]) ? 1 : 0);
		it = make_item(ITEM_INODE, 0, &in, sizeof(in));
		bool may_inline = S_ISREG(good[i]) || S_ISLNK(good[i]);

		item_verdict(&it, INODE_AT(flags), INODE_INLINE, 8, may_inline ? 0 : -EUCLEAN);
		for (uint64_t bit = 2; bit; bit <<= 1) {
			uint64_t may = S_ISDIR(good[i]) ? 0x100f8 : S_ISREG(good[i]) ? 0xf8 : 0xc0;

			item_verdict(&it, INODE_AT(flags), bit, 8, bit & may ? 0 : -EUCLEAN);
		}
		item_verdict(&it, INODE_AT(nblocks), 1, 8, S_ISREG(good[i]) ? 0 : -EUCLEAN);
		item_verdict(&it, INODE_AT(size), MAX_SYMLINK, 8, 0);
		item_verdict(&it, INODE_AT(size), MAX_SYMLINK + 1, 8, S_ISLNK(good[i]) ? -EUCLEAN : 0);
		item_verdict(&it, INODE_AT(parent), S_ISDIR(good[i]) ? 0 : 1, 8, -EUCLEAN);
	}
	in.mode = put32(S_IFREG);
	in.parent = put64(0);
	in.flags = put64(INODE_INLINE);
	it = make_item(ITEM_INODE, 0, &in, sizeof(in));
	item_verdict(&it, INODE_AT(size), INLINE_MAX, 8, 0);
	item_verdict(&it, INODE_AT(size), INLINE_MAX + 1, 8, -EUCLEAN);
}

static void test_item_inline(void **state)
{
	uint8_t text[1025] = "text";
	struct item it = make_item(ITEM_INLINE, 0, text, 1024);

	(void)state;
	len_verdict(&it, 1, 0);
	len_verdict(&it, 1025, -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_INLINE, 1), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_INLINE, 2048), 0);
	key_verdict(&it, key_make(30, ITEM_INLINE, 3072), -EUCLEAN); /* 4096 bytes of target */
	key_verdict(&it, key_make(30, ITEM_INLINE, 4096), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_INLINE, UINT64_MAX - 1023), -EUCLEAN);
	it.key.offset = 3072;
	len_verdict(&it, 1023, 0);
}

static struct item make_dirent(const char *name, unsigned name_len)
{
	struct super sb = small_super();
	struct item it = {.sb = sb, .len = (unsigned)sizeof(struct disk_dirent) + name_len};
	struct disk_dirent de = {.ino = put64(77), .ftype = DT_REG, .name_len = (uint8_t)name_len};

	memcpy(it.val, &de, sizeof(de));
	memcpy(it.val + sizeof(de), name, name_len);
	it.key = key_make(30, ITEM_DIRENT, dirent_offset(&sb, name, name_len));
	return it;
}

static void test_item_dirent(void **state)
{
	static const uint8_t good[] = {DT_REG, DT_DIR, DT_LNK, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK};
	static const uint8_t bad[] = {DT_UNKNOWN, DT_WHT, 3, 255};
	struct item it = make_dirent("kelp", 4);
	uint64_t offset = it.key.offset;

	(void)state;
	assert_int_equal(check_item(&it), 0);
	key_verdict(&it, key_make(0, ITEM_DIRENT, offset), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_DIRENT, offset + 255), 0);
	key_verdict(&it, key_make(30, ITEM_DIRENT, offset + 256), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_DIRENT, offset - 1), -EUCLEAN);
	item_verdict(&it, 0, 0, 8, -EUCLEAN);
	for (unsigned i = 0; i < sizeof(good); i++)
		item_verdict(&it, offsetof(struct disk_dirent, ftype), good[i], 1, 0);
	for (unsigned i = 0; i < sizeof(bad); i++)
		item_verdict(&it, offsetof(struct disk_dirent, ftype), bad[i], 1, -EUCLEAN);
	for (unsigned i = 0; i < 6; i++)
		item_verdict(&it, offsetof(struct disk_dirent, pad) + i, 1, 1, -EUCLEAN);
	item_verdict(&it, offsetof(struct disk_dirent, name_len), 3, 1, -EUCLEAN);
	item_verdict(&it, offsetof(struct disk_dirent, name_len), 255, 1, -EUCLEAN);
	for (unsigned len = 0; len < it.len; len++)
		len_verdict(&it, len, -EUCLEAN);
	len_verdict(&it, it.len + 1, -EUCLEAN);

	/* Names under their right hash, but no names. */
	char longest[MAX_NAME];
	memset(longest, 'n', sizeof(longest));
	it = make_dirent(longest, MAX_NAME);
	assert_int_equal(check_item(&it), 0);
	static const struct {
		const char *name;
		unsigned len;
		int verdict;
	} names[] = {
		{"", 0, -EUCLEAN},     {".", 1, -EUCLEAN}, {"..", 2, -EUCLEAN},
		{"...", 3, 0},         {".a", 2, 0},       {"a/b", 3, -EUCLEAN},
		{"a\0b", 3, -EUCLEAN}, {"/", 1, -EUCLEAN}, {"\xff\x01", 2, 0},
	};
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		it = make_dirent(names[i].name, names[i].len);
		assert_int_equal(check_item(&it), names[i].verdict);
	}
}

static struct item make_xattr(const char *name, unsigned name_len, uint32_t value_len)
{
	struct super sb = small_super();
	uint32_t head_len = value_len < XATTR_HEAD_MAX ? value_len : XATTR_HEAD_MAX;
	struct item it = {.sb = sb, .len = (unsigned)sizeof(struct disk_xattr) + name_len + head_len};
	struct disk_xattr xa = {.value_len = put32(value_len), .name_len = (uint8_t)name_len};

	memcpy(it.val, &xa, sizeof(xa));
	memcpy(it.val + sizeof(xa), name, name_len);
	memset(it.val + sizeof(xa) + name_len, 'v', head_len);
	it.key = key_make(30, ITEM_XATTR, xattr_offset(&sb, name, name_len));
	return it;
}

static void test_item_xattr(void **state)
{
	static const uint32_t lens[] = {0, 1, 767, 768, 769, 65536};
	struct item it;

	(void)state;
	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		it = make_xattr("user.a/b", 8, lens[i]);
		assert_int_equal(check_item(&it), 0);
		len_verdict(&it, it.len - 1, -EUCLEAN);
		len_verdict(&it, it.len + 1, -EUCLEAN);
		item_verdict(&it, 0, lens[i] < 768 ? lens[i] + 1 : 767, 4, -EUCLEAN);
		item_verdict(&it, 0, 65537, 4, -EUCLEAN);
		item_verdict(&it, offsetof(struct disk_xattr, name_len), 7, 1, -EUCLEAN);
		for (unsigned p = 0; p < 3; p++)
			item_verdict(&it, offsetof(struct disk_xattr, pad) + p, 1, 1, -EUCLEAN);
		key_verdict(&it, key_make(30, ITEM_XATTR, it.key.offset + 255), 0);
		key_verdict(&it, key_make(30, ITEM_XATTR, it.key.offset + 256), -EUCLEAN);
		key_verdict(&it, key_make(0, ITEM_XATTR, it.key.offset), -EUCLEAN);
	}
	it = make_xattr("", 0, 5);
	assert_int_equal(check_item(&it), -EUCLEAN);
	it = make_xattr("a\0b", 3, 5);
	assert_int_equal(check_item(&it), -EUCLEAN);
	it = make_xattr("a", 1, 5);
	for (unsigned len = 0; len < it.len; len++)
		len_verdict(&it, len, -EUCLEAN);
}

static void test_item_xattr_more(void **state)
{
	uint8_t bytes[1025] = {0};
	struct item it = make_item(ITEM_XATTR_MORE, UINT64_C(256) << 7, bytes, 1024);

	(void)state;
	len_verdict(&it, 1, 0);
	len_verdict(&it, 0, -EUCLEAN);
	len_verdict(&it, 1025, -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_XATTR_MORE, (UINT64_C(256) << 7) + 63), 0);
	key_verdict(&it, key_make(30, ITEM_XATTR_MORE, (UINT64_C(256) << 7) + 64), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_XATTR_MORE, UINT64_C(255) << 7), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_XATTR_MORE, UINT64_C(1) << 63), -EUCLEAN);
}

static void test_item_extent(void **state)
{
	uint8_t bytes[16 + 4 * 257] = {0};
	struct disk_extent ex = {.nblocks = put32(256)};
	struct super sb = small_super();
	uint64_t begin = super_data_begin(&sb), end = super_data_end(&sb);

	(void)state;
	ex.blkno = put64(begin);
	memcpy(bytes, &ex, sizeof(ex));
	struct item it = make_item(ITEM_EXTENT, 5, bytes, 16 + 4 * 256);
	len_verdict(&it, 16 + 4 * 256 - 1, -EUCLEAN);
	len_verdict(&it, 16 + 4 * 257, -EUCLEAN);
	for (unsigned len = 0; len <= 16; len++)
		len_verdict(&it, len, -EUCLEAN);
	item_verdict(&it, 0, end - 256, 8, 0);
	static const uint64_t wild[] = {0, 64, UINT64_MAX, UINT64_MAX - 255, UINT64_C(1) << 63};
	for (unsigned i = 0; i < 5; i++)
		item_verdict(&it, 0, wild[i], 8, -EUCLEAN);
	item_verdict(&it, 0, begin - 1, 8, -EUCLEAN);
	item_verdict(&it, 0, end - 255, 8, -EUCLEAN);
	item_verdict(&it, 0, sb.nblocks - 1, 8, -EUCLEAN);
	item_verdict(&it, 8, 255, 4, -EUCLEAN);
	item_verdict(&it, 12, 2, 4, -EUCLEAN);
	item_verdict(&it, 12, EXTENT_UNWRITTEN, 4, -EUCLEAN); /* has checksums */

	uint64_t blocks_end = UINT64_C(1) << 51;
	key_verdict(&it, key_make(30, ITEM_EXTENT, blocks_end - 256), 0);
	key_verdict(&it, key_make(30, ITEM_EXTENT, blocks_end - 255), -EUCLEAN);
	key_verdict(&it, key_make(30, ITEM_EXTENT, UINT64_MAX), -EUCLEAN);

	/* Lengths that go with their counts, and yet are wrong. */
	it.len = 16;
	item_verdict(&it, 8, 0, 4, -EUCLEAN);
	it.len = 16 + 4 * 257;
	item_verdict(&it, 8, 257, 4, -EUCLEAN);
	it.len = 16;
	item_verdict(&it, 12, EXTENT_UNWRITTEN, 4, 0);
}

static void test_item_orphan_and_unknown(void **state)
{
	uint8_t none[1] = {0};
	struct item it = make_item(ITEM_ORPHAN, 99, none, 0);

	(void)state;
	len_verdict(&it, 1, -EUCLEAN);
	key_verdict(&it, key_make(0, ITEM_ORPHAN, 0), -EUCLEAN);
	key_verdict(&it, key_make(1, ITEM_ORPHAN, 99), -EUCLEAN);
	for (unsigned type = 0; type < 256; type++) {
		if (type >= ITEM_INODE && type <= ITEM_ORPHAN)
			continue;
		key_verdict(&it, key_make(1, (uint8_t)type, 0), -EUCLEAN);
		key_verdict(&it, key_make(0, (uint8_t)type, 0), -EUCLEAN);
	}
}

/* --- hashes ----------------------------------------------------------------------------------- */

static void test_siphash(void **state)
{
	/* Appendix A of the paper has the vector of 15 bytes; the others are its reference program's. */
	static const struct {
		unsigned len;
		uint64_t hash;
	} vector[] = {
		{15, UINT64_C(0xa129ca6149be45e5)}, {0, UINT64_C(0x726fdb47dd0e0e31)},
		{1, UINT64_C(0x74f839c593dc67fd)},  {8, UINT64_C(0x93f5f5799a932462)},
		{63, UINT64_C(0x958a324ceb064572)},
	};
	uint8_t key[16], in[64];

	(void)state;
	for (unsigned i = 0; i < 16; i++)
		key[i] = (uint8_t)i;
	for (unsigned i = 0; i < 64; i++)
		in[i] = (uint8_t)i;
	for (unsigned i = 0; i < sizeof(vector) / sizeof(vector[0]); i++)
		assert_true(siphash24(key, in, vector[i].len) == vector[i].hash);
}

static void test_name_offsets(void **state)
{
	struct super sb = small_super(), other = sb;
	uint64_t seen_high = 0;

	(void)state;
	other.hash_key[3] ^= 1;
	for (unsigned i = 0; i < 20000; i++) {
		char name[32];
		size_t len = (size_t)snprintf(name, sizeof(name), "name-%u", i);
		uint64_t d = dirent_offset(&sb, name, len), x = xattr_offset(&sb, name, len);

		assert_int_equal(d & 255, 0);
		assert_int_equal(x & 255, 0);
		assert_true(d >= 256 && d < (UINT64_C(1) << 63) - 256);
		assert_true(x >= 256 && x < (UINT64_C(1) << 56) - 256);
		assert_true(d != dirent_offset(&other, name, len));
		seen_high |= d;
	}
	assert_true(seen_high == ((UINT64_C(1) << 63) - 1) - 255);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_layout_limits),
		cmocka_unit_test(test_layout_keeps_identity),
		cmocka_unit_test(test_super_round_trip),
		cmocka_unit_test(test_super_verdicts),
		cmocka_unit_test(test_super_damage),
		cmocka_unit_test(test_root_damage),
		cmocka_unit_test(test_root_empty_tree),
		cmocka_unit_test(test_bitmap_damage),
		cmocka_unit_test(test_bitmap_front),
		cmocka_unit_test(test_table_damage),
		cmocka_unit_test(test_leaf_damage),
		cmocka_unit_test(test_inner_damage),
		cmocka_unit_test(test_inner_value_size),
		cmocka_unit_test(test_node_limits),
		cmocka_unit_test(test_node_garbage),
		cmocka_unit_test(test_item_inode),
		cmocka_unit_test(test_item_inline),
		cmocka_unit_test(test_item_dirent),
		cmocka_unit_test(test_item_xattr),
		cmocka_unit_test(test_item_xattr_more),
		cmocka_unit_test(test_item_extent),
		cmocka_unit_test(test_item_orphan_and_unknown),
		cmocka_unit_test(test_siphash),
		cmocka_unit_test(test_name_offsets),
	};

	return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
