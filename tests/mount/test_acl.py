# SPDX-License-Identifier: Apache-2.0
"""Who may do what: ACLs, modes, owners, capabilities.  Users without privileges do the same on a mount and in a directory of ext4,
which must have the same results and the same tree."""
import os
import random
import stat
import struct

import pytest

from conftest import LONG, run
from people import ACCESS, DEFAULT, GROUP, GROUPS, MASK, NO_ID, OTHER, OWNER, PEOPLE, USER, GROUP_OBJ, Pair, Person, acl, full_acl

CAP_FSETID, CAP_SYS_ADMIN = 4, 21
ANN, BOB, EVE = (PEOPLE[n][0] for n in ("ann", "bob", "eve"))
STAFF, CREW = 32001, 32002


@pytest.fixture(name="people")
def fixture_people():
    made = {name: Person(name, *who) for name, who in PEOPLE.items()}
    yield made
    for person in made.values():
        person.end()


@pytest.fixture(name="ext4")
def fixture_ext4(folder):
    """A directory of an ext4 of its own."""
    image, path = os.path.join(folder, "ext4.img"), os.path.join(folder, "ext4")
    os.mkdir(path)
    run("truncate", "-s", "64M", image)
    run("mkfs.ext4", "-q", "-F", image)
    done = run("mount", "-o", "loop", image, path, check=False)
    if done.returncode:
        pytest.skip(f"no ext4 to compare with: {done.stdout.strip()}")
    yield path
    run("umount", path)


@pytest.fixture(name="pair")
def fixture_pair(vol, ext4, people):
    dirs = [os.path.join(d, "top") for d in (vol.dir, ext4)]
    for d in dirs:
        os.mkdir(d)
        os.chmod(d, 0o777)
    pair = Pair(*dirs, people)
    pair.vol = vol
    return pair


def remount(pair, options=""):
    pair.vol.remount(options)


# --- ACLs ---

def test_named_users_and_groups(pair):
    pair.ok("ann", "create", "f", 0o640, 0, b"secret")
    pair.refused("EACCES", "bob", "read", "f")
    pair.ok("ann", "setxattr", "f", ACCESS, full_acl(6, 4, 0, mask=4, users=[(BOB, 6)]))
    pair.ok("bob", "read", "f")
    pair.refused("EACCES", "bob", "append", "f", b"x")  # the mask
    pair.refused("EACCES", "eve", "read", "f")
    assert pair.ok("ann", "attributes", "f")[0] == "0o100640"
    pair.ok("ann", "chmod", "f", 0o660)
    pair.ok("bob", "append", "f", b"x")
    pair.ok("ann", "setxattr", "f", ACCESS, full_acl(6, 0, 4, mask=7, groups=[(CREW, 2)]))
    assert pair.ok("ann", "attributes", "f")[0] == "0o100674"
    pair.ok("bob", "append", "f", b"y")
    pair.refused("EACCES", "bob", "read", "f")  # named: others' rights are not his
    pair.ok("eve", "read", "f")
    for who in ("bob", "eve"):
        pair.refused("EPERM", who, "setxattr", "f", ACCESS, full_acl(7, 7, 7))
        pair.refused("EPERM", who, "removexattr", "f", ACCESS)
        pair.ok(who, "getxattr", "f", ACCESS)
    # An ACL that says what the mode says is none.
    pair.ok("ann", "setxattr", "f", ACCESS, full_acl(6, 0, 0))
    pair.refused("ENODATA", "ann", "getxattr", "f", ACCESS)
    pair.ok("ann", "removexattr", "f", ACCESS)
    pair.ok("root", "setxattr", "f", ACCESS, full_acl(4, 0, 0, mask=7, users=[(ANN, 0)]))
    assert pair.ok("ann", "listxattr", "f") == [ACCESS]
    pair.ok("ann", "read", "f")  # the owner's entry, not that by her name
    pair.ok("ann", "removexattr", "f", ACCESS)
    assert pair.ok("ann", "attributes", "f")[0] == "0o100470"
    remount(pair)
    pair.same_tree()


