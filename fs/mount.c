/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount.c - mount.holdfast: the command that mount(8) runs, and that becomes the daemon.
 *
 * The order: parse; open and lock the image; check the directory; fork; the rest in the child (daemon.h), while the
 * command waits on a pipe for its verdict.  The pipe's end without one is a verdict too, so the command never hangs
 * on a child that died.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/limit.h"
#include "core/streams.h"
#include "core/version.h"
#include "fs/daemon.h"
#include "fs/mount_remount.h"

/* mount(8)'s statuses, for what open(2) and friends said. */
static enum mount_status status_of(int err)
{
	return err == -ENOMEM || err == -EMFILE || err == -ENFILE ? MOUNT_SYSTEM : MOUNT_FAILED;
}

static enum mount_status wait_for_verdict(int fd, pid_t child, const struct report *r)
{
	unsigned char verdict;
	ssize_t n;
	int status;

	do {
		n = read(fd, &verdict, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		return verdict;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return MOUNT_SYSTEM;
	if (WIFEXITED(status) && WEXITSTATUS(status) != MOUNT_OK)
		return WEXITSTATUS(status);
	if (WIFSIGNALED(status))
		diag(&r->diag, DIAG_ERR, "the daemon died of signal %d while starting", WTERMSIG(status));
	else
		diag(&r->diag, DIAG_ERR, "the daemon ended while starting");
	return MOUNT_FAILED;
}

static enum mount_status run_child(const struct mount_options *o, struct mount_source *src,
				   struct mount_point *mp, struct report *r, int ready_fd)
{
	setsid();
	if (chdir("/") < 0)
		diag(&r->diag, DIAG_WARNING, "/: %s", strerror(errno));
	return daemon_run(o, src, mp, r, ready_fd);
}

static enum mount_status run_in_background(const struct mount_options *o, struct mount_source *src,
					   struct mount_point *mp, struct report *r)
{
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) < 0) {
		diag(&r->diag, DIAG_ERR, "pipe: %s", strerror(errno));
		return MOUNT_SYSTEM;
	}
	child = fork();
	if (child == 0) {
		close(ends[0]);
		return run_child(o, src, mp, r, ends[1]);
	}
	close(ends[1]);

	enum mount_status st = MOUNT_SYSTEM;

	if (child < 0)
		diag(&r->diag, DIAG_ERR, "fork: %s", strerror(errno));
	else
		st = wait_for_verdict(ends[0], child, r);
	close(ends[0]);
	return st;
}

static enum mount_status run(const struct mount_options *o, struct mount_source *src, struct mount_point *mp,
			     struct report *r)
{
	if (o->fake)
		return daemon_try(o, src, r);
	if (o->foreground)
		return daemon_run(o, src, mp, r, -1);
	return run_in_background(o, src, mp, r);
}

/* What the caller has left open is none of a daemon's business. */
static void close_others(const struct mount_source *src, const struct mount_point *mp)
{
	const int ours[] = {src->fd, src->backing_fd, mp->proc_fd};
	const int n = sizeof(ours) / sizeof(ours[0]);
	int from = 3;

	/* Each time up to the next one of ours. */
	for (;;) {
		int next = INT_MAX;

		for (int i = 0; i < n; i++)
			if (ours[i] >= from && ours[i] < next)
				next = ours[i];
		if (next > from)
			close_range((unsigned)from, next == INT_MAX ? ~0u : (unsigned)next - 1, 0);
		if (next == INT_MAX)
			return;
		from = next + 1;
	}
}

static enum mount_status mount_from(const struct mount_options *o, struct mount_source *src, struct report *r)
{
	struct mount_point mp;
	enum mount_status st;
	int err, proc_fd = o->ns ? mount_point_open_proc() : -1;

	err = o->ns ? mount_point_enter_ns(o->ns, &r->diag) : 0;
	if (!err)
		err = mount_point_find(o->dir, src, o->fake, &r->diag, &mp);
	if (err) {
		if (proc_fd >= 0)
			close(proc_fd);
		return status_of(err);
	}
	mp.proc_fd = proc_fd;
	close_others(src, &mp);
	st = run(o, src, &mp, r);
	mount_point_free(&mp);
	return st;
}

static enum mount_status open_and_run(struct mount_options *o, struct report *r)
{
	struct mount_source src;
	enum mount_status st;
	int err;

	err = mount_source_open(o->image, o->read_only, &r->diag, &src);
	if (err)
		return status_of(err);
	st = mount_options_access(o, src.write_protected);
	if (st == MOUNT_OK)
		st = mount_from(o, &src, r);
	mount_source_close(&src);
	return st;
}

/* Then messages begin as those of mount(8) itself do: users know it, and scripts look for its name. */
static bool called_by_mount(void)
{
	char path[32], name[16] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)getppid());
	f = fopen(path, "re");
	if (f && !fgets(name, sizeof(name), f))
		name[0] = '\0';
	if (f)
		fclose(f);
	return strcmp(name, "mount\n") == 0;
}

static enum mount_status run_command(struct mount_options *o)
{
	struct report report;

	if (o->show_help) {
		mount_options_usage(o->program);
		return MOUNT_OK;
	}
	if (o->show_version) {
		printf("%s %s\n", o->program, HOLDFAST_VERSION);
		return MOUNT_OK;
	}
	o->by_mount = called_by_mount();
	report_init(&report, o->program, o->by_mount ? "mount" : o->program, o->verbose);
	if (o->remount)
		return mount_remount(o, &report.diag);

	int err;

	if (mount_point_again(o, &report.diag, &err))
		return err ? status_of(err) : MOUNT_OK;
	return open_and_run(o, &report);
}

int main(int argc, char **argv)
{
	struct mount_options opts;
	enum mount_status st;

	/* A daemon's /dev/null would be put over the image, too. */
	if (!streams_reserve())
		return MOUNT_SYSTEM;
	limit_lift();
	st = mount_options_parse(argc, argv, &opts);
	if (st == MOUNT_OK)
		st = run_command(&opts);
	mount_options_free(&opts);
	return (int)st;
}
