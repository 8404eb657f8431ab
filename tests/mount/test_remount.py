# SPDX-License-Identifier: Apache-2.0
"""mount -o remount: read-only and back, other options, what cannot be changed; directly, through mount(8), by a user, by the kernel alone."""
import errno
import fcntl
import mmap
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from conftest import BUILD, MOUNT, SANITIZED, daemons, run, sha256, wait_for, write_synced

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
    """The daemon's view of its options, without the cache's size and what conftest.py adds."""
    return re.sub(r",cache=\d+|,transport=uring", "", re.search(r"^options +(\S+)", stats(vol), re.M)[1])


def kernel_options(path):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        line = next(line for line in f if line.split()[4] == str(path))
    return line.split()[5].split(","), line.split(" - ")[1].split()[2].split(",")


def read_anew(path):
    """Not from the page cache: of that the daemon would not know."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return f.read()


def test_writable_without_the_write_back_cache(make_volume):
    """fstab has the option, and mount -o remount,rw passes it; what never cached goes on so."""
    vol = make_volume("128M").mkfs()
    vol.mount("writeback,ro")
    assert not remount(vol, "rw,writeback")
    assert ",writeback" not in stats(vol)
    write_synced(vol.path("f"), b"there")
    assert not remount(vol, "ro,writeback")
    assert not remount(vol, "rw,writeback")
    assert not remount(vol, "noatime,writeback")
    assert "noatime" in stats(vol) and ",writeback" not in stats(vol)
    assert read_anew(vol.path("f")) == b"there"


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


def test_loop_device_stays_read_only(unmounted):
    """The image has become writable, but the device that the kernel sees has not: nothing has changed when that is said."""
    before = sha256(unmounted.image)
    run("mount", "--bind", unmounted.image, unmounted.image)
    try:
        run("mount", "-o", "remount,bind,ro", unmounted.image)
        unmounted.mount("ro")
        run("mount", "-o", "remount,bind,rw", unmounted.image)
        assert "write-protected, or was when it was mounted" in remount(unmounted, "rw", expect=32)
        assert shown(unmounted).startswith("ro") and "ro" in kernel_options(unmounted.dir)[0]
        assert sha256(unmounted.image) == before
        unmounted.umount()
    finally:
        run("umount", "-l", unmounted.image)


def test_refused(unmounted):
    unmounted.mount("engine=threads")
    for options, what in (("engine=uring", "engine="), ("cache=8M", "cache="), ("norecovery,ro", "norecovery"),
                          ("nosandbox", "nosandbox"), ("plain", "plain"), ("nohandles", "nohandles"), ("allow_idmap", "allow_idmap"), ("max_read=8192", "max_read=")):
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
    remount(unmounted, "ro,noatime")
    assert sha256(unmounted.image) == before
    with pytest.raises(OSError) as e:
        os.mkdir(unmounted.path("d"))
    assert e.value.errno == errno.EROFS
    unmounted.umount()
    unmounted.mount("ro,norecovery")
    assert "'norecovery' needs 'ro'" in remount(unmounted, "rw", expect=1)
    assert sha256(unmounted.image) == before
    unmounted.umount()


# --- what was mounted read-only becomes writable ---


def crash_with_orphans(vol):
    """Something to replay, and files that are unlinked, of which one takes several transactions to remove."""
    vol.mount()
    free = os.statvfs(vol.dir).f_bfree
    write_synced(vol.path("kept"), b"kept")
    held = []
    for i in range(20):
        held.append(os.open(vol.path(f"orphan{i}"), os.O_RDWR | os.O_CREAT))
        os.pwrite(held[-1], b"x" * 5000, 0)
        os.setxattr(vol.path(f"orphan{i}"), "user.a", b"b" * 500)
    for i in range(3000):
        os.pwrite(held[0], b"x", i * 8192)
    for i in range(20):
        os.unlink(vol.path(f"orphan{i}"))
    run("sync", "-f", vol.dir)
    vol.kill()
    for fd in held:
        os.close(fd)
    return free


@pytest.mark.parametrize("options", ["", "plain", "engine=threads", "nosandbox", "transport=dev,noatime,commit=1"])
def test_read_only_becomes_writable(unmounted, options):
    """After a crash: nothing is written before, everything that a writable mount does is done then."""
    free = crash_with_orphans(unmounted)
    before = sha256(unmounted.image)
    unmounted.mount("ro," + options if options else "ro")
    fd = os.open(unmounted.path("kept"), os.O_RDONLY)
    assert os.listdir(unmounted.dir) == ["kept"] and os.read(fd, 10) == b"kept"
    assert os.statvfs(unmounted.dir).f_bfree < free - 3000
    assert sha256(unmounted.image) == before
    remount(unmounted, "rw")
    assert "rw" in kernel_options(unmounted.dir)[0] and shown(unmounted).startswith("rw") and "state     ok" in stats(unmounted)
    # The descriptor from before is good for reading, and its file can be written.
    assert os.pread(fd, 10, 0) == b"kept"
    with open(unmounted.path("kept"), "ab") as f:
        f.write(b" and more")
        f.flush()
        os.fsync(f.fileno())
    assert os.pread(fd, 20, 0) == b"kept and more"
    os.close(fd)
    wait_for(lambda: os.statvfs(unmounted.dir).f_bfree >= free - 16, what="room of the unlinked files")
    write_synced(unmounted.path("new"), b"new" * 100000)
    # Nobody else may have it from now on.
    other = run(MOUNT, unmounted.image, unmounted.folder, "-o", "ro", check=False)
    assert other.returncode == 32 and "in use" in other.stdout
    # Without a sync: the timer that a read-only mount had none of.
    if "commit=1" in options:
        os.mkdir(unmounted.path("unsynced"))
        time.sleep(2.5)
    unmounted.kill()
    unmounted.mount()
    with open(unmounted.path("kept"), "rb") as f:
        assert f.read() == b"kept and more"
    with open(unmounted.path("new"), "rb") as f:
        assert f.read() == b"new" * 100000
    assert os.path.isdir(unmounted.path("unsynced")) == ("commit=1" in options)
    unmounted.umount()
    assert "clean" in unmounted.fsck("-n", "-f", "--data")


def test_writable_and_back_again(unmounted):
    """Read-only, writable, at rest, writable: each as it should be, and unmounted clean from each."""
    unmounted.mount("ro")
    remount(unmounted, "rw,strictatime,lazytime")
    write_synced(unmounted.path("f"), b"1")
    remount(unmounted, "ro")
    before = sha256(unmounted.image)
    assert "clean" in unmounted.fsck("-n", "-f")
    time.sleep(0.5)
    assert sha256(unmounted.image) == before
    remount(unmounted, "rw")
    remount(unmounted, "rw")
    write_synced(unmounted.path("f"), b"2")
    unmounted.umount()
    assert "clean" in unmounted.fsck("-n")
    unmounted.mount("ro")
    remount(unmounted, "rw")
    unmounted.umount()
    assert "clean" in unmounted.fsck("-n")
    unmounted.mount("ro")
    with open(unmounted.path("f"), "rb") as f:
        assert f.read() == b"2"


def test_not_while_others_read(unmounted):
    """Another read-only mount of the image is in the way, and neither of them is harmed; without it, it works."""
    other = os.path.join(unmounted.folder, "other")
    os.mkdir(other)
    unmounted.mount()
    write_synced(unmounted.path("f"), b"x" * 10000)
    unmounted.kill()
    before = sha256(unmounted.image)
    unmounted.mount("ro")
    run(MOUNT, unmounted.image, other, "-o", "ro")
    try:
        assert "in use by others" in remount(unmounted, "rw", expect=32)
        for there in (unmounted.dir, other):
            assert read_anew(os.path.join(there, "f")) == b"x" * 10000
            with pytest.raises(OSError) as e:
                os.mkdir(os.path.join(there, "d"))
            assert e.value.errno == errno.EROFS
        # The one that was refused has its lock still.
        run("umount", other)
        wait_for(lambda: len(daemons(unmounted.image)) == 1, what="the other daemon's end")
        assert sha256(unmounted.image) == before
        assert "in use" in unmounted.fsck("-y", expect=8)
        remount(unmounted, "rw")
        write_synced(unmounted.path("g"), b"y")
    finally:
        run("umount", "-l", other, check=False)
    unmounted.umount()
    assert "clean" in unmounted.fsck("-n", "-f")


@pytest.mark.skipif(SANITIZED != "", reason="a sanitizer's library must come first")
@pytest.mark.parametrize("gap", ["written", "written and shared", "looked at"])
def test_gap_in_the_lock(unmounted, gap):
    """
    A lock that cannot be raised is gone for a moment.  If somebody has written in it, nothing that is in memory is worth anything; if not, no
    harm is done.
    """
    folder, other = os.path.join(unmounted.folder, "gap"), os.path.join(unmounted.folder, "other")
    os.mkdir(folder)
    os.mkdir(other)
    unmounted.mount()
    for i in range(300):
        os.mkdir(unmounted.path(f"old{i}"))
    write_synced(unmounted.path("f"), b"old" * 10000)
    unmounted.umount()
    # Whoever is to wait opens files.
    os.environ.update(LD_PRELOAD=os.path.join(BUILD, "tests", "mount", "liblock_gap.so"), LOCK_GAP=folder)
    try:
        unmounted.mount("ro,nosandbox")
    finally:
        del os.environ["LD_PRELOAD"], os.environ["LOCK_GAP"]
    assert len(os.listdir(unmounted.dir)) == 301
    sharing = os.open(unmounted.image, os.O_RDONLY)
    fcntl.flock(sharing, fcntl.LOCK_SH)
    with subprocess.Popen([MOUNT, unmounted.image, unmounted.dir, "-o", "remount,rw"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as asking:
        wait_for(lambda: os.path.exists(os.path.join(folder, "open")), what="the gap")
        fcntl.flock(sharing, fcntl.LOCK_UN)
        if gap == "looked at":
            fcntl.flock(sharing, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(sharing, fcntl.LOCK_UN)
        else:
            run(MOUNT, unmounted.image, other)
            for i in range(0, 300, 2):
                os.rmdir(os.path.join(other, f"old{i}"))
            write_synced(os.path.join(other, "f"), b"new" * 10000)
            run("umount", other)
            # Besides the first daemon there is who asks it.
            wait_for(lambda: len(daemons(unmounted.image)) == 2, what="the other daemon's end")
        if gap == "written and shared":
            fcntl.flock(sharing, fcntl.LOCK_SH)
        with open(os.path.join(folder, "go"), "w", encoding="ascii"):
            pass
        said = asking.communicate(timeout=60)[0]
    os.close(sharing)
    if gap == "looked at":
        assert asking.returncode == 0, said
        write_synced(unmounted.path("g"), b"g")
        with open(unmounted.path("f"), "rb") as f:
            assert f.read() == b"old" * 10000
    else:
        assert asking.returncode == 32 and "the volume has failed" in said
        assert "somebody has written to the image while its lock was to be raised" in run(HOLDFAST, "stats", unmounted.dir, check=False).stdout
        # Also what the kernel had cached.
        for look in (lambda: os.listdir(unmounted.dir), lambda: read_anew(unmounted.path("f")), lambda: os.stat(unmounted.path("new"))):
            with pytest.raises(OSError) as e:
                look()
            assert e.value.errno == errno.EIO
    unmounted.umount()
    assert "clean" in unmounted.fsck("-n", "-f", "--data")


def test_write_protected_cannot(unmounted):
    """Neither a device that is set so, nor an image in a file system that is read-only; but when it is not any more."""
    done = run("losetup", "-f", "--show", unmounted.image, check=False)
    if done.returncode:
        pytest.skip("no loop device: " + done.stdout)
    file, unmounted.image = unmounted.image, done.stdout.strip()
    try:
        run("blockdev", "--setro", unmounted.image)
        before = sha256(file)
        unmounted.mount()
        assert "cannot remount it read-write: the image is write-protected" in remount(unmounted, "rw", expect=32)
        assert shown(unmounted).startswith("ro") and "ro" in kernel_options(unmounted.dir)[0]
        assert sha256(file) == before
        run("blockdev", "--setrw", unmounted.image)
        remount(unmounted, "rw")
        write_synced(unmounted.path("f"), b"x")
        unmounted.umount()
    finally:
        unmounted.clean_up()
        run("blockdev", "--setrw", unmounted.image, check=False)
        run("losetup", "-d", unmounted.image, check=False)
        unmounted.image = file
    assert "clean" in unmounted.fsck("-n", "-f", "--data")


def test_another_image_in_its_place(unmounted):
    """The path leads to another volume by now: that is not touched."""
    unmounted.mount("ro")
    run("mv", unmounted.image, unmounted.image + ".moved")
    run("cp", "--sparse=always", unmounted.image + ".moved", unmounted.image)
    before = sha256(unmounted.image)
    assert "not what it was" in remount(unmounted, "rw", expect=32)
    assert sha256(unmounted.image) == before and shown(unmounted).startswith("ro")
    run("mv", unmounted.image + ".moved", unmounted.image)
    remount(unmounted, "rw")
    os.mkdir(unmounted.path("d"))


def test_readers_go_on(unmounted):
    """Those who read all the while get what is there, and nothing else."""
    crash_with_orphans(unmounted)
    unmounted.mount()
    data = {}
    for i in range(30):
        data[f"d{i}"] = os.urandom(20000 + i * 7000)
        write_synced(unmounted.path(f"d{i}"), data[f"d{i}"])
    unmounted.kill()
    stop = threading.Event()
    wrong, rounds = [], [0]

    def read():
        while not stop.is_set():
            for name, want in data.items():
                if read_anew(unmounted.path(name)) != want:
                    wrong.append(name)
            rounds[0] += 1

    for _ in range(3):
        unmounted.mount("ro")
        stop.clear()
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        remount(unmounted, "rw")
        write_synced(unmounted.path("new"), os.urandom(100000))
        done = rounds[0]
        wait_for(lambda: rounds[0] > done + 2, what="readers")
        stop.set()
        for thread in threads:
            thread.join()
        unmounted.kill()
    assert not wrong
    unmounted.mount()
    unmounted.umount()
    assert "clean" in unmounted.fsck("-n", "-f", "--data")


def test_asked_by_many(unmounted):
    """One at a time does it, the others are told to wait or find it done; and a mount that goes meanwhile goes."""
    unmounted.mount("ro")
    asking = [subprocess.Popen([MOUNT, unmounted.image, unmounted.dir, "-o", "remount,rw"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT) for _ in range(6)]
    said = [p.communicate(timeout=60)[0].decode() for p in asking]
    assert any(p.returncode == 0 for p in asking)
    assert all(p.returncode == 0 or "another remount is under way" in text for p, text in zip(asking, said)), said
    os.mkdir(unmounted.path("d"))
    unmounted.umount()
    for _ in range(5):
        unmounted.mount("ro")
        (pid,) = daemons(unmounted.image)
        with subprocess.Popen([MOUNT, unmounted.image, unmounted.dir, "-o", "remount,rw"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
        assert "clean" in unmounted.fsck("-n", "-f")


# mount(8) looks for its helpers in /sbin: there they are in a mount namespace of its own.
HELPERS = """
set -e
mkdir {folder}/sbin
for name in mount.holdfast mount.fuse.holdfast mount.fuseblk.holdfast; do ln -s {mount} {folder}/sbin/$name; done
mount --bind {folder}/sbin /usr/sbin
"""

NAMESPACE = HELPERS + """
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


