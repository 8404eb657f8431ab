/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tool.h - what the verbs of `holdfast` share: the table, messages, images and mounts.
 *
 * A verb is one file with one struct verb; main.c lists them.  Its argv[0] is "holdfast VERB", so that getopt's messages name it.
 */
#ifndef HOLDFAST_TOOLS_TOOL_H
#define HOLDFAST_TOOLS_TOOL_H

#include <getopt.h>
#include <stdbool.h>

#include "core/dev.h"
#include "fs/ioctl.h"

/* Exit statuses, the same for all verbs. */
enum tool_status {
	TOOL_OK = 0,
	TOOL_FOUND = 1, /* something is wrong: with the volume, or so that the verb could not do its work */
	TOOL_USAGE = 2,
};

struct verb {
	const char *name;
	const char *synopsis; /* behind the name */
	const char *summary; /* one line */
	const char *help; /* options and the rest; lines */
	int (*run)(int argc, char **argv);
};

extern const struct verb verb_info, verb_scrub, verb_stats, verb_undo;

/* --- the command line --- */

/* After getopt said what is wrong, or to say it: points to the help.  TOOL_USAGE. */
int tool_usage(const char *argv0, const char *what);
/* Exactly one operand, or NULL after a message. */
const char *tool_operand(int argc, char **argv);
/* A whole number of `least` or more; false after a message. */
bool tool_number(const char *argv0, const char *text, unsigned long least, unsigned long *out);

/* "holdfast: PATH: ..." on stderr.  TOOL_FOUND. */
int tool_refuse(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool tool_is_dir(const char *path);

/* --- mounts --- */

/* Opens a file or directory of a mounted volume for ioctls; a negative number after a message. */
int tool_open_mount(const char *path);
/* ioctl(2), checked: 0 or a negative errno.  `arg` begins with a struct holdfast_head if the request has an answer. */
int tool_ioctl(int fd, unsigned long request, void *arg);
/* The message for what tool_ioctl() said.  TOOL_FOUND. */
int tool_ioctl_failed(const char *path, int err);
/* What the daemon of a mount says of itself.  Anybody may be that daemon: strings end, and are printable unless they go into JSON.  TOOL_OK, or TOOL_FOUND
 * after a message. */
int tool_ask_stats(const char *path, bool json, struct holdfast_stats *out);

/* --- images --- */

struct image {
	struct diag diag;
	struct dev *dev;
	struct dev_queue *q;
	int fd, backing_fd; /* that are locked; -1 */
	char said[300]; /* the last thing that the layers below have said */
};

enum image_access {
	IMAGE_LOOK, /* reads only, takes no lock */
	IMAGE_SHARED, /* reads only, nobody else writes */
	IMAGE_EXCLUSIVE,
};

/* TOOL_OK, or TOOL_FOUND after a message. */
int image_open(struct image *im, const char *path, enum image_access access);
void image_close(struct image *im);

/* Why no volume could be found in an image; the message of a negative errno. */
const char *tool_why_no_volume(int err);

#endif
