# SPDX-License-Identifier: Apache-2.0
"""Devices that fail under a mounted volume.

Real ones, without a device mapper: an image on a file system that is full (writes to what the image does not have yet end in ENOSPC),
and an image inside another mounted volume, whose daemon is killed (everything ends in ENOTCONN) or of which a block is damaged (reads of
that block end in EIO).

Whatever fails, nothing hangs: that is what the time limits are for.
"""
import errno
import json
import os
import signal
import socket
import threading
import time

import pytest

from conftest import BUILD, MOUNT, Volume, daemons, is_mounted, run, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
BLOCK = 4096

pytestmark = pytest.mark.timeout(100)


def stats(path, expect=0):
    done = run(HOLDFAST, "stats", "--json", path, check=False)
    assert done.returncode == expect, done.stdout
    return json.loads(done.stdout)


def failed_stats(path):
    """The state of a volume that has failed; its reason."""
    s = stats(path, expect=1)
    assert s["state"] == "failed" and s["reason"]
    return s["reason"]


def umount_failed(vol):
    """umount(8) of a volume that cannot be closed cleanly returns all the same, and the daemon ends."""
    run("umount", vol.dir, timeout=30)
    wait_for(lambda: not daemons(vol.image), what="the daemon's end")


def refuses_changes(path):
    """Neither new files nor overwriting; and no fsync claims anything."""
    for _ in range(2):
        with pytest.raises(OSError) as e:
            with open(os.path.join(path, "another file"), "wb", buffering=0) as f:
                f.write(b"x")
        assert e.value.errno in (errno.EROFS, errno.EIO)


