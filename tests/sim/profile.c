/* SPDX-License-Identifier: Apache-2.0 */
/* profile.c - how often what is done; plan.c takes the first three more often. */
#include "tests/sim/plan.h"

#include <string.h>

#define NAMES                                                                                                          \
	[OP_CREATE] = 8, [OP_MKDIR] = 4, [OP_MKNOD] = 1, [OP_SYMLINK] = 2, [OP_LINK] = 3, [OP_UNLINK] = 6,             \
	[OP_RMDIR] = 2, [OP_RENAME] = 6, [OP_EXCHANGE] = 2, [OP_WHITEOUT] = 2, [OP_TMPFILE] = 2, [OP_LOOKUP] = 2, [OP_READDIR] = 2, [OP_READLINK] = 1
#define ATTRS                                                                                                          \
	[OP_GETATTR] = 1, [OP_SETATTR] = 3, [OP_SETXATTR] = 3, [OP_GETXATTR] = 2, [OP_LISTXATTR] = 1,                  \
	[OP_REMOVEXATTR] = 1, [OP_STATFS] = 1, [OP_SETACL] = 2, [OP_REMOVEACL] = 1,             \
	[OP_GETFLAGS] = 1, [OP_SETFLAGS] = 3
#define DATA                                                                                                           \
	[OP_WRITE] = 6, [OP_WRITE_LENT] = 5, [OP_WRITE_ASYNC] = 5, [OP_APPEND] = 4, [OP_OVERWRITE] = 5, [OP_READ] = 4, \
	[OP_LSEEK] = 1, [OP_RESERVE] = 2, [OP_PUNCH] = 2, [OP_ZERO] = 2, [OP_TRUNCATE] = 4, [OP_COPY] = 3,              \
	[OP_CACHED] = 4, [OP_WRITEBACK] = 1
#define SYNCS                                                                                                          \
	[OP_FSYNC] = 4, [OP_FDATASYNC] = 2, [OP_SYNCFS] = 2, [OP_SYNC_LATE] = 2, [OP_CHECKPOINT] = 2,                  \
	[OP_SERVICE] = 1, [OP_WAIT] = 3, [OP_TRIM] = 1, [OP_LABEL] = 1
#define HOLDS [OP_HOLD] = 3, [OP_RELEASE] = 1

