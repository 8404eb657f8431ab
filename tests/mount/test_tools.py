# SPDX-License-Identifier: Apache-2.0
"""The command `holdfast`: help, info, stats; and the control channel that it uses."""
import errno
import fcntl
import json
import os
import signal
import subprocess
import time

import pytest

from conftest import BUILD, MKFS, MOUNT, daemons, run, sha256, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def holdfast(*args, expect=0, **kwargs):
    done = run(HOLDFAST, *args, check=False, **kwargs)
    assert done.returncode == expect, done.stdout
    return done.stdout


def stats(path, expect=0):
    return json.loads(holdfast("stats", "--json", path, expect=expect))


# --- the command line ---

@pytest.mark.parametrize("args", [[], ["nosuch"], ["stats"], ["stats", "a", "b"], ["stats", "--nosuch", "/"],
                                  ["stats", "--interval", "0", "/"], ["stats", "--interval", "x", "/"],
                                  ["stats", "--count", "-1", "/"], ["stats", "--count", "1", "/"], ["info"], ["help", "nosuch"]])
def test_usage(args):
    text = holdfast(*args, expect=2)
    assert "holdfast help" in text or "usage:" in text


def test_help():
    text = holdfast("help")
    for verb in ("info", "scrub", "stats", "undo"):
        assert verb in text
        assert f"usage: holdfast {verb}" in holdfast("help", verb)
        assert holdfast("help", verb) == holdfast(verb, "--help")
    assert "0." in holdfast("--version")


@pytest.mark.parametrize("args", [["stats", "/nosuch"], ["stats", "/proc"], ["stats", "/etc/passwd"], ["info", "/proc"],
                                  ["info", "/nosuch"], ["info", "/etc/passwd"], ["info", "/dev/null"]])
def test_not_a_volume(args):
    text = holdfast(*args, expect=1)
    assert len(text.splitlines()) == 1 and text.startswith(f"holdfast: {args[1]}: ")


# --- info ---

def test_info_of_an_image(unmounted):
    unmounted.mkfs("-L", "my label", "-U", "01234567-89ab-cdef-0123-456789abcdef")
    before = sha256(unmounted.image)
    text = holdfast("info", unmounted.image)
    assert "01234567-89ab-cdef-0123-456789abcdef" in text and "my label" in text and "clean" in text
    info = json.loads(holdfast("info", "--json", unmounted.image))
    assert info["blocks"] * info["block_size"] == 256 << 20 and info["state"] == "clean"
    assert info["good_superblocks"] == 3 and info["inodes"] == 1
    assert sha256(unmounted.image) == before
    unmounted.mount()
    write_synced(unmounted.path("f"), b"x")
    info = json.loads(holdfast("info", "--json", unmounted.image))
    assert info["state"] == "mounted" and info["mounted_at"] == unmounted.dir
    info = json.loads(holdfast("info", "--json", unmounted.dir))
    assert info["uuid"] == "01234567-89ab-cdef-0123-456789abcdef" and info["label"] == "my label"
    assert info["state"] == "ok" and info["inodes"] == 2
    unmounted.kill()
    assert json.loads(holdfast("info", "--json", unmounted.image))["state"].startswith("not unmounted cleanly")


def damage(image, *blocks):
    with open(image, "r+b") as f:
        for b in blocks:
            f.seek(b * 4096 + 100)
            f.write(b"\xff" * 100)


def test_info_of_a_damaged_image(unmounted):
    last = os.path.getsize(unmounted.image) // 4096 - 1
    damage(unmounted.image, 16, last)
    before = sha256(unmounted.image)
    info = json.loads(holdfast("info", "--json", unmounted.image, expect=1))
    assert info["good_superblocks"] == 1 and info["state"] == "clean"
    damage(unmounted.image, 17, 18, last - 1, last - 2)
    assert "both checkpoint roots are lost" in holdfast("info", unmounted.image, expect=1)
    damage(unmounted.image, 32)
    assert "all copies of the superblock are damaged" in holdfast("info", unmounted.image, expect=1)
    assert sha256(unmounted.image) != before  # ours, above
    with open(unmounted.image, "r+b") as f:
        f.truncate(100 << 20)
    holdfast("info", unmounted.image, expect=1)


# --- stats ---

