# SPDX-License-Identifier: Apache-2.0
"""Copies by rsync, tar, cp and cpio, to the mount and back, with all that each of them preserves; test_trees.py has the large trees."""
import os
import shutil
import stat

import pytest

from conftest import LONG, run
from programs import Client, need
from tree import differences, snapshot

MIB = 1 << 20


def has_acls(folder):
    """Whether ACLs can be set here; getfacl and setfacl are there."""
    probe = os.path.join(folder, "probe")
    with open(probe, "wb"):
        pass
    try:
        return run("setfacl", "-m", "u:12:r", probe, check=False).returncode == 0
    finally:
        os.unlink(probe)


@pytest.fixture
def vol(make_volume):
    """With room for what there may be under /usr/include, twice, and for an archive of it."""
    v = make_volume("2G" if LONG else "256M").mkfs()
    v.mount()
    return v


@pytest.fixture
def source(vol):  # pylint: disable=redefined-outer-name
    """A tree outside of the mount."""
    need("setfacl")
    top = os.path.join(vol.folder, "source")
    os.makedirs(os.path.join(top, "odd", "empty"))
    run("cp", "-a", "/usr/include" if LONG else "/usr/include/linux/netfilter", os.path.join(top, "include"))

    def path(name):
        return os.path.join(top, "odd", name)

    with open(path("file"), "wb") as f:
        f.write(os.urandom(300000))
    for i in range(30):
        os.link(path("file"), path(f"link{i}"))
    os.symlink("nowhere", path("dangling"))
    os.symlink("file", path("symlink"))
    os.mkfifo(path("fifo"))
    os.mknod(path("null"), 0o20666, os.makedev(1, 3))
    with open(path("sparse"), "wb") as f:
        for off in (0, 3 * MIB + 17, 20 * MIB, 39 * MIB + 4000):
            f.seek(off)
            f.write(os.urandom(9000))
        f.truncate(40 * MIB)
    os.setxattr(path("file"), "user.one", b"v" * 1000)
    os.setxattr(path("empty"), "user.dir", b"\0\1\2")
    os.setxattr(path("file"), "trusted.two", b"root alone")
    if has_acls(vol.dir) and has_acls(top):
        run("setfacl", "-m", "u:1234:rw,g:77:r", path("file"))
        run("setfacl", "-d", "-m", "u:1234:rwx", path("empty"))
        run("setfacl", "-m", "u:1234:rwx", path("empty"))
    os.chown(path("file"), 1234, 5678)
    os.chmod(path("sparse"), 0o4711)
    os.utime(path("fifo"), ns=(10**18 + 1, 10**18 + 7))
    return top


def there_and_back(vol, source, copy, forget=lambda snap: snap):
    """Copies into the mount, then, after a new mount, out of it, and compares."""
    want = forget(snapshot(source))
    copy(source, vol.path("copy"))
    assert not differences(want, forget(snapshot(vol.path("copy"))))
    vol.remount()
    assert not differences(want, forget(snapshot(vol.path("copy"))))
    back = os.path.join(vol.folder, "back")
    copy(vol.path("copy"), back)
    assert not differences(want, forget(snapshot(back)))
    for top in (vol.path("copy"), back):
        assert os.stat(os.path.join(top, "odd", "sparse")).st_blocks * 512 < MIB, top
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.timeout(600)
def test_rsync(vol, source):
    """The pass by checksums finds no difference, in either direction; nor after a copy that the daemon's death interrupted was repeated."""
    need("rsync")

    def copy(src, dst):
        # By itself it takes times of the same second for equal.
        options = ["-aHAXS", "--numeric-ids", "--delete", "--modify-window=-1"]
        run("rsync", *options, src + "/", dst)
        for one, other in ((src, dst), (dst, src)):
            assert run("rsync", *options, "-c", "-n", "--itemize-changes", one + "/", other).stdout == ""

    interrupted = Client(["rsync", "-aHAXS", "--info=NAME", source + "/", vol.path("copy")])
    interrupted.wait_for(5)
    vol.kill()
    # Its processes sometimes wait for one another for ever when all operations fail.
    interrupted.end(2)
    vol.mount()
    there_and_back(vol, source, copy)


@pytest.mark.timeout(600)
def test_tar(vol, source):
    def copy(src, dst):
        archive = os.path.join(vol.path() if dst.startswith(vol.dir) else vol.folder, "archive.tar")
        options = ["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner", "-C"]
        os.mkdir(dst)
        run("tar", *options, src, "-cf", archive, ".")
        run("tar", *options, dst, "-xpf", archive)
        run("tar", *options, dst, "-df", archive)

    there_and_back(vol, source, copy)


@pytest.mark.timeout(600)
def test_cp(vol, source):
    """With and without looking for zeros, and by what the kernel copies itself."""
    def copy(src, dst):
        run("cp", "-a", "--sparse=always", src, dst)
        odd = os.path.join(dst, "odd")
        for sparse, reflink in (("never", "never"), ("auto", "auto"), ("auto", "never"), ("always", "never")):
            run("cp", f"--sparse={sparse}", f"--reflink={reflink}", os.path.join(src, "odd", "sparse"), os.path.join(dst, "again"))
            run("cmp", os.path.join(odd, "sparse"), os.path.join(dst, "again"))
            if sparse == "never":
                assert os.stat(os.path.join(dst, "again")).st_blocks * 512 >= 40 * MIB
            elif sparse == "always":
                assert os.stat(os.path.join(dst, "again")).st_blocks * 512 < MIB
            os.unlink(os.path.join(dst, "again"))
        shutil.copystat(src, dst)

    there_and_back(vol, source, copy)


@pytest.mark.timeout(600)
def test_cpio(vol, source):
    """Through an archive and directly; it knows no extended attributes and no nanoseconds, and leaves a symlink's times alone."""
    cpio = need("cpio")

    def forget(snap):
        tree, groups = snap
        for name, have in tree.items():
            tree[name] = (*have[:5], 0 if name == "." or stat.S_ISLNK(have[0]) else have[5] // 10**9, (), have[7])
        return tree, groups
        return {name: (*have[:5], 0 if name == "." else have[5] // 10**9, (), have[7]) for name, have in tree.items()}, groups

    def copy(src, dst):
        os.mkdir(dst)
        shutil.copystat(src, dst)
        archive = os.path.join(vol.folder, "archive.cpio")
        run("bash", "-c", f"set -o pipefail; cd '{src}' && find . -mindepth 1 -depth -print0 | {cpio} -o -0 -H newc --quiet -F '{archive}'"
                          f" && cd '{dst}' && {cpio} -i -d -m --sparse --quiet -F '{archive}'")
        run("bash", "-c", f"cd '{src}' && find . -mindepth 1 -depth -print0 | {cpio} -p -0 -d -m --sparse --quiet '{dst}.directly'")
        run("diff", "-r", "--no-dereference", os.path.join(src, "include"), os.path.join(f"{dst}.directly", "include"))
        shutil.rmtree(f"{dst}.directly")

    there_and_back(vol, source, copy, forget)
