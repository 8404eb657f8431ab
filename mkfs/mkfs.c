/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mkfs.c - mkfs.holdfast: makes an image file or formats a device.
 *
 * Everything that can be refused is refused before anything is changed: arguments, size, geometry, a lock or mount held by
 * others, a signature in place.  An image that this run created is removed again if the run does not succeed, and a file that it enlarged
 * gets its old size back.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "core/image_lock.h"
#include "core/json.h"
#include "core/limit.h"
#include "core/printable.h"
#include "core/size.h"
#include "core/streams.h"
#include "core/stop.h"
#include "core/version.h"
#include "journal/volume.h"
#include "mkfs/signature.h"

#define PROGRAM "mkfs.holdfast"
#define DISCARD_STEP (UINT64_C(1) << 30)

struct options {
	const char *path, *label;
	uint64_t size, journal_bytes;
	bool has_size, has_journal, has_uuid;
	bool quiet, dry_run, force, no_discard, json;
	uuid_t uuid;
	uint32_t uid, gid;
};

struct job {
	const struct options *o;
	int fd, backing_fd;	/* -1: not open */
	bool exists, created, is_block;
	uint64_t old_size;	/* bytes of what exists */
	bool resized;
	struct stop stop;
	struct format_params params;
	struct super sb;	/* geometry, once chosen */
	unsigned percent;	/* last shown */
};

/* One line on stderr, with the path; returns what main's callers pass on. */
__attribute__((format(printf, 2, 3))) static int refuse(const char *path, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, PROGRAM ": %s: ", path);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return -EINVAL;
}

/* --- the command line -------------------------------------------------------------------------- */

static const char usage_text[] =
	"usage: " PROGRAM " [options] IMAGE --size SIZE     make an image file\n"
	"       " PROGRAM " [options] DEVICE|FILE           format what is there\n"
	"\n"
	"  -s, --size SIZE         size of the volume, as 10G or 512MiB\n"
	"  -L, --label LABEL       at most 255 bytes\n"
	"  -U, --uuid UUID         default: random\n"
	"  -J, --journal SIZE      size of the journal (also: size=SIZE)\n"
	"      --root-owner UID:GID  of the root directory; default: the caller\n"
	"  -f, --force             even over an existing file system\n"
	"  -K, --nodiscard         do not discard an existing device's blocks first\n"
	"  -n, --dry-run           show the geometry, change nothing\n"
	"      --json              show the geometry as JSON\n"
	"  -q, --quiet             only errors\n"
	"  -V, --version           -h, --help\n"
	"\n"
	"With SOURCE_DATE_EPOCH set and --uuid given, the same arguments make the same bytes.\n";

static int parse_label(struct options *o, const char *arg)
{
	if (strlen(arg) >= LABEL_BYTES) {
		fprintf(stderr, PROGRAM ": label is longer than %d bytes\n", LABEL_BYTES - 1);
		return -EINVAL;
	}
	o->label = arg;
	return 0;
}

static int parse_uuid(struct options *o, const char *arg)
{
	if (strcmp(arg, "random") == 0)
		return 0;
	if (uuid_parse(arg, o->uuid) || uuid_is_null(o->uuid)) {
		fprintf(stderr, PROGRAM ": \"%s\" is not a UUID\n", arg);
		return -EINVAL;
	}
	o->has_uuid = true;
	return 0;
}

static int parse_bytes(const char *what, const char *arg, uint64_t *out)
{
	int err = size_parse(arg, out);

	if (err)
		fprintf(stderr, PROGRAM ": %s \"%s\" %s\n", what, arg,
			err == -ERANGE ? "is too large" : "is not a number with a unit like K, M, G or T");
	return err;
}

static int parse_journal(struct options *o, const char *arg)
{
	o->has_journal = true;
	return parse_bytes("journal size", strncmp(arg, "size=", 5) == 0 ? arg + 5 : arg, &o->journal_bytes);
}

