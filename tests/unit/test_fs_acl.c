/* SPDX-License-Identifier: Apache-2.0 */
/* test_fs_acl.c - ACLs of inodes: what is kept, how modes and ACLs follow each other, what new inodes inherit. */
#include <sys/xattr.h>

#include "tests/unit/names_rig.h"

#include "fs/acl.h"

static int setup(void **state)
{
	return names_setup(state, 64 * MEGABYTE, 0);
}

/* --- ACLs as text: "o7 u5:1000 g4 G6:50 m7 r0" --- */

static size_t bytes_of(const char *text, uint8_t out[ACL_MAX_BYTES])
{
	static const char letters[] = "ougGmr";
	static const uint16_t tags[] = {ACL_TAG_OWNER, ACL_TAG_USER, ACL_TAG_GROUP_OBJ, ACL_TAG_GROUP, ACL_TAG_MASK, ACL_TAG_OTHER};
	struct acl acl = {.n = 0};

	while (*text) {
		struct acl_entry *e = &acl.entry[acl.n++];
		char *end;

		e->tag = tags[strchr(letters, *text) - letters];
		e->perm = (uint16_t)strtoul(text + 1, &end, 10);
		e->id = *end == ':' ? (uint32_t)strtoul(end + 1, &end, 10) : ACL_NO_ID;
		text = *end ? end + 1 : end;
	}
	return acl_encode(&acl, out);
}

static int set_acl(struct names *n, uint64_t ino, const char *name, const char *text, int flags)
{
	uint8_t val[ACL_MAX_BYTES];

	return fs_setxattr(n->fs, n->q, ino, name, val, bytes_of(text, val), flags);
}

/* NULL: there is none. */
static void check_acl(struct names *n, uint64_t ino, const char *name, const char *text)
{
	uint8_t val[ACL_MAX_BYTES], want[ACL_MAX_BYTES];
	size_t len = sizeof(val);
	int err = fs_getxattr(n->fs, n->q, ino, name, val, &len);

	if (!text) {
		assert_int_equal(err, -ENODATA);
		return;
	}
	assert_int_equal(err, 0);
	assert_int_equal(len, bytes_of(text, want));
	if (memcmp(val, want, len)) {
		struct acl acl;
		assert_int_equal(acl_decode(val, len, &acl), 0);
		for (unsigned i = 0; i < acl.n; i++)
			print_message("tag %x perm %u id %u\n", acl.entry[i].tag, acl.entry[i].perm, acl.entry[i].id);
		fail_msg("%s is not %s", name, text);
	}
}

static void check_file(struct names *n, uint64_t ino, uint32_t mode, const char *access, const char *deflt)
{
	struct fs_attr attr = attr_of(n, ino);

	if ((attr.mode & 07777) != mode)
		fail_msg("mode %o, not %o", attr.mode & 07777, mode);
	check_acl(n, ino, ACL_NAME_ACCESS, access);
	check_acl(n, ino, ACL_NAME_DEFAULT, deflt);
}

static uint64_t make_as(struct names *n, uint64_t dir, const char *name, uint32_t mode, uint32_t umask)
{
	struct fs_cred cred = {.uid = 1000, .gid = 100, .umask = umask};

	assert_int_equal(fs_create(n->fs, n->q, &cred, dir, name, strlen(name), mode, 0, &n->attr), 0);
	fs_forget(n->fs, n->q, n->attr.ino, 1);
	return n->attr.ino;
}

static int chmod_to(struct names *n, uint64_t ino, uint32_t mode)
{
	struct fs_attr in = {.mode = mode}, out;

	return fs_setattr(n->fs, n->q, ino, FS_SET_MODE, &in, &out);
}

/* --- tests --- */

static void setting(void **state)
{
	struct names *n = *state;
	uint64_t f = make(n, INO_ROOT, "f", S_IFREG | 06644);

	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o7 u5:1000 g4 m6 r1", 0), 0);
	check_file(n, f, 06761, "o7 u5:1000 g4 m6 r1", NULL);
	/* Nothing that the mode does not say: not kept. */
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o6 g4 r0", 0), 0);
	check_file(n, f, 06640, NULL, NULL);
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o6 g2 r1", 0), 0);
	check_file(n, f, 06621, NULL, NULL);
	/* Removal leaves the mode. */
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o7 g4 m6 r1", 0), 0);
	assert_int_equal(fs_removexattr(n->fs, n->q, f, ACL_NAME_ACCESS), 0);
	check_file(n, f, 06761, NULL, NULL);
	assert_int_equal(fs_removexattr(n->fs, n->q, f, ACL_NAME_ACCESS), -ENODATA);
	/* By someone who is not in the group. */
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o7 g4 m6 r1", FS_XATTR_KILL_SGID), 0);
	check_file(n, f, 04761, "o7 g4 m6 r1", NULL);
	assert_int_equal(chmod_to(n, f, 02761), 0);
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o7 g6 r1", FS_XATTR_KILL_SGID), 0);
	check_file(n, f, 00761, NULL, NULL);
	/* Others' attributes stay what they are. */
	assert_int_equal(chmod_to(n, f, 02761), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, f, "user.x", "1", 1, FS_XATTR_KILL_SGID), 0);
	check_file(n, f, 02761, NULL, NULL);
	names_reopen(n);
	check_file(n, f, 02761, NULL, NULL);
}

