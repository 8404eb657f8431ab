/* SPDX-License-Identifier: Apache-2.0 */
/* test_log_read.c - reading the log back (journal/log_read.c): power cuts, damage, hostile bytes. */
#include "tests/unit/log_rig.h"

#include "journal/log_read_impl.h"

#define LAP_BLOCKS 128u
#define LAP_BYTES  ((uint64_t)LAP_BLOCKS * BLOCK_SIZE)

static uint64_t dev_off(const struct rig *r, uint64_t lsn)
{
	return region_offset(&r->sb, lsn);
}

/* --- which tail is what --- */

static void every_combination_is_one_case(void **state)
{
	(void)state;
	for (unsigned facts = 0; facts < TAIL_FACTS; facts++) {
		unsigned hits = 0;

		for (unsigned i = 0; i < LOG_TAIL_CASES; i++) {
			assert_int_equal(log_tail_cases[i].facts & ~log_tail_cases[i].mask, 0);
			hits += (facts & log_tail_cases[i].mask) == log_tail_cases[i].facts;
		}
		assert_int_equal(hits, 1);
	}
}

static void every_case_has_a_name(void **state)
{
	(void)state;
	for (unsigned i = 0; i < LOG_TAIL_CASES; i++)
		for (unsigned j = 0; j < i; j++)
			assert_string_not_equal(log_tail_cases[i].name, log_tail_cases[j].name);
}

/* Five groups at 0, 4096, 8192 (three blocks), 20480 and 24576, with frames 0 | 1 2 | 3 4 5 | 6 | 7. */
static void five_groups(struct rig *r)
{
	static const struct { uint32_t n, len; } groups[] = {{1, 100}, {2, 500}, {3, 3500}, {1, 100}, {1, 100}};
	uint32_t number = 0;

	rig_open(r, LAP_BLOCKS, 1, true, 0);
	for (unsigned g = 0; g < 5; g++) {
		for (uint32_t i = 0; i < groups[g].n; i++)
			rig_append(r, number++, groups[g].len, NULL);
		rig_sync(r, log_append_lsn(r->l));
	}
	assert_int_equal(log_append_lsn(r->l), 28672);
}

static void clean_ends(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 2, true, 0);
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 0);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	assert_int_equal(seen.tail.stop, FRAME_ZERO);
	assert_int_equal(seen.tail.end_lsn, 0);
	rig_close(&r);

	five_groups(&r);
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 8);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	assert_int_equal(seen.tail.end_lsn, 28672);
	assert_int_equal(seen.tail.proven_lsn, 24576);
	assert_int_equal(seen.tail.lost_bytes, 0);
	assert_int_equal(seen.tail.lost_frames, 0);
	rig_close(&r);
}

static void log_that_fills_its_lap(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 3, true, 0);
	for (uint32_t i = 0; i < LAP_BLOCKS; i++)
		rig_sync(&r, rig_append(&r, i, 100, NULL));
	assert_int_equal(log_used(r.l), LAP_BYTES);
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, LAP_BLOCKS);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	assert_int_equal(seen.tail.end_lsn, LAP_BYTES);
	rig_close(&r);
}

/* One bit is flipped somewhere in the third group; what is behind it proves that it was durable. */
static void damaged_middle(void **state)
{
	static const struct { uint64_t at; uint32_t count, lost; } cases[] = {
		{8192 + 2, 3, 5},	/* its head's magic */
		{8192 + 20, 3, 5},	/* its head's durable_lsn */
		{8192 + 36, 3, 4},	/* frame 3's magic */
		{8192 + 36 + 1000, 3, 4},
		{8192 + 36 + 3512 + 9, 4, 3},	/* frame 4 */
		{8192 + 36 + 2 * 3512 + 3511, 5, 2},	/* frame 5's CRC */
		{8192 + 36 + 3 * 3512 + 30, 6, 2},	/* padding */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig_seen seen;
		struct rig r;

		five_groups(&r);
		dev_sim_flip(r.dev, dev_off(&r, cases[i].at), i % 8);
		rig_read(&r, r.dev, 0, r.salt, &seen);
		assert_int_equal(seen.count, cases[i].count);
		assert_int_equal(seen.tail.kind, LOG_TAIL_DAMAGED);
		assert_int_equal(seen.tail.proven_lsn, 24576);
		assert_int_equal(seen.tail.lost_frames, cases[i].lost);
		/* To the end of the last frame that is whole, the last group's padding. */
		assert_int_equal(seen.tail.end_lsn + seen.tail.lost_bytes, 28672);
		rig_close(&r);
	}
}

