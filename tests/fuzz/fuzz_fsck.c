/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_fsck.c - target: the checker, with everything it has, on a volume that was edited. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"

#include <stdlib.h>
#include <string.h>

#include "fsck/check.h"

static void finding(void *arg, const struct fsck_finding *f)
{
	size_t *n = arg;

	assert(f->code < FSCK_NCODES);
	*n += strlen(f->text);
	diag(&fuzz_diag, DIAG_NOTICE, "%s", f->text);
}

static void check(struct dev *dev)
{
	size_t chars = 0;
	struct fsck_opts opts = {.data = true, .try_replay = true, .found = finding, .arg = &chars, .diag = &fuzz_diag};
	struct fsck_result res;
	struct dev_queue *q;
	uint64_t writes = dev_sim_writes(dev);

	if (dev_queue_create(dev, &q))
		return;
	(void)fsck_check(q, &opts, &res);
	dev_queue_destroy(q);
	/* It looks, and touches nothing. */
	assert(dev_sim_writes(dev) == writes);
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
		check(dev);
		dev_close(dev);
	}
	fuzz_end();
	return 0;
}
