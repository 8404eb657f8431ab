/* SPDX-License-Identifier: Apache-2.0 */
/* mount_source.c - open(2), the lock, and LOOP_CONFIGURE. */
#include "fs/mount_source.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/image_lock.h"

#define LOOP_TRIES 64 /* each lost race means that somebody else got one */

static int refuse(const struct diag *d, const char *path, int err, const char *why)
{
	diag(d, DIAG_ERR, "%s: %s", path, why ? why : strerror(-err));
	return err;
}

static int open_for_writing(const char *path)
{
	/* O_NONBLOCK: whatever the path has become since stat(2), open must not wait for it. */
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (!image_is_protected(fd))
		return fd;
	close(fd);
	return -EROFS;
}

static bool is_protection(int err)
{
	return err == -EACCES || err == -EPERM || err == -EROFS;
}

/* Sets s->fd; and what may not be written is opened for reading. */
static int open_image(struct mount_source *s)
{
	int err = -EROFS;

	if (!s->read_only) {
		s->fd = open_for_writing(s->path);
		if (s->fd >= 0)
			return 0;
		err = s->fd;
	}
	if (!is_protection(err))
		return err;
	s->fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (s->fd < 0)
		return s->read_only ? -errno : err;
	s->write_protected = !s->read_only;
	s->read_only = true;
	return 0;
}

static int check_kind(struct mount_source *s, const struct diag *d)
{
	struct stat st;

	if (stat(s->path, &st) < 0)
		return refuse(d, s->path, -errno, NULL);
	if (S_ISDIR(st.st_mode))
		return refuse(d, s->path, -ENOTBLK, "is a directory, not an image file or block device");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return refuse(d, s->path, -ENOTBLK, "is neither an image file nor a block device");
	s->is_block = S_ISBLK(st.st_mode);
	s->dev = s->is_block ? st.st_rdev : st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

int mount_source_open(const char *path, bool read_only, const struct diag *d, struct mount_source *out)
{
	struct mount_source s = {.fd = -1, .backing_fd = -1, .read_only = read_only};
	int err;

	s.path = realpath(path, NULL);
	if (!s.path)
		return refuse(d, path, -errno, NULL);
	err = check_kind(&s, d);
	if (err)
		goto fail;
	err = open_image(&s);
	if (err) {
		refuse(d, s.path, err, NULL);
		goto fail;
	}
	err = image_lock(s.fd, s.read_only ? IMAGE_LOCK_SHARED : 0, &s.backing_fd);
	if (err) {
		refuse(d, s.path, err, err == -EBUSY ? "is in use (mounted or being checked)" : NULL);
		goto fail;
	}
	*out = s;
	return 0;

fail:
	mount_source_close(&s);
	return err;
}

void mount_source_close(struct mount_source *s)
{
	if (s->fd >= 0)
		close(s->fd);
	if (s->backing_fd >= 0)
		close(s->backing_fd);
	s->fd = s->backing_fd = -1;
	free(s->path);
	s->path = NULL;
}

static bool is_source(const struct mount_source *s, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return false;
	return s->is_block ? S_ISBLK(st.st_mode) && st.st_rdev == s->dev : st.st_dev == s->dev && st.st_ino == s->ino;
}

int mount_source_open_again(const struct mount_source *s)
{
	int fd = open_for_writing(s->path);

	if (is_protection(fd))
		return -EROFS;
	if (fd >= 0 && !is_source(s, fd)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

/* Another open file of the same image; for writing where that may be, whatever the mount: a loop device stays what it is, and a mount
 * on it can be remounted. */
static int reopen_image(const struct mount_source *s, bool *read_only)
{
	int fd = mount_source_open_again(s);

	/* A mount that is not read-only would not come about on such a device. */
	*read_only = fd == -EROFS || (s->read_only && fd < 0 && fd != -ESTALE);
	if (*read_only)
		fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*read_only && fd < 0)
		return -errno;
	if (fd >= 0 && !is_source(s, fd)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

/* -EBUSY: somebody else took it between our asking for a free one and this. */
static int configure_loop(const struct mount_source *s, const char *name, int image_fd, bool read_only)
{
	struct loop_config config = {.fd = (unsigned)image_fd};
	int fd = open(name, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
	snprintf((char *)config.info.lo_file_name, LO_NAME_SIZE, "%s", s->path);
	if (ioctl(fd, LOOP_CONFIGURE, &config) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static int attach(const struct mount_source *s, int control, int image_fd, bool read_only, char *name, size_t name_bytes)
{
	int fd = -EBUSY;

	for (int i = 0; i < LOOP_TRIES && fd == -EBUSY; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0)
			return -errno;
		snprintf(name, name_bytes, "/dev/loop%d", number);
		fd = configure_loop(s, name, image_fd, read_only);
	}
	return fd;
}

int mount_source_attach_loop(const struct mount_source *s, char *name, size_t name_bytes)
{
	int control, image_fd, fd;
	bool read_only;

	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return -errno;
	image_fd = reopen_image(s, &read_only);
	fd = image_fd < 0 ? image_fd : attach(s, control, image_fd, read_only, name, name_bytes);
	if (image_fd >= 0)
		close(image_fd);
	close(control);
	return fd;
}
