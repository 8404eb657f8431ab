# SPDX-License-Identifier: Apache-2.0
"""The flags of chattr(1): what they refuse, beside what ext4 on a loop device says to the same; what they are after a crash and a repair."""
import errno
import fcntl
import mmap
import os
import shutil
import struct
import subprocess
import time

import pytest

import calls
from conftest import BUILD, FSCK, is_mounted, run, write_synced

FL = {"S": 0x8, "i": 0x10, "a": 0x20, "d": 0x40, "A": 0x80, "D": 0x10000}
GETFLAGS = 2 << 30 | 8 << 16 | ord("f") << 8 | 1
SETFLAGS = 1 << 30 | 8 << 16 | ord("f") << 8 | 2
FSGETXATTR = 2 << 30 | 28 << 16 | ord("X") << 8 | 31
FSSETXATTR = 1 << 30 | 28 << 16 | ord("X") << 8 | 32
XFL = {"i": 0x8, "a": 0x10, "S": 0x20, "A": 0x40, "d": 0x80}


def get(path):
    """The letters, sorted; of what we have."""
    fd = os.open(path, os.O_RDONLY)
    try:
        n, = struct.unpack("I", fcntl.ioctl(fd, GETFLAGS, bytes(4)))
    finally:
        os.close(fd)
    return "".join(sorted(c for c, bit in FL.items() if n & bit))


def chattr(path, change):
    run("chattr", change, path)


def set_raw(path, n):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SETFLAGS, struct.pack("I", n))
    finally:
        os.close(fd)


def change(path, add, remove=0):
    """What chattr does, without a process; leaves those alone that only ext4 has."""
    fd = os.open(path, os.O_RDONLY)
    try:
        n, = struct.unpack("I", fcntl.ioctl(fd, GETFLAGS, bytes(4)))
        fcntl.ioctl(fd, SETFLAGS, struct.pack("I", (n | add) & ~remove))
    finally:
        os.close(fd)


def get_x(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return bytes(fcntl.ioctl(fd, FSGETXATTR, bytes(28)))
    finally:
        os.close(fd)


def set_x(path, xflags, extsize=0, projid=0):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FSSETXATTR, struct.pack("IIIII8x", xflags, extsize, 0, projid, 0))
    finally:
        os.close(fd)