static void flags_and_types(void **state)
{
	struct names *n = *state;
	uint64_t f = make(n, INO_ROOT, "f", S_IFREG | 0644), d = make(n, INO_ROOT, "d", S_IFDIR | 0755);
	uint64_t l = make_symlink(n, INO_ROOT, "l", "x"), p = make(n, INO_ROOT, "p", S_IFIFO | 0600);

	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o6 g4 m4 r0", XATTR_REPLACE), -ENODATA);
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o6 g4 m4 r0", XATTR_CREATE), 0);
	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o7 g4 m4 r0", XATTR_CREATE), -EEXIST);
	check_file(n, f, 0640, "o6 g4 m4 r0", NULL);
	assert_int_equal(set_acl(n, f, ACL_NAME_DEFAULT, "o7 g4 r0", 0), -EACCES);
	assert_int_equal(set_acl(n, p, ACL_NAME_DEFAULT, "o7 g4 r0", 0), -EACCES);
	assert_int_equal(set_acl(n, p, ACL_NAME_ACCESS, "o7 g4 m4 r0", 0), 0);
	check_file(n, p, 0740, "o7 g4 m4 r0", NULL);
	assert_int_equal(set_acl(n, l, ACL_NAME_ACCESS, "o7 g4 m4 r0", 0), -EOPNOTSUPP);
	assert_int_equal(set_acl(n, l, ACL_NAME_DEFAULT, "o7 g4 r0", 0), -EOPNOTSUPP);
	assert_int_equal(chmod_to(n, l, 0777), 0);
	/* A default ACL is kept as it is, and is no matter of the mode's. */
	assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o0 g0 r0", FS_XATTR_KILL_SGID), 0);
	check_file(n, d, 0755, NULL, "o0 g0 r0");
	assert_int_equal(chmod_to(n, d, 02700), 0);
	check_file(n, d, 02700, NULL, "o0 g0 r0");
	assert_int_equal(fs_removexattr(n->fs, n->q, d, ACL_NAME_DEFAULT), 0);
	check_file(n, d, 02700, NULL, NULL);
}

static void hostile_values(void **state)
{
	struct names *n = *state;
	uint64_t d = make(n, INO_ROOT, "d", S_IFDIR | 02755);
	uint8_t val[ACL_MAX_BYTES + 8] = {2};
	static const char *const bad[] = {"o7", "o7 u5:1 g5 r0", "o7 g5", "g5 r5", "o9 g0 r0", "o7 g5 r0 r0"};

	for (unsigned k = 0; k < 2; k++) {
		const char *name = k ? ACL_NAME_DEFAULT : ACL_NAME_ACCESS;

		for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
			assert_int_equal(set_acl(n, d, name, bad[i], 0), -EINVAL);
		assert_int_equal(fs_setxattr(n->fs, n->q, d, name, "", 0, 0), -EINVAL);
		assert_int_equal(fs_setxattr(n->fs, n->q, d, name, val, 4, 0), -EINVAL);
		assert_int_equal(fs_setxattr(n->fs, n->q, d, name, val, 11, 0), -EINVAL);
		assert_int_equal(fs_setxattr(n->fs, n->q, d, name, val, sizeof(val), 0), -E2BIG);
	}
	check_file(n, d, 02755, NULL, NULL);
}

