# SPDX-License-Identifier: Apache-2.0
"""Operations that not every file system has: whiteouts, files without a name."""
import ctypes
import errno
import os
import stat

from conftest import MOUNT, libc, run
from test_posix import KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, error_of, fallocate, read, renameat2, write

RENAME_WHITEOUT = 4
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW = -100, 0x1000, 0x400


def linkat(fd, path):
    """As open(2) says it is to be done."""
    if libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW):
        raise OSError(ctypes.get_errno(), "linkat")


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