/* The last group is torn: its second and third block were not written. */
static void torn_tail(void **state)
{
	uint8_t zeros[BLOCK_SIZE] = {0};
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 4, true, 0);
	rig_sync(&r, rig_append(&r, 0, 100, NULL));
	for (uint32_t i = 1; i < 11; i++)
		rig_append(&r, i, 988, NULL);
	rig_sync(&r, log_append_lsn(r.l));
	assert_int_equal(log_append_lsn(r.l), 4 * BLOCK_SIZE);

	dev_sim_poke(r.dev, dev_off(&r, 8192), zeros, sizeof(zeros));
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 5);
	assert_int_equal(seen.tail.kind, LOG_TAIL_TORN);
	assert_int_equal(seen.tail.end_lsn, 4096 + 36 + 4 * 1000);
	assert_int_equal(seen.tail.end_lsn + seen.tail.lost_bytes, 4 * BLOCK_SIZE);
	/* Frames 5 to 8 are at least in part in the missing block. */
	assert_int_equal(seen.tail.lost_frames, 1);

	dev_sim_poke(r.dev, dev_off(&r, 12288), zeros, sizeof(zeros));
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.tail.kind, LOG_TAIL_TORN);
	assert_int_equal(seen.tail.end_lsn + seen.tail.lost_bytes, 4 * BLOCK_SIZE);
	assert_int_equal(seen.tail.lost_frames, 0);
	rig_close(&r);
}

/* Only the first block of the last group is missing: the log ends at a group's end, with remains behind. */
static void torn_first_block(void **state)
{
	uint8_t zeros[BLOCK_SIZE] = {0};
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 5, true, 0);
	rig_sync(&r, rig_append(&r, 0, 100, NULL));
	for (uint32_t i = 1; i < 11; i++)
		rig_append(&r, i, 988, NULL);
	rig_sync(&r, log_append_lsn(r.l));
	dev_sim_poke(r.dev, dev_off(&r, 4096), zeros, sizeof(zeros));
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.tail.kind, LOG_TAIL_TORN);
	assert_int_equal(seen.tail.stop, FRAME_ZERO);
	assert_int_equal(seen.tail.end_lsn, 4096);
	assert_int_equal(seen.tail.lost_frames, 5);
	rig_close(&r);
}

/* --- what is not of this lap, life or volume --- */

static void former_laps_are_nothing(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 6, true, 0);
	for (uint32_t i = 0; i < 5 * LAP_BLOCKS; i++) {
		rig_sync(&r, rig_append(&r, i, 100, NULL));
		log_trim(r.l, log_durable_lsn(r.l));
		rig_read(&r, r.dev, log_durable_lsn(r.l), r.salt, &seen);
		assert_int_equal(seen.count, 0);
		assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
		assert_int_equal(seen.tail.proven_lsn, 0);
	}
	rig_close(&r);
}

static void other_volume_is_nothing(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	five_groups(&r);
	r.sb.uuid[15] ^= 1;
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 0);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	assert_int_equal(seen.tail.stop, FRAME_CRC);
	rig_close(&r);
}

/* A root from before the last lap leads to LSNs that have been overwritten: that is not an empty log. */
static void outdated_start_is_damage(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 7, true, 0);
	for (uint32_t i = 0; i < LAP_BLOCKS + 3; i++) {
		rig_sync(&r, rig_append(&r, i, 100, NULL));
		log_trim(r.l, log_durable_lsn(r.l));
	}
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 0);
	assert_int_equal(seen.tail.kind, LOG_TAIL_DAMAGED);
	assert_int_equal(seen.tail.proven_lsn, LAP_BYTES + 2 * BLOCK_SIZE);
	rig_read(&r, r.dev, 20 * BLOCK_SIZE, r.salt, &seen);
	assert_int_equal(seen.count, LAP_BLOCKS + 3 - 20);
	assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
	rig_close(&r);
}

