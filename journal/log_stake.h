/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log_stake.h - what a damaged journal would cost, as far as it can still be read: the whole transactions behind the damage, and the
 * files that they change.
 */
#ifndef HOLDFAST_JOURNAL_LOG_STAKE_H
#define HOLDFAST_JOURNAL_LOG_STAKE_H

#include "core/format.h"
#include "journal/log.h"

/* What is remembered; the rest is counted. */
#define STAKE_INODES 1024u
#define STAKE_NAMES  1024u

/* An entry that a transaction makes, or (len 0) deletes or changes: then the name is in the tree, if it is anywhere. */
struct stake_name {
	uint64_t dir, offset;
	uint64_t ino;		/* 0 if not known */
	uint8_t len;
	char name[MAX_NAME + 1];
};

struct log_stake {
	const struct super *sb;
	struct dev *dev;
	uint64_t txns, bytes;	/* whole transactions behind the damage, their frames */
	uint64_t ino[STAKE_INODES];	/* ascending: those whose items change */
	unsigned ninos;
	bool more;		/* there are more inodes or names than are remembered */
	struct stake_name *name;	/* in order of first appearance; dir and offset once */
	unsigned nnames;
};

/* Zeroed and then this. */
void log_stake_init(struct log_stake *s, const struct super *sb, struct dev *dev);
void log_stake_fini(struct log_stake *s);

/* A log_survivor_fn; `arg` is the struct log_stake. */
int log_stake_add(void *arg, const void *payload, uint32_t len, uint64_t end_lsn);

#endif
