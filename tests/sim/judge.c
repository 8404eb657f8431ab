/* SPDX-License-Identifier: Apache-2.0 */
/* judge.c - whether what the real filesystem says of one operation can be right. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void violation(struct sim *s, const char *kind, const char *fmt, ...)
{
	struct verdict *v = s->verdict;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->text, sizeof(v->text), fmt, ap);
	va_end(ap);
	snprintf(v->kind, sizeof(v->kind), "%s", kind);
	v->op = s->op ? s->op->label : 0;
	v->life = s->life;
	v->failed = true;
	trace(s, "VIOLATION (%s): %s\n", kind, v->text);
	if (s->trace)
		fflush(s->trace);
	_exit(3);
}

void trace(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	if (!s->trace)
		return;
	va_start(ap, fmt);
	vfprintf(s->trace, fmt, ap);
	va_end(ap);
}

/* Blocks that can be neither journal nor superblock. */
static uint64_t usable(const struct sim *s)
{
	return s->plan->geo.nblocks - s->plan->geo.journal - 80;
}

/* Half of what seems free may be metadata, its copies, and what the last checkpoint still keeps. */
bool space_is_short(struct sim *s, uint64_t want)
{
	uint64_t used = s->model->nblocks, all = usable(s);
	uint64_t kept = s->plan->cached_bytes ? fs_cached_reserve(s->plan->cached_bytes) : 0;

	all -= kept < all ? kept : all;

	/* Each of many small extents may cost a node of the tree, and its copy. */
	if (s->plan->geo.comb)
		want *= 5;
	return used >= all || (all - used) / 2 < want + 160;
}

/* For the message: what the allocator says. */
static const char *space_text(struct sim *s, char text[120])
{
	struct alloc_space a = {0};

	if (s->v) {
		volume_lock(s->v);
		alloc_get_space(s->v->alloc, &a);
		volume_unlock(s->v);
	}
	snprintf(text, 120, "model %llu of %llu; free %llu, pending %llu, reserved %llu, emergency %llu",
		 (unsigned long long)s->model->nblocks, (unsigned long long)usable(s), (unsigned long long)a.nfree,
		 (unsigned long long)a.npending, (unsigned long long)a.reserved, (unsigned long long)a.emergency);
	return text;
}

void no_space(struct sim *s, uint64_t want)
{
	char text[120];

	if (!space_is_short(s, want))
		violation(s, "space", "no space for %llu blocks: %s", (unsigned long long)want, space_text(s, text));
}

bool judge(struct sim *s, int rc, uint64_t want)
{
	if (rc >= 0) {
		if (s->shut && !s->earlier_ends && s->op && s->op->kind != OP_GETATTR)
			violation(s, "shut", "success after a shutdown");
		return true;
	}
	if (world_is_cut(s))
		return false;
	if (s->shut && rc == -EIO) {
		s->cov->shut_refused++;
		return false;
	}
	if (faults_excuse(s, rc)) {
		s->cov->errors++;
		return false;
	}
	if (rc != -ENOSPC)
		return true;
	no_space(s, want);
	s->cov->enospc++;
	return false;
}

static const char *rc_text(int rc)
{
	return rc < 0 ? strerrorname_np(-rc) : "success";
}

/* -EPERM, and right: which flag has been met where. */
static void note_forbidden(struct sim *s)
{
	struct coverage *cov = s->cov;

	switch (s->op ? s->op->kind : OP_KINDS) {
	case OP_WRITE:
	case OP_WRITE_LENT:
	case OP_WRITE_ASYNC:
	case OP_APPEND:
	case OP_OVERWRITE:
	case OP_COPY:
	case OP_CACHED:
		cov->flag_write++;
		break;
	case OP_TRUNCATE:
	case OP_RESERVE:
	case OP_PUNCH:
	case OP_ZERO:
		cov->flag_size++;
		break;
	case OP_SETATTR:
		cov->flag_attr++;
		break;
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
	case OP_SETACL:
	case OP_REMOVEACL:
		cov->flag_xattr++;
		break;
	case OP_CREATE:
	case OP_MKDIR:
	case OP_MKNOD:
	case OP_SYMLINK:
	case OP_TMPFILE:
		cov->flag_make++;
		break;
	case OP_UNLINK:
	case OP_RMDIR:
		cov->flag_remove++;
		break;
	case OP_RENAME:
	case OP_EXCHANGE:
	case OP_WHITEOUT:
		cov->flag_rename++;
		break;
	default:
		break;
	}
}

