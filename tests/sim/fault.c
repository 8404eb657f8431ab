/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - faults other than power cuts: which one when, and what may then be said.
 *
 * The oracle.  Whatever happens, an answer is right or an error, a tree that a mount shows is one that was, and an operation
 * that ends in an error has changed nothing.  Which errors are excused, and how much may be missing, depends on the fault:
 *
 *   slow, in parts        Nothing is excused: not even the order of anything may show it.
 *
 *   read error            The device says so.  A read of contents may end in EIO, and so may a mount (the journal exists once).
 *                         Metadata exists twice: if the error strikes once, no other operation may notice.  The next mount, without the
 *                         error, shows everything.
 *
 *   write, flush error,   The device says so.  The volume turns read-only: changes end in EROFS, syncs in EIO, reads go on (EIO for
 *   full device           contents that never got home).  Nothing is acknowledged any more, and what was acknowledged before is
 *                         there at the next mount.  fsck finds nothing after it.
 *
 *   rot, a lost write     The device lies, or the medium does.
 *     of one metadata block    It exists twice: nothing is excused; all answers are right.
 *     of contents              EIO for those blocks, and everything else is right, the rest of that file included.  But if a group of the
 *                              journal named them that may be one of the last, it is as with the journal's own: see there.
 *     of the journal           A mount may be refused, which changes nothing.  If it gets through, nothing acknowledged is missing, with
 *                              one exception (README.md, "What the last groups held"): if no group that was begun after that one was durable
 *                              has become durable, then what was acknowledged by it or later may be, and blocks of files that a checkpoint
 *                              had begun to place home with it end in EIO.  These may be blocks that the groups just before had written;
 *                              unless another group proves those they are judged by them, and what they acknowledged may be missing, too.
 *
 *   a misdirected write,  The device lies in more places than one can know of: both copies of anything, or data and metadata.  Anything
 *   a lost flush, a lost  may be unreadable and the mount refused; what was acknowledged may be missing, since a flush or durable
 *   write of many blocks, write was none; but what is shown is still from one moment that was, and no contents are wrong.
 *   two of the above
 *
 *   a misdirected read    Of contents: as a read error.  Of metadata: nothing is excused, the other copy is right.  Of the journal, while
 *                         mounting: nothing, what seems to be its end is read twice; of a journal that is damaged as well: two of the above.
 */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

/* A group of the journal when it was submitted: what was durable then, as its header says; its end, at most; what had been acknowledged. */
struct group {
	uint64_t durable, end;
	unsigned acked;
};

#define GROUPS 16u /* more than are ever in flight */

/* What one of the last groups of the journal needs may be gone. */
struct loss {
	bool on;
	/* So much is safe, or `placed_floor` if a checkpoint has begun to place contents; and all, once a group is durable that was begun when
	 * all up to `end` was, which proves that something is missing. */
	unsigned floor, placed_floor;
	uint64_t end;
	bool proven;
};

struct faults {
	/* What has struck: the first three in this life. */
	bool read, read_sticky, write;
	bool data, any;
	struct loss log, home;	/* blocks of the journal; contents that it names */
	uint64_t *named;	/* of each block that was written in this life: what had been appended when that was submitted */
	bool placed;		/* such a block was written once more while the log began at: */
	uint64_t placed_tail;
	unsigned nmeta;		/* blocks of metadata of which a copy is bad */
	struct group group[GROUPS]; /* the last ones, newest first */
	uint64_t durable;
	bool sticky;
	uint64_t struck[SIM_NTROUBLES][SIM_NOPS];
};

struct faults *faults_new(uint64_t nblocks)
{
	struct faults *f = calloc(1, sizeof(*f));

	if (f)
		f->named = calloc(nblocks, sizeof(*f->named));
	if (!f || !f->named)
		abort();
	return f;
}

void faults_free(struct faults *f)
{
	free(f->named);
	free(f);
}

/* --- ordering them ----------------------------------------------------------------------------- */

static const struct {
	const char *name;
	enum sim_trouble what;
	enum dev_op op;
	unsigned weight;
} kinds[] = {
	{"read error", SIM_ERROR, DEV_READ, 6},
	{"write error", SIM_ERROR, DEV_WRITE, 6},
	{"flush error", SIM_ERROR, DEV_FLUSH, 4},
	{"full", SIM_FULL, DEV_WRITE, 2},
	{"slow write", SIM_SLOW, DEV_WRITE, 2},
	{"slow flush", SIM_SLOW, DEV_FLUSH, 2},
	{"write in parts", SIM_IN_PARTS, DEV_WRITE, 3},
	{"read in parts", SIM_IN_PARTS, DEV_READ, 2},
	{"lost write", SIM_LOST, DEV_WRITE, 8},
	{"lost flush", SIM_LOST, DEV_FLUSH, 2},
	{"misdirected write", SIM_MISDIRECTED, DEV_WRITE, 4},
	{"misdirected read", SIM_MISDIRECTED, DEV_READ, 4},
};
#define NKINDS (sizeof(kinds) / sizeof(kinds[0]))
#define ROT_WEIGHT 16u