/* A user or group number; `end` is the character that must follow. */
static const char *parse_id(const char *arg, char end, uint32_t *out)
{
	char *stop;

	if (*arg < '0' || *arg > '9')
		return NULL;
	errno = 0;
	unsigned long long n = strtoull(arg, &stop, 10);
	if (errno || *stop != end || n >= UINT32_MAX)
		return NULL;
	*out = (uint32_t)n;
	return stop + 1;
}

static int parse_owner(struct options *o, const char *arg)
{
	const char *gid = parse_id(arg, ':', &o->uid);

	if (gid && parse_id(gid, '\0', &o->gid))
		return 0;
	fprintf(stderr, PROGRAM ": \"%s\" is not UID:GID\n", arg);
	return -EINVAL;
}

enum { OPT_JSON = 256, OPT_ROOT_OWNER };

static const struct option long_options[] = {
	{"size", required_argument, NULL, 's'},
	{"label", required_argument, NULL, 'L'},
	{"uuid", required_argument, NULL, 'U'},
	{"journal", required_argument, NULL, 'J'},
	{"root-owner", required_argument, NULL, OPT_ROOT_OWNER},
	{"force", no_argument, NULL, 'f'},
	{"nodiscard", no_argument, NULL, 'K'},
	{"dry-run", no_argument, NULL, 'n'},
	{"json", no_argument, NULL, OPT_JSON},
	{"quiet", no_argument, NULL, 'q'},
	{"version", no_argument, NULL, 'V'},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

static int parse_option(struct options *o, int c)
{
	switch (c) {
	case 's':
		o->has_size = true;
		return parse_bytes("size", optarg, &o->size);
	case 'L':
		return parse_label(o, optarg);
	case 'U':
		return parse_uuid(o, optarg);
	case 'J':
		return parse_journal(o, optarg);
	case OPT_ROOT_OWNER:
		return parse_owner(o, optarg);
	case 'f':
		o->force = true;
		return 0;
	case 'K':
		o->no_discard = true;
		return 0;
	case 'n':
		o->dry_run = true;
		return 0;
	case OPT_JSON:
		o->json = true;
		return 0;
	case 'q':
		o->quiet = true;
		return 0;
	default:	/* getopt has said what is wrong */
		fputs("Try '" PROGRAM " --help'.\n", stderr);
		return -EINVAL;
	}
}

/* -1: go on; else the exit status. */
static int parse_command(int argc, char **argv, struct options *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "s:L:U:J:fKnqVh", long_options, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage_text, stdout);
			return 0;
		}
		if (c == 'V') {
			puts(PROGRAM " " HOLDFAST_VERSION);
			return 0;
		}
		if (parse_option(o, c))
			return 1;
	}
	if (optind + 1 != argc) {
		fprintf(stderr, PROGRAM ": %s\nTry '" PROGRAM " --help'.\n",
			optind < argc ? "more than one device or image named (the size goes with --size)" :
					"no device or image named");
		return 1;
	}
	o->path = argv[optind];
	return -1;
}

/* --- the target -------------------------------------------------------------------------------- */

static int target_lock(struct job *job)
{
	const char *path = job->o->path;
	unsigned flags = job->o->dry_run ? IMAGE_LOCK_SHARED : 0;
	int err = image_lock(job->fd, flags, &job->backing_fd);

	if (err == -EBUSY)
		return refuse(path, "is in use by another program; unmount it first");
	return err ? refuse(path, "cannot be locked: %s", strerror(-err)) : 0;
}

static int target_ask_size(struct job *job, const struct stat *st)
{
	off_t end = job->is_block ? lseek(job->fd, 0, SEEK_END) : st->st_size;

	if (end < 0)
		return refuse(job->o->path, "cannot tell its size: %s", strerror(errno));
	job->old_size = (uint64_t)end;
	return 0;
}

