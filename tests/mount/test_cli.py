# SPDX-License-Identifier: Apache-2.0
"""The commands that users type: mkfs.holdfast, mount.holdfast, fsck.holdfast, umount, ./setup mount."""
import errno
import json
import os
import re
import signal
import subprocess
import time
import uuid

import pytest

from conftest import BUILD, FSCK, MKFS, MOUNT, SANITIZED, TOP, daemons, is_mounted, run, sha256, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")


def test_mkfs_creates(make_volume):
    v = make_volume()
    out = run(MKFS, v.image, "--size", "1G", "-L", "my label", "-U", "01234567-89ab-cdef-0123-456789abcdef", "--json").stdout
    info = json.loads(out)
    assert info["label"] == "my label" and info["uuid"] == "01234567-89ab-cdef-0123-456789abcdef"
    st = os.stat(v.image)
    assert st.st_size == 1 << 30
    # Sparse, but the journal region is written out: nothing else to speak of.
    journal = info["journal_size"]
    assert journal <= st.st_blocks * 512 < journal + (2 << 20)
    with open(v.image, "rb") as f:
        f.seek(0x10030)
        assert f.read(8) == b"HOLDFAST"


def test_mkfs_sizes_of_journal(make_volume):
    v = make_volume()
    run(MKFS, "-q", v.image, "--size", "64M", "-J", "size=8M")
    out = json.loads(run(MKFS, "-f", "-n", "--json", "-J", "16M", v.image).stdout)
    assert out["journal_size"] == 16 << 20
    assert run(MKFS, "-f", v.image, "-J", "1G", check=False).returncode == 1
    assert "clean" in run(FSCK, v.image).stdout


def test_mkfs_dry_run(make_volume):
    v = make_volume()
    run(MKFS, "-n", v.image, "--size", "1G")
    assert not os.path.exists(v.image)


def test_mkfs_refuses_its_own(unmounted):
    before = sha256(unmounted.image)
    done = run(MKFS, unmounted.image, check=False)
    assert done.returncode == 1 and "Holdfast" in done.stdout or "holdfast" in done.stdout
    assert sha256(unmounted.image) == before
    run(MKFS, "-q", "-f", unmounted.image)
    assert sha256(unmounted.image) != before


@pytest.mark.parametrize("args", [["--size", "1M"], ["--size", "nonsense"], ["--size", "1G", "-L", "x" * 256],
                                  ["--size", "1G", "-U", "no-uuid"], ["--size", "1G", "--nosuch"], []])
def test_mkfs_bad(make_volume, args):
    v = make_volume()
    done = run(MKFS, v.image, *args, check=False)
    assert done.returncode == 1 and done.stdout.strip()
    assert not os.path.exists(v.image)


def test_labels_are_any_bytes(make_volume):
    """A label may come from a stranger: none of it reaches the terminal as a command, or makes lines of its own."""
    v = make_volume()
    evil = "la\nbel\x1b[31m\x9b5m"
    made = run(MKFS, v.image, "--size", "8M", "-L", evil).stdout
    refused = run(MKFS, v.image, check=False).stdout
    checked = run(FSCK, "-n", "-f", "-v", v.image).stdout
    foreign = v.path("..", "foreign.img")
    run("truncate", "-s", "16M", foreign)
    run("/sbin/mkfs.ext4", "-q", "-L", evil[:14], foreign)
    other = run(MKFS, foreign, check=False).stdout
    for text, lines in ((made, 2), (refused, 1), (checked, None), (other, 1)):
        assert "la" in text and "bel" in text
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), repr(text)
        assert lines is None or len(text.splitlines()) == lines