# Each: options of a remount, what the kernel shows then.
FLAGS = [
    ("noexec,nosuid,sync,noatime", "rw,nosuid,noexec,noatime rw,sync"),
    ("commit=7", "rw,nosuid,noexec,noatime rw,sync"),
    ("exec", "rw,nosuid,noatime rw,sync"),
    ("async,suid", "rw,noatime rw"),
    ("atime", "rw,relatime rw"),
    ("nodiratime,lazytime,nodev", "rw,nodev,nodiratime,relatime rw,lazytime"),
    ("diratime", "rw,nodev,relatime rw,lazytime"),
    ("nolazytime,dev", "rw,relatime rw"),
]


def test_flags_go_through_mount(unmounted):
    """What takes a flag away mount(8) does not hand on: it leaves out the flag."""
    show = r"sed -n 's#.* {dir} \([^ ]*\) - [^ ]* [^ ]* \(.*\),user_id=.*#\1 \2#p' /proc/self/mountinfo" + "\n"
    script = HELPERS + "mount -t holdfast {image} {dir}\n"
    script += "".join("mount -o remount," + options + " {dir}\n" + show for options, _ in FLAGS)
    # With the image named they are those of the command alone; access times stay as mount(2) leaves them.
    script += "mount -o remount,noexec,noatime {dir}\nmount -t holdfast -o remount,nodev {image} {dir}\n" + show
    script += "{holdfast} stats {dir} | grep ^options\numount {dir}\n"
    names = {"folder": unmounted.folder, "mount": MOUNT, "image": unmounted.image, "dir": unmounted.dir, "holdfast": HOLDFAST}
    lines = run("unshare", "-m", "sh", "-c", script.format(**names)).stdout.splitlines()
    assert lines[:-2] == [seen for _, seen in FLAGS]
    assert lines[-2] == "rw,nodev,noatime rw" and "rw,noatime,commit=7" in lines[-1]


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
    assert done.returncode == 32 and "only root (CAP_SYS_ADMIN) and the user who has mounted" in done.stdout


def test_many_at_once(unmounted):
    """None is refused, and the kernel and the daemon end with the same one's options."""
    unmounted.mount()
    for _ in range(12):
        procs = [subprocess.Popen([MOUNT, unmounted.image, unmounted.dir, "-o", "remount," + options], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                 for options in ("ro", "rw", "noatime", "ro,relatime", "rw,noatime")]
        assert [p.communicate(timeout=60)[0] for p in procs] == [""] * 5
        mine, whole = kernel_options(unmounted.dir)
        daemons_own = shown(unmounted).split(",")
        assert whole[0] == daemons_own[0] and ("noatime" in mine) == ("noatime" in daemons_own)
    unmounted.umount()


@pytest.mark.long
def test_held_up(unmounted):
    """Whoever may read the root directory can hold what remounts wait for each other with, but not for good."""
    unmounted.mount()
    fd = os.open(unmounted.dir, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    begun = time.monotonic()
    remount(unmounted, "ro")
    assert 5 < time.monotonic() - begun < 60
    os.close(fd)
    remount(unmounted, "rw")
    write_synced(unmounted.path("f"), b"x")
