# SPDX-License-Identifier: Apache-2.0
"""-o writeback: the kernel acknowledges writes before the daemon has seen them, and still none of them is lost for want of room."""
import errno
import fcntl
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from calls import KEEP_SIZE, PUNCH_HOLE, fallocate
from conftest import BUILD, LONG, daemons, data_pages, run, wait_for, write_synced

STATS = os.path.join(BUILD, "tools", "holdfast")
KIB, MIB = 1 << 10, 1 << 20
EXT4_SHUTDOWN = 0x8004587d

@pytest.fixture
def cached(make_volume):
    def make(size="256M", options=""):
        vol = make_volume(size).mkfs()
        vol.mount(",".join(["writeback", *([options] if options else [])]))
        vol.again = lambda: vol.remount("writeback")
        return vol
    return make


@pytest.fixture
def nearly_full(cached):
    """About the smallest that has it, with 15 MiB left for those who ask and 9 for those who have been told yes."""
    def make():
        vol = cached("96M")
        with open(vol.path("ballast"), "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 66 * MIB)
        assert "writeback" in run(STATS, "stats", vol.dir).stdout
        return vol
    return make


def counter(vol, name):
    for line in run(STATS, "stats", vol.dir).stdout.splitlines():
        if line.split()[:1] == [name]:
            return int(line.split()[1])
    raise AssertionError(name)


def pattern(seed, n):
    return random.Random(str(seed)).randbytes(n)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def test_in_force(cached):
    vol = cached()
    assert "writeback" in run(STATS, "stats", vol.dir).stdout
    with open(vol.path("f"), "wb", buffering=0) as f:
        for i in range(1000):
            f.write(pattern(i, 1000))
    assert counter(vol, "writes") < 100
    vol.again()
    assert read(vol.path("f")) == b"".join(pattern(i, 1000) for i in range(1000))


def test_not_for_small_volumes(make_volume):
    vol = make_volume("16M").mkfs()
    vol.mount("writeback")
    assert "writeback" not in run(STATS, "stats", vol.dir).stdout
    with open(vol.path("f"), "wb", buffering=0) as f:
        for _ in range(100):
            f.write(b"x" * 1000)
    assert counter(vol, "writes") >= 100


def test_with_sync_or_read_only_it_is_off(make_volume):
    vol = make_volume("128M").mkfs()
    for options in ("writeback,sync", "writeback,ro", "writeback,nowriteback"):
        vol.mount(options)
        assert ",writeback" not in run(STATS, "stats", vol.dir).stdout
        vol.umount()


# --- contents ---


class Exerciser:
    """One file, changed in all ways, and what it should be."""

    def __init__(self, path, rnd):
        self.path, self.rnd, self.model = path, rnd, bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.buf = mmap.mmap(-1, 256 * KIB)

    def put(self, off, data):
        if off + len(data) > len(self.model):
            self.model.extend(bytes(off + len(data) - len(self.model)))
        self.model[off:off + len(data)] = data

    def write(self):
        off, data = self.rnd.randrange(600 * KIB), self.rnd.randbytes(self.rnd.choice((10, 3000, 4096, 70000)))
        assert os.pwrite(self.fd, data, off) == len(data)
        self.put(off, data)

    def append(self):
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        data = self.rnd.randbytes(1 + self.rnd.randrange(9000))
        assert os.write(fd, data) == len(data)
        os.close(fd)
        self.put(len(self.model), data)

    def write_only(self):
        """Pages that are changed in part must be read first, whatever the file was opened for."""
        if len(self.model) < 100:
            return
        off = self.rnd.randrange(len(self.model) - 10)
        fd = os.open(self.path, os.O_WRONLY)
        os.pwrite(fd, b"0123456789", off)
        os.close(fd)
        self.put(off, b"0123456789")

    def direct(self):
        off, n = 4096 * self.rnd.randrange(150), 4096 * (1 + self.rnd.randrange(20))
        data = self.rnd.randbytes(n)
        self.buf[:n] = data
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        assert os.pwritev(fd, [memoryview(self.buf)[:n]], off) == n
        os.close(fd)
        self.put(off, data)

    def direct_read(self):
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        off = 4096 * self.rnd.randrange(150)
        n = os.preadv(fd, [memoryview(self.buf)[:65536]], off)
        os.close(fd)
        assert self.buf[:n] == bytes(self.model[off:off + 65536])

    def store(self):
        if not self.model:
            return
        with mmap.mmap(self.fd, len(self.model)) as m:
            for _ in range(5):
                at = self.rnd.randrange(len(self.model))
                m[at] = self.model[at] = self.rnd.randrange(256)

    def truncate(self):
        size = self.rnd.randrange(700 * KIB)
        os.ftruncate(self.fd, size)
        self.model = self.model[:size] + bytes(max(0, size - len(self.model)))

    def punch(self):
        off, n = self.rnd.randrange(600 * KIB), 1 + self.rnd.randrange(100 * KIB)
        mode = self.rnd.choice((0x3, 0x11))  # punch a hole, zero a range; both keep the size
        subprocess.run(["fallocate", "-n", "-p" if mode == 3 else "-z", "-o", str(off), "-l", str(n), self.path], check=True)
        end = min(off + n, len(self.model))
        if off < end:
            self.model[off:end] = bytes(end - off)

    def sync(self):
        os.fsync(self.fd)

    def forget(self):
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self):
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def check(self):
        assert os.fstat(self.fd).st_size == len(self.model)
        got = os.pread(self.fd, 2 * MIB, 0)
        assert got == bytes(self.model), next(i for i, (a, b) in enumerate(zip(got, self.model)) if a != b)

    def any(self):
        self.rnd.choice((self.write, self.write, self.write, self.append, self.write_only, self.direct, self.direct_read,
                         self.store, self.store, self.truncate, self.punch, self.sync, self.forget, self.reopen))()