def test_getfacl_and_setfacl(pair):
    def both(*argv):
        # The order of names in a directory is each file system's own.
        said = ["\n\n".join(sorted(run(*argv, "f", "d", "d/f", "d/d", cwd=root, check=False).stdout.split("\n\n"))) for root in pair.roots]
        assert said[0] == said[1], f"{argv}:\n{said[0]}\non ext4:\n{said[1]}"
        return said[0]

    for root in pair.roots:
        os.umask(0o22)
        for name in ("d", "d/d"):
            os.mkdir(os.path.join(root, name))
        for name in ("f", "d/f"):
            open(os.path.join(root, name), "wb").close()
    for change in ("-m u:31001:rw,g:32001:rx", "-m d:u:31002:rwx,d:g:32002:r", "-x u:31001", "-m m::r", "-R -m g:31003:rwX", "-n -m u:1:rwx",
                   "-d -m o::-", "-k", "-b", "-m u::rwx,g::-,o::r", "--set u::rw,u:5:r,g::r,m::rw,o::-", "-m u:5:rwx,m::rx", "-b"):
        both("setfacl", *change.split())
        shown = both("getfacl", "-n", "-R")
        assert "user::" in shown
        both("stat", "-c", "%A %u %g %n")
    remount(pair)
    both("getfacl", "-n", "-R")


def test_values_that_are_none(pair):
    pair.ok("ann", "create", "f", 0o640, 0)
    pair.ok("ann", "mkdir", "d", 0o750, 0)
    good = full_acl(6, 4, 0, mask=4, users=[(BOB, 6)])
    bad = [b"", b"\2", good[:3], good[:-1], good + b"\0", struct.pack("<I", 1) + good[4:], struct.pack("<I", 3) + good[4:],
           acl((OWNER, 7)), acl((OWNER, 7), (GROUP_OBJ, 5)), acl((GROUP_OBJ, 5), (OWNER, 7), (OTHER, 0)),
           acl((OWNER, 7), (USER, 5, BOB), (GROUP_OBJ, 5), (OTHER, 0)), acl((OWNER, 7), (GROUP_OBJ, 5), (GROUP, 5, CREW), (OTHER, 0)),
           acl((OWNER, 7), (OWNER, 7), (GROUP_OBJ, 5), (OTHER, 0)), acl((OWNER, 8), (GROUP_OBJ, 5), (OTHER, 0)),
           acl((OWNER, 7), (USER, 5, NO_ID), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 0)), acl((OWNER, 7), (0x40, 5), (GROUP_OBJ, 5), (OTHER, 0)),
           acl((OWNER, 7), (GROUP_OBJ, 5), (MASK, 7), (MASK, 7), (OTHER, 0)), acl((OWNER, 7), (GROUP_OBJ, 5), (OTHER, 0), (MASK, 7))]
    for value in bad:
        for path in ("f", "d"):
            for name in (ACCESS, DEFAULT):
                # What is no ACL at all, but whole, means to remove it.
                pair.do("ann", "setxattr", path, name, value)
    pair.ok("ann", "setxattr", "d", DEFAULT, good)
    pair.ok("ann", "setxattr", "d", DEFAULT, struct.pack("<I", 2))
    pair.refused("ENODATA", "ann", "getxattr", "d", DEFAULT)
    pair.refused("EACCES", "ann", "setxattr", "f", DEFAULT, good)
    pair.ok("ann", "symlink", "l", "f")
    for name in (ACCESS, DEFAULT):
        pair.refused("EOPNOTSUPP", "ann", "setxattr", "l", name, good)
    assert pair.same_tree() == 4


