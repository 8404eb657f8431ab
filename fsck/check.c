/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - the order in which a volume is checked, and how findings are made. */
#include "fsck/check_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_EVERY 256

#define FSCK_ROW(name, code, title, severity, text) [FSCK_##name] = {code, title, severity, text},
static const struct fsck_code_info code_infos[FSCK_NCODES] = {FSCK_CODES(FSCK_ROW)};
#undef FSCK_ROW

const struct fsck_code_info *fsck_code_info(enum fsck_code code)
{
	return &code_infos[code];
}

void found(struct check *c, enum fsck_code code, struct where at, const char *fmt, ...)
{
	uint64_t n = ++c->res->count[code];
	char text[400];
	va_list ap;

	if (code_infos[code].severity == FSCK_ERROR)
		c->res->nerrors++;
	else
		c->res->ninfos++;
	if (!c->opts->found || (c->opts->max_per_code && n > c->opts->max_per_code))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	struct fsck_finding f = {
		.code = code,
		.text = text,
		.blkno = at.blkno,
		.ino = at.ino,
		.offset = at.offset,
	};
	c->opts->found(c->opts->arg, &f);
}

int check_tick(struct check *c, unsigned pass, uint64_t done, uint64_t total)
{
	if (c->ticks++ % TICK_EVERY)
		return 0;
	if (c->opts->progress)
		c->opts->progress(c->opts->arg, pass, done < total ? done : total, total);
	return c->opts->cancelled && c->opts->cancelled(c->opts->arg) ? -ECANCELED : 0;
}

void *list_add(struct list *l, size_t item_bytes)
{
	if (l->n == l->cap) {
		uint64_t cap = l->cap ? l->cap + l->cap / 2 : 64;
		void *bigger = reallocarray(l->item, cap, item_bytes);

		if (!bigger)
			return NULL;
		l->item = bigger;
		l->cap = cap;
	}
	return memset((char *)l->item + l->n++ * item_bytes, 0, item_bytes);
}

/* A verifier may say two things, the general one last. */
static void catch_line(void *arg, enum diag_level level, const char *line)
{
	struct catcher *k = arg;
	size_t have = strlen(k->text);

	(void)level;
	snprintf(k->text + have, sizeof(k->text) - have, "%s%s", have ? "; " : "", line);
}

void catcher_init(struct catcher *k)
{
	k->diag = (struct diag){.emit = catch_line, .arg = k};
	k->text[0] = '\0';
}

const char *catcher_reason(const struct catcher *k)
{
	const char *colon = strstr(k->text, ": ");

	/* An item is more than where: "item (5, 1, 0): invalid mode; node at block ...". */
	return colon && strncmp(k->text, "item", 4) != 0 ? colon + 2 : k->text;
}

int check_read(struct check *c, uint64_t blkno, void *block, struct catcher *k)
{
	int err = dev_read(c->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE);

	if (err)
		diag(&k->diag, DIAG_ERR, "block %llu: %s", (unsigned long long)blkno, strerror(-err));
	return err;
}

/* A copy that cannot be written stays a finding: the device is failing there. */
int check_heal(struct check *c, enum fsck_code code, uint64_t blkno, const void *block)
{
	if (!c->opts->heal)
		return 0;
	int err = dev_write(c->q, blkno * BLOCK_SIZE, block, BLOCK_SIZE, DEV_DURABLE);

	if (err == -EIO) {
		diag(c->opts->diag, DIAG_WARNING, "%s: block %llu: the good copy could not be written: %s", c->q->dev->path,
		     (unsigned long long)blkno, strerror(-err));
		return 0;
	}
	if (err)
		return err;
	c->res->nhealed++;
	c->res->healed[code]++;
	return 0;
}

int check_use(struct check *c, uint64_t blkno, uint64_t n, struct where at, const char *what)
{
	uint64_t ndup, first = 0;
	int err = blockset_add(&c->used, blkno, n, &ndup, &first);

	if (err)
		return err;
	c->nused += n - ndup;
	if (ndup)
		found(c, FSCK_SPACE_SHARED, at, "%llu of the blocks %llu..%llu of %s are also used elsewhere, from block %llu on",
		      (unsigned long long)ndup, (unsigned long long)blkno, (unsigned long long)(blkno + n - 1), what,
		      (unsigned long long)first);
	return 0;
}

static int check_open(struct check *c)
{
	c->root = dev_alloc(BLOCK_SIZE, true);
	if (!c->root)
		return -ENOMEM;
	memset(c->res, 0, sizeof(*c->res));
	int err = check_supers(c);
	return err ? err : check_roots(c);
}

static void check_close(struct check *c)
{
	items_free(c);
	data_free(c);
	blockset_fini(&c->used);
	blockset_fini(&c->nodes);
	blockset_fini(&c->logged);
	free(c->recs.item);
	free(c->entries.item);
	free(c->orphans.item);
	free(c->root);
}

static int check_all(struct check *c)
{
	int err = blockset_init(&c->used, &c->sb);

	if (!err)
		err = blockset_init(&c->nodes, &c->sb);
	if (!err)
		err = blockset_init(&c->logged, &c->sb);
	if (!err)
		err = check_journal(c);
	if (!err)
		err = check_tree(c);
	if (!err)
		err = check_names(c);
	if (!err)
		err = check_space(c);
	if (!err && c->opts->try_replay)
		err = check_replay(c);
	return err;
}

int fsck_check_roots(struct dev_queue *q, const struct fsck_opts *opts, struct fsck_result *out)
{
	struct check c = {.q = q, .opts = opts, .res = out};
	int err = check_open(&c);

	check_close(&c);
	return err;
}

int fsck_check(struct dev_queue *q, const struct fsck_opts *opts, struct fsck_result *out)
{
	struct check c = {.q = q, .opts = opts, .res = out};
	int err = check_open(&c);

	if (!err && c.have_root)
		err = check_all(&c);
	check_close(&c);
	return err;
}

int fsck_check_journal(struct dev_queue *q, const struct fsck_opts *opts, struct fsck_result *out)
{
	struct check c = {.q = q, .opts = opts, .res = out};
	int err = check_open(&c);

	if (!err && c.have_root)
		err = blockset_init(&c.logged, &c.sb);
	if (!err && c.have_root)
		err = check_journal(&c);
	check_close(&c);
	return err;
}
