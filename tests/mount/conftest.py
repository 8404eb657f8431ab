# SPDX-License-Identifier: Apache-2.0
"""A volume of its own for every test: image, mount point, daemon; all gone afterwards, whatever happened.

HOLDFAST_BUILD names the build directory (default: build); with a sanitizer in it, any report fails the test.  HOLDFAST_ENGINE=threads
runs everything on that engine, HOLDFAST_TRANSPORT=uring with requests over io_uring.
HOLDFAST_OPTIONS has more mount options for all mounts; the test's own come behind them.
"""
import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("HOLDFAST_BUILD", "build"))
MKFS = os.path.join(BUILD, "mkfs", "mkfs.holdfast")
FSCK = os.path.join(BUILD, "fsck", "fsck.holdfast")
MOUNT = os.path.join(BUILD, "fs", "mount.holdfast")
LONG = os.environ.get("HOLDFAST_LONG") == "1"
# Is it one with a sanitizer, and which.
SANITIZED = next((name for name in ("asan", "tsan") if os.path.basename(BUILD).endswith(name)), "")

libc = ctypes.CDLL(None, use_errno=True)

# In a shell's background jobs it is ignored, and whoever is started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def run(*argv, check=True, timeout=120, **kwargs):
    """Runs a command; its output is in the result and, if it fails, in the exception's text."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    if "stdout" not in kwargs:
        kwargs["stdout"] = subprocess.PIPE
        kwargs.setdefault("stderr", subprocess.STDOUT)
    done = subprocess.run([str(a) for a in argv], timeout=timeout, text=True, errors="replace", check=False, **kwargs)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(str(a) for a in argv)}: exit {done.returncode}\n{done.stdout or ''}")
    return done


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def data_ranges(fd):
    """What SEEK_DATA and SEEK_HOLE say: offsets of each run of data, and of the hole behind it."""
    found, off, size = [], 0, os.fstat(fd).st_size
    while off < size:
        try:
            off = os.lseek(fd, off, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            break
        end = os.lseek(fd, off, os.SEEK_HOLE)
        assert off < end <= size
        found.append((off, end))
        off = end
    return found


def data_pages(fd):
    """Numbers of the pages that have data."""
    return [page for off, end in data_ranges(fd) for page in range(off // 4096, -(-end // 4096))]


def write_synced(path, data):
    """The data is durable when this returns."""
    with open(path, "wb", buffering=0) as f:
        assert f.write(data) == len(data)
        os.fsync(f.fileno())


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split()[4] == str(path) for line in f)


def daemons(image):
    """Process ids of the daemons that serve an image."""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                argv = f.read().split(b"\0")
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        # Its helpers (fs/keeper.h, fs/caller.h) have the same command line, and go when the daemon goes.
        if rest.split()[0] != "Z" and name not in ("holdfast-keeper", "holdfast-caller") and b"mount.holdfast" in os.path.basename(argv[0]) and os.fsencode(str(image)) in argv:
            found.append(int(pid))
    return found


def is_dead(pid):
    """With all its threads, so that its files are closed.  A process that is about to end has no command line any more; its locks it still has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            state = f.read().rsplit(")", 1)[1].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return True


def wait_for(condition, seconds=20, what="condition"):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


class Volume:
    """An image and a place to mount it."""

    def __init__(self, folder, size="256M"):
        self.folder = str(folder)
        self.image = os.path.join(self.folder, "disk.img")
        self.dir = os.path.join(self.folder, "mnt")
        self.size = size
        os.mkdir(self.dir)

    def mkfs(self, *options):
        run(MKFS, "-q", "-f", self.image, *([] if os.path.exists(self.image) else ["--size", self.size]), *options)
        return self

    def mount(self, options="", check=True):
        chosen = {"engine": os.environ.get("HOLDFAST_ENGINE"), "transport": os.environ.get("HOLDFAST_TRANSPORT")}
        if "engine=threads" in options:
            del chosen["transport"]  # which has no such requests
        opts = [o for o in (os.environ.get("HOLDFAST_OPTIONS", ""), options, *(f"{name}={value}" for name, value in chosen.items() if value)) if o]
        return run(MOUNT, self.image, self.dir, *(["-o", ",".join(opts)] if opts else []), check=check, timeout=60)

    def umount(self):
        """As a user does; the daemon is gone and the image unlocked when this returns."""
        pids = daemons(self.image)
        run("umount", self.dir, timeout=60)
        wait_for(lambda: all(map(is_dead, pids)) and not daemons(self.image), 60, "the daemon's end")

    def remount(self, options=""):
        self.umount()
        self.mount(options)

    def kill(self, by=signal.SIGKILL):
        """kill -9, or by another signal, and the dead mount is taken away."""
        pids = daemons(self.image)
        for pid in pids:
            os.kill(pid, by)
        wait_for(lambda: all(map(is_dead, pids)) and not daemons(self.image), 60, "death")
        run("umount", "-l", self.dir, check=False)

    def fsck(self, *options, expect=0):
        done = run(FSCK, *(options or ("-n", "-f")), self.image, check=False, timeout=170)
        assert done.returncode == expect, done.stdout
        return done.stdout

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def clean_up(self):
        for _ in range(3):
            if is_mounted(self.dir):
                run("umount", "-l", self.dir, check=False)
        for pid in daemons(self.image):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not daemons(self.image), what="death")