static void restart_is_above_everything(void **state)
{
	struct super sb = rig_super(LAP_BLOCKS);
	struct log_tail t = {.end_lsn = 5000, .lost_bytes = 100, .proven_lsn = 4096};

	(void)state;
	assert_int_equal(log_restart_lsn(&sb, &t), 8192 + LAP_BYTES);
	t.proven_lsn = 10 * LAP_BYTES;
	assert_int_equal(log_restart_lsn(&sb, &t), 11 * LAP_BYTES);
	t.lost_bytes = 20 * LAP_BYTES;
	assert_int_equal(log_restart_lsn(&sb, &t), 8192 + 21 * LAP_BYTES);
}

/* --- frames that are valid and wrong --- */

#define FORGED 8192u

/* A group made by hand at LSN 0: frames of the test's choice, then a head with claims of the test's choice. */
struct forgery {
	uint8_t bytes[FORGED];
	uint64_t at;
};

static void forge_begin(struct forgery *f)
{
	memset(f, 0, sizeof(*f));
	f->at = GROUP_FRAME_BYTES;
}

static void forge_add(struct rig *r, struct forgery *f, uint8_t type, uint32_t len)
{
	uint8_t payload[FORGED] = {0};

	if (type == RECORD_TXN && len >= MIN_TXN)
		rig_payload(r->salt, 0, len, payload);
	payload[0] = type;
	frame_encode(&r->sb, f->at, payload, len, f->bytes + f->at);
	f->at += FRAME_OVERHEAD + len;
}

static void forge_end(struct rig *r, struct forgery *f, struct disk_group head)
{
	frame_encode(&r->sb, 0, &head, sizeof(head), f->bytes);
	dev_sim_poke(r->dev, dev_off(r, 0), f->bytes, FORGED);
}

static struct disk_group group_head(uint64_t len)
{
	return (struct disk_group){.type = RECORD_GROUP, .len = put64(len)};
}

static void expect_alien(struct rig *r, uint32_t count, uint64_t end_lsn)
{
	struct rig_seen seen;

	rig_read(r, r->dev, 0, r->salt, &seen);
	assert_int_equal(seen.count, count);
	assert_int_equal(seen.tail.stop, FRAME_ALIEN);
	assert_int_equal(seen.tail.kind, LOG_TAIL_DAMAGED);
	assert_int_equal(seen.tail.end_lsn, end_lsn);
}

static void alien_members(void **state)
{
	static const struct { uint8_t type; uint32_t len; } cases[] = {
		{0, 20}, {RECORD_GROUP, 24}, {4, 100}, {255, 1}, {RECORD_TXN, 7}, {RECORD_TXN, 1},
		{RECORD_PAD, 50},	/* not up to the group's end */
		{RECORD_TXN, 4096 - 36 - 32 - 12 - 11},	/* leaves no room for a frame */
	};
	struct forgery f;
	struct rig r;

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		rig_open(&r, LAP_BLOCKS, 8, true, 0);
		forge_begin(&f);
		forge_add(&r, &f, RECORD_TXN, 20);
		forge_add(&r, &f, cases[i].type, cases[i].len);
		forge_end(&r, &f, group_head(4096));
		expect_alien(&r, 1, 36 + 32);
		rig_close(&r);
	}
}

