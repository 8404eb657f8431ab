/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fs_trim.c - discarding free space while the file system is in use: what is in use stays, whatever is allocated, freed and
 * checkpointed meanwhile, and whenever the power is cut.  A discarded block of the simulated device reads as anything.
 */
#include "tests/unit/names_rig.h"

#include "core/bits.h"

#define VOLUME (32u << 20)
#define FILES 24u
#define MAX_LEN 200000u

struct trimming {
	struct fs_trim t;
	bool done;
	struct trimming *other; /* to be begun when this one is asked whether to go on */
	bool cancel;
};

static void trim_done(struct fs_trim *t)
{
	((struct trimming *)t)->done = true;
}

static bool trim_cancelled(struct fs_trim *t)
{
	return ((struct trimming *)t)->cancel;
}

static void trim_start(struct names *n, struct trimming *t, uint64_t start, uint64_t len, uint64_t minlen)
{
	*t = (struct trimming){
		.t = {.start = start, .len = len, .minlen = minlen, .done = trim_done, .cancelled = trim_cancelled},
	};
	fs_trim(n->fs, n->q, &t->t);
}

static int trim_wait(struct names *n, struct trimming *t)
{
	while (!t->done)
		if (!dev_poll(n->q, 0))
			assert_int_equal(volume_service(n->r.v, n->q), 0);
	return t->t.result;
}

static int trim(struct names *n, uint64_t start, uint64_t len, uint64_t minlen, uint64_t *trimmed)
{
	struct trimming t;
	int err;

	trim_start(n, &t, start, len, minlen);
	err = trim_wait(n, &t);
	*trimmed = t.t.trimmed;
	return err;
}

static void check_alloc(struct names *n)
{
	volume_lock(n->r.v);
	alloc_assert(n->r.v->alloc);
	volume_unlock(n->r.v);
}

static uint64_t nfree(struct names *n)
{
	struct alloc_space s;

	volume_lock(n->r.v);
	alloc_get_space(n->r.v->alloc, &s);
	volume_unlock(n->r.v);
	return s.nfree;
}

/* --- files whose contents follow from a number --- */

struct file {
	uint64_t ino;
	uint32_t len;
	uint8_t fill;
};

static void file_name(unsigned i, char name[8])
{
	snprintf(name, 8, "f%u", i);
}

static void file_write(struct names *n, struct file *f, unsigned i, uint64_t random)
{
	static uint8_t buf[MAX_LEN];
	char name[8];

	file_name(i, name);
	if (f->ino) {
		assert_int_equal(try_unlink(n, INO_ROOT, name), 0);
		f->ino = 0;
		if (random % 3 == 0)
			return;
	}
	f->ino = make(n, INO_ROOT, name, S_IFREG | 0644);
	f->len = (uint32_t)(1 + random % MAX_LEN);
	f->fill = (uint8_t)(1 + (random >> 32) % 255);
	memset(buf, f->fill, f->len);
	assert_int_equal(fs_pwrite(n->fs, n->q, f->ino, buf, f->len, 0), f->len);
}

static void file_check_all(struct names *n, const struct file *files)
{
	static uint8_t buf[MAX_LEN], want[MAX_LEN];

	for (unsigned i = 0; i < FILES; i++) {
		if (!files[i].ino)
			continue;
		memset(want, files[i].fill, files[i].len);
		assert_int_equal(fs_pread(n->fs, n->q, files[i].ino, buf, sizeof(buf), 0), files[i].len);
		assert_memory_equal(buf, want, files[i].len);
	}
}

static uint64_t rng(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 11 ^ *state << 33;
}

/* --- tests --- */