ENABLE_URING = "/sys/module/fuse/parameters/enable_uring"


@contextlib.contextmanager
def kernel_offers_uring(offers):
    """The module's switch, for a while: it matters to new mounts only."""
    if not os.path.exists(ENABLE_URING):
        pytest.skip("this kernel has no FUSE over io_uring")
    with open(ENABLE_URING, encoding="ascii") as f:
        before = f.read()
    with open(ENABLE_URING, "w", encoding="ascii") as f:
        f.write("Y" if offers else "N")
    try:
        yield
    finally:
        with open(ENABLE_URING, "w", encoding="ascii") as f:
            f.write(before)


def end_all(vol, procs, doing):
    """They end, without an error, and the volume is whole."""
    try:
        wait_for(lambda: all(p.poll() is not None for p in procs), 60, f"the end of all {doing}")
        assert not any(p.returncode for p in procs)
    except AssertionError:
        vol.kill()
        raise
    finally:
        for p in procs:
            p.kill()
            p.wait()
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.fixture(autouse=True, scope="session")
def transport():
    if os.environ.get("HOLDFAST_TRANSPORT") != "uring":
        yield
        return
    with kernel_offers_uring(True):
        yield


@pytest.fixture(autouse=True)
def sanitizer(monkeypatch):
    """Reports go to files, as a daemon has no stderr; it goes on after one, so that one run shows all of them."""
    if not SANITIZED:
        yield
        return
    path = tempfile.mkdtemp(prefix="holdfast-reports-", dir="/var/tmp")
    common = f"log_path={path}/report exitcode=66 "
    # io_sync=0: else ThreadSanitizer takes reading requests and writing answers, which all workers do on one descriptor, for
    # an order between them, and nothing between requests could race.
    monkeypatch.setenv("TSAN_OPTIONS", common + "halt_on_error=0 io_sync=0 second_deadlock_stack=1")
    monkeypatch.setenv("ASAN_OPTIONS", common + "detect_leaks=1 allocator_may_return_null=1")
    monkeypatch.setenv("UBSAN_OPTIONS", common + "halt_on_error=1 print_stacktrace=1")
    try:
        yield
        found = ""
        for name in sorted(glob.glob(os.path.join(path, "report.*"))):
            with open(name, encoding="utf-8", errors="replace") as f:
                found += f.read()
        # LeakSanitizer says so of a thread that was joined and is not quite gone at the end of the process; its stack is nobody's then.
        found = re.sub(r"^==\d+==Unable to get registers from thread \d+\.\n", "", found, flags=re.M)
        assert not found, found[:20000]
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def folder(sanitizer):  # pylint: disable=unused-argument,redefined-outer-name
    """A folder on a real disk (not in memory), removed afterwards."""
    path = tempfile.mkdtemp(prefix="holdfast-test-", dir=os.environ.get("HOLDFAST_TMP", "/var/tmp"))
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def unmounted(folder):
    """A formatted volume."""
    vol = Volume(folder)
    try:
        yield vol.mkfs()
    finally:
        vol.clean_up()


@pytest.fixture
def vol(unmounted):
    """A mounted volume."""
    unmounted.mount()
    return unmounted


@pytest.fixture
def make_volume(folder):
    """For tests that want another size: make_volume("1G") -> an unformatted Volume."""
    made = []

    def make(size="256M"):
        sub = os.path.join(folder, str(len(made)))
        os.mkdir(sub)
        made.append(Volume(sub, size))
        return made[-1]

    yield make
    for v in made:
        v.clean_up()


def pytest_collection_modifyitems(items):
    for item in items:
        if "long" in item.keywords and not LONG:
            item.add_marker(pytest.mark.skip(reason="slow; ./setup test --long runs it"))


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only with ./setup test --long")