static void alien_heads(void **state)
{
	struct disk_group cases[] = {
		group_head(0), group_head(100), group_head(4097), group_head(LAP_BYTES + 4096),
		group_head(UINT64_MAX & ~(uint64_t)4095), group_head(UINT64_MAX), group_head(4096), group_head(4096),
		group_head(4096),
	};
	struct forgery f;
	struct rig r;

	(void)state;
	cases[6].durable_lsn = put64(1);
	cases[7].pad[5] = 1;
	cases[8].type = RECORD_TXN;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		rig_open(&r, LAP_BLOCKS, 9, true, 0);
		forge_begin(&f);
		forge_add(&r, &f, RECORD_TXN, 20);
		forge_end(&r, &f, cases[i]);
		expect_alien(&r, 0, 0);
		rig_close(&r);
	}
	/* An empty frame, or a transaction, where a group should begin. */
	for (uint32_t len = 0; len <= 24; len += 24) {
		rig_open(&r, LAP_BLOCKS, 9, true, 0);
		forge_begin(&f);
		f.at = 0;
		forge_add(&r, &f, RECORD_TXN, len);
		dev_sim_poke(r.dev, dev_off(&r, 0), f.bytes, FORGED);
		expect_alien(&r, 0, 0);
		rig_close(&r);
	}
}

/* The group's length bounds its frames: the second one leads behind it. */
static void frame_may_not_leave_its_group(void **state)
{
	struct rig_seen seen;
	struct forgery f;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 10, true, 0);
	forge_begin(&f);
	forge_add(&r, &f, RECORD_TXN, 20);
	forge_add(&r, &f, RECORD_TXN, 5000);
	forge_end(&r, &f, group_head(4096));
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.tail.stop, FRAME_LENGTH);
	assert_int_equal(seen.tail.kind, LOG_TAIL_TORN);
	rig_close(&r);
}

static void padding_is_checked(void **state)
{
	struct rig_seen seen;
	struct forgery f;
	struct rig r;

	(void)state;
	for (int spoiled = 0; spoiled < 2; spoiled++) {
		uint8_t pad[4096 - 36 - 32 - 12] = {RECORD_PAD};

		rig_open(&r, LAP_BLOCKS, 11, true, 0);
		forge_begin(&f);
		forge_add(&r, &f, RECORD_TXN, 20);
		pad[sizeof(pad) - 1] = (uint8_t)spoiled;
		frame_encode(&r.sb, f.at, pad, sizeof(pad), f.bytes + f.at);
		forge_end(&r, &f, group_head(4096));
		if (spoiled) {
			expect_alien(&r, 1, 36 + 32);
		} else {
			rig_read(&r, r.dev, 0, r.salt, &seen);
			assert_int_equal(seen.count, 1);
			assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
			assert_int_equal(seen.tail.end_lsn, 4096);
		}
		rig_close(&r);
	}
}

/* --- the device, and hostile bytes --- */

/* An error that does not come again is none. */
static void passing_device_errors(void **state)
{
	struct log_reader *reader;
	const void *payload;
	struct log_tail tail;
	uint64_t end;
	uint32_t len;
	struct rig r;

	(void)state;
	five_groups(&r);
	assert_int_equal(log_reader_open(r.q, &r.sb, 0, &reader), 0);
	dev_sim_fail(r.dev, DEV_READ, 1, SIM_FAULT_ONCE, -EREMOTEIO, 0, 0);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(log_reader_next(reader, &payload, &len, &end), 0);
		assert_int_equal(rig_check_payload(r.salt, payload, len), i);
	}
	assert_int_equal(log_reader_next(reader, &payload, &len, &end), -ENOENT);
	log_reader_close(reader);

	/* A region of more than one window: the tail is read further. */
	rig_close(&r);
	rig_open(&r, 1024, 12, true, 0);
	assert_int_equal(log_reader_open(r.q, &r.sb, 0, &reader), 0);
	assert_int_equal(log_reader_next(reader, &payload, &len, &end), -ENOENT);
	dev_sim_fail(r.dev, DEV_READ, 2, SIM_FAULT_ONCE, -EREMOTEIO, 0, 0);
	assert_int_equal(log_reader_tail(reader, &tail), 0);
	assert_int_equal(tail.kind, LOG_TAIL_CLEAN);
	assert_int_equal(tail.nunreadable, 0);
	log_reader_close(reader);
	rig_close(&r);
}

