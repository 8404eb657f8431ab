# SPDX-License-Identifier: Apache-2.0
"""Time stamps on a mount: all of 64 bits, what moves an access time and what does not, lazytime."""
import contextlib
import ctypes
import os
import subprocess
import sys
import time

import pytest

from conftest import BUILD, MOUNT, libc, run, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")


class Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


def set_times(path, sec, nsec):
    """Both, of the path itself; os.utime() has no room for seconds of this size."""
    both = (Timespec * 2)(Timespec(sec, nsec), Timespec(sec, nsec))
    assert libc.utimensat(-100, os.fsencode(path), ctypes.byref(both), 0x100) == 0, os.strerror(ctypes.get_errno())


def times(path):
    said = run("stat", "-c", "%.9X %.9Y", path).stdout.split()
    assert said[0] == said[1]
    sec, nsec = said[0].split(".")
    return int(sec), int(nsec)


# Seconds as stat(1) prints them: of a negative number its nanoseconds count towards the future.
AGES = [(-2 ** 63, 0), (-62135596800, 0), (-2208988800, 1), (-2147483649, 999999999), (-2147483648, 0), (-1, 0), (0, 0), (0, 1),
        (2147483647, 999999999), (2147483648, 0), (4294967296, 5), (15032385535, 0), (15032385536, 0), (16725225600, 7),
        (2 ** 63 - 1, 0)]


def test_all_ages(vol):
    """Years 1, 1900, 1901, 2038, 2106, 2446, 2500 and the ends of time: no wrap, no clamp, on files, directories and symlinks."""
    os.mkdir(vol.path("d"))
    os.symlink("nowhere", vol.path("l"))
    write_synced(vol.path("f"), b"x")
    for name in "dlf":
        for i, (sec, nsec) in enumerate(AGES):
            path = vol.path(f"{name}{i}")
            os.symlink("x", path) if name == "l" else os.mkdir(path) if name == "d" else os.mknod(path)
            set_times(path, sec, nsec)
    vol.remount("noatime")
    for name in "dlf":
        for i, (sec, nsec) in enumerate(AGES):
            st = os.lstat(vol.path(f"{name}{i}"))
            if abs(sec) < 1 << 33:
                assert (st.st_atime_ns, st.st_mtime_ns) == (sec * 10 ** 9 + nsec,) * 2
            if nsec == 0 or sec >= 0:
                assert times(vol.path(f"{name}{i}")) == (sec, nsec)


def test_tools_agree(vol):
    for when in ("1901-12-13 20:45:51.500000000", "2038-01-19 03:14:08.000000001", "2446-05-10 22:38:56.000000000",
                 "9999-12-31 23:59:59.999999999", "0001-01-01 00:00:00.000000000"):
        run("touch", "-d", when + " +0000", vol.path("f"))
        assert run("stat", "-c", "%x|%y", vol.path("f"), env={"TZ": "UTC"}).stdout.strip() == f"{when} +0000|{when} +0000"
        run("cp", "-p", vol.path("f"), vol.path("g"))
        assert os.stat(vol.path("g")).st_mtime_ns == os.stat(vol.path("f")).st_mtime_ns


def read_anew(path, flags=os.O_RDONLY):
    """Not from the page cache: of that the daemon would not know."""
    fd = os.open(path, flags)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    data = os.read(fd, 100)
    os.close(fd)
    return data


def moves(path, **kwargs):
    before = os.stat(path).st_atime_ns
    read_anew(path, **kwargs)
    return os.stat(path).st_atime_ns != before


def test_relatime(vol):
    """As the kernel has it for others: not later than a change, or a day old."""
    write_synced(vol.path("f"), b"x")
    assert moves(vol.path("f")) and not moves(vol.path("f"))
    now = time.time_ns()
    for ago, due in ((86390, False), (86410, True)):
        os.utime(vol.path("f"), ns=(now - ago * 10 ** 9, now - 10 ** 15))
        # The change of times is a change, and its time is now: reading sees that once.
        assert moves(vol.path("f"))
        assert not moves(vol.path("f")), due
    os.chmod(vol.path("f"), 0o600)
    assert moves(vol.path("f")) and not moves(vol.path("f"))
    write_synced(vol.path("f"), b"y")
    assert moves(vol.path("f")) and not moves(vol.path("f"))


def test_who_wants_no_time(vol):
    vol.remount("strictatime")
    write_synced(vol.path("f"), b"x")
    assert moves(vol.path("f")) and moves(vol.path("f"))
    assert not moves(vol.path("f"), flags=os.O_RDONLY | os.O_NOATIME)
    vol.remount("strictatime,nodiratime")
    before = os.stat(vol.dir).st_atime_ns
    os.listdir(vol.dir)
    assert os.stat(vol.dir).st_atime_ns == before and moves(vol.path("f"))
    vol.remount("noatime")
    assert not moves(vol.path("f"))


