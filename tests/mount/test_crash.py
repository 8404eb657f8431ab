# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon at random moments under load: it mounts, fsck finds nothing, what was acknowledged is there."""
import hashlib
import os
import random
import subprocess
import sys
import time

import pytest

from conftest import LONG, run

ROUNDS = 20

# Writes files, fsyncs them, and only then says so on its standard output (a pipe, outside the volume).
WRITER = r"""
import hashlib, os, random, sys
top, seed = sys.argv[1], int(sys.argv[2])
rnd = random.Random(seed)
os.makedirs(top, exist_ok=True)
say = lambda *a: (sys.stdout.write(' '.join(map(str, a)) + '\n'), sys.stdout.flush())
n = 0
while True:
    n += 1
    name = f'{seed}-{rnd.randrange(40)}'
    path = os.path.join(top, name)
    kind = rnd.randrange(6)
    size = rnd.choice([0, 10, 700, 1500, 4096, 5000, 70000, 300000])
    data = rnd.randbytes(size)
    if kind == 5 and os.path.exists(path):
        say('touch', name)
        os.unlink(path)
        fd = os.open(top, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        say('gone', name)
        continue
    say('touch', name)
    if kind < 3:
        # atomic replacement
        fd = os.open(path + '.tmp', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)
        os.rename(path + '.tmp', path)
        fd = os.open(top, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        say('holds', name, hashlib.sha256(data).hexdigest())
    else:
        # in place, then cut to length
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, size)
        os.fdatasync(fd) if kind == 3 else os.fsync(fd)
        os.close(fd)
        say('holds', name, hashlib.sha256(data).hexdigest())
"""

# Load without syncs: whatever it loses is its own business, but nothing may break.
NOISE = r"""
import os, random, shutil, sys
top = sys.argv[1]
rnd = random.Random(int(sys.argv[2]))
while True:
    d = os.path.join(top, str(rnd.randrange(8)))
    os.makedirs(d, exist_ok=True)
    p = os.path.join(d, str(rnd.randrange(200)))
    k = rnd.randrange(8)
    try:
        if k < 4:
            open(p, 'wb').write(rnd.randbytes(rnd.choice([3, 900, 9000, 200000])))
        elif k == 4:
            os.rename(p, os.path.join(d, str(rnd.randrange(200))))
        elif k == 5:
            os.link(p, p + 'l')
        elif k == 6:
            os.unlink(p)
        else:
            shutil.rmtree(d)
    except FileNotFoundError:
        pass
    except FileExistsError:
        pass
"""


def start(vol, source, sub, seed):
    """Inside the mount: who begins late must not go on in what lies below it, for ever."""
    return subprocess.Popen([sys.executable, "-c", source, sub, str(seed)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True, cwd=vol.dir)


def acknowledged(lines):
    """{name: digest, None (removed) or "?" (being changed when the end came)}."""
    state = {}
    for line in lines:
        words = line.split()
        if words[0] == "touch":
            state[words[1]] = "?"
        elif words[0] == "gone":
            state[words[1]] = None
        else:
            state[words[1]] = words[2]
    return state


def check(vol, sub, state):
    seen = 0
    for name, want in state.items():
        path = vol.path(sub, name)
        if want == "?":
            continue
        if want is None:
            assert not os.path.exists(path), f"{name} was removed, and that was synced"
        else:
            with open(path, "rb") as f:
                assert hashlib.sha256(f.read()).hexdigest() == want, name
        seen += 1
    return seen


@pytest.mark.timeout(600)
def test_kill_under_load(make_volume):
    vol = make_volume("512M").mkfs()
    rnd = random.Random(os.environ.get("HOLDFAST_SEED", "holdfast"))
    states, seen = {}, 0
    for round_ in range(ROUNDS * (5 if LONG else 1)):
        vol.mount("commit=1")
        for sub, state in states.items():
            seen += check(vol, sub, state)
        sub = f"w{round_ % 3}"
        writer = start(vol, WRITER, sub, round_)
        noise = start(vol, NOISE, "noise", round_)
        time.sleep(rnd.uniform(0.05, 1.2))
        vol.kill()
        out, _ = writer.communicate(timeout=30)
        noise.kill()
        noise.communicate(timeout=30)
        states.setdefault(sub, {}).update(acknowledged(out.splitlines()))
        vol.mount()
        seen += check(vol, sub, states[sub])
        vol.umount()
        vol.fsck("-n", "-f", "--data")
    assert seen > 100


def test_kill_then_fsck_alone(vol):
    """fsck -p replays the journal by itself, and the next mount finds a clean volume."""
    with open(vol.path("f"), "wb") as f:
        f.write(b"kept" * 1000)
        f.flush()
        os.fsync(f.fileno())
    vol.kill()
    vol.fsck("-p", expect=1)
    vol.fsck("-n", "-f")
    vol.mount()
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"kept" * 1000


def test_unsynced_is_a_prefix(vol):
    """Without any sync: after a kill, what is there is a beginning of what was done, in the order it was done."""
    for i in range(500):
        with open(vol.path(f"{i:04}"), "wb") as f:
            f.write(b"%d" % i * 300)
    vol.kill()
    vol.mount()
    names = sorted(os.listdir(vol.dir))
    assert names == [f"{i:04}" for i in range(len(names))]
    for i, name in enumerate(names):
        with open(vol.path(name), "rb") as f:
            data = f.read()
        if i < len(names) - 1:
            assert data == b"%d" % i * 300, name
        else:
            assert data in (b"", b"%d" % i * 300)


def test_commit_interval(vol):
    """Without a sync, what is older than commit=N seconds is safe."""
    vol.remount("commit=1")
    with open(vol.path("old"), "wb") as f:
        f.write(b"older than a second")
    time.sleep(2.5)
    vol.kill()
    vol.mount()
    with open(vol.path("old"), "rb") as f:
        assert f.read() == b"older than a second"


def test_deleted_but_open_is_gone_after_a_kill(vol):
    before = os.statvfs(vol.dir)
    with open(vol.path("open"), "wb", buffering=0) as f:
        f.write(b"x" * (8 << 20))
        os.fsync(f.fileno())
        os.unlink(vol.path("open"))
        fd = os.open(vol.dir, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        with open(f"/proc/self/fd/{f.fileno()}", "rb") as again:
            assert len(again.read()) == 8 << 20
        vol.kill()
    vol.mount()
    assert os.listdir(vol.dir) == []
    deadline = time.monotonic() + 10
    while os.statvfs(vol.dir).f_bfree < before.f_bfree - 64 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.statvfs(vol.dir).f_bfree >= before.f_bfree - 64
    vol.umount()
    vol.fsck("-n", "-f")