/* A file or device that is there; nothing is changed. */
static int target_open(struct job *job, const struct stat *st)
{
	const char *path = job->o->path;
	char where[256] = "";

	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return refuse(path, "is neither a file nor a block device");
	job->exists = true;
	job->is_block = S_ISBLK(st->st_mode);
	if (image_is_mounted(path, where, sizeof(where)))
		return refuse(path, "is mounted at %s", where);
	int flags = O_CLOEXEC | (job->o->dry_run ? O_RDONLY : O_RDWR) | (job->is_block ? O_EXCL : 0);
	job->fd = open(path, flags);
	if (job->fd < 0 && errno == EBUSY)
		return refuse(path, "is in use by the system (mounted, swap, or part of an array)");
	if (job->fd < 0)
		return refuse(path, "%s", strerror(errno));
	if (image_is_protected(job->fd) && !job->o->dry_run)
		return refuse(path, "is write-protected");
	int err = target_lock(job);
	return err ? err : target_ask_size(job, st);
}

static int target_find(struct job *job)
{
	const struct options *o = job->o;
	struct stat st;

	if (stat(o->path, &st) == 0)
		return target_open(job, &st);
	if (errno != ENOENT)
		return refuse(o->path, "%s", strerror(errno));
	if (!o->has_size)
		return refuse(o->path, "does not exist; --size makes an image file");
	return 0;
}

/* Which size the volume will have. */
static int choose_size(const struct job *job, uint64_t *size)
{
	const struct options *o = job->o;

	*size = o->has_size ? o->size : job->old_size;
	if (job->is_block && *size > job->old_size)
		return refuse(o->path, "the device has only %" PRIu64 " bytes", job->old_size);
	if (*size == 0 && !o->has_size)
		return refuse(o->path, "is empty; give --size");
	if (*size / BLOCK_SIZE < MIN_BLOCKS)
		return refuse(o->path, "%" PRIu64 " bytes are too small for a volume; the least is 4 MiB", *size);
	if (*size / BLOCK_SIZE > MAX_BLOCKS)
		return refuse(o->path, "%" PRIu64 " bytes are too large for a volume; the most is %" PRIu64, *size,
			      MAX_BLOCKS * BLOCK_SIZE);
	return 0;
}

static int choose_geometry(struct job *job)
{
	const struct options *o = job->o;
	uint64_t size;
	int err = choose_size(job, &size);

	if (err)
		return err;
	job->sb.nblocks = size / BLOCK_SIZE;
	job->sb.journal_nblocks = o->has_journal ? o->journal_bytes / BLOCK_SIZE :
						   volume_default_journal(job->sb.nblocks);
	if (job->sb.journal_nblocks < MIN_JOURNAL || job->sb.journal_nblocks > MAX_JOURNAL)
		return refuse(o->path, "the journal must have 512 KiB to 4 GiB");
	if (super_layout(&job->sb))
		return refuse(o->path, "the journal is too large for a volume of %" PRIu64 " bytes", size);
	return 0;
}

static int check_signature(struct job *job)
{
	char what[400];

	if (!job->exists || job->o->force || job->old_size == 0)
		return 0;
	int found = signature_find(job->fd, job->old_size, what, sizeof(what));
	if (found < 0)
		return refuse(job->o->path, "cannot be read: %s", strerror(-found));
	if (found)
		return refuse(job->o->path, "contains %s; --force overwrites it", what);
	return 0;
}

/* --- identity ---------------------------------------------------------------------------------- */

/* Secret, unless the same arguments are to give the same image. */
static int choose_hash_key(struct format_params *p, bool reproducible)
{
	if (!reproducible)
		return getrandom(p->hash_key, sizeof(p->hash_key), 0) == sizeof(p->hash_key) ? 0 : -EIO;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t seed[] = {'h', 'a', 's', 'h', ' ', 'k', 'e', 'y', (uint8_t)('0' + i)};
		le64 half = put64(siphash24(p->uuid, seed, sizeof(seed)));

		memcpy(p->hash_key + 8 * i, &half, sizeof(half));
	}
	return 0;
}

