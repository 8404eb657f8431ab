/* SPDX-License-Identifier: Apache-2.0 */
/* mount_options.c - one table of options, one switch over what they mean. */
#include "fs/mount_options.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mount.h>

#include "core/size.h"

#define DEFAULT_COMMIT_SEC 5u

enum code {
	IGNORE, /* means nothing here, and nothing is lost by that */
	NO_EFFECT, /* promises something that is not there: say so */
	SET_FLAG,
	CLEAR_FLAG,
	UNTRUSTED, /* mounts by users imply nosuid, nodev and, but for owner and group, noexec */
	UNTRUSTED_EXEC,
	READ_ONLY,
	READ_WRITE,
	ATIME,
	SYNC,
	ASYNC,
	DIRSYNC,
	ACL,
	NO_ACL,
	NO_RECOVERY,
	DISCARD,
	NO_DISCARD,
	COMMIT,
	ENGINE,
	TRANSPORT,
	CACHE,
	FOREGROUND,
	PLAIN,
	NO_HANDLES,
	WRITEBACK,
	NO_WRITEBACK,
	NO_SANDBOX,
	ALLOW_OTHER,
	ALLOW_IDMAP,
	MAX_READ,
	KERNEL,
	REMOUNT,
	SHOWN, /* by the kernel, so mount(8) hands it on in a remount */
	REFUSE,
};

enum takes { NO_VALUE, MAY_VALUE, NEEDS_VALUE };

struct row {
	const char *name;
	enum takes takes;
	enum code code;
	unsigned long arg;
};

#define ATIME_FLAGS (MS_NOATIME | MS_RELATIME | MS_STRICTATIME)

