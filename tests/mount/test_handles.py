# SPDX-License-Identifier: Apache-2.0
"""File handles, as NFS servers and backup programs keep them: good for as long as the file is, across mounts and crashes, and never another's."""
import ctypes
import errno
import os
import random

import pytest

from conftest import libc, run, write_synced


class FileHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def take(path):
    handle, mount_id = FileHandle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def by_handle(vol, handle, flags=os.O_RDONLY):
    top = os.open(vol.dir, os.O_RDONLY)
    try:
        fd = libc.open_by_handle_at(top, ctypes.byref(handle), flags)
    finally:
        os.close(top)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return fd


def opened(vol, handle, flags=os.O_RDONLY):
    """What it leads to: inode number, and where the kernel says that is."""
    fd = by_handle(vol, handle, flags)
    try:
        return os.fstat(fd).st_ino, os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def stale(vol, handle):
    with pytest.raises(OSError) as e:
        by_handle(vol, handle)
    return e.value.errno == errno.ESTALE


@pytest.fixture
def tree(vol):
    """Path below the mount: (handle, inode number)."""
    os.makedirs(vol.path("a", "b", "c"))
    for i, name in enumerate(("f", "a/g", "a/b/c/h")):
        write_synced(vol.path(name), b"%d" % i)
    os.symlink("f", vol.path("a", "l"))
    os.mkfifo(vol.path("a", "p"))
    names = (".", "f", "a", "a/g", "a/b", "a/b/c", "a/b/c/h", "a/l", "a/p")
    return {name: (take(vol.path(name)), os.lstat(vol.path(name)).st_ino) for name in names}


def all_good(vol, tree):
    for name in random.sample(sorted(tree), len(tree)):
        handle, ino = tree[name]
        flags = os.O_PATH if name in ("a/l", "a/p") else os.O_RDONLY
        found, path = opened(vol, handle, flags)
        assert found == ino
        if os.path.isdir(vol.path(name)):
            # Reconnected to the root by asking for "..".
            assert path == os.path.normpath(vol.path(name))
    fd = by_handle(vol, tree["a/b/c/h"][0], os.O_RDWR)
    assert os.read(fd, 10) == b"2"
    os.close(fd)


@pytest.mark.parametrize("how", ["umount", "kill", "remount"])
def test_across(vol, tree, how):
    all_good(vol, tree)
    if how == "umount":
        vol.umount()
        vol.mount()
    elif how == "kill":
        run("sync", "-f", vol.dir)
        vol.kill()
        vol.mount()
    else:
        run("mount", "-i", "-o", "remount,noatime", vol.dir)
    all_good(vol, tree)
    # They name the file, not the path.
    os.rename(vol.path("a", "b"), vol.path("z"))
    vol.remount()
    assert opened(vol, tree["a/b/c"][0])[1] == vol.path("z", "c")
    assert opened(vol, tree["a/b/c/h"][0])[0] == tree["a/b/c/h"][1]


def test_removed(vol, tree):
    """ESTALE, and not another file's, whatever is made afterwards and whoever has crashed meanwhile."""
    for name in ("f", "a/l", "a/p"):
        os.unlink(vol.path(name))
    fd = os.open(vol.path("a", "g"), os.O_RDONLY)
    os.unlink(vol.path("a", "g"))
    run("rm", "-r", vol.path("a", "b"))
    # As long as it is open there is something to be had.
    assert opened(vol, tree["a/g"][0])[0] == tree["a/g"][1]
    os.close(fd)
    for again in range(3):
        for i in range(200):
            write_synced(vol.path(f"new{again}-{i}"), b"new") if i < 5 else os.mknod(vol.path(f"new{again}-{i}"))
        for name in ("f", "a/l", "a/p", "a/g", "a/b", "a/b/c", "a/b/c/h"):
            assert stale(vol, tree[name][0]), name
        assert opened(vol, tree["a"][0])[0] == tree["a"][1]
        if again == 0:
            run("sync", "-f", vol.dir)
            vol.kill()
            vol.mount()
        else:
            vol.remount()


def test_made_up(vol, tree):
    """Handles that nobody gave: an error each, nobody's file, and the daemon lives on."""
    rnd = random.Random(1)
    good, ino = tree["f"]
    for i in range(400):
        bad = FileHandle(bytes=good.bytes, type=good.type, data=good.data)
        if i % 4 == 0:
            bad.data[8 + rnd.randrange(4)] ^= 1 << rnd.randrange(8)  # the generation
        elif i % 4 == 1:
            bad.data[rnd.randrange(8)] ^= 1 << rnd.randrange(8)  # the inode number
        elif i % 4 == 2:
            for k in range(bad.bytes):
                bad.data[k] = rnd.randrange(256)
        else:
            bad.bytes = rnd.randrange(129)
            bad.type = rnd.choice([0, 1, 0x81, 0x82, 0xff])
        try:
            found = opened(vol, bad, os.O_PATH)[0]
        except OSError as e:
            assert e.errno in (errno.ESTALE, errno.EINVAL, errno.EOVERFLOW, errno.ENOENT)
        else:
            # Flipping a bit may lead to a neighbour whose generation is the same: that is a true handle.
            assert i % 4 in (1, 3) and found in [n for _, n in tree.values()]
    all_good(vol, tree)


def test_by_whom(vol, tree):
    """Opening by handle goes past permissions of directories, so it is for the privileged."""
    code = ("import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\nb = bytes.fromhex(sys.argv[2])\n"
            "top = os.open(sys.argv[1], os.O_RDONLY)\nassert libc.open_by_handle_at(top, b, 0) < 0\nprint(ctypes.get_errno())")
    handle = tree["f"][0]
    out = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code, vol.dir,
              bytes(handle)[:8 + handle.bytes].hex()).stdout
    assert out.strip() == str(errno.EPERM)


def test_nfs_export():
    """What an export needs of us are the handles above; the rest takes a kernel with a server."""
    with open("/proc/filesystems", encoding="ascii") as f:
        if "nfsd" not in f.read():
            pytest.skip("this kernel has no NFS server")
    pytest.skip("an NFS server would have to be set up: not done by this test")


@pytest.mark.skipif(tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) < (6, 9), reason="the kernel has no way to be told")
def test_without(unmounted):
    vol = unmounted
    vol.mount()
    write_synced(vol.path("f"), b"f")
    handle = take(vol.path("f"))
    vol.umount()
    vol.mount("nohandles")
    with pytest.raises(OSError):
        by_handle(vol, handle)
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"f"
    vol.umount()
    vol.mount()
    os.close(by_handle(vol, handle))
