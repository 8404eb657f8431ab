# SPDX-License-Identifier: Apache-2.0
"""Real trees go in and come out as they were."""
import os
import shutil

import pytest

from conftest import BUILD, LONG, TOP, run
from tree import differences, snapshot


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tree with everything that a copy must preserve, built from what every machine has."""
    top = tmp_path_factory.mktemp("source")
    for name, folder, part in (("include", "/usr/include", 100), ("doc", "/usr/share/doc", 150)):
        os.mkdir(top / name)
        run("cp", "-a", *[os.path.join(folder, n) for n in sorted(os.listdir(folder))[:None if LONG else part]], top / name)
    os.mkdir(top / "project")
    run("cp", "-a", *[os.path.join(TOP, d) for d in ("core", "journal", "fs", "mkfs", "fsck", "tests")], top / "project")
    run("cp", "-a", os.path.join(BUILD, "fs"), top / "project" / "build")
    odd = top / "odd"
    odd.mkdir()
    (odd / "file").write_bytes(b"x" * 5000)
    for i in range(20):
        os.link(odd / "file", odd / f"link{i}")
    os.symlink("a" * 4000, odd / "long symlink")
    os.symlink("nowhere", odd / "dangling")
    os.mkfifo(odd / "fifo")
    os.mknod(odd / "null", 0o20666, os.makedev(1, 3))
    (odd / ("n" * 255)).write_bytes(b"")
    (odd / "bytes \udcff\udc80 in names\n").write_bytes(b"1")
    os.setxattr(odd / "file", "user.small", b"v")
    os.setxattr(odd / "file", "user.large", os.urandom(2000))
    os.chown(odd / "file", 1234, 5678)
    os.chmod(odd / "link1", 0o4755)
    (odd / "sticky").mkdir(mode=0o755)
    os.chmod(odd / "sticky", 0o1777)
    os.utime(odd / "fifo", ns=(-10**18, -2 * 10**18 + 7))
    with open(odd / "sparse", "wb") as f:
        f.seek(1 << 40)
        f.write(b"end")
    yield top
    shutil.rmtree(top, ignore_errors=True)


def copies(vol, source, copy):
    want = snapshot(source)
    copy(source, vol.path("copy"))

    def check(when):
        have = snapshot(vol.path("copy"))
        assert not differences(want, have), when

    check("after the copy")
    assert os.stat(vol.path("copy", "odd", "sparse")).st_blocks <= 16
    vol.umount()
    assert "clean" in vol.fsck("-n", "-f", "--data")
    vol.mount()
    check("after unmount, fsck and mount")


@pytest.fixture
def large(make_volume):
    v = make_volume("2G").mkfs()
    v.mount()
    return v


@pytest.mark.timeout(400)
def test_cp(large, source):
    def copy(src, dst):
        run("cp", "-a", "--sparse=always", src, dst, timeout=200)
    copies(large, source, copy)


@pytest.mark.timeout(400)
def test_tar(large, source):
    def copy(src, dst):
        os.mkdir(dst)
        tar = f"tar -C '{src}' --sparse --xattrs --xattrs-include='*' -cf - ."
        run("bash", "-c", f"set -o pipefail; {tar} | tar -C '{dst}' --xattrs --xattrs-include='*' -xpf - --numeric-owner",
            timeout=200)
    copies(large, source, copy)
