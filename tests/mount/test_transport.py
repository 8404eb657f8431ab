# SPDX-License-Identifier: Apache-2.0
"""Requests over io_uring, and the choice between that and /dev/fuse.  Everything else runs on it with HOLDFAST_TRANSPORT=uring."""
import hashlib
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

import calls
from conftest import BUILD, MOUNT, daemons, end_all, is_mounted, kernel_offers_uring, run, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")


@pytest.fixture
def offered():
    with kernel_offers_uring(True):
        yield


@pytest.fixture
def rings(offered, unmounted):  # pylint: disable=unused-argument
    unmounted.mount("transport=uring")
    assert requests(unmounted) == "io_uring"
    return unmounted


def requests(vol):
    return json.loads(run(HOLDFAST, "stats", "--json", vol.dir).stdout)["requests"]


def mount_with(vol, transport, more=""):
    """Past HOLDFAST_TRANSPORT and HOLDFAST_ENGINE."""
    return run(MOUNT, vol.image, vol.dir, "-o", f"transport={transport}" + more, check=False)


# --- the choice ---

def test_what_the_kernel_offers_is_taken(offered, unmounted):  # pylint: disable=unused-argument
    for options, expected in (("auto", "io_uring"), ("uring", "io_uring"), ("dev", "/dev/fuse")):
        assert mount_with(unmounted, options).returncode == 0
        assert requests(unmounted) == expected
        unmounted.umount()


def test_not_offered(unmounted):
    with kernel_offers_uring(False):
        done = mount_with(unmounted, "uring")
        assert done.returncode == 32 and "enable_uring" in done.stdout and len(done.stdout.splitlines()) == 1
        assert not is_mounted(unmounted.dir)
        assert mount_with(unmounted, "auto").returncode == 0
        assert requests(unmounted) == "/dev/fuse"
        unmounted.umount()


def test_other_engine(offered, unmounted):  # pylint: disable=unused-argument
    assert mount_with(unmounted, "uring", ",engine=threads").returncode == 32
    assert mount_with(unmounted, "auto", ",engine=threads").returncode == 0
    assert requests(unmounted) == "/dev/fuse"
    unmounted.umount()
    assert mount_with(unmounted, "nosuch").returncode == 1


# --- what takes ways of its own there ---

def pattern(seed, size):
    return random.Random(seed).randbytes(size)


def test_reads_and_writes_of_every_alignment(rings):
    """Replies in place and moved, data lent and copied, headers of every length."""
    model = bytearray(3 << 20)
    r = random.Random(7)
    with open(rings.path("f"), "w+b", buffering=0) as f:
        f.truncate(len(model))
        for i in range(300):
            size = r.choice((1, 511, 4096, 4097, 32767, 32768, 65536, 131072 + 5, 1 << 20))
            off = r.randrange(len(model) - size) & r.choice((~0, ~4095))
            if i % 3:
                data = pattern(i, size)
                assert os.pwrite(f.fileno(), data, off) == size
                model[off:off + size] = data
            else:
                if i % 2:
                    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(f.fileno(), size, off) == model[off:off + size]
    rings.remount("transport=uring")
    with open(rings.path("f"), "rb") as f:
        assert f.read() == model
    rings.umount()
    rings.fsck("-n", "-f", "--data")


def test_names_and_values_of_every_length(rings):
    for n in (1, 2, 7, 8, 9, 63, 64, 200, 255):
        name = "n" * n
        os.mkdir(rings.path(name))
        os.rename(rings.path(name), rings.path("m" * n))
        os.symlink("t" * n * 16, rings.path("m" * n, "link"))
        assert os.readlink(rings.path("m" * n, "link")) == "t" * n * 16
        os.setxattr(rings.path("m" * n), "user." + "x" * min(n, 250), bytes(n * 250))
        assert os.getxattr(rings.path("m" * n), "user." + "x" * min(n, 250)) == bytes(n * 250)
    assert len(os.listdir(rings.dir)) == 9


def test_more_requests_than_entries(rings):
    """Sixty-four threads that wait for the disk; and a listing meanwhile."""
    errors = []

    def work(i):
        try:
            for k in range(5):
                write_synced(rings.path(f"{i}-{k}"), pattern(i * 5 + k, 5000))
        except OSError as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        os.listdir(rings.dir)
    for t in threads:
        t.join()
    assert not errors and len(os.listdir(rings.dir)) == 320
    rings.kill()
    rings.mount("transport=uring")
    for i in range(64):
        for k in range(5):
            with open(rings.path(f"{i}-{k}"), "rb") as f:
                assert f.read() == pattern(i * 5 + k, 5000)


def test_every_processor_is_served(rings):
    for cpu in os.sched_getaffinity(0):
        run("taskset", "-c", cpu, "sh", "-c", f"echo {cpu} >{rings.path(str(cpu))} && cat {rings.path(str(cpu))} && ls -l {rings.dir}")


def test_interrupted(rings):
    """A process that waits for an answer can be killed."""
    script = "import os,sys\nfd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\nwhile True:\n    os.pwrite(fd, b'x' * 8192, 0)\n    os.fsync(fd)\n"
    for i in range(5):
        with subprocess.Popen([sys.executable, "-c", script, rings.path(f"f{i}")]) as p:
            wait_for(lambda i=i: os.path.exists(rings.path(f"f{i}")) and os.path.getsize(rings.path(f"f{i}")), what="the first write")
            time.sleep(0.02 * i)
            p.send_signal(signal.SIGKILL)
            p.wait(timeout=20)
    assert len(os.listdir(rings.dir)) == 5


