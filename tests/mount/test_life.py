# SPDX-License-Identifier: Apache-2.0
"""The end of a mount while it is in use: umount -l, TERM, an aborted connection; processes killed while they wait for the daemon."""
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from conftest import BUILD, MKFS, MOUNT, SANITIZED, daemons, is_mounted, run, wait_for, write_synced

# Names, contents and fsync, from inside the mount, so that it is busy.  Ends when the mount does.
LOAD = r"""
import os, random, sys
os.chdir(sys.argv[1])
rnd = random.Random(int(sys.argv[2]))
def pick():
    return f"{sys.argv[2]}-{rnd.randrange(40)}"
print("begun", flush=True)
try:
    while True:
        k = rnd.randrange(6)
        try:
            if k < 2:
                with open(pick(), "wb", buffering=0) as f:
                    f.write(rnd.randbytes(rnd.choice([100, 5000, 70000, 1 << 20])))
                    if k == 1:
                        os.fsync(f.fileno())
            elif k == 2:
                os.unlink(pick())
            elif k == 3:
                os.rename(pick(), pick())
            elif k == 4:
                open(pick(), "rb").read()
            else:
                os.listdir(".")
        except FileNotFoundError:
            pass
except OSError as e:
    print(e.errno)
"""

FSYNC = "import os, sys\nf = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\nwhile True: os.write(f, b'x' * 9000); os.fsync(f)"

# SEEK_HOLE has the kernel drop what it has of a hole, for which what is stored there is written.
STORE = r"""
import mmap, os, sys
SIZE = 64 << 20
f = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.ftruncate(f, SIZE)
os.pread(f, 4096, 0)
m = mmap.mmap(f, SIZE)
print("begun", flush=True)
at = 0
while True:
    for i in range(64):
        m[at % SIZE] = 65
        at += 4096
    os.lseek(f, 0, os.SEEK_HOLE)
    if at % SIZE == 0:
        os.ftruncate(f, 0)
        os.ftruncate(f, SIZE)
"""


@contextlib.contextmanager
def load(vol, n=4):
    """Processes at work in the mount, killed at the end."""
    procs = [subprocess.Popen([sys.executable, "-c", LOAD, vol.dir, str(i)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True) for i in range(n)]
    try:
        for p in procs:
            assert p.stdout.readline() == "begun\n"
        time.sleep(1)
        yield procs
    finally:
        for p in procs:
            p.kill()
            p.communicate()


@pytest.fixture(params=["uring", "threads"])
def daemon(request, unmounted):
    """In the foreground, so that its exit status can be had."""
    run(MKFS, "-q", "-f", "-J", "size=2M", unmounted.image)
    with subprocess.Popen([MOUNT, unmounted.image, unmounted.dir, "-o", f"foreground,engine={request.param}"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as d:
        try:
            wait_for(lambda: is_mounted(unmounted.dir), what="the mount")
            write_synced(unmounted.path("synced"), b"before the end")
            yield d
        finally:
            run("umount", "-l", unmounted.dir, check=False)
            d.kill()


def check_end(vol, daemon):
    """The daemon has found nothing left in flight (it asserts that), and the volume is clean and whole."""
    assert daemon.wait(timeout=60) == 0
    assert "clean" in vol.fsck("-n", "-f", "--data")
    vol.mount()
    assert open(vol.path("synced"), "rb").read() == b"before the end"
    vol.umount()


def test_umount_under_load(unmounted, daemon):
    with load(unmounted):
        busy = run("umount", unmounted.dir, check=False)
        assert busy.returncode != 0 and "busy" in busy.stdout
        run("umount", "-l", unmounted.dir)
        time.sleep(0.5)
        assert daemon.poll() is None, "it serves those who are inside"
    check_end(unmounted, daemon)


def test_term_under_load(unmounted, daemon):
    with load(unmounted) as procs:
        daemon.send_signal(signal.SIGTERM)
        for p in procs:
            assert p.communicate(timeout=60)[0].strip().isdigit()
    check_end(unmounted, daemon)


def test_forced_umount_under_load(unmounted, daemon):
    with load(unmounted) as procs:
        run("umount", "-f", unmounted.dir, check=False)
        for p in procs:
            assert p.communicate(timeout=60)[0].strip().isdigit()
    run("umount", "-l", unmounted.dir, check=False)
    check_end(unmounted, daemon)


def test_killed_in_fsync(vol):
    """Whoever is killed while it waits takes nothing with it: the next fsync returns, and so does umount."""
    for i in range(40):
        with subprocess.Popen([sys.executable, "-c", FSYNC, vol.path(f"f{i % 4}")], stdin=subprocess.DEVNULL) as p:
            wait_for(lambda p=p, i=i: os.path.exists(vol.path(f"f{i % 4}")) or p.poll() is not None, what="its file")
            time.sleep(0.03 + i % 7 / 300)
            assert p.poll() is None
            p.kill()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import conftest; "
                           "conftest.write_synced(sys.argv[2], b'after')", os.path.dirname(__file__), vol.path("after")],
                          stdin=subprocess.DEVNULL) as p:
        assert p.wait(timeout=30) == 0
    assert len(daemons(vol.image)) == 1
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_too_few_descriptors(unmounted):
    """With one less than it takes, mounting says so and leaves nothing behind; it does not take another descriptor for the connection."""
    def attempt(n):
        return run(MOUNT, unmounted.image, unmounted.dir, check=False, timeout=60,
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)))
    for n in range(16, 400):
        done = attempt(n)
        if done.returncode == 0:
            break
        assert "Too many open files" in done.stdout
        wait_for(lambda: not is_mounted(unmounted.dir), what="unmounted")
        wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    assert done.returncode == 0
    unmounted.umount()