static bool in_journal(const struct sim *s, uint64_t blkno)
{
	return blkno >= JOURNAL_BLKNO && blkno < JOURNAL_BLKNO + s->plan->geo.journal;
}

/* By its magic, of which a bit may have rotted. */
static bool is_metadata(const void *block)
{
	static const uint32_t magics[] = {MAGIC_SUPER, MAGIC_ROOT, MAGIC_NODE, MAGIC_BITMAP, MAGIC_TABLE};
	const struct disk_header *h = block;

	for (unsigned i = 0; i < sizeof(magics) / sizeof(magics[0]); i++) {
		if (__builtin_popcount(get32(h->magic) ^ magics[i]) <= 1)
			return true;
	}
	return false;
}

static void damaged_metadata(struct faults *f)
{
	if (++f->nmeta > 1)
		f->any = true;
}

/* May more be missing than was not acknowledged? */
static bool is_lost(const struct loss *l)
{
	return l->on && !l->proven;
}

/* None before a mount that is read-only has become writable. */
static bool has_log(const struct sim *s)
{
	return s->v && s->v->log;
}

/* Of a group that is durable, or under way; so much is safe in any case. */
static void lose(struct sim *s, struct loss *l, unsigned floor, unsigned placed_floor)
{
	struct faults *f = s->faults;

	/* Two damages: which of them is the last group's cannot be said. */
	if (f->log.on || is_lost(&f->home))
		f->any = true;
	*l = (struct loss){.on = true,
			   .floor = floor,
			   .placed_floor = placed_floor,
			   .end = has_log(s) ? log_append_lsn(s->v->log) : UINT64_MAX};
}

/* Where the log begins: what a checkpoint has placed is of no concern any more when its root has moved that. */
static uint64_t log_begin(const struct sim *s)
{
	return log_append_lsn(s->v->log) - log_used(s->v->log);
}

/* The log has gone on. */
static void note_durable(struct sim *s)
{
	struct faults *f = s->faults;

	if (!has_log(s))
		return;
	f->durable = log_durable_lsn(s->v->log);
	f->placed = f->placed && log_begin(s) == f->placed_tail;
	for (unsigned i = 0; i < GROUPS; i++) {
		if (!f->group[i].end || f->durable < f->group[i].end)
			continue;
		f->log.proven |= f->group[i].durable >= f->log.end;
		f->home.proven |= f->group[i].durable >= f->home.end;
	}
}

static void note_group(struct sim *s)
{
	struct faults *f = s->faults;

	note_durable(s);
	/* At the end of the region a group is two writes. */
	if (!has_log(s) || log_append_lsn(s->v->log) == f->group[0].end)
		return;
	memmove(f->group + 1, f->group, sizeof(f->group) - sizeof(f->group[0]));
	f->group[0] = (struct group){.durable = f->durable, .end = log_append_lsn(s->v->log), .acked = s->acked};
}

/* The newest durable group: what was durable, or acknowledged, when it was begun cannot go without that group's telling. */
static const struct group *proof(const struct faults *f)
{
	unsigned i = 0;

	while (i < GROUPS - 2 && f->group[i + 1].end && f->durable < f->group[i].end)
		i++;
	return &f->group[i];
}

static void note_block(struct sim *s, uint64_t blkno, const void *block)
{
	struct faults *f = s->faults;

	if (f->named[blkno] && !is_metadata(block)) {
		f->placed = true;
		f->placed_tail = log_begin(s);
	}
	f->named[blkno] = log_append_lsn(s->v->log);
}

static void note_write(struct sim *s, const struct dev_io *io)
{
	uint64_t blkno = io->off >> BLOCK_SHIFT;

	for (int i = 0; has_log(s) && i < io->niov; i++) {
		for (size_t at = 0; at + BLOCK_SIZE <= io->iov[i].iov_len; at += BLOCK_SIZE)
			note_block(s, blkno++, (const char *)io->iov[i].iov_base + at);
	}
}

/* Contents; `floor` as in lose(). */
static void damaged_data(struct sim *s, uint64_t blkno, unsigned floor)
{
	struct faults *f = s->faults;

	f->data = true;
	if (f->named[blkno] > proof(f)->durable)
		lose(s, &f->home, floor, floor);
}