void same_rc(struct sim *s, int rc, int want)
{
	if (rc == want && rc == -EPERM)
		note_forbidden(s);
	if (rc != want)
		violation(s, "result", "%s where %s is right", rc_text(rc), rc_text(want));
}

/* --- attributes -------------------------------------------------------------------------------- */

static void same_time(struct sim *s, const char *what, uint64_t ino, const struct timespec *got, const struct timespec *want)
{
	if (got->tv_sec != want->tv_sec || got->tv_nsec != want->tv_nsec)
		violation(s, "attr", "inode %llu: %s is %lld.%09ld, not %lld.%09ld", (unsigned long long)ino, what,
			  (long long)got->tv_sec, got->tv_nsec, (long long)want->tv_sec, want->tv_nsec);
}

static void same_number(struct sim *s, const char *what, uint64_t ino, uint64_t got, uint64_t want)
{
	if (got != want)
		violation(s, "attr", "inode %llu: %s is %llu, not %llu", (unsigned long long)ino, what,
			  (unsigned long long)got, (unsigned long long)want);
}

bool blocks_fit(const struct minode *i, uint64_t sectors, uint64_t *least, uint64_t *most)
{
	*most = i->blocks ? i->blocks->n : 0;
	*least = 0;
	if (!S_ISREG(i->mode))
		return true;
	for (unsigned k = 0; k < *most; k++)
		*least += i->blocks->block[k].page || i->blocks->block[k].state == M_UNWRITTEN;
	return i->first_loose || (sectors >= *least * 8 && sectors <= *most * 8);
}

static void same_blocks(struct sim *s, const struct minode *i, uint64_t sectors)
{
	uint64_t least, most;

	if (!blocks_fit(i, sectors, &least, &most) && !s->loose_use)
		violation(s, "blocks", "inode %llu has %llu sectors, where %llu to %llu blocks are in use",
			  (unsigned long long)i->ino, (unsigned long long)sectors, (unsigned long long)least,
			  (unsigned long long)most);
}

void same_attr(struct sim *s, uint64_t ino, const struct fs_attr *a)
{
	const struct minode *i = model_get(s->model, ino);

	if (!i)
		violation(s, "attr", "inode %llu should not be there", (unsigned long long)ino);
	same_number(s, "the number", ino, a->ino, ino);
	same_number(s, "the mode", ino, a->mode, i->mode);
	same_number(s, "the number of links", ino, a->nlink, i->nlink);
	same_number(s, "the owner", ino, a->uid, i->uid);
	same_number(s, "the group", ino, a->gid, i->gid);
	same_number(s, "the device number", ino, a->rdev, i->rdev);
	same_number(s, "the size", ino, a->size, i->size);
	same_time(s, "the time of access", ino, &a->atime, &i->atime);
	same_time(s, "the time of change", ino, &a->mtime, &i->mtime);
	same_time(s, "the time of attributes", ino, &a->ctime, &i->ctime);
	same_time(s, "the time of birth", ino, &a->btime, &i->btime);
	same_blocks(s, i, a->blocks);
}

/*
 * A reader may leave the time as it is, where there is no room to change it, and may have changed it when it fails; but changes it only
 * if the rules of the mount say so.
 */
void same_atime(struct sim *s, uint64_t ino)
{
	const struct minode *i = model_get(s->model, ino);
	struct fs_attr attr;

	if (s->shut || s->plan->atime == FS_NOATIME || !model_atime_due(s->model, i, s->plan->atime == FS_STRICTATIME))
		return;
	int rc = fs_getattr(s->fs, s->q, ino, &attr);

	/* Nobody can tell any more; the next mount will. */
	if (rc && world_is_cut(s))
		model_atime(s->model, ino);
	if (!judge(s, rc, 0))
		return;
	same_rc(s, rc, 0);
	if (attr.atime.tv_sec == s->clock.tv_sec && attr.atime.tv_nsec == s->clock.tv_nsec)
		lazy_read(s, ino);
	same_attr(s, ino, &attr);
}

void acked(struct sim *s, unsigned n)
{
	s->cov->syncs++;
	faults_note(s);
	if (n > s->acked)
		s->acked = n;
}

/* Fills with what only this operation writes. */
void pattern(void *buf, size_t len, uint64_t off, uint64_t label)
{
	uint64_t x = hash_mix(label, off) | 1;
	uint8_t *p = buf;

	for (; len >= 8; len -= 8, p += 8) {
		memcpy(p, &x, 8);
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	}
	memcpy(p, &x, len);
}