# --- ends ---

def start_writers(vol, n=4):
    script = ("import os,sys\ni = 0\nwhile True:\n    with open(f'{sys.argv[1]}-{i % 50}', 'wb') as f:\n        f.write(b'y' * 70000)\n"
              "        os.fsync(f.fileno())\n    i += 1\n")
    return [subprocess.Popen([sys.executable, "-c", script, vol.path(str(i))], stderr=subprocess.DEVNULL) for i in range(n)]


@pytest.mark.parametrize("plain", ["", ",plain"])
@pytest.mark.parametrize("end", ["umount", "lazy", "force", "TERM", "KILL"])
def test_ends_under_load(offered, unmounted, end, plain):  # pylint: disable=unused-argument
    unmounted.mount("transport=uring" + plain)
    write_synced(unmounted.path("kept"), pattern(1, 100000))
    writers = start_writers(unmounted)
    try:
        wait_for(lambda: len(os.listdir(unmounted.dir)) > 4, what="the writers")
        if end == "umount":
            assert run("umount", unmounted.dir, check=False).returncode != 0
            for p in writers:
                p.kill()
                p.wait()
            run("umount", unmounted.dir)
        elif end == "lazy":
            run("umount", "-l", unmounted.dir)
            for p in writers:
                p.kill()
        elif end == "force":
            run("umount", "-f", unmounted.dir, check=False)
            run("umount", "-l", unmounted.dir, check=False)
        else:
            for pid in daemons(unmounted.image):
                os.kill(pid, signal.SIGKILL if end == "KILL" else signal.SIGTERM)
        wait_for(lambda: not daemons(unmounted.image), seconds=30, what="the daemon's end")
    finally:
        for p in writers:
            p.kill()
            p.wait()
        run("umount", "-l", unmounted.dir, check=False)
    if end != "KILL":
        assert "clean" in unmounted.fsck("-n")
    unmounted.mount("transport=uring")
    with open(unmounted.path("kept"), "rb") as f:
        assert hashlib.sha256(f.read()).digest() == hashlib.sha256(pattern(1, 100000)).digest()
    unmounted.umount()
    unmounted.fsck("-n", "-f", "--data")


@pytest.mark.parametrize("options", ["", ",writeback"], ids=["plain", "writeback"])
def test_more_seek_than_there_are_entries(offered, unmounted, options):  # pylint: disable=unused-argument
    """They wait for the kernel to hand over what it has cached, and that takes entries, too."""
    vol, n = unmounted, 48
    assert mount_with(vol, "uring", options).returncode == 0
    fds = [os.open(vol.path(f"f{i}"), os.O_RDWR | os.O_CREAT) for i in range(n)]
    for fd in fds:
        os.ftruncate(fd, 1 << 20)
    stop = threading.Event()

    def seek(fd):
        rnd = random.Random(fd)
        with mmap.mmap(fd, 1 << 20) as m:
            while not stop.is_set():
                at = rnd.randrange(1 << 20)
                m[at] = 1
                assert os.lseek(fd, at, os.SEEK_DATA) == at

    threads = [threading.Thread(target=seek, args=(fd,), daemon=True) for fd in fds]
    for t in threads:
        t.start()
    time.sleep(2)
    stop.set()
    try:
        wait_for(lambda: not any(t.is_alive() for t in threads), 60, "the end of all seeking")
    except AssertionError:
        vol.kill()
        raise
    for fd in fds:
        os.close(fd)


def test_more_settle_than_there_are_entries(offered, unmounted):  # pylint: disable=unused-argument
    """As above: what was stored in a file that becomes immutable is handed over before that is answered."""
    vol = unmounted
    assert mount_with(vol, "uring").returncode == 0
    procs = [subprocess.Popen([sys.executable, "-c", calls.SETTLE, vol.path(f"f{i}"), "3"], stdin=subprocess.DEVNULL) for i in range(48)]
    end_all(vol, procs, "settling")


# A thread of it stores through a mapping what the other replaces, past the cache.
REPLACE = r"""
import mmap, os, sys, threading, time
SIZE = 256 << 10
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x" * SIZE, 0)
end = time.monotonic() + float(sys.argv[2])
if os.fork() == 0:
    m = mmap.mmap(fd, SIZE)
    while time.monotonic() < end:
        for at in range(0, SIZE, 4096):
            m[at] = 1
    os._exit(0)
direct = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
data = mmap.mmap(-1, SIZE)
while time.monotonic() < end:
    os.pwritev(direct, [data], 0)
sys.exit(os.wait()[1])
"""


def test_more_replace_than_there_are_entries(offered, unmounted):  # pylint: disable=unused-argument
    """As above: what an O_DIRECT write replaces is dropped from the cache, and what was stored there meanwhile is handed over first."""
    vol = unmounted
    assert mount_with(vol, "uring").returncode == 0
    procs = [subprocess.Popen([sys.executable, "-c", REPLACE, vol.path(f"f{i}"), "3"], stdin=subprocess.DEVNULL) for i in range(48)]
    end_all(vol, procs, "writing")
