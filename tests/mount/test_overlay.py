# SPDX-License-Identifier: Apache-2.0
"""overlayfs of the kernel over a volume: as the upper layer, as the lower one; and what containers do without it."""
import contextlib
import errno
import os
import stat

import pytest

from conftest import run
from test_operations import as_user, is_whiteout
from test_posix import error_of, read, write


def has_overlay():
    with open("/proc/filesystems", encoding="ascii") as f:
        return any(line.split()[-1] == "overlay" for line in f)


overlay = pytest.mark.skipif(not has_overlay(), reason="the kernel has no overlayfs")


@contextlib.contextmanager
def mounted(where, options):
    os.makedirs(where, exist_ok=True)
    run("mount", "-t", "overlay", "-o", options, "overlay", where)
    try:
        yield where
    finally:
        run("umount", where, check=False)


def make_lower(lower):
    """A small tree."""
    for name in ("keep", "gone", "changed", "moved"):
        write(os.path.join(lower, name), name.encode())
    for name in ("dir", "opaque", "redirected"):
        os.makedirs(os.path.join(lower, name, "sub"))
        write(os.path.join(lower, name, "file"), name.encode())
    os.symlink("keep", os.path.join(lower, "link"))


def change(top):
    """What leaves each kind of trace in an upper layer."""
    os.unlink(os.path.join(top, "gone"))
    write(os.path.join(top, "changed"), b"new contents")
    with open(os.path.join(top, "keep"), "ab") as f:
        f.write(b" and more")
    os.rename(os.path.join(top, "moved"), os.path.join(top, "dir", "moved"))
    run("rm", "-r", os.path.join(top, "opaque"))
    os.mkdir(os.path.join(top, "opaque"))
    write(os.path.join(top, "opaque", "new"), b"new")
    os.rename(os.path.join(top, "redirected"), os.path.join(top, "elsewhere"))
    write(os.path.join(top, "made"), b"made")
    os.link(os.path.join(top, "made"), os.path.join(top, "linked"))
    os.setxattr(os.path.join(top, "made"), "user.x", b"y")
    fd = os.open(top, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"nameless")
    os.close(fd)


def check(top):
    assert sorted(os.listdir(top)) == ["changed", "dir", "elsewhere", "keep", "link", "linked", "made", "opaque"]
    assert sorted(os.listdir(os.path.join(top, "dir"))) == ["file", "moved", "sub"]
    assert os.listdir(os.path.join(top, "opaque")) == ["new"]
    assert sorted(os.listdir(os.path.join(top, "elsewhere"))) == ["file", "sub"]
    for name, content in (("keep", b"keep and more"), ("changed", b"new contents"), ("dir/moved", b"moved"),
                          ("elsewhere/file", b"redirected"), ("linked", b"made"), ("opaque/new", b"new"), ("link", b"keep and more")):
        assert read(os.path.join(top, name)) == content
    assert os.getxattr(os.path.join(top, "linked"), "user.x") == b"y"
    assert error_of(os.stat, os.path.join(top, "gone")) == errno.ENOENT


@overlay
@pytest.mark.parametrize("lower_is", ["elsewhere", "the volume"])
def test_upper_layer(vol, folder, lower_is):
    lower = os.path.join(folder, "lower") if lower_is == "elsewhere" else vol.path("lower")
    os.mkdir(lower)
    make_lower(lower)
    for name in ("upper", "work"):
        os.mkdir(vol.path(name))
    options = f"lowerdir={lower},upperdir={vol.path('upper')},workdir={vol.path('work')},redirect_dir=on"
    with mounted(os.path.join(folder, "merged"), options) as top:
        change(top)
        check(top)
    # It is what overlayfs says a layer looks like, and the lower one is as it was.
    assert is_whiteout(vol.path("upper", "gone")) and is_whiteout(vol.path("upper", "moved"))
    assert os.getxattr(vol.path("upper", "opaque"), "trusted.overlay.opaque") == b"y"
    assert os.getxattr(vol.path("upper", "elsewhere"), "trusted.overlay.redirect") == b"redirected"
    assert read(os.path.join(lower, "gone")) == b"gone" and sorted(os.listdir(os.path.join(lower, "opaque"))) == ["file", "sub"]
    vol.remount()
    with mounted(os.path.join(folder, "merged"), options) as top:
        check(top)
        # But not what has two names: see DIFFERENCES FROM EXT4 in mount.holdfast(8).
        kept = ["linked", "made"]
        run("rm", "-rf", *(os.path.join(top, name) for name in os.listdir(top) if name not in kept))
        assert sorted(os.listdir(top)) == kept
    vol.umount()
    vol.fsck()


def linux():
    return tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])


