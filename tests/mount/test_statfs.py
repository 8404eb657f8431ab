# SPDX-License-Identifier: Apache-2.0
"""df: what is free, what can be made, and that both come back."""
import os

import pytest

from conftest import MKFS, run


@pytest.fixture
def unmounted(make_volume):
    return make_volume("64M").mkfs()


def figures(vol):
    st = os.statvfs(vol.dir)
    return st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree


def sane(vol):
    blocks, bfree, bavail, files, ffree = figures(vol)
    assert 0 <= bavail <= bfree <= blocks and 0 <= ffree <= files and files - ffree >= 1
    return blocks, bfree, bavail, files, ffree


def all_kinds(vol):
    """Some of everything that takes space."""
    for i in range(80):
        with open(vol.path(f"small{i}"), "wb") as f:
            f.write(b"x" * (i * 40))
    os.makedirs(vol.path("a", "b", "c"))
    with open(vol.path("a", "big"), "wb") as f:
        f.write(os.urandom(9 << 20))
        f.seek(100 << 20)
        f.write(b"end")
    with open(vol.path("a", "reserved"), "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 5 << 20)
    with open(vol.path("a", "holes"), "wb") as f:
        for i in range(450):
            os.pwrite(f.fileno(), b"x", i * 8192)
    for i in range(20):
        os.setxattr(vol.path("small7"), f"user.{i}", b"v" * 3000)
    os.symlink("t" * 3000, vol.path("link"))
    os.mkfifo(vol.path("fifo"))
    os.mknod(vol.path("null"), 0o20600, os.makedev(1, 3))
    os.link(vol.path("small3"), vol.path("a", "again"))


def test_everything_comes_back(unmounted):
    """After all is removed, unlinked open files included, df says exactly what it said after mkfs: at once, and after mounting anew."""
    unmounted.mount()
    fresh = figures(unmounted)
    for _ in range(2):
        all_kinds(unmounted)
        assert sane(unmounted) != fresh
        orphan = os.open(unmounted.path("a", "big"), os.O_RDONLY)
        run("rm", "-r", *(unmounted.path(n) for n in os.listdir(unmounted.dir)))
        assert sane(unmounted)[1] <= fresh[1] - (9 << 20) // 4096
        os.close(orphan)
        # Large ones are removed in the background.
        run("mount", "-i", "-o", "remount,rw", unmounted.dir)
        for _ in range(200):
            if figures(unmounted) == fresh:
                break
            run("sync", "-f", unmounted.dir)
        assert figures(unmounted) == fresh
        unmounted.umount()
        unmounted.mount()
        assert figures(unmounted) == fresh


def test_orphans_of_a_crash_come_back(unmounted):
    unmounted.mount()
    fresh = figures(unmounted)
    all_kinds(unmounted)
    held = [os.open(unmounted.path(n), os.O_RDONLY) for n in ("a/big", "a/holes", "small7")]
    run("rm", "-r", *(unmounted.path(n) for n in os.listdir(unmounted.dir)))
    run("sync", "-f", unmounted.dir)
    unmounted.kill()
    for fd in held:
        try:
            os.close(fd)
        except OSError:
            pass
    unmounted.mount()
    for _ in range(200):
        if figures(unmounted) == fresh:
            break
        run("sync", "-f", unmounted.dir)
    assert figures(unmounted) == fresh


def test_full(make_volume):
    """At the end neither blocks nor files are left, and df says so."""
    vol = make_volume("4M").mkfs()
    vol.mount()
    fresh = sane(vol)
    with pytest.raises(OSError) as e, open(vol.path("big"), "wb", buffering=0) as f:
        while True:
            assert f.write(b"x" * 65536)
    assert e.value.errno == 28
    n = 0
    with pytest.raises(OSError) as e:
        while True:
            os.mknod(vol.path(f"{n:06}"))
            n += 1
    assert e.value.errno == 28
    _, _, bavail, files, ffree = sane(vol)
    assert ffree < 512 and bavail < 64 and files - ffree == n + 2
    assert run("df", "--output=iused", vol.dir).stdout.split()[-1] == str(n + 2)
    run("rm", "-r", *(vol.path(name) for name in os.listdir(vol.dir)))
    run("sync", "-f", vol.dir)
    assert sane(vol) == fresh


def test_of_whom_and_where(unmounted):
    """The same for everybody, for every path of the mount, and on mounts of either kind."""
    unmounted.mount("plain")
    plain = figures(unmounted)
    os.mkdir(unmounted.path("d"))
    inside = os.statvfs(unmounted.path("d"))
    assert (inside.f_bsize, inside.f_frsize, inside.f_namemax) == (4096, 4096, 255)
    run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "stat", "-f", unmounted.dir)
    os.rmdir(unmounted.path("d"))
    unmounted.umount()
    unmounted.mount()
    assert figures(unmounted) == plain
    unmounted.umount()
    unmounted.mount("ro")
    assert figures(unmounted) == plain
    unmounted.umount()
    run(MKFS, "-q", "-f", unmounted.image)
    unmounted.mount()
    assert figures(unmounted) == plain
