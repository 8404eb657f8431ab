/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stake.c - what a damaged journal would cost, by name.
 *
 * The names are those of the state that a truncation would leave: the journal is replayed up to the damage, in memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/check_impl.h"
#include "fsck/paths.h"
#include "journal/log_stake.h"

#define LISTED	   20u
#define MAX_DEPTH  16u		/* new directories in new directories */
#define PATH_BYTES 300		/* what fits a finding */

struct stake {
	struct check *c;
	struct log_stake log;
	struct path_want *want;	/* inodes that change, and directories of entries that do */
	unsigned nwants, listed;
	struct volume *v;	/* NULL: cannot be opened, so numbers must do */
	struct catcher said;	/* what the volume reports, as long as it is open */
};

static const struct path_want *want_of(const struct stake *s, uint64_t ino)
{
	for (unsigned i = 0; i < s->nwants; i++)
		if (s->want[i].ino == ino)
			return &s->want[i];
	return NULL;
}

/* Without the slash at its end.  A directory that is new itself has its name behind the damage, too. */
static bool dir_path(const struct stake *s, uint64_t dir, unsigned depth, char path[PATH_BYTES])
{
	const struct path_want *w = want_of(s, dir);
	size_t at;

	path[0] = '\0';
	if (dir == INO_ROOT)
		return true;
	if (w && w->path)
		return snprintf(path, PATH_BYTES, "%s", w->path) < PATH_BYTES;
	for (unsigned i = 0; depth && i < s->log.nnames; i++) {
		const struct stake_name *n = &s->log.name[i];

		if (n->ino != dir || !n->len || !dir_path(s, n->dir, depth - 1, path))
			continue;
		at = strlen(path);
		return (size_t)snprintf(path + at, PATH_BYTES - at, "/%s", n->name) < PATH_BYTES - at;
	}
	return false;
}

static bool list_one(struct stake *s)
{
	return s->listed++ < LISTED;
}

static void list_name(struct stake *s, const struct stake_name *n)
{
	char name[MAX_NAME + 1];
	uint64_t ino = n->ino;
	bool gone = !n->len;

	memcpy(name, n->name, sizeof(name));
	if (gone && (!s->v || paths_entry(s->v, s->c->q, n->dir, n->offset, name, &ino)))
		return;
	if (!list_one(s))
		return;
	char dir[PATH_BYTES];

	if (dir_path(s, n->dir, MAX_DEPTH, dir))
		found(s->c, FSCK_LOG_STAKE, AT_INO(ino), "journal: at stake: %s/%s (inode %llu)%s", dir, name,
		      (unsigned long long)ino, gone ? ", whose removal or renaming would be undone" : "");
	else
		found(s->c, FSCK_LOG_STAKE, AT_INO(ino), "journal: at stake: \"%s\" in directory inode %llu (inode %llu)", name,
		      (unsigned long long)n->dir, (unsigned long long)ino);
}

/* Shown by one of its names, or as the directory of one? */
static bool is_named(const struct stake *s, uint64_t ino)
{
	for (unsigned i = 0; i < s->log.nnames; i++)
		if (s->log.name[i].ino == ino || s->log.name[i].dir == ino)
			return true;
	return false;
}

static void list_inode(struct stake *s, const struct path_want *w)
{
	if (is_named(s, w->ino) || !list_one(s))
		return;
	if (w->path)
		found(s->c, FSCK_LOG_STAKE, AT_INO(w->ino), "journal: at stake: changes of %s (inode %llu)", w->path,
		      (unsigned long long)w->ino);
	else
		found(s->c, FSCK_LOG_STAKE, AT_INO(w->ino), "journal: at stake: changes of inode %llu", (unsigned long long)w->ino);
}

static int find_paths(struct stake *s)
{
	/* The user's word is asked for before anything is written; this is in memory. */
	struct volume_config cfg = {.flags = VOLUME_READ_ONLY | VOLUME_TRUNCATE_LOG};

	/* Directories of entries are among the inodes: their items are. */
	s->want = calloc(s->log.ninos + 1, sizeof(*s->want));
	if (!s->want)
		return -ENOMEM;
	s->nwants = s->log.ninos;
	for (unsigned i = 0; i < s->nwants; i++)
		s->want[i].ino = s->log.ino[i];
	catcher_init(&s->said);
	if (volume_open(s->c->q, &cfg, &s->said.diag, &s->v)) {
		s->v = NULL;
		return 0;
	}
	return paths_find(s->v, s->c->q, s->want, s->nwants);
}

static int list_all(struct stake *s)
{
	int err = find_paths(s);

	for (unsigned i = 0; !err && i < s->log.nnames; i++)
		list_name(s, &s->log.name[i]);
	for (unsigned i = 0; !err && i < s->nwants; i++)
		list_inode(s, &s->want[i]);
	if (!err && (s->listed > LISTED || s->log.more))
		found(s->c, FSCK_LOG_STAKE, AT_NOWHERE, "journal: at stake: %s%u more", s->log.more ? "at least " : "",
		      s->listed > LISTED ? s->listed - LISTED : 1);
	return err;
}

int check_stake(struct check *c, struct log_reader *r)
{
	struct stake *s = calloc(1, sizeof(*s));
	struct log_tail tail;

	if (!s)
		return -ENOMEM;
	s->c = c;
	log_stake_init(&s->log, &c->sb, c->q->dev);
	int err = log_reader_tail_each(r, &tail, log_stake_add, &s->log);

	c->res->stake_frames = s->log.txns;
	c->res->stake_bytes = s->log.bytes;
	if (!err && s->log.txns)
		err = list_all(s);
	if (s->v)
		volume_close(s->v, c->q);
	for (unsigned i = 0; i < s->nwants; i++)
		free(s->want[i].path);
	free(s->want);
	log_stake_fini(&s->log);
	free(s);
	return err;
}