static void rot(struct sim *s, uint64_t random)
{
	uint64_t state = random, begin = 0, len = s->dev->size;
	uint8_t block[BLOCK_SIZE];

	if (random % 4 == 0) {
		begin = (uint64_t)JOURNAL_BLKNO << BLOCK_SHIFT;
		len = (uint64_t)s->plan->geo.journal << BLOCK_SHIFT;
	} else if (random % 4 < 3) {
		begin = (uint64_t)(JOURNAL_BLKNO + s->plan->geo.journal) << BLOCK_SHIFT;
		len -= begin;
	}
	uint64_t byte = dev_sim_rot(s->dev, begin, len, &state), blkno = byte >> BLOCK_SHIFT;

	if (byte == UINT64_MAX)
		return;
	s->cov->faults++;
	dev_sim_peek(s->dev, blkno << BLOCK_SHIFT, block, BLOCK_SIZE);
	trace(s, "a bit of block %llu rots", (unsigned long long)blkno);
	note_durable(s);
	if (in_journal(s, blkno))
		/* Of the newest durable group or of an older one, and what that had acknowledged is then missed. */
		lose(s, &s->faults->log, proof(s->faults)->acked, proof(s->faults)[1].acked);
	else if (is_metadata(block))
		damaged_metadata(s->faults);
	else
		damaged_data(s, blkno, proof(s->faults)->acked);
}

void faults_order(struct sim *s, const struct op *op)
{
	unsigned sum = ROT_WEIGHT, at, k = 0;
	bool sticky;

	for (unsigned i = 0; i < NKINDS; i++)
		sum += kinds[i].weight;
	at = (unsigned)(op->r[0] % sum);
	while (k < NKINDS && at >= kinds[k].weight)
		at -= kinds[k++].weight;
	if (k == NKINDS) {
		rot(s, op->r[1]);
		return;
	}
	/* A device that goes on lying is no device. */
	sticky = kinds[k].what != SIM_LOST && kinds[k].what != SIM_MISDIRECTED && op->r[2] % 3 == 0;
	uint64_t n = 1 + op->r[1] % (kinds[k].op == DEV_FLUSH ? 3 : 12);

	trace(s, "%s: number %llu from here%s", kinds[k].name, (unsigned long long)n, sticky ? ", and all later ones" : "");
	s->faults->sticky |= sticky && kinds[k].op == DEV_READ;
	if (kinds[k].what == SIM_ERROR)
		dev_sim_fail(s->dev, kinds[k].op, n, sticky ? SIM_FAULT_STICKY : SIM_FAULT_ONCE, -EIO, 0, 0);
	else
		dev_sim_trouble(s->dev, kinds[k].what, kinds[k].op, n, sticky ? SIM_FAULT_STICKY : SIM_FAULT_ONCE, 0, 0);
}

/* Something is acknowledged, or the volume is about to be closed. */
void faults_note(struct sim *s)
{
	if (s->plan->faults)
		note_durable(s);
}

void faults_withdraw(struct sim *s)
{
	for (unsigned i = 0; i < NKINDS; i++) {
		if (kinds[i].what == SIM_ERROR)
			dev_sim_fail(s->dev, kinds[i].op, 1, SIM_FAULT_NONE, 0, 0, 0);
		else
			dev_sim_trouble(s->dev, kinds[i].what, kinds[i].op, 1, SIM_FAULT_NONE, 0, 0);
	}
	s->faults->sticky = false;
}

/* What a device says of itself is over with the life; what it has lied about stays. */
void faults_new_life(struct sim *s)
{
	struct faults *f = s->faults;

	f->read = f->read_sticky = f->write = false;
}

/* A mount has replaced the journal. */
void faults_mounted(struct sim *s)
{
	struct faults *f = s->faults;

	f->data |= is_lost(&f->log);
	f->log = f->home = (struct loss){0};
	f->placed = false;
	memset(f->group, 0, sizeof(f->group));
	memset(f->named, 0, s->plan->geo.nblocks * sizeof(*f->named));
}

/* --- seeing them strike ------------------------------------------------------------------------ */

static unsigned metadata_in(const struct dev_io *io)
{
	unsigned n = 0;

	for (int i = 0; i < io->niov; i++) {
		for (size_t at = 0; at + BLOCK_SIZE <= io->iov[i].iov_len; at += BLOCK_SIZE)
			n += is_metadata((const char *)io->iov[i].iov_base + at);
	}
	return n;
}

static void lost_write(struct sim *s, const struct dev_io *io)
{
	struct faults *f = s->faults;
	unsigned nmeta = metadata_in(io);

	if (in_journal(s, io->off >> BLOCK_SHIFT))
		lose(s, &f->log, s->acked, proof(f)->acked);
	else if (nmeta && io->len > BLOCK_SIZE)
		f->any = true;
	else if (nmeta)
		damaged_metadata(f);
	else
		damaged_data(s, io->off >> BLOCK_SHIFT, s->acked);
}

