# SPDX-License-Identifier: Apache-2.0
"""Requests of other file systems that Holdfast answers too, as their programs make them."""
import errno
import fcntl
import json
import os
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD, run, sha256, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")

FLUSH, LOGFLUSH, NOLOGFLUSH = range(3)


def ioc(direction, kind, nr, size):
    return direction << 30 | size << 16 | kind << 8 | nr


IOC_WRITE, IOC_READ = 1, 2
EXT4_SHUTDOWN = ioc(IOC_READ, ord("X"), 125, 4)
GETVERSION = ioc(IOC_READ, ord("v"), 1, 8)
SETVERSION = ioc(IOC_WRITE, ord("v"), 2, 8)
GETLABEL = ioc(IOC_READ, 0x94, 49, 256)
SETLABEL = ioc(IOC_WRITE, 0x94, 50, 256)
FITRIM = ioc(IOC_READ | IOC_WRITE, ord("X"), 121, 24)
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
    run("sync", "-f", unmounted.dir)
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
                    os.fsync(f.fileno())
                    synced[name] = data
                with open(name, "rb") as f:
                    assert f.read() == data
                i += 1
        except OSError as e:
            assert e.errno == errno.EIO, e

    write_synced(unmounted.path("mapped"), bytes(1 << 20))
    # A process of its own, as a fault that cannot be served is a SIGBUS.
    code = ("import mmap\n"
            f"m = mmap.mmap(open({unmounted.path('mapped')!r}, 'r+b').fileno(), 1 << 20)\n"
            "while True:\n    m[:] = b'x' * (1 << 20)\n    m.flush()\n")
    mapper = subprocess.Popen(["/usr/bin/python3", "-c", code], stderr=subprocess.DEVNULL)
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
    assert mapper.wait(60) != 0
    unmounted.umount()
    unmounted.mount()
    assert synced
    for name, data in synced.items():
        with open(name, "rb") as f:
            assert f.read() == data
    unmounted.umount()
    unmounted.fsck()


# --- label and version ---

def label(path):
    return ioctl(path, GETLABEL, bytes(256)).rstrip(b"\0").decode()


def set_label(path, text):
    ioctl(path, SETLABEL, text.encode().ljust(256, b"\0"))


def test_label(unmounted):
    unmounted.mkfs("-L", "first")
    unmounted.mount("allow_other")
    assert label(unmounted.dir) == "first"
    set_label(unmounted.dir, "another")
    assert label(unmounted.dir) == "another" and state(unmounted.dir)["label"] == "another"
    # It is durable when it has been set.
    unmounted.kill()
    info = json.loads(run(HOLDFAST, "info", "--json", unmounted.image, check=False).stdout)
    assert info["label"] == "another"
    unmounted.mount("allow_other")
    for text in ("", "x" * 255, "\u00fc and spaces"):
        set_label(unmounted.dir, text)
        unmounted.remount("allow_other")
        assert label(unmounted.dir) == text
    assert ioctl_error(unmounted.dir, SETLABEL, b"x" * 256) == errno.EINVAL
    assert as_nobody(unmounted.dir, SETLABEL, bytes(256)) == errno.EPERM
    assert as_nobody(unmounted.dir, GETLABEL, bytes(256)) == 0
    unmounted.remount("ro")
    assert ioctl_error(unmounted.dir, SETLABEL, bytes(256)) == errno.EROFS
    unmounted.umount()
    unmounted.fsck()


def test_version(vol):
    write_synced(vol.path("f"), b"x")
    first = ioctl(vol.path("f"), GETVERSION, bytes(8))
    # An int, as programs have it: what is behind it is theirs.
    assert first[4:] == bytes(4) and ioctl(vol.path("f"), GETVERSION, b"\xff" * 8)[4:] == b"\xff" * 4
    assert int(run("lsattr", "-v", vol.path("f")).stdout.split()[0]) == struct.unpack("I", first[:4])[0]
    assert ioctl_error(vol.path("f"), SETVERSION, bytes(8)) == errno.ENOTTY


# --- fstrim ---

def used(image):
    return os.stat(image).st_blocks * 512


def test_fstrim(unmounted):
    """What is freed leaves the image file; what is in use stays; a part, and nothing that is too short."""
    unmounted.mount("allow_other")
    keep = os.urandom(3 << 20)
    write_synced(unmounted.path("keep"), keep)
    write_synced(unmounted.path("gone"), os.urandom(60 << 20))
    full = used(unmounted.image)
    os.unlink(unmounted.path("gone"))
    trimmed = int(run("fstrim", "-v", unmounted.dir).stdout.split("(")[1].split()[0])
    assert used(unmounted.image) < full - (58 << 20)
    size = os.stat(unmounted.image).st_size
    assert (200 << 20) < trimmed < size
    halves = [struct.unpack("QQQ", ioctl(unmounted.dir, FITRIM, struct.pack("QQQ", start, size // 2, 0)))[1]
              for start in (0, size // 2)]
    assert abs(sum(halves) - trimmed) < 1 << 20
    answer = struct.unpack("QQQ", ioctl(unmounted.dir, FITRIM, struct.pack("QQQ", 0, 2**64 - 1, 126 << 20)))
    assert answer[1] < trimmed
    assert ioctl_error(unmounted.dir, FITRIM, struct.pack("QQQ", size, 2**64 - 1, 0)) == errno.EINVAL
    assert ioctl_error(unmounted.dir, FITRIM, struct.pack("QQQ", 0, 100, 0)) == errno.EINVAL
    assert as_nobody(unmounted.dir, FITRIM, struct.pack("QQQ", 0, 2**64 - 1, 0)) == errno.EPERM
    unmounted.remount("ro")
    assert ioctl_error(unmounted.dir, FITRIM, struct.pack("QQQ", 0, 2**64 - 1, 0)) == errno.EROFS
    with open(unmounted.path("keep"), "rb") as f:
        assert f.read() == keep
    unmounted.umount()
    unmounted.fsck()


def test_fstrim_in_use(unmounted):
    """Files come and go, and the daemon is killed at the end."""
    unmounted.mount()
    stop = threading.Event()
    errors = []
    synced = {}

    def work(n):
        i = 0
        while not stop.is_set():
            name = unmounted.path(f"{n}.{i % 5}")
            data = os.urandom(200000)
            if os.path.exists(name):
                synced.pop(name, None)
                os.unlink(name)
            write_synced(name, data)
            synced[name] = data
            with open(name, "rb") as f:
                if f.read() != data:
                    errors.append(name)
            i += 1

    def trim():
        while not stop.is_set():
            done = run("fstrim", unmounted.dir, check=False)
            if done.returncode:
                errors.append(done.stdout)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)] + [threading.Thread(target=trim)]
    for t in threads:
        t.start()
    time.sleep(2)
    stop.set()
    for t in threads:
        t.join(60)
    assert not errors
    unmounted.kill()
    unmounted.mount()
    for name, data in synced.items():
        with open(name, "rb") as f:
            assert f.read() == data
    unmounted.umount()
    unmounted.fsck()
