# SPDX-License-Identifier: Apache-2.0
"""Volumes with a real tree lose metadata in all copies: what fsck.holdfast -y gets back, and what it says about the rest."""
import os
import re
import tempfile

import pytest

from conftest import BUILD, TOP, Volume, run, sha256, write_synced
from ondisk import Disk
from tree import differences, snapshot

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")


def fill(vol):
    """Mounted three times, with a source tree, many small files, a big one, and some removed."""
    for name in ("core", "fsck", "docs"):
        run("cp", "-a", os.path.join(TOP, name), vol.path(name))
    vol.remount()
    os.mkdir(vol.path("small"))
    for i in range(1000):
        with open(vol.path("small", f"file {i}"), "wb") as f:
            f.write(b"%d " % i * (i % 200))
    with open(vol.path("big"), "wb") as f:
        f.write(os.urandom(3 << 20))
    os.setxattr(vol.path("big"), "user.large", b"v" * 3000)
    os.symlink("t" * 2000, vol.path("link"))
    vol.remount()
    run("rm", "-r", vol.path("docs"))
    vol.umount()


@pytest.fixture(scope="module")
def original():
    """Filled once, for all tests; and what is in it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir=os.environ.get("HOLDFAST_TMP", "/var/tmp")) as folder:
        vol = Volume(folder, "64M")
        try:
            vol.mkfs().mount()
            fill(vol)
            vol.before = now(vol)
            yield vol
        finally:
            vol.clean_up()


@pytest.fixture
def used(original, make_volume):
    vol = make_volume("64M")
    run("cp", "--sparse=always", original.image, vol.image)
    vol.before = original.before
    return vol


def now(vol):
    """Looked at without writing: a clean unmount would write a new root."""
    vol.mount("ro")
    tree = snapshot(vol.dir)
    vol.umount()
    return tree


def zero_journal(disk):
    with open(disk.image, "r+b") as f:
        f.seek(disk.journal_blkno * 4096)
        f.write(bytes(disk.journal_nblocks * 4096))


def test_all_roots_lost(used):
    disk, undo = Disk(used.image), os.path.join(used.folder, "undo")
    disk.destroy(*disk.roots)
    before = sha256(used.image)
    assert used.mount(check=False).returncode != 0
    text = used.fsck("-n", expect=4)
    assert "FS113 root-lost" in text and ", no root to go by, " in text and "0 inodes" not in text
    assert "-y would search the device" in used.fsck("-p", expect=4)
    assert sha256(used.image) == before
    text = used.fsck("-y", "--undo", undo, expect=1)
    assert "lost: no root is left: the newest tree that was found" in text
    used.fsck("-n", "-f", "--data")
    assert not differences(used.before, now(used))
    run(HOLDFAST, "undo", "--force", undo, used.image)
    assert sha256(used.image) == before


def test_root_node_lost(used):
    """Its leaves are found by themselves, and the bitmaps say which ones."""
    disk = Disk(used.image)
    disk.destroy(*disk.nodes()[0].blkno)
    assert "FS302 node-lost" in used.fsck("-n", "-f", expect=4)
    used.fsck("-y", "-f", expect=1)
    used.fsck("-n", "-f", "--data")
    assert not differences(used.before, now(used))


def test_nothing_but_leaves(used):
    """No root, no inner node of any age, no bitmap, no journal: what was there is there; what was removed may be back, in lost+found."""
    disk = Disk(used.image)
    disk.destroy(*disk.roots, *disk.old_nodes(1), *disk.tables, *disk.bitmaps)
    zero_journal(disk)
    text = used.fsck("-y", "-f", expect=1)
    assert "may be out of date" in text
    used.fsck("-n", "-f", "--data")
    after = now(used)
    kept = {path: what for path, what in after[0].items() if not path.startswith("lost+found") and path != "."}
    before = {path: what for path, what in used.before[0].items() if path != "."}
    assert not differences((before, frozenset()), (kept, frozenset()))


def test_free_space_lost(used):
    """Nothing is lost with it, so -p repairs."""
    disk = Disk(used.image)
    disk.destroy(*disk.tables, *disk.bitmaps)
    used.fsck("-n", "-f", expect=4)
    assert ": lost: " not in used.fsck("-p", "-f", expect=1)
    used.fsck("-n", "-f", "--data")
    assert not differences(used.before, now(used))


def test_leaf_lost(used):
    """No older version of it is left either: only its inodes are affected, and they are named."""
    disk = Disk(used.image)
    leaves = [n for n in disk.nodes() if n.level == 0]
    # In the middle of the small files: inodes and their inline contents.
    at = next(i for i, n in enumerate(leaves) if any(val[:4] == b"700 " for _, val in n.items))
    lost = {key[0] for key, _ in leaves[at].items}
    current = {b for n in disk.nodes() for b in n.blkno}
    used.mount("ro")
    paths = {os.lstat(used.path(p)).st_ino: p for p in used.before[0]}
    used.umount()
    disk.destroy(*leaves[at].blkno, *[b for b in disk.old_nodes(0) if b not in current])
    text = used.fsck("-y", "-f", expect=1)
    assert re.search(r"FS302 node-lost: .* inodes \d+ to \d+", text)
    used.fsck("-n", "-f", "--data")
    after = now(used)
    changed = {p for p in used.before[0] if used.before[0][p] != after[0].get(p)}
    touched = {paths[ino] for ino in lost if ino in paths}
    assert changed and changed <= touched | {"small", "."}, changed - touched
    for path in changed - {"small", "."}:
        assert f"/{path}: " in text, path
    # And it works.
    used.mount()
    write_synced(used.path("small", "new"), b"works")
    used.umount()
    used.fsck()


def test_superblocks(used):
    disk = Disk(used.image)
    disk.destroy(*disk.supers[:2])
    assert "FS101 super-copy" in used.fsck("-n", "-f", expect=4)
    assert "superblock copy 0 repaired" in used.fsck("-p", "-f", expect=1)
    used.fsck()
    disk.destroy(*disk.supers)
    assert "no superblock found" in used.fsck("-y", expect=8)


def crash_with_bad_journal(vol):
    """Killed; of what is only in the journal, everything from "dir-lost" on is behind the damage."""
    vol.mount()
    for name in ("dir-before", "dir-lost", "dir-behind"):
        os.mkdir(vol.path(name))
        run("sync", "-f", vol.dir)
    vol.kill()
    disk = Disk(vol.image)
    with open(vol.image, "r+b") as f:
        f.seek(disk.journal_blkno * 4096)
        at = f.read(disk.journal_nblocks * 4096).find(b"dir-lost")
        assert at > 0
        f.seek(disk.journal_blkno * 4096 + at)
        f.write(b"DIR")
    return disk


def test_root_node_and_journal(used):
    """Neither a replay nor a cut is possible by itself; both words together let the salvage do it."""
    disk = crash_with_bad_journal(used)
    disk.destroy(*disk.nodes()[0].blkno)
    before = sha256(used.image)
    assert "-y --truncate-journal" in used.fsck("-y", "-f", expect=4)
    assert "with -y as well" in used.fsck("--truncate-journal", expect=8)
    assert sha256(used.image) == before
    assert "may be lost" in used.fsck("-y", "--truncate-journal", expect=1)
    used.fsck("-n", "-f", "--data")
    after = now(used)
    assert set(after[0]) == set(used.before[0]) | {"dir-before"}
    assert all(after[0][path] == what for path, what in used.before[0].items() if path != ".")


def test_leaf_and_pending_journal(used):
    """-p does not blame the journal for a leaf that is lost, and -y loses none of the two."""
    used.mount()
    # The leaf that the journal is about must be one that has to be read.
    with open(used.path("small", "file 700"), "ab", buffering=0) as f:
        f.write(b"more")
        os.fsync(f.fileno())
    used.kill()
    disk = Disk(used.image)
    leaf = next(n for n in disk.nodes() if n.level == 0 and any(val[:4] == b"700 " for _, val in n.items))
    disk.destroy(*leaf.blkno)
    text = used.fsck("-p", "-f", expect=4)
    assert "run fsck.holdfast -y" in text and "truncate" not in text
    used.fsck("-y", "-f", expect=1)
    used.fsck("-n", "-f", "--data")
    used.mount("ro")
    with open(used.path("small", "file 700"), "rb") as f:
        assert f.read() == b"700 " * (700 % 200) + b"more"
    used.umount()