static void chmod_in_step(void **state)
{
	struct names *n = *state;
	uint64_t f = make(n, INO_ROOT, "f", S_IFREG | 0644);
	struct fs_attr in = {.mode = 0604, .size = 5000}, out;

	assert_int_equal(set_acl(n, f, ACL_NAME_ACCESS, "o6 u7:1 g4 G1:9 m6 r0", 0), 0);
	assert_int_equal(chmod_to(n, f, 04751), 0);
	check_file(n, f, 04751, "o7 u7:1 g4 G1:9 m5 r1", NULL);
	/* The same mode: nothing to do. */
	assert_int_equal(chmod_to(n, f, 0751), 0);
	check_file(n, f, 0751, "o7 u7:1 g4 G1:9 m5 r1", NULL);
	/* Together with a size, up and down, inline and not. */
	for (unsigned i = 0; i < 6; i++) {
		static const uint64_t sizes[] = {100, 5000, 20000, 4000, 7, 0};

		in.size = sizes[i];
		in.mode = 0600 + i;
		assert_int_equal(fs_setattr(n->fs, n->q, f, FS_SET_MODE | FS_SET_SIZE, &in, &out), 0);
		char want[64];
		snprintf(want, sizeof(want), "o6 u7:1 g4 G1:9 m0 r%u", i);
		check_file(n, f, 0600 + i, want, NULL);
		assert_int_equal(out.size, sizes[i]);
	}
	/* Nothing but a chmod touches it. */
	in.uid = 7;
	in.gid = 8;
	assert_int_equal(fs_setattr(n->fs, n->q, f, FS_SET_UID | FS_SET_GID | FS_SET_SIZE, &in, &out), 0);
	check_file(n, f, 0605, "o6 u7:1 g4 G1:9 m0 r5", NULL);
	names_reopen(n);
	check_file(n, f, 0605, "o6 u7:1 g4 G1:9 m0 r5", NULL);
}

static void umask_without(void **state)
{
	struct names *n = *state;

	for (uint32_t umask = 0; umask <= 0777; umask += 033) {
		char name[32];

		sprintf(name, "f%o", umask);
		check_file(n, make_as(n, INO_ROOT, name, S_IFREG | 06777, umask), 06777 & ~umask, NULL, NULL);
		sprintf(name, "d%o", umask);
		check_file(n, make_as(n, INO_ROOT, name, S_IFDIR | 01777, umask), 01777 & ~umask, NULL, NULL);
	}
	/* Links have no permissions. */
	struct fs_cred cred = {.uid = 1, .gid = 1, .umask = 077};
	assert_int_equal(fs_symlink(n->fs, n->q, &cred, INO_ROOT, "l", 1, "x", &n->attr), 0);
	fs_forget(n->fs, n->q, n->attr.ino, 1);
	assert_int_equal(n->attr.mode & 07777, 0777);
}

/* Default ACLs of the directory x modes asked for x umasks x types, by the rule as acl(5) words it. */
static void inheritance(void **state)
{
	static const char *const defaults[] = {
		"o7 g5 r0", "o7 g7 r7", "o0 g0 r0", "o4 g2 r1", "o7 u7:1 g5 m7 r5", "o7 u6:1 g0 G7:2 m5 r4", "o6 g7 m0 r6", "o7 g1 m6 r7",
	};
	static const uint32_t modes[] = {0, 0777, 0666, 0644, 0600, 0751, 02755, 04711};
	static const uint32_t types[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFSOCK, S_IFCHR};
	struct names *n = *state;

	for (unsigned i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++) {
		char name[64];
		uint8_t val[ACL_MAX_BYTES];
		struct acl dir;

		sprintf(name, "dir%u", i);
		uint64_t parent = make(n, INO_ROOT, name, S_IFDIR | 0755);
		assert_int_equal(set_acl(n, parent, ACL_NAME_DEFAULT, defaults[i], 0), 0);
		assert_int_equal(acl_decode(val, bytes_of(defaults[i], val), &dir), 0);
		/* Known to somebody, or not. */
		if (i % 2)
			assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, name, strlen(name), &n->attr), 0);
		for (unsigned k = 0; k < 8 * 5 * 2; k++) {
			uint32_t type = types[k % 5], asked = modes[k / 5 % 8], umask = k / 40 ? 077 : 0;
			uint32_t bits = dir.entry[0].perm << 6 | dir.entry[dir.n - 1].perm;

			bits |= (uint32_t)dir.entry[dir.n - 2].perm << 3; /* the mask, or the group */
			uint32_t mode = (asked & 07000) | (asked & bits);
			char access[128], *p = access;
			static const char letter[] = {[1] = 'o', [2] = 'u', [4] = 'g', [8] = 'G', [0x10] = 'm', [0x20] = 'r'};

			for (unsigned e = 0; e < dir.n; e++) {
				const struct acl_entry *en = &dir.entry[e];
				unsigned perm = en->perm;

				if (e == 0)
					perm &= asked >> 6;
				else if (e == dir.n - 2)
					perm &= asked >> 3;
				else if (e == dir.n - 1)
					perm &= asked;
				p += sprintf(p, "%s%c%u", e ? " " : "", letter[en->tag], perm);
				if (en->id != ACL_NO_ID)
					p += sprintf(p, ":%u", en->id);
			}
			sprintf(name, "n%u", k);
			uint64_t ino = make_as(n, parent, name, type | asked, umask);
			check_file(n, ino, mode, dir.n > 3 ? access : NULL, type == S_IFDIR ? defaults[i] : NULL);
		}
		assert_int_equal(fs_symlink(n->fs, n->q, &names_cred, parent, "l", 1, "x", &n->attr), 0);
		fs_forget(n->fs, n->q, n->attr.ino, 1);
		check_file(n, n->attr.ino, 0777, NULL, NULL);
	}
	names_reopen(n);
	check_file(n, ino_of(n, ino_of(n, INO_ROOT, "dir4"), "n1"), 0, "o0 u7:1 g5 m0 r0", "o7 u7:1 g5 m7 r5");
}

