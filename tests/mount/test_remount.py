# SPDX-License-Identifier: Apache-2.0
"""mount -o remount: read-only and back, other options, what cannot be changed; directly, through mount(8), by a user, by the kernel alone."""
import errno
import mmap
import os
import re
import time

import pytest

from conftest import BUILD, MOUNT, daemons, run, sha256, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def unmounted(make_volume):
    """Small, since whole images are compared."""
    return make_volume("32M").mkfs()


def remount(vol, options, expect=0):
    done = run(MOUNT, vol.image, vol.dir, "-o", "remount," + options, check=False)
    assert done.returncode == expect, done.stdout
    return done.stdout


def stats(vol):
    return run(HOLDFAST, "stats", vol.dir).stdout


def shown(vol):
    """The daemon's view of its options, without the cache's size."""
    return re.sub(r",cache=\d+", "", re.search(r"^options +(\S+)", stats(vol), re.M)[1])


def kernel_options(path):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        line = next(line for line in f if line.split()[4] == str(path))
    return line.split()[5].split(","), line.split(" - ")[1].split()[2].split(",")


def read_anew(path):
    """Not from the page cache: of that the daemon would not know."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return f.read()


@pytest.mark.parametrize("kind", ["fuseblk", "plain"])
def test_read_only_and_back(unmounted, kind):
    unmounted.mount("strictatime" + (",plain" if kind == "plain" else ""))
    with open(unmounted.path("unsynced"), "wb") as f:
        f.write(os.urandom(300000))
    os.mkdir(unmounted.path("dir"))
    with open(unmounted.path("unsynced"), "rb") as f:
        data = f.read()
    remount(unmounted, "ro")
    before = sha256(unmounted.image)
    for change in (lambda: os.mkdir(unmounted.path("new")), lambda: os.unlink(unmounted.path("unsynced")),
                   lambda: os.chmod(unmounted.path("dir"), 0o700), lambda: open(unmounted.path("unsynced"), "ab"),
                   lambda: os.setxattr(unmounted.path("dir"), "user.a", b"b"), lambda: os.utime(unmounted.dir)):
        with pytest.raises(OSError) as e:
            change()
        assert e.value.errno == errno.EROFS
    # Reading, syncing, asking: none of it writes, not even times, and not after a while.
    accessed = os.stat(unmounted.path("unsynced")).st_atime_ns
    assert read_anew(unmounted.path("unsynced")) == data
    with open(unmounted.path("unsynced"), "rb") as f:
        os.fsync(f.fileno())
    assert os.listdir(unmounted.dir) and os.stat(unmounted.path("unsynced")).st_atime_ns == accessed
    run("sync", "-f", unmounted.dir)
    assert "read-only" in stats(unmounted) and shown(unmounted).startswith("ro,strictatime")
    time.sleep(0.5)
    assert sha256(unmounted.image) == before
    # The image is whole, here and as a copy.
    assert "clean" in unmounted.fsck("-n", "-f", "--data")
    copy = unmounted.image + ".copy"
    run("cp", "--sparse=always", unmounted.image, copy)
    assert "clean" in run(os.path.join(BUILD, "fsck", "fsck.holdfast"), "-n", "-f", "--data", copy).stdout
    remount(unmounted, "rw")
    write_synced(unmounted.path("after"), b"after")
    unmounted.kill()
    unmounted.mount()
    with open(unmounted.path("after"), "rb") as f:
        assert f.read() == b"after"
    with open(unmounted.path("unsynced"), "rb") as f:
        assert f.read() == data
    unmounted.umount()
    unmounted.fsck("-n", "-f", "--data")


def test_ends_at_rest(vol):
    """Unmounted, or killed, while it is read-only: clean, and nothing to replay."""
    with open(vol.path("f"), "wb") as f:
        f.write(b"not synced")
    remount(vol, "ro")
    before = sha256(vol.image)
    vol.umount()
    assert sha256(vol.image) == before
    vol.mount()
    remount(vol, "ro")
    vol.kill()
    assert "clean" in vol.fsck("-n")
    vol.mount()
    assert "  replayed_txns                     0" in stats(vol)
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"not synced"


def test_busy(vol):
    """Who has something open for writing, or a removed file open, keeps the volume writable; whoever reads does not."""
    write_synced(vol.path("f"), b"x" * 4096)
    fd = os.open(vol.path("f"), os.O_RDWR)
    assert "busy" in remount(vol, "ro", expect=32)
    os.pwrite(fd, b"y", 0)
    with mmap.mmap(fd, 4096) as m:
        os.close(fd)
        assert "busy" in remount(vol, "ro", expect=32)
        m[1] = 0x7a
    fd = os.open(vol.path("f"), os.O_RDONLY)
    os.unlink(vol.path("f"))
    assert "busy" in remount(vol, "ro", expect=32)
    assert os.read(fd, 3) == b"yzx" and shown(vol).startswith("rw")
    os.close(fd)
    write_synced(vol.path("g"), b"x")
    fd = os.open(vol.path("g"), os.O_RDONLY)
    remount(vol, "ro")
    assert os.read(fd, 10) == b"x"
    remount(vol, "rw")
    os.close(fd)
    vol.umount()
    vol.fsck()


def test_large_removal_ends_first(vol):
    """What goes on in the background is over before the volume rests: it would wake it."""
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT)
    for i in range(1200):
        os.pwrite(fd, b"x", i * 8192)
    os.close(fd)
    os.unlink(vol.path("f"))
    remount(vol, "ro")
    before = sha256(vol.image)
    time.sleep(1)
    assert sha256(vol.image) == before and "clean" in vol.fsck("-n", "-f")
    assert "read-only" in stats(vol)


def test_options(vol):
    write_synced(vol.path("f"), b"x" * 5000)

    def moves():
        """Does reading move the time?"""
        before = os.stat(vol.path("f")).st_atime_ns
        read_anew(vol.path("f"))
        return os.stat(vol.path("f")).st_atime_ns != before

    assert moves() and not moves()
    remount(vol, "strictatime")
    assert moves() and moves() and shown(vol) == "rw,strictatime,commit=5"
    remount(vol, "noatime,commit=77,discard")
    assert not moves() and shown(vol) == "rw,noatime,commit=77,discard"
    os.chmod(vol.path("f"), 0o600)
    assert not moves()
    remount(vol, "relatime,nodiscard,lazytime,nodiratime")
    assert moves() and not moves() and shown(vol) == "rw,relatime,nodiratime,lazytime,commit=77"
    mine, whole = kernel_options(vol.dir)
    assert "relatime" in mine and "nodiratime" in mine and "lazytime" in whole
    # Options that say what is so already, as mount(8) hands them on.
    remount(vol, ",".join(mine + whole) + ",engine=auto,nolazytime,diratime")
    assert shown(vol) == "rw,relatime,commit=77"


def test_sync_from_now_on(unmounted):
    unmounted.mount("commit=300")

    def kept(name):
        with open(unmounted.path(name), "wb") as f:
            f.write(b"x")
        unmounted.kill()
        unmounted.mount("commit=300")
        return os.path.exists(unmounted.path(name))

    assert not kept("a")
    remount(unmounted, "sync")
    assert kept("b")
    remount(unmounted, "sync")
    remount(unmounted, "async")
    assert not kept("c")
    # A commit timer that was long is short at once.
    remount(unmounted, "commit=1")
    with open(unmounted.path("d"), "wb") as f:
        f.write(b"x")
    time.sleep(2.5)
    unmounted.kill()
    unmounted.mount()
    assert os.path.exists(unmounted.path("d"))


def test_flags_stay(unmounted):
    unmounted.mount("nosuid,noexec,nodev,noatime")
    remount(unmounted, "ro")
    assert {"ro", "nosuid", "noexec", "nodev", "noatime"} <= set(kernel_options(unmounted.dir)[0])
    remount(unmounted, "rw,exec")
    mine = set(kernel_options(unmounted.dir)[0])
    assert {"rw", "nosuid", "nodev", "noatime"} <= mine and "noexec" not in mine


def test_refused(unmounted):
    unmounted.mount("engine=threads")
    for options, what in (("engine=uring", "engine="), ("cache=8M", "cache="), ("norecovery,ro", "norecovery"),
                          ("nosandbox", "nosandbox"), ("plain", "plain"), ("nohandles", "nohandles"), ("max_read=8192", "max_read=")):
        assert what in remount(unmounted, options, expect=32)
    assert "unknown" in remount(unmounted, "nosuchthing", expect=1)
    assert "bad value" in remount(unmounted, "commit=x", expect=1)
    assert shown(unmounted) == "rw,relatime,commit=5,engine=threads"
    remount(unmounted, "ro,engine=threads")
    unmounted.umount()
    # -f: only looks.
    unmounted.mount()
    run(MOUNT, "-f", unmounted.image, unmounted.dir, "-o", "remount,ro")
    assert shown(unmounted).startswith("rw")
    done = run(MOUNT, unmounted.image, unmounted.folder, "-o", "remount,ro", check=False)
    assert done.returncode == 32 and "no Holdfast volume is mounted here" in done.stdout
    unmounted.umount()
    unmounted.mount("ro")
    before = sha256(unmounted.image)
    assert "was mounted read-only" in remount(unmounted, "rw", expect=32)
    remount(unmounted, "ro,noatime")
    assert sha256(unmounted.image) == before
    with pytest.raises(OSError) as e:
        os.mkdir(unmounted.path("d"))
    assert e.value.errno == errno.EROFS


# mount(8) looks for its helpers in /sbin: there they are in a mount namespace of its own.
NAMESPACE = """
set -e
mkdir {folder}/sbin
for name in mount.holdfast mount.fuse.holdfast mount.fuseblk.holdfast; do ln -s {mount} {folder}/sbin/$name; done
mount --bind {folder}/sbin /usr/sbin
mount -t holdfast {image} {dir} -o {first}
mount -o remount,ro {dir}
{holdfast} stats {dir} | grep ^state
mount -o remount,rw,strictatime {dir}
mount -t holdfast -o remount,commit=9 {image} {dir}
{holdfast} stats {dir} | grep ^options
touch {dir}/f
umount {dir}
"""


@pytest.mark.parametrize("first", ["noatime", "noatime,plain"])
def test_through_mount(unmounted, first):
    """Without a type mount(8) takes that of the mounted file system, fuseblk.holdfast or fuse.holdfast."""
    script = NAMESPACE.format(folder=unmounted.folder, mount=MOUNT, image=unmounted.image, dir=unmounted.dir, holdfast=HOLDFAST,
                              first=first)
    out = run("unshare", "-m", "sh", "-c", script).stdout
    assert "read-only" in out and "rw,strictatime,commit=9" in out
    wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    assert "clean" in unmounted.fsck()


def test_by_the_kernel_alone(vol):
    """Whoever calls mount(2) without our helper: everything is durable, nothing can be changed, and it can be undone."""
    with open(vol.path("f"), "wb") as f:
        f.write(b"not synced")
    run("mount", "-i", "-o", "remount,ro", vol.dir)
    with pytest.raises(OSError):
        os.mkdir(vol.path("d"))
    run("mount", "-i", "-o", "remount,rw", vol.dir)
    os.mkdir(vol.path("d"))
    run("mount", "-i", "-o", "remount,ro", vol.dir)
    vol.kill()
    vol.mount()
    assert os.path.isdir(vol.path("d"))
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"not synced"
    # The kernel read-only, the daemon at rest, and then only the kernel told to write again.
    remount(vol, "ro")
    run("mount", "-i", "-o", "remount,rw", vol.dir)
    write_synced(vol.path("d", "g"), b"woken")
    vol.kill()
    vol.mount()
    with open(vol.path("d", "g"), "rb") as f:
        assert f.read() == b"woken"


def test_by_a_user(unmounted):
    """What the daemon does alone can be changed by who has mounted; what the kernel has to do as well cannot; by others nothing."""
    for path in (unmounted.dir, unmounted.image):
        os.chown(path, 65534, 65534)
    os.chmod("/dev/fuse", 0o666)  # as udev does
    run(*USER, MOUNT, unmounted.image, unmounted.dir)
    mine = [*USER, MOUNT, unmounted.image, unmounted.dir, "-o"]
    run(*mine, "remount,noatime,lazytime,commit=30,sync")
    out = run(*USER, HOLDFAST, "stats", unmounted.dir).stdout
    assert "rw,noatime,lazytime,commit=30" in out and ",sync" in out
    for options in ("remount,ro", "remount,exec,suid,noexec"):
        done = run(*mine, options, check=False)
        assert done.returncode == 32 and "only root" in done.stdout
    run(*USER, "fusermount3", "-u", unmounted.dir)
    wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    unmounted.mount()
    os.chmod(unmounted.dir, 0o777)
    done = run(*mine, "remount,noatime", check=False)
    assert done.returncode == 32 and "only root and who has mounted" in done.stdout
