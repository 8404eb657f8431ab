# SPDX-License-Identifier: Apache-2.0
"""All ways to read and write beside each other, and beside ext4: mappings, O_DIRECT, splices, asynchronous calls, flags of single calls."""
import ctypes
import errno
import mmap
import os
import random
import signal

import pytest

import pair as pairs
from conftest import BUILD, LONG, data_pages, libc, run, sha256
from pair import PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE, checked, fallocate, off_t, pair_of, result_of

PAGE = 4096
IO_CLIENT = os.path.join(BUILD, "tests", "mount", "io_client")


@pytest.fixture(scope="module", params=list(pairs.KINDS))
def mounts(request):
    with pair_of(request.param) as p:
        yield p


@pytest.fixture
def pair(mounts):
    mounts.begin()
    yield mounts
    mounts.end()


def aligned(data, off=0):
    """A buffer in memory that O_DIRECT takes, `off` bytes behind a page's begin."""
    m = mmap.mmap(-1, (len(data) + off + PAGE) & ~(PAGE - 1))
    m[off:off + len(data)] = data
    return m


def write_direct(fd, data, off, memory_off=0):
    m = aligned(data, memory_off)
    with memoryview(m) as whole, whole[memory_off:memory_off + len(data)] as part:
        return os.pwritev(fd, [part], off)


def read_direct(fd, length, off, memory_off=0):
    m = mmap.mmap(-1, (length + memory_off + PAGE) & ~(PAGE - 1))
    with memoryview(m) as whole, whole[memory_off:memory_off + length] as part:
        n = os.preadv(fd, [part], off)
        return bytes(part[:n])


# --- mappings ----------------------------------------------------------------------------------------------------------------


def coherence(direct, seed):
    """Random stores and loads through a shared mapping, write, read, O_DIRECT, truncation and punched holes, against bytes in memory."""
    rnd = random.Random(seed)
    size = 64 * PAGE
    fd = os.open(b"f", os.O_CREAT | os.O_RDWR)
    dio = os.open(b"f", os.O_RDWR | os.O_DIRECT) if direct else -1
    os.ftruncate(fd, size)
    m = mmap.mmap(fd, size)
    private = mmap.mmap(fd, size, mmap.MAP_PRIVATE)
    private[0:10] = b"not theirs"
    model = bytearray(size)
    for step in range(2000 if LONG else 250):
        off, length = rnd.randrange(size), rnd.choice([1, 100, PAGE, 3 * PAGE, 40000])
        length = min(length, size - off)
        data = rnd.randbytes(length)
        what = rnd.randrange(10)
        if what < 2:
            m[off:off + length] = data
            model[off:off + length] = data
        elif what < 4:
            assert os.pwrite(fd, data, off) == length
            model[off:off + length] = data
        elif what == 4:
            assert m[off:off + length] == model[off:off + length], step
        elif what == 5:
            assert os.pread(fd, length, off) == model[off:off + length], step
        elif what == 6 and direct:
            off, length = off & ~511, (length | 511) + 1
            length = min(length, size - off)
            data = rnd.randbytes(length)
            assert write_direct(dio, data, off) == length
            model[off:off + length] = data
        elif what == 7 and direct:
            off, length = off & ~511, (length | 511) + 1
            length = min(length, size - off)
            assert read_direct(dio, length, off) == model[off:off + length], step
        elif what == 8:
            fallocate(fd, rnd.choice([PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE]), off, length)
            model[off:off + length] = bytes(length)
        elif what == 9 and rnd.randrange(3) == 0:
            os.ftruncate(fd, off)
            os.ftruncate(fd, size)
            model[off:] = bytes(size - off)
        elif what == 9:
            m.flush()
    assert m[:] == model and os.pread(fd, size, 0) == model
    assert private[0:10] == b"not theirs"
    for x in (m, private):
        x.close()
    os.close(fd)
    if direct:
        assert read_direct(dio, size, 0) == model
        os.close(dio)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
def test_coherence(pair, direct):
    for seed in range(2):
        pair.both(coherence, direct, seed)
        pair.both(os.unlink, b"f")


def test_what_a_private_mapping_sees(pair):
    """A page that nobody has stored to is the file's; after a store it is ours, and never written."""
    def see(fd):
        private = mmap.mmap(fd, 3 * PAGE, mmap.MAP_PRIVATE)
        first = private[:3]
        private[PAGE:PAGE + 4] = b"mine"
        os.pwrite(fd, b"new", 0)
        os.pwrite(fd, b"new", PAGE)
        found = first, private[:3], private[PAGE:PAGE + 4], os.pread(fd, 4, PAGE)
        private.flush()
        private.close()
        return found, os.pread(fd, 4, PAGE)

    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    pair.both(os.pwrite, h, b"old" * PAGE, 0)
    want = (b"old", b"new", b"mine", b"new" + (b"old" * PAGE)[PAGE + 3:PAGE + 4])
    assert pair.both(see, h) == (want, want[3])
    h.close()


