/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_client.c - a program that does its I/O with io_uring, or with Linux's AIO: "io_client uring|aio FILE [direct]".
 *
 * Writes, reads and syncs, many in flight, and what io_uring can do besides.  Prints the result of each operation, in order, and a sum
 * over what was read: on two file systems that behave alike the output is the same.
 */
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/stat.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/crc32c.h"

#define DEPTH 64u
#define PIECE 16384u
#define PLACES 128u /* pieces of the file */

static uint8_t *pieces; /* DEPTH of them */
static long results[DEPTH];

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static uint8_t *piece(unsigned n)
{
	return pieces + (size_t)n * PIECE;
}

/* Each place once in two rounds, in an order that jumps about. */
static off_t place(unsigned round, unsigned n)
{
	return (off_t)((n * 37 + round * DEPTH * 37) % PLACES) * PIECE;
}

static void fill(unsigned round)
{
	for (unsigned n = 0; n < DEPTH; n++)
		memset(piece(n), (int)(1 + (round * 61 + n) % 255), PIECE);
}

static void say(const char *what, unsigned count)
{
	printf("%s:", what);
	for (unsigned n = 0; n < count; n++)
		printf(" %ld", results[n]);
	printf(" crc %08x\n", crc32c(0, pieces, (size_t)DEPTH * PIECE));
}

/* --- io_uring --- */

static struct io_uring ring;

static struct io_uring_sqe *next(unsigned n)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (!sqe)
		die("io_uring_get_sqe");
	sqe->user_data = n;
	return sqe;
}

/* io_uring_prep_*() clears user_data. */
static void tag(struct io_uring_sqe *sqe, unsigned n)
{
	io_uring_sqe_set_data64(sqe, n);
}

