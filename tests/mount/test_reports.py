# SPDX-License-Identifier: Apache-2.0
"""Messages of a daemon whose logger does not read: the mount answers all the same (fs/report.h)."""
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import MOUNT, daemons, is_mounted, libc, run, wait_for

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


class Logger:
    """Takes the place of /dev/log, for those started with `inside`."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "log")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def inside(self):
        """For preexec_fn: a mount namespace of its own, in which /dev is a copy with this logger."""
        dev = os.path.join(os.path.dirname(self.path), "dev")
        os.makedirs(dev, exist_ok=True)
        assert libc.unshare(CLONE_NEWNS) == 0
        assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
        for name in ("fuse", "null", "zero", "full", "random", "urandom"):
            os.close(os.open(os.path.join(dev, name), os.O_CREAT))
            assert libc.mount(f"/dev/{name}".encode(), os.path.join(dev, name).encode(), None, 0x1000, None) == 0
        os.symlink(self.path, os.path.join(dev, "log"))
        assert libc.mount(dev.encode(), b"/dev", None, 0x1000 | MS_REC, None) == 0

    def lines(self):
        """All that comes until nothing does."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode(errors="replace"))
            except socket.timeout:
                return found


@pytest.fixture
def logged(unmounted):
    """A volume, and its logger; mounted in the logger's namespace (as plain: no loop devices there).  Calls from here go through /proc/PID/root."""
    with Logger(unmounted.folder) as logger:
        run(MOUNT, unmounted.image, unmounted.dir, "-o", "plain", preexec_fn=logger.inside)
        (pid,) = daemons(unmounted.image)
        yield unmounted, logger, pid, f"/proc/{pid}/root{unmounted.dir}"


def within(seconds, what):
    """Runs it in a thread; a hang is a failure, not a hang."""
    done = []
    t = threading.Thread(target=lambda: done.append(what()), daemon=True)
    t.start()
    t.join(seconds)
    assert done, f"no answer within {seconds} s"
    return done[0]


def write_and_read(path):
    with open(path, "wb", buffering=0) as f:
        f.write(b"x" * 100000)
        os.fsync(f.fileno())
    with open(path, "rb") as f:
        return len(f.read())


def flood(pid):
    """Far more messages than a socket's buffer and the queue hold: each signal is eight lines."""
    for _ in range(120):
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.005)


def test_logger_that_does_not_read(logged):
    vol, logger, pid, root = logged
    flood(pid)
    assert within(20, lambda: write_and_read(os.path.join(root, "f"))) == 100000
    assert within(20, lambda: len(os.listdir(root))) >= 1
    # In order, and what is missing is counted.
    lines = logger.lines()
    kinds = [m.group(1) for m in (re.search(r": (state|[a-z]+:) ", line) for line in lines) if m]
    assert kinds.count("state") > 10 and len(kinds) < 120 * 8
    lost = sum(int(m.group(1)) for m in (re.search(r"(\d+) messages lost here", line) for line in lines) if m)
    assert lost > 0
    # And then as before: nothing lost.
    os.kill(pid, signal.SIGUSR1)
    after = logger.lines()
    assert sum(": state ok" in line for line in after) == 1 and not any("lost here" in line for line in after)


def test_the_end_with_a_logger_that_does_not_read(logged):
    """The daemon ends, the volume is clean, and the last words come if they are read within seconds."""
    vol, _, pid, root = logged
    write_and_read(os.path.join(root, "f"))
    flood(pid)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not daemons(vol.image), seconds=20, what="the end")
    assert "clean" in vol.fsck()


def test_last_words_are_written(logged):
    vol, logger, pid, _ = logged
    os.kill(pid, signal.SIGUSR1)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not daemons(vol.image), what="the end")
    lines = logger.lines()
    assert "mounted on" in lines[0] and lines[-1].rstrip("\0").endswith("unmounted")


def test_death_is_not_held_up(logged):
    """A fatal signal lets the queue be written, but for a second only."""
    vol, _, pid, _ = logged
    flood(pid)
    os.kill(pid, signal.SIGABRT)
    wait_for(lambda: not daemons(vol.image), seconds=20, what="death")


def test_stderr_that_nobody_reads(unmounted):
    """A daemon in the foreground, whose stderr is a full pipe."""
    reader, writer = os.pipe()
    with subprocess.Popen([MOUNT, "-v", unmounted.image, unmounted.dir, "-o", "foreground"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=writer) as daemon:
        os.close(writer)
        try:
            wait_for(lambda: is_mounted(unmounted.dir) or daemon.poll() is not None, what="the mount")
            flood(daemon.pid)
            assert within(20, lambda: write_and_read(unmounted.path("f"))) == 100000
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=20) == 0
        finally:
            daemon.kill()
            os.close(reader)
    assert "clean" in unmounted.fsck()