@pytest.mark.parametrize("exists", [False, True])
def test_mkfs_is_interrupted(make_volume, exists):
    """What it made is gone, and what it enlarged is as long as it was."""
    v = make_volume()
    if exists:
        run("truncate", "-s", "1M", v.image)
    # A journal takes its time to be written.
    with subprocess.Popen([MKFS, "-q", v.image, "--size", "20G", "-J", "4G"], stdin=subprocess.DEVNULL) as p:
        wait_for(lambda: os.path.exists(v.image) and os.path.getsize(v.image) == 20 << 30, what="the size")
        p.terminate()
        assert p.wait(60) == -signal.SIGTERM
    assert os.path.exists(v.image) == exists
    assert not exists or os.path.getsize(v.image) == 1 << 20


def test_mkfs_reproducible(make_volume):
    v, w = make_volume(), make_volume()
    env = dict(os.environ, SOURCE_DATE_EPOCH="1700000000")
    for image in (v.image, w.image):
        run(MKFS, "-q", image, "--size", "16M", "-U", "01234567-89ab-cdef-0123-456789abcdef", env=env)
    assert sha256(v.image) == sha256(w.image)


def test_mkfs_a_terabyte(make_volume):
    v = make_volume()
    start = time.monotonic()
    run(MKFS, "-q", v.image, "--size", "1T", "-J", "4M")
    assert time.monotonic() - start < 30  # a hang, or a bitmap written out, not a matter of speed
    assert os.stat(v.image).st_blocks * 512 < 16 << 20
    v.mount()
    st = os.statvfs(v.dir)
    assert st.f_blocks * st.f_frsize == 1 << 40
    with open(v.path("f"), "wb") as f:
        f.write(b"x" * 100000)
    v.umount()
    v.fsck("-n", "-f")


def test_versions():
    for program in (MKFS, MOUNT, FSCK):
        assert "0." in run(program, "-V").stdout


def test_umount_leaves_it_clean(vol):
    with open(vol.path("f"), "wb") as f:
        f.write(b"x" * 100000)
    run("umount", vol.dir)
    # umount(8) has waited: the volume is clean and unlocked now, without any further waiting.
    done = run(FSCK, vol.image)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1 and "clean" in lines[0] and vol.image in lines[0]


def test_sync_reaches_the_daemon(vol):
    """sync(2) and syncfs(2) make everything durable (root's mounts are fuseblk)."""
    with open(vol.path("f"), "wb") as f:
        f.write(b"synced")
    run("sync", "-f", vol.dir)
    with open(vol.path("g"), "wb") as f:
        f.write(b"by sync(2)")
    # The machine's: that it comes here is what is looked at.  A process of its own, because somebody else's mount may keep it for ever, whatever kills it.
    machine = subprocess.Popen(["sync"])  # pylint: disable=consider-using-with
    try:
        assert machine.wait(60) == 0
    except subprocess.TimeoutExpired:
        run("sync", "-f", vol.dir)
        pytest.skip("sync(2) waits for another mount of this machine")
    vol.kill()
    vol.mount()
    assert open(vol.path("f"), "rb").read() == b"synced"
    assert open(vol.path("g"), "rb").read() == b"by sync(2)"


def test_option_sync(vol):
    vol.remount("sync,commit=300")
    with open(vol.path("f"), "wb") as f:
        f.write(b"x" * 10000)
    os.mkdir(vol.path("d"))
    os.rename(vol.path("f"), vol.path("d", "g"))
    vol.kill()
    vol.mount()
    assert open(vol.path("d", "g"), "rb").read() == b"x" * 10000


def test_read_only(vol):
    with open(vol.path("f"), "wb") as f:
        f.write(b"content")
    vol.umount()
    before = sha256(vol.image)
    vol.mount("ro")
    assert open(vol.path("f"), "rb").read() == b"content"
    with pytest.raises(OSError):
        open(vol.path("g"), "wb")
    vol.umount()
    assert sha256(vol.image) == before


def test_read_only_replays_in_memory(vol):
    write_synced(vol.path("f"), b"in the journal only")
    vol.kill()
    before = sha256(vol.image)
    vol.mount("ro")
    assert open(vol.path("f"), "rb").read() == b"in the journal only"
    vol.umount()
    vol.mount("ro,norecovery")
    assert os.listdir(vol.dir) == []
    vol.umount()
    assert sha256(vol.image) == before
    assert vol.mount("norecovery", check=False).returncode != 0
    vol.mount()
    assert open(vol.path("f"), "rb").read() == b"in the journal only"


