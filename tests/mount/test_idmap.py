# SPDX-License-Identifier: Apache-2.0
"""Mounts whose users are mapped (-o allow_idmap): what test_acl.py does on a mount and on ext4, both mapped in the same way; what is on the volume
then; who may do what the daemon decides, since the kernel does not say any more whose request one is; user namespaces; and where it cannot be had."""
import ast
import ctypes
import errno
import fcntl
import os
import signal
import stat
import struct

import pytest

import people as people_of_test
from calls import AT_FDCWD, checked, libc, renameat2
from conftest import BUILD, LONG, MKFS, MOUNT, SANITIZED, daemons, is_mounted, kernel_offers_uring, run, wait_for, write_synced
from idmap import MappedVolume, attach, user_namespace
from people import ACCESS, Person, full_acl
from test_capabilities import teller, user, without
from test_acl import ANN, BOB, CREW, EVE, STAFF, fixture_people, fixture_pair  # pylint: disable=unused-import
# The same tests, on these fixtures.
from test_acl import (test_at_random, test_default_acl_taken_away_again, test_getfacl_and_setfacl, test_inheritance,  # pylint: disable=unused-import
                      test_named_users_and_groups, test_namespaces, test_setgid_and_acl_by_others, test_sticky_and_groups)

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
# On the volume 10000 more than seen here, for all but user 0; nobody else is known.
SHIFT = 10000
MAPS = [(0, 0, 1), (31000 + SHIFT, 31000, 2000)]
STRANGER = 20002

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
FITRIM, FS_IOC_GETFSLABEL, FS_IOC_SETFSLABEL = 0xC0185879, 0x81009431, 0x41009432
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80
RENAME_WHITEOUT = 4


