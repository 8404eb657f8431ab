/* SPDX-License-Identifier: Apache-2.0 */
/* daemon.c - see the header. */
#include "fs/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "core/image_lock.h"
#include "fs/admit.h"
#include "fs/apart.h"
#include "fs/background.h"
#include "fs/caller.h"
#include "fs/control.h"
#include "fs/dirty.h"
#include "fs/fuse_ops.h"
#include "fs/inval.h"
#include "fs/keeper.h"
#include "fs/ring.h"
#include "fs/sandbox.h"

#define MIN_WORKERS 2
#define MAX_WORKERS 8
#define MAX_RING_WORKERS 64 /* each has its processor */
#define GRACE_MS 3000 /* for users of a mount that was asked to go by a signal */
#define RAISE_TRIES 20 /* to have the image alone: who has just closed it may keep its lock a little longer */
#define RAISE_NSEC 50000000

/* Asked for by a worker, done by the main thread. */
struct begin_writing {
	struct dev_task task;
	struct daemon *d;
	struct dev_event done;
	int err;
};

struct daemon {
	const struct mount_options *opts;
	struct mount_source *src;
	struct mount_point *mp;
	struct report *report;
	const struct diag *diag;
	int ready_fd;
	int signal_fd;
	int null_fd;
	struct keeper keeper;
	struct callers callers;
	struct sandbox sandbox;

	struct dev *dev;
	struct dev_queue *q; /* this thread's */
	struct background *bg;
	struct volume *v;
	struct fs *fs;
	struct scrub_job *scrub;
	struct loop *loop;
	struct fuse_glue glue;
	struct control control;
	struct fuse_session *se;
	struct inval *inval;
	struct inval_job forget; /* while `forgetting` */
	bool forgetting;
	struct commit_timer timer;
	struct dirty_system dirty; /* with opts->writeback */
	struct dirty_plan plan;
	struct admit *admit;

