# SPDX-License-Identifier: Apache-2.0
"""Operations that not every file system has: whiteouts, files without a name, the time of birth, copies by the daemon."""
import ctypes
import errno
import os
import stat
import struct
import time

from conftest import MOUNT, libc, run
from test_posix import KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, error_of, fallocate, read, renameat2, write

RENAME_WHITEOUT = 4
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400
STATX_BTIME = 0x800


def linkat(fd, path):
    """As open(2) says it is to be done."""
    if libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW):
        raise OSError(ctypes.get_errno(), "linkat")


def statx(path):
    """The mask, and the times: access, birth, attributes, contents; in nanoseconds."""
    buf = ctypes.create_string_buffer(256)
    if libc.statx(AT_FDCWD, os.fsencode(path), 0x100, 0xfff, buf):
        raise OSError(ctypes.get_errno(), "statx")
    times = [sec * 10**9 + nsec for sec, nsec in struct.iter_unpack("<qI4x", buf.raw[64:128])]
    return struct.unpack_from("<I", buf.raw)[0], times


# --- whiteouts ---


def is_whiteout(path):
    st = os.lstat(path)
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def test_rename_leaves_a_whiteout(vol):
    os.mkdir(vol.path("d"))
    os.chown(vol.path("d"), 0, 4711)
    os.chmod(vol.path("d"), 0o2755)
    write(vol.path("d", "a"), b"a")
    write(vol.path("b"), b"b")
    renameat2(vol.path("d", "a"), vol.path("c"), RENAME_WHITEOUT)
    assert is_whiteout(vol.path("d", "a")) and read(vol.path("c")) == b"a"
    st = os.lstat(vol.path("d", "a"))
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_nlink) == (0, 0, 4711, 1)
    assert os.listdir(vol.path("d")) == ["a"]
    assert error_of(renameat2, vol.path("c"), vol.path("b"), RENAME_WHITEOUT | RENAME_NOREPLACE) == errno.EEXIST
    assert error_of(renameat2, vol.path("c"), vol.path("b"), RENAME_WHITEOUT | RENAME_EXCHANGE) == errno.EINVAL
    renameat2(vol.path("c"), vol.path("b"), RENAME_WHITEOUT)
    renameat2(vol.path("b"), vol.path("n"), RENAME_WHITEOUT | RENAME_NOREPLACE)
    renameat2(vol.path("d"), vol.path("e"), RENAME_WHITEOUT)
    for _ in range(2):
        assert sorted(os.listdir(vol.dir)) == ["b", "c", "d", "e", "n"] and read(vol.path("n")) == b"a"
        assert all(is_whiteout(vol.path(p)) for p in ("b", "c", "d", "e/a"))
        assert os.stat(vol.dir).st_nlink == 3
        vol.remount()
    for p in ("b", "c", "d", "e/a"):
        os.unlink(vol.path(p))
    vol.umount()
    vol.fsck()


# --- O_TMPFILE ---


def close_dead(fd):
    """Of a mount whose daemon is gone: close(2) may say so."""
    try:
        os.close(fd)
    except OSError as e:
        assert e.errno == errno.ENOTCONN


def test_files_without_a_name(vol):
    os.mkdir(vol.path("d"))
    before = os.stat(vol.path("d"))
    fd = os.open(vol.path("d"), os.O_TMPFILE | os.O_RDWR, 0o640)
    st = os.fstat(fd)
    assert stat.S_ISREG(st.st_mode) and (stat.S_IMODE(st.st_mode), st.st_nlink, st.st_size) == (0o640 & ~0o022, 0, 0)
    assert os.listdir(vol.path("d")) == []
    after = os.stat(vol.path("d"))
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (before.st_mtime_ns, before.st_ctime_ns, before.st_size)
    data = os.urandom(3 << 20)
    assert os.pwrite(fd, data, 5000) == len(data)
    os.fsync(fd)
    assert os.pread(fd, len(data), 5000) == data
    os.ftruncate(fd, 1 << 20)
    os.setxattr(fd, "user.x", b"y")
    assert os.fstat(fd).st_size == 1 << 20
    linkat(fd, vol.path("name"))
    assert os.fstat(fd).st_nlink == os.stat(vol.path("name")).st_nlink == 1
    assert error_of(linkat, fd, vol.path("name")) == errno.EEXIST
    linkat(fd, vol.path("other"))
    os.pwrite(fd, b"more", 0)
    os.close(fd)
    # Never named: gone with its descriptor.
    free = os.statvfs(vol.dir).f_bfree
    fd = os.open(vol.dir, os.O_TMPFILE | os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)
    hidden = os.open(vol.dir, os.O_TMPFILE | os.O_WRONLY | os.O_EXCL)
    assert error_of(linkat, hidden, vol.path("hidden")) == errno.ENOENT
    os.close(hidden)
    vol.remount()
    assert abs(os.statvfs(vol.dir).f_bfree - free) < 64
    assert sorted(os.listdir(vol.dir)) == ["d", "name", "other"]
    content = read(vol.path("name"))
    assert content[:4] == b"more" and content[5000:] == data[:(1 << 20) - 5000] and os.getxattr(vol.path("other"), "user.x") == b"y"
    vol.umount()
    vol.fsck()


