# SPDX-License-Identifier: Apache-2.0
"""What the kernel does by itself for every file system, on ours: locks, leases, inotify, programs that run, loop devices; and what must be refused."""
import ctypes
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time

import pytest

from conftest import FSCK, MKFS, daemons, libc, run, sha256, wait_for, write_synced

OTHER = """
import errno, fcntl, struct, sys
kind, how, path = sys.argv[1:]
f = open(path, "r+b")
try:
    if kind == "flock":
        fcntl.flock(f, (fcntl.LOCK_SH if how == "shared" else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    else:
        what = struct.pack("hhqqi4x", fcntl.F_RDLCK if how == "shared" else fcntl.F_WRLCK, 0, 100, 50, 0)
        fcntl.fcntl(f, 37 if kind == "ofd" else fcntl.F_SETLK, what)
    print("got it")
except OSError as e:
    print(errno.errorcode[e.errno])
"""


def other(kind, how, path):
    """What another process is told."""
    return run(sys.executable, "-c", OTHER, kind, how, path).stdout.strip()


@pytest.mark.parametrize("kind", ["flock", "fcntl", "ofd"])
def test_locks(vol, kind):
    path = vol.path("f")
    write_synced(path, b"x" * 1000)
    with open(path, "r+b") as f:
        def lock(how, at=120):
            if kind == "flock":
                fcntl.flock(f, {"shared": fcntl.LOCK_SH, "alone": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}[how])
            else:
                how = {"shared": fcntl.F_RDLCK, "alone": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}[how]
                fcntl.fcntl(f, 37 if kind == "ofd" else fcntl.F_SETLK, struct.pack("hhqqi4x", how, 0, at, 10, 0))
        lock("shared")
        assert other(kind, "shared", path) == "got it" and other(kind, "alone", path) == "EAGAIN"
        lock("alone")
        assert other(kind, "shared", path) == "EAGAIN"
        lock("none")
        assert other(kind, "alone", path) == "got it"
        if kind != "flock":
            lock("alone", at=200)
            assert other(kind, "alone", path) == "got it"


def test_lease(vol):
    """Somebody's opening breaks it; the kernel may also say that it gives none."""
    path = vol.path("f")
    write_synced(path, b"x")
    told = []
    old = signal.signal(signal.SIGIO, lambda *_: told.append(1))
    fd = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as e:
            assert e.errno in (errno.EINVAL, errno.EOPNOTSUPP)
            pytest.skip("this kernel gives no leases on FUSE")
        with subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) as reader:
            wait_for(lambda: told, what="the signal")
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert reader.wait(timeout=20) == 0
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, old)


def test_inotify(vol):
    fd = libc.inotify_init1(os.O_NONBLOCK)
    assert fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(vol.dir), 0xfff) >= 0
    write_synced(vol.path("f"), b"x")
    os.rename(vol.path("f"), vol.path("g"))
    os.chmod(vol.path("g"), 0o600)
    os.unlink(vol.path("g"))
    seen, data = 0, os.read(fd, 10000)
    while data:
        _, mask, _, n = struct.unpack_from("iIII", data)
        seen |= mask
        data = data[16 + n:]
    os.close(fd)
    # modify, attrib, close after writing, moved from and to, create, delete
    assert seen & 0x3ce == 0x3ce


def test_running_program(vol):
    """It cannot be written to while it runs, nor run while it is open for writing."""
    path = vol.path("sleep")
    run("cp", "/bin/sleep", path)
    with subprocess.Popen([path, "100"]) as p:
        time.sleep(0.2)
        with pytest.raises(OSError) as e:
            os.open(path, os.O_WRONLY)
        assert e.value.errno == errno.ETXTBSY
        p.kill()
    fd = os.open(path, os.O_WRONLY)
    with pytest.raises(OSError) as e:
        subprocess.run([path, "0"], check=False)
    assert e.value.errno == errno.ETXTBSY
    os.close(fd)
    assert subprocess.run([path, "0"], check=False).returncode == 0


