/* SPDX-License-Identifier: Apache-2.0 */
/* uring_limits.c - see the header. */
#include "core/uring_limits.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* By hand: Debian 12's liburing declares functions for these two and does not export them. */
static int ring_register(struct io_uring *ring, unsigned op, const void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, op, arg, n) < 0 ? -errno : 0;
}

int uring_limit_and_enable(struct io_uring *ring, bool shared)
{
	const struct io_uring_restriction table[] = {
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FALLOCATE},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE | (shared ? IOSQE_ASYNC : 0)},
		{.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_FILES},
		/* From here on: of shared rings. */
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_URING_CMD},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_POLL_ADD},
		{.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_FILES_UPDATE},
	};
	unsigned n = sizeof(table) / sizeof(table[0]) - (shared ? 0 : 3);
	int err = ring_register(ring, IORING_REGISTER_RESTRICTIONS, table, n);

	return err ? err : ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}