def test_term_commits_and_unmounts(vol):
    with open(vol.path("f"), "wb") as f:
        f.write(b"before TERM")
    (pid,) = daemons(vol.image)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not daemons(vol.image), what="the daemon's end")
    assert not is_mounted(vol.dir)
    assert "clean" in run(FSCK, vol.image).stdout
    vol.mount()
    assert open(vol.path("f"), "rb").read() == b"before TERM"


@pytest.mark.parametrize("options", ["", "plain"])
def test_term_finds_the_mount(unmounted, options):
    """Wherever it is by now, also more than once; and nothing that is not ours."""
    vol = unmounted
    outer = os.path.join(vol.folder, "outer")
    there, bound, part = (os.path.join(outer, name) for name in ("there", "bound", "part"))
    for path in (outer, there, bound, part):
        os.mkdir(path)
    run(MOUNT, vol.image, there, *(["-o", options] if options else []))
    os.mkdir(os.path.join(there, "sub"))
    run("mount", "--bind", there, bound)
    run("mount", "--bind", os.path.join(there, "sub"), part)
    run("mount", "-t", "tmpfs", "above", part)
    os.rename(outer, outer + "2")
    (pid,) = daemons(vol.image)
    try:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not daemons(vol.image), what="the daemon's end")
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
            left = [line.split() for line in f if vol.folder in line]
        # What is covered by something else cannot be reached.
        assert [line[line.index("-") + 1] for line in left if not line[4].endswith("part")] == []
        assert "tmpfs" in [line[line.index("-") + 1] for line in left]
    finally:
        for name in ("part", "part", "bound", "there"):
            run("umount", "-l", os.path.join(outer + "2", name), check=False)
    assert "clean" in vol.fsck()


