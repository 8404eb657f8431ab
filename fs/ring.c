/* SPDX-License-Identifier: Apache-2.0 */
/* ring.c - see the header. */
#include "fs/ring.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <unistd.h>

#include "core/big_pool.h"
#include "core/dev_uring.h"

/* --- what is younger than the header of Debian 12 -------------------------------------------------- */

enum { CMD_REGISTER = 1, CMD_COMMIT_AND_FETCH = 2 };

#define OP_IN_MAX 128u

struct ring_header {
	char in_out[128]; /* fuse_in_header, then fuse_out_header */
	char op_in[OP_IN_MAX]; /* the request's fixed part */
	uint64_t flags;
	uint64_t commit_id;
	uint32_t payload_size;
	uint32_t pad;
	uint64_t reserved;
};
static_assert(sizeof(struct ring_header) == 288, "the kernel reads and writes this");

struct ring_command {
	uint64_t flags;
	uint64_t commit_id;
	uint16_t qid;
	uint8_t pad[6];
};
static_assert(sizeof(struct ring_command) == 24, "the kernel reads this");

/* --- an entry and its memory ------------------------------------------------------------------------- */

/*
 *   0     the header, shared with the kernel
 *   512   room
 *   ..    the request's headers, so placed that they end where the payload begins: the request is then in one piece
 *   4096  the payload, shared with the kernel
 */
#define ROOM_AT 512u
#define PAYLOAD_AT 4096u
#define SPARE 4096u /* behind the payload */
static_assert(ROOM_AT + RING_ROOM + sizeof(struct fuse_in_header) + OP_IN_MAX <= PAYLOAD_AT, "all fits the page");

enum state {
	OFFERED, /* the kernel's */
	ARRIVED, /* in `arrived` */
	TAKEN, /* not replied to */
	GONE,
};

struct ring_entry {
	struct dev_guest guest; /* first: see entry_done() */
	struct ring *ring;
	STAILQ_ENTRY(ring_entry) link; /* in arrived */
	enum state state;
	uint16_t qid;
	bool apart; /* ring_entry_apart(), until there is a reply */
	uint64_t unique; /* of a taken one */
	char *mem;
	struct iovec iov[2];
};

struct ring {
	struct dev_queue *q;
	const struct diag *diag;
	int fd;
	bool fixed_file;
	bool refused;
	unsigned nentries, ngone;
	struct ring_entry *current; /* the one taken last */
	STAILQ_HEAD(, ring_entry) arrived;
	size_t payload; /* bytes */
	char *mem;
	size_t mem_bytes;
	struct ring_entry entries[];
};

static struct ring_header *header_of(const struct ring_entry *e)
{
	return (struct ring_header *)e->mem;
}

void *ring_entry_room(struct ring_entry *e)
{
	return e->mem + ROOM_AT;
}

void ring_entry_apart(struct ring_entry *e)
{
	e->apart = true;
}

void *ring_entry_payload(struct ring_entry *e)
{
	return e->mem + PAYLOAD_AT;
}

/* --- what the kernel says -------------------------------------------------------------------------------- */

static bool read_line(const char *path, char *line, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, room - 1);

	if (fd >= 0)
		close(fd);
	if (n < 0)
		return false;
	line[n] = '\0';
	return true;
}

bool ring_enabled(void)
{
	char line[8];

	return read_line("/sys/module/fuse/parameters/enable_uring", line, sizeof(line)) && line[0] == 'Y';
}

/* "0-3" or "0,2-5": what counts is the last number. */
unsigned ring_kernel_queues(void)
{
	char line[256];
	unsigned n = 0;

	if (!read_line("/sys/devices/system/cpu/possible", line, sizeof(line)))
		return 0;
	for (char *p = line; *p >= '0' && *p <= '9'; p += *p == ',' || *p == '-')
		n = (unsigned)strtoul(p, &p, 10) + 1;
	return n;
}

