# SPDX-License-Identifier: Apache-2.0
"""Behaviours that docs/testing.md lists and that need a daemon whose messages can be read: it runs in the foreground."""
import ctypes
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from conftest import MOUNT, daemons, is_mounted, libc, run, wait_for, write_synced


@pytest.fixture
def talking(unmounted):
    """A mounted volume with .stats(), the daemon's counters, and .log, what it has said."""
    log = os.path.join(unmounted.folder, "log")
    with open(log, "wb") as out:
        daemon = subprocess.Popen([MOUNT, "-v", unmounted.image, unmounted.dir, "-o", "foreground,commit=300"],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    unmounted.log = lambda: open(log, encoding="utf-8", errors="replace").read()

    def stats():
        # One line for each group of counters, the device's last.
        said = unmounted.log().count("dev_queue_depth=")
        daemon.send_signal(signal.SIGUSR1)
        wait_for(lambda: unmounted.log().count("dev_queue_depth=") > said, what="the counters")
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", unmounted.log())}

    unmounted.stats = stats
    wait_for(lambda: is_mounted(unmounted.dir), what="the mount")
    yield unmounted
    if is_mounted(unmounted.dir):
        run("umount", "-l", unmounted.dir, check=False)
    try:
        daemon.wait(timeout=20)
    finally:
        daemon.kill()


def test_counters_follow_the_work(talking):
    """fsync and fdatasync are counted apart, bytes exactly, and a sync of what is durable costs the device nothing."""
    before = talking.stats()
    fd = os.open(talking.path("f"), os.O_RDWR | os.O_CREAT)
    for i in range(10):
        os.pwrite(fd, b"x" * 4096, i * 4096)
    os.fsync(fd)
    os.fdatasync(fd)
    after = talking.stats()
    assert after["writes"] - before["writes"] == 10
    assert after["write_bytes"] - before["write_bytes"] == 40960
    assert after["fsyncs"] - before["fsyncs"] == 1
    assert after["fdatasyncs"] - before["fdatasyncs"] == 1
    assert after["groups"] - before["groups"] == 1
    device = after["dev_writes"]
    for _ in range(5):
        os.fsync(fd)
    os.close(fd)
    assert talking.stats()["dev_writes"] == device
    assert talking.stats()["dev_errors"] == 0


def test_group_commit_shares_writes(talking):
    """16 threads that fsync: clearly fewer groups than fsyncs."""
    def work(n):
        fd = os.open(talking.path(f"f{n}"), os.O_WRONLY | os.O_CREAT)
        for i in range(50):
            os.pwrite(fd, b"y" * 300, i * 300)
            os.fdatasync(fd)
        os.close(fd)
    before = talking.stats()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    after = talking.stats()
    syncs = after["fdatasyncs"] - before["fdatasyncs"]
    assert syncs == 800
    assert after["groups"] - before["groups"] < syncs * 0.8


@pytest.mark.parametrize("engine", ["psync", "libaio", "io_uring"])
def test_synchronous_writes_are_durable(talking, engine):
    """With O_DSYNC a write is acknowledged when it is durable.  Of asynchronous ones the kernel sends no FSYNC by itself."""
    write_synced(talking.path("f"), b"x" * 409600)
    before = talking.stats()["groups"]
    run("fio", "--name=x", "--filename=" + talking.path("f"), "--rw=write", "--bs=4k", "--size=400k", f"--ioengine={engine}",
        "--direct=1", "--sync=dsync", "--overwrite=1", "--iodepth=1")
    assert talking.stats()["groups"] - before >= 100


def test_idle_costs_nothing(talking):
    (pid,) = daemons(talking.image)

    def ticks():
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    write_synced(talking.path("f"), b"x")
    time.sleep(0.5)
    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 2  # of 200


def test_damaged_data_is_named(talking):
    """One flipped byte in a file's block: EIO for that file, its inode and offset in the message, the others untouched."""
    needle = os.urandom(16)
    write_synced(talking.path("good"), b"g" * 50000)
    write_synced(talking.path("bad"), b"b" * 8192 + needle * 256 + b"b" * 8192)
    ino = os.stat(talking.path("bad")).st_ino
    talking.umount()
    with open(talking.image, "r+b") as f:
        data = f.read()
        at = data.index(needle * 256)
        f.seek(at + 100)
        f.write(bytes([data[at + 100] ^ 1]))
    log = os.path.join(talking.folder, "log2")
    with open(log, "wb") as out:
        daemon = subprocess.Popen([MOUNT, talking.image, talking.dir, "-o", "foreground"], stdin=subprocess.DEVNULL,
                                  stdout=out, stderr=out)
    try:
        wait_for(lambda: is_mounted(talking.dir), what="the mount")
        fd = os.open(talking.path("bad"), os.O_RDONLY | os.O_DIRECT)
        with pytest.raises(OSError) as e:
            buf = (ctypes.c_char * 12288).from_buffer(bytearray(12288))
            os.preadv(fd, [buf], 8192)
        os.close(fd)
        assert e.value.errno == 5
        with open(talking.path("good"), "rb") as f:
            assert f.read() == b"g" * 50000
        text = open(log, encoding="utf-8", errors="replace").read()
        assert str(ino) in text and "8192" in text
    finally:
        run("umount", talking.dir, check=False)
        daemon.wait(timeout=20)
    assert "FS" in talking.fsck("-n", "-f", "--data", expect=4)


def test_attributes_after_a_kill(vol):
    path = vol.path("f")
    write_synced(path, b"data")
    os.chown(path, 12, 34)
    os.chmod(path, 0o4711)
    os.setxattr(path, "user.a", b"b" * 3000)
    os.utime(path, ns=(1234567890123456789, 987654321987654321))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    want = os.stat(path)
    vol.kill()
    vol.mount()
    assert os.stat(path) == want and os.getxattr(path, "user.a") == b"b" * 3000


class FileHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def test_handles(vol):
    """name_to_handle_at, open_by_handle_at: good as long as the file is, ESTALE afterwards, never another file."""
    write_synced(vol.path("f"), b"by handle")
    handle, mount_id = FileHandle(bytes=128), ctypes.c_int()
    assert libc.name_to_handle_at(-100, os.fsencode(vol.path("f")), ctypes.byref(handle), ctypes.byref(mount_id), 0) == 0
    top = os.open(vol.dir, os.O_RDONLY)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("2")
    fd = libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    assert os.read(fd, 100) == b"by handle"
    os.close(fd)
    os.unlink(vol.path("f"))
    for i in range(100):
        write_synced(vol.path(f"other{i}"), b"other")
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("2")
    assert libc.open_by_handle_at(top, ctypes.byref(handle), os.O_RDONLY) < 0
    assert ctypes.get_errno() == 116  # ESTALE
    os.close(top)
