/* SPDX-License-Identifier: Apache-2.0 */
/* volume_rig.h - a small formatted volume on a sim device, for the tests of journal/ and fs/. */
#ifndef HOLDFAST_TESTS_VOLUME_RIG_H
#define HOLDFAST_TESTS_VOLUME_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/dev_sim.h"
#include "journal/txn.h"

struct rig {
	struct diag diag;
	struct dev *dev;
	struct dev_queue *q;
	struct volume *v;
	struct volume_config cfg;
};

static inline struct dev_queue *rig_queue(struct dev *dev)
{
	struct dev_queue *q;

	assert_int_equal(dev_queue_create(dev, &q), 0);
	return q;
}

static inline void rig_format(struct dev_queue *q, uint64_t journal_nblocks)
{
	struct format_params p = {
		.nblocks = q->dev->size >> BLOCK_SHIFT,
		.journal_nblocks = journal_nblocks,
		.uuid = "0123456789abcde",
		.hash_key = "a secret of 16b",
		.label = "rig",
		.now_sec = 1700000000,
		.root_mode = 0755,
	};

	assert_int_equal(volume_format(q, &p, NULL, NULL, NULL), 0);
}

/* HOLDFAST_TEST_VERBOSE=1 shows what the layers report; most tests provoke it on purpose. */
static inline void rig_emit(void *arg, enum diag_level level, const char *line)
{
	(void)arg;
	if (getenv("HOLDFAST_TEST_VERBOSE"))
		fprintf(stderr, "<%d> %s\n", (int)level, line);
}

static inline struct dev *rig_dev(uint64_t bytes, uint64_t seed)
{
	struct sim_config cfg = {.size = bytes, .sector = 512, .seed = seed};
	struct dev *dev;

	assert_int_equal(dev_sim_create(&cfg, NULL, &dev), 0);
	return dev;
}

/* A formatted and opened volume of `bytes`. */
static inline void rig_create(struct rig *r, uint64_t bytes, uint64_t journal_nblocks, uint64_t seed)
{
	memset(r, 0, sizeof(*r));
	r->diag.emit = rig_emit;
	r->dev = rig_dev(bytes, seed);
	r->q = rig_queue(r->dev);
	rig_format(r->q, journal_nblocks);
	assert_int_equal(volume_open(r->q, &r->cfg, &r->diag, &r->v), 0);
}

/* Closed cleanly and opened again. */
static inline void rig_reopen(struct rig *r)
{
	assert_int_equal(volume_close(r->v, r->q), 0);
	assert_int_equal(volume_open(r->q, &r->cfg, &r->diag, &r->v), 0);
}

/* The power has gone (dev_sim_cut...): what is in memory is thrown away, and the device comes back with what `seed` left. */
static inline void rig_after_cut(struct rig *r, uint64_t seed)
{
	if (!dev_sim_is_cut(r->dev))
		dev_sim_cut(r->dev);
	while (dev_poll(r->q, 0))
		;
	if (r->v)
		volume_close(r->v, r->q);
	r->v = NULL;
	dev_queue_destroy(r->q);
	dev_sim_reboot(r->dev, seed);
	r->q = rig_queue(r->dev);
}

static inline void rig_destroy(struct rig *r)
{
	if (r->v)
		volume_close(r->v, r->q);
	dev_queue_destroy(r->q);
	dev_close(r->dev);
}

#endif