def test_stats(vol):
    before = stats(vol.dir)
    assert before["state"] == "ok" and before["reason"] == "" and before["source"] == vol.image
    assert before["transport"] == "fuseblk" and before["engine"] in ("uring", "threads")
    assert "rw" in before["options"].split(",") and "commit=5" in before["options"].split(",")
    assert abs(before["mounted_sec"] - time.time()) < 60
    write_synced(vol.path("f"), os.urandom(100 << 10))
    os.mkdir(vol.path("d"))
    after = stats(vol.path("d"))
    for group, name, least in (("files", "writes", 1), ("files", "write_bytes", 100 << 10), ("files", "fsyncs", 1),
                               ("files", "inodes", 2), ("volume", "txns", 3), ("space", "all_inodes", 2),
                               ("journal", "groups", 1), ("device", "dev_writes", 2)):
        assert after[group][name] - before[group][name] >= least, name
    assert after["space"]["blocks_free"] < before["space"]["blocks_free"]
    assert after["device"]["dev_errors"] == 0 and after["device"]["dev_queue_depth"] > 0
    assert after["journal"]["journal_size"] == 8 << 20
    # For people: every counter with its name, and any file of the mount does.
    text = holdfast("stats", vol.path("f"))
    for group in ("files", "volume", "space", "journal", "cache", "device"):
        for name in after[group]:
            assert name in text
    vol.remount("ro")
    assert stats(vol.dir)["state"] == "read-only"


def test_stats_again_and_again(vol):
    lines = holdfast("stats", "--interval", "1", "--count", "2", vol.dir).splitlines()
    assert len(lines) == 3 and "syncs/s" in lines[0] and lines[1].split()[-1] == "ok"
    watch = subprocess.Popen([HOLDFAST, "stats", "--json", "--interval", "1", vol.dir], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    assert json.loads(watch.stdout.readline())["state"] == "ok"
    # It is no obstacle to umount, and ends by itself.
    run("umount", vol.dir)
    said = watch.communicate(timeout=20)[0]
    assert watch.returncode == 1 and "not on a mounted Holdfast volume" in said
    vol.mount()
    watch = subprocess.Popen([HOLDFAST, "stats", "--interval", "100", vol.dir], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    watch.send_signal(signal.SIGINT)
    assert watch.wait(timeout=10) == 0


def test_stats_of_others(vol):
    """Another user's mount may be asked; what changes something is for the owner and root."""
    done = run(*USER, HOLDFAST, "stats", "--json", vol.dir)
    assert json.loads(done.stdout)["state"] == "ok"


def test_source_of_any_bytes(make_volume):
    """Who has mounted it has chosen the name, and whoever looks shall see one line."""
    vol = make_volume()
    vol.image = os.path.join(vol.folder, "a\nstate     ok\x1b[31m")
    vol.mkfs().mount()
    for verb in ("stats", "info"):
        text = holdfast(verb, vol.dir)
        assert "a?state     ok?[31m" in text and not set(text) & set("\x1b\r\x9b")
        assert json.loads(holdfast(verb, "--json", vol.dir))["source"] == vol.image


def test_dead_daemon(vol):
    for pid in daemons(vol.image):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not daemons(vol.image), what="death")
    for verb in ("stats", "info", "scrub"):
        assert "the daemon of this mount is dead" in holdfast(verb, vol.dir, expect=1)


def test_requests_that_do_not_exist(vol):
    """Numbers, sizes and directions at random: an error each, and the daemon lives on."""
    fd = os.open(vol.dir, os.O_RDONLY)
    try:
        # Not 6: it shuts the volume down, whatever the flags (test_ioctl.py).
        for nr in (n for n in range(256) if n != 6):
            for direction, size in ((0, 0), (1, 8), (2, 8), (2, 4096), (3, 16), (3, 8192)):
                request = direction << 30 | size << 16 | 0xe7 << 8 | nr
                try:
                    fcntl.ioctl(fd, request, bytearray(max(size, 8)), True)
                except OSError as e:
                    known = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS)
                    # Those of the scrub, which may be started by this.
                    scrub = (errno.ESRCH, errno.EBUSY, errno.ESTALE, errno.ENOENT) if nr in range(2, 6) else ()
                    assert e.errno in known + scrub, (nr, direction, size, e)
                else:
                    assert nr in range(1, 8)
    finally:
        os.close(fd)
    assert stats(vol.dir)["state"] == "ok"


def test_mount_of_an_ordinary_user(folder):
    """The owner and root ask; the mount of a user is closed to other users."""
    home = os.path.join(folder, "home")
    mnt = os.path.join(home, "mnt")
    os.makedirs(mnt)
    for path in (home, mnt):
        os.chown(path, 65534, 65534)
    image = os.path.join(home, "disk.img")
    mode = os.stat("/dev/fuse").st_mode
    os.chmod("/dev/fuse", 0o666)
    run(*USER, MKFS, "-q", image, "--size", "32M")
    try:
        run(*USER, MOUNT, image, mnt)
        asked = json.loads(run(*USER, HOLDFAST, "stats", "--json", mnt).stdout)
        assert asked["state"] == "ok" and asked["transport"] == "fuse" and asked["source"] == image
        run(*USER, "fusermount3", "-u", mnt)
        wait_for(lambda: not daemons(image), what="the daemon's end")
    finally:
        os.chmod("/dev/fuse", mode)
        run("umount", "-l", mnt, check=False)
        for pid in daemons(image):
            os.kill(pid, signal.SIGKILL)