def touch_behind_the_end(fd, size, at, store):
    """The signal that ends a process which touches a mapping there, or 0."""
    os.ftruncate(fd, max(size, at + 1))
    m = mmap.mmap(fd, at + 1)
    os.ftruncate(fd, size)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        if store:
            m[at] = 1
        else:
            m[at]  # pylint: disable=pointless-statement
        os._exit(0)
    m.close()
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("flush", [False, True], ids=["dirty", "flushed"])
def test_what_was_stored_is_no_hole(pair, flush):
    """SEEK_DATA and SEEK_HOLE see what is only in the kernel's cache; or who copies a file that another process has mapped would leave it out."""
    size, data = (4 << 20) + 3, set()
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    other = pair.open(b"f", os.O_RDONLY)
    pair.both(os.ftruncate, h, size)
    pair.both(os.pwrite, h, b"d" * 3 * PAGE, 1 << 20)
    data.update(range(256, 259))
    maps = pair.each(mmap.mmap, h, size)
    # Alone in a hole, in front of data, behind it, twice with a page between, in the file's last page; and more and more.
    for pages in ((2,), (255,), (259,), (600, 602), (1024,), (0,), (601,), tuple(range(300, 340)), tuple(range(700, 1000, 3))):
        for page in pages:
            for m in maps.values():
                m[page * PAGE:page * PAGE + 3] = b"new"
                if flush:
                    m.flush()
        data.update(pages)
        assert pair.both(data_pages, other) == sorted(data)
        first = pages[0] * PAGE
        assert pair.both(os.lseek, other, first + 1, os.SEEK_DATA) == first + 1
        assert pair.both(os.lseek, other, max(data) * PAGE, os.SEEK_HOLE) == min(size, (max(data) + 1) * PAGE)
    pair.both(lambda: run("cp", "--sparse=auto", "f", "copy").returncode)
    pair.both(lambda: run("cmp", "f", "copy").returncode)
    for m in maps.values():
        assert m[2 * PAGE:2 * PAGE + 3] == m[997 * PAGE:997 * PAGE + 3] == b"new"
        m.close()
    h.close()
    other.close()
    pair.trees()


def test_sigbus_behind_the_end(pair):
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    for store in (False, True):
        assert pair.both(touch_behind_the_end, h, 5000, 2 * PAGE, store) == signal.SIGBUS
        assert pair.both(touch_behind_the_end, h, 0, 0, store) == signal.SIGBUS
        assert pair.both(touch_behind_the_end, h, 5000, 2 * PAGE - 1, store) == 0
        # What was stored behind the end, in its last page, is not in the file.
        pair.both(os.ftruncate, h, 3 * PAGE)
        assert pair.both(os.pread, h, 3 * PAGE, 5000) == bytes(3 * PAGE - 5000)
    h.close()
    pair.trees()


def test_mapping_outlives_name_and_descriptor(pair):
    def life():
        fd = os.open(b"f", os.O_CREAT | os.O_RDWR)
        os.ftruncate(fd, 2 * PAGE)
        m = mmap.mmap(fd, 2 * PAGE)
        m[:3] = b"abc"
        os.close(fd)
        again = os.open(b"f", os.O_RDONLY)
        os.unlink(b"f")
        m[PAGE:PAGE + 3] = b"def"
        m.flush()
        found = os.pread(again, 3, 0) + os.pread(again, 3, PAGE)
        os.close(again)
        m[:3] = b"ghi"
        found += m[:3]
        m.close()
        return found

    assert pair.both(life) == b"abcdefghi"


def test_msync_makes_it_durable(make_volume):
    vol = make_volume("64M").mkfs()
    vol.mount("commit=0")
    fd = os.open(vol.path("f"), os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 10 * PAGE)
    with mmap.mmap(fd, 10 * PAGE) as m:
        m[3 * PAGE + 7:3 * PAGE + 14] = b"durable"
        m.flush()
        m[0:4] = b"lost"
        os.close(fd)
        vol.kill()
    vol.mount()
    with open(vol.path("f"), "rb") as f:
        data = f.read()
    assert data[3 * PAGE + 7:3 * PAGE + 14] == b"durable" and len(data) == 10 * PAGE


# --- O_DIRECT and synchronous files ----------------------------------------------------------------------------------------------


