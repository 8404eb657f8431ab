# SPDX-License-Identifier: Apache-2.0
"""Any sequence of calls gives on Holdfast what it gives on ext4: results, errors, which times change, and the tree afterwards.

Hypothesis makes the sequences up, and shortens one that shows a difference.  HOLDFAST_SEED chooses others.
"""
import mmap
import os
import random
import stat
import sys

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import pair as pairs
from conftest import LONG
from pair import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, Handle, fallocate, linkat, pair_of, renameat2, result_of, status

SEED = int(os.environ.get("HOLDFAST_SEED", 1))
EXAMPLES = int(os.environ.get("HOLDFAST_EXAMPLES", 2000 if LONG else 30))
STEPS = 60
REMOUNT_EACH = 25
MOST_HANDLES = 6
USERS = (0, 4001, 4002)

NAMES = [b"a", b"b", b"c", b"d"]
# Few, so that they meet; and some that are wrong in each way that a path can be.
PATHS = NAMES * 3 + [x + b"/" + y for x in (b"a", b"d") for y in NAMES] * 2 + [
    b"d/a/b", b"d/a/d", b"a/d/c", b"n" * 255, b"d/" + b"n" * 255, "caf\u00e9\u4e2d".encode(), b"\xff\x01 \n", b"-",
    b"n" * 256, b"", b".", b"..", b"d/.", b"d/..", b"a/", b"d/", b"../work/a", b"d/../b", b"none/x", b"a//b", b"c/x/y/z",
]
TARGETS = [b"a", b"b", b"c", b"d", b"d/a", b"../a", b"d/", b".", b"none", b"c/x", b"x" * 300, b"x" * 4095, b"x" * 4096, b""]
SIZES = [0, 1, 2, 511, 512, 1000, 1024, 1025, 4095, 4096, 4097, 8192, 10000, 65536, 65537, 100000, 131072, 200000]
FAR = [(1 << 20) + 3, (1 << 31) - 1, 1 << 32, (1 << 40) + 5000, (1 << 43) - 4096]
XATTRS = ["user.a", "user.b", "user." + "n" * 250, "trusted.t", "security.x", "user.", "user." + "n" * 251, "odd.a", "a", "system.x",
          "trusted.", "security."]
# Without setgid where the group may not execute: mount.holdfast(8).
MODES = [0o644, 0o600, 0o755, 0o777, 0o000, 0o640, 0o111, 0o1777, 0o4755, 0o2755, 0o6711, 0o2777]
TIMES = [(0, 0), (1, 999999999), (10**9, 5), (2**31, 123456789), (2**33, 1), (-5, 7)]

path = st.sampled_from(PATHS)
size = st.sampled_from(SIZES) | st.integers(0, 300000)
offset = size | st.sampled_from(FAR)
mode = st.sampled_from(MODES)
which = st.integers(0, MOST_HANDLES - 1)
xattr = st.sampled_from(XATTRS)
yes = st.booleans()

ACCESS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]
EXTRA = [0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_APPEND, os.O_CREAT | os.O_APPEND,
         os.O_DIRECT, os.O_CREAT | os.O_DIRECT, os.O_CREAT | os.O_SYNC, os.O_DSYNC, os.O_DIRECTORY, os.O_CREAT | os.O_DIRECTORY,
         os.O_NOFOLLOW, os.O_CREAT | os.O_NOFOLLOW, os.O_NOATIME, os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_CREAT | os.O_EXCL | os.O_APPEND]

ALIGN = 4096
aligned = mmap.mmap(-1, 1 << 19)