def ioctl(path, number, data=None):
    """data None: no address goes along."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if data is None:
            checked(libc.ioctl(fd, ctypes.c_ulong(number), None))
            return None
        return fcntl.ioctl(fd, number, data)
    finally:
        os.close(fd)


def chattr(path, flags):
    ioctl(path, FS_IOC_SETFLAGS, struct.pack("<Q", flags))


def lsattr(path):
    return struct.unpack("<I", ioctl(path, FS_IOC_GETFLAGS, bytes(8))[:4])[0] & (IMMUTABLE | APPEND | NODUMP | NOATIME)


def set_xflags(path, flags):
    ioctl(path, FS_IOC_FSSETXATTR, struct.pack("<I", flags) + bytes(24))


def whiteout(old, new):
    renameat2(old, new, RENAME_WHITEOUT)


def tmpfile(directory, name, mode):
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, mode)
    try:
        checked(libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(name), 0x400))
    finally:
        os.close(fd)


def open_noatime(path):
    os.close(os.open(path, os.O_RDONLY | os.O_NOATIME))


people_of_test.ASK.update({f.__name__: f for f in (ioctl, chattr, lsattr, set_xflags, whiteout, tmpfile, open_noatime)})


# On all kinds of mounts also in the short run.
EVERYWHERE = {"test_numbers_on_the_volume", "test_roots_requests"}
# Of those that are test_acl.py's, in the short run.
SHORT = {"test_at_random", "test_named_users_and_groups", "test_sticky_and_groups"}


@pytest.fixture(name="vol", params=["", "plain", "writeback"])
def fixture_vol(folder, request):
    name = request.node.originalname
    if not LONG and (request.param and name not in EVERYWHERE or request.function.__module__ != __name__ and name not in SHORT):
        pytest.skip("slow; ./setup test --long runs it")
    where = os.path.join(folder, "mapped")
    os.mkdir(where)
    vol = MappedVolume(where, MAPS)
    vol.options = request.param
    try:
        vol.mkfs().mount()
        yield vol
    finally:
        vol.clean_up()


@pytest.fixture(name="ext4")
def fixture_ext4(folder):
    image, path = os.path.join(folder, "ext4.img"), os.path.join(folder, "ext4")
    os.mkdir(path)
    run("truncate", "-s", "64M", image)
    run("mkfs.ext4", "-q", "-F", image)
    done = run("mount", "-o", "loop", image, path, check=False)
    if done.returncode:
        pytest.skip(f"no ext4 to compare with: {done.stdout.strip()}")
    attach(path, path, MAPS)
    yield path
    run("umount", path)
    run("umount", path)


def owner(path):
    st = os.lstat(path)
    return st.st_uid, st.st_gid


def test_numbers_on_the_volume(vol, people):
    """What users see is mapped, in all that has an owner or names one; the volume has its own numbers, and keeps them."""
    ann, bob = people["ann"], people["bob"]
    os.chmod(vol.dir, 0o777)
    assert ann.ask("create", vol.path("f"), 0o640, 0, b"x")[0] == "ok"
    assert ann.ask("mkdir", vol.path("d"), 0o755, 0)[0] == "ok"
    assert ann.ask("mknod", vol.path("p"), stat.S_IFIFO | 0o600, 0)[0] == "ok"
    assert ann.ask("symlink", vol.path("l"), "x")[0] == "ok"
    assert ann.ask("tmpfile", vol.dir, vol.path("t"), 0o600)[0] == "ok"
    assert ann.ask("create", vol.path("w"), 0o640, 0)[0] == "ok"
    assert ann.ask("whiteout", vol.path("w"), vol.path("v"))[0] == "ok"
    acl = full_acl(6, 4, 0, mask=6, users=[(BOB, 6)], groups=[(CREW, 4)])
    assert ann.ask("setxattr", vol.path("f"), ACCESS, acl)[0] == "ok"
    assert bob.ask("append", vol.path("f"), b"y")[0] == "ok"
    assert people["root"].ask("create", vol.path("r"), 0o600, 0)[0] == "ok"
    mine, theirs = (ANN, ANN), (ANN + SHIFT, ANN + SHIFT)
    for options in ("", "noatime"):
        for name in "fdpltwv":
            assert owner(vol.path(name)) == mine and owner(os.path.join(vol.raw, name)) == theirs, name
        assert owner(vol.path("r")) == owner(os.path.join(vol.raw, "r")) == (0, 0)
        assert os.getxattr(vol.path("f"), ACCESS) == acl
        there = full_acl(6, 4, 0, mask=6, users=[(BOB + SHIFT, 6)], groups=[(CREW + SHIFT, 4)])
        assert os.getxattr(os.path.join(vol.raw, "f"), ACCESS) == there
        vol.remount(options)
    # Given away, to somebody who is known, and by somebody who may.
    assert ann.ask("chown", vol.path("f"), BOB, -1) == ("error", "EPERM")
    os.chown(vol.path("f"), BOB, STAFF)
    assert owner(vol.path("f")) == (BOB, STAFF) and owner(os.path.join(vol.raw, "f")) == (BOB + SHIFT, STAFF + SHIFT)
    with pytest.raises(OSError) as e:
        os.chown(vol.path("f"), STRANGER, -1)
    assert e.value.errno == errno.EOVERFLOW
    # The other way round: who is known on the volume only, belongs to nobody here.
    os.chown(os.path.join(vol.raw, "d"), 5, 6)
    assert owner(vol.path("d")) == (65534, 65534)
    assert ann.ask("chmod", vol.path("d"), 0o700) == ("error", "EOVERFLOW")
    vol.umount()
    assert "clean" in vol.fsck()


def test_nobody_on_the_volume(vol, ext4):
    """Who has no number there makes nothing, and nothing belongs to him."""
    stranger = Person("stranger", STRANGER, STRANGER, [])
    half = Person("half a stranger", ANN, STRANGER, [])
    try:
        pair = people_of_test.Pair(vol.dir, ext4, {"stranger": stranger, "half": half, "root": Person("root", 0, 0, [])})
        for root in pair.roots:
            os.chmod(root, 0o777)
        pair.ok("root", "create", "f", 0o666, 0, b"x")
        for who in ("stranger", "half"):
            pair.refused("EOVERFLOW", who, "create", "g", 0o666, 0)
            pair.refused("EOVERFLOW", who, "mkdir", "g", 0o777, 0)
            pair.refused("EOVERFLOW", who, "symlink", "g", "x")
            pair.refused("EOVERFLOW", who, "tmpfile", "", "./g", 0o600)
            pair.refused("EOVERFLOW", who, "mknod", "g", stat.S_IFIFO | 0o600, 0)
            pair.ok(who, "append", "f", b"y")
            pair.ok(who, "read", "f")
            pair.refused("EPERM", who, "chmod", "f", 0o600)
            pair.refused("EOVERFLOW", who, "rename", "f", "./f2")
        # A whiteout is made, too; the kernel does not look at whose where something is replaced.
        for name in ("a", "b"):
            assert pair.people["root"].ask("create", vol.path(name), 0o666, 0) == ("ok", 0)
        assert stranger.ask("whiteout", vol.path("a"), vol.path("b")) == ("error", "EOVERFLOW")
        assert sorted(os.listdir(vol.dir)) == ["a", "b", "f"]
        pair.people["root"].end()
    finally:
        stranger.end()
        half.end()


def test_privileges_end_with_a_change(pair):
    """As in test_acl.py, in fewer combinations; but what root reserves or copies takes setuid away as well (mount.holdfast(8))."""
    caps = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    changes = [("append", b"x"), ("overwrite_direct",), ("truncate", 3), ("openat", os.O_WRONLY | os.O_TRUNC), ("fallocate", 0, 0, 8192),
               ("fallocate", 3, 0, 4096), ("chown", -1, STAFF), ("chown", ANN, -1), ("chmod", 0o6750), ("utime", (1, 1)),
               ("setxattr", ACCESS, full_acl(7, 5, 5)), ("removexattr", ACCESS)]
    for mode in (0o6777, 0o777):
        for gid in (31001, CREW):
            for what, *args in changes:
                for who in ("ann", "bob", "root", "eve"):
                    path = f"f{len(pair.history)}"
                    pair.ok("root", "create", path, 0o600, 0, b"0123456789")
                    pair.ok("root", "chown", path, ANN, gid)
                    pair.ok("root", "setxattr", path, "security.capability", caps)
                    pair.ok("root", "chmod", path, mode)
                    if what == "fallocate" and who == "root":
                        for root in pair.roots:
                            assert pair.people[who].ask(what, os.path.join(root, path), *args)[0] == "ok"
                        assert [oct(os.stat(os.path.join(root, path)).st_mode & 0o6000) for root in pair.roots] == ["0o0", oct(mode & 0o6000)]
                    else:
                        pair.do(who, what, path, *args)
                        assert pair.ok("eve", "attributes", path)
                    pair.do("eve", "getxattr", path, "security.capability")
    # Nobody takes them from somebody else's file by changing nothing.
    pair.ok("root", "create", "f", 0o600, 0)
    pair.ok("root", "chmod", "f", 0o6755)
    for who in ("ann", "eve", "root"):
        for root in pair.roots:
            pair.people[who].ask("chown", os.path.join(root, "f"), -1, -1)
        assert os.stat(pair.vol.path("top", "f")).st_mode & 0o7777 == 0o6755


def test_flags(pair):
    """chattr(1): the owner, mapped, and root; immutable and append-only root alone."""
    pair.ok("ann", "create", "f", 0o666, 0)
    pair.ok("ann", "mkdir", "d", 0o777, 0)
    for path in ("f", "d"):
        for who, flags in (("bob", NODUMP), ("ann", NODUMP | NOATIME), ("eve", 0), ("ann", NODUMP | IMMUTABLE), ("ann", APPEND), ("ann", NOATIME),
                           ("root", NODUMP | APPEND), ("ann", NODUMP), ("root", IMMUTABLE), ("ann", 0), ("root", 0), ("bob", 0), ("ann", 0x800000)):
            pair.do(who, "chattr", path, flags)
            pair.ok("eve", "lsattr", path)
            pair.do("ann", "chmod", path, 0o777)
        for who, flags in (("bob", 0x80), ("ann", 0x80), ("ann", 0x8), ("root", 0x8), ("ann", 0), ("root", 0)):
            pair.do(who, "set_xflags", path, flags)
            pair.ok("eve", "lsattr", path)
    pair.do("bob", "open_noatime", "f")
    pair.ok("ann", "open_noatime", "f")


def test_requests_that_nobody_has_looked_at(pair):
    """The same requests with numbers that the kernel does not know, and so does not check: without an address, as its own come, and with one."""
    pair.ok("ann", "create", "f", 0o666, 0)
    pair.ok("ann", "chattr", "f", NODUMP)
    path = pair.vol.path("top", "f")
    for number in (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR):
        for direction in range(4):
            other = number & 0x3FFFFFFF | direction << 30
            for data in (None, bytes(28)):
                for who in ("bob", "eve"):
                    said = pair.people[who].ask("ioctl", path, other, data)
                    assert said[0] == "error" and said[1] in ("EPERM", "EOPNOTSUPP", "EFAULT", "ENOTTY"), (hex(other), data, said)
                if other != number:
                    assert pair.people["ann"].ask("ioctl", path, other, data)[0] == "error"
                assert lsattr(path) == NODUMP


def test_roots_requests(vol, people):
    """Those that the daemon decides by user: root can, others cannot, mapped to whatever."""
    write_synced(vol.path("f"), b"x")
    os.chmod(vol.dir, 0o777)
    label = b"of root".ljust(256, b"\0")
    trim = struct.pack("<QQQ", 0, 1 << 40, 0)
    for who in ("ann", "eve"):
        for number, data in ((FITRIM, trim), (FS_IOC_SETFSLABEL, label), (0x8004587D, bytes(4))):
            assert people[who].ask("ioctl", vol.path("f"), number, data) == ("error", "EPERM")
    assert people["root"].ask("ioctl", vol.path("f"), FITRIM, trim)[0] == "ok"
    assert people["root"].ask("ioctl", vol.path("f"), FS_IOC_SETFSLABEL, label)[0] == "ok"
    assert people["ann"].ask("ioctl", vol.path("f"), FS_IOC_GETFSLABEL, bytes(256)) == ("ok", label)
    assert "nothing wrong" in run(HOLDFAST, "scrub", vol.dir).stdout
    assert "allow_idmap" in run(HOLDFAST, "stats", vol.dir).stdout
    as_ann = ["setpriv", f"--reuid={ANN}", "--clear-groups"]
    assert run(*as_ann, HOLDFAST, "scrub", vol.dir, check=False).returncode != 0
    assert "only root" in run(*as_ann, MOUNT, vol.image, vol.dir, "-o", "remount,commit=3", check=False).stdout
    run(MOUNT, vol.image, vol.dir, "-o", "remount,commit=3")
    assert "commit=3" in run(HOLDFAST, "stats", vol.dir).stdout
    # Root in a namespace of his own is somebody else outside.
    inside = run(*as_ann, "unshare", "-Ur", "fstrim", vol.dir, check=False)
    assert inside.returncode != 0 and "not permitted" in inside.stdout
    # Names that only root sees, and all others.
    for name in ("trusted.a", "user.b"):
        os.setxattr(vol.path("f"), name, b"1")
    assert people["root"].ask("listxattr", vol.path("f")) == ("ok", ["trusted.a", "user.b"])
    assert people["ann"].ask("listxattr", vol.path("f")) == ("ok", ["user.b"])
    names = ("/usr/bin/python3", "-c", f"import os; print(os.listxattr({vol.path('f')!r}))")
    assert run(*without("sys_admin"), *names).stdout == "['user.b']\n"
    assert sorted(ast.literal_eval(run(*user("sys_admin", uid=ANN), *names).stdout)) == ["trusted.a", "user.b"]


@pytest.mark.parametrize("proc", ["ours", "of others", "none"])
def test_which_proc(unmounted, proc):
    """Numbers of processes mean something only in the namespace that they are of."""
    before = {"ours": "mount -t proc proc /proc", "of others": "true", "none": "mount -t tmpfs tmpfs /proc"}[proc]
    script = f"{before}; {MOUNT} {unmounted.image} {unmounted.dir} -o allow_idmap,plain,foreground & " \
        f"until mountpoint -q {unmounted.dir}; do sleep 0.1; done; fstrim {unmounted.dir}; echo status $?; umount {unmounted.dir}; wait"
    if proc == "none":
        script = script.replace("mountpoint -q", "test -e").replace(unmounted.dir + "; do", os.path.join(unmounted.dir, "there") + "; do")
        unmounted.mount()
        write_synced(unmounted.path("there"), b"")
        unmounted.umount()
    said = run("unshare", "-m", "--pid", "--fork", "sh", "-c", script).stdout
    assert ("status 0" in said) == (proc == "ours") and "status" in said, said
    assert proc == "ours" or "not permitted" in said


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("how", ["honest", "a folder", "files"])
def test_forged_proc(unmounted, how, option):
    """In the namespace of a container /proc is what the container says it is: nobody becomes root by that.  With -N it is not even looked at."""
    pid = run("unshare", "-m", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!").stdout.strip()
    inside = ("nsenter", "-m", "-t", pid)
    try:
        run(*([MOUNT, "-N", pid] if option else [*inside, MOUNT]), unmounted.image, unmounted.dir, "-o", "allow_idmap")
        fake = os.path.join(unmounted.folder, "fake")
        os.mkdir(fake)
        run(*inside, "mount", "-t", "tmpfs", "-o", "mode=777", "fake", fake)
        told = f"NSpid:\\t{teller(unmounted)}\\nUid:\\t0\\t0\\t0\\t0\\nCapEff:\\t000001ffffffffff\\n"
        forge = {"honest": "true",
                 "a folder": f"for i in self $me; do mkdir -p {fake}/$i/ns; printf '\\n{told}' >{fake}/$i/status; ln -s 'user:[7]' {fake}/$i/ns/user; done; "
                             f"mount --bind {fake} /proc",
                 "files": f"printf '\\n{told}' >{fake}/status; mount --bind {fake}/status /proc/$me/status"}[how]
        ask = f"me=$$; {forge}; exec setpriv --reuid={ANN} --clear-groups fstrim {unmounted.dir}"
        said = run(*inside, "sh", "-c", ask, check=False)
        assert said.returncode != 0 and "not permitted" in said.stdout, said.stdout
        said = run(*inside, "fstrim", unmounted.dir, check=False)
        assert (said.returncode == 0) == (option or how != "a folder")
        os.kill(daemons(unmounted.image)[0], signal.SIGTERM)
        wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_device_mounted_twice(unmounted):
    """The second mount has the numbers of the volume, whatever the first one shows."""
    dev, other = run("losetup", "-f", "--show", unmounted.image).stdout.strip(), unmounted.dir + "2"
    os.mkdir(other)
    try:
        run(MOUNT, dev, unmounted.dir, "-o", "allow_idmap")
        os.chown(unmounted.dir, ANN + SHIFT, CREW + SHIFT)
        # Over the first one, which is not seen any more.
        attach(unmounted.dir, unmounted.dir, MAPS)
        done = run(MOUNT, dev, other, check=False)
        assert done.returncode == 32 and "with its users mapped" in done.stdout and not is_mounted(other)
        checked(libc.umount2(os.fsencode(unmounted.dir), 0))
        run(MOUNT, dev, other)
        assert os.stat(other).st_uid == ANN + SHIFT
    finally:
        for path in (other, unmounted.dir, unmounted.dir):
            libc.umount2(os.fsencode(path), 2)
        run("losetup", "-d", dev)


def test_nobody_to_ask(vol, people):
    """Whoever says whose request one is has ended: what depends on it is refused, all else goes on."""
    write_synced(vol.path("f"), b"x")
    os.setxattr(vol.path("f"), "trusted.a", b"1")
    os.kill(teller(vol), signal.SIGKILL)
    trim = struct.pack("<QQQ", 0, 1 << 40, 0)
    for _ in range(2):
        assert people["root"].ask("ioctl", vol.path("f"), FITRIM, trim) == ("error", "EPERM")
        assert people["root"].ask("listxattr", vol.path("f")) == ("ok", [])
    assert people["root"].ask("read", vol.path("f")) == ("ok", b"x")
    os.chmod(vol.dir, 0o777)
    assert people["ann"].ask("create", vol.path("g"), 0o600, 0, b"y")[0] == "ok"


def test_over_io_uring(folder, people):
    """Requests that come in the other way say as little."""
    where = os.path.join(folder, "rings")
    os.mkdir(where)
    vol = MappedVolume(where, MAPS)
    with kernel_offers_uring(True):
        try:
            if vol.mkfs() and run(MOUNT, vol.image, vol.dir, "-o", "transport=uring", check=False).returncode:
                pytest.skip("no requests over io_uring here")
            run("umount", vol.dir)
            wait_for(lambda: not daemons(vol.image), what="the daemon's end")
            vol.mount("transport=uring")
            os.chmod(vol.dir, 0o777)
            assert "io_uring" in run(HOLDFAST, "stats", vol.dir).stdout
            for name in ("ann", "bob"):
                assert people[name].ask("create", vol.path(name), 0o644, 0, name.encode())[0] == "ok"
                assert owner(os.path.join(vol.raw, name)) == (people[name].uid + SHIFT, people[name].gid + SHIFT)
            assert people["ann"].ask("append", vol.path("bob"), b"x") == ("error", "EACCES")
            trim = struct.pack("<QQQ", 0, 1 << 40, 0)
            assert people["ann"].ask("ioctl", vol.path("ann"), FITRIM, trim) == ("error", "EPERM")
            assert people["root"].ask("ioctl", vol.path("ann"), FITRIM, trim)[0] == "ok"
            assert people["ann"].ask("chattr", vol.path("ann"), NODUMP)[0] == "ok"
            assert people["ann"].ask("chattr", vol.path("bob"), NODUMP) == ("error", "EPERM")
            vol.umount()
            assert "clean" in vol.fsck()
        finally:
            vol.clean_up()


def test_root_elsewhere(folder):
    """As containers have it: the volume's root is an ordinary user's, who is root of a namespace."""
    vol = MappedVolume(folder, [(0, 100000, 65536)], "32M")
    try:
        vol.mkfs().mount()
        assert owner(vol.dir) == (100000, 100000)
        inside = ["setpriv", "--reuid=100000", "--regid=100000", "--clear-groups"]
        run(*inside, "sh", "-c", f"echo x > {vol.path('f')} && chmod 4711 {vol.path('f')}")
        assert owner(os.path.join(vol.raw, "f")) == (0, 0)
        # Nobody of the volume's: not root outside, but for his capabilities.
        os.chmod(vol.path("f"), 0o600)
        with pytest.raises(OSError) as e:
            with open(vol.path("g"), "wb"):
                pass
        assert e.value.errno == errno.EOVERFLOW
        assert run(*inside, "fstrim", vol.dir, check=False).returncode != 0
        run("fstrim", vol.dir)
        vol.umount()
        assert "clean" in vol.fsck()
    finally:
        vol.clean_up()


def test_in_a_user_namespace(folder):
    """Root of a namespace of users mounts it there, and maps within that."""
    image, mnt, other = (os.path.join(folder, n) for n in ("disk.img", "mnt", "other"))
    for d in (mnt, other):
        os.mkdir(d)
    script = f"""