/* Nor are bytes that come from another place, once. */
static void passing_misread(void **state)
{
	struct log_reader *reader;
	const void *payload;
	uint64_t end;
	uint32_t len;
	struct rig r;

	(void)state;
	five_groups(&r);
	assert_int_equal(log_reader_open(r.q, &r.sb, 0, &reader), 0);
	dev_sim_trouble(r.dev, SIM_MISDIRECTED, DEV_READ, 1, SIM_FAULT_ONCE, 0, 0);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(log_reader_next(reader, &payload, &len, &end), 0);
		assert_int_equal(rig_check_payload(r.salt, payload, len), i);
	}
	assert_int_equal(dev_sim_struck(r.dev, SIM_MISDIRECTED, DEV_READ), 1);
	assert_int_equal(log_reader_next(reader, &payload, &len, &end), -ENOENT);
	log_reader_close(reader);
	rig_close(&r);
}

/* A block that cannot be read is no end of the log: it may be where acknowledged frames are. */
static void unreadable_blocks(void **state)
{
	static const struct { uint64_t at; uint32_t count; enum log_tail_kind kind; } cases[] = {
		{0, 0, LOG_TAIL_DAMAGED},	/* later groups prove that the first was durable */
		{4096, 1, LOG_TAIL_DAMAGED},
		{12288, 4, LOG_TAIL_DAMAGED},	/* in the middle of the third group */
		{24576, 7, LOG_TAIL_UNREADABLE},	/* the last group: nothing proves it, nothing speaks against it */
		{28672, 8, LOG_TAIL_UNREADABLE},	/* where a further one would begin */
		{32768, 8, LOG_TAIL_CLEAN},	/* where none can */
		{LAP_BYTES - 4096, 8, LOG_TAIL_CLEAN},
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig_seen seen;
		struct rig r;

		five_groups(&r);
		dev_sim_fail(r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, dev_off(&r, cases[i].at), 512);
		rig_read(&r, r.dev, 0, r.salt, &seen);
		assert_int_equal(seen.count, cases[i].count);
		assert_int_equal(seen.tail.kind, cases[i].kind);
		assert_int_equal(seen.tail.nunreadable, 1);
		/* What was there was of this lap, so the log goes on above it. */
		assert_int_equal(log_restart_lsn(&r.sb, &seen.tail), 2 * LAP_BYTES);
		rig_close(&r);
	}
}

/* Half of a large group lies in a block that cannot be read: its frames were not acknowledged, or they were. */
static void unreadable_in_the_last_group(void **state)
{
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 4, true, 0);
	for (uint32_t i = 0; i < 10; i++)
		rig_append(&r, i, 988, NULL);
	rig_sync(&r, log_append_lsn(r.l));
	dev_sim_fail(r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, dev_off(&r, 8192), 512);
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.count, 8);
	assert_int_equal(seen.tail.kind, LOG_TAIL_UNREADABLE);
	rig_close(&r);
}

/* A device that reads nothing is not asked for ever. */
static void unreadable_device(void **state)
{
	struct dev_stats before, after;
	struct rig_seen seen;
	struct rig r;

	(void)state;
	rig_open(&r, 16384, 4, true, 0);
	dev_get_stats(r.dev, &before);
	dev_sim_fail(r.dev, DEV_READ, 1, SIM_FAULT_STICKY, -EIO, 0, 0);
	rig_read(&r, r.dev, 0, r.salt, &seen);
	assert_int_equal(seen.tail.kind, LOG_TAIL_UNREADABLE);
	dev_get_stats(r.dev, &after);
	assert_true(after.reads - before.reads < 2 * UNREADABLE_TRIES);
	rig_close(&r);
}

struct survivors {
	uint32_t n;
	uint64_t last_end;
};

static int count_survivor(void *arg, const void *payload, uint32_t len, uint64_t end_lsn)
{
	struct survivors *s = arg;

	assert_int_equal((uintptr_t)payload % 8, 0);
	assert_true(len >= MIN_TXN);
	assert_true(end_lsn > s->last_end);
	s->last_end = end_lsn;
	s->n++;
	return 0;
}