def test_direct_alignment(pair):
    """By 512 bytes, as ext4; what is not aligned is EINVAL there, and here goes as if it were: a difference."""
    rnd = random.Random(1)
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    for off, length in ((0, 65536), (512, 512), (4096 + 512, 8192), (65536, 512), (100352, 1024), (3584, 1024)):
        data = rnd.randbytes(length)
        assert pair.both(write_direct, h, data, off) == length
        for memory_off in (0, 512, 1536):
            assert pair.both(read_direct, h, length, off, memory_off) == data
    size = pair.both(lambda fd: os.fstat(fd).st_size, h)
    assert pair.both(read_direct, h, 65536, size - 512) and pair.both(read_direct, h, 512, (size + 511) & ~511) == b""
    pair.both(os.ftruncate, h, 100)
    assert len(pair.both(read_direct, h, 4096, 0)) == 100
    for off, length, memory_off in ((1, 512, 0), (0, 100, 0), (0, 512, 1), (513, 4000, 7)):
        data = rnd.randbytes(length)
        wrote, read = pair.each(write_direct, h, data, off, memory_off), pair.each(read_direct, h, length, off, memory_off)
        assert wrote[pair.holdfast] == length and read[pair.holdfast] == data
        # Where only memory is not aligned the device below decides.
        assert (off | length) % 512 == 0 or wrote[pair.ext4] == "EINVAL"
    h.close()


@pytest.mark.parametrize("flag", ["O_SYNC", "O_DSYNC", "RWF_SYNC", "RWF_DSYNC", "O_DIRECT|O_DSYNC", "fdatasync"])
def test_synchronous_writes_are_durable(make_volume, flag):
    """Each is there after the daemon was killed, though nothing becomes durable by time."""
    vol = make_volume("64M").mkfs()
    vol.mount("commit=0")
    direct = os.O_DIRECT if "O_DIRECT" in flag else 0
    fd = os.open(vol.path("f"), os.O_CREAT | os.O_RDWR | direct | (getattr(os, flag.split("|")[-1]) if "O_" in flag else 0))
    for i in range(20):
        data = b"%08d" % i * 512
        if direct:
            write_direct(fd, data, i * PAGE)
        else:
            os.pwritev(fd, [data], i * PAGE, getattr(os, flag) if "RWF" in flag else 0)
        if flag == "fdatasync":
            os.fdatasync(fd)
    os.close(fd)
    vol.kill()
    vol.mount()
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"".join(b"%08d" % i * 512 for i in range(20))


def test_flags_of_single_calls(pair):
    """RWF_NOWAIT: EAGAIN or the data on ext4; the kernel refuses it for FUSE: a difference.  RWF_HIPRI only asks."""
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    pair.both(os.write, h, b"x" * 10000)
    assert pair.both(os.preadv, h, [bytearray(100)], 0, os.RWF_HIPRI) == 100
    assert pair.each(os.preadv, h, [bytearray(100)], 0, os.RWF_NOWAIT) == {pair.ext4: 100, pair.holdfast: "ENOTSUP"}
    assert pair.both(os.pwritev, h, [b"1", b"22", b"333"], 9998) == 6
    assert pair.both(os.pwritev, h, [b"z"], 0, 1 << 20) == "ENOTSUP"
    assert pair.both(os.pread, h, 20, 9995) == b"xxx122333"
    h.close()


def test_differences_of_the_kernel(pair):
    """What the manual says of them."""
    h = pair.open(b"f", os.O_CREAT | os.O_RDWR)
    pair.both(os.write, h, b"x" * 5 * PAGE)
    # COLLAPSE_RANGE, INSERT_RANGE
    for mode in (8, 0x20):
        assert pair.each(fallocate, h, mode, PAGE, PAGE) == {pair.ext4: None, pair.holdfast: "ENOTSUP"}
    assert pair.both(os.pwritev, h, [b"x" * PAGE], 0, 0x40) == "ENOTSUP"	# RWF_ATOMIC, which ext4 has for O_DIRECT

    def stored(fd):
        before = os.fstat(fd).st_mtime_ns
        with mmap.mmap(fd, PAGE) as m:
            m[0] = 1
            at_once = os.fstat(fd).st_mtime_ns > before
            m.flush()
        return at_once, os.fstat(fd).st_mtime_ns > before

    assert pair.each(stored, h) == {pair.ext4: (True, True), pair.holdfast: (False, True)}
    h.close()


# --- pipes -----------------------------------------------------------------------------------------------------------------------


def splice(src, src_off, dst, dst_off, length):
    a = ctypes.byref(off_t(src_off)) if src_off is not None else None
    b = ctypes.byref(off_t(dst_off)) if dst_off is not None else None
    return checked(libc.splice(src, a, dst, b, ctypes.c_size_t(length), 0))


