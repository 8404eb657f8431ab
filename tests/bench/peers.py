# SPDX-License-Identifier: Apache-2.0
"""The filesystems that bench.py compares: each makes an image of its own beside the others', mounts it, and can forget what it has in memory."""
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("HOLDFAST_BUILD", "build"))
SHUTDOWN = 0x8004587D  # ioctl(2) of ext4 and xfs
ENABLE_URING = "/sys/module/fuse/parameters/enable_uring"


class Failed(Exception):
    """Something that a figure depends on did not work."""


def run(*argv, **kwargs):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False, **kwargs)
    if done.returncode:
        raise Failed(f"{' '.join(str(a) for a in argv)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split()[4] == path for line in f)


class Peer:
    name = ""
    needs = ()  # programs
    is_filesystem = True
    lasts = True  # what is on it is there after a new mount
    keep_caches = False

    def __init__(self, folder, size, inodes=None, journal=None):
        """`inodes`: room for so many, where that has to be said; `journal`: bytes of it, where that can be."""
        self.top = folder
        self.folder = os.path.join(folder, self.name)
        self.image = os.path.join(self.folder, "disk.img")
        self.dir = os.path.join(self.folder, "mnt")
        self.size, self.inodes, self.journal = size, inodes, journal
        self.others = {}

    def missing(self):
        """Why it cannot be had here, or None."""
        gone = [p for p in self.needs if not shutil.which(p)]
        return f"{', '.join(gone)} not installed" if gone else None

    def create(self):
        os.makedirs(self.dir, exist_ok=True)
        if os.path.exists(self.image):
            os.unlink(self.image)
        with open(self.image, "wb") as f:
            f.truncate(self.size)
        self.mkfs()

    def beside(self, name, size, **more):
        """Another one of the kind, made but not mounted, for as long as this one lasts or until take_away()."""
        other = type(self)(os.path.join(self.top, name), size, **more)
        other.keep_caches = self.keep_caches
        self.others[name] = other
        other.create()
        return other

    def take_away(self, name):
        other = self.others.pop(name)
        if is_mounted(other.dir):
            other.umount()
        other.clean_up()

    def mkfs(self):
        raise NotImplementedError

    def mount(self, options=""):
        raise NotImplementedError

    def umount(self, *options):
        run("umount", *options, self.dir)
        self.gone()

    def gone(self):
        """Waits for what goes on behind umount(8)."""

    def pid(self):
        """Of a daemon, or None."""

    def cold(self):
        """Nothing of it is in memory afterwards, neither in the kernel's nor in a daemon's.

        A new mount of what does not last would have nothing on it."""
        if self.lasts:
            self.umount()
        if not self.keep_caches:
            run("sync", "-f", self.folder if self.lasts else self.dir)
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
                f.write("3\n")
        if self.lasts:
            self.mount()

    def crash(self):
        """What is not on the disk is lost; it is mounted no more."""
        raise NotImplementedError

    def clean_up(self):
        for other in self.others.values():
            other.clean_up()
        self.others = {}
        for _ in range(3):
            if is_mounted(self.dir):
                subprocess.run(["umount", "-l", self.dir], stderr=subprocess.DEVNULL, check=False)
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def daemon_of(program, image):
    """The process that serves an image."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                argv = f.read().split(b"\0")
            with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as f:
                comm = f.read().strip()
        except OSError:
            continue
        if comm != "holdfast-keeper" and os.path.basename(argv[0]) == program.encode() and os.fsencode(image) in argv:
            return int(pid)
    return None


class Holdfast(Peer):
    transport = ""
    mounter = os.path.join(BUILD, "fs", "mount.holdfast")

    def missing(self):
        if self.transport == "uring" and not os.path.exists(ENABLE_URING):
            return "the kernel has no FUSE over io_uring"
        return None

    def mkfs(self):
        run(os.path.join(BUILD, "mkfs", "mkfs.holdfast"), "-q", *(["-J", self.journal] if self.journal else []), self.image)

    def mount(self, options=""):
        if self.transport == "uring":
            with open(ENABLE_URING, encoding="ascii") as f:
                before = f.read()
            with open(ENABLE_URING, "w", encoding="ascii") as f:
                f.write("Y")
        try:
            run(self.mounter, self.image, self.dir, "-o", f"transport={self.transport}{options and ','}{options}")
        finally:
            if self.transport == "uring":
                with open(ENABLE_URING, "w", encoding="ascii") as f:
                    f.write(before)

    def pid(self):
        return daemon_of(os.path.basename(self.mounter), self.image)

    def gone(self):
        wait_for(lambda: not self.pid(), "the daemon's end")

    def stats(self):
        return json.loads(run(os.path.join(BUILD, "tools", "holdfast"), "stats", "--json", self.dir))

    def crash(self):
        os.kill(self.pid(), signal.SIGKILL)
        self.gone()
        self.umount("-l")


class HoldfastUring(Holdfast):
    name = "holdfast"
    transport = "uring"


class HoldfastDev(Holdfast):
    name = "holdfast-dev"
    transport = "dev"


class Empty(Holdfast):
    """Holdfast's loop and transports with a filesystem in memory behind them: what FUSE costs.  The image is only there to be opened."""

    name = "empty"
    transport = "uring"
    mounter = os.path.join(BUILD, "tests", "bench", "mount.empty")
    lasts = False

    def __init__(self, folder, size, **more):
        super().__init__(folder, min(size, 64 << 20), **more)


class EmptyDev(Empty):
    name = "empty-dev"
    transport = "dev"


class Loop(Peer):
    """The kernel's filesystems, on a loop device with direct I/O."""

    device = None
    shutdown_flags = 2  # without writing the log first

    def attach(self):
        self.device = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()

    def mkfs(self):
        run(*self.mkfs_command(), self.image)

    def mkfs_command(self):
        raise NotImplementedError

    def mount(self, options=""):
        if not self.device:
            self.attach()
        run("mount", self.device, self.dir)

    def crash(self):
        fd = os.open(self.dir, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", self.shutdown_flags))
        finally:
            os.close(fd)
        self.umount()

    def clean_up(self):
        if is_mounted(self.dir):
            subprocess.run(["umount", self.dir], check=False)
        if self.device:
            subprocess.run(["losetup", "-d", self.device], check=False)
        self.device = None
        super().clean_up()


class Ext4(Loop):
    name = "ext4"
    needs = ("mkfs.ext4",)

    def mkfs_command(self):
        # Nothing is left for a background thread to initialise.  With the usual number of inodes that would take minutes for 1 TiB.
        more = ["-J", f"size={self.journal >> 20}"] if self.journal else []
        more += ["-N", self.inodes] if self.inodes else ["-T", "largefile4"] if self.size > 64 << 30 else []
        return ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", *more]


class Xfs(Loop):
    name = "xfs"
    needs = ("mkfs.xfs",)

    def mkfs_command(self):
        return ["mkfs.xfs", "-q", "-f"]


class Fuse2fs(Peer):
    name = "fuse2fs"
    needs = ("fuse2fs", "mkfs.ext4")

    def mkfs(self):
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)

    def mount(self, options=""):
        run("fuse2fs", self.image, self.dir, "-o", "rw,allow_other,default_permissions")

    def pid(self):
        return daemon_of("fuse2fs", self.image)

    def gone(self):
        wait_for(lambda: not self.pid(), "the daemon's end")


class Ntfs3g(Peer):
    name = "ntfs-3g"
    needs = ("ntfs-3g", "mkntfs")

    def mkfs(self):
        run("mkntfs", "-F", "-Q", "-q", self.image)

    def mount(self, options=""):
        run("ntfs-3g", "-o", "big_writes,permissions", self.image, self.dir)

    def pid(self):
        return daemon_of("ntfs-3g", self.image)

    def gone(self):
        wait_for(lambda: not self.pid(), "the daemon's end")


class Floor(Peer):
    """No filesystem: files beside the images."""

    is_filesystem = False

    def create(self):
        os.makedirs(self.dir, exist_ok=True)

    def mount(self, options=""):
        pass

    def umount(self, *options):
        pass

    def cold(self):
        pass


class Disk(Floor):
    """What is below all of them: one file that is there in full, without the page cache."""

    name = "disk"


class Journal(Floor):
    """Holdfast's journal alone, on a file."""

    name = "journal"


ALL = [HoldfastUring, HoldfastDev, Empty, EmptyDev, Ext4, Xfs, Fuse2fs, Ntfs3g, Disk, Journal]