def test_foreground(unmounted):
    with subprocess.Popen([MOUNT, unmounted.image, unmounted.dir, "-o", "foreground"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as daemon:
        wait_for(lambda: is_mounted(unmounted.dir), what="the mount")
        open(unmounted.path("f"), "w", encoding="ascii").close()
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(timeout=30) == 0
    assert not is_mounted(unmounted.dir)


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_engines(unmounted, engine):
    run(MOUNT, unmounted.image, unmounted.dir, "-o", f"engine={engine}")
    data = os.urandom(3 << 20)
    write_synced(unmounted.path("f"), data)
    unmounted.kill()
    run(MOUNT, unmounted.image, unmounted.dir, "-o", f"engine={engine}")
    assert open(unmounted.path("f"), "rb").read() == data


def test_options_that_mount_hands_on(unmounted):
    options = "rw,noatime,user,nofail,_netdev,uhelper=x,nosuid,nodev,noexec,nosymfollow,discard,commit=1,acl,user_xattr,x-systemd.automount"
    unmounted.mount(options)
    with open("/proc/self/mountinfo", encoding="ascii", errors="replace") as f:
        line = next(x for x in f if x.split()[4] == unmounted.dir)
    for word in ("nosuid", "nodev", "noexec", "nosymfollow"):
        assert word in line.split()[5].split(",")


def test_through_mount_8(unmounted):
    """mount -t finds the helper under /sbin: what an installed Holdfast has."""
    link = "/sbin/mount.holdfast"
    if os.path.exists(link):
        pytest.skip(f"{link} is installed already")
    os.symlink(MOUNT, link)
    try:
        run("mount", "-t", "holdfast", unmounted.image, unmounted.dir)
        assert is_mounted(unmounted.dir)
        unmounted.umount()
        table = os.path.join(unmounted.folder, "fstab")
        with open(table, "w", encoding="utf-8") as f:
            f.write(f"{unmounted.image} {unmounted.dir} holdfast defaults,noatime 0 0\n")
        run("mount", "-T", table, "-a")
        assert is_mounted(unmounted.dir)
        # A second `mount -a` must not put a second mount on top.
        run("mount", "-T", table, "-a", check=False)
        with open("/proc/self/mountinfo", encoding="ascii", errors="replace") as f:
            assert sum(line.split()[4] == unmounted.dir for line in f) == 1
    finally:
        os.unlink(link)


def test_stale_mount_is_taken_away(vol):
    """After the daemon's death, mounting again just works."""
    for pid in daemons(vol.image):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not daemons(vol.image), what="death")
    vol.mount()
    open(vol.path("f"), "w", encoding="ascii").close()


def test_ordinary_user(folder):
    """A user mounts an image of their own through fusermount3, and nobody else sees into it."""
    home = os.path.join(folder, "home")
    mnt = os.path.join(home, "mnt")
    os.makedirs(mnt)
    for path in (home, mnt):
        os.chown(path, 65534, 65534)
    image = os.path.join(home, "disk.img")
    # Debian's udev lets everybody open /dev/fuse; a bare container's may not.
    mode = os.stat("/dev/fuse").st_mode
    os.chmod("/dev/fuse", 0o666)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    run(*user, MKFS, "-q", image, "--size", "32M")
    try:
        refused = run(*user, MOUNT, image, mnt, "-o", "nosymfollow", check=False)
        assert refused.returncode == 32 and "nosymfollow takes root" in refused.stdout and len(refused.stdout.splitlines()) == 1
        run(*user, MOUNT, image, mnt)
        run(*user, "sh", "-c", f"echo mine > {mnt}/f && sync -f {mnt}/f && cat {mnt}/f")
        run(*user, "fusermount3", "-u", mnt)
        wait_for(lambda: not daemons(image), what="the daemon's end")
        run(*user, FSCK, "-n", "-f", image)
    finally:
        os.chmod("/dev/fuse", mode)
        run("umount", "-l", mnt, check=False)
        for pid in daemons(image):
            os.kill(pid, signal.SIGKILL)


def test_statfs_and_label(unmounted):
    unmounted.mkfs("-L", "label", "-U", str(uuid.uuid4()))
    unmounted.mount()
    before = os.statvfs(unmounted.dir)
    with open(unmounted.path("f"), "wb") as f:
        f.write(b"x" * (10 << 20))
    after = os.statvfs(unmounted.dir)
    assert (10 << 20) <= (before.f_bfree - after.f_bfree) * before.f_frsize < (11 << 20)
    assert before.f_namemax == 255 and after.f_files - after.f_ffree >= 2


@pytest.fixture
def on_loop(unmounted):
    """The volume on a loop device, which can be made write-protected."""
    done = run("losetup", "-f", "--show", unmounted.image, check=False)
    if done.returncode:
        pytest.skip("no loop device: " + done.stdout)
    unmounted.image = done.stdout.strip()
    yield unmounted
    unmounted.clean_up()
    # The device would keep it, for whatever comes next.
    run("blockdev", "--setrw", unmounted.image, check=False)
    run("losetup", "-d", unmounted.image, check=False)


def check_read_only(vol):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        options = next(line.split()[5] for line in f if line.split()[4] == vol.dir)
    assert "ro" in options.split(",")
    with pytest.raises(OSError) as e:
        os.mkdir(vol.path("d"))
    assert e.value.errno == errno.EROFS
    assert re.search(r"^options +ro,", run(HOLDFAST, "stats", vol.dir).stdout, re.M)


def test_write_protected_device(on_loop):
    """As with mount(8) it is mounted read-only, and that is said; but not if the journal has to be replayed and nobody has asked for it."""
    vol, said = on_loop, f"mount.holdfast: {on_loop.image}: is write-protected, mounting it read-only\n"
    run("blockdev", "--setro", vol.image)
    before = sha256(vol.image)
    for options in ("", "rw", "rw,writeback,discard,sync", "norecovery"):
        assert vol.mount(options).stdout == said
        check_read_only(vol)
        vol.umount()
    assert vol.mount("ro").stdout == ""
    vol.umount()
    assert sha256(vol.image) == before

    run("blockdev", "--setrw", vol.image)
    done = vol.mount("norecovery", check=False)
    assert done.returncode == 1 and "'norecovery' needs 'ro'" in done.stdout
    vol.mount()
    write_synced(vol.path("f"), b"in the journal only")
    vol.kill()
    run("blockdev", "--setro", vol.image)
    before = sha256(vol.image)
    for options in ((), ("-o", "rw"), ("-f",)):
        done = run(MOUNT, vol.image, vol.dir, *options, check=False)
        assert done.returncode == 32 and done.stdout.count("\n") == 1, done.stdout
        assert f"{vol.image}: cannot mount it read-only unasked: it is write-protected, and its journal has to be replayed" in done.stdout
        assert not is_mounted(vol.dir)
        wait_for(lambda: not daemons(vol.image), what="the daemon's end")
    assert vol.mount("norecovery").stdout == said and os.listdir(vol.dir) == []
    vol.umount()
    assert said not in vol.mount("ro").stdout
    check_read_only(vol)
    with open(vol.path("f"), "rb") as f:
        assert f.read() == b"in the journal only"
    vol.umount()
    assert sha256(vol.image) == before


def test_tools_on_a_write_protected_device(on_loop):
    """One line, and no try; what is clean needs no writing, and who asks only looks."""
    vol = on_loop

    def refused(status, *argv):
        done = run(*argv, vol.image, check=False)
        assert done.returncode == status and f"{vol.image}: is write-protected" in done.stdout, done.stdout
        assert len(done.stdout.splitlines()) == 1, done.stdout

    def refuse_all():
        refused(1, MKFS, "-f")
        refused(1, HOLDFAST, "scrub")
        for options in (("-p", "-f"), ("-y", "-f"), ("-y", "--truncate-journal")):
            refused(8, FSCK, *options)
        run(MKFS, "-f", "-n", vol.image)

    run("blockdev", "--setro", vol.image)
    before = sha256(vol.image)
    refuse_all()
    assert "clean" in vol.fsck("-p") and "clean" in vol.fsck("-f")
    run("blockdev", "--setrw", vol.image)
    vol.mount()
    vol.kill()
    run("blockdev", "--setro", vol.image)
    after = sha256(vol.image)
    assert after != before
    refuse_all()
    refused(8, FSCK, "-p")
    assert "not unmounted cleanly, no damage found" in vol.fsck("-f")
    assert sha256(vol.image) == after


def test_write_protected_file(unmounted):
    """By its mode, for a user; by the file system that it is on, for root.  What cannot be read either is refused as ever."""
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    before = sha256(unmounted.image)
    os.chmod("/dev/fuse", 0o666)  # as udev does
    os.chmod(unmounted.image, 0o444)
    os.chown(unmounted.dir, 65534, 65534)
    done = run(*user, MOUNT, unmounted.image, unmounted.dir)
    assert "is write-protected, mounting it read-only" in done.stdout
    done = run(*user, "sh", "-c", "touch $1/f || ls -l $1", "sh", unmounted.dir)
    assert "Read-only file system" in done.stdout
    run(*user, "fusermount3", "-u", unmounted.dir)
    wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    os.chmod(unmounted.image, 0)
    done = run(*user, MOUNT, unmounted.image, unmounted.dir, check=False)
    assert done.returncode == 32 and done.stdout.endswith(f"{unmounted.image}: Permission denied\n")

    os.chmod(unmounted.image, 0o644)
    run("mount", "--bind", unmounted.image, unmounted.image)
    try:
        run("mount", "-o", "remount,bind,ro", unmounted.image)
        assert "is write-protected, mounting it read-only" in unmounted.mount().stdout
        check_read_only(unmounted)
        unmounted.umount()
    finally:
        run("umount", "-l", unmounted.image)
    assert sha256(unmounted.image) == before


# mount(8) looks for its helpers in /sbin: there they are in a mount namespace of its own.
THROUGH_MOUNT = """
set -e
mkdir {folder}/sbin
ln -s {mount} {folder}/sbin/mount.holdfast
mount --bind {folder}/sbin /usr/sbin
mount -t holdfast {image} {dir}
"""


def test_messages_through_mount(on_loop):
    """Begin as those of mount(8) do."""
    run("blockdev", "--setro", on_loop.image)
    script = THROUGH_MOUNT.format(folder=on_loop.folder, mount=MOUNT, image=on_loop.image, dir=on_loop.dir)
    out = run("unshare", "-m", "sh", "-c", script + f"umount {on_loop.dir}").stdout
    assert out == f"mount: {on_loop.image}: is write-protected, mounting it read-only\n"
    wait_for(lambda: not daemons(on_loop.image), what="the daemon's end")


def test_device_mounted_twice(on_loop):
    """One daemon, one file system, to be seen on each of the directories until it is unmounted there."""
    vol = on_loop
    others = [vol.dir + n for n in "234"]
    for path in others:
        os.mkdir(path)
    try:
        vol.mount()
        write_synced(vol.path("f"), b"one")
        run(MOUNT, vol.image, others[0])
        run(MOUNT, vol.image, others[1], "-o", "nosuid,noexec,nosymfollow")
        assert len(daemons(vol.image)) == 1
        with open(os.path.join(others[1], "f"), "ab") as f:
            f.write(b", two")
        assert open(vol.path("f"), "rb").read() == open(os.path.join(others[0], "f"), "rb").read() == b"one, two"
        shown = run("findmnt", "-rn", "-o", "TARGET,SOURCE,VFS-OPTIONS", vol.image).stdout.splitlines()
        assert [line.split()[:2] for line in shown] == [[path, vol.image] for path in [vol.dir] + others[:2]]
        assert {"nosuid", "noexec", "nosymfollow"} <= set(shown[2].split(",")) and "nosuid" not in shown[1]
        for args, why in (((others[2], "-o", "ro"), f"is mounted for writing on {vol.dir}"), ((vol.dir,), f"is mounted on {vol.dir} already"),
                          ((vol.dir + "-none",), "mount point does not exist"), ((vol.path("f"),), "mount point is not a directory")):
            done = run(MOUNT, vol.image, *args, check=False)
            assert done.returncode == 32 and done.stdout.count("\n") == 1 and why in done.stdout
        run(MOUNT, "-f", vol.image, others[2])
        assert not os.listdir(others[2])
        run("umount", vol.dir)
        write_synced(os.path.join(others[0], "g"), b"still there")
        run(MOUNT, vol.image, vol.dir)
        assert open(vol.path("g"), "rb").read() == b"still there" and len(daemons(vol.image)) == 1
        # Nobody answers any more: all of it goes, and the volume is mounted anew.
        for pid in daemons(vol.image):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not daemons(vol.image), what="the daemon's end")
        run(MOUNT, vol.image, others[2])
        assert open(os.path.join(others[2], "g"), "rb").read() == b"still there"
        assert run("findmnt", "-rn", "-o", "TARGET", vol.image).stdout.split() == [others[2]]
        run("umount", others[2])
        wait_for(lambda: not daemons(vol.image), what="the daemon's end")
        # Read-only, too.
        vol.mount("ro")
        run(MOUNT, vol.image, others[0], "-o", "ro")
        assert len(daemons(vol.image)) == 1
        done = run(MOUNT, vol.image, others[1], check=False)
        assert done.returncode == 32 and f"is mounted read-only on {vol.dir}" in done.stdout
    finally:
        for path in others + [vol.dir]:
            run("umount", "-l", path, check=False)


