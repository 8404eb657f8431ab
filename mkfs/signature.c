/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signature.c - probing and wiping with libblkid.
 *
 * libblkid does not know Holdfast, so its own superblocks are looked for by hand, and by their signature alone: a damaged volume
 * is still somebody's volume.
 */
#include "mkfs/signature.h"

#include <blkid/blkid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dev.h"
#include "core/format.h"
#include "core/printable.h"

/* Holdfast's fixed blocks in front, which also hold ZFS's labels; and at the end those of ZFS, GPT, nilfs2 and md. */
#define HEAD_BYTES (JOURNAL_BLKNO * BLOCK_SIZE)
#define TAIL_BYTES (1u << 20)

/* A device that gives the same signature back after this many wipes is not being wiped. */
#define MAX_WIPES 256

static void free_probe(blkid_probe *pr)
{
	blkid_free_probe(*pr);
}
#define auto_probe __attribute__((cleanup(free_probe))) blkid_probe

static int read_block(int fd, uint64_t blkno, void *block)
{
	size_t got = 0;

	while (got < BLOCK_SIZE) {
		ssize_t n = pread(fd, (char *)block + got, BLOCK_SIZE - got, (off_t)(blkno * BLOCK_SIZE + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		got += (size_t)n;
	}
	return 0;
}

static void describe_own(const struct disk_super *ds, uint64_t blkno, uint64_t nblocks, char *what, size_t bytes)
{
	struct super sb;

	if (super_decode(ds, blkno, nblocks, NULL, &sb) == 0 && sb.label[0])
		snprintf(what, bytes, "a Holdfast volume labelled \"%s\"", sb.label);
	else
		snprintf(what, bytes, "a Holdfast volume");
}

static int find_own(int fd, uint64_t size, char *what, size_t bytes)
{
	uint64_t nblocks = size / BLOCK_SIZE;
	auto_free struct disk_super *ds = malloc(BLOCK_SIZE);

	if (!ds)
		return -ENOMEM;
	for (unsigned copy = 0; copy < SUPER_COPIES && nblocks > SUPER_BLKNO1; copy++) {
		uint64_t blkno = super_blkno(nblocks, copy);
		int err = read_block(fd, blkno, ds);

		if (err)
			return err;
		if (memcmp(ds->signature, SUPER_SIGNATURE, sizeof(ds->signature)) == 0) {
			describe_own(ds, blkno, nblocks, what, bytes);
			return 1;
		}
	}
	return 0;
}

static int make_probe(int fd, uint64_t size, blkid_probe *out)
{
	blkid_probe pr = blkid_new_probe();

	if (!pr)
		return -ENOMEM;
	*out = pr;
	if (blkid_probe_set_device(pr, fd, 0, (blkid_loff_t)size))
		return -EIO;
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL |
						      BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM);
	blkid_probe_enable_partitions(pr, 1);
	blkid_probe_set_partitions_flags(pr, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
	return 0;
}

static const char *probe_value(blkid_probe pr, const char *name)
{
	const char *value = NULL;

	return blkid_probe_lookup_value(pr, name, &value, NULL) == 0 ? value : NULL;
}

static void describe_other(blkid_probe pr, char *what, size_t bytes)
{
	const char *table = probe_value(pr, "PTTYPE"), *type = probe_value(pr, "TYPE");
	const char *usage = probe_value(pr, "USAGE"), *label = probe_value(pr, "LABEL");

	if (!type) {
		snprintf(what, bytes, "a partition table of type %s", table ? table : "unknown");
		return;
	}
	const char *kind = usage && strcmp(usage, "filesystem") == 0 ? "file system" : "signature";
	int n = snprintf(what, bytes, "a %s of type %s", kind, type);

	if (label && n > 0 && (size_t)n < bytes)
		snprintf(what + n, bytes - (size_t)n, " labelled \"%s\"", label);
}

static int find_other(int fd, uint64_t size, char *what, size_t bytes)
{
	auto_probe pr = NULL;
	int err = make_probe(fd, size, &pr);

	if (err)
		return err;
	int rc = blkid_do_probe(pr);
	if (rc < 0)
		return -EIO;
	if (rc > 0)
		return 0;
	describe_other(pr, what, bytes);
	return 1;
}

int signature_find(int fd, uint64_t size, char *what, size_t what_bytes)
{
	int found = find_own(fd, size, what, what_bytes);

	if (!found && size)
		found = find_other(fd, size, what, what_bytes);
	/* Labels are in it. */
	if (found > 0)
		printable_make(what);
	return found;
}

static int write_zeros(int fd, uint64_t off, uint64_t len)
{
	auto_free void *zeros = dev_alloc(TAIL_BYTES, true);

	if (!zeros)
		return -ENOMEM;
	while (len > 0) {
		ssize_t n = pwrite(fd, zeros, len < TAIL_BYTES ? len : TAIL_BYTES, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* libblkid looks at the next signature only when the one before is gone, as with a stack of them. */
static int wipe_known(int fd, uint64_t size)
{
	auto_probe pr = NULL;
	int err = make_probe(fd, size, &pr);

	for (unsigned i = 0; !err && i < MAX_WIPES; i++) {
		int rc = blkid_do_probe(pr);

		if (rc > 0)
			return 0;
		if (rc < 0 || blkid_do_wipe(pr, 0))
			return -EIO;
	}
	return err;
}

int signature_wipe(int fd, uint64_t size)
{
	uint64_t head = size < HEAD_BYTES ? size : HEAD_BYTES, tail = size < TAIL_BYTES ? size : TAIL_BYTES;
	int err = wipe_known(fd, size);

	if (!err)
		err = write_zeros(fd, 0, head);
	if (!err)
		err = write_zeros(fd, size - tail, tail);
	if (!err && fdatasync(fd))
		err = -errno;
	return err;
}