/* What is whole behind the damage is handed out; of a later lap too, when it is the root that is out of date. */
static void survivors_are_handed_out(void **state)
{
	const void *payload;
	struct log_reader *reader;
	struct log_tail tail;
	uint64_t end;
	uint32_t len;
	struct rig r;

	(void)state;
	for (unsigned lap = 0; lap < 2; lap++) {
		struct survivors seen = {0};

		five_groups(&r);
		dev_sim_flip(r.dev, dev_off(&r, 8192 + 2), 0);
		/* With a root of one lap before, none of these frames is where it should be. */
		r.lsn = 0;
		if (lap) {
			rig_close(&r);
			rig_open(&r, LAP_BLOCKS, 1, true, LAP_BYTES);
			for (uint32_t i = 0; i < 3; i++)
				rig_sync(&r, rig_append(&r, i, 300, NULL));
		}
		assert_int_equal(log_reader_open(r.q, &r.sb, 0, &reader), 0);
		while (!log_reader_next(reader, &payload, &len, &end))
			;
		assert_int_equal(log_reader_tail_each(reader, &tail, count_survivor, &seen), 0);
		assert_int_equal(tail.kind, LOG_TAIL_DAMAGED);
		assert_int_equal(seen.n, lap ? 3 : 5);
		log_reader_close(reader);
		rig_close(&r);
	}
}

/* Bits are flipped and bytes overwritten all over: what is read is still a prefix of what was written. */
static void random_damage(void **state)
{
	uint64_t rng = 13;

	(void)state;
	for (unsigned round = 0; round < 300; round++) {
		struct rig_seen seen;
		struct rig r;

		rig_open(&r, LAP_BLOCKS, round, true, 0);
		for (uint32_t i = 0; i < 40; i++) {
			rig_append(&r, i, MIN_TXN + (uint32_t)(rig_random(&rng) % 9000), NULL);
			if (rig_random(&rng) % 2)
				rig_sync(&r, log_append_lsn(r.l));
		}
		rig_sync(&r, log_append_lsn(r.l));
		for (unsigned i = 0; i <= round % 5; i++) {
			uint64_t at = rig_random(&rng) % log_append_lsn(r.l);
			uint8_t junk[64];

			for (unsigned j = 0; j < sizeof(junk); j++)
				junk[j] = (uint8_t)rig_random(&rng);
			if (round % 2)
				dev_sim_flip(r.dev, dev_off(&r, at), i % 8);
			else
				dev_sim_poke(r.dev, dev_off(&r, at), junk, 1 + round % sizeof(junk));
		}
		rig_read(&r, r.dev, 0, r.salt, &seen);
		assert_true(seen.count <= 40);
		assert_true(!seen.count || seen.first == 0);
		/* Nearly always something is lost; then it is not called clean. */
		if (seen.tail.kind == LOG_TAIL_CLEAN)
			assert_true(seen.tail.end_lsn + seen.tail.lost_bytes <= log_durable_lsn(r.l));
		assert_true(seen.tail.end_lsn + seen.tail.lost_bytes <= LAP_BYTES);
		rig_close(&r);
	}
}

/* Frames' heads everywhere that claim as much as they can: no crash, and an end in reasonable time. */
static void magic_everywhere(void **state)
{
	const uint64_t nblocks = 2048, bytes = nblocks * BLOCK_SIZE;
	const uint32_t claims[] = {0, 24, 4084, (uint32_t)(bytes / 4), 0xffffffff};
	struct disk_frame *all = malloc(bytes);

	(void)state;
	assert_non_null(all);
	for (unsigned i = 0; i < sizeof(claims) / sizeof(claims[0]); i++) {
		struct rig_seen seen;
		struct dev_stats st;
		struct rig r;

		rig_open(&r, nblocks, 14, true, 0);
		for (uint64_t j = 0; j < bytes / sizeof(*all); j++)
			all[j] = (struct disk_frame){.magic = put32(FRAME_MAGIC), .len = put32(claims[i])};
		dev_sim_poke(r.dev, dev_off(&r, 0), all, bytes);
		rig_read(&r, r.dev, 0, r.salt, &seen);
		assert_int_equal(seen.count, 0);
		assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
		dev_get_stats(r.dev, &st);
		assert_true(st.read_bytes <= 4 * bytes);
		rig_close(&r);
	}
	free(all);
}

