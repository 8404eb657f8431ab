# SPDX-License-Identifier: Apache-2.0
"""Errors, seeking, directories and appends beside ext4; what can only differ has a line under DIFFERENCES FROM EXT4 in mount.holdfast(8).

The mounts are made once for all tests of a kind; every test has a folder of its own on both.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import shutil
import stat
import subprocess
import threading

import pytest

import pair as pairs
from conftest import LONG, libc, run, wait_for
from pair import (KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, ZERO_RANGE, checked, fallocate, linkat, off_t, pair_of,
                  renameat2, result_of, status, user)

INT64_MAX = (1 << 63) - 1
ALICE, BOB = 4001, 4002


@pytest.fixture(scope="module", params=list(pairs.KINDS))
def mounts(request):
    with pair_of(request.param, "1G") as p:
        yield p


@pytest.fixture
def pair(mounts):
    mounts.begin()
    yield mounts
    mounts.end()


def create(name, data=b"", mode=0o644):
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def write_at(fd, *pieces):
    for off, data in pieces:
        assert os.pwrite(fd, data, off) == len(data)


# --- errors ------------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_errors_of_names(pair):
    both = pair.both
    for name in (b"f", b"g"):
        both(create, name, b"x")
    for name in (b"d", b"full", b"full/sub", b"e"):
        both(os.mkdir, name)
    both(os.symlink, b"f", b"to-f")
    both(os.symlink, b"d", b"to-d")
    both(os.symlink, b"none", b"dangling")
    both(os.symlink, b"loop2", b"loop1")
    both(os.symlink, b"loop1", b"loop2")
    both(os.mkfifo, b"fifo")
    both(os.mknod, b"socket", stat.S_IFSOCK | 0o644)
    both(os.mknod, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    names = [b"f", b"g", b"d", b"full", b"full/sub", b"e", b"to-f", b"to-d", b"dangling", b"loop1", b"fifo", b"socket", b"null", b"none",
             b"f/x", b"d/x", b"none/x", b"to-d/x", b"loop1/x", b".", b"..", b"d/.", b"d/..", b"f/", b"d/", b"none/", b"to-d/", b"to-f/",
             b"dangling/", b"", b"n" * 255, b"n" * 256, b"d/" + b"n" * 256, b"x/" * 2047 + b"x", b"x/" * 2048]

    def undone(function, *args):
        """Only errors matter here: what was done is undone."""
        result = both(function, *args)
        if not (isinstance(result, str) and result.startswith("E")) and function is not os.readlink:
            for side in pair.sides:
                side.enter()
                for n in os.listdir(b"."):
                    shutil.rmtree(n) if os.path.isdir(n) and not os.path.islink(n) else os.unlink(n)
            rebuild()
        return result

    def rebuild():
        for name in (b"f", b"g"):
            both(create, name, b"x")
        for name in (b"d", b"full", b"full/sub", b"e"):
            both(os.mkdir, name)
        for to, name in ((b"f", b"to-f"), (b"d", b"to-d"), (b"none", b"dangling"), (b"loop2", b"loop1"), (b"loop1", b"loop2")):
            both(os.symlink, to, name)
        both(os.mkfifo, b"fifo")
        both(os.mknod, b"socket", stat.S_IFSOCK | 0o644)
        both(os.mknod, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def opened(name, flags):
        os.close(os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644))

    seen = set()
    for name in names:
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_CREAT | os.O_WRONLY, os.O_CREAT | os.O_EXCL | os.O_RDWR, os.O_DIRECTORY, os.O_NOFOLLOW,
                      os.O_CREAT | os.O_DIRECTORY, os.O_TRUNC | os.O_RDWR, os.O_PATH):
            seen.add(undone(opened, name, flags))
        for function, *args in ((os.mkdir,), (os.rmdir,), (os.unlink,), (os.readlink,), (os.truncate, 0), (os.chmod, 0o700), (os.mkfifo,), (os.chown, 0, 0),
                                (os.utime,)):
            seen.add(undone(function, name, *args))
        for function in (lambda p: bool(os.stat(p)), lambda p: sorted(os.listdir(p)), lambda p: os.statvfs(p).f_namemax, os.listxattr):
            seen.add(repr(both(function, name)))
        seen.add(undone(os.symlink, b"f", name))
    some = [n for n in names[:24] if n not in (b"g", b"dangling", b"null", b"socket", b"none/x", b"d/..", b"to-f/")]
    for old in some:
        for new in some:
            for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
                seen.add(undone(renameat2, old, new, flags))
            seen.add(undone(linkat, old, new, 0))
    for name in ("EEXIST", "ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENOTEMPTY", "EBUSY", "EINVAL", "ENAMETOOLONG", "ENXIO", "EPERM", None):
        assert name in seen or repr(name) in seen, name
    assert both(renameat2, b"d", b"d/x", 0) == "EINVAL"
    assert both(renameat2, b"f", b"g", 3) == "EINVAL"
    assert both(os.rename, b"f", b"/proc/self/f") == "EXDEV"
    assert both(os.link, b"f", b"/dev/shm/f") == "EXDEV"


def test_errors_of_permissions(pair):
    both = pair.both
    for name, mode, owner in ((b"closed", 0o700, 0), (b"listable", 0o744, 0), (b"passable", 0o711, 0), (b"readonly", 0o755, 0), (b"sticky", 0o1777, 0),
                              (b"open", 0o777, 0), (b"mine", 0o755, ALICE)):
        both(os.mkdir, name)
        both(create, name + b"/root", b"r", 0o644)
        both(os.mkdir, name + b"/dir", 0o755)
        both(create, name + b"/bobs", b"b", 0o600)
        both(os.chown, name + b"/bobs", BOB, BOB)
        both(create, name + b"/alices", b"a", 0o400)
        both(os.chown, name + b"/alices", ALICE, ALICE)
        both(os.chown, name, owner, owner)
        both(os.chmod, name, mode)
    seen = set()
    with user(ALICE):
        for folder in (b"closed", b"listable", b"passable", b"readonly", b"sticky", b"open", b"mine"):
            seen.add(repr(both(lambda p: sorted(os.listdir(p)), folder)))
            seen.add(both(create, folder + b"/new", b"n"))
            seen.add(both(os.mkdir, folder + b"/newdir"))
            seen.add(both(os.symlink, b"x", folder + b"/newlink"))
            for name in (b"root", b"dir", b"bobs", b"alices", b"none", b"new"):
                at = folder + b"/" + name
                for function, *args in ((os.chmod, 0o640), (os.chown, ALICE, ALICE), (os.chown, BOB, -1), (os.chown, -1, BOB), (os.utime,), (os.truncate, 0),
                                        (os.setxattr, "user.a", b"1"), (os.getxattr, "user.a"), (os.setxattr, "trusted.a", b"1"),
                                        (os.getxattr, "trusted.a"), (os.setxattr, "security.a", b"1"), (os.removexattr, "user.a"), (os.access, 7),
                                        (linkat, folder + b"/linked", 0), (linkat, b"open/linked2", 0), (renameat2, folder + b"/alices", 1),
                                        (renameat2, b"open/moved", 0), (renameat2, folder + b"/bobs", 2)):
                    seen.add(repr(both(function, at, *args)))
                seen.add(both(os.utime, at, ns=(1, 1)))
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_NOATIME):
                    seen.add(both(lambda p, f: os.close(os.open(p, f)), at, flags))
            for name in (b"root", b"bobs", b"alices", b"dir", b"new"):
                seen.add(both(os.unlink if name != b"dir" else os.rmdir, folder + b"/" + name))
    assert {"EACCES", "EPERM"} <= {s.strip("'") for s in seen if isinstance(s, str)}
    pair.trees()


def test_errors_of_descriptors(pair):
    both = pair.both
    both(create, b"f", b"x" * 10000)
    both(os.mkdir, b"d")
    both(os.mkfifo, b"fifo")
    r, w, rw, append = (pair.open(b"f", f) for f in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND))
    d, p, fifo = pair.open(b"d", os.O_RDONLY), pair.open(b"f", os.O_PATH), pair.open(b"fifo", os.O_RDWR)
    seen = set()
    for h in (r, w, rw, append, d, p, fifo):
        if h is not fifo:
            for off in (0, 5, 10000, 20000, -1):
                seen.add(repr(both(os.pread, h, 10, off)))
                seen.add(both(os.pwrite, h, b"", off))
                seen.add(both(os.pwrite, h, b"y", off))
            seen.add(repr(both(os.read, h, 0)))
        for length in (-1, 0, 10000):
            seen.add(both(os.ftruncate, h, length))
        for mode in (0, KEEP_SIZE, PUNCH_HOLE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | PUNCH_HOLE, 0x40, 0x80000000 - (1 << 32)):
            for off, length in ((0, 4096), (-1, 10), (0, 0), (10, -1), (INT64_MAX, 1), (1 << 62, 1 << 62)):
                seen.add(both(fallocate, h, mode, off, length))
        if h is not d:
            for off in (0, 5, 20000, -1, INT64_MAX):
                for whence in range(6):
                    # Up to where a file may reach differs: test_the_largest_offset.
                    if off != INT64_MAX or whence > os.SEEK_END:
                        seen.add(both(os.lseek, h, off, whence))
        for function in (os.fsync, os.fdatasync):
            seen.add(both(function, h))
        seen.add(both(lambda fd: mmap.mmap(fd, 4096, mmap.MAP_SHARED).close(), h))
        seen.add(both(lambda fd: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ).close(), h))
        seen.add(repr(both(os.listdir, h)))
        seen.add(both(lambda fd: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED), h))
        seen.add(both(lambda fd: os.getxattr(fd, "user.none"), h))
        seen.add(both(lambda fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND), h))
    for name in ("EBADF", "EINVAL", "ESPIPE", "ENXIO", "EFBIG", "ENOTSUP", "ENODATA", "EACCES"):
        assert name in seen, (name, seen)
    for h in (r, w, rw, append, d, p, fifo):
        h.close()
    assert both(os.pwritev, 1 << 20, [b"x"], 0) == "EBADF"
    pair.trees()


def test_file_size_limit(pair):
    """RLIMIT_FSIZE: what fits is written, then EFBIG."""
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, old[1]))
    try:
        assert pair.both(os.pwrite, h, b"x" * 5000, 8000) == 2000
        assert pair.both(os.pwrite, h, b"x", 10000) == "EFBIG"
        assert pair.both(os.ftruncate, h, 10001) == "EFBIG"
        assert pair.both(fallocate, h, 0, 9000, 2000) == "EFBIG"
        pair.both(fallocate, h, KEEP_SIZE, 9000, 20000)
        pair.both(os.truncate, b"f", 10000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    h.close()
    pair.trees()


def test_text_busy(pair):
    for side in pair.sides:
        side.enter()
        shutil.copy("/bin/sleep", b"sleep")
    children = {}
    for side in pair.sides:
        side.enter()
        children[side] = subprocess.Popen([os.path.join(side.work, "sleep"), "60"], stdin=subprocess.DEVNULL)
    try:
        for side, child in children.items():
            wait_for(lambda: os.readlink(f"/proc/{child.pid}/exe") == os.path.join(side.work, "sleep"), what="exec")
        assert pair.both(os.open, b"sleep", os.O_WRONLY) == "ETXTBSY"
        assert pair.both(os.truncate, b"sleep", 0) == "ETXTBSY"
        assert pair.both(os.rename, b"sleep", b"moved") is None
        assert pair.both(os.unlink, b"moved") is None
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    h = pair.open(b"script", os.O_CREAT | os.O_WRONLY, 0o755)
    assert pair.both(lambda: subprocess.run(["./script"], check=False) and None) == "ETXTBSY"
    h.close()


@pytest.mark.timeout(900)
def test_links_up_to_the_limit(pair):
    """65,000 names; without HOLDFAST_LONG=1 3,000, and the limit is only approached."""
    both = pair.both
    both(create, b"f", b"x")
    both(os.mkdir, b"d")
    last = 65000 if LONG else 3000
    for side in pair.sides:
        side.enter()
        for i in range(1, last):
            os.link(b"f", b"d/%d" % i)
    assert both(lambda: os.stat(b"f").st_nlink) == last
    if LONG:
        assert both(os.link, b"f", b"d/more") == "EMLINK"
        assert both(renameat2, b"f", b"d/renamed", RENAME_NOREPLACE) is None
        assert both(os.unlink, b"d/1") is None
        assert both(os.link, b"d/2", b"d/more") is None
        assert both(os.link, b"d/2", b"d/even more") == "EMLINK"


def test_xattr_errors(pair):
    both = pair.both
    both(create, b"f")
    both(os.mkdir, b"d")
    both(os.symlink, b"f", b"s")
    both(os.mkfifo, b"p")

    def get(name, key, room):
        buf = ctypes.create_string_buffer(room or 1)
        return checked(libc.lgetxattr(name, key, buf, room)), buf.raw[:room]

    def listing(name, room):
        buf = ctypes.create_string_buffer(room or 1)
        return checked(libc.llistxattr(name, buf, room))

    def put(name, key, value, flags):
        checked(libc.lsetxattr(name, key, value, len(value), flags))

    seen = set()
    for name in (b"f", b"d", b"s", b"p", b"none"):
        for key in (b"user.a", b"user.", b"user", b"", b"trusted.a", b"security.a", b"system.a", b"os2.a", b"user." + b"n" * 250, b"user." + b"n" * 251):
            seen.add(both(put, name, key, b"12345", 2))
            seen.add(both(put, name, key, b"12345", 0))
            seen.add(both(put, name, key, b"123", 1))
            seen.add(both(put, name, key, b"123", 3))
            seen.add(both(put, name, key, b"123", 4))
            for room in (0, 4, 5, 6):
                seen.add(repr(both(get, name, key, room)))
        for room in (0, 1, 100, 1000):
            seen.add(both(listing, name, room))
        for key in (b"user.a", b"user.", b"user", b"trusted.a", b"security.a", b"system.a", b"os2.a"):
            seen.add(both(lambda n, k: checked(libc.lremovexattr(n, k)), name, key))
            seen.add(both(lambda n, k: checked(libc.lremovexattr(n, k)), name, key))
    for name in ("ENODATA", "ERANGE", "EEXIST", "EINVAL", "EPERM", "ENOENT"):
        assert name in seen or repr(name) in seen, name
    # The kernel's limit; ext4 has a smaller one of its own, of a block.
    assert both(put, b"f", b"user.large", b"x" * 65537, 0) == "E2BIG"
    pair.holdfast.enter()
    put(b"f", b"user.large", b"x" * 65536, 0)
    pair.ext4.enter()
    assert result_of(put, b"f", b"user.large", b"x" * 65536, 0) == "ENOSPC"


def test_read_only(make_volume):
    """EROFS, whoever asks."""
    vol = make_volume("64M").mkfs()
    vol.mount()
    create(vol.path("f"), b"x")
    os.mkdir(vol.path("d"))
    vol.remount("ro")
    calls = [(os.mkdir, vol.path("x")), (os.unlink, vol.path("f")), (os.rmdir, vol.path("d")), (os.rename, vol.path("f"), vol.path("g")),
             (os.symlink, "a", vol.path("s")), (os.link, vol.path("f"), vol.path("l")), (os.chmod, vol.path("f"), 0o600),
             (os.chown, vol.path("f"), 1, 1), (os.truncate, vol.path("f"), 0), (os.utime, vol.path("f")), (os.setxattr, vol.path("f"), "user.a", b""),
             (os.open, vol.path("f"), os.O_WRONLY), (os.open, vol.path("n"), os.O_CREAT | os.O_WRONLY), (os.open, vol.path("f"), os.O_TRUNC | os.O_RDWR),
             (os.mkfifo, vol.path("p"))]
    for function, *args in calls:
        assert result_of(function, *args) == "EROFS", (function, args)
    assert not os.access(vol.path("f"), os.W_OK)
    assert os.access(vol.path("f"), os.R_OK)


def test_stale_handles(pair):
    """By handle: what is gone is ESTALE; what is open, or was renamed, is found."""
    class Handle(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]

    def handle_of(name):
        h, mount_id = Handle(bytes=128), ctypes.c_int()
        checked(libc.name_to_handle_at(pairs.AT_FDCWD, name, ctypes.byref(h), ctypes.byref(mount_id), 0))
        return h

    def opened(name, h):
        return checked(libc.open_by_handle_at(name, ctypes.byref(h), os.O_RDONLY))

    for side in pair.sides:
        side.enter()
        create(b"f", b"content")
        os.mkdir(b"d")
        mount = os.open(b".", os.O_RDONLY)
        file, folder = handle_of(b"f"), handle_of(b"d")
        os.rename(b"f", b"d/g")
        fd = opened(mount, file)
        assert os.read(fd, 100) == b"content"
        os.close(fd)
        held = os.open(b"d/g", os.O_RDONLY)
        os.unlink(b"d/g")
        os.rmdir(b"d")
        fd = result_of(opened, mount, file)
        if isinstance(fd, int):		# ext4 refuses a file without a name from Linux 6.5 on, but not before
            os.close(fd)
        os.close(held)
        create(b"another", b"another")
        assert result_of(opened, mount, file) == "ESTALE", side.name
        assert result_of(opened, mount, folder) == "ESTALE", side.name
        os.close(mount)


def test_which_times_change(pair):
    """(mtime, ctime); more of it is in test_conform_machine.py."""
    both = pair.both
    both(create, b"f", b"x" * 10000)

    def changed(call, *args):
        before = os.stat(b"f")
        call(*args)
        after = os.stat(b"f")
        return after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns

    h = pair.open(b"f", os.O_RDWR)
    for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
        for off, length in ((0, 5000), (8000, 10000), (100000, 4096)):
            assert both(lambda fd: changed(fallocate, fd, mode, off, length), h) == (True, True)
    size = both(lambda fd: os.fstat(fd).st_size, h)
    assert both(lambda fd: changed(os.ftruncate, fd, size), h) == (True, True)
    both(changed, os.truncate, b"f", size)
    assert both(changed, os.chown, b"f", -1, -1) == (False, True)
    assert both(lambda fd: changed(os.pwrite, fd, b"", 0), h) == (False, False)
    assert both(lambda fd: changed(os.pwrite, fd, b"x", 0), h) == (True, True)
    for call in ((os.chmod, b"f", 0o644), (os.link, b"f", b"g"), (os.rename, b"g", b"h"), (os.setxattr, b"f", "user.a", b"1"),
                 (os.removexattr, b"f", "user.a"), (os.rename, b"f", b"f"), (os.unlink, b"h")):
        both(changed, *call)
    h.close()


# --- names ---------------------------------------------------------------------------------------------------------------------


def test_a_path_without_end(pair):
    """Deeper than a path can say: only step by step."""
    def deep(name, depth):
        fds = [os.open(b".", os.O_RDONLY)]
        for _ in range(depth):
            os.mkdir(name, dir_fd=fds[-1])
            fds.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
        at = os.open(b"f", os.O_CREAT | os.O_RDWR, dir_fd=fds[-1])
        os.write(at, b"deep")
        linked = os.fstat(fds[1]).st_nlink, os.stat(b"..", dir_fd=fds[-1]).st_nlink, os.fstat(fds[-1]).st_nlink
        os.close(at)
        found = os.listdir(fds[-1])
        up = os.stat(b"..", dir_fd=fds[-1]).st_ino == os.fstat(fds[-2]).st_ino
        for fd in fds:
            os.close(fd)
        return found, linked, up

    assert pair.both(deep, b"n" * 255, 30) == (["f"], (3, 3, 2), True)
    path = b"/".join([b"n" * 255] * 15)
    assert pair.both(lambda: os.listdir(path)) == [b"n" * 255]
    fits = path + b"/" + b"m" * (4095 - len(path) - 1)
    assert pair.both(os.stat, fits) == "ENOENT"
    assert pair.both(os.stat, fits + b"m") == "ENAMETOOLONG"
    assert pair.both(os.stat, b"/".join([b"n" * 255] * 17)) == "ENAMETOOLONG"


def test_names_of_all_bytes(pair):
    names = [bytes([b]) * n for b in range(1, 256) for n in (1, 254)] + [b"..a", b"...", b" ", b"a" * 255, "e\u0301".encode(), "\u00e9".encode()]
    for name in names:
        pair.both(create, name, name)
    for name in names[::7]:
        pair.both(os.rename, name, name[:200] + b"-new")
    for name in names[1::11]:
        pair.both(os.unlink, name)
    pair.trees()


# --- data and holes ----------------------------------------------------------------------------------------------------------------


def layout(fd):
    """[(first byte of data, behind the last)]"""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    found, off = [], 0
    while True:
        try:
            off = os.lseek(fd, off, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            return found
        end = os.lseek(fd, off, os.SEEK_HOLE)
        found.append((off, end))
        # From anywhere within.
        for at in (off, off + 1, (off + end) // 2, end - 1):
            if off <= at < end:
                assert os.lseek(fd, at, os.SEEK_DATA) == at and os.lseek(fd, at, os.SEEK_HOLE) == end
        off = end


def blocks(fd):
    return os.fstat(fd).st_blocks * 512


M = 1 << 20
LAYOUTS = {
    "empty": [],
    "small": [(os.pwrite, b"x", 0)],
    "small with a hole": [(os.ftruncate, 1000), (os.pwrite, b"x", 990)],
    "a block": [(os.pwrite, b"x" * 4096, 0)],
    "and a byte": [(os.pwrite, b"x" * 4097, 0)],
    "hole first": [(os.pwrite, b"x", 100000)],
    "hole last": [(os.pwrite, b"x" * 5000, 0), (os.ftruncate, 1 << 30)],
    "only a hole": [(os.ftruncate, 12345)],
    "every other block": [(os.pwrite, b"x", i * 8192 + 17) for i in range(40)],
    "grown in the last block": [(os.pwrite, b"x" * 10, 0), (os.ftruncate, 3000), (os.ftruncate, 5000)],
    "shrunk": [(os.pwrite, b"x" * 100000, 0), (os.ftruncate, 50001), (os.ftruncate, 200000)],
    "shrunk to a small one": [(os.pwrite, b"x" * 100000, 0), (os.ftruncate, 100), (os.ftruncate, 70000)],
    "reserved": [(fallocate, 0, 0, M)],
    "reserved behind the end": [(os.pwrite, b"x" * 6000, 0), (fallocate, KEEP_SIZE, 0, M)],
    "reserved, written within": [(fallocate, 0, 0, M), (os.pwrite, b"x" * 5000, 300001)],
    "reserved, written over": [(fallocate, 0, 4096, M), (os.pwrite, b"x" * 2 * M, 0)],
    "punched": [(os.pwrite, b"x" * M, 0), (fallocate, PUNCH_HOLE | KEEP_SIZE, 5000, 100000)],
    "punched within a block": [(os.pwrite, b"x" * M, 0), (fallocate, PUNCH_HOLE | KEEP_SIZE, 5000, 100)],
    "punched over the end": [(os.pwrite, b"x" * 50001, 0), (fallocate, PUNCH_HOLE | KEEP_SIZE, 40000, M)],
    "punched, all": [(os.pwrite, b"x" * M, 0), (fallocate, PUNCH_HOLE | KEEP_SIZE, 0, M)],
    "punched, a reservation": [(fallocate, 0, 0, M), (fallocate, PUNCH_HOLE | KEEP_SIZE, 8192, 8192)],
    "zeroed": [(os.pwrite, b"x" * M, 0), (fallocate, ZERO_RANGE, 5000, 100000)],
    "zeroed blocks": [(os.pwrite, b"x" * M, 0), (fallocate, ZERO_RANGE, 8192, 65536)],
    "zeroed over the end": [(os.pwrite, b"x" * 50000, 0), (fallocate, ZERO_RANGE, 40000, 100000)],
    "zeroed over the end, kept": [(os.pwrite, b"x" * 50000, 0), (fallocate, ZERO_RANGE | KEEP_SIZE, 40000, 100000)],
    "zeroed, nothing there": [(fallocate, ZERO_RANGE, 5000, 100000)],
    "reserved, punched, written": [(fallocate, 0, 0, M), (fallocate, PUNCH_HOLE | KEEP_SIZE, 0, 65536), (os.pwrite, b"x", 65535)],
    "far": [(os.pwrite, b"x", (1 << 43) - 5)],
}


@pytest.mark.parametrize("case", list(LAYOUTS))
def test_layout(pair, case):
    """Where data and holes are, by block; how much space is taken; and the contents."""
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    for function, *args in LAYOUTS[case]:
        pair.both(function, h, *args)
    pair.both(layout, h)
    taken = pair.each(blocks, h)
    # Small files take no block of their own on Holdfast.
    want = taken[pair.ext4]
    if want > 4096 or pair.both(lambda fd: os.fstat(fd).st_size, h) > 4096:
        # A block more or less for ext4's own index.
        assert abs(taken[pair.holdfast] - want) <= 8192, taken
    else:
        assert (taken[pair.holdfast] > 0) == (want > 0) and taken[pair.holdfast] <= want
    size = pair.both(lambda fd: os.fstat(fd).st_size, h)
    for off in (0, 1, size - 1, size, size + 1):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            if off >= 0:
                pair.both(os.lseek, h, off, whence)
    # Last, for ext4 takes a clean page of an unwritten block for data.
    if size < 4 * M:
        pair.both(lambda fd: os.pread(fd, 4 * M, 0), h)
    h.close()


def test_the_largest_offset(pair):
    """ext4 ends at 16 TiB; Holdfast where offsets end."""
    pair.holdfast.enter()
    fd = os.open(b"f", os.O_CREAT | os.O_RDWR)
    last = INT64_MAX - 1
    assert os.pwrite(fd, b"end", last - 2) == 3
    assert os.fstat(fd).st_size == INT64_MAX
    assert os.pread(fd, 3, last - 2) == b"end"
    assert os.pread(fd, 10, 1 << 62) == bytes(10)
    assert result_of(os.pwrite, fd, b"x", INT64_MAX) in ("EFBIG", "EINVAL")
    assert os.lseek(fd, 0, os.SEEK_DATA) == last & ~4095
    assert os.lseek(fd, last & ~4095, os.SEEK_HOLE) == INT64_MAX
    assert os.lseek(fd, INT64_MAX, os.SEEK_SET) == INT64_MAX
    assert result_of(os.lseek, fd, 1, os.SEEK_CUR) in ("EOVERFLOW", "EINVAL")
    places = [i << 40 for i in range(1, 1 << 22, 130003)] + [(16 << 40) - 100, 16 << 40]
    for off in places:
        os.pwrite(fd, b"%d" % off, off)
    for off in places:
        assert os.pread(fd, len(b"%d" % off), off) == b"%d" % off
    os.ftruncate(fd, (16 << 40) + 1)
    assert os.fstat(fd).st_size == (16 << 40) + 1
    os.ftruncate(fd, INT64_MAX)
    assert os.pread(fd, 3, last - 2) == bytes(3)
    fallocate(fd, 0, INT64_MAX - 8192, 8192)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, INT64_MAX)
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)


# --- appends -------------------------------------------------------------------------------------------------------------------


def test_appends_do_not_mix(pair):
    """Processes and threads append records of odd lengths to one file; each is there once, whole, in its writer's order."""
    def writer(n, path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for i in range(150):
            record = b"<%d:%d:" % (n, i) + b"-" * (i * 37 % 3000) + b">"
            assert os.write(fd, record) == len(record)
        os.close(fd)

    pair.holdfast.enter()
    path = os.path.join(pair.holdfast.work, "log")
    children = []
    for n in range(4):
        pid = os.fork()
        if pid == 0:
            threads = [threading.Thread(target=writer, args=(2 * n + i, path)) for i in range(2)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    with open(path, "rb") as f:
        records = f.read().split(b">")
    assert records.pop() == b"" and len(records) == 8 * 150
    for n in range(8):
        want = [b"<%d:%d:" % (n, i) + b"-" * (i * 37 % 3000) for i in range(150)]
        assert [r for r in records if r.startswith(b"<%d:" % n)] == want


def test_append_ignores_the_offset(pair):
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    pair.both(os.write, h, b"12345")
    pair.both(os.pwrite, h, b"67", 0)
    pair.both(os.lseek, h, 1, os.SEEK_SET)
    pair.both(os.write, h, b"89")
    assert pair.both(os.lseek, h, 0, os.SEEK_CUR) == 9
    h.close()
    h = pair.open(b"f", os.O_RDWR)
    pair.both(os.pwritev, h, [b"ab", b"cd"], 0, os.RWF_APPEND)
    pair.both(os.pwritev, h, [b"ef"], 4, os.RWF_DSYNC)
    pair.both(os.pwritev, h, [b"gh"], 6, os.RWF_SYNC)
    assert pair.both(os.pread, h, 100, 0) == b"1234efgh9abcd"
    h.close()


# --- directories ---------------------------------------------------------------------------------------------------------------


class Dir:
    """opendir(3) and what belongs to it: positions."""

    class Entry(ctypes.Structure):
        _fields_ = [("ino", ctypes.c_ulong), ("off", ctypes.c_long), ("reclen", ctypes.c_ushort), ("type", ctypes.c_ubyte),
                    ("name", ctypes.c_char * 256)]

    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(Entry)
    libc.telldir.restype = ctypes.c_long

    def __init__(self, name):
        self.p = ctypes.c_void_p(libc.opendir(name))
        assert self.p

    def read(self):
        """(name, type, inode) or None"""
        e = libc.readdir(self.p)
        return (e.contents.name, e.contents.type, e.contents.ino) if e else None

    def rest(self):
        return list(iter(self.read, None))

    def tell(self):
        return libc.telldir(self.p)

    def seek(self, at):
        libc.seekdir(self.p, off_t(at))

    def close(self):
        libc.closedir(self.p)


def test_entries(pair):
    """Every name once, with the type and the inode number that stat gives; "." and ".." too."""
    pair.both(os.mkdir, b"d")
    kinds = {b"file": create, b"dir": os.mkdir, b"fifo": os.mkfifo, b"link": lambda n: os.symlink(b"x", n),
             b"socket": lambda n: os.mknod(n, stat.S_IFSOCK | 0o644), b"char": lambda n: os.mknod(n, stat.S_IFCHR | 0o644, os.makedev(1, 3)),
             b"block": lambda n: os.mknod(n, stat.S_IFBLK | 0o644, os.makedev(7, 0))}
    for name, make in kinds.items():
        pair.both(make, b"d/" + name)

    def entries():
        d = Dir(b"d")
        found = d.rest()
        d.close()
        for name, _, ino in found:
            assert os.lstat(b"d/" + name).st_ino == ino, name
        return sorted((name, kind) for name, kind, _ in found)

    assert len(pair.both(entries)) == len(kinds) + 2
    assert pair.both(lambda: os.stat(b"d").st_nlink) == 3


def test_positions_stay_good(pair):
    """telldir's positions lead to the same entry while others come and go, also from another descriptor."""
    pair.holdfast.enter()
    os.mkdir(b"d")
    for i in range(1500):
        create(b"d/%d" % i)
    d, order = Dir(b"d"), []
    while True:
        at = d.tell()
        e = d.read()
        if e is None:
            break
        order.append((at, e[0]))
    assert len({at for at, _ in order}) == len(order) == 1502
    stay = [e for e in order if e[1].isdigit() and int(e[1]) % 3]
    for i in range(0, 1500, 3):
        os.unlink(b"d/%d" % i)
        create(b"d/new%d" % i)
    other = Dir(b"d")
    for which in (d, other):
        for at, name in stay[::50]:
            which.seek(at)
            # From the middle the kernel may give what it read before, so also what has been removed: a difference.
            rest = [n for n, _, _ in which.rest() if n.isdigit() and int(n) % 3]
            assert rest == [n for a, n in stay if a >= at], name
        which.seek(order[0][0])
        assert sorted(n for n, _, _ in which.rest()) == sorted([b".", b".."] + os.listdir(b"d"))
    d.close()
    other.close()


def test_removal_while_reading(pair):
    """As rm -rf does it: reads on after each batch of unlinks.  Nothing is left over, nothing comes twice."""
    pair.holdfast.enter()
    os.mkdir(b"d")
    for i in range(2000):
        create(b"d/%d" % i)
    d, seen = Dir(b"d"), []
    while e := d.read():
        if e[0] not in (b".", b".."):
            os.unlink(b"d/" + e[0])
            seen.append(e[0])
    d.close()
    assert len(seen) == len(set(seen)) == 2000
    os.rmdir(b"d")


@pytest.mark.timeout(900)
def test_removal_while_others_create(pair):
    """rm -rf of what others still fill: it ends, or says that the directory is not empty, and what is there afterwards is right."""
    pair.holdfast.enter()
    top = pair.holdfast.work
    stop = threading.Event()
    made = []

    def fill(n):
        i = 0
        while not stop.is_set():
            try:
                os.makedirs(os.path.join(top, "d", f"{n}-{i % 5}"), exist_ok=True)
                create(os.path.join(top, "d", f"{n}-{i % 5}", f"{i}"), b"x")
                made.append(i)
            except OSError as e:
                assert e.errno in (errno.ENOENT, errno.EEXIST), e
            i += 1

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    for _ in range(8):
        done = run("rm", "-rf", os.path.join(top, "d"), check=False)
        # "Is a directory": rm had seen nothing there, and then came somebody and made it.
        assert done.returncode == 0 or "Directory not empty" in done.stdout or "Is a directory" in done.stdout, done.stdout
    stop.set()
    for t in threads:
        t.join()
    assert made
    run("rm", "-rf", os.path.join(top, "d"))
    assert os.listdir(top) == []


@pytest.mark.timeout(900)
def test_a_directory_of_many(pair):
    """Of 100,000 entries (10,000 without HOLDFAST_LONG=1): all are listed once, found, and removed."""
    count = 100000 if LONG else 10000
    pair.holdfast.enter()
    os.mkdir(b"d")
    create(b"f")
    for i in range(count):
        os.link(b"f", b"d/%d" % i) if i < 60000 else os.mknod(b"d/%d" % i)
    assert sorted(map(int, os.listdir(b"d"))) == list(range(count))
    assert os.path.exists(b"d/%d" % (count - 1)) and not os.path.exists(b"d/%d" % count)
    for i in range(0, count, 2):
        os.unlink(b"d/%d" % i)
    assert sorted(map(int, os.listdir(b"d"))) == list(range(1, count, 2))
    assert result_of(os.rmdir, b"d") == "ENOTEMPTY"


def test_links_of_directories(pair):
    def links(name):
        return os.stat(name).st_nlink
    pair.both(os.mkdir, b"d")
    pair.both(os.mkdir, b"e")
    for i in range(10):
        pair.both(os.mkdir, b"d/%d" % i)
        pair.both(create, b"d/f%d" % i)
    assert pair.both(links, b"d") == 12
    pair.both(os.rename, b"d/0", b"e/0")
    pair.both(os.rename, b"d/1", b"e/0")
    pair.both(renameat2, b"d/2", b"e/0", RENAME_EXCHANGE)
    pair.both(renameat2, b"d/f1", b"e/0", RENAME_EXCHANGE)
    pair.both(os.rmdir, b"d/3")
    for name in (b"d", b"e", b"."):
        pair.both(links, name)
    h = pair.open(b"d/4", os.O_RDONLY)
    pair.both(os.rmdir, b"d/4")
    assert pair.both(lambda fd: os.fstat(fd).st_nlink, h) == 0
    assert pair.both(os.listdir, h) == []
    assert pair.both(lambda fd: os.open(b"x", os.O_CREAT | os.O_WRONLY, dir_fd=fd), h) == "ENOENT"
    assert pair.both(lambda fd: os.mkdir(b"x", dir_fd=fd), h) == "ENOENT"
    assert pair.both(lambda fd: os.stat(b"..", dir_fd=fd).st_mode, h)
    h.close()
    pair.trees()