static const struct row table[] = {
	{"rw", NO_VALUE, READ_WRITE, 0},
	{"ro", NO_VALUE, READ_ONLY, 0},
	{"suid", NO_VALUE, CLEAR_FLAG, MS_NOSUID},
	{"nosuid", NO_VALUE, SET_FLAG, MS_NOSUID},
	{"dev", NO_VALUE, CLEAR_FLAG, MS_NODEV},
	{"nodev", NO_VALUE, SET_FLAG, MS_NODEV},
	{"exec", NO_VALUE, CLEAR_FLAG, MS_NOEXEC},
	{"noexec", NO_VALUE, SET_FLAG, MS_NOEXEC},
	{"symfollow", NO_VALUE, CLEAR_FLAG, MS_NOSYMFOLLOW},
	{"nosymfollow", NO_VALUE, SET_FLAG, MS_NOSYMFOLLOW},
	{"diratime", NO_VALUE, CLEAR_FLAG, MS_NODIRATIME},
	{"nodiratime", NO_VALUE, SET_FLAG, MS_NODIRATIME},
	{"lazytime", NO_VALUE, SET_FLAG, MS_LAZYTIME},
	{"nolazytime", NO_VALUE, CLEAR_FLAG, MS_LAZYTIME},
	{"user_id", NEEDS_VALUE, SHOWN, 0},
	{"group_id", NEEDS_VALUE, SHOWN, 0},
	{"blksize", NEEDS_VALUE, SHOWN, 0},
	{"silent", NO_VALUE, SET_FLAG, MS_SILENT},
	{"loud", NO_VALUE, CLEAR_FLAG, MS_SILENT},
	{"atime", NO_VALUE, ATIME, MS_RELATIME},
	{"noatime", NO_VALUE, ATIME, MS_NOATIME},
	{"relatime", NO_VALUE, ATIME, MS_RELATIME},
	{"norelatime", NO_VALUE, ATIME, MS_STRICTATIME},
	{"strictatime", NO_VALUE, ATIME, MS_STRICTATIME},
	{"nostrictatime", NO_VALUE, ATIME, MS_RELATIME},
	{"sync", NO_VALUE, SYNC, 0},
	{"async", NO_VALUE, ASYNC, 0},
	{"dirsync", NO_VALUE, DIRSYNC, 0},
	{"norecovery", NO_VALUE, NO_RECOVERY, 0},
	{"noload", NO_VALUE, NO_RECOVERY, 0},
	{"discard", NO_VALUE, DISCARD, 0},
	{"nodiscard", NO_VALUE, NO_DISCARD, 0},
	{"commit", NEEDS_VALUE, COMMIT, 0},
	{"engine", NEEDS_VALUE, ENGINE, 0},
	{"transport", NEEDS_VALUE, TRANSPORT, 0},
	{"cache", NEEDS_VALUE, CACHE, 0},
	{"foreground", NO_VALUE, FOREGROUND, 0},
	{"plain", NO_VALUE, PLAIN, 0},
	{"nohandles", NO_VALUE, NO_HANDLES, 0},
	{"writeback", NO_VALUE, WRITEBACK, 0},
	{"nowriteback", NO_VALUE, NO_WRITEBACK, 0},
	{"nosandbox", NO_VALUE, NO_SANDBOX, 0},
	{"allow_other", NO_VALUE, ALLOW_OTHER, 0},
	{"allow_idmap", NO_VALUE, ALLOW_IDMAP, 0},
	{"max_read", NEEDS_VALUE, MAX_READ, 0},
	{"context", NEEDS_VALUE, KERNEL, 0},
	{"fscontext", NEEDS_VALUE, KERNEL, 0},
	{"defcontext", NEEDS_VALUE, KERNEL, 0},
	{"rootcontext", NEEDS_VALUE, KERNEL, 0},
	{"remount", NO_VALUE, REMOUNT, 0},
	{"user", MAY_VALUE, UNTRUSTED, 0},
	{"users", NO_VALUE, UNTRUSTED, 0},
	{"owner", NO_VALUE, UNTRUSTED_EXEC, 0},
	{"group", NO_VALUE, UNTRUSTED_EXEC, 0},
	{"nouser", NO_VALUE, IGNORE, 0},
	{"nousers", NO_VALUE, IGNORE, 0},
	{"noowner", NO_VALUE, IGNORE, 0},
	{"nogroup", NO_VALUE, IGNORE, 0},
	{"defaults", NO_VALUE, IGNORE, 0},
	{"default_permissions", NO_VALUE, IGNORE, 0}, /* always on */
	{"auto", NO_VALUE, IGNORE, 0},
	{"noauto", NO_VALUE, IGNORE, 0},
	{"nofail", NO_VALUE, IGNORE, 0},
	{"_netdev", NO_VALUE, IGNORE, 0},
	{"uhelper", NEEDS_VALUE, IGNORE, 0},
	{"helper", NEEDS_VALUE, IGNORE, 0},
	{"comment", NEEDS_VALUE, IGNORE, 0},
	{"loop", MAY_VALUE, IGNORE, 0},
	{"iversion", NO_VALUE, IGNORE, 0},
	{"noiversion", NO_VALUE, IGNORE, 0},
	{"mand", NO_VALUE, IGNORE, 0},
	{"nomand", NO_VALUE, IGNORE, 0},
	{"user_xattr", NO_VALUE, IGNORE, 0},
	{"nouser_xattr", NO_VALUE, NO_EFFECT, 0},
	{"acl", NO_VALUE, ACL, 0},
	{"noacl", NO_VALUE, NO_ACL, 0},
	{"barrier", MAY_VALUE, IGNORE, 0}, /* flushes are not optional */
	{"nobarrier", NO_VALUE, IGNORE, 0},
	{"data", NEEDS_VALUE, IGNORE, 0}, /* stricter than data=journal whatever is asked for */
	{"errors", NEEDS_VALUE, IGNORE, 0}, /* always remount-ro; see check_errors() */
	{"fsname", NEEDS_VALUE, REFUSE, 0},
	{"subtype", NEEDS_VALUE, REFUSE, 0},
	{"auto_unmount", NO_VALUE, REFUSE, 0},
};

static const char *why_refused(const char *name)
{
	if (strcmp(name, "auto_unmount") == 0)
		return "is dangerous (it may unmount a later mount) and not supported";
	return "is set by Holdfast itself, or mount -a would mount twice";
}

static bool parse_number(const char *s, uint64_t max, uint64_t *out)
{
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	unsigned long long n = strtoull(s, &end, 10);

	if (errno || *end || n > max)
		return false;
	*out = n;
	return true;
}

static void set_atime(struct mount_options *o, unsigned long flag)
{
	o->ms_flags = (o->ms_flags & ~ATIME_FLAGS) | flag;
	o->atime = flag == MS_NOATIME ? FS_NOATIME : flag == MS_STRICTATIME ? FS_STRICTATIME : FS_RELATIME;
}

