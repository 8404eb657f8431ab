/* SPDX-License-Identifier: Apache-2.0 */
/*
 * build.c - makes the broken images: build_image LIST, or build_image CASE FILE.
 *
 * The cases are those of tests/unit/fsck_hits.c: a small volume with one of everything, and one damage.  Faults of the device itself
 * cannot be put into a file, so those cases are left out.
 */
#include "tests/unit/fsck_hits.h"

#include <unistd.h>

static const char *mend_name(enum mend mend)
{
	static const char *const name[] = {
		[MENDS] = "mends", [LOSES] = "loses", [KEEPS_DATA_BAD] = "data", [KEEPS_LOG_BAD] = "log", [NO_ROOT] = "root",
	};

	return name[mend];
}

static bool needs_device(const struct hit *h)
{
	return h->want & (SET(DATA_READ) | SET(LOG_UNREADABLE));
}

/* A line per case: name, what a repair can do, the codes of the findings. */
static void list(void)
{
	for (unsigned i = 0; i < nhits; i++) {
		if (needs_device(&hits[i]))
			continue;
		printf("%s|%s|", hits[i].name, mend_name(hits[i].mend));
		for (unsigned code = 0; code < FSCK_NCODES; code++)
			if (hits[i].want >> code & 1)
				printf("%s ", fsck_code_info(code)->code);
		putchar('\n');
	}
}

/* Blocks of zeros stay holes. */
static int save(struct bench *b, const char *path)
{
	static const uint8_t zeros[BLOCK_SIZE];
	uint8_t block[BLOCK_SIZE];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int err = fd < 0 || ftruncate(fd, BENCH_BYTES) ? -errno : 0;

	for (uint64_t off = 0; !err && off < BENCH_BYTES; off += BLOCK_SIZE) {
		dev_sim_peek(b->r.dev, off, block, BLOCK_SIZE);
		if (memcmp(block, zeros, BLOCK_SIZE) != 0 && pwrite(fd, block, BLOCK_SIZE, (off_t)off) != BLOCK_SIZE)
			err = -EIO;
	}
	if (fd >= 0 && close(fd) && !err)
		err = -errno;
	return err;
}

static int make(const char *name, const char *path)
{
	struct bench b;

	for (unsigned i = 0; i < nhits; i++) {
		if (strcmp(hits[i].name, name) != 0 || needs_device(&hits[i]))
			continue;
		bench_create(&b);
		hits[i].run(&b);
		int err = save(&b, path);

		rig_destroy(&b.r);
		if (err)
			fprintf(stderr, "build_image: %s: %s\n", path, strerror(-err));
		return err ? 1 : 0;
	}
	fprintf(stderr, "build_image: no case \"%s\"\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "LIST") == 0) {
		list();
		return 0;
	}
	if (argc == 3)
		return make(argv[1], argv[2]);
	fputs("usage: build_image LIST | build_image CASE FILE\n", stderr);
	return 2;
}