def test_inheritance(pair):
    defaults = [full_acl(7, 5, 0), full_acl(7, 7, 7), full_acl(0, 0, 0), full_acl(4, 2, 1), full_acl(7, 5, 5, mask=7, users=[(BOB, 7)]),
                full_acl(7, 0, 4, mask=5, users=[(BOB, 6)], groups=[(STAFF, 7), (CREW, 1)]), full_acl(7, 7, 6, mask=0), full_acl(6, 1, 7, mask=6)]
    for i, default in enumerate(defaults):
        top = f"d{i}"
        pair.ok("ann", "mkdir", top, 0o2777 if i % 3 == 0 else 0o777, 0)
        pair.ok("ann", "setxattr", top, DEFAULT, default)
        for who in ("ann", "bob", "root") if LONG else ("ann", "bob"):
            for k, mode in enumerate((0o666, 0o777, 0o000, 0o2770, 0o4711, 0o600, 0o640)[:None if LONG else 3]):
                for umask in (0, 0o77):
                    here = f"{top}/{who}{k}{umask:o}"
                    pair.do(who, "create", here + "f", mode, umask)
                    pair.do(who, "mkdir", here + "d", mode, umask)
                    pair.do(who, "create", here + "d/f", 0o666, umask)
            pair.do(who, "mknod", f"{top}/{who}p", stat.S_IFIFO | 0o666, 0o22)
            pair.do(who, "mknod", f"{top}/{who}s", stat.S_IFSOCK | 0o666, 0o22)
            pair.do(who, "symlink", f"{top}/{who}l", "x")
    remount(pair)
    assert pair.same_tree(everybody=LONG) > 250


def test_default_acl_taken_away_again(pair):
    """What is known of a directory must not outlive the ACL, in the daemon or in the kernel."""
    pair.ok("ann", "mkdir", "d", 0o777, 0)
    for i in range(6):
        pair.ok("bob", "create", f"d/f{i}", 0o666, 0o27)
        if i % 2:
            pair.ok("ann", "removexattr", "d", DEFAULT)
        else:
            pair.ok("ann", "setxattr", "d", DEFAULT, full_acl(7, 7, 0, mask=6, users=[(EVE, 4)]))
        pair.ok("bob", "create", f"d/g{i}", 0o666, 0o27)
    pair.same_tree()


def test_noacl(vol, people):
    os.chmod(vol.dir, 0o777)
    ann, bob = people["ann"], people["bob"]
    assert ann.ask("mkdir", vol.path("d"), 0o755, 0)[0] == "ok"
    assert ann.ask("setxattr", vol.path("d"), DEFAULT, full_acl(7, 0, 0))[0] == "ok"
    assert ann.ask("create", vol.path("f"), 0o600, 0, b"x")[0] == "ok"
    assert ann.ask("setxattr", vol.path("f"), ACCESS, full_acl(6, 0, 0, mask=6, users=[(BOB, 6)]))[0] == "ok"
    assert bob.ask("read", vol.path("f")) == ("ok", b"x")
    vol.remount("noacl")
    assert bob.ask("read", vol.path("f")) == ("error", "EACCES")
    assert ann.ask("listxattr", vol.path("f")) == ("ok", [])
    for name in (ACCESS, DEFAULT):
        assert ann.ask("getxattr", vol.path("d"), name) == ("error", "EOPNOTSUPP")
        assert ann.ask("setxattr", vol.path("d"), name, full_acl(7, 0, 0)) == ("error", "EOPNOTSUPP")
        assert ann.ask("removexattr", vol.path("d"), name) == ("error", "EOPNOTSUPP")
    assert ann.ask("create", vol.path("d", "g"), 0o666, 0o27)[0] == "ok"
    assert ann.ask("attributes", vol.path("d", "g"))[1][0] == "0o100640"
    # What is closed now is closed when ACLs count again.
    assert ann.ask("chmod", vol.path("f"), 0o600)[0] == "ok"
    vol.remount("noacl,acl")
    assert bob.ask("read", vol.path("f")) == ("error", "EACCES")
    assert ann.ask("chmod", vol.path("f"), 0o660)[0] == "ok"
    assert bob.ask("read", vol.path("f")) == ("ok", b"x")
    assert ann.ask("create", vol.path("d", "h"), 0o666, 0)[0] == "ok"
    assert ann.ask("attributes", vol.path("d", "h"))[1][0] == "0o100600"


