# SPDX-License-Identifier: Apache-2.0
"""O_DIRECT beside the kernel's cache."""
import contextlib
import ctypes
import mmap
import os
import platform
import subprocess
import sys
import time

import pytest

from conftest import LONG, end_all, kernel_offers_uring, libc, run


class Iocb(ctypes.Structure):
    """struct iocb of linux/aio_abi.h."""
    _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_int32), ("opcode", ctypes.c_uint16),
                ("prio", ctypes.c_int16), ("fd", ctypes.c_uint32), ("buf", ctypes.c_uint64), ("nbytes", ctypes.c_uint64),
                ("offset", ctypes.c_int64), ("reserved", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("resfd", ctypes.c_uint32)]


def aio_submit(ctx, fd, buf, off):
    """Of a whole buffer."""
    iocb = Iocb(opcode=1, fd=fd, buf=ctypes.addressof(ctypes.c_char.from_buffer(buf)), nbytes=len(buf), offset=off)
    assert libc.syscall(209, ctx, 1, ctypes.byref(ctypes.pointer(iocb))) == 1


def aio_wait(ctx, buf):
    event = (ctypes.c_int64 * 4)()
    assert libc.syscall(208, ctx, 1, 1, event, None) == 1
    assert event[2] == len(buf)


def aio_write(ctx, fd, buf):
    """To the beginning of a file."""
    aio_submit(ctx, fd, buf, 0)
    aio_wait(ctx, buf)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
def test_asynchronous_direct_writes_leave_nothing_old_cached(vol):
    """While others read through the cache.  The kernel drops what is cached before such a write, and not behind it."""
    size, path = 2 << 20, vol.path("f")
    with open(path, "wb") as f:
        f.write(bytes(size))
    ctx = ctypes.c_ulong()
    assert libc.syscall(206, 8, ctypes.byref(ctx)) == 0
    bufs = [mmap.mmap(-1, size), mmap.mmap(-1, size)]
    bufs[0][:], bufs[1][:] = b"a" * size, b"b" * size
    reader = ("import os, random, sys\nfd, n = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2]) >> 12\n"
              "while True: os.pread(fd, 4096, random.randrange(n) << 12)")
    readers = [subprocess.Popen(["/usr/bin/python3", "-c", reader, path, str(size)]) for _ in range(2)]
    direct, cached = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY)
    try:
        end = time.monotonic() + (60 if LONG else 4)
        n = 0
        while time.monotonic() < end:
            aio_write(ctx, direct, bufs[n % 2])
            assert os.pread(cached, size, 0) == bufs[n % 2][:], n
            n += 1
        assert n > 10
    finally:
        for r in readers:
            r.kill()
            r.wait()
        os.close(direct)
        os.close(cached)
        libc.syscall(207, ctx)


def replace(path, seconds):
    """A process: as many direct writes at once as the kernel sends to a daemon, of pages that another one has stored to meanwhile."""
    n, end = 64, time.monotonic() + seconds
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(n << 12), 0)
    if os.fork() == 0:
        m = mmap.mmap(fd, n << 12)
        while time.monotonic() < end:
            for at in range(0, n << 12, 4096):
                m[at] = 1
        os._exit(0)
    direct, buf, ctx = os.open(path, os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, 4096), ctypes.c_ulong()
    assert libc.syscall(206, 2 * n, ctypes.byref(ctx)) == 0
    for i in range(n):
        aio_submit(ctx, direct, buf, i << 12)
    i = 0
    while time.monotonic() < end:
        aio_wait(ctx, buf)
        aio_submit(ctx, direct, buf, i % n << 12)
        i += 1
    for _ in range(n):
        aio_wait(ctx, buf)
    sys.exit(os.wait()[1])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls")
def test_as_many_asynchronous_writes_as_the_kernel_sends(vol):
    """What is replaced is dropped before they are answered, and handed over before that, as one request more."""
    code = f"import sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\nimport test_direct\ntest_direct.replace({vol.path('f')!r}, 3)"
    end_all(vol, [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)], "writing")


# Processes that read past the cache into mappings of a file, store there, and make the kernel hand it over: truncate it to the size that it has, or flush.
INTO = r"""
import mmap, os, random, sys, time
SIZE = 256 << 10
a, b = (os.path.join(sys.argv[1], name) for name in "ab")
end = time.monotonic() + float(sys.argv[2])
for path in a, b:
    with open(path, "wb") as f:
        f.write(bytes(SIZE))

def read(m, rnd):
    at = rnd.randrange(SIZE >> 12) << 12
    os.preadv(fd, [memoryview(m)[at:at + 32768]], at)

def store(m, rnd):
    m[rnd.randrange(SIZE)] = 1

def truncate(_m, _rnd):
    os.truncate(b, SIZE)

def flush(m, _rnd):
    m.flush()

for i in range(18):
    if os.fork() == 0:
        fd, rnd = os.open(a, os.O_RDONLY | os.O_DIRECT), random.Random(i)
        m = mmap.mmap(os.open(b, os.O_RDWR), SIZE)
        while time.monotonic() < end:
            (truncate, flush, flush, store, store, store, read)[min(i, 6)](m, rnd)
        os._exit(0)
sys.exit(sum(os.wait()[1] for _ in range(18)) != 0)
"""


@pytest.mark.parametrize("transport", ["dev", "uring"])
def test_reads_into_mappings(unmounted, transport):
    """When they are answered the kernel locks their pages, as does who waits for other answers; no worker may wait for that."""
    with kernel_offers_uring(True) if transport == "uring" else contextlib.nullcontext():
        unmounted.mount(f"transport={transport}")
    # Something has been handed over before.
    with open(unmounted.path("c"), "w+b") as f:
        f.truncate(4096)
        with mmap.mmap(f.fileno(), 4096) as m:
            m[0] = 1
            m.flush()
    end_all(unmounted, [subprocess.Popen(["/usr/bin/python3", "-c", INTO, unmounted.dir, "3"], stdin=subprocess.DEVNULL)], "reading")


@pytest.mark.timeout(900 if LONG else 180)
def test_the_flag_changes_under_a_write(make_volume):
    """A write may go through the cache although the flag is there when it reaches the daemon.  Nobody waits for pages that it holds."""
    vol = make_volume("2G" if LONG else "256M").mkfs()
    vol.mount()
    path = vol.path("f")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    toggler = (f"import fcntl, os\nflags = fcntl.fcntl({fd}, fcntl.F_GETFL)\n"
               f"while True:\n    fcntl.fcntl({fd}, fcntl.F_SETFL, flags ^ os.O_DIRECT)\n    fcntl.fcntl({fd}, fcntl.F_SETFL, flags)")
    writer = f"import os\nfor i in range({200000 if LONG else 5000}):\n    os.pwrite({fd}, b'x' * 512, i * 4096 + 100)"
    # They share the open file.
    toggle, write = (subprocess.Popen(["/usr/bin/python3", "-c", code], pass_fds=[fd]) for code in (toggler, writer))
    try:
        assert write.wait(timeout=600 if LONG else 120) == 0
    except subprocess.TimeoutExpired:
        run("umount", "-f", vol.dir, check=False)  # who hangs there cannot be killed otherwise, nor can the daemon
        raise
    finally:
        toggle.kill()
        toggle.wait()
    n = os.fstat(fd).st_size >> 12
    for i in range(n + 1):
        assert os.pread(fd, 4096, i * 4096) == (bytes(100) + b"x" * 512 + bytes(4096 - 612))[:4096 if i < n else 612]
    os.close(fd)