/* --- commands ---------------------------------------------------------------------------------------------- */

static void submit(struct ring_entry *e, uint32_t op, uint64_t commit_id)
{
	struct ring *r = e->ring;
	struct io_uring_sqe *sqe = dev_uring_sqe(r->q, &e->guest);
	struct ring_command cmd = {.commit_id = commit_id, .qid = e->qid};

	/* The ring is broken: ring_state() says so. */
	if (!sqe)
		return;
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = r->fixed_file ? DEV_GUEST_FILE : r->fd;
	sqe->flags = (r->fixed_file ? IOSQE_FIXED_FILE : 0) | (e->apart ? IOSQE_ASYNC : 0);
	e->apart = false;
	sqe->cmd_op = op;
	if (op == CMD_REGISTER) {
		sqe->addr = (uintptr_t)e->iov;
		sqe->len = 2;
	}
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	e->state = OFFERED;
}

static void entry_gone(struct ring_entry *e, int err)
{
	struct ring *r = e->ring;

	e->state = GONE;
	r->ngone++;
	if (err == -ENOTCONN || err == -ECONNABORTED || err == -ENODEV || err == -ECANCELED)
		return;
	diag(r->diag, DIAG_WARNING, "requests over io_uring: %s", strerror(-err));
}

/* A commit is answered when the next request is there. */
static void entry_done(struct dev_guest *guest, int res, bool more)
{
	struct ring_entry *e = (struct ring_entry *)guest;
	struct ring *r = e->ring;
	uint64_t commit_id = header_of(e)->commit_id;

	(void)more;
	if (res == 0) {
		e->state = ARRIVED;
		STAILQ_INSERT_TAIL(&r->arrived, e, link);
		e->unique = 0;
	} else if (res == -EAGAIN || res == -EINTR) {
		submit(e, e->unique ? CMD_COMMIT_AND_FETCH : CMD_REGISTER, commit_id);
	} else {
		r->refused |= !commit_id;
		entry_gone(e, res);
	}
}

void ring_begin(struct ring *r, int fd)
{
	r->fd = fd;
	r->fixed_file = dev_uring_guest_file(r->q, fd) == 0;
	for (unsigned i = 0; i < r->nentries; i++)
		submit(&r->entries[i], CMD_REGISTER, 0);
}

enum ring_state ring_state(const struct ring *r)
{
	if (dev_uring_failed(r->q))
		return RING_GONE;
	if (r->ngone < r->nentries)
		return RING_WORKS;
	return r->refused ? RING_REFUSED : RING_GONE;
}

/* --- requests ------------------------------------------------------------------------------------------------ */

/* Puts the headers where they belong, in front of the payload.  0: what the kernel wrote makes no sense. */
static size_t assemble(struct ring_entry *e, char **message)
{
	const struct ring_header *h = header_of(e);
	struct fuse_in_header in;

	memcpy(&in, h->in_out, sizeof(in));
	if (in.len < sizeof(in) || h->payload_size > e->ring->payload || in.len - sizeof(in) < h->payload_size ||
	    in.len - sizeof(in) - h->payload_size > OP_IN_MAX)
		return 0;

	size_t op_len = in.len - sizeof(in) - h->payload_size;

	*message = e->mem + PAYLOAD_AT - op_len - sizeof(in);
	memcpy(*message, &in, sizeof(in));
	memcpy(*message + sizeof(in), h->op_in, op_len);
	e->unique = in.unique;
	return in.len;
}

struct ring_entry *ring_next(struct ring *r, char **message, size_t *len)
{
	for (;;) {
		struct ring_entry *e = STAILQ_FIRST(&r->arrived);

		if (!e)
			return NULL;
		STAILQ_REMOVE_HEAD(&r->arrived, link);
		e->state = TAKEN;
		r->current = e;
		*len = assemble(e, message);
		if (*len)
			return e;
		entry_gone(e, -EPROTO);
	}
}