static bool set_engine(struct mount_options *o, const char *value)
{
	if (strcmp(value, "auto") == 0)
		o->engine = DEV_ENGINE_AUTO;
	else if (strcmp(value, "uring") == 0)
		o->engine = DEV_ENGINE_URING;
	else if (strcmp(value, "threads") == 0)
		o->engine = DEV_ENGINE_THREADS;
	else
		return false;
	return true;
}

static bool set_transport(struct mount_options *o, const char *value)
{
	if (strcmp(value, "auto") == 0)
		o->transport = TRANSPORT_AUTO;
	else if (strcmp(value, "uring") == 0)
		o->transport = TRANSPORT_URING;
	else if (strcmp(value, "dev") == 0)
		o->transport = TRANSPORT_DEV;
	else
		return false;
	return true;
}

/* `name=value` as it came, behind what is there already. */
static int add_kernel_opt(struct mount_options *o, const char *text)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", o->kernel_opts ? o->kernel_opts : "", o->kernel_opts ? "," : "",
		     text) < 0)
		return -ENOMEM;
	free(o->kernel_opts);
	o->kernel_opts = joined;
	return 0;
}

/* A sixteenth of the machine's memory, between 64 MiB and 1 GiB: a directory's million entries fit the latter. */
static uint64_t default_cache(void)
{
	uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 16;

	if (bytes < UINT64_C(64) << 20)
		return UINT64_C(64) << 20;
	return bytes > UINT64_C(1) << 30 ? UINT64_C(1) << 30 : bytes;
}

/* False: the value is not one this option takes. */
static bool apply_value(struct mount_options *o, const struct row *row, const char *value)
{
	uint64_t n;

	switch (row->code) {
	case COMMIT:
		if (!parse_number(value, MOUNT_MAX_COMMIT_SEC, &n))
			return false;
		o->commit_sec = (unsigned)n;
		return true;
	case CACHE:
		return size_parse(value, &o->cache_bytes) == 0 && o->cache_bytes >= MOUNT_MIN_CACHE;
	case MAX_READ:
		if (!parse_number(value, UINT_MAX, &n) || n < 4096)
			return false;
		o->max_read = n < MOUNT_MAX_IO ? (unsigned)n : MOUNT_MAX_IO;
		return true;
	case ENGINE:
		return set_engine(o, value);
	case TRANSPORT:
		return set_transport(o, value);
	default:
		return true;
	}
}

static void apply_flag(struct mount_options *o, const struct row *row)
{
	switch (row->code) {
	case SET_FLAG:
		o->ms_flags |= row->arg;
		break;
	case CLEAR_FLAG:
		o->ms_flags &= ~row->arg;
		break;
	case UNTRUSTED:
		o->ms_flags |= MS_NOSUID | MS_NODEV | MS_NOEXEC;
		break;
	case UNTRUSTED_EXEC:
		o->ms_flags |= MS_NOSUID | MS_NODEV;
		break;
	case READ_ONLY:
	case READ_WRITE:
		o->read_only = row->code == READ_ONLY;
		break;
	case ATIME:
		set_atime(o, row->arg);
		break;
	case SYNC:
	case ASYNC:
		o->sync = row->code == SYNC;
		break;
	case DIRSYNC:
		o->dirsync = true;
		break;
	case ACL:
	case NO_ACL:
		o->no_acl = row->code == NO_ACL;
		break;
	case NO_RECOVERY:
		o->no_recovery = true;
		break;
	case DISCARD:
	case NO_DISCARD:
		o->discard = row->code == DISCARD;
		break;
	case FOREGROUND:
		o->foreground = true;
		break;
	case PLAIN:
		o->plain = true;
		break;
	case NO_HANDLES:
		o->no_handles = true;
		break;
	case WRITEBACK:
	case NO_WRITEBACK:
		o->writeback = row->code == WRITEBACK;
		break;
	case NO_SANDBOX:
		o->no_sandbox = true;
		break;
	case ALLOW_OTHER:
		o->allow_other = true;
		break;
	case ALLOW_IDMAP:
		o->allow_idmap = true;
		break;
	case REMOUNT:
		o->remount = true;
		break;
	default:
		break;
	}
}

static const struct row *find_row(const char *name, size_t len)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
			return &table[i];
	return NULL;
}

static bool is_private(const char *name)
{
	return strncmp(name, "x-", 2) == 0 || strncmp(name, "X-", 2) == 0;
}

