/* SPDX-License-Identifier: Apache-2.0 */
/* log_rig.c - see log_rig.h. */
#include "tests/unit/log_rig.h"

struct super rig_super(uint64_t nblocks)
{
	struct super sb = {
		.nblocks = RIG_JOURNAL_BLKNO + nblocks + 8,
		.journal_blkno = RIG_JOURNAL_BLKNO,
		.journal_nblocks = nblocks,
	};

	memcpy(sb.uuid, "the test's uuid!", UUID_BYTES);
	return sb;
}

static void note_failure(void *arg, int err, const char *what)
{
	struct rig *r = arg;

	assert_non_null(what);
	r->failed_err = err;
	r->nfailed++;
}

void rig_log(struct rig *r, uint64_t lsn)
{
	assert_int_equal(log_create(r->dev, &r->sb, lsn, &r->diag, note_failure, r, &r->l), 0);
	r->lsn = lsn;
}

void rig_open_dev(struct rig *r, struct dev *dev, uint64_t nblocks, uint64_t lsn)
{
	memset(r, 0, sizeof(*r));
	r->dev = dev;
	r->sb = rig_super(nblocks);
	r->salt = 1;
	assert_int_equal(dev_queue_create(dev, &r->q), 0);
	rig_log(r, lsn);
}

void rig_open(struct rig *r, uint64_t nblocks, uint64_t seed, bool in_order, uint64_t lsn)
{
	struct sim_config cfg = {
		.size = rig_super(nblocks).nblocks * BLOCK_SIZE, .sector = 512, .seed = seed, .in_order = in_order
	};
	struct dev *dev;

	assert_int_equal(dev_sim_create(&cfg, NULL, &dev), 0);
	rig_open_dev(r, dev, nblocks, lsn);
}

void rig_close(struct rig *r)
{
	if (r->l)
		log_assert(r->l);
	dev_queue_destroy(r->q);
	log_destroy(r->l);
	dev_close(r->dev);
}

void rig_power_cycle(struct rig *r, uint64_t seed)
{
	dev_sim_cut(r->dev);
	dev_queue_destroy(r->q);
	log_destroy(r->l);
	r->l = NULL;
	dev_sim_reboot(r->dev, seed);
	assert_int_equal(dev_queue_create(r->dev, &r->q), 0);
}

uint64_t rig_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

void rig_payload(uint32_t salt, uint32_t number, uint32_t len, uint8_t *out)
{
	struct disk_txn txn = {.type = RECORD_TXN, .nops = put32(number)};
	uint64_t rng = (uint64_t)salt << 32 | number, word = 0;

	assert_true(len >= MIN_TXN);
	memcpy(out, &txn, sizeof(txn));
	for (uint32_t i = sizeof(txn); i < len; i++) {
		if (i % 8 == 0)
			word = rig_random(&rng);
		out[i] = (uint8_t)(word >> 8 * (i % 8));
	}
	/* Short ones too must tell lives apart. */
	if (len < 16)
		out[1] = (uint8_t)salt;
}

uint32_t rig_check_payload(uint32_t salt, const void *payload, uint32_t len)
{
	struct disk_txn txn;
	uint8_t *want = malloc(len);

	assert_non_null(want);
	assert_true(len >= MIN_TXN);
	assert_int_equal((uintptr_t)payload % 8, 0);
	memcpy(&txn, payload, sizeof(txn));
	rig_payload(salt, get32(txn.nops), len, want);
	assert_memory_equal(payload, want, len);
	free(want);
	return get32(txn.nops);
}

static int append(struct rig *r, uint32_t number, uint32_t len, struct log_hold *hold, uint64_t *end_lsn)
{
	uint8_t *payload = malloc(len);

	assert_non_null(payload);
	rig_payload(r->salt, number, len, payload);
	int err = log_append(r->l, r->q, payload, len, hold, end_lsn);

	free(payload);
	return err;
}

uint64_t rig_append(struct rig *r, uint32_t number, uint32_t len, struct log_hold *hold)
{
	uint64_t end = 0;

	assert_int_equal(append(r, number, len, hold, &end), 0);
	return end;
}

int rig_try_append(struct rig *r, uint32_t number, uint32_t len, uint64_t *end_lsn)
{
	return append(r, number, len, NULL, end_lsn);
}

void rig_sync(struct rig *r, uint64_t lsn)
{
	assert_int_equal(log_sync_wait(r->l, r->q, lsn), 0);
	assert_true(log_durable_lsn(r->l) >= lsn);
}

void rig_read(struct rig *r, struct dev *dev, uint64_t lsn, uint32_t salt, struct rig_seen *out)
{
	struct log_reader *reader;
	struct dev_queue *q;
	const void *payload;
	uint64_t end;
	uint32_t len;
	int err;

	assert_int_equal(dev_queue_create(dev, &q), 0);
	assert_int_equal(log_reader_open(q, &r->sb, lsn, &reader), 0);
	*out = (struct rig_seen){.end_lsn = lsn};
	while (!(err = log_reader_next(reader, &payload, &len, &end))) {
		uint32_t number = rig_check_payload(salt, payload, len);

		if (!out->count)
			out->first = number;
		assert_int_equal(number, out->first + out->count);
		assert_true(end > out->end_lsn);
		out->end_lsn = end;
		out->count++;
	}
	assert_int_equal(err, -ENOENT);
	assert_int_equal(log_reader_next(reader, &payload, &len, &end), -ENOENT);
	assert_int_equal(log_reader_tail(reader, &out->tail), 0);
	assert_true(out->tail.end_lsn >= out->end_lsn);
	log_reader_close(reader);
	dev_queue_destroy(q);
}

static void waiter_done(struct log_waiter *w, int err)
{
	struct rig_waiter *rw = (struct rig_waiter *)w;

	rw->err = err;
	rw->calls++;
}

void rig_waiter_init(struct rig_waiter *w)
{
	*w = (struct rig_waiter){.w.done = waiter_done, .err = 1};
}

void rig_wait(struct rig *r, struct rig_waiter *w)
{
	while (!w->calls)
		assert_true(dev_poll(r->q, -1) > 0);
	assert_int_equal(w->calls, 1);
}