@pytest.fixture
def ext4(folder):
    """A mounted ext4, to compare with."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4 here")
    image, where = os.path.join(folder, "ext4.img"), os.path.join(folder, "ext4")
    os.mkdir(where)
    run("truncate", "-s", "64M", image)
    run("mkfs.ext4", "-q", "-F", image)
    if run("mount", "-o", "loop", image, where, check=False).returncode:
        pytest.skip("ext4 cannot be mounted here")
    yield where
    run("umount", "-l", where)
    assert not is_mounted(where)


# --- the same to both ---

def write_at(path, off, flags=0):
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        os.pwrite(fd, b"new", off)
    finally:
        os.close(fd)


def fallocate(path, mode, off, length):
    # Not opened for writing by itself: ext4 would refuse that.
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        calls.fallocate(fd, mode, off, length)
    finally:
        os.close(fd)


def exchange(a, b):
    calls.renameat2(a, b, calls.RENAME_EXCHANGE)


# Each with the directory it works in: file "f", directory "d" with file "f" and directory "sub", file "other".
ACTS = {
    "append": lambda p: write_at(p + "/f", 0, os.O_APPEND),
    "overwrite": lambda p: write_at(p + "/f", 0),
    "write at the end": lambda p: write_at(p + "/f", os.stat(p + "/f").st_size),
    "truncate": lambda p: os.truncate(p + "/f", 1),
    "grow": lambda p: os.truncate(p + "/f", 10000),
    "open O_TRUNC": lambda p: open(p + "/f", "wb").close(),
    "chmod": lambda p: os.chmod(p + "/f", 0o600),
    "chown": lambda p: os.chown(p + "/f", 7, 8),
    "utimes": lambda p: os.utime(p + "/f", (1, 2)),
    "touch": lambda p: os.utime(p + "/f"),
    "setxattr": lambda p: os.setxattr(p + "/f", "user.new", b"x"),
    "removexattr": lambda p: os.removexattr(p + "/f", "user.old"),
    "link": lambda p: os.link(p + "/f", p + "/new"),
    "rename": lambda p: os.rename(p + "/f", p + "/new"),
    "rename to itself": lambda p: os.rename(p + "/f", p + "/f"),
    "rename over": lambda p: os.rename(p + "/other", p + "/f"),
    "exchange": lambda p: exchange(p + "/other", p + "/f"),
    "unlink": lambda p: os.unlink(p + "/f"),
    "reserve": lambda p: fallocate(p + "/f", 1, 0, 20000),
    "punch": lambda p: fallocate(p + "/f", 3, 0, 2),
    "read": lambda p: open(p + "/f", "rb").read(),
    "create in d": lambda p: open(p + "/d/new", "wb").close(),
    "open what is in d": lambda p: open(p + "/d/f", "ab").close(),
    "mkdir in d": lambda p: os.mkdir(p + "/d/new"),
    "mknod in d": lambda p: os.mknod(p + "/d/new"),
    "symlink in d": lambda p: os.symlink("x", p + "/d/new"),
    "link into d": lambda p: os.link(p + "/other", p + "/d/new"),
    "link what is in d": lambda p: os.link(p + "/d/f", p + "/new"),
    "unlink in d": lambda p: os.unlink(p + "/d/f"),
    "unlink none in d": lambda p: os.unlink(p + "/d/none"),
    "rmdir in d": lambda p: os.rmdir(p + "/d/sub"),
    "rmdir d": lambda p: os.rmdir(p + "/d"),
    "rename d": lambda p: os.rename(p + "/d", p + "/d2"),
    "rename in d": lambda p: os.rename(p + "/d/f", p + "/d/new"),
    "rename out of d": lambda p: os.rename(p + "/d/f", p + "/new"),
    "rename into d": lambda p: os.rename(p + "/other", p + "/d/new"),
    "rename over in d": lambda p: os.rename(p + "/other", p + "/d/f"),
    "write in d": lambda p: write_at(p + "/d/f", 0),
    "chmod d": lambda p: os.chmod(p + "/d", 0o700),
    "setxattr d": lambda p: os.setxattr(p + "/d", "user.new", b"x"),
}


# Where opening is asked about.
OPENINGS = {
    f"open {name}": lambda p, flags=flags: os.close(os.open(p + "/f", flags)) for name, flags in {
        "r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "a": os.O_WRONLY | os.O_APPEND, "ra": os.O_RDWR | os.O_APPEND,
        "a O_TRUNC": os.O_WRONLY | os.O_APPEND | os.O_TRUNC, "w O_CREAT": os.O_WRONLY | os.O_CREAT,
    }.items()}


def scene(path, flags):
    os.makedirs(path + "/d/sub")
    for name in ("f", "other", "d/f"):
        with open(os.path.join(path, name), "wb") as f:
            f.write(b"some text")
    os.setxattr(path + "/f", "user.old", b"x")
    change(path + "/f", FL[flags])
    change(path + "/d", FL[flags])


def clear(path):
    for top, dirs, files in os.walk(path):
        for name in dirs + files:
            full = os.path.join(top, name)
            if not os.path.islink(full) and (os.path.isfile(full) or os.path.isdir(full)):
                change(full, 0, FL["i"] | FL["a"])
    shutil.rmtree(path)


def outcome(act, path):
    try:
        act(path)
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("flags", ["i", "a"])
def test_as_ext4(vol, ext4, flags, asked):
    """`asked`: the kernel asks about opening, as it does where some flag was set before the volume was mounted."""
    if asked:
        chattr(vol.dir, "+d")
        vol.remount()
    differ = []
    for name, act in (ACTS | OPENINGS if asked else ACTS).items():
        results = []
        for where in (ext4, vol.dir):
            path = os.path.join(where, "scene")
            scene(path, flags)
            results.append(outcome(act, path))
            clear(path)
        if results[0] != results[1]:
            differ.append((name, *results))
    assert not differ
    vol.umount()
    vol.fsck()


@pytest.mark.parametrize("flags", ["SDadA", "SdA"])
def test_inheritance_as_ext4(vol, ext4, flags):
    seen = []
    for where in (ext4, vol.dir):
        top = os.path.join(where, "top")
        os.mkdir(top)
        chattr(top, "+" + flags)
        os.mkdir(top + "/d")
        open(top + "/f", "wb").close()
        seen.append((get(top), get(top + "/d"), get(top + "/f")))
        chattr(top, "-a")
    assert seen[0] == seen[1]


def test_set_and_get(vol):
    path = vol.path("f")
    open(path, "wb").close()
    os.mkdir(vol.path("d"))
    for letters in ("i", "a", "d", "A", "S", "dAS", "iadAS", ""):
        run("chattr", "=" + letters, path)
        assert get(path) == "".join(sorted(letters))
        shown = run("lsattr", path).stdout.split()[0]
        assert {c for c in shown if c != "-"} == set(letters)
        xflags, *_ = struct.unpack("I24x", get_x(path))
        assert xflags == sum(XFL[c] for c in letters)
    # What is not among the xflags stays.
    chattr(vol.path("d"), "+DS")
    set_x(vol.path("d"), XFL["A"])
    assert get(vol.path("d")) == "AD"
    for bad in (0x4, FL["D"], 0x80000, 0x20000000):  # compression, D of a file, extents, projects
        with pytest.raises(OSError) as e:
            set_raw(path, bad)
        assert e.value.errno == errno.EOPNOTSUPP
    for args in ((0x100,), (0, 65536), (0, 0, 7)):
        with pytest.raises(OSError) as e:
            set_x(path, *args)
        assert e.value.errno in (errno.EOPNOTSUPP, errno.EINVAL)
    assert get(path) == ""
    # Neither are they there for what has no contents.
    os.mkfifo(vol.path("p"))
    assert run("chattr", "+i", vol.path("p"), check=False).returncode != 0


def test_who_may(unmounted):
    unmounted.mount("allow_other")
    os.chmod(unmounted.dir, 0o777)
    path = unmounted.path("f")
    open(path, "wb").close()
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert run(*user, "chattr", "+d", path, check=False).returncode != 0
    os.chown(path, 65534, 65534)
    run(*user, "chattr", "+d", path)
    for change in ("+i", "+a"):
        assert run(*user, "chattr", change, path, check=False).returncode != 0
        chattr(path, change)
        assert run(*user, "chattr", "-" + change[1], path, check=False).returncode != 0
        chattr(path, "-" + change[1])
    assert get(path) == "d"


def test_noatime(unmounted):
    unmounted.mount("strictatime")
    for name in ("f", "g"):
        write_synced(unmounted.path(name), b"text")
    chattr(unmounted.path("f"), "+A")
    before = [os.stat(unmounted.path(n)).st_atime_ns for n in ("f", "g")]
    unmounted.remount("strictatime")
    for name in ("f", "g"):
        with open(unmounted.path(name), "rb") as f:
            f.read()
    unmounted.remount("strictatime")
    after = [os.stat(unmounted.path(n)).st_atime_ns for n in ("f", "g")]
    assert after[0] == before[0] and after[1] > before[1]


def test_sync_flags(unmounted):
    """Without any fsync, and killed: changes of S files and in D directories are there, others may not be."""
    unmounted.mount("commit=1000")
    os.mkdir(unmounted.path("D"))
    chattr(unmounted.path("D"), "+D")
    open(unmounted.path("S"), "wb").close()
    chattr(unmounted.path("S"), "+S")
    run("sync", "-f", unmounted.dir)
    with open(unmounted.path("S"), "r+b", buffering=0) as f:
        f.write(b"s" * 70000)
        os.fchmod(f.fileno(), 0o640)
        os.setxattr(unmounted.path("S"), "user.x", b"y")
        os.truncate(unmounted.path("S"), 60000)
    os.mkdir(unmounted.path("D", "new"))
    os.rename(unmounted.path("D", "new"), unmounted.path("D", "newer"))
    open(unmounted.path("lost"), "wb").close()
    unmounted.kill()
    unmounted.mount()
    with open(unmounted.path("S"), "rb") as f:
        assert f.read() == b"s" * 60000
    assert os.stat(unmounted.path("S")).st_mode & 0o777 == 0o640
    assert os.getxattr(unmounted.path("S"), "user.x") == b"y"
    assert os.listdir(unmounted.path("D")) == ["newer"]
    assert not os.path.exists(unmounted.path("lost"))


def test_stored_through_mmap_before(vol):
    """What was stored through a mapping when a file becomes immutable is written; what is stored later is refused, and msync says so."""
    path = vol.path("f")
    write_synced(path, b"a" * 100000)
    with open(path, "r+b") as f:
        m = mmap.mmap(f.fileno(), 100000)
    m[0:100000] = b"b" * 100000
    chattr(path, "+i")
    m[5:6] = b"c"
    with pytest.raises(OSError):
        m.flush()
    m.close()
    vol.kill()
    vol.mount()
    with open(path, "rb") as f:
        data = f.read()
    # Nobody has synced: it is the file before or after, and, had anybody, after.
    assert data in (b"a" * 100000, b"b" * 100000)
    chattr(path, "-i")
    with open(path, "r+b") as f:
        m = mmap.mmap(f.fileno(), 100000)
    m[0:100000] = b"d" * 100000
    chattr(path, "+i")
    run("sync", "-f", vol.dir)
    m.close()
    vol.kill()
    vol.mount()
    with open(path, "rb") as f:
        assert f.read() == b"d" * 100000
    assert get(path) == "i"


def test_ctime_is_seen(vol):
    """The kernel, which believes what it has cached for ever, is told that a flag has changed the inode."""
    os.mkdir(vol.path("d"))
    open(vol.path("f"), "wb").close()
    writeback = "writeback" in os.environ.get("HOLDFAST_OPTIONS", "")
    for name in ("d",) if writeback else ("d", "f"):  # with -o writeback a file's ctime is the kernel's own
        path = vol.path(name)
        for act in (lambda: chattr(path, "+d"), lambda: chattr(path, "-d"), lambda: chattr(path, "+i"), lambda: chattr(path, "-i"),
                    lambda: set_x(path, XFL["A"])):
            before = os.stat(path).st_ctime_ns
            act()
            seen = os.stat(path).st_ctime_ns
            assert seen > before


def test_many_at_once(vol):
    """Settling waits for workers; with more askers than workers nobody waits for ever."""
    procs = []
    for i in range(20):
        path = vol.path(f"f{i}")
        write_synced(path, b"x" * 200000)
        code = ("import mmap, subprocess, sys\n"
                f"f = open({path!r}, 'r+b')\nm = mmap.mmap(f.fileno(), 200000)\n"
                "for _ in range(5):\n    m[0:200000] = b'y' * 200000\n"
                f"    subprocess.run(['chattr', '+i', {path!r}], check=True)\n"
                f"    subprocess.run(['chattr', '-i', {path!r}], check=True)\n")
        procs.append(subprocess.Popen(["/usr/bin/python3", "-c", code]))
    for p in procs:
        assert p.wait(timeout=120) == 0


def test_settle_beside_commits(unmounted):
    """Settling waits for pages, and these for the log; so it must not be the thread that syncs the log now and then."""
    os.environ["LD_PRELOAD"] = os.path.join(BUILD, "tests", "mount", "libslow_flush.so")
    try:
        unmounted.mount("engine=threads,commit=1")
    finally:
        del os.environ["LD_PRELOAD"]
    with subprocess.Popen(["/usr/bin/python3", "-c", calls.SETTLE, unmounted.path("f"), "5"], stdin=subprocess.DEVNULL) as p:
        end = time.monotonic() + 30
        while p.poll() is None and time.monotonic() < end:
            # Something to sync that nobody has asked for.
            os.close(os.open(unmounted.path("g"), os.O_CREAT | os.O_RDWR))
            os.unlink(unmounted.path("g"))
            time.sleep(0.01)
        hangs = p.poll() is None
        if hangs:
            unmounted.kill()
    assert not hangs and p.returncode == 0
    unmounted.umount()
    unmounted.fsck()


def test_survive(vol):
    """A crash, a check and a repair."""
    write_synced(vol.path("f"), b"x")
    os.mkdir(vol.path("d"))
    chattr(vol.path("f"), "+ia")
    chattr(vol.path("d"), "+DA")
    run("sync", "-f", vol.dir)
    vol.kill()
    vol.fsck()
    vol.mount()
    assert (get(vol.path("f")), get(vol.path("d"))) == ("ai", "AD")
    vol.umount()
    vol.fsck()
    run(FSCK, "-y", "-f", vol.image)
    vol.mount()
    assert (get(vol.path("f")), get(vol.path("d"))) == ("ai", "AD")
