# SPDX-License-Identifier: Apache-2.0
"""Names, links, attributes and contents through the kernel, as applications see them."""
import errno
import mmap
import os
import random
import stat
import threading
import time

import pytest

from calls import KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, ZERO_RANGE, fallocate, renameat2
from conftest import LONG, data_ranges, run


def error_of(function, *args, **kwargs):
    with pytest.raises(OSError) as e:
        function(*args, **kwargs)
    return e.value.errno


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def test_names_of_any_bytes(vol):
    names = [bytes([b]) * n for b in range(1, 256) if b not in b"/." for n in (1, 255)] + [b"..."]
    for name in names:
        write(os.fsencode(vol.dir) + b"/" + name, name)
    assert error_of(write, vol.path("n" * 256), b"") == errno.ENAMETOOLONG
    vol.remount()
    assert sorted(os.listdir(os.fsencode(vol.dir))) == sorted(names)
    for name in names:
        assert read(os.fsencode(vol.dir) + b"/" + name) == name


def test_links(vol):
    write(vol.path("a"), b"content")
    for i in range(100):
        os.link(vol.path("a"), vol.path(f"l{i}"))
    assert os.stat(vol.path("l5")).st_nlink == 101
    os.unlink(vol.path("a"))
    vol.remount()
    assert os.stat(vol.path("l5")).st_nlink == 100 and read(vol.path("l99")) == b"content"
    os.symlink("l5", vol.path("s"))
    assert os.readlink(vol.path("s")) == "l5" and read(vol.path("s")) == b"content"
    os.symlink("x" * 4095, vol.path("long"))
    vol.remount()
    assert os.readlink(vol.path("long")) == "x" * 4095
    assert error_of(os.link, vol.dir, vol.path("dirlink")) in (errno.EPERM, errno.EXDEV)


def test_rename(vol):
    for kind in ("a", "b"):
        write(vol.path(kind), kind.encode())
    assert error_of(renameat2, vol.path("a"), vol.path("b"), RENAME_NOREPLACE) == errno.EEXIST
    renameat2(vol.path("a"), vol.path("b"), RENAME_EXCHANGE)
    assert (read(vol.path("a")), read(vol.path("b"))) == (b"b", b"a")
    os.mkdir(vol.path("d"))
    os.mkdir(vol.path("d", "sub"))
    renameat2(vol.path("a"), vol.path("d"), RENAME_EXCHANGE)
    assert read(vol.path("d")) == b"b" and os.listdir(vol.path("a")) == ["sub"]
    assert error_of(os.rename, vol.path("a"), vol.path("a", "sub", "x")) == errno.EINVAL
    assert error_of(os.rename, vol.path("a"), vol.path("b")) == errno.ENOTDIR
    assert error_of(os.rename, vol.path("b"), vol.path("a")) == errno.EISDIR
    os.mkdir(vol.path("empty"))
    assert error_of(os.rename, vol.path("empty"), vol.path("a")) == errno.ENOTEMPTY
    os.rename(vol.path("a"), vol.path("empty"))
    os.rename(vol.path("b"), vol.path("d"))
    assert sorted(os.listdir(vol.dir)) == ["d", "empty"] and read(vol.path("d")) == b"a"
    assert os.stat(vol.dir).st_nlink == 3
    vol.umount()
    vol.fsck()


def test_directories(vol):
    os.mkdir(vol.path("d"))
    write(vol.path("d", "f"), b"")
    assert error_of(os.rmdir, vol.path("d")) == errno.ENOTEMPTY
    assert error_of(os.unlink, vol.path("d")) in (errno.EISDIR, errno.EPERM)
    assert error_of(os.rmdir, vol.path("d", "f")) == errno.ENOTDIR
    assert error_of(os.mkdir, vol.path("d")) == errno.EEXIST
    assert error_of(os.mkdir, vol.path("none", "x")) == errno.ENOENT
    fd = os.open(vol.path("d"), os.O_RDONLY)
    os.unlink(vol.path("d", "f"))
    os.rmdir(vol.path("d"))
    assert os.listdir(fd) == []
    assert error_of(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd) == errno.ENOENT
    os.close(fd)
    deep = vol.dir
    for _ in range(200):
        deep = os.path.join(deep, "dd")
        os.mkdir(deep)
    assert os.stat(os.path.join(deep, "..")).st_ino == os.stat(os.path.dirname(deep)).st_ino
    vol.umount()
    vol.fsck()