/* A trace is found wherever it lies, also across the reader's windows and at the very end of the lap. */
static void traces_anywhere(void **state)
{
	const uint64_t mib = 1 << 20, lap = 4 * mib;
	const uint64_t places[] = {1, mib - 20, mib - 19, mib - 8, mib - 3, mib - 2, mib - 1, mib, lap - 20};
	uint8_t payload[MIN_TXN], frame[FRAME_OVERHEAD + MIN_TXN];

	(void)state;
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct rig_seen seen;
		struct rig r;

		rig_open(&r, lap / BLOCK_SIZE, 15, true, 0);
		rig_payload(r.salt, 0, MIN_TXN, payload);
		frame_encode(&r.sb, places[i], payload, MIN_TXN, frame);
		dev_sim_poke(r.dev, dev_off(&r, places[i]), frame, sizeof(frame));
		rig_read(&r, r.dev, 0, r.salt, &seen);
		assert_int_equal(seen.count, 0);
		assert_int_equal(seen.tail.kind, LOG_TAIL_TORN);
		assert_int_equal(seen.tail.lost_frames, 1);
		assert_int_equal(seen.tail.lost_bytes, places[i] + sizeof(frame));
		rig_close(&r);
	}
}

/* --- power cuts --- */

enum { WORK_STEPS = 60 };

struct life {
	uint32_t nappended;	/* frames 0 .. nappended - 1 */
	uint32_t nsynced;	/* of which these were acknowledged */
	bool completed;		/* no cut came */
};

/*
 * A workload that depends on `seed` alone (so that two lives' frames lie at like offsets), until the power goes: mixed sizes,
 * syncs, data with holds.
 */
static void live(struct rig *r, uint64_t seed, struct life *life)
{
	uint64_t rng = seed, end;

	*life = (struct life){0};
	for (unsigned step = 0; step < WORK_STEPS; step++) {
		uint64_t dice = rig_random(&rng);
		struct log_hold hold = {.bytes = dice % 16 ? 4096 : LOG_UNFLUSHED_MAX + 1};
		bool data = dice % 8 == 0;
		uint32_t len = dice % 4 ? 500 : MIN_TXN + (uint32_t)(dice >> 8) % 9000;
		uint8_t *payload = malloc(len);

		assert_non_null(payload);
		rig_payload(r->salt, life->nappended, len, payload);
		int err = log_append(r->l, r->q, payload, len, data ? &hold : NULL, &end);

		free(payload);
		if (err)
			break;
		life->nappended++;
		if (data)
			log_release(r->l, r->q, &hold, 0);
		if (dice % 16 == 3)
			dev_poll(r->q, 0);
		if (dice % 16 >= 12) {
			if (log_sync_wait(r->l, r->q, end))
				break;
			life->nsynced = life->nappended;
		}
	}
	life->completed = !dev_sim_is_cut(r->dev);
}

/* The promise: a prefix, in order, without a hole, with everything that was acknowledged; and never called damage. */
static void check_survivors(struct rig *r, const struct life *life, struct rig_seen *seen)
{
	rig_read(r, r->dev, r->lsn, r->salt, seen);
	assert_true(!seen->count || seen->first == 0);
	assert_true(seen->count >= life->nsynced);
	assert_true(seen->count <= life->nappended);
	assert_int_not_equal(seen->tail.kind, LOG_TAIL_DAMAGED);
}