def test_contents(cached):
    vol = cached()
    seed = int(os.environ.get("HOLDFAST_SEED", "1"))
    x = Exerciser(vol.path("f"), random.Random(seed))
    for i in range(6000 if LONG else 250):
        x.any()
        if i % 10 == 0:
            x.check()
        if i % (1000 if LONG else 200) == 99:
            os.close(x.fd)
            vol.again()
            x.fd = os.open(x.path, os.O_RDWR)
    x.check()
    os.close(x.fd)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


# --- where data is ---

PAGE = 4096


class Sparse:
    """A file of which it is known where it has data: what was written and not taken away, whoever has it."""

    def __init__(self, path, rnd):
        self.rnd, self.pages, self.size = rnd, set(), 0
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.reader = os.open(path, os.O_RDONLY)
        self.write(300 * PAGE, 3 * PAGE)

    def write(self, off, n):
        assert os.pwrite(self.fd, b"d" * n, off) == n
        self.pages.update(range(off // PAGE, -(-(off + n) // PAGE)))
        self.size = max(self.size, off + n)

    def somewhere(self):
        return self.rnd.randrange(self.size)

    def in_it(self):
        self.write(self.somewhere(), self.rnd.choice((1, PAGE, 5000, 20 * PAGE)))

    def at_its_end(self):
        self.write(self.size, self.rnd.choice((1, 100, PAGE, 70000)))

    def behind_its_end(self):
        self.write(self.size + self.rnd.randrange(1, 20 * PAGE), self.rnd.choice((1, 100, PAGE)))

    def store(self):
        with mmap.mmap(self.fd, self.size) as m:
            for _ in range(self.rnd.randrange(1, 6)):
                at = self.somewhere()
                m[at] = 1
                self.pages.add(at // PAGE)

    def longer(self):
        self.size += self.rnd.randrange(1, 40 * PAGE)
        os.ftruncate(self.fd, self.size)

    def shorter(self):
        self.size = max(self.size - self.rnd.randrange(1, 40 * PAGE), 2 * PAGE)
        os.ftruncate(self.fd, self.size)
        self.pages = {p for p in self.pages if p * PAGE < self.size}

    def reserve(self):
        off, n = self.somewhere(), self.rnd.randrange(1, 40 * PAGE)
        os.posix_fallocate(self.fd, off, n)
        self.size = max(self.size, off + n)

    def punch(self):
        first, n = self.somewhere() // PAGE, self.rnd.randrange(1, 30)
        fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, first * PAGE, n * PAGE)
        self.pages -= set(range(first, first + n))

    def sync(self):
        os.fsync(self.fd)

    def forget(self):
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def any(self):
        self.rnd.choice((self.in_it, self.in_it, self.in_it, self.at_its_end, self.behind_its_end, self.store, self.store, self.longer,
                         self.shorter, self.reserve, self.punch, self.sync, self.forget))()

    def expect(self, off, whence):
        if off >= self.size:
            return "ENXIO"
        page = off // PAGE
        while page * PAGE < self.size and (page in self.pages) != (whence == os.SEEK_DATA):
            page += 1
        if page * PAGE >= self.size:
            return "ENXIO" if whence == os.SEEK_DATA else self.size
        return max(off, page * PAGE)

    def check_one(self):
        off, whence = self.rnd.randrange(self.size + 30 * PAGE), self.rnd.choice((os.SEEK_DATA, os.SEEK_HOLE))
        try:
            got = os.lseek(self.reader, off, whence)
        except OSError as e:
            got = errno.errorcode[e.errno]
        assert got == self.expect(off, whence), (off, whence, self.size)

    def check(self):
        assert data_pages(self.reader) == sorted(self.pages)

    def close(self):
        os.close(self.fd)
        os.close(self.reader)


def test_holes_are_exact(cached):
    """Whatever of it has been handed over, and whatever end of the file the daemon knows."""
    vol = cached()
    rnd = random.Random(os.environ.get("HOLDFAST_SEED", "1"))
    for n in range(40 if LONG else 4):
        x = Sparse(vol.path(f"f{n}"), rnd)
        for i in range(60):
            x.any()
            # Not always: a look at all of it has all of it handed over.
            for _ in range(rnd.randrange(3)):
                x.check_one()
            if i % 15 == 14:
                x.check()
        x.close()
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_holes_behind_the_known_end(cached):
    """The daemon knows of an empty file only, or of its beginning."""
    vol = cached()
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 100, 5 * PAGE)
    with pytest.raises(OSError) as e:
        os.lseek(fd, 5 * PAGE + 100, os.SEEK_DATA)
    assert e.value.errno == errno.ENXIO
    os.pwrite(fd, b"x" * 100, 9 * PAGE)
    assert os.lseek(fd, 9 * PAGE + 50, os.SEEK_HOLE) == 9 * PAGE + 100
    os.pwrite(fd, b"x" * PAGE, 9 * PAGE + 100)
    assert os.lseek(fd, 9 * PAGE, os.SEEK_HOLE) == 10 * PAGE + 100
    os.pwrite(fd, b"x", 20 * PAGE)
    assert os.lseek(fd, 10 * PAGE, os.SEEK_HOLE) == 11 * PAGE
    os.pwrite(fd, b"x", 30 * PAGE)
    assert os.lseek(fd, 11 * PAGE, os.SEEK_DATA) == 20 * PAGE
    assert os.lseek(fd, 21 * PAGE, os.SEEK_DATA) == 30 * PAGE
    assert os.lseek(fd, 0, os.SEEK_DATA) == 5 * PAGE and os.lseek(fd, 0, os.SEEK_HOLE) == 0
    assert data_pages(fd) == [5, 9, 10, 20, 30]
    os.close(fd)


def test_many_holes(cached):
    """Each is looked at once only."""
    vol = cached()
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    n = 2000
    for page in range(0, n, 2):
        os.pwrite(fd, b"a", page * PAGE)
    os.fsync(fd)
    for page in range(1, n, 2):
        os.pwrite(fd, b"b", page * PAGE)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == (n - 1) * PAGE + 1
    for page in range(n, 3 * n, 3):
        os.pwrite(fd, b"c", page * PAGE)
    assert data_pages(fd) == [*range(n), *range(n, 3 * n, 3)]
    os.close(fd)


def test_copies_are_sparse(cached):
    """cp(1) and tar(1) leave out what is a hole, and nothing else, of a file that has just been written."""
    vol = cached()
    want = bytearray(16 * MIB)
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    for i in range(8):
        off = i * 2 * MIB + 5000
        want[off:off + 20000] = pattern(i, 20000)
        os.pwrite(fd, pattern(i, 20000), off)
    want[11 * MIB:11 * MIB + 3] = b"map"
    os.ftruncate(fd, 16 * MIB)
    with mmap.mmap(fd, 16 * MIB) as m:
        m[11 * MIB:11 * MIB + 3] = b"map"
        run("cp", "--sparse=auto", vol.path("f"), vol.path("copy"))
        for i in range(8):
            off = i * 2 * MIB + MIB
            want[off:off + 100] = b"n" * 100
            os.pwrite(fd, b"n" * 100, off)
        run("tar", "-C", vol.dir, "-S", "--hole-detection=seek", "-cf", vol.path("tar"), "f")
    os.close(fd)
    copy = read(vol.path("copy"))
    for i in range(8):
        off = i * 2 * MIB + 5000
        assert copy[off:off + 20000] == pattern(i, 20000)
    assert len(copy) == 16 * MIB and copy[11 * MIB:11 * MIB + 3] == b"map" and os.stat(vol.path("copy")).st_blocks * 512 < MIB
    assert os.stat(vol.path("tar")).st_size < MIB
    run("tar", "-C", vol.dir, "--transform=s/f/out/", "-xf", vol.path("tar"))
    assert read(vol.path("out")) == want


def together(*functions, seconds=100):
    """All of them at once; none may fail, or hang."""
    failed = []

    def guarded(function):
        try:
            function()
        except BaseException as e:  # pylint: disable=broad-except
            failed.append(e)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for t in threads:
        t.start()
    end = time.monotonic() + seconds
    for t in threads:
        t.join(max(0, end - time.monotonic()))
    assert not any(t.is_alive() for t in threads)
    assert not failed, failed


def seekers(vol, stop, nfiles, each, size):
    """Writers that know what they have written, and who looks for it: what was there before a look is not in a hole."""
    written = [set() for _ in range(nfiles)]

    def writer(n):
        rnd = random.Random(n)
        fd = os.open(vol.path(f"w{n}"), os.O_RDWR | os.O_CREAT)
        try:
            while not stop.is_set():
                page = rnd.randrange(size)
                try:
                    os.pwrite(fd, b"w" * rnd.choice((1, PAGE)), page * PAGE)
                except OSError as e:
                    assert e.errno == errno.ENOSPC
                    return
                written[n].add(page)
        finally:
            os.close(fd)

    def seeker(n):
        rnd = random.Random(n)
        fd = os.open(vol.path(f"w{n}"), os.O_RDONLY | os.O_CREAT)
        while not stop.is_set():
            page = rnd.randrange(size)
            known = page in written[n]
            try:
                off = os.lseek(fd, page * PAGE, os.SEEK_DATA)
                assert not known or off == page * PAGE
                assert off % PAGE == 0 and os.lseek(fd, off, os.SEEK_HOLE) > off
            except OSError as e:
                assert e.errno == errno.ENXIO and not known
        os.close(fd)

    return [lambda n=n: writer(n) for n in range(nfiles)] + [lambda n=n: seeker(n) for n in range(nfiles) for _ in range(each)]


def check_written(vol, nfiles, size):
    for n in range(nfiles):
        fd = os.open(vol.path(f"w{n}"), os.O_RDONLY)
        assert data_pages(fd) == [p for p in range(size) if os.pread(fd, 1, p * PAGE) == b"w"]
        os.close(fd)


def test_seeking_beside_writers(cached):
    vol = cached()
    stop = threading.Event()
    threading.Timer(20 if LONG else 2, stop.set).start()
    together(*seekers(vol, stop, 8, 3, 500))
    check_written(vol, 8, 500)


def test_seeking_on_a_full_volume(nearly_full):
    """Pages that are handed over may have to wait there until writers have been told; they must not wait for who waits for them."""
    vol = nearly_full()
    stop = threading.Event()
    full = os.open(vol.path("full"), os.O_WRONLY | os.O_CREAT)

    def fill():
        try:
            while True:
                os.write(full, b"x" * 65536)
        except OSError as e:
            assert e.errno == errno.ENOSPC
        finally:
            time.sleep(0.5)
            stop.set()

    together(fill, *seekers(vol, stop, 3, 2, 3000))
    os.close(full)
    check_written(vol, 3, 3000)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.parametrize("how", ["term", "shutdown", "kill"])
def test_the_end_while_somebody_seeks(cached, how):
    """He is answered, and the daemon ends."""
    vol = cached()
    script = textwrap.dedent("""
        import os, sys
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x", 8192)
        if os.lseek(fd, 0, os.SEEK_DATA) == 8192:
            print(flush=True)
        for i in range(10**9):
            os.pwrite(fd, b"x", (1 + i % 3000) * 8192)
            os.lseek(fd, 0, os.SEEK_DATA)
            os.lseek(fd, 8192, os.SEEK_HOLE)
    """)
    procs = [subprocess.Popen([sys.executable, "-c", script, vol.path(f"f{i}")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
             for i in range(4)]
    for p in procs:
        assert p.stdout.readline()
    time.sleep(0.3)
    pid, = daemons(vol.image)
    if how == "term":
        os.kill(pid, signal.SIGTERM)
    elif how == "shutdown":
        fd = os.open(vol.dir, os.O_RDONLY)
        fcntl.ioctl(fd, EXT4_SHUTDOWN, bytes(4))
        os.close(fd)
    else:
        vol.kill()
    time.sleep(1)
    for p in procs:
        p.kill()
        p.wait(60)
        p.stdout.close()
    if how == "shutdown":
        run("umount", vol.dir)
    wait_for(lambda: not daemons(vol.image), 60, "the daemon's end")
    vol.mount("writeback")
    vol.umount()
    vol.fsck("-n", "-f", "--data")


# --- attributes ---


def times(path):
    st = os.stat(path)
    return st.st_mtime_ns, st.st_ctime_ns, st.st_size


def test_times(cached):
    vol = cached()
    path = vol.path("f")
    with open(path, "wb", buffering=0) as f:
        created = times(path)
        time.sleep(0.02)
        f.write(b"x" * 5000)
        written = times(path)
        assert written[0] > created[0] and written[1] > created[1] and written[2] == 5000
        os.fsync(f.fileno())
        assert times(path) == written
    assert times(path) == written
    vol.again()
    assert times(path) == written
    # Times that are set stay, also if data was still on its way.
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"y" * 100, 3000)
    os.utime(path, ns=(10**18, 10**18 + 7))
    os.close(fd)
    assert os.stat(path).st_mtime_ns == 10**18 + 7
    # A store through a mapping, a truncation, and a chmod, which leaves mtime alone.
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 5000) as m:
        m[0] = 1
    os.close(fd)
    stored = times(path)
    assert stored[0] > 10**18 + 7
    time.sleep(0.02)
    os.truncate(path, 100)
    cut = times(path)
    assert cut[0] > stored[0] and cut[2] == 100
    time.sleep(0.02)
    os.chmod(path, 0o600)
    assert times(path)[0] == cut[0] and times(path)[1] > cut[1]
    end = times(path)
    vol.again()
    assert times(path) == end


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets these flags")
def test_append_only_and_immutable_files(cached):
    """"Now" comes from the kernel as a time that it has chosen, and so do the times of what was written."""
    vol = cached()
    path = vol.path("f")
    write_synced(path, b"x")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        for flag in "ai":
            time.sleep(0.02)
            if flag == "i":
                os.write(fd, b"y")
            run("chattr", "+" + flag, path)
            if flag == "a":
                os.write(fd, b"y")
            written = os.stat(path).st_mtime_ns
            os.fsync(fd)
            for times in ((1, 2), (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns)):
                with pytest.raises(PermissionError):
                    os.utime(path, ns=times)
            if flag == "a":
                # The kernel's clock for times goes by ticks.
                time.sleep(0.02)
                os.utime(path)
                assert os.stat(path).st_mtime_ns > written
                written = os.stat(path).st_mtime_ns
            else:
                with pytest.raises(PermissionError):
                    os.utime(path)
            with pytest.raises(PermissionError):
                os.chmod(path, 0o600)
            run("chattr", "-" + flag, path)
    finally:
        os.close(fd)
    vol.again()
    assert os.stat(path).st_mtime_ns == written and read(path) == b"xyy"


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_writing_takes_the_set_user_bit(cached):
    vol = cached()
    with open(vol.path("f"), "wb") as f:
        f.write(b"x")
    os.chmod(vol.path("f"), 0o6777)
    code = f"import os; os.setgid(65534); os.setuid(65534); fd = os.open({vol.path('f')!r}, os.O_WRONLY); os.write(fd, b'yy'); os.close(fd)"
    run(sys.executable, "-c", code)
    assert stat.S_IMODE(os.stat(vol.path("f")).st_mode) == 0o777
    vol.again()
    assert stat.S_IMODE(os.stat(vol.path("f")).st_mode) == 0o777 and read(vol.path("f")) == b"yy"


def test_appends_of_many(cached):
    vol = cached()
    open(vol.path("log"), "wb").close()

    def work(who):
        fd = os.open(vol.path("log"), os.O_WRONLY | os.O_APPEND)
        for i in range(300):
            os.write(fd, b"%d %06d\n" % (who, i))
        os.close(fd)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    vol.again()
    lines = read(vol.path("log")).split(b"\n")[:-1]
    assert sorted(lines) == sorted(b"%d %06d" % (w, i) for w in range(4) for i in range(300))


# --- no room ---


def test_no_acknowledged_write_is_lost(nearly_full):
    """Many writers, until nothing goes any more: files that were closed, and records behind which nobody has closed anything."""
    vol = nearly_full()
    kept, lock = {}, threading.Lock()

    def files(who):
        rnd = random.Random(who)
        for i in range(10**6):
            name, n = f"w{who}-{i}", rnd.choice((300, 5000, 60000, 400000))
            fd = -1
            try:
                fd = os.open(vol.path(name), os.O_WRONLY | os.O_CREAT, 0o644)
                done = 0
                while done < n:
                    done += os.write(fd, pattern(name, n)[done:])
                os.close(fd)
            except OSError as e:
                # Refused when it was asked for, not when it was too late.
                assert e.errno == errno.ENOSPC and e.strerror
                if fd >= 0:
                    os.close(fd)
                return
            with lock:
                kept[name] = n

    def records(who):
        name, off = f"r{who}", 0
        fd = os.open(vol.path(name), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            while True:
                # Every second block only, so that each is an extent of its own.
                assert os.pwrite(fd, pattern((who, off), 4096), 2 * off) == 4096
                off += 4096
        except OSError as e:
            assert e.errno == errno.ENOSPC
        os.fsync(fd)
        os.close(fd)
        with lock:
            kept[name] = off

    failed = []

    def guarded(what, who):
        try:
            what(who)
        except BaseException as e:  # pylint: disable=broad-except
            failed.append(e)

    threads = [threading.Thread(target=guarded, args=(w, i)) for i, w in enumerate((files, files, files, records, records))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed
    assert len(kept) > 20
    # Nothing is left, and everything says so; what is there can be read, looked at, and sought in.
    st = os.statvfs(vol.dir)
    assert st.f_bavail * st.f_bsize < MIB
    for again in (False, True):
        if again:
            vol.again()
            with pytest.raises(OSError) as e:
                fd = os.open(vol.path("r3"), os.O_WRONLY)
                for i in range(1000):
                    os.pwrite(fd, b"z" * 65536, (1 << 40) + i * 65536)
            assert e.value.errno == errno.ENOSPC
            os.close(fd)
        for name, n in kept.items():
            fd = os.open(vol.path(name), os.O_RDONLY)
            assert os.lseek(fd, 0, os.SEEK_END) >= n
            if name.startswith("w"):
                assert os.pread(fd, n + 1, 0) == pattern(name, n)
            else:
                for off in range(0, n, 4096):
                    assert os.pread(fd, 4096, 2 * off) == pattern((int(name[1:]), off), 4096)
            os.close(fd)
    for name in list(kept):
        os.unlink(vol.path(name))
    with open(vol.path("new"), "wb") as f:
        f.write(pattern("new", 8 * MIB))
    vol.again()
    assert read(vol.path("new")) == pattern("new", 8 * MIB)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_reading_a_full_volume(nearly_full):
    """Only writes are refused: not reading to the end, nor what comes behind chmod and truncate."""
    vol = nearly_full()
    for i in range(50):
        with open(vol.path(f"f{i}"), "wb") as f:
            f.write(pattern(i, 3000))
    full = os.open(vol.path("full"), os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError) as e:
        while True:
            os.write(full, b"x" * 65536)
    assert e.value.errno == errno.ENOSPC
    os.close(full)
    for again in (False, True):
        if again:
            vol.again()
        for i in range(50):
            fd = os.open(vol.path(f"f{i}"), os.O_RDONLY)
            assert os.read(fd, 100000) == pattern(i, 3000)
            assert os.read(fd, 100000) == b""
            assert os.lseek(fd, 0, os.SEEK_END) == 3000
            os.close(fd)
            assert os.stat(vol.path(f"f{i}")).st_size == 3000
            with pytest.raises(OSError) as e:
                fd = os.open(vol.path(f"f{i}"), os.O_WRONLY)
                os.pwrite(fd, b"y", 2999)
            assert e.value.errno == errno.ENOSPC
            os.close(fd)
    fd = os.open(vol.path("f0"), os.O_RDWR)
    os.fchmod(fd, 0o600)
    time.sleep(0.1)
    os.ftruncate(fd, 2000)
    time.sleep(0.1)
    assert os.pread(fd, 100000, 0) == pattern(0, 3000)[:2000]
    assert os.pread(fd, 100000, 2000) == b""
    os.close(fd)


def test_one_write_larger_than_the_room(nearly_full):
    """It may be acknowledged whole; then fsync(2) does not say that all is well, or it is."""
    vol = nearly_full()
    fd = os.open(vol.path("f"), os.O_WRONLY | os.O_CREAT)
    data = os.urandom(32 * MIB)
    n = os.write(fd, data)
    try:
        os.fsync(fd)
        assert read(vol.path("f"))[:n] == data[:n]
    except OSError as e:
        assert e.errno in (errno.ENOSPC, errno.EIO)
    try:
        os.close(fd)
    except OSError as e:
        assert e.errno in (errno.ENOSPC, errno.EIO)
    # No blocks of others, and no wrong bytes: what is there is what was written, or a hole.
    vol.again()
    got = read(vol.path("f"))
    for off in range(0, len(got), 4096):
        assert got[off:off + 4096] in (data[off:off + 4096], bytes(len(got[off:off + 4096])))
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_mapping_at_full(nearly_full):
    """Stores ask nobody.  The reserve is for them, too, as far as it goes; behind that msync(2) tells."""
    vol = nearly_full()
    fd = os.open(vol.path("mapped"), os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 32 * MIB)
    full = os.open(vol.path("full"), os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError):
        while True:
            os.write(full, b"x" * 65536)
    os.close(full)
    with mmap.mmap(fd, 32 * MIB) as m:
        for off in range(0, MIB, 4096):
            m[off:off + 8] = off.to_bytes(8, "little")
        m.flush()
        with pytest.raises(OSError):
            for off in range(MIB, 32 * MIB, 4096):
                m[off] = 1
            m.flush()
    try:
        os.close(fd)
    except OSError:
        pass
    vol.umount()
    vol.fsck("-n", "-f", "--data")
    vol.mount("writeback")
    got = read(vol.path("mapped"))
    assert all(got[off:off + 8] == off.to_bytes(8, "little") for off in range(0, MIB, 4096))


# --- order and durability ---


def test_kill(cached):
    vol = cached()
    for i in range(20):
        fd = os.open(vol.path(f"s{i}"), os.O_WRONLY | os.O_CREAT | (os.O_DSYNC if i % 2 else 0))
        os.write(fd, pattern(i, 30000))
        if i % 2 == 0:
            os.fsync(fd)
    # Never synced: it may be missing.
    fd = os.open(vol.path("late"), os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"x" * 30000)
    vol.kill()
    vol.mount("writeback")
    for i in range(20):
        assert read(vol.path(f"s{i}")) == pattern(i, 30000)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_close_hands_over(cached):
    """So that the commit timer covers it."""
    vol = cached(options="commit=1")
    with open(vol.path("f"), "wb", buffering=0) as f:
        f.write(pattern("f", 10000))
    time.sleep(3)
    vol.kill()
    vol.mount("writeback")
    assert read(vol.path("f")) == pattern("f", 10000)


def debugfs(vol):
    """What the kernel holds of the mount: dirty and on its way, in bytes."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        dev = next(line.split()[2] for line in f if line.split()[4] == vol.dir)
    path = f"/sys/kernel/debug/bdi/{dev}-fuseblk/stats"
    if not os.path.exists(path):
        pytest.skip("no debugfs")
    with open(path, encoding="ascii") as f:
        fields = dict(line.split(":") for line in f if ":" in line)
    return KIB * sum(int(fields[k].split()[0]) for k in ("BdiWriteback", "BdiReclaimable"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's mounts are limited")
def test_what_the_kernel_holds_is_limited(cached):
    """The daemon stands still, and many write: no more is acknowledged than room was kept for."""
    vol = cached()
    debugfs(vol)
    limit = (2 + 1 + 1) * MIB  # dirty.c: 1/128 of the volume, half as much again, and 1 MiB
    fds = [os.open(vol.path(f"f{i}"), os.O_WRONLY | os.O_CREAT) for i in range(16)]
    for fd in fds:
        os.write(fd, b"x" * 4096)
    pid, = daemons(vol.image)
    threads = [threading.Thread(target=os.write, args=(fd, b"y" * (4 * MIB)), daemon=True) for fd in fds]
    os.kill(pid, signal.SIGSTOP)
    try:
        for t in threads:
            t.start()
        time.sleep(2)
        held = debugfs(vol)
    finally:
        os.kill(pid, signal.SIGCONT)
    for t in threads:
        t.join(60)
    assert 0 < held <= limit, held
    for fd in fds:
        os.close(fd)