static bool errors_known(const char *value)
{
	return strcmp(value, "remount-ro") == 0 || strcmp(value, "continue") == 0 ||
	       strcmp(value, "panic") == 0;
}

static enum mount_status complain(const struct mount_options *o, const char *option, const char *what)
{
	fprintf(stderr, "%s: option '%s' %s\n", o->program, option, what);
	return MOUNT_USAGE;
}

/* `errors=` changes nothing, but a word that nobody knows is a slip of the pen. */
static enum mount_status check_errors(const struct mount_options *o, const char *text, const char *value)
{
	if (!errors_known(value))
		return complain(o, text, "has a bad value");
	if (strcmp(value, "remount-ro") != 0 && o->verbose)
		complain(o, text, "has no effect: after an error the volume turns read-only");
	return MOUNT_OK;
}

static enum mount_status apply(struct mount_options *o, const char *text)
{
	const char *eq = strchr(text, '=');
	const char *value = eq ? eq + 1 : NULL;
	const struct row *row = find_row(text, eq ? (size_t)(eq - text) : strlen(text));

	if (!row) {
		if (!o->unknown && !is_private(text))
			o->unknown = text;
		return MOUNT_OK;
	}
	if (row->takes == NEEDS_VALUE && (!value || !*value))
		return complain(o, text, "needs a value");
	if (row->takes == NO_VALUE && value)
		return complain(o, text, "takes no value");
	if (row->code == SHOWN) {
		o->shown = text;
		return MOUNT_OK;
	}
	if (row->code == REFUSE)
		return complain(o, text, why_refused(row->name));
	if (row->code == NO_EFFECT)
		complain(o, text, "has no effect: not supported");
	if (row->code == KERNEL)
		return add_kernel_opt(o, text) ? MOUNT_SYSTEM : MOUNT_OK;
	if (value && strcmp(row->name, "errors") == 0)
		return check_errors(o, text, value);
	if (value && !apply_value(o, row, value))
		return complain(o, text, "has a bad value");
	apply_flag(o, row);
	return MOUNT_OK;
}

/* Splits at commas outside double quotes, in place: a security context may hold commas. */
static enum mount_status apply_list(struct mount_options *o, char *list)
{
	while (list) {
		bool quoted = false;
		char *p = list;

		for (; *p && (quoted || *p != ','); p++)
			if (*p == '"')
				quoted = !quoted;
		char *next = *p ? p + 1 : NULL;

		*p = '\0';
		if (*list) {
			enum mount_status st = apply(o, list);

			if (st != MOUNT_OK)
				return st;
		}
		list = next;
	}
	return MOUNT_OK;
}

static enum mount_status check_together(struct mount_options *o)
{
	if (!o->remount && !o->unknown)
		o->unknown = o->shown;
	if (o->unknown && !o->sloppy)
		return complain(o, o->unknown, "is unknown");
	o->ms_flags &= ~(unsigned long)(MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC);
	if (o->read_only)
		o->ms_flags |= MS_RDONLY;
	if (o->sync)
		o->ms_flags |= MS_SYNCHRONOUS;
	if (o->dirsync)
		o->ms_flags |= MS_DIRSYNC;
	o->nodiratime = o->ms_flags & MS_NODIRATIME;
	o->lazytime = o->ms_flags & MS_LAZYTIME;
	/* Else it is the image that decides. */
	return o->remount ? mount_options_access(o, false) : MOUNT_OK;
}

enum mount_status mount_options_access(struct mount_options *o, bool write_protected)
{
	if (write_protected) {
		o->read_only = true;
		o->ms_flags |= MS_RDONLY;
	}
	if (o->no_recovery && !o->read_only)
		return complain(o, "norecovery",
				"needs 'ro': changes on top of an unreplayed journal would lose it");
	return MOUNT_OK;
}

