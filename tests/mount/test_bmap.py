# SPDX-License-Identifier: Apache-2.0
"""Where a file's blocks are: FIBMAP tells it, and swapon(2), by which the kernel would ask with the very same request, gets no answer."""
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import re
import signal
import struct
import threading

import pytest

from conftest import MOUNT, kernel_offers_uring, libc, run, write_synced
from test_capabilities import teller, user, without

BLOCK = 4096
FIBMAP = 1


def fibmap(fd, block):
    buf = bytearray(struct.pack("i", block))
    fcntl.ioctl(fd, FIBMAP, buf)
    return struct.unpack("i", buf)[0]


def blocks(path):
    """Of each block of a file, where it is; and of one behind its end."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return [fibmap(fd, i) for i in range(os.fstat(fd).st_size // BLOCK + 2)]
    finally:
        os.close(fd)


def told_to(who, path):
    """What somebody else is told of the first block, or why he is not."""
    code = f"""
import fcntl, os, struct
buf = bytearray(4)
try:
    fcntl.ioctl(os.open({path!r}, os.O_RDONLY), {FIBMAP}, buf)
except OSError as e:
    print(-e.errno)
else:
    print(struct.unpack("i", buf)[0])
"""
    return int(run(*who, "/usr/bin/python3", "-c", code).stdout)


def swap_refused(path):
    """swapon(2), by this very thread."""
    if libc.swapon(os.fsencode(path), 0) == 0:
        libc.swapoff(os.fsencode(path))
        raise AssertionError("the kernel swaps to a file of the volume")
    assert ctypes.get_errno() == errno.EINVAL


@pytest.mark.parametrize("transport", ["dev", "uring"])
def test_blocks(unmounted, transport):
    """What is told is where it is: compared with the image when the volume is unmounted.  Holes, reserved blocks, inline contents and what is behind the end are nowhere."""
    with kernel_offers_uring(transport == "uring"):
        if unmounted.mount(f"engine=uring,transport={transport}", check=False).returncode:
            pytest.skip("no requests over io_uring here")
    path = unmounted.path
    write_synced(path("inline"), b"x" * 500)
    write_synced(path("empty"), b"")
    write_synced(path("written"), os.urandom(40 * BLOCK + 100))
    with open(path("sparse"), "wb") as f:
        for block in (3, 100, 101):
            os.pwrite(f.fileno(), os.urandom(BLOCK), block * BLOCK)
        os.pwrite(f.fileno(), b"end", 200 * BLOCK - 3)
    with open(path("reserved"), "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 20 * BLOCK)
        os.pwrite(f.fileno(), os.urandom(5 * BLOCK), 4 * BLOCK)
    run("fallocate", "-n", "-l", str(30 * BLOCK), path("reserved"))
    # Through the journal, to where it was, and to other blocks.
    with open(path("written"), "r+b") as f:
        os.pwrite(f.fileno(), os.urandom(100), 3 * BLOCK + 50)
        os.pwrite(f.fileno(), os.urandom(20 * BLOCK), 10 * BLOCK)
    want = {"inline": set(), "empty": set(), "written": set(range(41)), "sparse": {3, 100, 101, 199}, "reserved": set(range(4, 9))}
    said = {name: blocks(path(name)) for name in want}
    assert {name: {i for i, at in enumerate(said[name]) if at} for name in want} == want
    contents = {}
    for name in want:
        with open(path(name), "rb") as f:
            contents[name] = f.read()
    unmounted.umount()
    with open(unmounted.image, "rb") as f:
        for name, where in said.items():
            for i, at in enumerate(where):
                there = contents[name][i * BLOCK:(i + 1) * BLOCK]
                if at:
                    assert os.pread(f.fileno(), BLOCK, at * BLOCK) == there.ljust(BLOCK, b"\0"), (name, i)
                elif name != "inline":
                    assert not there.strip(b"\0")
    unmounted.mount("ro")
    assert {name: blocks(path(name)) for name in want} == said
    unmounted.umount()
    unmounted.fsck()


def test_filefrag(vol):
    """It finds the pieces that fsck finds."""
    changes = {"one": (), "three": (400,), "many": (100, 400, 700, 850)}
    pieces = {}
    for name, places in changes.items():
        write_synced(vol.path(name), os.urandom(1 << 20))
        with open(vol.path(name), "r+b") as f:
            for place in places:
                os.pwrite(f.fileno(), os.urandom(100 << 10), place << 10)
                os.fsync(f.fileno())
        out = run("filefrag", "-v", vol.path(name)).stdout
        pieces[name] = int(re.search(r": (\d+) extents? found$", out, re.M).group(1))
        at = blocks(vol.path(name))[:256]
        assert pieces[name] == 1 + sum(b != a + 1 for a, b in zip(at, at[1:])), name
    assert pieces["one"] == 1 and pieces["three"] == 3 and pieces["many"] > 3
    vol.umount()
    assert json.loads(vol.fsck("-n", "-f", "--json"))["pieces"] == sum(pieces.values())


def test_swapon_beside_fibmap(vol):
    """While one thread is told blocks, swapon by another of the same process finds holes, in a file that has none and is made for it."""
    path = vol.path("swap")
    data = os.urandom(4 << 20)
    write_synced(path, data)
    os.chmod(path, 0o600)
    run("mkswap", path)
    n, stop, said = os.path.getsize(path) // BLOCK, threading.Event(), []
    where = blocks(path)
    assert all(where[:n])

    def ask():
        fd = os.open(path, os.O_RDONLY)
        while not stop.is_set():
            said.append([fibmap(fd, i) for i in range(20)])
        os.close(fd)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for t in asking:
        t.start()
    try:
        for _ in range(60):
            swap_refused(path)
    finally:
        stop.set()
        for t in asking:
            t.join(60)
    assert said and all(s == where[:20] for s in said)
    done = run("swapon", path, check=False)
    assert done.returncode != 0 and "Invalid argument" in done.stdout
    with open("/proc/swaps", encoding="utf-8") as f:
        assert path not in f.read()
    # What it is refused for is no sudden lack of blocks.
    assert blocks(path) == where
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def compat_fibmap(path):
    """FIBMAP as a 32-bit program asks, by int 0x80: 0 for a hole, 1 for a block, 2 for an error.  None if there is no such way into this kernel."""
    code = bytes.fromhex("53 89fb 89f1 b836000000 cd80 5b c3")  # push rbx; ebx, ecx = edi, esi; eax = 54; int 0x80; pop rbx; ret
    pid = os.fork()
    if pid == 0:
        room = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # MAP_32BIT
        room[:len(code)] = code
        at = ctypes.addressof(ctypes.c_char.from_buffer(room))
        call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint)(at)
        room[64:68] = b"\0\0\0\0"
        rc = call(os.open(path, os.O_RDONLY), FIBMAP, at + 64)
        os._exit(2 if rc else room[64:68] != b"\0\0\0\0")
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="for one kind of processor")
def test_32_bit_program(vol):
    """It calls ioctl(2) by another number, and is told of a hole."""
    write_synced(vol.path("f"), os.urandom(BLOCK))
    told = compat_fibmap(vol.path("f"))
    if told is None:
        pytest.skip("no 32-bit programs here")
    assert told == 0
    assert blocks(vol.path("f"))[0]


def test_who_is_told(vol):
    """Root, if he has the capability that Linux asks for."""
    path = vol.path("f")
    write_synced(path, os.urandom(BLOCK))
    os.chmod(path, 0o644)
    at = blocks(path)[0]
    assert at
    assert told_to([], path) == at
    assert told_to(without("sys_admin", "sys_ptrace"), path) == at
    assert told_to(without("sys_rawio"), path) == -errno.EPERM
    assert told_to(user("sys_rawio"), path) == 0
    # When there is nobody to say who asks, nobody.
    os.kill(teller(vol), signal.SIGKILL)
    assert blocks(path) == [0, 0, 0]


def test_told_without_the_right_to_trace(unmounted):
    """Who mounts without it has a daemon that cannot know who asks."""
    run(*without("sys_ptrace"), MOUNT, unmounted.image, unmounted.dir)
    write_synced(unmounted.path("f"), os.urandom(BLOCK))
    assert blocks(unmounted.path("f")) == [0, 0, 0]


def test_not_on_a_device(unmounted):
    """With `plain` the kernel does not even ask."""
    unmounted.mount("plain")
    write_synced(unmounted.path("f"), os.urandom(BLOCK))
    assert blocks(unmounted.path("f")) == [0, 0, 0]