@pytest.mark.skipif(SANITIZED != "", reason="a sanitizer's library must come first")
def test_device_mounted_twice_and_something_over_it(on_loop):
    """Users can mount over directories that are theirs: of what they have mounted there in between root makes no mount without nosuid."""
    vol, other = on_loop, on_loop.dir + "2"
    os.mkdir(other)
    try:
        vol.mount()
        env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, "tests", "mount", "libmount_over.so"))
        done = run(MOUNT, vol.image, other, check=False, env=env)
        assert done.returncode == 32 and "cannot be on" in done.stdout and not is_mounted(other)
        # Which is seen before, too.
        assert run(MOUNT, vol.image, other, check=False).returncode == 32 and not is_mounted(other)
        run("umount", vol.dir)
        run(MOUNT, vol.image, other)
        assert is_mounted(other) and len(daemons(vol.image)) == 1
    finally:
        for path in (other, vol.dir, vol.dir):
            run("umount", "-l", path, check=False)


def test_loop_device_with_4k_sectors(unmounted):
    done = run("losetup", "-f", "--show", "-b", "4096", unmounted.image, check=False)
    if done.returncode:
        pytest.skip("no loop device: " + done.stdout)
    loop = done.stdout.strip()
    try:
        run(MOUNT, loop, unmounted.dir)
        write_synced(unmounted.path("f"), b"x" * 5000)
        # The image and its loop device are the same volume: one mount.
        other = unmounted.dir + "2"
        os.mkdir(other)
        second = run(MOUNT, unmounted.image, other, check=False)
        assert second.returncode == 32 and "in use" in second.stdout
        run("umount", unmounted.dir)
        wait_for(lambda: not daemons(loop), what="the daemon's end")
        run(MOUNT, loop, unmounted.dir)
        assert open(unmounted.path("f"), "rb").read() == b"x" * 5000
        run("umount", unmounted.dir)
        wait_for(lambda: not daemons(loop), what="the daemon's end")
    finally:
        run("umount", "-l", unmounted.dir, check=False)
        for pid in daemons(loop):
            os.kill(pid, signal.SIGKILL)
        run("losetup", "-d", loop, check=False)


