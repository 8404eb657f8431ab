/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_fs_rename.c - rename: every kind of thing onto every other with every flag; loops; and random operations beside a
 * model that knows the rules as POSIX words them.
 */
#include "tests/unit/names_rig.h"

static int setup(void **state)
{
	return names_setup(state, 64 * MEGABYTE, 0);
}

static int setup_tiny_cache(void **state)
{
	return names_setup(state, 64 * MEGABYTE, 64 * BLOCK_SIZE);
}

/* --- the matrix --- */

enum kind { NONE, FILE_, DIR_EMPTY, DIR_FULL, SYMLINK, KINDS };
static const unsigned FLAGS[] = {0, RENAME_NOREPLACE, RENAME_EXCHANGE};
static const unsigned ALL_FLAGS[] = {0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_NOREPLACE};

static uint64_t make_kind(struct names *n, uint64_t dir, const char *name, enum kind kind)
{
	uint64_t ino = 0;

	switch (kind) {
	case FILE_:
		return make(n, dir, name, S_IFREG | 0644);
	case SYMLINK:
		return make_symlink(n, dir, name, "target");
	case DIR_EMPTY:
	case DIR_FULL:
		ino = make(n, dir, name, S_IFDIR | 0755);
		if (kind == DIR_FULL)
			make(n, ino, "inside", S_IFDIR | 0755);
		return ino;
	default:
		return 0;
	}
}

static bool kind_is_dir(enum kind k)
{
	return k == DIR_EMPTY || k == DIR_FULL;
}

static int expected(enum kind from, enum kind to, unsigned flags)
{
	if (from == NONE)
		return -ENOENT;
	if (flags == RENAME_EXCHANGE)
		return to == NONE ? -ENOENT : 0;
	if (to == NONE)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (kind_is_dir(from) != kind_is_dir(to))
		return kind_is_dir(from) ? -ENOTDIR : -EISDIR;
	return to == DIR_FULL ? -ENOTEMPTY : 0;
}

static void check_whiteout(struct names *n, uint64_t dir, const char *name)
{
	assert_int_equal(try_lookup(n, dir, name), 0);
	assert_int_equal(n->attr.mode, S_IFCHR);
	assert_int_equal(n->attr.rdev, 0);
	assert_int_equal(n->attr.nlink, 1);
	assert_int_equal(n->attr.size, 0);
	assert_int_equal(n->attr.uid, names_cred.uid);
	assert_int_equal(n->attr.gid, attr_of(n, dir).mode & S_ISGID ? attr_of(n, dir).gid : names_cred.gid);
	assert_int_equal(n->attr.btime.tv_sec, n->clock.tv_sec);
}

static void check_moved(struct names *n, const uint64_t dir[2], uint64_t from, uint64_t to, int err, unsigned flags)
{
	bool exchange = flags == RENAME_EXCHANGE;

	if (!err && flags & RENAME_WHITEOUT)
		check_whiteout(n, dir[0], "a");
	else
		assert_int_equal(ino_of(n, dir[0], "a"), err ? from : exchange ? to : 0);
	assert_int_equal(ino_of(n, dir[1], "b"), err ? to : from);
	if (!err) {
		assert_int_equal(attr_of(n, from).ctime.tv_sec, n->clock.tv_sec);
		assert_int_equal(attr_of(n, dir[0]).mtime.tv_sec, n->clock.tv_sec);
		assert_int_equal(attr_of(n, dir[1]).ctime.tv_sec, n->clock.tv_sec);
	}
	if (!err && exchange)
		assert_int_equal(attr_of(n, to).ctime.tv_sec, n->clock.tv_sec);
	if (!err && !exchange && to)
		assert_int_equal(fs_getattr(n->fs, n->q, to, &n->attr), -ESTALE);
}

static void one_case(struct names *n, enum kind from, enum kind to, unsigned flags, bool same_dir, bool open)
{
	char name[2][16];
	uint64_t dir[2];
	bool exchange = flags == RENAME_EXCHANGE;

	snprintf(name[0], 16, "%llu", (unsigned long long)n->r.v->next_ino);
	dir[0] = dir[1] = make(n, INO_ROOT, name[0], S_IFDIR | 0755);
	if (!same_dir) {
		snprintf(name[1], 16, "%llu", (unsigned long long)n->r.v->next_ino);
		dir[1] = make(n, INO_ROOT, name[1], S_IFDIR | 0755);
	}
	uint64_t a = make_kind(n, dir[0], "a", from), b = make_kind(n, dir[1], "b", to);
	if (open && b)
		assert_int_equal(fs_lookup(n->fs, n->q, dir[1], "b", 1, &n->attr), 0);
	int err = try_rename(n, dir[0], "a", dir[1], "b", flags), want = expected(from, to, flags);

	assert_int_equal(err, want);
	if (open && b) {
		assert_int_equal(attr_of(n, b).nlink == 0, !err && !exchange);
		fs_forget(n->fs, n->q, b, 1);
	}
	check_moved(n, dir, a, b, err, flags);
	names_check(n);
	assert_int_equal(known(n), 0);
}