# --- attributes and who sees them ---

def test_namespaces(pair):
    pair.ok("ann", "create", "f", 0o666, 0)
    pair.ok("ann", "mkdir", "sticky", 0o1777, 0)
    pair.ok("ann", "symlink", "l", "f")
    pair.ok("ann", "mknod", "p", stat.S_IFIFO | 0o666, 0)
    names = ["user.a", "trusted.b", "security.c", "system.d", "other.e", "plain", "user.", "trusted.", "security.", "user", "User.a",
             "system.posix_acl_", "system.posix_acl_accessx"]
    for path in ("f", "sticky", "l", "p"):
        for who in ("root", "ann", "bob"):
            for name in names:
                pair.do(who, "setxattr", path, name, b"1")
                pair.do(who, "getxattr", path, name)
            pair.do(who, "listxattr", path)
        for who in ("bob", "ann", "root"):
            for name in names:
                pair.do(who, "getxattr", path, name)
    assert pair.ok("root", "listxattr", "f") == ["security.c", "trusted.b", "user.a"]
    assert pair.ok("bob", "listxattr", "f") == ["security.c", "user.a"]
    for path in ("f", "sticky", "l", "p"):
        for who in ("bob", "ann", "root"):
            for name in names:
                pair.do(who, "removexattr", path, name)
    pair.same_tree()
    pair.refused("ERANGE", "ann", "setxattr", "f", "user." + "n" * 251, b"")
    pair.ok("ann", "setxattr", "f", "user." + "n" * 250, b"")
    pair.refused("E2BIG", "ann", "setxattr", "f", "user.x", bytes(65537))
    pair.refused("EEXIST", "ann", "setxattr", "f", "user." + "n" * 250, b"", os.XATTR_CREATE)
    pair.refused("ENODATA", "ann", "setxattr", "f", "user.x", b"", os.XATTR_REPLACE)


# --- bits and capabilities that changes take away ---

def test_privileges_end_with_a_change(pair):
    """setuid, setgid, file capabilities: after writing, truncating, reserving, chown, chmod, by the owner, the group and root."""
    caps = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
    changes = [("append", b"x"), ("overwrite_direct",), ("truncate", 3), ("truncate", 30), ("openat", os.O_WRONLY | os.O_TRUNC), ("openat", os.O_WRONLY),
               ("fallocate", 0, 0, 8192), ("fallocate", 3, 0, 4096), ("chown", -1, STAFF), ("chown", ANN, -1), ("chown", -1, -1),
               ("chmod", 0o6750), ("chmod", 0o2755), ("utime", (1, 1)), ("setxattr", "user.x", b"1"),
               ("setxattr", ACCESS, full_acl(7, 5, 5)), ("setxattr", ACCESS, full_acl(7, 5, 5, mask=7, users=[(EVE, 7)])), ("removexattr", ACCESS)]
    serial = 0
    # Not among them: setgid without execution by the group, which is no privilege.  ext4 takes it away when somebody outside the group
    # writes; for FUSE the kernel does not.
    for mode in (0o6777, 0o2777, 0o4777, 0o777):
        for gid in (31001, STAFF, CREW):
            for what, *args in changes:
                for who in ("ann", "bob", "root", "eve"):
                    if args == [-1, -1] and who != "ann":
                        continue  # FUSE does not tell it from a write that is about to come: nothing happens
                    path = f"f{serial}"
                    serial += 1
                    pair.ok("root", "create", path, 0o600, 0, b"0123456789")
                    pair.ok("root", "chown", path, ANN, gid)
                    pair.ok("root", "setxattr", path, "security.capability", caps)
                    pair.ok("root", "chmod", path, mode)
                    if serial % 2:
                        pair.do("eve", "attributes", path)
                    pair.do(who, what, path, *args)
                    assert pair.ok("eve", "attributes", path)
                    pair.do("eve", "getxattr", path, "security.capability")
                    for p in pair.roots:
                        os.unlink(os.path.join(p, path))


