# SPDX-License-Identifier: Apache-2.0
"""Real programs do on Holdfast what they do anywhere."""
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import LONG, TOP, run


@pytest.fixture
def large(make_volume):
    v = make_volume("1G").mkfs()
    v.mount()
    return v


@pytest.mark.timeout(400)
def test_git(large):
    repo = large.path("repo")
    env = dict(os.environ, GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b",
               GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")

    def git(*args):
        return run("git", "-C", repo, *args, env=env, timeout=200).stdout

    run("git", "init", "-q", repo, env=env)
    run("cp", "-a", "/usr/include", repo)
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    git("gc", "-q")
    git("fsck", "--full", "--strict")
    assert git("status", "--porcelain") == ""
    with open(os.path.join(repo, "include", "stdio.h"), "a", encoding="utf-8") as f:
        f.write("/* changed */\n")
    assert git("status", "--porcelain").split() == ["M", "include/stdio.h"]
    git("checkout", "-q", "-b", "other")
    git("commit", "-q", "-a", "-m", "second")
    git("checkout", "-q", "-")
    large.remount()
    assert git("status", "--porcelain") == ""
    git("fsck", "--full", "--strict")
    large.umount()
    large.fsck("-n", "-f", "--data")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite(vol, mode):
    path = vol.path("db")
    db = sqlite3.connect(path, isolation_level=None)
    assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    db.execute("pragma synchronous=full")
    db.execute("create table t(k integer primary key, v blob)")
    rnd = random.Random(1)
    for _ in range(10000 if LONG else 2500):
        db.execute("insert or replace into t values(?, ?)", (rnd.randrange(2000), rnd.randbytes(rnd.randrange(300))))
    want = db.execute("select k, v from t order by k").fetchall()
    db.close()
    vol.remount()
    db = sqlite3.connect(path)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert db.execute("select k, v from t order by k").fetchall() == want
    db.close()


SQLITE_WRITER = r"""
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('pragma journal_mode=' + sys.argv[2])
# FULL does not sync the directory after a rollback journal is deleted, so its last commit may be undone; EXTRA does, but takes a
# directory that cannot be opened any more for one that needs no sync.  So it is synced here once more, by a descriptor that is open.
folder = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
db.execute('pragma synchronous=extra')
db.execute('create table if not exists t(k integer primary key)')
n = db.execute('select coalesce(max(k), 0) from t').fetchone()[0]
while True:
    n += 1
    db.execute('insert into t values(?)', (n,))
    os.fsync(folder)
    print(n, flush=True)
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_killed(vol, mode):
    """Every transaction that committed before a kill -9 is there after it."""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", SQLITE_WRITER, vol.path("db"), mode], text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(0.7)
        vol.kill()
        out, _ = writer.communicate(timeout=30)
        acked = int(out.split()[-1])
        vol.mount()
        db = sqlite3.connect(vol.path("db"))
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        rows = [k for (k,) in db.execute("select k from t order by k")]
        db.close()
        assert rows == list(range(1, len(rows) + 1)) and len(rows) >= acked
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.timeout(2400 if LONG else 400)
def test_build_of_this_project(large):
    """A copy of this project, built inside the mount, works; at length, it passes its own unit tests there."""
    src = large.path("src")
    shutil.copytree(TOP, src, ignore=shutil.ignore_patterns("build", "build-*", ".git", "mnt", "*.img", "__pycache__"))
    run("meson", "setup", "-Dmount_tests=false", f"-Dtests={'true' if LONG else 'false'}", "build", cwd=src, timeout=100)
    run("ninja", "-C", "build", cwd=src, timeout=900 if LONG else 300)
    if LONG:
        # As in the short run: their own slow parts have no place here.
        run("meson", "test", "-C", "build", "--suite", "unit", "--no-rebuild", "-t", "5", cwd=src,
            env=dict(os.environ, TMPDIR=large.dir, HOLDFAST_LONG="0"), timeout=1200)
    image = large.path("inner.img")
    run(os.path.join(src, "build", "mkfs", "mkfs.holdfast"), "-q", image, "--size", "64M")
    assert "clean" in run(os.path.join(src, "build", "fsck", "fsck.holdfast"), "-n", "-f", "--data", image).stdout


@pytest.mark.parametrize("engine,direct", [("psync", 0), ("libaio", 0), ("io_uring", 0), ("mmap", 0), ("psync", 1),
                                            ("libaio", 1), ("io_uring", 1)])
def test_fio_verify(vol, engine, direct):
    """fio writes at random, with checksums of its own, and reads them all back, with and without O_DIRECT."""
    block = 4096 if engine == "mmap" else 512
    run("fio", "--name=v", f"--filename={vol.path('f')}", "--size=24m", "--rw=randwrite", f"--bs={block}-64k",
        f"--blockalign={block}", f"--ioengine={engine}", f"--direct={direct}", "--iodepth=8", "--verify=crc32c", "--do_verify=1",
        "--verify_fatal=1", "--fsync=64", "--randrepeat=1", "--serialize_overlap=1", "--verify_state_save=0", "--output=/dev/null", timeout=100)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_rsync(vol):
    run("rsync", "-aHAX", "/usr/include/linux/", vol.path("linux"))
    out = run("rsync", "-aHAXnc", "--itemize-changes", "--delete", "/usr/include/linux/", vol.path("linux")).stdout
    assert out == ""