LAZY = "strictatime,lazytime,commit=1"


@pytest.mark.parametrize("how", ["nothing", "fsync", "fdatasync", "sync", "change", "unmount"])
def test_lazytime(unmounted, how):
    """What is kept in memory is lost by a crash, unless one of these has written it; it is seen at once in any case."""
    unmounted.mount(LAZY)
    path = unmounted.path("f")
    write_synced(path, b"x")
    run("sync", "-f", unmounted.dir)
    before = os.stat(path).st_atime_ns
    # Open to the end: else the kernel may forget the file, and that writes the time.
    fd = os.open(path, os.O_RDWR)
    assert moves(path)
    after = os.stat(path).st_atime_ns
    if how == "fsync":
        os.fsync(fd)
    elif how == "fdatasync":
        os.fdatasync(fd)
    elif how == "sync":
        run("sync", "-f", unmounted.dir)
    elif how == "change":
        os.fchmod(fd, 0o600)
        os.fsync(fd)
    else:
        time.sleep(2.5)  # the commit timer writes what is changed, and this is not
    if how == "unmount":
        os.close(fd)
        unmounted.umount()
    else:
        unmounted.kill()
        with contextlib.suppress(OSError):
            os.close(fd)
    unmounted.mount("noatime")
    assert os.stat(path).st_atime_ns == (before if how in ("nothing", "fdatasync") else after)
    unmounted.umount()
    unmounted.fsck()


# The kernel's setting is the whole machine's, so the daemon is shown a file of ours.  $1 is what it says first, $2 what later.
PERIOD = """
set -e
printf "$1" >{folder}/period
mount --bind {folder}/period /proc/sys/vm/dirtytime_expire_seconds
{mount} {image} {dir} -o {options}
exec 9<>{dir}/f
{python} -c 'import os; os.posix_fadvise(9, 0, 0, os.POSIX_FADV_DONTNEED); os.read(9, 100)'
stat -c %.9X {dir}/f >{folder}/seen
sleep 0.5
{stats} | grep ' txns ' >{folder}/before
printf "$2" >{folder}/period
sleep $3
{stats} | grep ' txns ' >{folder}/after
read wait_for_the_crash
"""


@pytest.mark.parametrize("first,later,written", [("43200\\n", "1\\n", True), ("43200\\n", "43200\\n", False), ("", "0\\n", False)],
                         ids=["lowered", "stays", "none"])
def test_lazy_times_expire(unmounted, first, later, written):
    """By vm.dirtytime_expire_seconds, as it is now; without a number there they stay for a day."""
    unmounted.mount()
    write_synced(unmounted.path("f"), b"x")
    old = run("stat", "-c", "%.9X", unmounted.path("f")).stdout
    unmounted.umount()
    script = PERIOD.format(folder=unmounted.folder, mount=MOUNT, image=unmounted.image, dir=unmounted.dir, options=LAZY,
                           python=sys.executable, stats=f"{HOLDFAST} stats {unmounted.dir}")

    def said(name):
        with open(os.path.join(unmounted.folder, name), encoding="ascii") as f:
            return f.read()

    with subprocess.Popen(["unshare", "-m", "sh", "-c", script, "sh", first, later,
                           "3.5" if written else "2.2"], stdin=subprocess.PIPE) as shell:
        wait_for(lambda: shell.poll() is not None or os.path.exists(os.path.join(unmounted.folder, "after")) and said("after"),
                 60, "the script's end")
        unmounted.kill()
    seen = said("seen")
    assert seen != old and (said("before") != said("after")) == written
    unmounted.mount("noatime")
    assert run("stat", "-c", "%.9X", unmounted.path("f")).stdout == (seen if written else old)
    unmounted.umount()
    unmounted.fsck()


def test_flags_of_a_bind_mount(vol):
    """The kernel keeps the flags of a bind mount to itself: read-only works, as it is the kernel's; noatime has no effect."""
    write_synced(vol.path("f"), b"x")
    there = os.path.join(vol.folder, "there")
    os.mkdir(there)
    run("mount", "--bind", vol.dir, there)
    try:
        run("mount", "-o", "remount,bind,ro,noatime", there)
        with pytest.raises(OSError):
            os.mkdir(os.path.join(there, "d"))
        os.mkdir(vol.path("d"))
        assert moves(os.path.join(there, "f"))
    finally:
        run("umount", there)