static void struck(struct sim *s, enum sim_trouble what, const struct dev_io *io)
{
	struct faults *f = s->faults;

	s->cov->faults++;
	trace(s, " <%s at %llu+%llu>", what == SIM_LOST ? "lost" : what == SIM_MISDIRECTED ? "misdirected" : "struck",
	      (unsigned long long)io->off, (unsigned long long)io->len);
	switch (what) {
	case SIM_ERROR:
	case SIM_FULL:
		if (io->op == DEV_READ) {
			f->read = true;
			f->read_sticky |= f->sticky;
		} else {
			f->write = true;
		}
		break;
	case SIM_LOST:
		if (io->op == DEV_WRITE)
			lost_write(s, io);
		else
			f->any = true;
		break;
	case SIM_MISDIRECTED:
		if (io->op == DEV_WRITE || (f->log.on && in_journal(s, io->off >> BLOCK_SHIFT)))
			f->any = true;
		else
			f->read = true;
		break;
	default:
		break;
	}
}

/* From the device's hook, behind each submission. */
void faults_watch(struct sim *s, const struct dev_io *io)
{
	struct faults *f = s->faults;

	if (io->op == DEV_WRITE && in_journal(s, io->off >> BLOCK_SHIFT))
		note_group(s);
	else if (io->op == DEV_WRITE)
		note_write(s, io);
	for (unsigned what = 0; what < SIM_NTROUBLES; what++) {
		uint64_t n = dev_sim_struck(s->dev, (enum sim_trouble)what, io->op);

		if (n != f->struck[what][io->op])
			struck(s, (enum sim_trouble)what, io);
		f->struck[what][io->op] = n;
	}
}

/* --- what is excused --------------------------------------------------------------------------- */

static bool is_about_contents(const struct sim *s)
{
	if (s->write_ends)
		return true;
	if (!s->op)
		return false;
	switch (s->op->kind) {
	case OP_READ:
	case OP_WRITE:
	case OP_WRITE_LENT:
	case OP_WRITE_ASYNC:
	case OP_APPEND:
	case OP_OVERWRITE:
	case OP_COPY:
	case OP_TRUNCATE:
	case OP_RESERVE:
	case OP_PUNCH:
	case OP_ZERO:
	case OP_CACHED:
	case OP_WRITEBACK:
		return true;
	default:
		return false;
	}
}

/* Contents that cannot be read, or cannot be changed because they would have to be read. */
bool faults_excuse_contents(const struct sim *s, int rc)
{
	const struct faults *f = s->faults;

	return (rc == -EIO || rc == -EUCLEAN) && (f->read || f->write || f->data || f->any || is_lost(&f->log));
}

bool faults_excuse_metadata(const struct sim *s, int rc)
{
	const struct faults *f = s->faults;

	return (rc == -EIO || rc == -EUCLEAN) && (f->any || f->read_sticky || (f->read && f->nmeta));
}

/* Has the volume rightly turned read-only? */
static bool excuse_change(const struct sim *s, int rc)
{
	const struct faults *f = s->faults;

	/* A checkpoint tells what the device told it. */
	if (rc != -EROFS && rc != -EIO && !(rc == -ENOSPC && s->op && s->op->kind == OP_CHECKPOINT))
		return false;
	return s->v && volume_writable(s->v) && (f->write || f->any);
}

bool faults_excuse(const struct sim *s, int rc)
{
	if (!s->plan->faults)
		return false;
	if (excuse_change(s, rc) || faults_excuse_metadata(s, rc))
		return true;
	return is_about_contents(s) && faults_excuse_contents(s, rc);
}

/* Will another mount, without errors, get through?  *again: it must. */
bool faults_excuse_mount(struct sim *s, int rc, bool *again)
{
	const struct faults *f = s->faults;

	if (!s->plan->faults || rc == -ENOMEM)
		return false;
	*again = !f->any && !f->log.on;
	return f->any || (f->log.on && (rc == -EBADMSG || rc == -EIO || rc == -EUCLEAN)) || f->read || f->write;
}

bool faults_damage(const struct sim *s)
{
	const struct faults *f = s->faults;

	return s->plan->faults && (f->any || f->data || f->nmeta || f->log.on);
}

bool faults_write(const struct sim *s)
{
	return s->plan->faults && s->faults->write;
}

bool faults_any(const struct sim *s)
{
	return s->plan->faults && s->faults->any;
}

static unsigned lower(unsigned floor, const struct faults *f, const struct loss *l)
{
	unsigned safe = f->placed ? l->placed_floor : l->floor;

	return is_lost(l) && safe < floor ? safe : floor;
}

/* So many changes must be there at least. */
unsigned faults_floor(const struct sim *s)
{
	const struct faults *f = s->faults;

	if (!s->plan->faults)
		return s->acked;
	if (f->any)
		return 0;
	unsigned floor = lower(s->acked, f, &f->log);

	return lower(floor, f, &f->home);
}