/* --- replies --------------------------------------------------------------------------------------------------- */

static struct ring_entry *find_entry(struct ring *r, uint64_t unique)
{
	if (r->current && r->current->state == TAKEN && r->current->unique == unique)
		return r->current;
	for (unsigned i = 0; i < r->nentries; i++)
		if (r->entries[i].state == TAKEN && r->entries[i].unique == unique)
			return &r->entries[i];
	return NULL;
}

/* Pieces may lie in the payload itself, behind where they go to. */
static size_t fill_payload(struct ring_entry *e, const struct iovec *iov, int n)
{
	char *to = ring_entry_payload(e);
	size_t used = 0;

	for (int i = 0; i < n; i++) {
		assert(iov[i].iov_len <= e->ring->payload - used);
		if (iov[i].iov_len && iov[i].iov_base != to + used)
			memmove(to + used, iov[i].iov_base, iov[i].iov_len);
		used += iov[i].iov_len;
	}
	return used;
}

bool ring_reply(struct ring *r, const struct iovec *iov, int n)
{
	struct fuse_out_header out;

	assert(n > 0 && iov[0].iov_len == sizeof(out));
	memcpy(&out, iov[0].iov_base, sizeof(out));

	struct ring_entry *e = out.unique ? find_entry(r, out.unique) : NULL;

	if (!e)
		return false;

	struct ring_header *h = header_of(e);

	h->payload_size = (uint32_t)fill_payload(e, iov + 1, n - 1);
	memcpy(h->in_out, &out, sizeof(out));
	submit(e, CMD_COMMIT_AND_FETCH, h->commit_id);
	return true;
}

/* --- making ------------------------------------------------------------------------------------------------------- */

static void entry_init(struct ring_entry *e, struct ring *r, unsigned qid, char *mem)
{
	*e = (struct ring_entry){.guest.done = entry_done, .ring = r, .state = GONE, .qid = (uint16_t)qid, .mem = mem};
	e->iov[0] = (struct iovec){.iov_base = mem, .iov_len = sizeof(struct ring_header)};
	e->iov[1] = (struct iovec){.iov_base = mem + PAYLOAD_AT, .iov_len = r->payload};
}

/*
 * What is not touched costs nothing.  In huge pages the kernel need not look up each page that the device fills, and data is verified and copied
 * with fewer misses of the TLB; but then more is touched than is used.  The kernel takes first the entry that it was given last, so most
 * are not touched even then.
 */
static char *map_entries(size_t bytes, size_t of_all)
{
	char *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	(void)madvise(mem, bytes, of_all <= huge_pages_share() ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return mem;
}

int ring_create(struct dev_queue *q, unsigned first, unsigned step, unsigned nqueues, size_t payload, const struct diag *diag,
		struct ring **out)
{
	size_t bytes = PAYLOAD_AT + payload + SPARE; /* of an entry */
	unsigned n = (nqueues - first + step - 1) / step * RING_DEPTH;

	if (n >= DEV_GUESTS_MAX)
		return -E2BIG;

	struct ring *r = calloc(1, sizeof(*r) + n * sizeof(r->entries[0]));

	if (!r)
		return -ENOMEM;
	r->mem_bytes = n * bytes;
	r->mem = map_entries(r->mem_bytes, (size_t)nqueues * RING_DEPTH * bytes);
	if (!r->mem) {
		free(r);
		return -ENOMEM;
	}
	r->q = q;
	r->diag = diag;
	r->nentries = n;
	r->payload = payload;
	STAILQ_INIT(&r->arrived);
	for (unsigned i = 0; i < n; i++)
		entry_init(&r->entries[i], r, first + i / RING_DEPTH * step, r->mem + i * bytes);
	*out = r;
	return 0;
}

void ring_destroy(struct ring *r)
{
	if (!r)
		return;
	munmap(r->mem, r->mem_bytes);
	free(r);
}