static int choose_time(struct format_params *p, const char *epoch)
{
	struct timespec now;
	char *end;

	if (!epoch) {
		clock_gettime(CLOCK_REALTIME, &now);
		p->now_sec = now.tv_sec;
		p->now_nsec = (uint32_t)now.tv_nsec;
		return 0;
	}
	errno = 0;
	p->now_sec = strtoll(epoch, &end, 10);
	if (errno || end == epoch || *end) {
		fprintf(stderr, PROGRAM ": SOURCE_DATE_EPOCH \"%s\" is not a number of seconds\n", epoch);
		return -EINVAL;
	}
	return 0;
}

static int choose_identity(struct job *job)
{
	const struct options *o = job->o;
	struct format_params *p = &job->params;
	const char *epoch = getenv("SOURCE_DATE_EPOCH");

	p->nblocks = job->sb.nblocks;
	p->journal_nblocks = job->sb.journal_nblocks;
	if (o->has_uuid)
		uuid_copy(p->uuid, o->uuid);
	else
		uuid_generate_random(p->uuid);
	if (o->label)
		memcpy(p->label, o->label, strlen(o->label));
	p->root_uid = o->uid;
	p->root_gid = o->gid;
	p->root_mode = 0755;
	int err = choose_time(p, epoch);
	if (err)
		return err;
	err = choose_hash_key(p, epoch && o->has_uuid);
	return err ? refuse(o->path, "no random numbers: %s", strerror(-err)) : 0;
}

/* --- writing ----------------------------------------------------------------------------------- */

/* After a failure: what exists as it was long, what was created gone. */
static void undo(struct job *job)
{
	if (job->created)
		unlink(job->o->path);
	else if (job->resized && ftruncate(job->fd, (off_t)job->old_size))
		refuse(job->o->path, "cannot be cut back to %" PRIu64 " bytes: %s", job->old_size, strerror(errno));
}

/* Half an image is of no use to anybody: it goes before the signal is let through. */
static void heed_signals(struct job *job)
{
	if (!stop_wanted(&job->stop))
		return;
	undo(job);
	stop_release(&job->stop);
}

static int target_create(struct job *job)
{
	const char *path = job->o->path;

	job->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (job->fd < 0)
		return refuse(path, "cannot be created: %s", strerror(errno));
	job->created = true;
	return target_lock(job);
}

static int target_prepare(struct job *job)
{
	uint64_t size = job->sb.nblocks * BLOCK_SIZE;

	if (job->exists && (job->is_block || size <= job->old_size))
		return 0;
	stop_hold(&job->stop);
	int err = job->exists ? 0 : target_create(job);
	if (err)
		return err;
	if (ftruncate(job->fd, (off_t)size))
		return refuse(job->o->path, "cannot be made %" PRIu64 " bytes long: %s", size, strerror(errno));
	job->resized = true;
	return 0;
}

/* What was there is not needed any more; a device that cannot forget is no reason to stop. */
static void discard_old(struct job *job, struct dev_queue *q)
{
	uint64_t size = job->sb.nblocks * BLOCK_SIZE;

	if (!job->exists || job->o->no_discard || !q->dev->can_discard)
		return;
	for (uint64_t off = 0; off < size; off += DISCARD_STEP) {
		uint64_t left = size - off;

		if (dev_discard(q, off, left < DISCARD_STEP ? left : DISCARD_STEP))
			return;
	}
}

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
	struct job *job = arg;
	unsigned percent = total ? (unsigned)(done * 100 / total) : 100;

	heed_signals(job);
	if (job->o->quiet || percent == job->percent || !isatty(STDERR_FILENO))
		return;
	job->percent = percent;
	fprintf(stderr, "\rwriting the journal: %3u%%%s", percent, percent == 100 ? "\n" : "");
}

static int write_volume(struct job *job, struct dev_queue *q)
{
	discard_old(job, q);
	uint64_t size = job->sb.nblocks * BLOCK_SIZE;
	int err = job->exists ? signature_wipe(job->fd, size > job->old_size ? size : job->old_size) : 0;

	return err ? err : volume_format(q, &job->params, NULL, show_progress, job);
}