void mount_options_usage(const char *program)
{
	printf("Usage: %s [-sfnvhV] [-t type] [-N namespace] [-o options] IMAGE DIR\n"
	       "Mounts the Holdfast volume in IMAGE, a file or a block device, on DIR.\n"
	       "  -f  check everything, do not mount      -s  ignore unknown options\n"
	       "  -v  say more                            -n  no effect\n"
	       "  -N  mount namespace: pid or path        -t  no effect\n"
	       "  -h  this text                           -V  version\n"
	       "Options of Holdfast, beside those of mount(8):\n"
	       "  commit=SECONDS   longest time until a change is durable (5; 0: only by sync)\n"
	       "  sync, dirsync    every change (of directories) is durable when the call returns\n"
	       "  acl, noacl       POSIX access control lists (on), or the mode alone\n"
	       "  norecovery       with ro: the last checkpoint, journal ignored (also: noload)\n"
	       "  discard          tell the device about freed blocks\n"
	       "  lazytime         keep times of reading in memory, for half a day or so\n"
	       "  engine=auto|uring|threads\n"
	       "  transport=auto|uring|dev\n"
	       "                   requests over io_uring where the kernel offers it, or by /dev/fuse\n"
	       "  cache=SIZE       memory for clean metadata, at least 4M (1/16 of all, 64M to 1G)\n"
	       "  writeback        write(2) returns when the kernel has the data, before it is ordered\n"
	       "  plain            no block device for the kernel: sync(2) and umount(8) will not wait\n"
	       "  nohandles        no NFS, no open_by_handle_at(2): for overlays whose layers are on it\n"
	       "  allow_idmap      the mount can be mapped to other users (X-mount.idmap=); Linux 6.12\n"
	       "  nosandbox        keep privileges and all system calls: for those who look for a fault\n"
	       "  foreground       stay, and write messages to stderr\n"
	       "  allow_other      (by users) let others in as well\n",
	       program);
}

static enum mount_status take_operands(struct mount_options *o, int argc, char **argv)
{
	if (o->show_help || o->show_version)
		return MOUNT_OK;
	if (argc != 2) {
		fprintf(stderr, "%s: %s; try %s -h\n", o->program,
			argc < 2 ? "an image and a directory are needed" : "too many arguments", o->program);
		return MOUNT_USAGE;
	}
	o->image = argv[0];
	o->dir = argv[1];
	return check_together(o);
}

static void set_defaults(struct mount_options *o)
{
	*o = (struct mount_options){
		.program = "mount.holdfast",
		.atime = FS_RELATIME,
		.commit_sec = DEFAULT_COMMIT_SEC,
		.cache_bytes = default_cache(),
		.max_read = MOUNT_MAX_IO,
	};
}

/* Before they are taken apart. */
static bool keep_given(struct mount_options *o, const char *const *lists, unsigned n)
{
	size_t len;
	FILE *f = open_memstream(&o->given, &len);

	if (!f)
		return false;
	for (unsigned i = 0; i < n; i++)
		fprintf(f, "%s%s", i ? "," : "", lists[i]);
	return fclose(f) == 0;
}

/* Only when the whole line is known: -s may stand behind -o. */
static enum mount_status apply_lists(struct mount_options *o, const char *const *lists, unsigned n)
{
	enum mount_status st = MOUNT_OK;

	if (!keep_given(o, lists, n))
		return MOUNT_SYSTEM;
	for (unsigned i = 0; i < n && st == MOUNT_OK; i++)
		st = apply_list(o, (char *)lists[i]);
	return st;
}

/*
 * A list of mount(8)'s names all flags that the kernel is to have, as mount(2) wants them: what "exec" takes away it leaves out, as if "noexec" had
 * never been there.  Only access times stay, as for mount(2), where nothing is said of them, unless it was made of what the kernel shows.
 */
static void forget_flags(const struct mount_options *asked, struct mount_options *out)
{
	out->ms_flags &= ~(unsigned long)(MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW | MS_LAZYTIME);
	out->sync = false;
	if (!asked->shown && !(asked->ms_flags & (ATIME_FLAGS | MS_NODIRATIME)))
		return;
	out->ms_flags &= ~(unsigned long)MS_NODIRATIME;
	set_atime(out, MS_RELATIME);
}

enum mount_status mount_options_change(const struct mount_options *o, char *now, char *given, struct mount_options *out)
{
	enum mount_status st;

	set_defaults(out);
	out->remount = true;
	out->sloppy = o->sloppy;
	out->verbose = o->verbose;
	st = apply_list(out, now);
	/* What is so now is no mistake of the caller's. */
	out->unknown = NULL;
	if (given && o->by_mount)
		forget_flags(o, out);
	if (st == MOUNT_OK && given)
		st = apply_list(out, given);
	return st == MOUNT_OK ? check_together(out) : st;
}

enum mount_status mount_options_parse(int argc, char **argv, struct mount_options *o)
{
	const char *lists[64];
	unsigned nlists = 0;
	int c;