def test_no_quotas(vol):
    fd = os.open(vol.dir, os.O_RDONLY)
    for cmd in (0x800007, 0x800005, 0x800002, 0x800004):  # Q_GETQUOTA, Q_GETINFO, Q_QUOTAON, Q_GETFMT
        room = ctypes.create_string_buffer(1024)
        assert libc.syscall(443, fd, cmd << 8 & 0xffffffff, 0, room) == -1
        assert ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
    os.close(fd)


@pytest.mark.parametrize("options", ["", "plain"])
def test_no_swap(unmounted, options):
    """The kernel would write past us, to blocks that we move: it must be refused, and the file is a file as before."""
    unmounted.mount(options)
    path = unmounted.path("swap")
    with open(path, "wb") as f:
        f.write(bytes(4 << 20))
    os.chmod(path, 0o600)
    run("mkswap", path)
    before = sha256(path)
    done = run("swapon", path, check=False)
    try:
        assert done.returncode != 0 and path not in run("swapon", "--show=NAME").stdout
    finally:
        if done.returncode == 0:
            run("swapoff", path)
    assert sha256(path) == before
    os.unlink(path)
    unmounted.umount()
    unmounted.fsck("-n", "-f", "--data")


# --- images inside a mount ---

def test_ext4_inside(vol):
    """A loop device on a file of the mount, with ext4 in it, whose sync reaches our disk."""
    image = vol.path("ext4.img")
    with open(image, "wb") as f:
        f.truncate(16 << 20)
    run("mkfs.ext4", "-q", image)
    inner = os.path.join(vol.folder, "inner")
    os.mkdir(inner)
    done = run("mount", "-o", "loop", image, inner, check=False)
    if done.returncode:
        pytest.skip("no loop device: " + done.stdout)
    try:
        data = os.urandom(3 << 20)
        write_synced(os.path.join(inner, "f"), data)
        run("sync", "-f", inner)
        run("sync", "-f", vol.dir)
        vol.kill()
    finally:
        run("umount", "-l", inner, check=False)
    vol.mount()
    # The kernel's loop device may still hold the old mount; the file is what counts.
    copy = os.path.join(vol.folder, "copy.img")
    run("cp", image, copy)
    assert run("e2fsck", "-fy", copy, check=False).returncode in (0, 1)
    said = run("debugfs", "-R", f"dump /f {vol.folder}/f", copy).stdout
    with open(os.path.join(vol.folder, "f"), "rb") as f:
        assert f.read() == data, said


@pytest.mark.parametrize("victim", ["inner", "outer"])
def test_nested(make_volume, victim):
    """A volume inside a volume; either daemon is killed, and what was synced inside is there."""
    outer, inner = make_volume("128M").mkfs(), make_volume()
    outer.mount("commit=300")
    inner.image = outer.path("inner.img")
    run(MKFS, "-q", inner.image, "--size", "32M")
    inner.mount("commit=300")
    write_synced(inner.path("synced"), b"deep inside" * 1000)
    with open(inner.path("unsynced"), "wb") as f:
        f.write(b"x" * 100000)
    try:
        (inner if victim == "inner" else outer).kill()
        if victim == "outer":
            # The inner one has lost its disk: errors, but nothing hangs, and it goes when it is told to.
            with pytest.raises(OSError):
                write_synced(inner.path("more"), b"more")
            run("umount", "-l", inner.dir, check=False)
            wait_for(lambda: not daemons(inner.image), what="the inner daemon's end")
            outer.mount()
        inner.mount()
        with open(inner.path("synced"), "rb") as f:
            assert f.read() == b"deep inside" * 1000
        inner.umount()
        assert "clean" in run(FSCK, "-n", "-f", "--data", inner.image).stdout
    finally:
        inner.clean_up()
    outer.umount()
    outer.fsck("-n", "-f", "--data")