const struct profile profiles[] = {
	{"mixed", {NAMES, ATTRS, DATA, SYNCS, HOLDS}, 4, 5, 1, 10, 60, 600 << 10, DEVICES_ANY},
	{"journal", {[OP_CREATE] = 2, [OP_OVERWRITE] = 20, [OP_WRITE] = 8, [OP_APPEND] = 2, [OP_SYNCFS] = 2, [OP_FSYNC] = 2,
		     [OP_READ] = 3, [OP_SETXATTR] = 3, [OP_RENAME] = 2}, 2, 8, 0, 3, 120, 300 << 10, DEVICES_TINY},
	{"full", {[OP_CREATE] = 6, [OP_MKDIR] = 2, [OP_UNLINK] = 1, [OP_RENAME] = 2, [OP_SETXATTR] = 2, [OP_WRITE] = 6,
		  [OP_WRITE_ASYNC] = 4, [OP_APPEND] = 8, [OP_OVERWRITE] = 4, [OP_READ] = 2, [OP_RESERVE] = 4, [OP_PUNCH] = 2, [OP_COPY] = 3,
		  [OP_ZERO] = 2, [OP_TRUNCATE] = 2, [OP_LINK] = 1, [OP_CACHED] = 8, [OP_WRITEBACK] = 1, SYNCS, HOLDS},
	 1, 2, 7, 12, 70, 4000 << 10, DEVICES_TINY},
	{"names", {NAMES, [OP_WRITE] = 2, SYNCS, HOLDS, [OP_SETATTR] = 1}, 9, 1, 0, 5, 80, 20000, DEVICES_ANY},
	{"small", {[OP_CREATE] = 6, [OP_UNLINK] = 3, [OP_RENAME] = 2, DATA, SYNCS, HOLDS}, 10, 0, 0, 8, 80, 5000, DEVICES_ANY},
	{"data", {[OP_CREATE] = 3, [OP_UNLINK] = 1, DATA, SYNCS, HOLDS}, 2, 5, 3, 5, 60, 1500 << 10, DEVICES_ANY},
	{"orphans", {[OP_CREATE] = 8, [OP_TMPFILE] = 6, [OP_MKDIR] = 2, [OP_UNLINK] = 8, [OP_RMDIR] = 2, [OP_RENAME] = 5, DATA,
		     [OP_FSYNC] = 2, [OP_SYNCFS] = 1, [OP_CHECKPOINT] = 2, [OP_HOLD] = 10, [OP_RELEASE] = 4, [OP_LINK] = 2,
		     [OP_SETXATTR] = 2}, 3, 5, 2, 6, 60, 400 << 10, DEVICES_ANY},
	{"xattrs", {[OP_CREATE] = 4, [OP_MKDIR] = 1, [OP_UNLINK] = 1, [OP_SETXATTR] = 16, [OP_GETXATTR] = 4,
		    [OP_LISTXATTR] = 3, [OP_REMOVEXATTR] = 6, [OP_SETACL] = 8, [OP_REMOVEACL] = 2, [OP_SETATTR] = 3,
		    [OP_MKNOD] = 1, [OP_SETFLAGS] = 2, SYNCS, HOLDS}, 5, 5, 0, 6, 60, 20000, DEVICES_ANY},
	{"synced", {NAMES, DATA, [OP_FSYNC] = 30, [OP_FDATASYNC] = 15, [OP_SYNCFS] = 10, [OP_SYNC_LATE] = 10,
		    [OP_CHECKPOINT] = 1}, 5, 4, 1, 8, 50, 200 << 10, DEVICES_ANY},
	{"lazy", {NAMES, ATTRS, DATA, [OP_CHECKPOINT] = 1}, 5, 4, 1, 8, 60, 300 << 10, DEVICES_ANY},
	{"checkpoints", {NAMES, DATA, [OP_CHECKPOINT] = 25, [OP_SYNCFS] = 2, [OP_WAIT] = 5, HOLDS}, 4, 5, 1, 8, 60,
	 300 << 10, DEVICES_ANY},
	{"flags", {NAMES, DATA, [OP_SETATTR] = 4, [OP_SETXATTR] = 4, [OP_REMOVEXATTR] = 2, [OP_SETACL] = 1, [OP_SETFLAGS] = 14,
		   [OP_GETFLAGS] = 1, SYNCS, HOLDS}, 5, 4, 1, 6, 70, 100 << 10, DEVICES_ANY},
	{"readers", {[OP_CREATE] = 6, [OP_MKDIR] = 4, [OP_SYMLINK] = 3, [OP_LINK] = 1, [OP_UNLINK] = 2, [OP_RENAME] = 2,
		     [OP_READ] = 12, [OP_READDIR] = 8, [OP_READLINK] = 4, [OP_HOLD] = 16, [OP_RELEASE] = 5, [OP_WRITE] = 3,
		     [OP_SETATTR] = 2, [OP_GETATTR] = 4, SYNCS}, 6, 2, 0, 6, 70, 100 << 10, DEVICES_ANY},
	{"cached", {[OP_CREATE] = 4, [OP_UNLINK] = 2, [OP_CACHED] = 24, [OP_WRITEBACK] = 2, [OP_APPEND] = 8, [OP_WRITE] = 3, [OP_RESERVE] = 3,
		    [OP_TRUNCATE] = 2, [OP_READ] = 2, [OP_SETFLAGS] = 2, [OP_STATFS] = 1, SYNCS}, 2, 4, 4, 8, 80, 3000 << 10, DEVICES_TINY},
	{"combs", {[OP_TRUNCATE] = 10, [OP_PUNCH] = 6, [OP_ZERO] = 6, [OP_RESERVE] = 4, [OP_UNLINK] = 2, [OP_RENAME] = 2,
		   [OP_WRITE] = 8, [OP_OVERWRITE] = 8, [OP_COPY] = 8, [OP_CREATE] = 3, [OP_HOLD] = 3, [OP_RELEASE] = 1, SYNCS},
	 4, 4, 2, 6, 40, 7000 << 10, DEVICES_COMB},
};
const unsigned nprofiles = sizeof(profiles) / sizeof(profiles[0]);

const struct profile *profile_find(const char *name)
{
	for (unsigned i = 0; i < nprofiles; i++) {
		if (!strcmp(profiles[i].name, name))
			return &profiles[i];
	}
	return NULL;
}