static void the_matrix(void **state)
{
	struct names *n = *state;

	for (unsigned from = NONE; from < KINDS; from++)
		for (unsigned to = NONE; to < KINDS; to++)
			for (unsigned f = 0; f < 5; f++)
				for (unsigned how = 0; how < 4; how++)
					one_case(n, from, to, ALL_FLAGS[f], how & 1, how & 2);
}

/* Owner and group are those of any new file; it is durable with the rename, and can be renamed, replaced and removed as others. */
static void whiteouts_are_files(void **state)
{
	struct names *n = *state;
	struct fs_attr own = {.gid = 4711};
	uint64_t dir = make(n, INO_ROOT, "d", S_IFDIR | S_ISGID | 0755), ninodes = n->r.v->ninodes;

	assert_int_equal(fs_setattr(n->fs, n->q, dir, FS_SET_GID, &own, &n->attr), 0);
	uint64_t file = make(n, dir, "f", S_IFREG | 0644), txns = n->r.v->stats.txns;
	assert_int_equal(try_rename(n, dir, "f", INO_ROOT, "g", RENAME_WHITEOUT), 0);
	assert_int_equal(n->r.v->stats.txns, txns + 1);
	check_whiteout(n, dir, "f");
	assert_int_equal(attr_of(n, dir).size, 1);
	assert_int_equal(n->r.v->ninodes, ninodes + 2);
	names_sync(n);
	names_crash(n, 7);
	assert_int_equal(ino_of(n, INO_ROOT, "g"), file);
	assert_int_equal(try_lookup(n, dir, "f"), 0);
	assert_int_equal(n->attr.mode, S_IFCHR);
	assert_int_equal(try_rename(n, dir, "f", dir, "w", 0), 0);
	assert_int_equal(try_rename(n, INO_ROOT, "g", dir, "w", RENAME_WHITEOUT), 0);
	assert_int_equal(ino_of(n, dir, "w"), file);
	check_whiteout(n, INO_ROOT, "g");
	assert_int_equal(try_unlink(n, INO_ROOT, "g"), 0);
	assert_int_equal(n->r.v->ninodes, ninodes + 1);
	assert_int_equal(known(n), 0);
}

/* --- the rest of the rules --- */

