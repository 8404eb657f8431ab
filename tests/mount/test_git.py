# SPDX-License-Identifier: Apache-2.0
"""git on Holdfast: a large repository with all its upkeep, and one that is killed while it works."""
import os
import random
import shutil
import time

import pytest

from conftest import LONG, run
from programs import Client, need

ENV = dict(os.environ, GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b",
           GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")


def git(where, *args, timeout=600):
    return run("git", "-C", where, *args, env=ENV, timeout=timeout).stdout


def sources(limit):
    """Real files, so many at most, in the order of their names."""
    found = []
    for top in ("/usr/include", "/usr/share", "/usr/lib/python3", "/usr/lib/gcc"):
        for folder, dirs, files in os.walk(top):
            dirs.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 200000:
                    found.append(path)
                    if len(found) == limit:
                        return found
    return found


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_large_repository(make_volume):
    need("git")
    vol = make_volume("4G").mkfs()
    vol.mount()
    repo = vol.path("repo")
    run("git", "init", "-q", "-b", "main", repo, env=ENV)
    files = sources(16000)
    commits = 8
    for i in range(commits):
        for path in files[i::commits]:
            to = os.path.join(repo, path[1:])
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copyfile(path, to)
            with open(to, "ab") as f:
                f.write(b"\n%d\n" % i)
        git(repo, "add", "-A", "-f")
        git(repo, "-c", "gc.auto=0", "commit", "-q", "-m", f"part {i}")
    count = dict(line.split(": ") for line in git(repo, "count-objects", "-v").splitlines())
    assert int(count["count"]) > 10000, "too small a repository"
    assert git(repo, "status", "--porcelain", "--ignored") == ""
    git(repo, "fsck", "--full", "--strict")
    # Clones: by hard links; by copying what is loose; through a pack.
    git(vol.dir, "clone", "-q", "repo", "linked")
    assert any(os.stat(os.path.join(d, f)).st_nlink == 2 for d, _, fs in os.walk(vol.path("linked", ".git", "objects")) for f in fs)
    git(vol.dir, "clone", "-q", "--no-local", "repo", "packed")
    git(vol.dir, "clone", "-q", "--bare", "--no-hardlinks", "repo", "bare.git")
    head = git(repo, "rev-parse", "HEAD")
    git(repo, "gc", "-q", "--prune=now")
    git(repo, "repack", "-q", "-a", "-d", "-f", "--depth=20", "--window=5")
    git(repo, "multi-pack-index", "write")
    git(repo, "commit-graph", "write")
    git(repo, "worktree", "add", "-q", vol.path("tree"), "HEAD~3")
    with open(vol.path("tree", "new"), "w", encoding="ascii") as f:
        f.write("x")
    git(vol.path("tree"), "add", "new")
    git(vol.path("tree"), "checkout", "-q", "-b", "side")
    git(vol.path("tree"), "commit", "-q", "-m", "side")
    git(repo, "merge", "-q", "--no-edit", "side")
    # git syncs its packs and nothing else.
    run("sync", "-f", vol.dir)
    vol.kill()
    vol.mount()
    for name in ("repo", "tree", "linked", "packed", "bare.git"):
        git(vol.path(name), "fsck", "--full", "--strict")
        if name != "bare.git":
            assert git(vol.path(name), "status", "--porcelain", "--ignored") == ""
    for name in ("linked", "packed", "bare.git"):
        assert git(vol.path(name), "rev-parse", "HEAD") == head
    git(vol.path("packed"), "checkout", "-q", "HEAD~5")
    git(vol.path("packed"), "checkout", "-q", "main")
    vol.umount()
    vol.fsck("-n", "-f", "--data")
    vol.mount()
    for name in ("linked", "tree", "packed"):
        shutil.rmtree(vol.path(name))
    git(repo, "fsck", "--full", "--strict")
    assert git(repo, "status", "--porcelain", "--ignored") == ""


# git syncs nothing here; one file that is written and synced after a commit makes everything durable that came before.
COMMITTER = r"""
import os, random, subprocess, sys
repo, seed = sys.argv[1:3]
rnd = random.Random(seed)
git = lambda *a: subprocess.run(['git', '-C', repo, *a], check=True, capture_output=True, text=True).stdout.strip()
n = 0
while True:
    n += 1
    for _ in range(rnd.randrange(1, 20)):
        path = os.path.join(repo, str(rnd.randrange(10)), str(rnd.randrange(60)))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as f:
            f.write(rnd.randbytes(rnd.choice([20, 3000, 60000])))
    git('add', '-A')
    git('commit', '-q', '-m', f'{seed} {n}')
    if rnd.randrange(4) == 0:
        git(*rnd.choice([('repack', '-q', '-d'), ('gc', '-q', '--prune=now'), ('pack-refs', '--all'), ('branch', f'b{seed}-{n}'),
                         ('reset', '-q', '--hard', 'HEAD')]))
    head = git('rev-parse', 'HEAD')
    fd = os.open(repo + '/../marker', os.O_WRONLY | os.O_CREAT)
    os.write(fd, head.encode())
    os.fsync(fd)
    os.close(fd)
    os.write(1, (head + '\n').encode())
"""


def git_start(vol, round_):
    repo = vol.path("repo")
    if not os.path.exists(repo):
        run("git", "init", "-q", "-b", "main", repo, env=ENV)
        git(repo, "config", "core.fsync", "none")
        git(repo, "config", "gc.auto", "0")
    client = Client(COMMITTER, args=[repo, str(round_)], env=ENV)
    client.wait_for(1)
    return client


def git_judge(vol, client):
    """The commits that were acknowledged are there; git misses nothing and works."""
    repo, acked = vol.path("repo"), client.end()
    for line in acked[-20:]:
        git(repo, "merge-base", "--is-ancestor", line, "HEAD")
    out = git(repo, "fsck", "--full", "--strict", "--no-dangling")
    assert "error" not in out and "missing" not in out, out
    # What it was in the middle of is for its user to clear away.
    for folder, _, names in os.walk(os.path.join(repo, ".git")):
        for name in names:
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))
    git(repo, "reset", "-q", "--hard")
    git(repo, "clean", "-q", "-fdx")
    assert git(repo, "status", "--porcelain") == ""
    return len(acked)


@pytest.mark.timeout(600)
def test_killed(vol):
    """After a kill, the repository is what it was at one moment, so git finds nothing to complain about, though it never synced."""
    need("git")
    rnd = random.Random(os.environ.get("HOLDFAST_SEED", "git"))
    total = 0
    for round_ in range(15 if LONG else 1):
        client = git_start(vol, round_)
        time.sleep(rnd.uniform(0.1, 3) if LONG else 1)
        vol.kill()
        client.end()
        vol.mount()
        total += git_judge(vol, client)
    assert total >= 1
    vol.umount()
    vol.fsck("-n", "-f", "--data")