static void cut_at_every_write(void **state)
{
	unsigned ncuts = 0, torn = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 40; seed++) {
		bool completed = false;

		for (uint64_t n = 1; !completed; n++) {
			struct rig_seen seen;
			struct life life;
			struct rig r;

			rig_open(&r, LAP_BLOCKS, seed, false, (LAP_BLOCKS - 20) * BLOCK_SIZE);
			dev_sim_cut_after(r.dev, n);
			live(&r, seed, &life);
			completed = life.completed;
			rig_power_cycle(&r, seed * 1000 + n);
			check_survivors(&r, &life, &seen);
			ncuts += !completed;
			torn += seen.tail.kind == LOG_TAIL_TORN;
			rig_close(&r);
		}
	}
	/* The test is worth something only if cuts tear groups. */
	assert_true(ncuts > 400);
	assert_true(torn > ncuts / 20);
}

/* Life after life on one device: nothing of a former one is ever read, though frames lie at like offsets. */
static void many_lives(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 30; seed++) {
		uint64_t rng = seed;
		struct rig r;

		rig_open(&r, LAP_BLOCKS, seed, false, 0);
		for (uint32_t n = 0; n < 40; n++) {
			struct rig_seen seen;
			struct life life;

			dev_sim_cut_after(r.dev, 1 + rig_random(&rng) % 20);
			live(&r, seed, &life);
			rig_power_cycle(&r, rig_random(&rng));
			check_survivors(&r, &life, &seen);
			r.salt++;
			rig_log(&r, log_restart_lsn(&r.sb, &seen.tail));
			/* A second recovery in between sees nothing at all. */
			rig_read(&r, r.dev, r.lsn, r.salt, &seen);
			assert_int_equal(seen.count, 0);
			assert_int_equal(seen.tail.kind, LOG_TAIL_CLEAN);
		}
		rig_close(&r);
	}
}

/* Recovery may be cut short any number of times: reading writes nothing. */
static void reading_twice_is_the_same(void **state)
{
	struct rig_seen first, second;
	struct life life;
	struct rig r;

	(void)state;
	rig_open(&r, LAP_BLOCKS, 15, false, 0);
	dev_sim_cut_after(r.dev, 9);
	live(&r, 15, &life);
	rig_power_cycle(&r, 15);
	check_survivors(&r, &life, &first);
	uint64_t nwrites = dev_sim_writes(r.dev);

	rig_power_cycle(&r, 16);
	check_survivors(&r, &life, &second);
	assert_int_equal(first.count, second.count);
	assert_int_equal(first.tail.kind, second.tail.kind);
	assert_int_equal(first.tail.end_lsn, second.tail.end_lsn);
	assert_int_equal(first.tail.lost_bytes, second.tail.lost_bytes);
	assert_int_equal(first.tail.lost_frames, second.tail.lost_frames);
	assert_int_equal(first.tail.proven_lsn, second.tail.proven_lsn);
	assert_int_equal(first.tail.stop, second.tail.stop);
	assert_int_equal(dev_sim_writes(r.dev), nwrites);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_combination_is_one_case),
		cmocka_unit_test(every_case_has_a_name),
		cmocka_unit_test(clean_ends),
		cmocka_unit_test(log_that_fills_its_lap),
		cmocka_unit_test(damaged_middle),
		cmocka_unit_test(torn_tail),
		cmocka_unit_test(torn_first_block),
		cmocka_unit_test(former_laps_are_nothing),
		cmocka_unit_test(other_volume_is_nothing),
		cmocka_unit_test(outdated_start_is_damage),
		cmocka_unit_test(restart_is_above_everything),
		cmocka_unit_test(alien_members),
		cmocka_unit_test(alien_heads),
		cmocka_unit_test(frame_may_not_leave_its_group),
		cmocka_unit_test(padding_is_checked),
		cmocka_unit_test(passing_device_errors),
		cmocka_unit_test(passing_misread),
		cmocka_unit_test(unreadable_blocks),
		cmocka_unit_test(unreadable_in_the_last_group),
		cmocka_unit_test(unreadable_device),
		cmocka_unit_test(survivors_are_handed_out),
		cmocka_unit_test(random_damage),
		cmocka_unit_test(magic_everywhere),
		cmocka_unit_test(traces_anywhere),
		cmocka_unit_test(cut_at_every_write),
		cmocka_unit_test(many_lives),
		cmocka_unit_test(reading_twice_is_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