	set_defaults(o);
	opterr = 0;
	while ((c = getopt(argc, argv, ":sfnvhVt:N:o:")) != -1) {
		switch (c) {
		case 's':
			o->sloppy = true;
			break;
		case 'f':
			o->fake = true;
			break;
		case 'v':
			o->verbose = true;
			break;
		case 'h':
			o->show_help = true;
			break;
		case 'V':
			o->show_version = true;
			break;
		case 'N':
			o->ns = optarg;
			break;
		case 'o':
			if (nlists < sizeof(lists) / sizeof(lists[0])) {
				lists[nlists++] = optarg;
				break;
			}
			fprintf(stderr, "%s: too many -o\n", o->program);
			return MOUNT_USAGE;
		case 'n':
		case 't':
			break;
		default:
			fprintf(stderr, "%s: %s -%c; try %s -h\n", o->program,
				c == ':' ? "a value is missing behind" : "unknown option", optopt,
				o->program);
			return MOUNT_USAGE;
		}
	}
	enum mount_status st = apply_lists(o, lists, nlists);

	return st == MOUNT_OK ? take_operands(o, argc - optind, argv + optind) : st;
}

void mount_options_free(struct mount_options *o)
{
	free(o->kernel_opts);
	free(o->given);
	o->kernel_opts = o->given = NULL;
}

/* A comma or backslash would end the name for libfuse's option parser. */
static void put_escaped(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == ',' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
}

/* Of those that are for the kernel: within quotes, so that the commas between options stay what they are. */
static void put_quotes_escaped(FILE *f, const char *s)
{
	for (bool quoted = false; *s; s++) {
		if (*s == '"')
			quoted = !quoted;
		if (*s == '\\' || (quoted && *s == ','))
			fputc('\\', f);
		fputc(*s, f);
	}
}

char *mount_options_for_fuse(const struct mount_options *o, const char *fsname)
{
	static const struct {
		unsigned long flag;
		const char *name;
	} names[] = {
		{MS_RDONLY, "ro"},       {MS_NOEXEC, "noexec"},    {MS_NOSUID, "nosuid"},
		{MS_NODEV, "nodev"},     {MS_SYNCHRONOUS, "sync"}, {MS_DIRSYNC, "dirsync"},
		{MS_NOATIME, "noatime"},
	};
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fprintf(f, "default_permissions,max_read=%u,subtype=holdfast,fsname=", o->max_read);
	put_escaped(f, fsname);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (o->ms_flags & names[i].flag)
			fprintf(f, ",%s", names[i].name);
	if (o->allow_other)
		fputs(",allow_other", f);
	if (o->kernel_opts) {
		fputc(',', f);
		put_quotes_escaped(f, o->kernel_opts);
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

void mount_options_describe(const struct mount_options *o, char *text, size_t room)
{
	static const char *const atimes[] = {
		[FS_RELATIME] = "relatime",
		[FS_NOATIME] = "noatime",
		[FS_STRICTATIME] = "strictatime",
	};
	static const char *const engines[] = {
		[DEV_ENGINE_AUTO] = "",
		[DEV_ENGINE_URING] = ",engine=uring",
		[DEV_ENGINE_THREADS] = ",engine=threads",
	};

	static const char *const transports[] = {
		[TRANSPORT_AUTO] = "",
		[TRANSPORT_URING] = ",transport=uring",
		[TRANSPORT_DEV] = ",transport=dev",
	};

	snprintf(text, room, "%s,%s%s%s,commit=%u,cache=%llu%s%s%s%s%s%s%s%s%s%s%s%s%s", o->read_only ? "ro" : "rw", atimes[o->atime],
		 o->nodiratime ? ",nodiratime" : "", o->lazytime ? ",lazytime" : "", o->commit_sec,
		 (unsigned long long)o->cache_bytes, o->no_sandbox ? ",nosandbox" : "", o->sync ? ",sync" : "",
		 o->dirsync ? ",dirsync" : "", o->no_acl ? ",noacl" : "", o->no_recovery ? ",norecovery" : "",
		 o->discard ? ",discard" : "", o->writeback ? ",writeback" : "", engines[o->engine], transports[o->transport], o->plain ? ",plain" : "",
		 o->no_handles ? ",nohandles" : "", o->allow_other ? ",allow_other" : "",
		 o->allow_idmap ? ",allow_idmap" : "");
}
