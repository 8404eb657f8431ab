# SPDX-License-Identifier: Apache-2.0
"""The daemon under many clients at once: in the plain build that it survives and the volume is right, in builds with a sanitizer that
nothing is reported (conftest.py looks).  ./setup test runs this file on three builds; HOLDFAST_BUILD=build-tsan chooses one.
"""
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import BUILD, LONG, MKFS, MOUNT, SANITIZED, is_mounted, kernel_offers_uring, run, wait_for

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
LOAD = os.path.join(os.path.dirname(__file__), "race_load.py")
PROCESSES = 3
SECONDS = 60 if LONG else 4 if SANITIZED == "tsan" else 2
# What runs in every build: each engine and each end once.
SHORT = {"": {("uring", "TERM"), ("threads", "umount")}, "tsan": {("rings", "umount"), ("uring", "TERM"), ("threads", "umount")},
         "asan": {("rings", "TERM"), ("uring", "umount"), ("threads", "TERM")}}[SANITIZED]


def start_load(vol, seconds):
    return [subprocess.Popen([sys.executable, LOAD, vol.dir, str(i), str(seconds)], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for i in range(PROCESSES)]


def disturb(vol, daemon, until):
    """What a user does beside: statistics, a scrub, sync, remounts of the log."""
    subprocess.run([HOLDFAST, "scrub", vol.dir], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.STDOUT, timeout=100, check=False)
    while time.monotonic() < until and daemon.poll() is None:
        daemon.send_signal(signal.SIGUSR1)
        run(HOLDFAST, "stats", vol.dir)
        run("sync", "-f", vol.dir)
        time.sleep(0.2)


@pytest.mark.parametrize("engine,end", sorted({(engine, end) for engine in ("rings", "uring", "threads") for end in ("umount", "TERM")}
                                              if LONG else SHORT))
@pytest.mark.timeout(600 if LONG else 150)
def test_many_clients(make_volume, engine, end):
    """`rings`: the engine is uring, and requests come over io_uring, too."""
    with kernel_offers_uring(True) if engine == "rings" else contextlib.nullcontext():
        many_clients(make_volume, "uring,transport=uring" if engine == "rings" else engine + ",transport=dev", end)


def many_clients(make_volume, engine, end):
    vol = make_volume("96M")
    # A small journal and a small cache: checkpoints, eviction and waiting for space all the time.
    run(MKFS, "-q", vol.image, "--size", vol.size, "-J", "size=2M")
    options = f"foreground,commit=1,cache=4M,discard,engine={engine}"
    with subprocess.Popen([MOUNT, vol.image, vol.dir, "-o", options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as daemon:
        loads = []
        try:
            wait_for(lambda: is_mounted(vol.dir) or daemon.poll() is not None, what="the mount")
            for name in ("a", "b"):
                os.mkdir(vol.path(name))
            # The end comes in the middle of it all.  After a lazy umount those inside go on until they are done, after a
            # signal until the daemon's patience (3 s) is over.
            loads = start_load(vol, SECONDS + (3 if end == "TERM" else 0))
            disturb(vol, daemon, time.monotonic() + SECONDS - 1)
            if end == "TERM":
                daemon.send_signal(signal.SIGTERM)
            else:
                run("umount", "-l", vol.dir)
            done = [p.communicate(timeout=100)[0] for p in loads]
            out = daemon.communicate(timeout=100)[0]
        finally:
            for p in loads:
                p.kill()
            run("umount", "-l", vol.dir, check=False)
            daemon.kill()
    assert daemon.returncode == 0, out[-5000:]
    for p, text in zip(loads, done):
        assert p.returncode == 0 and int(text.split()[0]) > 0, text
    print("operations:", [text.strip() for text in done])
    assert "clean" in vol.fsck("-n", "-f", "--data")