@overlay
@pytest.mark.parametrize("handles", [False, True])
def test_what_was_copied_up_is_found_again(unmounted, folder, handles):
    """The upper layer has the handle of the lower file.  What the kernel gets by that has no name, and Linux since 6.16 takes it for outdated."""
    if linux() < (6, 9) and not handles:
        pytest.skip("nohandles has no effect before Linux 6.9")
    vol = unmounted
    options = "defaults" if handles else "nohandles"
    vol.mount(options)
    for name in ("lower/dir/sub", "upper", "work"):
        os.makedirs(vol.path(name))
    write(vol.path("lower", "file"), b"file")
    write(vol.path("lower", "dir", "file"), b"in dir")
    layers = f"lowerdir={vol.path('lower')},upperdir={vol.path('upper')},workdir={vol.path('work')},redirect_dir=on"
    with mounted(os.path.join(folder, "merged"), layers) as top:
        os.rename(os.path.join(top, "file"), os.path.join(top, "moved"))
        os.rename(os.path.join(top, "dir"), os.path.join(top, "other"))
    # Nothing of it is in the kernel's memory.
    vol.umount()
    vol.mount(options)
    with mounted(os.path.join(folder, "merged"), layers) as top:
        for _ in range(3):
            try:
                assert read(os.path.join(top, "moved")) == b"file"
            except OSError as e:
                assert e.errno == errno.ESTALE and handles and linux() >= (6, 16)
            assert read(os.path.join(top, "other", "file")) == b"in dir"
            assert sorted(os.listdir(os.path.join(top, "other"))) == ["file", "sub"]
    with mounted(os.path.join(folder, "merged"), layers) as top:
        os.unlink(os.path.join(top, "moved"))
        assert os.listdir(top) == ["other"]
    vol.umount()
    vol.fsck()


@overlay
def test_one_of_several_names_goes(vol, folder):
    """The overlay may lose sight of the others, as the manual says.  Nothing is lost, and with the next overlay all is there."""
    for name in ("lower", "upper", "work"):
        os.mkdir(vol.path(name))
    options = f"lowerdir={vol.path('lower')},upperdir={vol.path('upper')},workdir={vol.path('work')}"
    with mounted(os.path.join(folder, "merged"), options) as top:
        for name in ("first", "other"):
            write(os.path.join(top, name + "1"), name.encode())
            os.link(os.path.join(top, name + "1"), os.path.join(top, name + "2"))
    with mounted(os.path.join(folder, "merged"), options) as top:
        for name, gone in (("first", "first1"), ("other", "other2")):
            os.stat(os.path.join(top, name + "1"))
            os.stat(os.path.join(top, name + "2"))
            os.unlink(os.path.join(top, gone))
        assert read(os.path.join(top, "other1")) == b"other"
        try:
            assert read(os.path.join(top, "first2")) == b"first"
        except OSError as e:
            assert e.errno == errno.ESTALE
        assert sorted(os.listdir(vol.path("upper"))) == ["first2", "other1"]
    with mounted(os.path.join(folder, "merged"), options) as top:
        assert sorted(os.listdir(top)) == ["first2", "other1"]
        for name in ("first2", "other1"):
            assert read(os.path.join(top, name)) == name[:-1].encode() and os.stat(os.path.join(top, name)).st_nlink == 1


@overlay
def test_lower_layer(vol, folder):
    make_lower(vol.path())
    base = os.path.join(folder, "memory")
    os.mkdir(base)
    run("mount", "-t", "tmpfs", "tmpfs", base)
    try:
        for name in ("upper", "work"):
            os.mkdir(os.path.join(base, name))
        options = f"lowerdir={vol.dir},upperdir={base}/upper,workdir={base}/work,redirect_dir=on"
        with mounted(os.path.join(folder, "merged"), options) as top:
            change(top)
            check(top)
        assert read(vol.path("gone")) == b"gone" and read(vol.path("keep")) == b"keep"
    finally:
        run("umount", base)


def test_whiteouts_of_an_ordinary_user(vol):
    """What fuse-overlayfs and container tools leave behind: device 0/0, names that begin with .wh., attributes of their own."""
    os.chmod(vol.dir, 0o777)

    def layer():
        os.mkdir(vol.path("layer"))
        os.mknod(vol.path("layer", "gone"), stat.S_IFCHR, os.makedev(0, 0))
        assert error_of(os.mknod, vol.path("layer", "null"), stat.S_IFCHR | 0o600, os.makedev(1, 3)) == errno.EPERM
        write(vol.path("layer", ".wh.other"), b"")
        write(vol.path("layer", ".wh..wh..opq"), b"")
        os.setxattr(vol.path("layer"), "user.overlay.opaque", b"y")
        os.setxattr(vol.path("layer"), "user.fuseoverlayfs.opaque", b"y")
        assert error_of(os.setxattr, vol.path("layer"), "trusted.overlay.opaque", b"y") == errno.EPERM

    as_user(layer)
    vol.remount()
    assert is_whiteout(vol.path("layer", "gone")) and os.stat(vol.path("layer", "gone")).st_uid == 1234
    assert sorted(os.listdir(vol.path("layer"))) == [".wh..wh..opq", ".wh.other", "gone"]
    assert os.getxattr(vol.path("layer"), "user.overlay.opaque") == os.getxattr(vol.path("layer"), "user.fuseoverlayfs.opaque") == b"y"