static void odd_arguments(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "d", S_IFDIR | 0755), file = make(n, dir, "f", S_IFREG | 0644);

	assert_int_equal(try_rename(n, dir, "f", dir, "g", RENAME_WHITEOUT | RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(try_rename(n, dir, "f", dir, "g", RENAME_NOREPLACE | RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(try_rename(n, dir, "f", dir, "g", 64), -EINVAL);
	assert_int_equal(try_rename(n, dir, ".", dir, "g", 0), -EBUSY);
	assert_int_equal(try_rename(n, dir, "..", dir, "g", 0), -EBUSY);
	assert_int_equal(try_rename(n, dir, "f", dir, ".", 0), -EBUSY);
	assert_int_equal(try_rename(n, dir, "f", dir, "..", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(try_rename(n, dir, "f", dir, "", 0), -EINVAL);
	assert_int_equal(try_rename(n, dir, "", dir, "g", 0), -EINVAL);
	assert_int_equal(try_rename(n, dir, "f", dir, "a/b", 0), -EINVAL);
	char longer[257];
	memset(longer, 'x', 256);
	longer[256] = 0;
	assert_int_equal(try_rename(n, dir, "f", dir, longer, 0), -ENAMETOOLONG);
	assert_int_equal(try_rename(n, dir, longer, dir, "g", 0), -ENAMETOOLONG);
	assert_int_equal(try_rename(n, file, "f", dir, "g", 0), -ENOTDIR);
	assert_int_equal(try_rename(n, dir, "f", file, "g", 0), -ENOTDIR);
	assert_int_equal(try_rename(n, dir, "f", 777, "g", 0), -ESTALE);
	assert_int_equal(try_rename(n, 777, "f", dir, "g", 0), -ESTALE);
	assert_int_equal(ino_of(n, dir, "f"), file);
}

static void two_names_of_one_inode(void **state)
{
	struct names *n = *state;
	uint64_t dir = make(n, INO_ROOT, "d", S_IFDIR | 0755), file = make(n, dir, "a", S_IFREG | 0644);

	assert_int_equal(try_link(n, file, INO_ROOT, "b"), 0);
	uint64_t txns = n->r.v->stats.txns;
	assert_int_equal(try_rename(n, dir, "a", INO_ROOT, "b", 0), 0);
	assert_int_equal(try_rename(n, dir, "a", dir, "a", 0), 0);
	assert_int_equal(try_rename(n, INO_ROOT, "d", INO_ROOT, "d", 0), 0);
	assert_int_equal(try_rename(n, INO_ROOT, "d", INO_ROOT, "d", RENAME_EXCHANGE), 0);
	assert_int_equal(try_rename(n, dir, "a", INO_ROOT, "b", RENAME_EXCHANGE), 0);
	assert_int_equal(try_rename(n, dir, "a", INO_ROOT, "b", RENAME_WHITEOUT), 0);
	assert_int_equal(try_rename(n, dir, "a", INO_ROOT, "b", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(try_rename(n, dir, "a", dir, "a", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(n->r.v->stats.txns, txns);
	assert_int_equal(attr_of(n, file).nlink, 2);
	assert_int_equal(ino_of(n, dir, "a"), file);
	assert_int_equal(ino_of(n, INO_ROOT, "b"), file);
	/* Replacing one of two names leaves the other. */
	make(n, INO_ROOT, "c", S_IFREG | 0644);
	assert_int_equal(try_rename(n, INO_ROOT, "c", INO_ROOT, "b", 0), 0);
	assert_int_equal(attr_of(n, file).nlink, 1);
}

static void no_directory_below_itself(void **state)
{
	struct names *n = *state;
	uint64_t a = make(n, INO_ROOT, "a", S_IFDIR | 0755), b = make(n, a, "b", S_IFDIR | 0755);
	uint64_t c = make(n, b, "c", S_IFDIR | 0755), e = make(n, INO_ROOT, "e", S_IFDIR | 0755);

	assert_int_equal(try_rename(n, INO_ROOT, "a", a, "x", 0), -EINVAL);
	assert_int_equal(try_rename(n, INO_ROOT, "a", b, "x", 0), -EINVAL);
	assert_int_equal(try_rename(n, INO_ROOT, "a", c, "x", 0), -EINVAL);
	assert_int_equal(try_rename(n, INO_ROOT, "a", b, "c", 0), -EINVAL);
	/* Onto an ancestor. */
	assert_int_equal(try_rename(n, b, "c", INO_ROOT, "a", 0), -ENOTEMPTY);
	assert_int_equal(try_rename(n, b, "c", a, "b", 0), -ENOTEMPTY);
	assert_int_equal(try_rename(n, b, "c", INO_ROOT, "a", RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(try_rename(n, INO_ROOT, "a", b, "c", RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(try_rename(n, b, "c", a, "b", RENAME_EXCHANGE), -EINVAL);
	make(n, c, "file", S_IFREG | 0644);
	assert_int_equal(try_rename(n, c, "file", INO_ROOT, "a", RENAME_EXCHANGE), -EINVAL);
	assert_int_equal(try_rename(n, c, "file", a, "b", 0), -EISDIR);
	/* What is allowed, and where ".." leads then. */
	assert_int_equal(try_rename(n, b, "c", INO_ROOT, "e", RENAME_EXCHANGE), 0);
	assert_int_equal(ino_of(n, c, ".."), INO_ROOT);
	assert_int_equal(ino_of(n, e, ".."), b);
	assert_int_equal(try_rename(n, a, "b", INO_ROOT, "b", 0), 0);
	assert_int_equal(try_rename(n, INO_ROOT, "a", b, "a", 0), 0);
	assert_int_equal(ino_of(n, a, ".."), b);
	assert_int_equal(try_rename(n, INO_ROOT, "b", a, "b", 0), -EINVAL);
	names_reopen(n);
	assert_int_equal(ino_of(n, a, ".."), b);
}

/* 300 levels, more nodes than the tiny cache holds: the walk up must come to an end all the same. */
static void deep_paths(void **state)
{
	struct names *n = *state;
	uint64_t top = make(n, INO_ROOT, "top", S_IFDIR | 0755), dir = top, from = INO_ROOT;
	char pad[200] = {0};

	for (unsigned i = 0; i < 300; i++) {
		dir = make(n, dir, "d", S_IFDIR | 0755);
		/* So that no two directories share a leaf. */
		for (unsigned k = 0; k < 16; k++) {
			memset(pad, 'a' + (char)k, sizeof(pad) - 1);
			make(n, dir, pad, S_IFREG | 0644);
		}
	}
	names_reopen(n);
	assert_int_equal(try_rename(n, INO_ROOT, "top", dir, "x", 0), -EINVAL);
	from = make(n, INO_ROOT, "from", S_IFDIR | 0755);
	assert_int_equal(try_rename(n, INO_ROOT, "from", dir, "x", 0), 0);
	assert_int_equal(ino_of(n, from, ".."), dir);
	assert_int_equal(try_rename(n, INO_ROOT, "top", from, "x", 0), -EINVAL);
}

/* --- random operations beside a model --- */

#define NODES 24
#define SLOTS 5

struct mnode {
	uint64_t ino; /* 0: unused */
	bool is_dir;
	int parent;
	int entry[SLOTS]; /* directories: node by name "0".."4", -1 none */
	unsigned nlink;
};

struct model {
	struct mnode node[NODES];
	uint64_t seed;
};

static unsigned pick(struct model *m, unsigned n)
{
	m->seed = m->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (unsigned)(m->seed >> 33) % n;
}

static int pick_dir(struct model *m)
{
	for (;;) {
		int i = (int)pick(m, NODES);

		if (m->node[i].ino && m->node[i].is_dir)
			return i;
	}
}

static bool model_empty(const struct model *m, int i)
{
	for (unsigned s = 0; s < SLOTS; s++) {
		if (m->node[i].entry[s] >= 0)
			return false;
	}
	return true;
}

static bool model_inside(const struct model *m, int i, int top)
{
	while (i != top && i != 0)
		i = m->node[i].parent;
	return i == top;
}

static void model_drop(struct model *m, int i)
{
	if (m->node[i].is_dir || --m->node[i].nlink == 0)
		m->node[i].ino = 0;
}

static void name_of(unsigned slot, char *name)
{
	name[0] = (char)('0' + slot);
	name[1] = 0;
}

static void do_create(struct names *n, struct model *m)
{
	int dir = pick_dir(m), i = 0;
	unsigned slot = pick(m, SLOTS);
	bool is_dir = pick(m, 2);
	char name[2];

	while (i < NODES && m->node[i].ino)
		i++;
	if (i == NODES)
		return;
	name_of(slot, name);
	int err = try_create(n, m->node[dir].ino, name, is_dir ? S_IFDIR | 0755 : S_IFREG | 0644);
	assert_int_equal(err, m->node[dir].entry[slot] >= 0 ? -EEXIST : 0);
	if (err)
		return;
	fs_forget(n->fs, n->q, n->attr.ino, 1);
	m->node[i] = (struct mnode){.ino = n->attr.ino, .is_dir = is_dir, .parent = dir, .nlink = 1};
	memset(m->node[i].entry, -1, sizeof(m->node[i].entry));
	m->node[dir].entry[slot] = i;
}

static void do_link(struct names *n, struct model *m)
{
	int dir = pick_dir(m), i = (int)pick(m, NODES), want = 0;
	unsigned slot = pick(m, SLOTS);
	char name[2];

	if (!m->node[i].ino)
		return;
	name_of(slot, name);
	if (m->node[i].is_dir)
		want = -EPERM;
	else if (m->node[dir].entry[slot] >= 0)
		want = -EEXIST;
	assert_int_equal(try_link(n, m->node[i].ino, m->node[dir].ino, name), want);
	if (want)
		return;
	m->node[i].nlink++;
	m->node[dir].entry[slot] = i;
}

static void do_remove(struct names *n, struct model *m)
{
	int dir = pick_dir(m), want = 0;
	unsigned slot = pick(m, SLOTS);
	bool rmdir = pick(m, 2);
	int i = m->node[dir].entry[slot];
	char name[2];

	name_of(slot, name);
	if (i < 0)
		want = -ENOENT;
	else if (m->node[i].is_dir != rmdir)
		want = rmdir ? -ENOTDIR : -EISDIR;
	else if (rmdir && !model_empty(m, i))
		want = -ENOTEMPTY;
	assert_int_equal(rmdir ? try_rmdir(n, m->node[dir].ino, name) : try_unlink(n, m->node[dir].ino, name),
			 want);
	if (want)
		return;
	m->node[dir].entry[slot] = -1;
	model_drop(m, i);
}

static int model_rename_error(const struct model *m, int d0, int a, int d1, int b, unsigned flags)
{
	if (a < 0)
		return -ENOENT;
	if (b >= 0 && flags == RENAME_NOREPLACE)
		return -EEXIST;
	if (b < 0 && flags == RENAME_EXCHANGE)
		return -ENOENT;
	if (m->node[a].is_dir && d0 != d1 && model_inside(m, d1, a))
		return -EINVAL;
	if (flags == RENAME_EXCHANGE && m->node[b].is_dir && d0 != d1 && model_inside(m, d0, b))
		return -EINVAL;
	if (b < 0 || a == b || flags == RENAME_EXCHANGE)
		return 0;
	if (m->node[a].is_dir != m->node[b].is_dir)
		return m->node[a].is_dir ? -ENOTDIR : -EISDIR;
	return m->node[b].is_dir && !model_empty(m, b) ? -ENOTEMPTY : 0;
}

static void do_rename(struct names *n, struct model *m)
{
	int d0 = pick_dir(m), d1 = pick_dir(m);
	unsigned s0 = pick(m, SLOTS), s1 = pick(m, SLOTS), flags = FLAGS[pick(m, 3)];
	int a = m->node[d0].entry[s0], b = m->node[d1].entry[s1];
	int want = model_rename_error(m, d0, a, d1, b, flags);
	char from[2], to[2];

	name_of(s0, from);
	name_of(s1, to);
	assert_int_equal(try_rename(n, m->node[d0].ino, from, m->node[d1].ino, to, flags), want);
	if (want || a == b)
		return;
	bool exchange = flags == RENAME_EXCHANGE;
	m->node[d0].entry[s0] = exchange ? b : -1;
	m->node[d1].entry[s1] = a;
	m->node[a].parent = d1;
	if (exchange)
		m->node[b].parent = d0;
	else if (b >= 0)
		model_drop(m, b);
}

static void compare(struct names *n, const struct model *m)
{
	for (unsigned i = 0; i < NODES; i++) {
		const struct mnode *node = &m->node[i];

		if (!node->ino)
			continue;
		struct fs_attr a = attr_of(n, node->ino);
		assert_int_equal(S_ISDIR(a.mode), node->is_dir);
		if (!node->is_dir) {
			assert_int_equal(a.nlink, node->nlink);
			continue;
		}
		for (unsigned s = 0; s < SLOTS; s++) {
			char name[2];

			name_of(s, name);
			assert_int_equal(ino_of(n, node->ino, name),
					 node->entry[s] < 0 ? 0 : m->node[node->entry[s]].ino);
		}
		assert_int_equal(ino_of(n, node->ino, ".."), i ? m->node[node->parent].ino : INO_ROOT);
	}
	names_check(n);
}

static void random_operations(void **state)
{
	struct names *n = *state;

	for (uint64_t seed = 1; seed <= 5; seed++) {
		struct model m = {.seed = seed};
		char name[16];

		snprintf(name, sizeof(name), "seed%u", (unsigned)seed);
		m.node[0] = (struct mnode){.ino = make(n, INO_ROOT, name, S_IFDIR | 0755), .is_dir = true};
		memset(m.node[0].entry, -1, sizeof(m.node[0].entry));
		for (unsigned i = 1; i <= 1500; i++) {
			void (*const op[])(struct names *, struct model *) = {do_create, do_create, do_link,
									      do_remove, do_rename, do_rename,
									      do_rename};

			op[pick(&m, 7)](n, &m);
			if (i % 100 == 0)
				compare(n, &m);
			if (i % 500 == 0)
				names_reopen(n);
		}
	}
}

int main(void)
{
#define WITH(test, how) cmocka_unit_test_setup_teardown(test, how, names_teardown)
	const struct CMUnitTest tests[] = {
		WITH(the_matrix, setup),
		WITH(whiteouts_are_files, setup),
		WITH(odd_arguments, setup),
		WITH(two_names_of_one_inode, setup),
		WITH(no_directory_below_itself, setup),
		WITH(deep_paths, setup),
		WITH(deep_paths, setup_tiny_cache),
		WITH(random_operations, setup),
		WITH(random_operations, setup_tiny_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
