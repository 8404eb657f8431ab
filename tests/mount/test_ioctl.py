# SPDX-License-Identifier: Apache-2.0
"""Requests of other file systems that Holdfast answers too, as their programs make them."""
import errno
import fcntl
import json
import mmap
import os
import signal
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD, daemons, run, sha256, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")

FLUSH, LOGFLUSH, NOLOGFLUSH = range(3)


def ioc(direction, kind, nr, size):
    return direction << 30 | size << 16 | kind << 8 | nr


IOC_WRITE, IOC_READ = 1, 2
EXT4_SHUTDOWN = ioc(IOC_READ, ord("X"), 125, 4)
HOLDFAST_SHUTDOWN = ioc(IOC_READ | IOC_WRITE, 0xe7, 6, 24)


def ioctl(path, cmd, arg=b""):
    """The answer, of the size that was given."""
    fd = os.open(path, os.O_RDONLY)
    try:
        buf = bytearray(arg)
        fcntl.ioctl(fd, cmd, buf)
        return bytes(buf)
    finally:
        os.close(fd)


def ioctl_error(path, cmd, arg=b""):
    with pytest.raises(OSError) as e:
        ioctl(path, cmd, arg)
    return e.value.errno


def as_nobody(path, cmd, arg=b""):
    """The errno of an ioctl that an ordinary user makes; 0 for none."""
    code = ("import fcntl, os, sys\n"
            f"fd = os.open({str(path)!r}, os.O_RDONLY)\n"
            f"try:\n    fcntl.ioctl(fd, {cmd}, bytearray({bytes(arg)!r}))\n"
            "except OSError as e:\n    print(e.errno)\nelse:\n    print(0)\n")
    return int(run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code).stdout)


# --- shutdown ---

def shut_down(path, how):
    ioctl(path, HOLDFAST_SHUTDOWN, struct.pack("QIIII", 0, 0, 0, how, 0))


def state(path):
    return json.loads(run(HOLDFAST, "stats", "--json", path, check=False).stdout)


def answers_nothing(vol):
    """Neither contents nor names, cached or not; no change; no sync claims anything."""
    for what in (lambda: open(vol.path("synced"), "rb").read(), lambda: open(vol.path("not synced"), "rb").read(),
                 lambda: os.listdir(vol.dir), lambda: open(vol.path("new"), "wb"), lambda: os.mkdir(vol.path("newdir")),
                 lambda: os.rename(vol.path("synced"), vol.path("other")), lambda: os.unlink(vol.path("synced")),
                 lambda: os.truncate(vol.path("synced"), 1), lambda: os.setxattr(vol.path("synced"), "user.x", b"y"),
                 lambda: os.chmod(vol.path("synced"), 0o600), lambda: os.listxattr(vol.path("synced")),
                 lambda: os.stat(vol.path("nosuch"))):
        with pytest.raises(OSError) as e:
            what()
        assert e.value.errno == errno.EIO
    fd = os.open(vol.dir, os.O_RDONLY)
    try:
        with pytest.raises(OSError) as e:
            os.fsync(fd)
        assert e.value.errno == errno.EIO
    finally:
        os.close(fd)


@pytest.mark.parametrize("how", [FLUSH, LOGFLUSH, NOLOGFLUSH, None])
def test_shutdown(unmounted, how):
    """`None`: the request as ext4's and XFS's programs make it, whose flags the kernel does not bring us."""
    unmounted.mount("commit=1000")
    write_synced(unmounted.path("synced"), b"s" * 300000)
    os.sync()
    with open(unmounted.path("not synced"), "wb") as f:
        f.write(b"n" * 300000)
    for name in ("synced", "not synced"):
        with open(unmounted.path(name), "rb") as f:
            f.read()
    os.listdir(unmounted.dir)
    if how is None:
        # The caller's memory is not written to, whatever the number says.
        assert ioctl(unmounted.dir, EXT4_SHUTDOWN, struct.pack("I", NOLOGFLUSH)) == struct.pack("I", NOLOGFLUSH)
    else:
        shut_down(unmounted.dir, how)
    before = sha256(unmounted.image)
    s = state(unmounted.dir)
    assert s["state"] == "failed" and s["reason"] == "shut down by ioctl"
    answers_nothing(unmounted)
    shut_down(unmounted.dir, NOLOGFLUSH)
    os.statvfs(unmounted.dir)
    unmounted.umount()
    # Nothing, not even unmounting, has touched the device.
    assert sha256(unmounted.image) == before
    unmounted.mount()
    with open(unmounted.path("synced"), "rb") as f:
        assert f.read() == b"s" * 300000
    assert os.path.exists(unmounted.path("not synced")) == (how != NOLOGFLUSH)
    if how != NOLOGFLUSH:
        with open(unmounted.path("not synced"), "rb") as f:
            assert f.read() == b"n" * 300000
    unmounted.umount()
    unmounted.fsck()


def test_shutdown_is_roots(unmounted):
    unmounted.mount("allow_other")
    assert as_nobody(unmounted.dir, EXT4_SHUTDOWN, bytes(4)) == errno.EPERM
    assert as_nobody(unmounted.dir, HOLDFAST_SHUTDOWN, bytes(24)) == errno.EPERM
    assert ioctl_error(unmounted.dir, HOLDFAST_SHUTDOWN, struct.pack("QIIII", 0, 0, 0, 3, 0)) == errno.EINVAL
    assert state(unmounted.dir)["state"] == "ok"


def test_shutdown_read_only(unmounted):
    unmounted.mount()
    write_synced(unmounted.path("synced"), b"x")
    unmounted.remount("ro")
    before = sha256(unmounted.image)
    ioctl(unmounted.dir, EXT4_SHUTDOWN, bytes(4))
    with pytest.raises(OSError) as e:
        open(unmounted.path("synced"), "rb").read()
    assert e.value.errno == errno.EIO
    unmounted.umount()
    assert sha256(unmounted.image) == before


def test_shutdown_under_load(unmounted):
    """Writers, readers, stores through mmap and a second shutdown meanwhile: none hangs, and what was synced is there."""
    unmounted.mount()
    stop = threading.Event()
    synced = {}

    def work(n):
        i = 0
        try:
            while not stop.is_set():
                name = unmounted.path(f"{n}.{i}")
                with open(name, "w+b", buffering=0) as f:
                    data = os.urandom(50000)
                    f.write(data)
                    if n % 2:
                        m = mmap.mmap(f.fileno(), len(data))
                        m[0:5] = b"mmap!"
                        m.flush()
                        data = b"mmap!" + data[5:]
                    os.fsync(f.fileno())
                    synced[name] = data
                with open(name, "rb") as f:
                    assert f.read() == data
                i += 1
        except OSError as e:
            assert e.errno == errno.EIO, e

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    time.sleep(0.5)

    def shut(how):
        try:
            shut_down(unmounted.dir, how)
        except OSError as e:
            # The sync of one that comes second fails.
            assert (e.errno, how) == (errno.EIO, FLUSH)

    both = [threading.Thread(target=shut, args=(how,)) for how in (NOLOGFLUSH, FLUSH)]
    for t in both:
        t.start()
    for t in both + threads:
        t.join(60)
        assert not t.is_alive()
    stop.set()
    unmounted.umount()
    unmounted.mount()
    assert synced
    for name, data in synced.items():
        with open(name, "rb") as f:
            assert f.read() == data
    unmounted.umount()
    unmounted.fsck()