/* What is remembered of directories stays right whatever happens to the ACL. */
static void default_comes_and_goes(void **state)
{
	struct names *n = *state;
	unsigned serial = 0;

	for (unsigned round = 0; round < 4; round++) {
		char name[32];

		sprintf(name, "d%u", round);
		uint64_t d = make(n, INO_ROOT, name, S_IFDIR | 0755);
		/* In the odd rounds known throughout. */
		if (round & 1)
			assert_int_equal(fs_lookup(n->fs, n->q, INO_ROOT, name, strlen(name), &n->attr), 0);
		for (unsigned i = 0; i < 12; i++) {
			bool has = i % 2;

			if (i && has)
				assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o7 u1:1 g1 m7 r0", 0), 0);
			else if (i)
				assert_int_equal(fs_removexattr(n->fs, n->q, d, ACL_NAME_DEFAULT), 0);
			/* What fails changes nothing of it. */
			assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o7 g1 r0", has ? XATTR_CREATE : XATTR_REPLACE),
					 has ? -EEXIST : -ENODATA);
			if (round == 2 && i == 5)
				names_reopen(n);
			sprintf(name, "f%u", serial++);
			check_file(n, make_as(n, d, name, S_IFREG | 0666, 022), has ? 0660 : 0644,
				   has ? "o6 u1:1 g1 m6 r0" : NULL, NULL);
		}
	}
	/* A directory that inherits one has it at once, for its own children. */
	uint64_t d = ino_of(n, INO_ROOT, "d1");
	assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o7 g0 r0", 0), 0);
	assert_int_equal(try_create(n, d, "sub", S_IFDIR | 0777), 0);
	uint64_t sub = n->attr.ino;
	check_file(n, sub, 0700, NULL, "o7 g0 r0");
	check_file(n, make_as(n, sub, "f", S_IFREG | 0666, 0), 0600, NULL, NULL);
	fs_forget(n->fs, n->q, sub, 1);
}

/* Values of several items: as many entries as there can be. */
static void longest(void **state)
{
	struct names *n = *state;
	uint64_t d = make(n, INO_ROOT, "d", S_IFDIR | 0755);
	char *text = malloc(16 * ACL_MAX_ENTRIES), *p = text + sprintf(text, "o7 ");

	for (unsigned i = 4; i < ACL_MAX_ENTRIES; i++)
		p += sprintf(p, "u7:%u ", i);
	sprintf(p, "g5 m7 r5");
	assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, text, 0), 0);
	assert_int_equal(set_acl(n, d, ACL_NAME_ACCESS, text, 0), 0);
	check_file(n, d, 0775, text, text);
	uint64_t sub = make_as(n, d, "sub", S_IFDIR | 0777, 077);
	names_reopen(n);
	check_file(n, sub, 0775, text, text);
	assert_int_equal(chmod_to(n, sub, 0705), 0);
	sprintf(p, "g5 m0 r5");
	check_acl(n, sub, ACL_NAME_ACCESS, text);
	assert_int_equal(set_acl(n, sub, ACL_NAME_ACCESS, "o7 g0 r0", 0), 0);
	check_acl(n, sub, ACL_NAME_ACCESS, NULL);
	free(text);
}