static void what_it_refuses(void **state)
{
	uint64_t trimmed;
	struct names n;

	(void)state;
	names_create(&n, VOLUME, 0);
	assert_int_equal(trim(&n, VOLUME, UINT64_MAX, 0, &trimmed), -EINVAL);
	assert_int_equal(trim(&n, 0, BLOCK_SIZE - 1, 0, &trimmed), -EINVAL);
	assert_int_equal(trim(&n, 0, UINT64_MAX, UINT64_MAX, &trimmed), -EINVAL);
	n.r.dev->can_discard = false;
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &trimmed), -EOPNOTSUPP);
	n.r.dev->can_discard = true;
	dev_sim_fail(n.r.dev, DEV_DISCARD, 1, SIM_FAULT_ONCE, -EIO, 0, 0);
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &trimmed), -EIO);
	assert_int_equal(try_create(&n, INO_ROOT, "f", S_IFREG | 0644), 0);
	check_alloc(&n);
	fs_shutdown(n.fs, n.q, false);
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &trimmed), -EIO);
	names_destroy(&n);
}

/* All that is free, and within a range what is in it; nothing shorter than is wanted; one at a time; until it is cancelled. */
static void what_it_trims(void **state)
{
	uint64_t all, first, second, none;
	struct trimming a, b;
	struct names n;

	(void)state;
	names_create(&n, VOLUME, 0);
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &all), 0);
	/* An eighth of what is left at a time leaves the reserve, and a little. */
	assert_true(all > nfree(&n) * BLOCK_SIZE / 2 && all <= nfree(&n) * BLOCK_SIZE);
	assert_int_equal(trim(&n, 0, VOLUME / 2, 0, &first), 0);
	assert_int_equal(trim(&n, VOLUME / 2, VOLUME, 0, &second), 0);
	assert_int_equal(first + second, all);
	assert_int_equal(trim(&n, 0, UINT64_MAX, VOLUME, &none), 0);
	assert_int_equal(none, 0);
	trim_start(&n, &a, 0, UINT64_MAX, 0);
	trim_start(&n, &b, 0, UINT64_MAX, 0);
	assert_int_equal(trim_wait(&n, &b), -EBUSY);
	a.cancel = true;
	assert_int_equal(trim_wait(&n, &a), -EINTR);
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &second), 0);
	assert_int_equal(second, all);
	check_alloc(&n);
	names_destroy(&n);
}

/* Begun in the middle of the checkpoint with which a rest begins. */
struct intruder {
	struct dev_task task;
	struct names *n;
	struct trimming t;
	bool begun;
};

static void intrude(struct dev_task *task)
{
	struct intruder *in = (struct intruder *)task;

	if (!in->n->r.v->checkpoint_running) {
		dev_post(in->n->q, task);
		return;
	}
	in->begun = true;
	trim_start(in->n, &in->t, 0, UINT64_MAX, 0);
}

static uint64_t discards(struct names *n)
{
	struct dev_stats s;

	dev_get_stats(n->r.dev, &s);
	return s.discards;
}

/* Whatever has been promised of the device is so: nothing is discarded, and no checkpoint ends the rest. */
static void rest_is_left_alone(void **state)
{
	struct trimming t;
	uint64_t trimmed, before, generation;
	struct names n;

	(void)state;
	names_create(&n, VOLUME, 0);
	struct intruder in = {.task.run = intrude, .n = &n};

	assert_int_equal(try_create(&n, INO_ROOT, "f", S_IFREG | 0644), 0);
	/* One under way ends. */
	assert_int_equal(volume_checkpoint(n.r.v, n.q, 0), 0);
	trim_start(&n, &t, 0, UINT64_MAX, 0);
	while (!discards(&n))
		assert_true(dev_poll(n.q, 0) || !volume_service(n.r.v, n.q));
	assert_false(t.done);
	assert_int_equal(volume_rest(n.r.v, n.q), 0);
	before = discards(&n);
	assert_int_equal(trim_wait(&n, &t), -EROFS);
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &trimmed), -EROFS);
	assert_int_equal(trimmed, 0);
	assert_int_equal(discards(&n), before);
	/* One that comes while it begins has nothing to wait for. */
	assert_int_equal(try_unlink(&n, INO_ROOT, "f"), 0);
	dev_post(n.q, &in.task);
	assert_int_equal(volume_rest(n.r.v, n.q), 0);
	generation = n.r.v->generation;
	assert_true(in.begun);
	assert_int_equal(trim_wait(&n, &in.t), -EROFS);
	assert_true(n.r.v->resting);
	assert_int_equal(volume_service(n.r.v, n.q), 0);
	assert_true(n.r.v->resting && n.r.v->generation == generation);
	assert_int_equal(discards(&n), before);
	assert_int_equal(volume_wake(n.r.v, n.q), 0);
	assert_int_equal(trim(&n, 0, UINT64_MAX, 0, &trimmed), 0);
	check_alloc(&n);
	names_destroy(&n);
}

