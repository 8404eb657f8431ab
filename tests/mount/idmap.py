# SPDX-License-Identifier: Apache-2.0
"""Idmapped mounts: mount(8) of Debian 12 knows no X-mount.idmap= yet, so this is what that does."""
import ctypes
import os
import signal

from calls import AT_FDCWD, checked, libc
from conftest import Volume

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, AT_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x1000, 0x100000
CLONE_NEWUSER = 0x10000000


class MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def user_namespace(maps):
    """A descriptor of one; maps: (number inside, number outside, how many), of users and of groups."""
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done[1])
            checked(libc.unshare(CLONE_NEWUSER))
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        assert os.read(ready[0], 1) == b"x", "no namespaces for users"
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as f:
                f.write("".join("%d %d %d\n" % m for m in maps))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (ready[0], *done):
            os.close(fd)


def attach(source, target, maps=()):
    """The mount `source` once more on `target`; maps: (user or group on the volume, as it is seen there, how many)."""
    tree = checked(libc.syscall(OPEN_TREE, AT_FDCWD, os.fsencode(source), ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC)))
    try:
        if maps:
            userns = user_namespace(maps)
            try:
                attr = MountAttr(MOUNT_ATTR_IDMAP, 0, 0, userns)
                checked(libc.syscall(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attr), ctypes.c_size_t(ctypes.sizeof(attr))))
            finally:
                os.close(userns)
        checked(libc.syscall(MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH))
    finally:
        os.close(tree)


class MappedVolume(Volume):
    """One whose mount is always a mapped one, on top of that which knows the numbers of the volume; `raw` is another one of those."""

    def __init__(self, folder, maps, size="256M"):
        super().__init__(folder, size)
        self.maps, self.options = maps, ""
        self.raw = os.path.join(self.folder, "raw")
        os.mkdir(self.raw)

    def mount(self, options="", check=True):
        done = super().mount(",".join(o for o in ("allow_idmap", self.options, options) if o), check)
        attach(self.dir, self.raw)
        attach(self.dir, self.dir, self.maps)
        return done

    def umount(self):
        libc.umount2(os.fsencode(self.raw), 0)
        checked(libc.umount2(os.fsencode(self.dir), 0))
        super().umount()

    def clean_up(self):
        libc.umount2(os.fsencode(self.raw), 2)
        super().clean_up()
