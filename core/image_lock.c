/* SPDX-License-Identifier: Apache-2.0 */
/* image_lock.c - flock(2), loop devices, and /proc/self/mountinfo. */
#include "core/image_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"

#define RETRIES    20
#define RETRY_NSEC 50000000

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static void close_file(FILE **f)
{
	if (*f)
		fclose(*f);
}
#define auto_fd   __attribute__((cleanup(close_fd))) int
#define auto_file __attribute__((cleanup(close_file))) FILE

static int lock_one(int fd, bool shared)
{
	int op = (shared ? LOCK_SH : LOCK_EX) | LOCK_NB;

	for (int i = 0;; i++) {
		if (flock(fd, op) == 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK)
			return -errno;
		if (i == RETRIES)
			return -EBUSY;
		nanosleep(&(struct timespec){.tv_nsec = RETRY_NSEC}, NULL);
	}
}

/* First line of a sysfs attribute, without its newline. */
static bool read_attribute(const char *path, char *buf, size_t bytes)
{
	auto_file *f = fopen(path, "re");

	if (!f || !fgets(buf, (int)bytes, f))
		return false;
	buf[strcspn(buf, "\n")] = '\0';
	return true;
}

/* The file behind a whole loop device without an offset, opened; -1 if `fd` is something else or the file is out of reach. */
static int open_backing(int fd, dev_t rdev)
{
	struct loop_info64 info;
	char name[96], path[PATH_MAX];
	struct stat st;

	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/loop/backing_file", major(rdev), minor(rdev));
	if (!read_attribute(name, path, sizeof(path)))
		return -1;
	if (ioctl(fd, LOOP_GET_STATUS64, &info) || info.lo_offset)
		return -1;
	int backing = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (backing < 0)
		return -1;
	/* The path is what it was at losetup time; today it may be another file. */
	if (fstat(backing, &st) || st.st_ino != info.lo_inode || st.st_dev != info.lo_device) {
		close(backing);
		return -1;
	}
	return backing;
}

int image_lock(int fd, unsigned flags, int *backing_fd)
{
	bool shared = flags & IMAGE_LOCK_SHARED;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	int err = lock_one(fd, shared);
	if (err)
		return err;
	int backing = -1;
	if (S_ISBLK(st.st_mode) && !(flags & IMAGE_LOCK_NO_BACKING))
		backing = open_backing(fd, st.st_rdev);
	if (backing >= 0) {
		err = lock_one(backing, shared);
		if (err) {
			close(backing);
			flock(fd, LOCK_UN);
			return err;
		}
	}
	*backing_fd = backing;
	return 0;
}

int image_lock_pass(int from, int to)
{
	int err = lock_one(to, true);

	if (!err)
		flock(from, LOCK_UN);
	return err;
}

/*
 * The kernel takes the shared lock away before it finds that the other one is not to be had.  If it is, there was no moment between them.
 * (Locks of fcntl(2) keep what they were.  But older versions of our programs, and udev, know this one only.)
 */
static int raise_one(int fd)
{
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	/* Not waited for: who has it alone now may be writing. */
	return flock(fd, LOCK_SH | LOCK_NB) == 0 ? -EBUSY : -ENOLCK;
}

/* Nobody can be in the way of that. */
void image_lock_lower(int fd, int backing_fd)
{
	flock(fd, LOCK_SH);
	if (backing_fd >= 0)
		flock(backing_fd, LOCK_SH);
}

int image_lock_raise(int fd, int backing_fd)
{
	int err = raise_one(fd);

	if (!err && backing_fd >= 0)
		err = raise_one(backing_fd);
	if (err == -EBUSY)
		image_lock_lower(fd, backing_fd);
	return err;
}

/* --- mounts ------------------------------------------------------------------------------------ */

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
		    s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

struct mount_line {
	dev_t dev;
	char *point, *source;	/* into the line, unescaped */
};

/* "id parent maj:min root point options [optional...] - type source options" */
static bool parse_mount_line(char *line, struct mount_line *out)
{
	char *sep = strstr(line, " - ");
	unsigned maj, min;
	char *save, *field[5];

	if (!sep)
		return false;
	*sep = '\0';
	for (unsigned i = 0; i < 5; i++) {
		field[i] = strtok_r(i ? NULL : line, " ", &save);
		if (!field[i])
			return false;
	}
	if (sscanf(field[2], "%u:%u", &maj, &min) != 2)
		return false;
	if (!strtok_r(sep + 3, " ", &save))
		return false;
	out->source = strtok_r(NULL, " \n", &save);
	if (!out->source)
		return false;
	out->point = field[4];
	out->dev = makedev(maj, min);
	unescape(out->point);
	unescape(out->source);
	return true;
}

/* Is there a loop device with `backing` behind it that this mount has as its source? */
static bool is_loop_on(dev_t dev, const struct stat *backing)
{
	char name[96], path[PATH_MAX];
	struct stat st;

	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/loop/backing_file", major(dev), minor(dev));
	if (!read_attribute(name, path, sizeof(path)) || stat(path, &st))
		return false;
	return st.st_dev == backing->st_dev && st.st_ino == backing->st_ino;
}

static bool mounts_image(const struct mount_line *m, const char *real, const struct stat *st)
{
	if (S_ISBLK(st->st_mode))
		return m->dev == st->st_rdev || strcmp(m->source, real) == 0;
	return strcmp(m->source, real) == 0 || is_loop_on(m->dev, st);
}

bool image_is_mounted(const char *path, char *where, size_t where_bytes)
{
	auto_free char *real = realpath(path, NULL);
	auto_free char *line = NULL;
	auto_file *f = fopen("/proc/self/mountinfo", "re");
	size_t cap = 0;
	struct mount_line m;
	struct stat st;

	if (!real || !f || stat(real, &st))
		return false;
	while (getline(&line, &cap, f) > 0) {
		if (!parse_mount_line(line, &m) || !mounts_image(&m, real, &st))
			continue;
		if (where && where_bytes)
			snprintf(where, where_bytes, "%s", m.point);
		return true;
	}
	return false;
}

bool image_is_protected(int fd)
{
	int yes = 0;

	return ioctl(fd, BLKROGET, &yes) == 0 && yes;
}

bool image_is_claimed(const char *path)
{
	struct stat st;

	if (stat(path, &st) || !S_ISBLK(st.st_mode))
		return false;
	auto_fd fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	return fd < 0 && errno == EBUSY;
}