def test_readdir_while_changing(vol):
    """What stays is seen exactly once, whatever else comes and goes."""
    os.mkdir(vol.path("d"))
    stay = {f"stay{i}" for i in range(2000)}
    for name in stay:
        write(vol.path("d", name), b"")
    for i in range(2000):
        write(vol.path("d", f"go{i}"), b"")
    seen = []
    with os.scandir(vol.path("d")) as entries:
        for n, e in enumerate(entries):
            assert e.is_file(follow_symlinks=False)
            seen.append(e.name)
            if n % 2 == 0 and n < 4000:
                os.unlink(vol.path("d", f"go{n // 2}"))
                write(vol.path("d", f"new{n}"), b"")
    assert {s for s in seen if s.startswith("stay")} == stay
    assert len(seen) == len(set(seen))
    run("rm", "-rf", vol.path("d"))
    assert os.listdir(vol.dir) == []


def test_attributes(vol):
    path = vol.path("f")
    write(path, b"x")
    os.chown(path, 4000000000, 3000000000)
    os.chmod(path, 0o6751)
    for sec in (-(10**18) // 10**9 * 10**9, -2208988800, 0, 1, 16725225600, 2**40):
        os.utime(path, ns=(sec * 10**9 + 123456789, sec * 10**9 + 987654321))
        st = os.stat(path)
        assert (st.st_atime_ns, st.st_mtime_ns) == (sec * 10**9 + 123456789, sec * 10**9 + 987654321)
        vol.remount()
        st = os.stat(path)
        assert (st.st_atime_ns, st.st_mtime_ns) == (sec * 10**9 + 123456789, sec * 10**9 + 987654321)
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (4000000000, 3000000000, 0o6751)
    ctime = st.st_ctime_ns
    os.chmod(path, 0o600)
    assert os.stat(path).st_ctime_ns > ctime


def test_times_follow_changes(vol):
    write(vol.path("f"), b"x")
    parent, before = os.stat(vol.dir), os.stat(vol.path("f"))
    time.sleep(0.02)  # with -o writeback the times are the kernel's, whose clock has ticks
    write(vol.path("f"), b"longer")
    after = os.stat(vol.path("f"))
    assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
    time.sleep(0.02)
    os.link(vol.path("f"), vol.path("g"))
    assert os.stat(vol.path("f")).st_ctime_ns > after.st_ctime_ns
    assert os.stat(vol.dir).st_mtime_ns > parent.st_mtime_ns


def test_relatime_and_noatime(vol):
    path = vol.path("f")
    write(path, b"x" * 10000)

    def read_after(options, atime):
        vol.remount(options)
        os.utime(path, ns=(atime, 15 * 10**17))
        vol.remount(options)
        read(path)
        return os.stat(path).st_atime_ns

    assert read_after("", 10**18) > 15 * 10**17
    assert read_after("noatime", 10**18) == 10**18


def test_strictatime(vol):
    vol.remount("strictatime")
    write(vol.path("f"), b"x" * 10000)
    for path, reading in ((vol.path("f"), read), (vol.dir, os.listdir)):
        times = set()
        for _ in range(3):
            reading(path)
            times.add(os.stat(path).st_atime_ns)
        assert len(times) == 3


def test_setgid_directory(vol):
    os.mkdir(vol.path("d"))
    os.chown(vol.path("d"), 0, 1234)
    os.chmod(vol.path("d"), 0o2775)
    write(vol.path("d", "f"), b"")
    os.mkdir(vol.path("d", "sub"))
    assert os.stat(vol.path("d", "f")).st_gid == 1234
    st = os.stat(vol.path("d", "sub"))
    assert st.st_gid == 1234 and st.st_mode & stat.S_ISGID


def test_xattrs(vol):
    path = vol.path("f")
    write(path, b"")
    values = {f"user.x{n}": os.urandom(n) for n in (0, 1, 100, 767, 768, 769, 4096, 30000, 65536)}
    values["trusted.t"] = b"t"
    values["security.s"] = b"s"
    for name, value in values.items():
        os.setxattr(path, name, value)
    vol.remount()
    assert set(os.listxattr(path)) >= set(values)
    for name, value in values.items():
        assert os.getxattr(path, name) == value
    assert error_of(os.setxattr, path, "user.x1", b"", os.XATTR_CREATE) == errno.EEXIST
    assert error_of(os.setxattr, path, "user.none", b"", os.XATTR_REPLACE) == errno.ENODATA
    assert error_of(os.getxattr, path, "user.none") == errno.ENODATA
    os.setxattr(path, "user.x65536", b"short", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.x65536") == b"short"
    for name in values:
        os.removexattr(path, name)
    assert error_of(os.removexattr, path, "user.x1") == errno.ENODATA
    assert not [x for x in os.listxattr(path) if x in values]
    os.setxattr(vol.dir, "user.onroot", b"1")
    vol.umount()
    vol.fsck()


def test_sparse_and_huge(vol):
    path = vol.path("f")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    places = [0, 5000, 1 << 20, (1 << 40) + 17, 1 << 44, (1 << 60) + 4095]
    for off in places:
        assert os.pwrite(fd, b"here", off) == 4
    assert os.fstat(fd).st_size == (1 << 60) + 4099
    assert os.fstat(fd).st_blocks < 200
    os.close(fd)
    vol.remount()
    fd = os.open(path, os.O_RDWR)
    for off in places:
        assert os.pread(fd, 4, off) == b"here"
    assert os.pread(fd, 100, 2 << 20) == b"\0" * 100
    found = data_ranges(fd)
    for place in places:
        assert any(a <= place < b for a, b in found)
    assert sum(b - a for a, b in found) <= 4096 * 2 * len(places)
    assert error_of(os.pwrite, fd, b"x", (1 << 63) - 1) in (errno.EFBIG, errno.EINVAL)
    os.ftruncate(fd, 3)
    assert os.fstat(fd).st_blocks <= 8
    os.ftruncate(fd, 1 << 40)
    assert os.pread(fd, 10, 0) == b"her" + b"\0" * 7
    assert os.pread(fd, 10, 5000) == b"\0" * 10
    os.close(fd)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_fallocate(vol):
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    fallocate(fd, 0, 0, 1 << 20)
    assert os.fstat(fd).st_size == 1 << 20 and os.fstat(fd).st_blocks == 2048
    assert os.pread(fd, 1 << 20, 0) == b"\0" * (1 << 20)
    fallocate(fd, KEEP_SIZE, 1 << 20, 1 << 20)
    assert os.fstat(fd).st_size == 1 << 20 and os.fstat(fd).st_blocks == 4096
    os.pwrite(fd, b"d" * (1 << 20), 0)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 1000, 100000)
    want = b"d" * 1000 + b"\0" * 100000 + b"d" * ((1 << 20) - 101000)
    assert os.pread(fd, 1 << 20, 0) == want
    fallocate(fd, ZERO_RANGE, 200001, 70000)
    want = want[:200001] + b"\0" * 70000 + want[270001:]
    assert os.pread(fd, 1 << 20, 0) == want
    assert os.lseek(fd, 4096, os.SEEK_DATA) == 98304
    os.close(fd)
    vol.remount()
    assert read(vol.path("f")) == want
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_append_by_many(vol):
    """O_APPEND from 8 writers: no byte lost, none mixed."""
    def writer(n):
        fd = os.open(vol.path("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for i in range(200):
            os.write(fd, b"%d:%03d;" % (n, i) * 10)
        os.close(fd)
    threads = [threading.Thread(target=writer, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    data = read(vol.path("log"))
    assert len(data) == 8 * 200 * 60
    records = [data[i : i + 60] for i in range(0, len(data), 60)]
    for n in range(8):
        assert [r for r in records if r.startswith(b"%d:" % n)] == [b"%d:%03d;" % (n, i) * 10 for i in range(200)]


def test_mmap(vol):
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    with mmap.mmap(fd, 1 << 20) as m:
        for off in range(0, 1 << 20, 4096):
            m[off : off + 8] = b"%08d" % off
        m.flush()
    os.close(fd)
    vol.kill()
    vol.mount()
    data = read(vol.path("f"))
    assert all(data[off : off + 8] == b"%08d" % off for off in range(0, 1 << 20, 4096))


def test_o_direct(vol):
    buf = mmap.mmap(-1, 1 << 20)
    buf.write(os.urandom(1 << 20))
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    assert os.pwritev(fd, [buf], 0) == 1 << 20
    want = bytes(buf)
    back = mmap.mmap(-1, 1 << 20)
    assert os.preadv(fd, [back], 0) == 1 << 20
    assert bytes(back) == want
    piece = mmap.mmap(-1, 4096)
    piece.write(b"p" * 4096)
    assert os.pwritev(fd, [memoryview(piece)[:512]], 512 * 7) == 512
    os.close(fd)
    assert read(vol.path("f")) == want[: 512 * 7] + b"p" * 512 + want[512 * 8 :]


def test_random_against_memory(vol):
    """Random reads, writes and truncations of one file against a byte array, with remounts and kills in between."""
    rnd = random.Random(int(os.environ.get("HOLDFAST_SEED", 4)))
    model, path = bytearray(), vol.path("f")
    for step in range(3000 if LONG else 600):
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        kind = rnd.randrange(10)
        off = rnd.randrange(0, 400000) if rnd.randrange(3) else rnd.randrange(0, 3000)
        if kind < 5:
            data = rnd.randbytes(rnd.choice([1, 17, 512, 1000, 4096, 8192, 70000, 130000]))
            os.pwrite(fd, data, off)
            if off > len(model):
                model.extend(b"\0" * (off - len(model)))
            model[off : off + len(data)] = data
        elif kind == 5:
            os.ftruncate(fd, off)
            del model[off:]
            model.extend(b"\0" * (off - len(model)))
        elif kind == 6 and model:
            length = rnd.randrange(1, 100000)
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, off, length)
            end = min(off + length, len(model))
            if off < end:
                model[off:end] = b"\0" * (end - off)
        else:
            assert os.pread(fd, 100000, off) == bytes(model[off : off + 100000]), step
        if rnd.randrange(60) == 0:
            os.fsync(fd)
            os.close(fd)
            vol.kill()
            vol.mount()
        else:
            os.close(fd)
            if rnd.randrange(60) == 0:
                vol.remount()
        if step % 50 == 0:
            assert read(path) == bytes(model), step
    assert read(path) == bytes(model)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_many_threads(vol):
    """Threads in one directory, each with files of its own, none disturbed by the others; 64 files reopened all the time."""
    errors = []

    def worker(n):
        rnd = random.Random(n)
        try:
            for i in range(150):
                name = vol.path(f"{n}-{rnd.randrange(16)}")
                data = bytes([n, i]) * rnd.choice([10, 3000, 50000])
                write(name, data)
                if read(name) != data:
                    errors.append((n, i))
                if rnd.randrange(4) == 0:
                    os.unlink(name)
        except OSError as e:
            errors.append((n, e))
    threads = [threading.Thread(target=worker, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_a_large_directory(vol):
    """Nothing quadratic: 20,000 entries here; the million is in test_scale.py."""
    os.mkdir(vol.path("d"))
    for i in range(20000):
        os.close(os.open(vol.path("d", f"{i}"), os.O_CREAT | os.O_WRONLY))
    vol.remount()
    assert len(os.listdir(vol.path("d"))) == 20000
    assert os.path.exists(vol.path("d", "19999")) and not os.path.exists(vol.path("d", "20000"))
    run("rm", "-rf", vol.path("d"))
    vol.umount()
    vol.fsck()
