# SPDX-License-Identifier: Apache-2.0
"""Operations that not every file system has: whiteouts, files without a name, the time of birth, copies by the daemon."""
import ctypes
import errno
import mmap
import os
import stat
import struct
import subprocess
import threading
import time
import traceback

from conftest import libc, run, sha256
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
    run("sync", "-f", vol.dir)
    vol.kill()
    vol.mount()
    assert statx(vol.path("d", "f"))[1][1] == born["f"] and os.lstat(vol.path("c")).st_rdev == os.makedev(300, 70000)
    mask, times = statx(vol.path("c"))
    assert times[1] == born["c"]


# --- copy_file_range ---


def copy_range(src, dst, length, at_src=0, at_dst=0):
    """Until nothing more comes; returns how much came in how many calls."""
    done = calls = 0
    while done < length:
        n = os.copy_file_range(src, dst, length - done, at_src + done, at_dst + done)
        if not n:
            break
        done += n
        calls += 1
    return done, calls


def test_copy(vol):
    data = os.urandom(5 << 20)
    write(vol.path("a"), data)
    src, dst = os.open(vol.path("a"), os.O_RDONLY), os.open(vol.path("b"), os.O_RDWR | os.O_CREAT)
    assert copy_range(src, dst, len(data))[0] == len(data)
    assert read(vol.path("b")) == data
    # Not aligned, over what the page cache of the destination has; and of what the source's has not written yet.
    old, data = data, data[:100] + b"m" * 100 + data[200:]
    with open(vol.path("a"), "r+b") as f, mmap.mmap(f.fileno(), len(data)) as m, mmap.mmap(dst, len(data)) as n:
        m[100:200] = b"m" * 100
        assert n[777] == old[777] and n[-1] == old[-1]
        assert copy_range(src, dst, 2000001, 7, 555)[0] == 2000001
        assert n[555:2000556] == data[7:2000008]
    assert read(vol.path("b")) == old[:555] + data[7:2000008] + old[2000556:] and read(vol.path("a")) == data
    # The end of the source; overlaps; small ones.
    assert os.copy_file_range(src, dst, 100, len(data), 0) == 0
    assert copy_range(src, dst, 100, len(data) - 10, 5)[0] == 10
    assert error_of(os.copy_file_range, dst, dst, 100, 0, 50) == errno.EINVAL
    assert copy_range(dst, dst, 100, 0, 1 << 30)[0] == 100
    assert os.fstat(dst).st_size == (1 << 30) + 100
    assert error_of(os.copy_file_range, src, src, 100, 0, 200) == errno.EBADF
    os.close(dst)
    write(vol.path("tiny"), b"tiny")
    run("cp", "--reflink=never", vol.path("tiny"), vol.path("tiny2"))
    run("cp", vol.path("tiny"), vol.path("tiny3"))
    assert read(vol.path("tiny2")) == read(vol.path("tiny3")) == b"tiny"
    os.close(src)
    vol.remount()
    assert os.path.getsize(vol.path("b")) == (1 << 30) + 100
    vol.umount()
    vol.fsck()


def test_copy_keeps_holes(vol):
    src, dst = os.open(vol.path("a"), os.O_RDWR | os.O_CREAT), os.open(vol.path("b"), os.O_RDWR | os.O_CREAT)
    os.pwrite(src, b"begin", 0)
    os.pwrite(src, b"x" * 300000, 1 << 20)
    os.pwrite(src, b"end", 3 << 40)
    assert copy_range(src, dst, (3 << 40) + 3)[0] == (3 << 40) + 3
    st = os.fstat(dst)
    assert (st.st_size, st.st_blocks) == ((3 << 40) + 3, os.fstat(src).st_blocks) and st.st_blocks < 700
    assert os.pread(dst, 10, (3 << 40) - 5) == b"\0" * 5 + b"end" and os.lseek(dst, 5000, os.SEEK_DATA) == 1 << 20
    # A hole over data frees it.
    full = os.open(vol.path("c"), os.O_RDWR | os.O_CREAT)
    os.pwrite(full, b"y" * (4 << 20), 0)
    assert copy_range(src, full, 900000, 100000, 50000)[0] == 900000
    assert os.fstat(full).st_blocks < (4 << 20) // 512 - 850000 // 512
    assert os.pread(full, 5, 49998) == b"yy\0\0\0" and os.pread(full, 5, 949997) == b"\0\0\0yy"
    for fd in (src, dst, full):
        os.close(fd)


def test_copy_of_much(vol):
    write(vol.path("a"), os.urandom(100 << 20))
    vol.remount()
    src, dst = os.open(vol.path("a"), os.O_RDONLY), os.open(vol.path("b"), os.O_RDWR | os.O_CREAT)
    done, calls = copy_range(src, dst, 100 << 20)
    # 64 MiB in one call at most, so that it can be interrupted.
    assert (done, calls) == (100 << 20, 2)
    os.close(src)
    os.close(dst)
    assert sha256(vol.path("a")) == sha256(vol.path("b"))