def test_setup_mount(folder):
    """./setup mount IMAGE DIR formats what does not exist, and never what holds something."""
    image, mnt = os.path.join(folder, "disk.img"), os.path.join(folder, "mnt")
    try:
        run(os.path.join(TOP, "setup"), "mount", image, mnt, timeout=170)
        assert is_mounted(mnt)
        with open(os.path.join(mnt, "f"), "wb") as f:
            f.write(b"kept")
        run("umount", mnt)
        wait_for(lambda: not daemons(image), what="the daemon's end")
        run(os.path.join(TOP, "setup"), "mount", image, mnt)
        assert open(os.path.join(mnt, "f"), "rb").read() == b"kept"
        run("umount", mnt)
        wait_for(lambda: not daemons(image), what="the daemon's end")
        data = os.path.join(folder, "data")
        with open(data, "wb") as f:
            f.write(b"precious" * 4000000)
        before = sha256(data)
        assert run(os.path.join(TOP, "setup"), "mount", data, mnt, check=False).returncode != 0
        assert sha256(data) == before
    finally:
        run("umount", "-l", mnt, check=False)


@pytest.mark.parametrize("options,shrinks", [("discard", True), ("nodiscard", False)])
def test_discard_gives_the_space_back(unmounted, options, shrinks):
    """With -o discard the image file loses the blocks of what was removed."""
    unmounted.mount(options)
    write_synced(unmounted.path("f"), os.urandom(64 << 20))
    full = os.stat(unmounted.image).st_blocks
    os.unlink(unmounted.path("f"))
    unmounted.umount()
    # Background removal may need the next mount to finish, and its blocks a checkpoint.
    unmounted.mount(options)
    unmounted.umount()
    assert (os.stat(unmounted.image).st_blocks < full - (60 << 11)) == shrinks
    unmounted.fsck()