class Log:
    """A file that is appended to and synced until an error: what has been acknowledged must be there afterwards."""

    def __init__(self, path, piece=3000):
        self.path = path
        self.piece = piece
        self.written = 0  # bytes accepted
        self.durable = 0  # of them acknowledged as durable
        self.syncs = 0
        self.error = None
        self.failed_sync = self.lied = False

    @staticmethod
    def contents(first, length):
        """Of bytes first.. of the file."""
        text = b"".join(b"%010d" % n for n in range(first // 10, (first + length) // 10 + 1))
        return text[first % 10:first % 10 + length]

    def run(self):
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        except OSError as e:
            self.error = e.errno
            return
        try:
            self.append(fd)
        except OSError as e:
            self.error = e.errno
            self.try_again(fd)
        finally:
            os.close(fd)

    def append(self, fd):
        while True:
            end = self.written + self.piece
            while self.written < end:
                self.written += os.pwrite(fd, self.contents(self.written, end - self.written), self.written)
            self.sync(fd)

    def sync(self, fd):
        try:
            os.fsync(fd)
        except OSError:
            self.failed_sync = True
            raise
        # Something is lost: nothing may claim that it is not.  (But an fsync may be the first one after a refused write,
        # and what was accepted before that may be durable.)
        self.lied |= self.failed_sync
        self.durable = self.written
        self.syncs += 1

    def try_again(self, fd):
        for _ in range(3):
            try:
                self.sync(fd)
            except OSError as again:
                if again.errno not in (errno.EIO, errno.EROFS):
                    self.error = again.errno

    def check(self):
        assert not self.lied
        if not self.durable and not os.path.exists(self.path):
            return
        with open(self.path, "rb") as f:
            assert f.read(self.durable) == self.contents(0, self.durable)


# --- an image on a full file system ---

@pytest.fixture
def on_tmpfs(folder):
    """A formatted volume of 64 MiB, sparse, on a tmpfs of 24 MiB; .fill(left) takes all but `left` bytes, .free() gives it back."""
    tmpfs = os.path.join(folder, "small")
    os.mkdir(tmpfs)
    done = run("mount", "-t", "tmpfs", "-o", "size=24M", "none", tmpfs, check=False)
    if done.returncode:
        pytest.skip("no tmpfs: " + done.stdout)
    vol = Volume(tmpfs, "64M")
    filler = os.path.join(tmpfs, "filler")

    def fill(left):
        st = os.statvfs(tmpfs)
        with open(filler, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - left)

    vol.fill = fill
    vol.free = lambda: os.unlink(filler)
    try:
        yield vol.mkfs("-J", "4M")
    finally:
        vol.clean_up()
        run("umount", "-l", tmpfs, check=False)


def punch_journal(vol):
    """The image loses the blocks of its journal, which must be empty."""
    info = json.loads(run(HOLDFAST, "info", "--json", vol.image).stdout)
    run("fallocate", "-p", "-o", info["journal_first_block"] * BLOCK, "-l", info["journal_size"], vol.image)


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_log_write_fails(on_tmpfs, engine):
    vol = on_tmpfs
    vol.mount()
    os.mkdir(vol.path("d"))
    write_synced(vol.path("d", "old"), b"o" * 100000)
    vol.umount()
    vol.mount(f"commit=300,engine={engine}")
    punch_journal(vol)
    vol.fill(300 << 10)
    logs = [Log(vol.path(f"log{n}")) for n in range(8)]
    threads = [threading.Thread(target=log.run) for log in logs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=30)
        assert not t.is_alive(), "an fsync hangs"
    assert all(log.error in (errno.EIO, errno.EROFS) for log in logs)
    assert sum(log.syncs for log in logs) > 10
    reason = failed_stats(vol.dir)
    assert "write of a group" in reason and "No space left" in reason
    refuses_changes(vol.dir)
    # Reads go on, of what is cached and of what is not.
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("1")
    with open(vol.path("d", "old"), "rb") as f:
        assert f.read() == b"o" * 100000
    for log in logs:
        log.check()
    umount_failed(vol)
    vol.free()
    vol.mount()
    for log in logs:
        log.check()
    assert stats(vol.dir)["state"] == "ok"
    write_synced(vol.path("new"), b"n")
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_data_write_fails(on_tmpfs, engine):
    """Data that goes straight to its home must be there before its frame: the fsync fails, and so does the volume."""
    vol = on_tmpfs
    vol.mount(f"commit=300,engine={engine}")
    write_synced(vol.path("good"), b"g" * (1 << 20))
    vol.fill(3 << 20)
    log = Log(vol.path("log"), piece=400000)
    log.run()
    assert log.error in (errno.EIO, errno.EROFS) and log.syncs > 0
    assert "No space left" in failed_stats(vol.dir)
    refuses_changes(vol.dir)
    with open(vol.path("good"), "rb") as f:
        assert f.read() == b"g" * (1 << 20)
    umount_failed(vol)
    vol.free()
    vol.mount()
    log.check()
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_checkpoint_fails(on_tmpfs):
    """The journal has everything; only its nodes find no place.  The next mount replays."""
    vol = on_tmpfs
    vol.mount("commit=300")
    for d in range(20):
        os.mkdir(vol.path(f"d{d}"))
        for i in range(50):
            write_synced(vol.path(f"d{d}", f"a file {i}"), b"small %d" % i)
    vol.fill(0)
    umount_failed(vol)
    vol.free()
    assert "not unmounted cleanly" in run(HOLDFAST, "info", vol.image).stdout
    vol.mount()
    assert stats(vol.dir)["volume"]["replayed_txns"] > 100
    for d in range(20):
        for i in range(50):
            with open(vol.path(f"d{d}", f"a file {i}"), "rb") as f:
                assert f.read() == b"small %d" % i
    vol.umount()
    vol.fsck("-n", "-f", "--data")


# --- an image inside another mounted volume ---

class Nested:
    def __init__(self, folder):
        self.folder = folder
        for name in ("outer", "inner"):
            os.mkdir(os.path.join(folder, name))
        self.outer = Volume(os.path.join(folder, "outer"), "80M").mkfs()
        self.outer.mount("plain")
        self.inner = Volume(os.path.join(folder, "inner"), "40M")
        self.inner.image = self.outer.path("disk.img")
        self.inner.mkfs()

    def cut(self):
        """The device is gone: whatever the inner daemon does ends in an error."""
        for pid in daemons(self.outer.image):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not daemons(self.outer.image), what="death")

    def restore(self):
        """And back."""
        run("umount", "-l", self.outer.dir, check=False)
        self.outer.mount("plain")

    def damage(self, contents):
        """The block of the inner image that has these contents cannot be read any more."""
        info = json.loads(run(HOLDFAST, "info", "--json", self.outer.image).stdout)
        # Behind the journal, which may have it as well.
        home = info["journal_first_block"] * BLOCK + info["journal_size"]
        with open(self.outer.image, "r+b") as f:
            at = f.read().index(contents, home)
            assert at % BLOCK == 0
            f.seek(at + 1)
            f.write(bytes([contents[1] ^ 0x55]))
            f.flush()
            os.fsync(f.fileno())

    def clean_up(self):
        self.inner.clean_up()
        self.outer.clean_up()


@pytest.fixture
def nested(folder):
    n = Nested(folder)
    try:
        yield n
    finally:
        n.clean_up()


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_device_gone_under_load(nested, engine):
    vol = nested.inner
    vol.mount(f"engine={engine}")
    write_synced(vol.path("cached"), b"c" * 300000)
    with open(vol.path("cached"), "rb") as f:
        assert f.read() == b"c" * 300000
    logs = [Log(vol.path(f"log{n}")) for n in range(16)]
    threads = [threading.Thread(target=log.run) for log in logs]
    for t in threads:
        t.start()
    wait_for(lambda: min(log.syncs for log in logs) > 3, what="progress")
    nested.cut()
    end = time.monotonic() + 15
    for t in threads:
        t.join(timeout=max(0, end - time.monotonic()))
        assert not t.is_alive(), "an fsync hangs"
    assert all(log.error in (errno.EIO, errno.EROFS) for log in logs)
    assert failed_stats(vol.dir)
    refuses_changes(vol.dir)
    # What is in memory is still served.
    assert sorted(os.listdir(vol.dir)) == sorted(["cached"] + [f"log{n}" for n in range(16)])
    with open(vol.path("cached"), "rb") as f:
        assert f.read() == b"c" * 300000
    umount_failed(vol)
    nested.restore()
    vol.mount()
    for log in logs:
        log.check()
    write_synced(vol.path("new"), b"n")
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_device_gone_at_rest(nested):
    """Nothing is being written: reads of what is not cached fail, and the first sync finds out."""
    vol = nested.inner
    vol.mount("commit=300")
    write_synced(vol.path("f"), b"f" * (4 << 20))
    with open(vol.path("f"), "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        nested.cut()
        with pytest.raises(OSError) as e:
            os.pread(f.fileno(), 100000, 1 << 20)
        assert e.value.errno == errno.EIO
    assert os.stat(vol.path("f")).st_size == 4 << 20
    with pytest.raises(OSError) as e:
        write_synced(vol.path("g"), b"g")
    assert e.value.errno == errno.EIO
    assert failed_stats(vol.dir)
    with pytest.raises(OSError):
        write_synced(vol.path("h"), b"h")
    (pid,) = daemons(vol.image)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not daemons(vol.image), what="the daemon's end")
    assert not is_mounted(vol.dir)
    nested.restore()
    vol.mount()
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"f" * (4 << 20)


def test_bad_data_block(nested):
    """EIO for that file only, for that block only, and a scrub names it."""
    vol = nested.inner
    vol.mount()
    bad, good = os.urandom(8 * BLOCK), os.urandom(8 * BLOCK)
    write_synced(vol.path("bad"), bad)
    write_synced(vol.path("good"), good)
    vol.umount()
    nested.outer.remount("plain")
    vol.mount()
    nested.damage(bad[3 * BLOCK:4 * BLOCK])
    fd = os.open(vol.path("bad"), os.O_RDONLY | os.O_DIRECT)
    try:
        with pytest.raises(OSError) as e:
            os.preadv(fd, [memoryview_of(BLOCK)], 3 * BLOCK)
        assert e.value.errno == errno.EIO
        room = memoryview_of(BLOCK)
        for n in (0, 1, 2, 4, 7):
            assert os.preadv(fd, [room], n * BLOCK) == BLOCK
            assert bytes(room) == bad[n * BLOCK:(n + 1) * BLOCK]
    finally:
        os.close(fd)
    with open(vol.path("good"), "rb") as f:
        assert f.read() == good
    # The volume is as good as ever.
    write_synced(vol.path("new"), b"n" * 10000)
    assert stats(vol.dir)["state"] == "ok"
    done = run(HOLDFAST, "scrub", "--json", vol.dir, check=False)
    (finding,) = json.loads(done.stdout)["findings"]
    assert done.returncode == 1 and finding["file"] == "bad" and finding["offset"] == 3 * BLOCK


def memoryview_of(size):
    """Memory that is aligned for direct I/O."""
    import mmap
    return memoryview(mmap.mmap(-1, size))


def test_bad_metadata_blocks(nested):
    """A node of which one copy cannot be read is served from the other; of which none can: errors, and the rest goes on."""
    vol = nested.inner
    vol.mount()
    for d in range(40):
        os.mkdir(vol.path(f"d{d}"))
        for i in range(40):
            with open(vol.path(f"d{d}", f"file {i}"), "wb") as f:
                f.write(b"%d/%d" % (d, i))
    vol.umount()
    leaves = {}
    with open(vol.image, "rb") as f:
        image = f.read()
    for at in range(0, len(image), BLOCK):
        block = image[at:at + BLOCK]
        # The newest version of each leaf: a magic, its addresses, level 0.
        if block[4:8] == b"HLFN" and block[52] == 0 and int.from_bytes(block[8:16], "little") == at // BLOCK:
            leaves[block[64:80]] = max(leaves.get(block[64:80], (0, b"")), (int.from_bytes(block[24:32], "little"), block))
    newest = max(generation for generation, _ in leaves.values())
    current = [block for generation, block in leaves.values() if generation == newest]
    assert len(current) >= 10
    first, second = current[3], current[7]
    nested.outer.remount("plain")
    # Both copies have the same bytes: the first one that is found, then the other.
    nested.damage(first)
    for _ in range(2):
        nested.damage(second)
    # Else times of access are written, to new nodes, and the bad second copy of an old one is forgotten.
    vol.mount("noatime")
    good = bad = 0
    for d in range(40):
        for i in range(40):
            try:
                with open(vol.path(f"d{d}", f"file {i}"), "rb") as f:
                    assert f.read() == b"%d/%d" % (d, i)
                good += 1
            except OSError as e:
                assert e.errno == errno.EIO
                bad += 1
    assert 0 < bad < 400 and good > 1000
    write_synced(vol.path("new"), b"n" * 10000)
    # A second copy that is bad is met by a scrub only.
    done = run(HOLDFAST, "scrub", "--json", vol.dir, check=False)
    assert done.returncode == 1 and json.loads(done.stdout)["lost_meta"] == 1
    s = stats(vol.dir)
    assert s["state"] == "ok" and s["volume"]["errors"] > 0 and s["volume"]["repairs"] >= 1
    vol.umount()


# --- what syslog is told ---

def test_syslog(folder, on_tmpfs):
    """A daemon in the background, with a /dev/log of its own in a mount namespace of its own."""
    vol = on_tmpfs
    dev = os.path.join(vol.folder, "dev")
    os.mkdir(dev)
    for name in ("null", "zero", "fuse", "urandom", "random"):
        run("cp", "-a", f"/dev/{name}", dev)
    os.symlink("/proc/self/fd", os.path.join(dev, "fd"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(os.path.join(dev, "log"))
        log.settimeout(10)
        log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        done = run("unshare", "-m", "sh", "-c", f"mount --bind {dev} /dev && {MOUNT} {vol.image} {vol.dir} -o plain,commit=300",
                   check=False)
        if "unshare" in done.stdout:
            pytest.skip("no mount namespaces: " + done.stdout)
        assert done.returncode == 0, done.stdout
        (pid,) = daemons(vol.image)
        # Through the eyes of the daemon, for nobody else sees the mount.
        mnt = f"/proc/{pid}/root{vol.dir}"
        punch_journal(vol)
        vol.fill(100 << 10)
        Log(os.path.join(mnt, "log")).run()
        reason = failed_stats(mnt)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not daemons(vol.image), what="the daemon's end")
        said = []
        log.settimeout(0.2)
        try:
            while True:
                said.append(log.recv(65536).decode(errors="replace"))
        except OSError:
            pass
    failures = [line for line in said if reason in line]
    assert len(failures) == 1 and "read-only from now on" in failures[0] and "mount.holdfast[" in failures[0]
    # LOG_DAEMON, LOG_ERR
    assert failures[0].startswith("<27>")
