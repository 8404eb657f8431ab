/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_replay.c - target: recovery, of a volume and a journal that were edited.  how & 1: read-only. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image.h"

#include <stdlib.h>

#include "journal/volume.h"

static void replay(struct dev *dev, unsigned how)
{
	struct volume_config cfg = {.flags = how & 1 ? VOLUME_READ_ONLY : 0, .cache_bytes = 256u << 10};
	struct dev_queue *q;
	struct volume *v;

	if (dev_queue_create(dev, &q))
		return;
	/* The second time it meets what the first one left. */
	for (unsigned i = 0; i < 2; i++) {
		if (volume_open(q, &cfg, &fuzz_diag, &v))
			break;
		(void)volume_close(v, q);
	}
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
		replay(dev, in.head.how);
		dev_close(dev);
	}
	fuzz_end();
	return 0;
}