/* With all files gone: what a trim had taken has not become used for ever. */
static void nothing_leaked(struct names *n, struct file *files, uint64_t before)
{
	char name[8];

	for (unsigned i = 0; i < FILES; i++) {
		file_name(i, name);
		if (files[i].ino)
			assert_int_equal(try_unlink(n, INO_ROOT, name), 0);
	}
	while (fs_service(n->fs, n->q))
		;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(volume_checkpoint(n->r.v, n->q, CHECKPOINT_FORCE), 0);
	assert_in_range(nfree(n), before - 16, before + 16);
}

/* Files come and go, checkpoints are made, and the power goes, while it runs.  `cut` 0: it does not. */
static bool in_use(uint64_t seed, uint64_t cut)
{
	struct file files[FILES] = {0};
	uint64_t random = seed, before;
	struct trimming t;
	struct names n;
	bool was_cut;

	names_create(&n, VOLUME, 0);
	before = nfree(&n);
	for (unsigned i = 0; i < FILES; i++)
		file_write(&n, &files[i], i, rng(&random));
	assert_int_equal(fs_sync(n.fs, n.q, 0, false), 0);
	assert_int_equal(volume_checkpoint(n.r.v, n.q, 0), 0);
	trim_start(&n, &t, 0, UINT64_MAX, 0);
	if (cut)
		dev_sim_cut_after(n.r.dev, cut);
	for (unsigned i = 0; i < 60 && !cut; i++) {
		unsigned k = (unsigned)(rng(&random) % FILES);

		file_write(&n, &files[k], k, rng(&random));
		if (t.done)
			trim_start(&n, &t, 0, UINT64_MAX, 0);
		if (i % 9 == 0)
			assert_int_equal(volume_checkpoint(n.r.v, n.q, CHECKPOINT_FORCE), 0);
		check_alloc(&n);
	}
	for (unsigned i = 0; i < 6 && cut && !dev_sim_is_cut(n.r.dev); i++) {
		/* What was synced must be there afterwards, whatever is done without a sync: nothing is removed here. */
		(void)volume_checkpoint(n.r.v, n.q, CHECKPOINT_FORCE);
		dev_poll(n.q, 0);
	}
	if (!cut) {
		assert_int_equal(trim_wait(&n, &t), 0);
		file_check_all(&n, files);
	}
	was_cut = dev_sim_is_cut(n.r.dev);
	if (cut) {
		t.cancel = true;
		while (!t.done && (dev_poll(n.q, 0) || !volume_service(n.r.v, n.q)))
			;
		names_crash(&n, seed);
	} else {
		names_reopen(&n);
	}
	file_check_all(&n, files);
	check_alloc(&n);
	nothing_leaked(&n, files, before);
	names_destroy(&n);
	return was_cut;
}

static void what_is_in_use_stays(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++)
		in_use(seed, 0);
}

static void power_cuts(void **state)
{
	uint64_t cuts = 0;

	(void)state;
	for (uint64_t cut = 1; in_use(cut, cut); cut++)
		cuts++;
	assert_true(cuts > 10);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_it_refuses),
		cmocka_unit_test(what_it_trims),
		cmocka_unit_test(rest_is_left_alone),
		cmocka_unit_test(what_is_in_use_stays),
		cmocka_unit_test(power_cuts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