@pytest.mark.skipif(SANITIZED != "", reason="a sanitizer's library must come first")
@pytest.mark.parametrize("user, options", [("root", "foreground"), ("root", "plain"), ("user", "rw")])
@pytest.mark.parametrize("step", ["take", "killed", "hand", "dup", "flags"])
def test_failure_behind_mount(folder, unmounted, step, options, user):
    """What fails once the kernel has mounted takes the mount away again, says so in one line, and closes nothing twice."""
    env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "tests", "mount", "libafter_mount.so"), AFTER_MOUNT=step)
    prefix = []
    mode = os.stat("/dev/fuse").st_mode
    if user == "user":
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        for path in (folder, unmounted.dir, unmounted.image):
            os.chown(path, 65534, 65534)
    elif step == "dup":
        pytest.skip("nothing is kept so when root mounts")
    os.chmod("/dev/fuse", 0o666)
    try:
        done = run(*prefix, MOUNT, unmounted.image, unmounted.dir, "-o", options, env=env, check=False, timeout=60)
    finally:
        os.chmod("/dev/fuse", mode)
    assert done.returncode != 0
    assert step == "killed" or len(done.stdout.splitlines()) == 1, done.stdout
    assert "twice" not in done.stdout
    wait_for(lambda: not is_mounted(unmounted.dir), 2, "unmounted")
    wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    unmounted.mount()
    unmounted.umount()


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_killed_while_pages_are_dropped(vol, rounds):
    """One of its threads waits for what the others would do.  It ends all the same, and so does whoever waits for the mount; after a crash, too, with which the kernel
    waits for all threads."""
    for n in range(rounds):
        with subprocess.Popen([sys.executable, "-c", STORE, vol.path("f")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True) as p:
            assert p.stdout.readline() == "begun\n"
            time.sleep(0.7)
            vol.kill(signal.SIGKILL if n % 2 else signal.SIGSEGV)
            p.kill()
            p.wait(timeout=30)
        vol.mount()
    vol.umount()
    vol.fsck("-n", "-f", "--data")
