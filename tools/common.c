/* SPDX-License-Identifier: Apache-2.0 */
/* common.c - see tool.h. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/image_lock.h"
#include "core/printable.h"
#include "tools/tool.h"

int tool_usage(const char *argv0, const char *what)
{
	const char *verb = strchr(argv0, ' ');

	if (what)
		fprintf(stderr, "%s: %s\n", argv0, what);
	fprintf(stderr, "Try 'holdfast help%s'.\n", verb ? verb : "");
	return TOOL_USAGE;
}

const char *tool_operand(int argc, char **argv)
{
	if (optind + 1 == argc)
		return argv[optind];
	tool_usage(argv[0], optind < argc ? "takes one path only" : "a path is missing");
	return NULL;
}

bool tool_number(const char *argv0, const char *text, unsigned long least, unsigned long *out)
{
	char *end, what[120];
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && n >= least && n <= 1000000000) {
		*out = n;
		return true;
	}
	snprintf(what, sizeof(what), "\"%.40s\" is not a number from %lu to 1000000000", text, least);
	tool_usage(argv0, what);
	return false;
}

int tool_refuse(const char *path, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "holdfast: %s: ", path);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return TOOL_FOUND;
}

bool tool_is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* --- mounts --- */

static const char dead_mount[] = "the daemon of this mount is dead; mount the volume again";

int tool_open_mount(const char *path)
{
	struct statfs sf;
	/* O_NONBLOCK: a fifo must not hold us up. */
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0) {
		tool_refuse(path, "%s", err_is_dead_mount(-errno) ? dead_mount : strerror(errno));
		return -1;
	}
	/* Another file system may take our request for one of its own. */
	if (fstatfs(fd, &sf) == 0 && sf.f_type == FUSE_SUPER_MAGIC)
		return fd;
	tool_refuse(path, "%s", err_is_dead_mount(-errno) ? dead_mount : "is not on a mounted Holdfast volume");
	close(fd);
	return -1;
}

int tool_ioctl(int fd, unsigned long request, void *arg)
{
	const struct holdfast_head *head = arg;

	if (ioctl(fd, request, arg) < 0)
		return -errno;
	return _IOC_DIR(request) & _IOC_READ && head->magic != HOLDFAST_IOC_MAGIC ? -ENOTTY : 0;
}

int tool_ioctl_failed(const char *path, int err)
{
	switch (err) {
	case -ENOTTY:
	case -ENOSYS:
		return tool_refuse(
			path,
			"is not on a Holdfast volume, or its daemon is of a version that does not know this");
	case -EPERM:
		return tool_refuse(path, "only root (CAP_SYS_ADMIN) and the user who mounted the volume may do this");
	case -ENOTCONN:
	case -ECONNABORTED:
		return tool_refuse(path, "%s", dead_mount);
	default:
		return tool_refuse(path, "%s", strerror(-err));
	}
}

int tool_ask_stats(const char *path, bool json, struct holdfast_stats *out)
{
	const struct {
		char *text;
		size_t room;
	} texts[] = {
		{out->label, sizeof(out->label)},         {out->source, sizeof(out->source)},   {out->options, sizeof(out->options)},
		{out->engine, sizeof(out->engine)},       {out->version, sizeof(out->version)}, {out->reason, sizeof(out->reason)},
		{out->transport, sizeof(out->transport)}, {out->sandbox, sizeof(out->sandbox)}, {out->requests, sizeof(out->requests)},
	};
	int fd = tool_open_mount(path), err;

	if (fd < 0)
		return TOOL_FOUND;
	memset(out, 0, sizeof(*out));
	err = tool_ioctl(fd, HOLDFAST_IOC_STATS, out);
	close(fd);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		texts[i].text[texts[i].room - 1] = '\0';
		if (!json)
			printable_make(texts[i].text);
	}
	return err ? tool_ioctl_failed(path, err) : TOOL_OK;
}

/* --- images --- */

static void keep_line(void *arg, enum diag_level level, const char *line)
{
	struct image *im = arg;

	(void)level;
	snprintf(im->said, sizeof(im->said), "%s", line);
}

static int lock_image(struct image *im, const char *path, enum image_access access)
{
	bool shared = access == IMAGE_SHARED;
	char where[200];
	int err;

	if (access == IMAGE_LOOK)
		return TOOL_OK;
	/* A description of its own: the lock ends with its close(2). */
	im->fd = open(path, (shared ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (im->fd < 0)
		return tool_refuse(path, "%s", strerror(errno));
	if (!shared && image_is_protected(im->fd))
		return tool_refuse(path, "is write-protected");
	err = image_lock(im->fd, shared ? IMAGE_LOCK_SHARED : 0, &im->backing_fd);
	if (!err)
		return TOOL_OK;
	if (err != -EBUSY)
		return tool_refuse(path, "cannot be locked: %s", strerror(-err));
	if (image_is_mounted(path, where, sizeof(where)))
		return tool_refuse(path, "is in use: mounted at %s", where);
	return tool_refuse(path, "is in use by another program");
}

static int open_device(struct image *im, const char *path, enum image_access access)
{
	unsigned flags = access == IMAGE_EXCLUSIVE ? 0 : DEV_OPEN_READ_ONLY;
	int err = dev_open(path, DEV_ENGINE_AUTO, flags, &im->diag, &im->dev);

	if (!err)
		err = dev_queue_create(im->dev, &im->q);
	return err ? tool_refuse(path, "cannot be opened: %s", strerror(-err)) : TOOL_OK;
}

int image_open(struct image *im, const char *path, enum image_access access)
{
	struct stat st;
	int status;

	*im = (struct image){.diag = {.emit = keep_line, .arg = im}, .fd = -1, .backing_fd = -1};
	if (stat(path, &st) < 0)
		return tool_refuse(path, "%s", err_is_dead_mount(-errno) ? dead_mount : strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return tool_refuse(path,
				   "is neither an image file nor a block device, nor a directory of a mount");
	if (access == IMAGE_EXCLUSIVE && S_ISBLK(st.st_mode) && image_is_claimed(path))
		return tool_refuse(path, "is in use (mounted, or part of something)");
	status = lock_image(im, path, access);
	if (!status)
		status = open_device(im, path, access);
	if (status)
		image_close(im);
	return status;
}

void image_close(struct image *im)
{
	if (im->q)
		dev_queue_destroy(im->q);
	if (im->dev)
		dev_close(im->dev);
	if (im->fd >= 0)
		close(im->fd);
	if (im->backing_fd >= 0)
		close(im->backing_fd);
	*im = (struct image){.fd = -1, .backing_fd = -1};
}

const char *tool_why_no_volume(int err)
{
	switch (err) {
	case -ENOENT:
		return "is not a Holdfast volume (no superblock found)";
	case -EUCLEAN:
		return "all copies of the superblock are damaged";
	case -ENOTSUP:
		return "made by a newer version (format version or features unknown to "
		       "holdfast " HOLDFAST_VERSION ")";
	case -ENOSPC:
		return "is cut off: it has fewer bytes than the volume in it";
	default:
		return strerror(-err);
	}
}
