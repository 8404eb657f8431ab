# SPDX-License-Identifier: Apache-2.0
"""Mounts in namespaces: of mounts, of users; and whom a mount lets in."""
import errno
import os
import signal

import pytest

from conftest import FSCK, MKFS, MOUNT, daemons, is_mounted, run, wait_for, write_synced

USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def home(folder):
    """A place of an ordinary user's, with an image and a directory."""
    path = os.path.join(folder, "home")
    os.makedirs(os.path.join(path, "mnt"))
    for p in (path, os.path.join(path, "mnt")):
        os.chown(p, 65534, 65534)
    os.chmod("/dev/fuse", 0o666)  # as udev does
    image = os.path.join(path, "disk.img")
    run(*USER, MKFS, "-q", image, "--size", "32M")
    yield path
    run("umount", "-l", os.path.join(path, "mnt"), check=False)
    for pid in daemons(image):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not daemons(image), what="death")


def test_namespace_that_dies(vol):
    """A namespace that has a copy of the mount comes and goes; the mount is where it was made, and goes there."""
    write_synced(vol.path("f"), b"outside")
    run("unshare", "-m", "sh", "-c", f"echo inside > {vol.dir}/g && umount {vol.dir} && ! [ -e {vol.dir}/f ]")
    with open(vol.path("g"), "rb") as f:
        assert f.read() == b"inside\n"
    assert len(daemons(vol.image)) == 1
    vol.umount()
    vol.fsck()


def test_mounted_in_a_namespace(unmounted):
    """Nobody else sees it; the daemon keeps the namespace, and TERM ends both."""
    run("unshare", "-m", "--propagation", "private", "sh", "-c",
        f"{MOUNT} {unmounted.image} {unmounted.dir} && echo inside > {unmounted.dir}/f")
    assert not is_mounted(unmounted.dir) and not os.listdir(unmounted.dir)
    (pid,) = daemons(unmounted.image)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    assert "clean" in unmounted.fsck()
    unmounted.mount()
    with open(unmounted.path("f"), "rb") as f:
        assert f.read() == b"inside\n"


def test_into_a_namespace(unmounted):
    """-N mounts in the namespace of another process."""
    with open("/proc/self/ns/mnt", "rb"):
        pid = run("unshare", "-m", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!").stdout.strip()
    try:
        run(MOUNT, "-N", pid, unmounted.image, unmounted.dir)
        assert not is_mounted(unmounted.dir)
        run("nsenter", "-m", "-t", pid, "sh", "-c", f"touch {unmounted.dir}/f && umount {unmounted.dir}")
        wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
        assert "clean" in unmounted.fsck()
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_user_namespace(home):
    """Root of a namespace of users mounts without fusermount3, remounts, and unmounts; ids are those of the namespace."""
    image, mnt = os.path.join(home, "disk.img"), os.path.join(home, "mnt")
    # Formatted inside as well: ids on the volume are those that its namespace knows, for mkfs as for the mount.
    script = f"""set -e
{MKFS} -q -f {image}
{MOUNT} {image} {mnt}
echo mine > {mnt}/f; chown 0:0 {mnt}/f; chmod 4755 {mnt}/f
stat -c %u:%g {mnt}/f
{MOUNT} {image} {mnt} -o remount,ro
! touch {mnt}/g 2>/dev/null
{MOUNT} {image} {mnt} -o remount,rw
touch {mnt}/g
umount {mnt}"""
    done = run(*USER, "unshare", "-Urm", "sh", "-c", script, check=False)
    if "unshare" in done.stdout and done.returncode:
        pytest.skip("no namespaces for users: " + done.stdout)
    assert done.returncode == 0 and "0:0" in done.stdout, done.stdout
    wait_for(lambda: not daemons(image), what="the daemon's end")
    assert "clean" in run(FSCK, "-n", "-f", image).stdout
    # On disk they are the ids that the namespace knew.
    run(MOUNT, image, mnt)
    assert os.stat(os.path.join(mnt, "f")).st_uid == 0
    run("umount", mnt)


def test_whom_it_lets_in(home):
    """A user's mount is the user's own, not even root's; allow_other takes the administrator's word in /etc/fuse.conf."""
    image, mnt = os.path.join(home, "disk.img"), os.path.join(home, "mnt")
    run(*USER, MOUNT, image, mnt)
    run(*USER, "sh", "-c", f"echo mine > {mnt}/f")
    with pytest.raises(OSError) as e:
        os.listdir(mnt)
    assert e.value.errno == errno.EACCES
    run(*USER, "fusermount3", "-u", mnt)
    wait_for(lambda: not daemons(image), what="the daemon's end")
    with open("/etc/fuse.conf", encoding="utf-8") as f:
        allowed = any(line.strip() == "user_allow_other" for line in f)
    done = run(*USER, MOUNT, image, mnt, "-o", "allow_other", check=False)
    if allowed:
        assert done.returncode == 0 and os.listdir(mnt)
    else:
        assert done.returncode == 32 and "user_allow_other" in done.stdout and not daemons(image)
        # In a namespace of mounts of its own the file may say so.
        conf = os.path.join(home, "fuse.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write("user_allow_other\n")
        script = (f"mount --bind {conf} /etc/fuse.conf && {' '.join(USER)} {MOUNT} {image} {mnt} -o allow_other && cat {mnt}/f && "
                  f"umount {mnt}")
        assert "mine" in run("unshare", "-m", "--propagation", "private", "sh", "-c", script).stdout


def test_permissions_are_the_kernels(vol):
    """Root's mounts let everybody in, as far as modes say."""
    write_synced(vol.path("secret"), b"x")
    os.chmod(vol.path("secret"), 0o600)
    write_synced(vol.path("public"), b"y")
    os.chmod(vol.path("public"), 0o644)
    assert run(*USER, "cat", vol.path("public")).stdout == "y"
    assert "Permission denied" in run(*USER, "cat", vol.path("secret"), check=False).stdout
    assert run(*USER, "touch", vol.path("new"), check=False).returncode != 0


def test_bind_mounts(vol):
    """The same files at two places; the one that was there first may go first."""
    there = os.path.join(vol.folder, "there")
    os.mkdir(there)
    os.mkdir(vol.path("sub"))
    run("mount", "--bind", vol.path("sub"), there)
    try:
        write_synced(os.path.join(there, "f"), b"x")
        assert os.path.exists(vol.path("sub", "f"))
        run("umount", vol.dir)
        write_synced(os.path.join(there, "g"), b"y")
        assert len(daemons(vol.image)) == 1
    finally:
        run("umount", there)
    wait_for(lambda: not daemons(vol.image), what="the daemon's end")
    assert "clean" in vol.fsck()


def test_options_of_fstab(unmounted):
    """Those that mean something to mount(8) or systemd only."""
    unmounted.mount("defaults,noauto,nofail,_netdev,x-systemd.automount,comment=none,user,exec")
    run("cp", "/bin/true", unmounted.path("true"))
    run(unmounted.path("true"))