def test_copy_does_not_hold_others_up(vol):
    """While gigabytes are copied, whoever else asks the same workers is answered."""
    write(vol.path("a"), os.urandom(48 << 20))
    write(vol.path("other"), b"x")
    slowest = 0
    done = threading.Event()

    def copies():
        src = os.open(vol.path("a"), os.O_RDONLY)
        for i in range(3):
            dst = os.open(vol.path(f"b{i}"), os.O_RDWR | os.O_CREAT)
            assert copy_range(src, dst, 48 << 20)[0] == 48 << 20
            os.close(dst)
        os.close(src)
        done.set()

    thread = threading.Thread(target=copies)
    thread.start()
    asked = 0
    while not done.is_set():
        start = time.monotonic()
        os.utime(vol.path("other"), ns=(asked, asked))
        slowest = max(slowest, time.monotonic() - start)
        asked += 1
    thread.join()
    assert asked > 20 and slowest < 2, (asked, slowest)


def test_copy_is_durable_on_a_mount_with_sync(unmounted):
    unmounted.mount("sync")
    write(unmounted.path("a"), b"a" * 3000000)
    src, dst = os.open(unmounted.path("a"), os.O_RDONLY), os.open(unmounted.path("b"), os.O_RDWR | os.O_CREAT)
    assert copy_range(src, dst, 3000000)[0] == 3000000
    unmounted.kill()
    for fd in (src, dst):
        close_dead(fd)
    unmounted.mount()
    assert read(unmounted.path("b")) == b"a" * 3000000


# --- setuid and setgid: what changes the file takes the bits away ---


def as_user(function):
    """In a child of user and group 1234."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            function()
            os._exit(0)
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def as_user_output(program):
    return subprocess.run([program], user=1234, group=1234, extra_groups=[], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_setuid_is_cleared(vol):
    path = vol.path("f")
    os.chmod(vol.dir, 0o777)
    write(vol.path("source"), b"s" * 10000)

    def appending():
        with open(path, "ab") as f:
            f.write(b"x")

    def direct():
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
        buf = mmap.mmap(-1, 4096)
        os.pwrite(fd, buf, 0)
        os.close(fd)

    def reserving():
        fd = os.open(path, os.O_WRONLY)
        fallocate(fd, 0, 0, 100000)
        os.close(fd)

    def punching():
        fd = os.open(path, os.O_WRONLY)
        fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 0, 4096)
        os.close(fd)

    def copying():
        src, dst = os.open(vol.path("source"), os.O_RDONLY), os.open(path, os.O_WRONLY)
        assert os.copy_file_range(src, dst, 5000, 0, 0) == 5000

    ways = {
        "write": appending, "direct": direct, "truncate": lambda: os.truncate(path, 5),
        "reserve": reserving, "punch": punching, "copy": copying, "chown": lambda: os.chown(path, -1, 1234), "O_TRUNC": lambda: write(path, b""),
    }
    for name, way in ways.items():
        # The group's bit means setgid only where the group may execute.
        for mode, want in ((0o6777, 0o777), (0o2777, 0o777), (0o2767, 0o2767), (0o4767, 0o767)):
            write(path, b"x" * 8192)
            os.chown(path, 1234, 1234)
            os.chmod(path, mode)
            as_user(way)
            assert stat.S_IMODE(os.stat(path).st_mode) == want, (name, oct(mode), oct(os.stat(path).st_mode))
    # Whoever executes the file afterwards goes by what the kernel knows, and does not ask.
    os.unlink(path)
    run("cp", "/usr/bin/id", path)
    head = read(path)[:4096]

    def rewriting(flags):
        fd = os.open(path, os.O_WRONLY | flags)
        buf = mmap.mmap(-1, 4096)
        buf.write(head)
        os.pwrite(fd, buf, 0)
        os.close(fd)

    for way in (lambda: rewriting(os.O_DIRECT), lambda: rewriting(0), reserving):
        os.chown(path, 1, 1234)
        os.chmod(path, 0o4777)
        assert "euid=1" in as_user_output(path)
        as_user(way)
        assert "euid" not in as_user_output(path)
    # The superuser's writes leave them, its chown does not.
    os.chmod(path, 0o6777)
    appending()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o6777
    os.chown(path, 1, 1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o777
    # Nor do capabilities survive a write.
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    appending()
    assert error_of(os.getxattr, path, "security.capability") == errno.ENODATA


# --- what the kernel does not let through ---


def test_ranges_are_not_collapsed(vol):
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * (1 << 20))
    for mode in (0x08, 0x20, 0x40):  # collapse, insert, unshare
        assert error_of(fallocate, fd, mode, 4096, 4096) == errno.EOPNOTSUPP
    assert os.fstat(fd).st_size == 1 << 20
    os.close(fd)
