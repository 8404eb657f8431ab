/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz_repair.c - target: fsck -y on a volume that was edited.
 *
 * What was repaired must be in order: a second check finds nothing but contents of files that do not match, and the volume opens.
 * how & 1: -p; how & 2: a journal that is damaged is cut off first.  Copies are healed before, as fsck_repair() expects it.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"

#include <stdlib.h>
#include <string.h>

#include "fsck/repair.h"
#include "fsck/truncate.h"

static void finding(void *arg, const struct fsck_finding *f)
{
	diag(&fuzz_diag, DIAG_NOTICE, "%s%s", (const char *)arg, f->text);
}

static void note(void *arg, const struct rebuild_note *n)
{
	(void)arg;
	(void)n;
}

static void check_repaired(struct dev_queue *q)
{
	struct fsck_opts opts = {.data = true, .try_replay = true, .found = finding, .arg = "left: ", .diag = &fuzz_diag};
	struct volume_config cfg = {0};
	struct fsck_result res;
	struct volume *v;
	int err = fsck_check(q, &opts, &res);

	assert(err == 0 || err == -ENOMEM);
	if (err)
		return;
	for (unsigned i = 0; i < FSCK_NCODES; i++)
		assert(!res.count[i] || fsck_code_info((enum fsck_code)i)->severity != FSCK_ERROR ||
		       repair_way((enum fsck_code)i) == REPAIR_DATA);
	err = volume_open(q, &cfg, &fuzz_diag, &v);
	assert(err == 0 || err == -ENOMEM);
	if (!err)
		assert(volume_close(v, q) == 0);
}

static void repair(struct dev *dev, unsigned how)
{
	struct fsck_opts opts = {
		.data = true, .heal = true, .try_replay = true, .found = finding, .arg = "", .diag = &fuzz_diag};
	struct repair_opts ropts = {.all = !(how & 1), .note = note, .diag = &fuzz_diag};
	struct volume_recovery rec;
	struct repair_result rr;
	struct fsck_result res;
	struct dev_queue *q;

	if (dev_queue_create(dev, &q))
		return;
	if (how & 2)
		(void)truncate_journal(q, &fuzz_diag, &rec);
	if (!fsck_check(q, &opts, &res) && !fsck_repair(q, &res, &ropts, &rr))
		check_repaired(q);
	dev_queue_destroy(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in;
	struct dev *dev;

	input_parse(data, size, &in);
	(void)fuzz_base_get(in.head.base);
	fuzz_begin();
	dev = image_make(&in);
	if (dev) {
		repair(dev, in.head.how);
		dev_close(dev);
	}
	fuzz_end();
	return 0;
}