def acl(*entries):
    """(tag, permissions, id) as the kernel wants them."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who) for tag, perm, who in entries)


def test_files_without_a_name_get_what_others_get(vol):
    os.mkdir(vol.path("d"))
    os.setxattr(vol.path("d"), "system.posix_acl_default",
                acl((1, 7, 2**32 - 1), (2, 6, 4711), (4, 5, 2**32 - 1), (16, 6, 2**32 - 1), (32, 0, 2**32 - 1)))
    got = []
    for flags, name in ((os.O_TMPFILE | os.O_WRONLY, "d"), (os.O_CREAT | os.O_WRONLY, "d/f")):
        fd = os.open(vol.path(name), flags, 0o764)
        got.append((stat.S_IMODE(os.fstat(fd).st_mode), os.getxattr(fd, "system.posix_acl_access")))
        os.close(fd)
    assert got[0] == got[1]


def test_files_without_a_name_after_a_crash(vol):
    fds = [os.open(vol.dir, os.O_TMPFILE | os.O_RDWR) for _ in range(20)]
    for i, fd in enumerate(fds):
        os.write(fd, os.urandom(100000 * i))
        if i % 2:
            linkat(fd, vol.path(f"f{i}"))
        os.fsync(fd)
    inodes = [os.fstat(fd).st_ino for fd in fds]
    vol.kill()
    for fd in fds:
        close_dead(fd)
    vol.mount()
    assert sorted(os.listdir(vol.dir)) == sorted(f"f{i}" for i in range(1, 20, 2))
    for i in range(1, 20, 2):
        st = os.stat(vol.path(f"f{i}"))
        assert (st.st_ino, st.st_size, st.st_nlink) == (inodes[i], 100000 * i, 1)
    vol.umount()
    vol.fsck()


def test_files_without_a_name_on_a_mount_with_sync(unmounted):
    unmounted.mount("sync")
    fd = os.open(unmounted.dir, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"durable")
    linkat(fd, unmounted.path("f"))
    unmounted.kill()
    close_dead(fd)
    unmounted.mount()
    assert read(unmounted.path("f")) == b"durable"


# --- statx ---


def test_time_of_birth(vol):
    start = time.time_ns()
    write(vol.path("f"), b"x")
    os.mkdir(vol.path("d"))
    os.symlink("f", vol.path("s"))
    os.mkfifo(vol.path("p"))
    os.mknod(vol.path("c"), stat.S_IFCHR | 0o600, os.makedev(300, 70000))
    os.setxattr(vol.path("f"), "user.x", b"y")
    born = {}
    for name in ("f", "d", "s", "p", "c"):
        mask, times = statx(vol.path(name))
        assert mask & STATX_BTIME and mask & 0x7ff == 0x7ff
        st = os.lstat(vol.path(name))
        assert (times[0], times[2], times[3]) == (st.st_atime_ns, st.st_ctime_ns, st.st_mtime_ns)
        assert start - 10**9 < times[1] <= time.time_ns()
        born[name] = times[1]
    assert int(run("stat", "-c", "%W", vol.path("f")).stdout) == born["f"] // 10**9
    time.sleep(0.02)
    # Nothing that is done to a file moves it: neither writing nor setting times nor a new name.
    write(vol.path("f"), b"another")
    os.utime(vol.path("f"), ns=(1, 2))
    os.rename(vol.path("f"), vol.path("d", "f"))
    os.link(vol.path("d", "f"), vol.path("l"))
    run("cp", "-a", vol.path("l"), vol.path("copy"))
    assert statx(vol.path("l"))[1][1] == born["f"] and statx(vol.path("copy"))[1][1] > born["f"]
    assert os.stat(vol.path("copy")).st_mtime_ns == 2
    fd = os.open(vol.dir, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    os.sync()
    vol.kill()
    vol.mount()
    assert statx(vol.path("d", "f"))[1][1] == born["f"] and os.lstat(vol.path("c")).st_rdev == os.makedev(300, 70000)
    mask, times = statx(vol.path("c"))
    assert times[1] == born["c"]