	struct begin_writing *asked; /* somebody waits for an answer to it */
	bool unmounting; /* after a signal */
	bool closing; /* no requests are read any more */
	int64_t give_up_ms; /* 0: not yet */
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int failed(const struct daemon *d, const char *what, int err)
{
	char why[128];

	snprintf(why, sizeof(why), "%s: %s", what, strerror(-err));
	report_failure(d->report, d->src->path, why);
	return err;
}

/* --- opening ---------------------------------------------------------------------------------------- */

static const char *why_not_opened(int err)
{
	switch (err) {
	case -ENOENT:
		return "not a Holdfast volume";
	case -EUCLEAN:
		return "the volume is damaged; fsck.holdfast shows what is wrong";
	case -ENOTSUP:
		return "made by a newer version of Holdfast";
	case -ENOSPC:
		return "is smaller than the volume on it";
	case -EBADMSG:
		return "the journal is damaged; fsck.holdfast -n shows what is at stake, -o ro,norecovery mounts the state "
		       "before";
	case -EFBIG:
		return "is larger than files may be here (ulimit -f)";
	case -EROFS:
		return "can be mounted read-only only (-o ro)";
	default:
		return strerror(-err);
	}
}

static void report_recovery(const struct daemon *d)
{
	const struct volume_recovery *r = &d->v->recovery;

	if (r->frames)
		diag(d->diag, DIAG_NOTICE, "%s: replayed %llu transactions (%llu bytes) from the journal",
		     d->src->path, (unsigned long long)r->frames, (unsigned long long)r->bytes);
	if (r->tail.kind == LOG_TAIL_TORN)
		diag(d->diag, DIAG_NOTICE,
		     "%s: dropped %llu bytes (%llu whole transactions) of journal that had never been "
		     "acknowledged",
		     d->src->path, (unsigned long long)r->tail.lost_bytes,
		     (unsigned long long)r->tail.lost_frames);
}

static int open_device(struct daemon *d, unsigned flags)
{
	if (d->opts->no_sandbox)
		flags |= DEV_OPEN_UNLIMITED;

	int err = dev_open_fd(d->src->fd, d->src->path, d->opts->engine, flags, d->diag, &d->dev);

	if (err)
		return failed(d,
			      d->opts->engine == DEV_ENGINE_URING ? "cannot be opened with io_uring"
								  : "cannot be opened",
			      err);
	d->src->fd = -1;
	err = dev_queue_create(d->dev, &d->q);
	return err ? failed(d, "cannot set up I/O", err) : 0;
}

static unsigned volume_flags(const struct mount_options *o, bool read_only)
{
	return (read_only ? VOLUME_READ_ONLY : 0) | (o->no_recovery ? VOLUME_NO_RECOVERY : 0) |
	       (o->discard && !read_only ? VOLUME_DISCARD : 0);
}

static int open_volume(struct daemon *d, bool read_only)
{
	struct volume_config cfg = {
		.flags = volume_flags(d->opts, read_only),
		.cache_bytes = d->opts->cache_bytes,
		.want_checkpoint = d->bg ? background_want_checkpoint : NULL,
		.arg = d->bg,
	};
	int err;

	report_hold(d->report);
	err = volume_open(d->q, &cfg, d->diag, &d->v);
	if (err) {
		report_failure(d->report, d->src->path, why_not_opened(err));
		return err;
	}
	report_let_go(d->report);
	return 0;
}

/* Is what was opened what the user wants?  Says what has happened. */
static int accept_volume(struct daemon *d)
{
	/* Who has not asked for read-only may take such a mount for a volume whose journal is in order again. */
	if (d->src->write_protected && d->v->recovery.frames) {
		diag(d->diag, DIAG_ERR,
		     "%s: cannot mount it read-only unasked: it is write-protected, and its journal has to be replayed "
		     "(-o ro does that in memory)",
		     d->src->path);
		return -EROFS;
	}
	if (d->src->write_protected)
		diag(d->diag, DIAG_WARNING, "%s: is write-protected, mounting it read-only", d->src->path);
	report_recovery(d);
	return 0;
}

/* The volume's size decides. */
static int plan_writeback(struct daemon *d)
{
	/* Who wants every change durable, or none made, has nothing of it. */
	if (!d->opts->writeback || d->opts->read_only || d->opts->sync)
		return 0;
	d->plan = dirty_plan(&d->dirty, d->v->sb.nblocks);
	if (!d->plan.cached_bytes) {
		diag(d->diag, DIAG_NOTICE,
		     "%s: no write-back cache: the volume is too small to keep room for all that the kernel may hold",
		     d->src->path);
		d->plan.ratio = 0;
		return 0;
	}
	return admit_create(&d->admit);
}

static int open_fs(struct daemon *d)
{
	struct fs_config cfg = {
		.atime = d->opts->atime,
		.no_acl = d->opts->no_acl,
		.nodiratime = d->opts->nodiratime,
		.lazytime = d->opts->lazytime,
		.sync = d->opts->sync,
		.want_service = background_want_service,
		.service_arg = d->bg,
		.cached_bytes = d->plan.cached_bytes,
		.space_low = admit_space_low,
		.low_arg = d->admit,
	};
	int err = 0;

	report_hold(d->report);
	if (!d->opts->read_only)
		err = background_start_checkpoints(d->bg, d->v);
	if (!err)
		err = fs_open(d->v, d->q, &cfg, &d->fs);
	if (!err)
		report_let_go(d->report);
	if (!err && !d->opts->read_only)
		err = background_start_service(d->bg, d->fs);
	if (!err)
		err = scrub_job_serve(d->scrub, d->fs);
	return err ? failed(d, "the file system cannot be opened", err) : 0;
}

static void forgotten(struct dev_task *task)
{
	struct daemon *d = (struct daemon *)((char *)task - offsetof(struct daemon, forget.done));

	d->forgetting = false;
}

/* Once is enough: nothing comes into the kernel's caches any more. */
static void forget_all(struct daemon *d)
{
	if (d->forgetting)
		return;
	d->forget = (struct inval_job){.what = INVAL_ALL, .q = d->q, .done = {.run = forgotten}};
	d->forgetting = inval_begin(d->inval, &d->forget);
}

static void answer_writing(struct daemon *d, struct begin_writing *asked, int err)
{
	if (d->asked == asked)
		d->asked = NULL;
	asked->err = err;
	dev_event_set(&asked->done);
}

static void writing_asked(struct dev_task *task)
{
	struct begin_writing *asked = (struct begin_writing *)((char *)task - offsetof(struct begin_writing, task));
	struct daemon *d = asked->d;

	if (d->closing || d->asked)
		answer_writing(d, asked, -EBUSY);
	else
		d->asked = asked;
}

static int ask_for_writing(void *arg, struct dev_queue *q)
{
	struct daemon *d = arg;
	struct begin_writing asked = {.task.run = writing_asked, .d = d};

	dev_event_init(&asked.done, q);
	dev_post(d->q, &asked.task);
	dev_event_wait(&asked.done);
	return asked.err;
}

static unsigned count_workers(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < MIN_WORKERS ? MIN_WORKERS : n > MAX_WORKERS ? MAX_WORKERS : (unsigned)n;
}

/* With a worker for each of the kernel's queues, or for several.  -ENOTSUP: it is not to be had. */
static int make_ring_loop(struct daemon *d)
{
	unsigned n = ring_enabled() ? ring_kernel_queues() : 0;

	return n ? loop_create(d->dev, n < MAX_RING_WORKERS ? n : MAX_RING_WORKERS, n, d->q, d->diag, &d->loop) : -ENOTSUP;
}

static int make_loop(struct daemon *d)
{
	int err = d->opts->transport == TRANSPORT_DEV ? -ENOTSUP : make_ring_loop(d);

	if (err && d->opts->transport == TRANSPORT_URING) {
		report_failure(d->report, d->src->path,
			       err == -ENOTSUP ? "transport=uring: the kernel does not offer it (Linux 6.14, and as root: echo Y "
						 ">/sys/module/fuse/parameters/enable_uring), or the engine is not uring"
					       : "transport=uring: its rings cannot be made");
		return err;
	}
	if (err)
		err = loop_create(d->dev, count_workers(), 0, d->q, d->diag, &d->loop);
	if (!err && d->opts->no_handles)
		loop_refuse_handles(d->loop);
	if (!err && d->opts->allow_idmap)
		loop_allow_idmap(d->loop);
	return err ? failed(d, "cannot start the workers", err) : 0;
}

static int start_loop(struct daemon *d)
{
	int err = loop_start(d->loop, d->fs);

	if (err)
		return failed(d, "cannot start the workers", err);
	d->control = (struct control){
		.fs = d->fs,
		.scrub = d->scrub,
		.owner = getuid(),
		.callers = &d->callers,
		.begin_writing = ask_for_writing,
		.writing_arg = d,
		.transport = "fuse",
		.requests = "/dev/fuse",
		.sandbox = d->sandbox.active,
		.mounted_sec = (uint64_t)time(NULL),
		.bg = d->bg,
		.timer = &d->timer,
	};

	struct mount_options in_force = *d->opts;

	in_force.writeback = d->admit != NULL;
	control_init(&d->control, &in_force);
	d->glue = (struct fuse_glue){
		.fs = d->fs,
		.loop = d->loop,
		.control = &d->control,
		.admit = d->admit,
		.callers = &d->callers,
		.strictatime = d->opts->atime == FS_STRICTATIME,
		.flags = fs_has_flags(d->fs),
		.max_read = d->opts->max_read,
		.acl = !d->opts->no_acl,
	};
	d->se = mount_point_session(d->src, d->opts, &fuse_glue_ops, sizeof(fuse_glue_ops), &d->glue);
	if (!d->se)
		return failed(d, "libfuse refused to start", -ENOMEM);
	err = inval_start(d->se, d->fs, &d->inval);
	d->glue.inval = d->inval;
	if (!err)
		err = apart_start(&d->glue.apart);
	if (!err && d->admit)
		err = admit_start(d->admit, d->fs, d->inval);
	return err ? failed(d, "cannot start a thread", err) : 0;
}

/* Handled by reading signal_fd, so that they interrupt nothing; every thread inherits the mask. */
static int block_signals(struct daemon *d)
{
	static const int handled[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(handled) / sizeof(handled[0]); i++)
		sigaddset(&set, handled[i]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return d->signal_fd < 0 ? failed(d, "cannot wait for signals", -errno) : 0;
}

static void enter_sandbox(struct daemon *d)
{
	if (d->opts->no_sandbox)
		return;
	sandbox_enter(&d->sandbox, d->diag);
	if (d->dev->limited)
		sandbox_add(&d->sandbox, "io_uring limits");
}

/* All that takes a privilege or opens a file; nothing of the image is looked at. */
static int daemon_prepare(struct daemon *d)
{
	int err = keeper_start(d->mp, d->src, d->opts, d->diag, &d->keeper);

	if (!err)
		err = callers_start(&d->callers, d->mp->proc_fd);
	if (d->mp->proc_fd >= 0)
		close(d->mp->proc_fd);
	d->mp->proc_fd = -1;
	if (err)
		return failed(d, "cannot start a process", err);
	err = block_signals(d);
	/* Memory that the kernel frees for us must not be dirty pages that it would hand to us.  Needs a privilege; without
	 * it the daemon does as any other. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	if (!err)
		err = open_device(d, d->opts->read_only ? DEV_OPEN_READ_ONLY : 0);
	if (err)
		return err;
	if (d->opts->writeback)
		dirty_look(&d->dirty);
	err = background_create(d->dev, d->diag, &d->bg);
	if (!err)
		err = scrub_job_create(d->dev, &d->scrub);
	if (err)
		return failed(d, "cannot set up I/O", err);
	if (d->ready_fd >= 0) {
		d->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		report_open_syslog(d->report);
	}
	return make_loop(d);
}

/* Everything else that needs no mount. */
static int daemon_open(struct daemon *d)
{
	int err = daemon_prepare(d);

	if (err)
		return err;
	enter_sandbox(d);
	err = open_volume(d, d->opts->read_only);
	if (err)
		return err;
	commit_timer_init(&d->timer, d->v, d->q, d->opts->commit_sec);
	err = accept_volume(d);
	if (!err)
		err = plan_writeback(d);
	if (!err)
		err = open_fs(d);
	return err ? err : start_loop(d);
}

/* --- mounting ----------------------------------------------------------------------------------------- */

/* The command that would be told has been killed: its user does not expect a mount any more. */
static bool nobody_waits(const struct daemon *d)
{
	struct pollfd p = {.fd = d->ready_fd};

	return d->ready_fd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

static int tell_ready(struct daemon *d)
{
	char status = MOUNT_OK;
	ssize_t n;

	if (d->ready_fd < 0)
		return 0;
	n = write(d->ready_fd, &status, 1);
	close(d->ready_fd);
	d->ready_fd = -1;
	return n == 1 ? 0 : -EPIPE;
}

static void leave_stdio(struct daemon *d)
{
	report_to_syslog(d->report);
	for (int fd = 0; d->null_fd >= 0 && fd < 3; fd++)
		dup2(d->null_fd, fd);
}

/* The session's from then on, which closes it; ours only if it was refused. */
static int take_connection(struct daemon *d, int fd)
{
	int err = fuse_session_custom_io(d->se, &fuse_glue_io, fd);

	if (!err)
		return 0;
	close(fd);
	return failed(d, "libfuse did not take the connection", err);
}

static int mount_it(struct daemon *d)
{
	bool said;
	int fd = keeper_mount(&d->keeper, d->mp, &said);

	if (fd < 0)
		return said ? fd : failed(d, "cannot be mounted", fd);

	int err = take_connection(d, fd);

	if (err)
		keeper_unmount(&d->keeper);
	return err;
}

static int start_serving(struct daemon *d)
{
	int err = loop_begin(d->loop, d->se, &d->glue.inited);

	if (err)
		return failed(d, "the kernel's first request", err);
	if (d->opts->allow_idmap && !loop_has_idmap(d->loop)) {
		report_failure(d->report, d->src->path, "allow_idmap: the kernel cannot map users of FUSE mounts (Linux 6.12 can)");
		return -ENOTSUP;
	}
	if (loop_has_rings(d->loop))
		d->control.requests = "io_uring";
	err = keeper_settle(&d->keeper, d->ready_fd >= 0, d->plan.ratio);
	if (err == -EPERM)
		return failed(d, "cannot limit what the kernel holds, so not with -o writeback", err);
	return err ? failed(d, "the process that is to unmount", err) : 0;
}

static void begin_unmount(struct daemon *d);

static int daemon_mount(struct daemon *d)
{
	bool detach = d->ready_fd >= 0;
	int err;

	if (nobody_waits(d))
		return -EPIPE;
	err = mount_it(d);
	if (err)
		return err;
	if (d->mp->is_blk)
		d->control.transport = "fuseblk";
	err = start_serving(d);
	if (err) {
		keeper_unmount(&d->keeper);
		return err;
	}
	if (tell_ready(d))
		begin_unmount(d);
	if (detach)
		leave_stdio(d);
	err = report_start_queue(d->report);
	if (err)
		diag(d->diag, DIAG_WARNING, "messages are not queued: %s", strerror(-err));
	diag(d->diag, DIAG_INFO, "%s: mounted on %s as %s, requests by %s, %s engine, sandbox: %s", d->src->path,
	     d->mp->dir, d->mp->is_blk ? "fuseblk" : "fuse", d->control.requests, d->dev->ops->name, d->sandbox.active);
	return 0;
}

/* --- while mounted -------------------------------------------------------------------------------------- */

static void log_stats(struct daemon *d)
{
	struct holdfast_stats s;

	control_stats(&d->control, &s);
	stats_log(&s, d->src->path, d->diag);
}

static void begin_unmount(struct daemon *d)
{
	/* Once is enough: systemd sends a second signal while the volume is being closed. */
	if (!d->unmounting)
		keeper_unmount(&d->keeper);
	d->unmounting = true;
}

static void read_signals(struct daemon *d)
{
	struct signalfd_siginfo si;

	while (read(d->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGUSR1)
			log_stats(d);
		else
			begin_unmount(d);
	}
}

/* Detached, but the connection lives on: somebody still has files open. */
static bool patience_is_over(struct daemon *d)
{
	int err;

	if (keeper_unmounted(&d->keeper, &err)) {
		if (err)
			diag(d->diag, DIAG_WARNING, "%s: cannot be unmounted: %s", d->mp->dir, strerror(-err));
		d->give_up_ms = now_ms() + GRACE_MS;
	}
	if (!d->give_up_ms || now_ms() < d->give_up_ms)
		return false;
	diag(d->diag, DIAG_WARNING, "%s: still in use, closing it all the same", d->src->path);
	return true;
}

/* What is in memory may be of another image than what is read from now on. */
static int give_up(struct daemon *d, const char *why)
{
	volume_shutdown(d->v, why);
	return -EIO;
}

/* Each try that fails leaves a moment without the lock. */
static int raise_lock(struct daemon *d)
{
	int err;

	for (unsigned i = 0; (err = image_lock_raise(d->dev->fd, d->src->backing_fd)) == -EBUSY; i++) {
		if (volume_look_again(d->v, d->q))
			return give_up(d, "somebody has written to the image while its lock was to be raised, or it cannot be read again");
		if (i == RAISE_TRIES)
			return -ETXTBSY;
		nanosleep(&(struct timespec){.tv_nsec = RAISE_NSEC}, NULL);
	}
	return err == -ENOLCK ? give_up(d, "somebody else has taken the image while its lock was to be raised") : err;
}

/* The image again, for writing, under the lock that was shared so far, and from now on is ours alone. */
static int take_image(struct daemon *d)
{
	int fd, err;

	if (d->dev->read_only) {
		fd = keeper_open_for_writing(&d->keeper);
		if (fd < 0)
			return fd;
		err = image_lock_pass(d->dev->fd, fd);
		if (!err)
			err = dev_make_writable(d->dev, fd);
		if (err) {
			/* Its lock goes with it: not before the old one is there again. */
			flock(d->dev->fd, LOCK_SH);
			close(fd);
			return err;
		}
	}
	return raise_lock(d);
}

/* What daemon_open() has left undone for a read-only mount.  Until the last step the volume takes no changes. */
static int begin_writing(struct daemon *d)
{
	int err = take_image(d);

	if (err)
		return err;
	err = background_start_checkpoints(d->bg, d->v);
	if (!err)
		err = background_start_service(d->bg, d->fs);
	if (!err)
		err = fs_begin_writing(d->fs, d->q);
	/* By somebody whom no lock keeps away. */
	if (err == -ESTALE)
		err = give_up(d, "somebody has written to the image since it was mounted");
	if (err && !atomic_load(&d->v->failed))
		image_lock_lower(d->dev->fd, d->src->backing_fd);
	if (!err)
		diag(d->diag, DIAG_NOTICE, "%s: takes changes from now on", d->src->path);
	return err;
}

static int shorter(int a_ms, int b_ms)
{
	return a_ms < 0 || (b_ms >= 0 && b_ms < a_ms) ? b_ms : a_ms;
}

static void daemon_serve(struct daemon *d)
{
	struct pollfd p[3] = {
		{.fd = d->signal_fd, .events = POLLIN},
		{.fd = -1, .events = POLLIN},
		{.fd = dev_queue_fd(d->q), .events = POLLIN},
	};

	while (loop_ended(d->loop) == LOOP_GOES_ON && !patience_is_over(d)) {
		int64_t left = d->give_up_ms ? d->give_up_ms - now_ms() : -1;

		p[1].fd = d->keeper.unmounting ? d->keeper.fd : -1;
		poll(p, 3, shorter(commit_timer_run(&d->timer), left < 0 && d->give_up_ms ? 0 : (int)left));
		read_signals(d);
		dev_poll(d->q, 0);
		if (!d->asked)
			continue;
		answer_writing(d, d->asked, begin_writing(d));
		if (volume_is_shut(d->v))
			forget_all(d);
	}
}

/* --- closing ---------------------------------------------------------------------------------------------- */

/* Every queue is polled by its thread until the log is quiet: any of them may carry I/O that another one waits for. */
static void stop_work(struct daemon *d)
{
	d->closing = true;
	if (d->asked)
		answer_writing(d, d->asked, -EBUSY);
	/* While workers still serve what it may be waiting for. */
	inval_end(d->inval, d->q);
	if (d->loop)
		loop_drain(d->loop);
	/* Who could ask them anything has ended. */
	apart_end(d->glue.apart);
	admit_end(d->admit);
	/* Nobody can ask for it any more.  Its queue carries nothing that others wait for. */
	scrub_job_destroy(d->scrub, d->q);
	if (d->bg)
		background_end_service(d->bg, d->q);
	if (d->fs)
		fs_close(d->fs, d->q);
	admit_destroy(d->admit);
	/* An error here has failed the volume; volume_close() will say so again. */
	if (d->v)
		(void)commit_timer_finish(&d->timer);
	if (d->loop)
		loop_quit(d->loop);
	background_destroy(d->bg);
}

static int close_device(struct daemon *d)
{
	int err = d->v ? volume_close(d->v, d->q) : 0;

	if (err)
		failed(d, "was not closed cleanly", err);
	if (d->q)
		dev_queue_destroy(d->q);
	if (d->dev) {
		struct dev_stats stats;

		dev_get_stats(d->dev, &stats);
		assert(stats.in_flight == 0);
		/* Not by closing alone: the kernel takes its time to take down a ring, and that refers to the file. */
		flock(d->dev->fd, LOCK_UN);
		dev_close(d->dev);
	}
	if (d->src->backing_fd >= 0)
		close(d->src->backing_fd);
	d->src->backing_fd = -1;
	return err;
}

/* Answers umount(2) only when the volume is clean and its lock is free. */
static int daemon_close(struct daemon *d)
{
	int err;

	stop_work(d);
	err = close_device(d);
	if (d->loop)
		loop_answer_destroy(d->loop);
	/* Closes the connection: who still has files open gets ENOTCONN. */
	if (d->se)
		fuse_session_destroy(d->se);
	if (d->loop)
		loop_destroy(d->loop);
	inval_destroy(d->inval);
	keeper_end(&d->keeper);
	callers_end(&d->callers);
	if (d->signal_fd >= 0)
		close(d->signal_fd);
	if (d->null_fd >= 0)
		close(d->null_fd);
	return err;
}

enum mount_status daemon_run(const struct mount_options *opts, struct mount_source *src,
			     struct mount_point *mp, struct report *report, int ready_fd)
{
	struct daemon d = {
		.opts = opts,
		.src = src,
		.mp = mp,
		.report = report,
		.diag = &report->diag,
		.ready_fd = ready_fd,
		.signal_fd = -1,
		.null_fd = -1,
		.keeper = {.fd = -1},
		.callers = {.fd = -1},
	};

	sandbox_init(&d.sandbox);

	int err = daemon_open(&d);

	if (!err)
		err = daemon_mount(&d);
	if (!err)
		daemon_serve(&d);

	int close_err = daemon_close(&d);

	if (!err && !close_err)
		diag(&report->diag, DIAG_INFO, "%s: unmounted", src->path);
	report_end_queue(report);
	return err || close_err ? MOUNT_FAILED : MOUNT_OK;
}

enum mount_status daemon_try(const struct mount_options *opts, struct mount_source *src,
			     struct report *report)
{
	struct daemon d = {
		.opts = opts,
		.src = src,
		.report = report,
		.diag = &report->diag,
		.ready_fd = -1,
		.signal_fd = -1,
		.null_fd = -1,
		.keeper = {.fd = -1},
		.callers = {.fd = -1},
	};
	int err = open_device(&d, DEV_OPEN_READ_ONLY);

	sandbox_init(&d.sandbox);
	if (!err) {
		enter_sandbox(&d);
		err = open_volume(&d, true);
	}
	if (!err)
		err = accept_volume(&d);

	int close_err = close_device(&d);

	return err || close_err ? MOUNT_FAILED : MOUNT_OK;
}