import os, subprocess, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from idmap import attach
def do(*argv):
    subprocess.run(argv, check=True)
do({MKFS!r}, "-q", {image!r}, "--size", "32M")
do({MOUNT!r}, {image!r}, {mnt!r}, "-o", "allow_idmap")
attach({mnt!r}, {other!r}, [(1000, 0, 1), (0, 500, 1)])
with open({other!r} + "/f", "w") as f:
    f.write("x")
assert os.stat({mnt!r} + "/f").st_uid == 1000 and os.stat({other!r} + "/f").st_uid == 0
assert os.stat({other!r}).st_uid == 500
do("umount", {other!r})
do("umount", {mnt!r})
"""
    os.chown(folder, 100000, 100000)
    for d in (mnt, other):
        os.chown(d, 100000, 100000)
    os.chmod("/dev/fuse", 0o666)  # as udev does
    userns = user_namespace([(0, 100000, 2000)])
    try:
        run("nsenter", f"--user=/proc/{os.getpid()}/fd/{userns}", "--setuid=0", "--setgid=0", "unshare", "-m", "/usr/bin/python3", "-c", script)
        wait_for(lambda: not daemons(image), what="the daemon's end")
        assert "clean" in run(os.path.join(BUILD, "fsck", "fsck.holdfast"), "-n", "-f", image).stdout
    finally:
        os.close(userns)
        for pid in daemons(image):
            os.kill(pid, signal.SIGKILL)


def test_not_without_the_option(unmounted):
    unmounted.mount()
    with pytest.raises(OSError) as e:
        attach(unmounted.dir, unmounted.dir, MAPS)
    assert e.value.errno == errno.EINVAL
    unmounted.umount()


@pytest.mark.skipif(SANITIZED != "", reason="a sanitizer's library must come first")
@pytest.mark.parametrize("options", ["allow_idmap", "allow_idmap,plain", "allow_idmap,foreground"])
def test_kernel_that_cannot(unmounted, options):
    """One line, nothing mounted, nobody left."""
    env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "tests", "mount", "libno_idmap.so"))
    done = run(MOUNT, unmounted.image, unmounted.dir, "-o", options, check=False, env=env)
    assert done.returncode == 32 and "allow_idmap: the kernel cannot" in done.stdout and len(done.stdout.splitlines()) == 1
    wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    assert not is_mounted(unmounted.dir) and "clean" in unmounted.fsck()