def pattern(number, length):
    """Never zeros, or a hole could pass for it."""
    return bytes([1 + number % 250, 1 + (number // 250) % 250]) * (length // 2) + b"z" * (length % 2)


def write_aligned(fd, data, off):
    aligned[:len(data)] = data
    with memoryview(aligned) as whole, whole[:len(data)] as piece:
        return os.pwritev(fd, [piece], off)


def read_aligned(fd, length, off):
    with memoryview(aligned) as whole, whole[:length] as piece:
        n = os.preadv(fd, [piece], off)
        return bytes(piece[:n])


def times_of(name, follow=False):
    s = os.stat(name, follow_symlinks=follow)
    return s.st_ino, s.st_mtime_ns, s.st_ctime_ns


def mode_and_owner(name, follow):
    s = os.stat(name, follow_symlinks=follow)
    return s.st_mode, s.st_uid


def seek_data(fd, off, whence):
    """Where data is; on disk, not in memory, as ext4 takes clean pages of unwritten blocks for data."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.lseek(fd, off, whence)


class Machine(RuleBasedStateMachine):
    pair = None		# set by the test

    def __init__(self):
        super().__init__()
        self.handles, self.written, self.uid, self.mapped = [], 0, 0, False
        self.pair.begin()

    # --- helpers ---

    def become(self, uid):
        self.uid = uid
        os.seteuid(0)
        os.setegid(uid)
        os.seteuid(uid)

    def times(self, names):
        found = {}
        for side in self.pair.sides:
            side.enter()
            found[side] = {}
            for name in names:
                at = side.fd if name == "." else name
                if isinstance(at, Handle):
                    at = at.fds[side]
                found[side][name] = result_of(times_of, at, follow=isinstance(at, int))
        return found

    def call(self, function, *args, watch=(), **kwargs):
        """On both; and the same times of the same files must have changed.  `watch`: names and handles."""
        names = set(watch)
        for name in watch:
            if isinstance(name, bytes) and name.rstrip(b"/"):
                names.add(os.path.dirname(name.rstrip(b"/")) or b".")
        before = self.times(names)
        result = self.pair.both(function, *args, **kwargs)
        after = self.times(names)
        for name in names:
            changed = []
            for side in self.pair.sides:
                a, b = before[side][name], after[side][name]
                # Another file's times say nothing.
                same = isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0]
                changed.append(tuple(x == y for x, y in zip(a, b)) if same else isinstance(b, str))
            label = name.flags if isinstance(name, Handle) else name
            if changed[0] != changed[1]:
                self.differ(f"{function.__name__}{args} -> {pairs.shown(result)}: of {label!r}, unchanged (inode, mtime, ctime): "
                            f"ext4 {changed[0]}, holdfast {changed[1]}")
        return result

    def differ(self, what):
        raise AssertionError(what)

    def privileged(self, name, follow):
        """setuid or setgid, and not a file of the unprivileged user who asks."""
        found = self.pair.both(mode_and_owner, name, follow)
        if isinstance(found, str) or stat.S_ISDIR(found[0]) or not found[0] & (stat.S_ISUID | stat.S_ISGID):
            return False
        return self.uid == 0 or found[1] != self.uid

    def handle(self, n):
        return self.handles[n % len(self.handles)]

    def data(self, length):
        self.written += 1
        return pattern(self.written, length)

    def opened(self):
        return bool(self.handles)

    # --- a start that is not empty ---

    @initialize(uid=st.sampled_from(USERS), tree=yes)
    def start(self, uid, tree):
        if tree:
            self.call(os.mkdir, b"d", 0o777)
            self.call(os.mkdir, b"d/d", 0o755)
            h = self.pair.open(b"a", os.O_CREAT | os.O_RDWR, 0o666)
            self.pair.both(os.write, h, self.data(10000))
            self.handles.append(h)
            self.call(os.symlink, b"d/a", b"c")
        self.become(uid)

    @rule(uid=st.sampled_from(USERS))
    def change_user(self, uid):
        self.become(uid)

    # --- names ---

    @rule(name=path, access=st.sampled_from(ACCESS), extra=st.sampled_from(EXTRA), mode=mode)
    def open(self, name, access, extra, mode):
        h = self.pair.open(name, access | extra | os.O_NONBLOCK, mode)
        if not isinstance(h, Handle):
            return
        if len(self.handles) == MOST_HANDLES:
            self.handles.pop(0).close()
        self.handles.append(h)
        self.pair.both(lambda fd: status(os.fstat(fd)), h)

    @rule(name=path, length=size, extra=st.sampled_from([0, os.O_TRUNC, os.O_APPEND]))
    def write_file(self, name, length, extra):
        h = self.pair.open(name, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | extra, 0o666)
        if isinstance(h, Handle):
            self.pair.both(os.write, h, self.data(length))
            h.close()

    @rule(name=path, mode=mode)
    def mkdir(self, name, mode):
        self.call(os.mkdir, name, mode, watch=[name])

    @rule(name=path)
    def rmdir(self, name):
        self.call(os.rmdir, name, watch=[name])

    @rule(name=path)
    def unlink(self, name):
        self.call(os.unlink, name, watch=[name, *self.handles])

    @rule(old=path, new=path, flags=st.sampled_from([0, 0, 0, 0, 1, 2, 3]))
    def rename(self, old, new, flags):
        self.call(renameat2, old, new, flags, watch=[old, new, *self.handles])

    @rule(old=path, new=path, flags=st.sampled_from([0, 0x400]))
    def link(self, old, new, flags):
        self.call(linkat, old, new, flags, watch=[old, new, *self.handles])

    @rule(to=st.sampled_from(TARGETS), name=path)
    def symlink(self, to, name):
        self.call(os.symlink, to, name, watch=[name])

    @rule(name=path)
    def readlink(self, name):
        self.pair.both(os.readlink, name)

    @rule(name=path, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR]), mode=mode)
    def mknod(self, name, kind, mode):
        self.call(os.mknod, name, kind | mode, os.makedev(1, 3) if kind == stat.S_IFCHR else 0, watch=[name])

    @rule(name=path)
    def listdir(self, name):
        self.pair.both(lambda p: sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink(), e.is_file(follow_symlinks=False))
                                        for e in os.scandir(p)), name)

    @rule(name=path, follow=yes)
    def stat(self, name, follow):
        self.pair.both(lambda p: status(os.stat(p, follow_symlinks=follow)), name)

    @rule(name=path, how=st.sampled_from([os.F_OK, os.R_OK, os.W_OK, os.X_OK, 7]))
    def access(self, name, how):
        self.pair.both(os.access, name, how, effective_ids=True)

    # --- attributes ---

    @rule(name=path, mode=mode)
    def chmod(self, name, mode):
        self.call(os.chmod, name, mode, watch=[name])

    @precondition(opened)
    @rule(n=which, mode=mode)
    def fchmod(self, n, mode):
        self.call(os.fchmod, self.handle(n), mode, watch=self.handles)

    @rule(name=path, uid=st.sampled_from([-1, *USERS]), gid=st.sampled_from([-1, *USERS]), follow=yes)
    def chown(self, name, uid, gid, follow):
        if uid == gid == -1 and self.privileged(name, follow):
            return  # FUSE does not tell it from a write that is about to come (mount.holdfast(8), chown)
        self.call(os.chown, name, uid, gid, follow_symlinks=follow, watch=[name])

    @rule(name=path, atime=st.sampled_from(TIMES), mtime=st.sampled_from(TIMES), follow=yes)
    def utime(self, name, atime, mtime, follow):
        self.call(os.utime, name, ns=tuple(s * 10**9 + n for s, n in (atime, mtime)), follow_symlinks=follow, watch=[name])
        self.pair.both(lambda p: os.stat(p, follow_symlinks=follow).st_mtime_ns, name) if self.uid == 0 else None

    @rule(name=path)
    def utime_now(self, name):
        self.call(os.utime, name, watch=[name])

    @rule(name=path, key=xattr, length=st.sampled_from([0, 1, 10, 100, 200]), flags=st.sampled_from([0, 0, 0, 1, 2]), follow=yes)
    def setxattr(self, name, key, length, flags, follow):
        self.call(os.setxattr, name, key, self.data(length), flags, follow_symlinks=follow, watch=[name])

    @rule(name=path, key=xattr, follow=yes)
    def removexattr(self, name, key, follow):
        self.call(os.removexattr, name, key, follow_symlinks=follow, watch=[name])

    @rule(name=path, key=xattr, follow=yes)
    def getxattr(self, name, key, follow):
        self.pair.both(os.getxattr, name, key, follow_symlinks=follow)
        self.pair.both(lambda p: sorted(os.listxattr(p, follow_symlinks=follow)), name)

    # --- contents ---

    @rule(name=path, length=offset)
    def truncate(self, name, length):
        self.call(os.truncate, name, length, watch=[name, *self.handles])

    @precondition(opened)
    @rule(n=which)
    def close(self, n):
        h = self.handle(n)
        self.handles.remove(h)
        h.close()

    @precondition(lambda self: 0 < len(self.handles) < MOST_HANDLES)
    @rule(n=which)
    def dup(self, n):
        h = self.handle(n)
        self.handles.append(Handle({side: os.dup(fd) for side, fd in h.fds.items()}, h.flags))

    def direct(self, h):
        return h.flags & os.O_DIRECT and not h.flags & os.O_PATH

    @precondition(opened)
    @rule(n=which, length=size)
    def write(self, n, length):
        h = self.handle(n)
        # Unaligned, with O_DIRECT, it is an error on ext4: another test.
        if not self.direct(h):
            self.call(os.write, h, self.data(length), watch=[h])
            self.pair.both(os.lseek, h, 0, os.SEEK_CUR)

    @precondition(opened)
    @rule(n=which, length=size, off=offset, flags=st.sampled_from([0, 0, 0, os.RWF_DSYNC, os.RWF_SYNC, os.RWF_APPEND]))
    def pwrite(self, n, length, off, flags):
        h = self.handle(n)
        if self.direct(h):
            length, off = length // 512 * 512, off // 512 * 512
            self.call(write_aligned, h, self.data(length), off, watch=[h])
        else:
            self.call(os.pwritev, h, [self.data(length)], off, flags, watch=[h])

    @precondition(opened)
    @rule(n=which, length=size)
    def read(self, n, length):
        h = self.handle(n)
        if not self.direct(h):
            self.pair.both(os.read, h, length)
            self.pair.both(os.lseek, h, 0, os.SEEK_CUR)

    @precondition(opened)
    @rule(n=which, length=size, off=offset)
    def pread(self, n, length, off):
        h = self.handle(n)
        if self.direct(h):
            self.pair.both(read_aligned, h, length // 512 * 512, off // 512 * 512)
        else:
            self.pair.both(os.pread, h, length, off)

    @precondition(opened)
    @rule(n=which, length=offset)
    def ftruncate(self, n, length):
        h = self.handle(n)
        self.call(os.ftruncate, h, length, watch=[h])

    @precondition(opened)
    @rule(n=which, mode=st.sampled_from([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE,
                                         PUNCH_HOLE, 0x40]), off=offset, length=size)
    def fallocate(self, n, mode, off, length):
        h = self.handle(n)
        self.call(fallocate, h, mode, off, length, watch=[h])

    @precondition(opened)
    @rule(n=which, off=offset | st.integers(-3, 0), whence=st.integers(0, 2))
    def lseek(self, n, off, whence):
        h = self.handle(n)
        # Positions in a directory, and what lies behind the largest file, are each filesystem's own.
        if not self.pair.both(lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode), h) and off < 1 << 41:
            self.pair.both(os.lseek, h, off, whence)

    @precondition(opened)
    @rule(n=which, off=offset, whence=st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE]))
    def seek(self, n, off, whence):
        h = self.handle(n)
        if not self.mapped and not h.flags & os.O_PATH and self.pair.both(lambda fd: stat.S_ISREG(os.fstat(fd).st_mode), h):
            self.pair.both(seek_data, h, off, whence)

    @precondition(opened)
    @rule(n=which, kind=st.sampled_from([os.fsync, os.fdatasync]))
    def sync(self, n, kind):
        self.pair.both(kind, self.handle(n))

    @precondition(lambda self: len(self.handles) > 1)
    @rule(n=which, m=which, off=st.none() | size, length=size)
    def sendfile(self, n, m, off, length):
        src, dst = self.handle(n), self.handle(m)
        if src is not dst and not self.direct(src) and not self.direct(dst):
            self.call(os.sendfile, dst, src, off, length, watch=[src, dst])

    @precondition(opened)
    @rule(n=which, off=size, length=size, shared=yes, sync=yes, keep=yes)
    def store(self, n, off, length, shared, sync, keep):
        """Through a mapping; a private one changes nothing.  Its times change at different moments: not compared."""
        h = self.handle(n)
        now = self.pair.both(lambda fd: status(os.fstat(fd)), h)
        st_size = now["size"] or 0
        if off >= min(st_size, 1 << 20):
            return
        length = min(length, st_size - off)
        data = self.data(length)

        def put(fd):
            m = mmap.mmap(fd, min(st_size, 1 << 20), mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
            m[off:off + length] = data
            assert m[off:off + length] == data
            if sync:
                m.flush()
            if keep:
                maps.append(m)
            else:
                m.close()
            return os.pread(fd, length, off) if not self.direct(h) else None

        maps = []
        self.pair.both(put, h)
        self.mapped |= bool(maps)
        if len(maps) == 2 and not h.maps:
            h.maps = dict(zip(self.pair.sides, maps))

    @precondition(opened)
    @rule(n=which)
    def look(self, n):
        """A handle, and a mapping of it that was made earlier, see what is there now."""
        h = self.handle(n)
        self.pair.both(lambda fd: status(os.fstat(fd)), h)
        now = [os.fstat(fd).st_size for fd in h.fds.values()]
        if h.maps and min(now) > 0:
            seen = [h.maps[side][:min(min(now), len(h.maps[side]))] for side in self.pair.sides]
            assert seen[0] == seen[1], "a mapping shows something else"

    # --- the end ---

    def teardown(self):
        self.become(0)
        try:
            if sys.exc_info()[0] is None:
                for h in self.handles:
                    self.pair.both(lambda fd: status(os.fstat(fd)), h)
                self.pair.trees()
        finally:
            for h in self.handles:
                h.close()
            self.handles = []
            try:
                if sys.exc_info()[0] is None and self.pair.count % REMOUNT_EACH == 0:
                    self.pair.remount()
                    self.pair.trees()
            finally:
                self.pair.end()


@pytest.fixture(params=list(pairs.KINDS))
def pair(request):
    with pair_of(request.param) as p:
        yield p


@pytest.mark.timeout(7200 if LONG else 180)
def test_any_sequence(pair):
    Machine.pair = pair
    groups = os.getgroups()
    os.setgroups([])
    print(f"HOLDFAST_SEED={SEED}")
    try:
        run_state_machine_as_test(
            seed(SEED)(Machine),
            settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None, print_blob=False,
                              verbosity=Verbosity.normal, suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
                              phases=(Phase.explicit, Phase.generate, Phase.shrink)))
    finally:
        os.setgroups(groups)
    # Everything is removed again.
    pair.remount()
    now = os.statvfs(pair.vol.dir)
    assert (now.f_bfree, now.f_files - now.f_ffree) == (pair.space.f_bfree, pair.space.f_files - pair.space.f_ffree)
    pair.unmount()
    pair.vol.fsck("-n", "-f", "--data")
