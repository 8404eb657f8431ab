/* SPDX-License-Identifier: Apache-2.0 */
/* empty_none.c - what the daemon calls and this filesystem has not; see empty.h.  Who asks is told so, or that there is nothing. */
#include "fs/scrub_job.h"
#include "tests/bench/empty.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"

/* --- extended attributes and flags --- */

int fs_setxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, const void *val,
		size_t len, int flags)
{
	return -EOPNOTSUPP;
}

int fs_getxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name, void *buf, size_t *len)
{
	return -ENODATA;
}

int fs_listxattr(struct fs *fs, struct dev_queue *q, uint64_t ino, bool trusted, char *buf, size_t *len)
{
	*len = 0;
	return 0;
}

int fs_removexattr(struct fs *fs, struct dev_queue *q, uint64_t ino, const char *name)
{
	return -ENODATA;
}

int fs_get_flags(struct fs *fs, struct dev_queue *q, uint64_t ino, uint32_t *flags)
{
	*flags = 0;
	return 0;
}

int fs_set_flags(struct fs *fs, struct dev_queue *q, uint32_t uid, uint64_t ino, uint32_t mask,
		 uint32_t flags)
{
	return -EOPNOTSUPP;
}

bool fs_has_flags(struct fs *fs)
{
	(void)fs;
	return false;
}

int fs_check_open(struct fs *fs, struct dev_queue *q, uint64_t ino, bool append)
{
	(void)fs, (void)q, (void)ino, (void)append;
	return 0;
}

bool fs_settle_begin(struct fs *fs, uint64_t ino)
{
	return false;
}

void fs_settle_end(struct fs *fs, uint64_t ino)
{
}

bool fs_must_sync(struct fs *fs, struct dev_queue *q, uint64_t ino, bool names)
{
	return false;
}

/* --- a write-back cache's room --- */

uint64_t fs_cached_reserve(uint64_t bytes)
{
	return 0;
}

int fs_admit(struct fs *fs, struct dev_queue *q, bool deep)
{
	return 0;
}

bool fs_is_low(const struct fs *fs)
{
	return false;
}

bool fs_look_low(struct fs *fs)
{
	return false;
}

void fs_told(struct fs *fs)
{
}

void fs_opened(struct fs *fs, uint64_t ino)
{
}

void fs_released(struct fs *fs, uint64_t ino)
{
}

bool fs_has_writers(struct fs *fs, uint64_t ino, bool *expired)
{
	return false;
}

void fs_set_expired(struct fs *fs, uint64_t ino, bool expired)
{
}

bool fs_writers(struct fs *fs, uint64_t *cursor, uint64_t *ino, unsigned n, unsigned *got)
{
	*got = 0;
	return false;
}

/* --- work on the side --- */

void fs_copy_range(struct fs *fs, struct dev_queue *q, struct fs_copy *c)
{
	void (*release)(struct fs_copy * c) = c->release;

	c->result = -EOPNOTSUPP;
	c->done(c);
	if (release)
		release(c);
}

void fs_trim(struct fs *fs, struct dev_queue *q, struct fs_trim *t)
{
	t->result = -EOPNOTSUPP;
	t->trimmed = 0;
	t->done(t);
}

int fs_shutdown(struct fs *fs, struct dev_queue *q, bool flush)
{
	return -EOPNOTSUPP;
}

void fs_flush_times(struct fs *fs, struct dev_queue *q, uint64_t ino)
{
}

void fs_set_times(struct fs *fs, struct dev_queue *q, enum fs_atime atime, bool nodiratime, bool lazytime)
{
}

void fs_settle(struct fs *fs, struct dev_queue *q)
{
}

void fs_set_lazy_period(struct fs *fs, unsigned seconds)
{
}

int64_t fs_lazy_left(struct fs *fs)
{
	return -1;
}

int fs_begin_writing(struct fs *fs, struct dev_queue *q)
{
	return -EROFS;
}

bool fs_service(struct fs *fs, struct dev_queue *q)
{
	return false;
}

bool fs_service_left(struct fs *fs)
{
	(void)fs;
	return false;
}

uint64_t *fs_known_inodes(struct fs *fs, uint64_t *n)
{
	*n = 0;
	return NULL;
}

/* --- scrub --- */

int scrub_job_create(struct dev *dev, struct scrub_job **out)
{
	*out = NULL;
	return 0;
}

int scrub_job_serve(struct scrub_job *job, struct fs *fs)
{
	return 0;
}

void scrub_job_destroy(struct scrub_job *job, struct dev_queue *q)
{
}

int scrub_job_start(struct scrub_job *job, struct holdfast_scrub_start *io)
{
	return -EOPNOTSUPP;
}

int scrub_job_cancel(struct scrub_job *job)
{
	return -EOPNOTSUPP;
}

void scrub_job_status(struct scrub_job *job, struct holdfast_scrub_status *out)
{
	*out = (struct holdfast_scrub_status){0};
}

int scrub_job_finding(struct scrub_job *job, struct holdfast_scrub_finding *io)
{
	return -EOPNOTSUPP;
}
