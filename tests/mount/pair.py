# SPDX-License-Identifier: Apache-2.0
"""The same calls on Holdfast and on ext4, one after the other, each in a folder of its own; what they give must be equal.

The reference is ext4 in an image, mounted with a loop device.  Every call runs with the side's folder as the working directory, so that it
takes the same arguments on both.
"""
import contextlib
import ctypes
import errno
import os
import shutil
import signal
import stat
import tempfile

from calls import AT_FDCWD, KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, ZERO_RANGE, checked, fallocate, libc, off_t, renameat2  # pylint: disable=unused-import
from conftest import Volume, daemons, is_mounted, run, wait_for

# Files above this are compared by what is not a hole.
WHOLE = 1 << 20
# How Holdfast is mounted: as root does by default, and without a block device.
KINDS = {"fuseblk": "", "fuse": "plain"}

libc.copy_file_range.restype = ctypes.c_ssize_t
libc.splice.restype = ctypes.c_ssize_t


def linkat(old, new, flags):
    checked(libc.linkat(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def result_of(function, *args, **kwargs):
    """What a call gives, or the name of its errno: something that can be compared and read."""
    try:
        return function(*args, **kwargs)
    except OSError as e:
        return errno.errorcode.get(e.errno, e.errno)


class Side:
    """One of the two."""

    def __init__(self, name, top):
        self.name, self.top, self.work, self.fd = name, top, None, -1

    def enter(self):
        """Whoever we are, and whatever was made of the folder's mode."""
        uid = os.geteuid()
        os.seteuid(0)
        os.fchdir(self.fd)
        os.seteuid(uid)

    def begin(self, name):
        """A new folder to work in.  Its parent has nothing else in it, so that ".." is the same on both sides, too."""
        os.mkdir(os.path.join(self.top, name))
        self.work = os.path.join(self.top, name, "work")
        os.mkdir(self.work)
        os.chmod(self.work, 0o777)
        self.fd = os.open(self.work, os.O_PATH)

    def leave(self):
        """Nothing of ours keeps the mount busy, or is left open."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Handle:
    """An open file of both sides."""

    def __init__(self, fds, flags):
        self.fds, self.flags, self.maps = fds, flags, {}

    def close(self):
        for side in list(self.maps):
            self.maps.pop(side).close()
        for fd in self.fds.values():
            os.close(fd)


class Pair:
    def __init__(self, kind, folder):
        self.options, self.folder = KINDS[kind], folder
        self.vol = Volume(folder)
        self.reference = os.path.join(folder, "reference")
        self.holdfast, self.ext4 = Side("holdfast", self.vol.dir), Side("ext4", self.reference)
        self.sides = (self.ext4, self.holdfast)
        self.count = 0
        self.space = None

    def start(self, size="256M"):
        self.vol.size = size
        self.vol.mkfs()
        self.vol.mount(self.options)
        self.space = os.statvfs(self.vol.dir)
        image = os.path.join(self.folder, "reference.img")
        os.mkdir(self.reference)
        run("truncate", "-s", size, image)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=1", image)
        for _ in range(3):
            run("mount", "-o", "loop,user_xattr,acl,nobarrier", image, self.reference)
            # mount(8) falls back to read-only when somebody else looks at the new loop device just then.
            if os.access(self.reference, os.W_OK):
                break
            run("umount", self.reference)
        os.rmdir(os.path.join(self.reference, "lost+found"))
        # By default ext4 turns up to 32 KiB of unwritten blocks beside a write into zeros, and then calls them data.
        loop = run("findmnt", "-n", "-o", "SOURCE", self.reference).stdout.strip()
        with open(f"/sys/fs/ext4/{os.path.basename(loop)}/extent_max_zeroout_kb", "w", encoding="ascii") as f:
            f.write("0")
        return self

    def stop(self):
        os.chdir("/")
        for side in self.sides:
            side.leave()
        for _ in range(3):
            if is_mounted(self.reference):
                run("umount", self.reference, check=False)
        if is_mounted(self.reference):
            run("umount", "-l", self.reference)
        self.vol.clean_up()

    def unmount(self):
        os.chdir("/")
        self.holdfast.leave()
        run("umount", self.vol.dir)
        try:
            wait_for(lambda: not daemons(self.vol.image), 10)
        except AssertionError:
            # A mount namespace that somebody made meanwhile has the mount, too.
            for pid in daemons(self.vol.image):
                os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not daemons(self.vol.image), 60, "the daemon's end")

    def remount(self):
        """Everything of Holdfast comes from the device again."""
        self.unmount()
        self.vol.mount(self.options)
        if self.holdfast.work:
            self.holdfast.fd = os.open(self.holdfast.work, os.O_PATH)

    def begin(self):
        self.count += 1
        for side in self.sides:
            side.begin(str(self.count))

    def end(self):
        os.chdir("/")
        for side in self.sides:
            side.leave()
            shutil.rmtree(os.path.dirname(side.work))
            side.work = None

    def each(self, function, *args, **kwargs):
        """{side: what the call gave there}"""
        found = {}
        for side in self.sides:
            side.enter()
            mine = [a.fds[side] if isinstance(a, Handle) else a for a in args]
            found[side] = result_of(function, *mine, **kwargs)
        return found

    def both(self, function, *args, **kwargs):
        """The result, which must be the same; of arguments that are a Handle, each side gets its descriptor."""
        found = self.each(function, *args, **kwargs)
        want, got = found[self.ext4], found[self.holdfast]
        assert got == want, f"{getattr(function, '__name__', function)}{args}: ext4 {shown(want)}, holdfast {shown(got)}"
        return want

    def open(self, path, flags, mode=0o644):
        """A Handle, or the name of an errno."""
        found = self.each(os.open, path, flags | os.O_CLOEXEC, mode)
        failed = {side: fd for side, fd in found.items() if not isinstance(fd, int)}
        if not failed:
            return Handle(found, flags)
        for fd in found.values():
            if isinstance(fd, int):
                os.close(fd)
        want, got = (failed.get(side, "opened") for side in self.sides)
        assert got == want, f"open({path}, {flags:#x}, {mode:#o}): ext4 {want}, holdfast {got}"
        return want

    def trees(self):
        """Both as they are now; they must be equal."""
        want, got = (tree(side.work) for side in self.sides)
        assert got == want, "\n".join(
            f"{name}: ext4 {shown(want.get(name))}, holdfast {shown(got.get(name))}"
            for name in sorted(set(want) | set(got)) if want.get(name) != got.get(name))


def shown(value):
    text = repr(value)
    return text if len(text) < 400 else text[:400] + "..."


def status(st):
    """What both filesystems must say of a file."""
    kind = stat.S_IFMT(st.st_mode)
    return {
        "mode": oct(st.st_mode), "nlink": st.st_nlink, "uid": st.st_uid, "gid": st.st_gid, "rdev": st.st_rdev,
        "size": st.st_size if kind != stat.S_IFDIR else None,
    }


def contents(fd, size):
    """The bytes; of large files {offset: block} of what is not zero."""
    if size <= WHOLE:
        return os.pread(fd, size + 1, 0)
    found, off = {}, 0
    while True:
        try:
            off = os.lseek(fd, off, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            return found
        end = os.lseek(fd, off, os.SEEK_HOLE)
        off -= off % 4096
        while off < end:
            block = os.pread(fd, 4096, off)
            if block.strip(b"\0"):
                found[off] = block
            off += 4096
        off = end


def xattrs(path):
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def node(path):
    st = os.lstat(path)
    found = status(st)
    found["xattrs"] = xattrs(path)
    if stat.S_ISLNK(st.st_mode):
        found["target"] = os.readlink(path)
    elif stat.S_ISREG(st.st_mode):
        fd = os.open(path, os.O_RDONLY)
        try:
            found["contents"] = contents(fd, st.st_size)
            # ext4 counts a block for attributes, too.
            found["has blocks"] = st.st_blocks > 0 if not found["xattrs"] else None
        finally:
            os.close(fd)
    elif stat.S_ISDIR(st.st_mode):
        found["names"] = sorted(os.listdir(path))
    return st, found


def tree(top):
    """{relative path: everything}, with "same as" for further names of a file."""
    found, first = {}, {}
    todo = [os.fsencode(top)]
    while todo:
        path = todo.pop()
        st, entry = node(path)
        name = os.path.relpath(path, os.fsencode(top))
        found[name] = entry
        if stat.S_ISDIR(st.st_mode):
            todo += sorted((os.path.join(path, n) for n in os.listdir(path)), reverse=True)
        else:
            entry["same as"] = first.setdefault(st.st_ino, name)
    return found


@contextlib.contextmanager
def pair_of(kind, size="256M"):
    folder = tempfile.mkdtemp(prefix="holdfast-test-", dir=os.environ.get("HOLDFAST_TMP", "/var/tmp"))
    os.chmod(folder, 0o755)
    p = Pair(kind, folder)
    try:
        yield p.start(size)
    finally:
        p.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def user(uid):
    """Calls in here are an ordinary user's."""
    gid = os.getegid()
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