/* A value that no setxattr() would have let pass, as a hostile image may hold it. */
static int poison_step(struct fs *fs, struct dev_queue *q, void *arg, struct miss *miss)
{
	const uint64_t ino = *(const uint64_t *)arg;
	static const char *const names[] = {ACL_NAME_ACCESS, ACL_NAME_DEFAULT};
	struct txn t;

	txn_begin(&t, fs->v);
	for (unsigned i = 0; i < 2; i++) {
		struct xattr_pos pos = {.offset = xattr_first_place(fs, names[i], 0)};

		xattr_record(&t, ino, names[i], (const uint8_t *)"\2\0\0\0\1\0\7\0\xff\xff\xff\xff", 12, &pos);
	}
	int err = txn_commit(&t, q, 0, miss, NULL, NULL);
	txn_end(&t);
	return err;
}

static void damaged(void **state)
{
	struct names *n = *state;
	uint64_t d = make(n, INO_ROOT, "d", S_IFDIR | 0755);
	uint8_t buf[64];
	size_t len = sizeof(buf);

	assert_int_equal(fs_run(n->fs, n->q, poison_step, &d), 0);
	assert_int_equal(fs_getxattr(n->fs, n->q, d, ACL_NAME_ACCESS, buf, &len), -EUCLEAN);
	assert_int_equal(fs_getxattr(n->fs, n->q, d, ACL_NAME_DEFAULT, buf, &len), -EUCLEAN);
	assert_int_equal(chmod_to(n, d, 0700), -EUCLEAN);
	assert_int_equal(try_create(n, d, "f", S_IFREG | 0644), -EUCLEAN);
	assert_int_equal(attr_of(n, d).mode & 07777, 0755);
	/* There is a way out. */
	assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o7 g0 r0", 0), 0);
	assert_int_equal(fs_removexattr(n->fs, n->q, d, ACL_NAME_ACCESS), 0);
	assert_int_equal(chmod_to(n, d, 0700), 0);
	check_file(n, d, 0700, NULL, "o7 g0 r0");
	check_file(n, make_as(n, d, "f", S_IFREG | 0644, 0), 0600, NULL, NULL);
}

static size_t listed(struct names *n, uint64_t ino, bool trusted, char *list, size_t room)
{
	size_t len = 0, again = room;

	assert_int_equal(fs_listxattr(n->fs, n->q, ino, trusted, NULL, &len), 0);
	assert_int_equal(fs_listxattr(n->fs, n->q, ino, trusted, list, &again), 0);
	assert_int_equal(len, again);
	unsigned count = 0;
	for (size_t at = 0; at < len; at += strlen(list + at) + 1)
		count++;
	return count;
}

static void without_acls(void **state)
{
	struct names *n = *state;
	uint64_t d = make(n, INO_ROOT, "d", S_IFDIR | 0755);
	char list[256];
	uint8_t buf[64];
	size_t len = sizeof(buf);

	assert_int_equal(set_acl(n, d, ACL_NAME_ACCESS, "o7 u7:1 g5 m7 r5", 0), 0);
	assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o7 g5 r0", 0), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, d, "trusted.x", "1", 1, 0), 0);
	assert_int_equal(fs_setxattr(n->fs, n->q, d, "user.x", "1", 1, 0), 0);
	assert_int_equal(listed(n, d, true, list, sizeof(list)), 4);
	assert_int_equal(listed(n, d, false, list, sizeof(list)), 3);
	n->cfg.no_acl = true;
	names_reopen(n);
	assert_int_equal(listed(n, d, true, list, sizeof(list)), 2);
	assert_int_equal(listed(n, d, false, list, sizeof(list)), 1);
	assert_string_equal(list, "user.x");
	assert_int_equal(fs_getxattr(n->fs, n->q, d, ACL_NAME_ACCESS, buf, &len), -EOPNOTSUPP);
	assert_int_equal(set_acl(n, d, ACL_NAME_DEFAULT, "o7 g5 r0", 0), -EOPNOTSUPP);
	assert_int_equal(fs_removexattr(n->fs, n->q, d, ACL_NAME_DEFAULT), -EOPNOTSUPP);
	uint64_t f = make_as(n, d, "f", S_IFREG | 0666, 027);
	assert_int_equal(attr_of(n, f).mode & 07777, 0640);
	/* What was closed stays closed when they are back. */
	assert_int_equal(chmod_to(n, d, 0700), 0);
	n->cfg.no_acl = false;
	names_reopen(n);
	check_file(n, d, 0700, "o7 u7:1 g5 m0 r0", "o7 g5 r0");
	check_file(n, f, 0640, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, names_teardown)
		T(setting),     T(flags_and_types),	   T(hostile_values), T(chmod_in_step), T(umask_without),
		T(inheritance), T(default_comes_and_goes), T(longest),	      T(damaged),	T(without_acls),
#undef T
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
