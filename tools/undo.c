/* SPDX-License-Identifier: Apache-2.0 */
/* undo.c - holdfast undo: gives a volume back what a repair has overwritten (core/undo.h). */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/image_lock.h"
#include "core/size.h"
#include "core/undo.h"
#include "tools/tool.h"

struct target {
	struct diag diag;
	int fd, backing_fd;	/* those that are locked */
	struct dev *dev;
	struct dev_queue *q;
};

static void say(void *arg, enum diag_level level, const char *line)
{
	(void)arg;
	(void)level;
	fprintf(stderr, "holdfast: %s\n", line);
}

static int in_use(const char *path)
{
	char where[200];

	if (image_is_mounted(path, where, sizeof(where)))
		return tool_refuse(path, "is in use: mounted at %s; nothing was undone", where);
	return tool_refuse(path, "is in use by another program; nothing was undone");
}

static int target_lock(struct target *t, const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return tool_refuse(path, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return tool_refuse(path, "is neither an image file nor a block device");
	t->fd = open(path, O_RDWR | O_CLOEXEC | (S_ISBLK(st.st_mode) ? O_EXCL : 0));
	if (t->fd < 0)
		return errno == EBUSY ? in_use(path) : tool_refuse(path, "%s", strerror(errno));
	if (image_is_protected(t->fd))
		return tool_refuse(path, "is write-protected; nothing was undone");
	int err = image_lock(t->fd, 0, &t->backing_fd);

	if (err)
		return err == -EBUSY ? in_use(path) : tool_refuse(path, "cannot be locked: %s", strerror(-err));
	return TOOL_OK;
}

static int target_open(struct target *t, const char *path)
{
	*t = (struct target){.diag = {.emit = say}, .fd = -1, .backing_fd = -1};
	int status = target_lock(t, path);

	if (status)
		return status;
	int err = dev_open(path, DEV_ENGINE_AUTO, 0, &t->diag, &t->dev);

	if (!err)
		err = dev_queue_create(t->dev, &t->q);
	return err ? tool_refuse(path, "cannot be opened: %s", strerror(-err)) : TOOL_OK;
}

static void target_close(struct target *t)
{
	if (t->q)
		dev_queue_destroy(t->q);
	if (t->dev)
		dev_close(t->dev);
	if (t->fd >= 0)
		close(t->fd);
	if (t->backing_fd >= 0)
		close(t->backing_fd);
}

static int undo_into(struct target *t, int fd, const char *file, const char *path, unsigned flags)
{
	char text[SIZE_TEXT];
	struct undo_info info;
	int err = undo_apply(fd, file, t->q, flags, &t->diag, &info);

	/* -EINVAL, -EUCLEAN and -EPERM have been explained. */
	if (err)
		return err == -EINVAL || err == -EUCLEAN || err == -EPERM ?
			       TOOL_FOUND :
			       tool_refuse(path, "could not be given back everything: %s", strerror(-err));
	printf("%s: %s undone%s\n", path, size_format(info.bytes, text),
	       info.complete ? "" : ", of a repair that was interrupted");
	if (info.unreadable)
		printf("%s: %s could not be read before the repair, and stay as they are\n", path,
		       size_format(info.unreadable, text));
	return TOOL_OK;
}

static int undo_run(int argc, char **argv)
{
	static const struct option options[] = {{"force", no_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
	unsigned flags = 0;
	int c;

	while ((c = getopt_long(argc, argv, "f", options, NULL)) != -1) {
		if (c != 'f')
			return tool_usage(argv[0], NULL);
		flags = UNDO_FORCE;
	}
	if (optind + 2 != argc)
		return tool_usage(argv[0], "takes an undo file and a device or image");
	const char *file = argv[optind], *path = argv[optind + 1];
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return tool_refuse(file, "%s", strerror(errno));
	struct target t;
	int status = target_open(&t, path);

	if (!status)
		status = undo_into(&t, fd, file, path, flags);
	target_close(&t);
	close(fd);
	return status;
}

const struct verb verb_undo = {
	.name = "undo",
	.synopsis = "[-f] FILE DEVICE|IMAGE",
	.summary = "Give a volume back what fsck.holdfast --undo FILE has saved",
	.help = "The volume must not be mounted. All of FILE is verified before anything is written; if the power goes in the\n"
		"middle, run it again. Of several repairs undo the last one first.\n"
		"\n"
		"  -f, --force   even if the volume has been used since the repair, or the device has another size\n",
	.run = undo_run,
};