def test_setgid_and_acl_by_others(pair, folder):
    """Setting an ACL takes the setgid bit away, unless by a member of the group or with CAP_FSETID; a default ACL does not."""
    powers = Person("root without CAP_FSETID", 0, 0, [], drop=[CAP_FSETID])
    pair.people = dict(pair.people, weak=powers)
    try:
        for kind in ("create", "mkdir"):
            for gid in (31001, STAFF, CREW):
                for who in ("ann", "root", "weak"):
                    for value in (full_acl(7, 5, 5), full_acl(7, 5, 5, mask=7, users=[(EVE, 7)]), full_acl(7, 7, 5, mask=0)):
                        for name in (ACCESS, DEFAULT):
                            path = f"{kind}{gid}{who}{len(pair.history)}"
                            pair.ok("root", kind, path, 0o600, 0)
                            pair.ok("root", "chown", path, ANN, gid)
                            pair.ok("root", "chmod", path, 0o2775)
                            pair.do(who, "setxattr", path, name, value)
                            pair.ok("eve", "attributes", path)
        pair.same_tree(everybody=False)
    finally:
        powers.end()


def test_setcap_and_getcap(pair):
    for root in pair.roots:
        tool = os.path.join(root, "tool")
        run("cp", "/bin/true", tool)
        run("setcap", "cap_net_raw+ep", tool)
        assert "cap_net_raw=ep" in run("getcap", tool).stdout
        run("setcap", "-v", "cap_net_raw+ep", tool)
        os.chown(tool, ANN, 0)
        assert run("getcap", tool).stdout == ""
        run("setcap", "cap_net_raw+ep", tool)
        run("setcap", "-r", tool)
        assert run("getcap", tool).stdout == ""
    pair.same_tree()


def test_sticky_and_groups(pair):
    pair.ok("ann", "mkdir", "t", 0o1777, 0)
    for who in ("ann", "bob"):
        pair.ok(who, "create", f"t/{who}", 0o666, 0)
        pair.ok(who, "mkdir", f"t/{who}.d", 0o777, 0)
    pair.refused("EPERM", "eve", "unlink", "t/bob")
    pair.refused("EPERM", "eve", "rename", "t/bob", "./t/x")
    pair.refused("EPERM", "bob", "rmdir", "t/ann.d")
    pair.ok("ann", "unlink", "t/bob")  # her directory
    pair.ok("bob", "rmdir", "t/bob.d")
    # Group of new files, and whom they may be given to.
    pair.ok("root", "mkdir", "g", 0o777, 0)
    pair.ok("root", "chown", "g", 0, CREW)
    pair.ok("root", "chmod", "g", 0o2777)
    for who in ("ann", "bob", "eve", "root"):
        for mode in (0o2777, 0o2767, 0o6711, 0o666):
            pair.ok(who, "create", f"g/{who}{mode:o}", mode, 0o22)
            pair.ok(who, "mkdir", f"g/{who}{mode:o}d", mode, 0o22)
        pair.ok(who, "symlink", f"g/{who}l", "x")
        pair.ok(who, "mknod", f"g/{who}p", stat.S_IFIFO | 0o2777, 0)
        pair.ok(who, "create", f"own{who}", 0o2775, 0)
        for gid in GROUPS:
            pair.do(who, "chown", f"own{who}", -1, gid)
            pair.do(who, "chmod", f"own{who}", 0o2775)
        pair.do(who, "chown", f"own{who}", EVE, -1)
        for other in ("ann", "bob"):
            pair.do(who, "chmod", f"own{other}", 0o777)
    pair.same_tree()


# --- at random ---