def test_splice(pair):
    """A file into a pipe, the pipe teed, and both into files; a copy of what went in, though the file changes in between."""
    data = random.Random(2).randbytes(300000)

    def copy(src, dst, off):
        done = 0
        r, w = os.pipe()
        r2, w2 = os.pipe()
        teed = b""
        while done < 250000:
            n = splice(src, off + done, w, None, 50000)
            if not n:
                break
            m = checked(libc.tee(r, w2, ctypes.c_size_t(n), 0))
            teed += os.read(r2, m)
            while n:
                k = splice(r, None, dst, done, n)
                n, done = n - k, done + k
        for fd in (r, w, r2, w2):
            os.close(fd)
        return done, teed[:50000]

    src, dst = pair.open(b"a", os.O_CREAT | os.O_RDWR), pair.open(b"b", os.O_CREAT | os.O_RDWR)
    pair.both(os.write, src, data)
    assert pair.both(copy, src, dst, 1001)[0] == 250000
    assert pair.both(os.pread, dst, 300000, 0) == data[1001:251001]
    pair.both(os.ftruncate, dst, 0)

    def vmsplice(dst):
        class Vec(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
        m = aligned(data[:8192])
        address = ctypes.addressof(ctypes.c_char.from_buffer(m))
        r, w = os.pipe()
        n = checked(libc.vmsplice(w, ctypes.byref(Vec(address, 8192)), 1, 0))
        k = splice(r, None, dst, 100, n)
        os.close(r)
        os.close(w)
        return n, k

    assert pair.both(vmsplice, dst) == (8192, 8192)
    assert pair.both(os.pread, dst, 10000, 0) == bytes(100) + data[:8192]
    # Errors, too.
    append = pair.open(b"b", os.O_WRONLY | os.O_APPEND)
    r, w = os.pipe()
    os.write(w, b"x" * 100)
    assert pair.both(lambda fd: splice(r, None, fd, None, 100), append) == "EINVAL"
    assert pair.both(lambda fd: splice(r, 5, fd, None, 100), dst) == "ESPIPE"
    assert pair.both(lambda fd: splice(fd, None, fd, None, 100), dst) == "EINVAL"
    os.close(r)
    os.close(w)
    for h in (src, dst, append):
        h.close()
    pair.trees()


def test_sendfile(pair):
    data = random.Random(3).randbytes(500000)
    src, dst = pair.open(b"a", os.O_CREAT | os.O_RDWR), pair.open(b"b", os.O_CREAT | os.O_RDWR)
    pair.both(os.write, src, data)

    def send(out, src, off):
        done = 0
        while n := os.sendfile(out, src, off + done, 400000):
            done += n
        return done

    assert pair.both(send, dst, src, 7) == 499993
    assert pair.both(os.pread, dst, 600000, 0) == data[7:]
    assert pair.both(os.sendfile, dst, src, 500000, 100) == 0
    assert pair.both(os.sendfile, dst, src, -1, 100) == "EINVAL"
    src.close()
    dst.close()
    pair.trees()


# --- asynchronous calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["uring", "aio"])
@pytest.mark.parametrize("mode", ["cached", "direct"])
def test_asynchronous(pair, how, mode):
    """The same program says the same on both, and leaves the same file."""
    said = [run(IO_CLIENT, how, os.path.join(side.work, "f"), mode).stdout for side in pair.sides]
    assert said[0] == said[1] and said[0].count("\n") >= 9
    assert len({sha256(os.path.join(side.work, "f")) for side in pair.sides}) == 1
    assert "-" not in said[0].replace("names: 1 0 0 100000 -17 0 0 0 -2", "")


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("engine", ["libaio", "io_uring", "mmap", "splice", "pvsync2", "posixaio"])
def test_fio_engines(pair, engine):
    run("fio", "--name=t", f"--directory={pair.holdfast.work}", "--size=16m", "--rw=randrw", "--bsrange=512-64k", "--bs_unaligned=0", f"--ioengine={engine}",
        "--iodepth=16", f"--direct={int(engine in ('libaio', 'io_uring'))}", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
        "--randseed=1", timeout=390)


def test_errors_of_mappings(pair):
    pair.both(lambda: os.close(os.open(b"f", os.O_CREAT | os.O_RDWR)))
    h = pair.open(b"f", os.O_RDONLY)
    pair.both(os.mkdir, b"d")
    d = pair.open(b"d", os.O_RDONLY)
    libc.mmap.restype = ctypes.c_long
    for handle in (h, d):
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            for prot in (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_WRITE):
                for off in (0, PAGE, 1):
                    def map_it(fd):
                        at = libc.mmap(None, ctypes.c_size_t(PAGE), prot, flags, fd, off_t(off))
                        if at == -1:
                            raise OSError(ctypes.get_errno(), "mmap")
                        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(PAGE))
                    pair.both(map_it, handle)
    h.close()
    d.close()
    assert result_of(os.close, 1 << 20) == errno.errorcode[errno.EBADF]