/* The image is durable only when its name is. */
static int sync_folder(const char *path)
{
	auto_free char *folder = strdup(path);

	if (!folder)
		return -ENOMEM;
	char *slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder ? 1 : 0] = '\0';
	int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;	/* a folder that may be written but not read */
	int err = fsync(fd) && errno != EINVAL ? -errno : 0;
	close(fd);
	return err;
}

static int target_format(struct job *job)
{
	const char *path = job->o->path;
	struct dev *dev = NULL;
	struct dev_queue *q = NULL;
	int err = dev_open(path, DEV_ENGINE_AUTO, 0, NULL, &dev);

	if (!err)
		err = dev_queue_create(dev, &q);
	if (!err)
		err = write_volume(job, q);
	if (q)
		dev_queue_destroy(q);
	if (dev)
		dev_close(dev);
	if (!err && fsync(job->fd))
		err = -errno;
	if (!err && job->created)
		err = sync_folder(path);
	heed_signals(job);
	return err ? refuse(path, "cannot be formatted: %s", strerror(-err)) : 0;
}

/* --- telling ----------------------------------------------------------------------------------- */

static void show_json(const struct job *job, const char *uuid)
{
	const struct super *sb = &job->sb;
	struct json j = json_make(stdout);

	json_object(&j, NULL);
	json_string(&j, "path", job->o->path);
	json_bool(&j, "dry_run", job->o->dry_run);
	json_u64(&j, "size", sb->nblocks * BLOCK_SIZE);
	json_u64(&j, "block_size", BLOCK_SIZE);
	json_u64(&j, "blocks", sb->nblocks);
	json_u64(&j, "journal_size", sb->journal_nblocks * BLOCK_SIZE);
	json_u64(&j, "journal_first_block", sb->journal_blkno);
	json_u64(&j, "journal_blocks", sb->journal_nblocks);
	json_u64(&j, "groups", sb->ngroups);
	json_u64(&j, "tables", sb->ntables);
	if (job->o->has_uuid || !job->o->dry_run)
		json_string(&j, "uuid", uuid);
	json_string(&j, "label", job->params.label);
	json_end_object(&j);
}

static void show_volume(const struct job *job)
{
	char uuid[UUID_STR_LEN], size[SIZE_TEXT], journal[SIZE_TEXT];
	const struct super *sb = &job->sb;
	const struct options *o = job->o;

	uuid_unparse_lower(job->params.uuid, uuid);
	if (o->json) {
		show_json(job, uuid);
		return;
	}
	if (o->quiet)
		return;
	printf("%s: %s%s, %" PRIu64 " blocks of 4 KiB, journal %s\n", o->path, o->dry_run ? "would have " : "",
	       size_format(sb->nblocks * BLOCK_SIZE, size), sb->nblocks,
	       size_format(sb->journal_nblocks * BLOCK_SIZE, journal));
	printf("UUID %s", o->dry_run && !o->has_uuid ? "random" : uuid);
	if (o->label) {
		fputs(", label \"", stdout);
		printable_put(stdout, o->label);
		putchar('"');
	}
	putchar('\n');
}

static int run(struct job *job)
{
	int err = target_find(job);

	if (!err)
		err = choose_geometry(job);
	if (!err)
		err = check_signature(job);
	if (!err)
		err = choose_identity(job);
	if (!err && !job->o->dry_run)
		err = target_prepare(job);
	if (!err && !job->o->dry_run)
		err = target_format(job);
	if (!err)
		show_volume(job);
	return err;
}

int main(int argc, char **argv)
{
	struct options o = {.uid = geteuid(), .gid = getegid()};
	struct job job = {.o = &o, .fd = -1, .backing_fd = -1, .percent = 101};
	int rc = streams_reserve() ? parse_command(argc, argv, &o) : 1;

	if (rc >= 0)
		return rc || !streams_finish(PROGRAM);
	limit_is_error();
	int err = run(&job);
	if (err)
		undo(&job);
	if (job.backing_fd >= 0)
		close(job.backing_fd);
	if (job.fd >= 0)
		close(job.fd);
	return err || !streams_finish(PROGRAM);
}