def random_acl(rng):
    def perms():
        return rng.randrange(8)

    users = [(i, perms()) for i in sorted(rng.sample([ANN, BOB, EVE, 0, 5], rng.randrange(4)))]
    groups = [(i, perms()) for i in sorted(rng.sample(GROUPS, rng.randrange(3)))]
    value = full_acl(perms(), perms(), perms(), perms() if users or groups or rng.randrange(4) == 0 else None, users, groups)
    if rng.randrange(8) == 0:
        at = rng.randrange(len(value))
        value = value[:at] + bytes([rng.randrange(256)]) + value[at + 1:]
    return value


def random_step(pair, rng, names):
    who = rng.choice(["root", "ann", "ann", "bob", "bob", "eve"])
    path, other = rng.choice(names), rng.choice(names)
    new = f"{rng.choice(names)}/n{rng.randrange(8)}" if rng.randrange(2) else f"n{rng.randrange(12)}"
    mode, umask = rng.choice([0o777, 0o666, 0o644, 0o700, 0o2775, 0o6755, rng.randrange(0o10000)]), rng.choice([0, 0o22, 0o77, rng.randrange(0o1000)])
    uid, gid = rng.choice([-1, ANN, BOB, 0]), rng.choice([-1, *GROUPS])
    kind = rng.choice(["create"] * 4 + ["mkdir"] * 4 + ["mknod", "symlink", "link", "unlink", "rmdir", "rename"] + ["acl"] * 6 + ["default"] * 4 +
                      ["noacl", "chmod", "chmod", "chmod", "chown", "chown", "append", "append", "truncate", "read", "getxattr", "xattr", "utime"])
    if kind in ("create", "mkdir"):
        pair.do(who, kind, new, mode, umask)
    elif kind == "mknod":
        pair.do(who, "mknod", new, stat.S_IFIFO | (mode & 0o7777), umask)
    elif kind == "symlink":
        pair.do(who, "symlink", new, "nowhere")
    elif kind in ("link", "rename"):
        pair.do(who, kind, path, "./" + (new if rng.randrange(2) else other))
    elif kind in ("unlink", "rmdir", "read"):
        pair.do(who, kind, path)
    elif kind in ("acl", "default"):
        pair.do(who, "setxattr", path, ACCESS if kind == "acl" else DEFAULT, random_acl(rng))
    elif kind == "noacl":
        pair.do(who, "removexattr", path, rng.choice([ACCESS, DEFAULT]))
    elif kind == "chmod":
        pair.do(who, "chmod", path, mode)
    elif kind == "chown":
        pair.do(who, "chown", path, uid, gid)
    elif kind == "append":
        pair.do(who, "append", path, b"x" * rng.randrange(1, 3000))
    elif kind == "truncate":
        pair.do(who, "truncate", path, rng.randrange(3000))
    elif kind == "getxattr":
        pair.do(who, "getxattr", path, rng.choice([ACCESS, DEFAULT]))
    elif kind == "xattr":
        pair.do(who, "setxattr", path, rng.choice(["user.x", "trusted.x", "security.x"]), b"1")
    else:
        pair.do(who, "utime", path, (1, 1))


@pytest.mark.timeout(900)
def test_at_random(pair):
    seed = int(os.environ.get("HOLDFAST_SEED", "1"))
    rng = random.Random(seed)
    pair.ok("ann", "mkdir", "d", 0o777, 0)
    pair.ok("bob", "mkdir", "e", 0o2777, 0)
    rounds, steps = (60, 120) if LONG else (6, 100)
    try:
        for i in range(rounds):
            names = [p for p in pair.paths() if p]
            for _ in range(steps):
                random_step(pair, rng, names)
            if i == rounds // 2:
                remount(pair)
            pair.same_tree()
    except AssertionError as e:
        raise AssertionError(f"seed {seed}: {e}\nlast steps:\n" + "\n".join(map(str, pair.history[-12:]))) from e