static void finish(unsigned count)
{
	struct io_uring_cqe *cqe;

	io_uring_submit(&ring);
	for (unsigned i = 0; i < count; i++) {
		if (io_uring_wait_cqe(&ring, &cqe))
			die("io_uring_wait_cqe");
		results[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
	}
}

static void uring_round(int fd, unsigned round, bool write, bool fixed)
{
	if (write)
		fill(round);
	else
		memset(pieces, 0, (size_t)DEPTH * PIECE);
	for (unsigned n = 0; n < DEPTH; n++) {
		struct io_uring_sqe *sqe = next(n);

		if (write && fixed)
			io_uring_prep_write_fixed(sqe, fd, piece(n), PIECE, (__u64)place(round, n), 0);
		else if (write)
			io_uring_prep_write(sqe, fd, piece(n), PIECE, (__u64)place(round, n));
		else if (fixed)
			io_uring_prep_read_fixed(sqe, fd, piece(n), PIECE, (__u64)place(round, n), 0);
		else
			io_uring_prep_read(sqe, fd, piece(n), PIECE, (__u64)place(round, n));
		tag(sqe, n);
	}
	finish(DEPTH);
	say(write ? "write" : "read", DEPTH);
}

/* A write, what makes it durable, and a read, each after the one before. */
static void uring_chain(int fd)
{
	struct io_uring_sqe *sqe;

	memset(piece(0), 'c', PIECE);
	sqe = next(0);
	io_uring_prep_write(sqe, fd, piece(0), PIECE, 3 * PIECE);
	tag(sqe, 0);
	sqe->flags |= IOSQE_IO_LINK;
	sqe = next(1);
	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	tag(sqe, 1);
	sqe->flags |= IOSQE_IO_LINK;
	sqe = next(2);
	io_uring_prep_read(sqe, fd, piece(1), PIECE, 3 * PIECE);
	tag(sqe, 2);
	finish(3);
	say("chain", 3);
}

static void uring_names(const char *path)
{
	static struct statx stx;
	char other[4096];
	struct io_uring_sqe *sqe;

	snprintf(other, sizeof(other), "%s-other", path);
	sqe = next(0);
	io_uring_prep_openat(sqe, AT_FDCWD, other, O_CREAT | O_RDWR | O_EXCL, 0644);
	tag(sqe, 0);
	finish(1);
	int fd = (int)results[0];

	results[0] = fd >= 0;
	sqe = next(1);
	io_uring_prep_fallocate(sqe, fd, 0, 0, 100000);
	tag(sqe, 1);
	finish(1);
	sqe = next(2);
	io_uring_prep_statx(sqe, AT_FDCWD, other, 0, STATX_BASIC_STATS, &stx);
	tag(sqe, 2);
	finish(1);
	results[3] = (long)stx.stx_size;
	sqe = next(4);
	io_uring_prep_renameat(sqe, AT_FDCWD, other, AT_FDCWD, path, RENAME_NOREPLACE);
	tag(sqe, 4);
	finish(1);
	sqe = next(5);
	io_uring_prep_unlinkat(sqe, AT_FDCWD, other, 0);
	tag(sqe, 5);
	finish(1);
	sqe = next(6);
	io_uring_prep_fsync(sqe, fd, 0);
	tag(sqe, 6);
	finish(1);
	sqe = next(7);
	io_uring_prep_close(sqe, fd);
	tag(sqe, 7);
	finish(1);
	sqe = next(8);
	io_uring_prep_unlinkat(sqe, AT_FDCWD, other, 0);
	tag(sqe, 8);
	finish(1);
	say("names", 9);
}

static void uring(const char *path, int fd)
{
	struct iovec vec = {.iov_base = pieces, .iov_len = (size_t)DEPTH * PIECE};

	if (io_uring_queue_init(DEPTH, &ring, 0) || io_uring_register_buffers(&ring, &vec, 1))
		die("io_uring");
	for (unsigned round = 0; round < 4; round++)
		uring_round(fd, round, true, round % 2);
	for (unsigned round = 0; round < 4; round++)
		uring_round(fd, round, false, round % 2);
	uring_chain(fd);
	uring_names(path);
	io_uring_queue_exit(&ring);
}

/* --- AIO --- */

static aio_context_t context;

static void aio_round(int fd, unsigned round, unsigned opcode)
{
	struct iocb cb[DEPTH] = {0}, *list[DEPTH];
	struct io_event events[DEPTH];
	unsigned count = opcode == IOCB_CMD_PREAD || opcode == IOCB_CMD_PWRITE ? DEPTH : 1;

	if (opcode == IOCB_CMD_PWRITE)
		fill(round);
	else if (opcode == IOCB_CMD_PREAD)
		memset(pieces, 0, (size_t)DEPTH * PIECE);
	for (unsigned n = 0; n < count; n++) {
		cb[n] = (struct iocb){
			.aio_data = n,
			.aio_lio_opcode = (__u16)opcode,
			.aio_fildes = (__u32)fd,
			.aio_buf = (uintptr_t)piece(n),
			.aio_nbytes = PIECE,
			.aio_offset = place(round, n),
		};
		if (count == 1)
			cb[n].aio_buf = cb[n].aio_nbytes = 0, cb[n].aio_offset = 0;
		list[n] = &cb[n];
	}
	for (unsigned sent = 0; sent < count;) {
		long n = syscall(SYS_io_submit, context, (long)(count - sent), list + sent);

		if (n <= 0)
			die("io_submit");
		sent += (unsigned)n;
	}
	for (unsigned got = 0; got < count;) {
		long n = syscall(SYS_io_getevents, context, 1L, (long)(count - got), events, NULL);

		if (n <= 0)
			die("io_getevents");
		for (long i = 0; i < n; i++)
			results[events[i].data] = (long)events[i].res;
		got += (unsigned)n;
	}
	say("aio", count);
}

static void aio(int fd)
{
	if (syscall(SYS_io_setup, DEPTH, &context))
		die("io_setup");
	for (unsigned round = 0; round < 4; round++)
		aio_round(fd, round, IOCB_CMD_PWRITE);
	aio_round(fd, 0, IOCB_CMD_FSYNC);
	aio_round(fd, 0, IOCB_CMD_FDSYNC);
	for (unsigned round = 0; round < 4; round++)
		aio_round(fd, round, IOCB_CMD_PREAD);
	syscall(SYS_io_destroy, context);
}

int main(int argc, char **argv)
{
	bool direct = argc > 3 && !strcmp(argv[3], "direct");
	int fd = argc > 2 ? open(argv[2], O_CREAT | O_RDWR | (direct ? O_DIRECT : 0), 0644) : -1;

	if (fd < 0)
		die("open");
	pieces = aligned_alloc(4096, (size_t)DEPTH * PIECE);
	if (!pieces)
		die("memory");
	memset(pieces, 0, (size_t)DEPTH * PIECE);
	if (!strcmp(argv[1], "uring"))
		uring(argv[2], fd);
	else
		aio(fd);
	close(fd);
	free(pieces);
	return 0;
}
