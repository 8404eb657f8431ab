# SPDX-License-Identifier: Apache-2.0
"""What a mounted daemon has given up (fs/sandbox.h), and that it ends as before without it (fs/keeper.h)."""
import ctypes
import os
import re
import signal
import struct
import subprocess
import sys

import pytest

from conftest import BUILD, FSCK, MKFS, MOUNT, SANITIZED, daemons, is_mounted, libc, run, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
WALL = 0x40000000  # a thread that is traced is not a child
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN = 1, 2, 21


def status(pid, task=None):
    """/proc/PID/status as a dictionary."""
    with open(f"/proc/{pid}/task/{task or pid}/status", encoding="ascii", errors="replace") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def keepers(image):
    """Process ids of the keepers (whose command line is the daemon's)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                argv = f.read().split(b"\0")
            s = status(pid)
        except OSError:
            continue
        if s["Name"] == "holdfast-keeper" and s["State"][0] != "Z" and os.fsencode(image) in argv:
            found.append(int(pid))
    return found


def gone(image):
    wait_for(lambda: not daemons(image) and not keepers(image), what="the end of daemon and keeper")


def deny(*rules):
    """For preexec_fn: system calls (number, second argument or None) that fail with EPERM from now on."""
    code = b""
    for nr, arg in rules:
        code += struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 3, nr)
        code += struct.pack("HBBI", 0x20, 0, 0, 24) + struct.pack("HBBI", 0x15, 0, 0 if arg is None else 1, arg or 0)
        code += struct.pack("HBBI", 0x06, 0, 0, 0x00050001)
    code += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)

    def apply():
        buf = ctypes.create_string_buffer(code, len(code))
        prog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buf)))
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, prog, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP

    return apply


def sandbox_of(path):
    """What `holdfast stats` says."""
    out = run(HOLDFAST, "stats", path).stdout
    return next(line.split(None, 1)[1].strip() for line in out.splitlines() if line.startswith("sandbox "))


@pytest.mark.parametrize("engine", ["uring", "threads"])
def test_daemon_has_given_up(unmounted, engine):
    run(MOUNT, unmounted.image, unmounted.dir, "-o", f"engine={engine}")
    for i in range(20):
        write_synced(unmounted.path(f"f{i}"), os.urandom(300000))
    (pid,) = daemons(unmounted.image)
    tasks = os.listdir(f"/proc/{pid}/task")
    assert len(tasks) >= 4
    for task in tasks:
        s = status(pid, task)
        assert s["NoNewPrivs"] == "1"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(s[name], 16) == 0, (s["Name"], name)
        # The kernel's own threads, which serve a ring, make no system calls.
        if not s["Name"].startswith("iou-"):
            assert s["Seccomp"] == "2"
    parts = sandbox_of(unmounted.dir).split(", ")
    assert {"no capabilities", "no new privileges", "seccomp"} <= set(parts)
    assert ("io_uring limits" in parts) == (engine == "uring")


def test_nothing_open_that_is_not_needed(unmounted):
    """No directory, no file but the image and a setting of the kernel's; nothing inherited."""
    mine = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(mine, True)
    try:
        run(MOUNT, unmounted.image, unmounted.dir, close_fds=False)
    finally:
        os.close(mine)
    (pid,) = daemons(unmounted.image)
    (keeper,) = keepers(unmounted.image)

    def open_files(p):
        return {os.readlink(f"/proc/{p}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{p}/fd")}

    assert open_files(pid) <= {unmounted.image, "/dev/null", "/dev/fuse", "socket", "anon_inode",
                               "/proc/sys/vm/dirtytime_expire_seconds"}
    assert open_files(keeper) == {"/dev/null", "socket", f"/proc/{pid}/status"}


TRACE = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid = int(sys.argv[1])
print(ctypes.get_errno() if libc.ptrace(0x4206, pid, None, None) < 0 else 0)  # PTRACE_SEIZE
try:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
    print(0)
except OSError as e:
    print(e.errno)
"""


@pytest.mark.skipif(SANITIZED != "", reason="leaks are looked for by tracing")
@pytest.mark.parametrize("options", ["rw", "nosandbox"])
def test_nobody_looks_in(unmounted, options):
    """Root without capabilities, who has the daemon's user id, is somebody else to it, though that has none either."""
    run(MOUNT, unmounted.image, unmounted.dir, "-o", options)
    (pid,) = daemons(unmounted.image)
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    for who, refused in ((powerless, [1, 13]), ([], [0, 0])):
        seen = [int(e) for e in run(*who, sys.executable, "-c", TRACE, pid).stdout.split()]
        # Without a sandbox it has capabilities, which say the same.
        assert seen == refused, who


@pytest.mark.skipif(SANITIZED != "", reason="leaks are looked for by tracing")
@pytest.mark.parametrize("sig", [signal.SIGABRT, signal.SIGSEGV])
def test_crash_is_dumped(folder, unmounted, sig):
    """It is no secret from the kernel's dumper once it crashes, and not before.  Of one that is, files in /proc are root's."""
    for path in (folder, unmounted.dir, unmounted.image):
        os.chown(path, 65534, 65534)
    mode = os.stat("/dev/fuse").st_mode
    os.chmod("/dev/fuse", 0o666)
    try:
        run(*USER, MOUNT, unmounted.image, unmounted.dir)
    finally:
        os.chmod("/dev/fuse", mode)
    (pid,) = daemons(unmounted.image)
    assert os.stat(f"/proc/{pid}/stat").st_uid == 0
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    assert libc.ptrace(0x4206, pid, None, None) == 0  # PTRACE_SEIZE
    try:
        assert libc.syscall(234, pid, pid, int(sig)) == 0  # tgkill
        for owner in (0, 65534):
            _, stopped = os.waitpid(pid, WALL)
            assert os.WIFSTOPPED(stopped) and os.WSTOPSIG(stopped) == sig
            assert os.stat(f"/proc/{pid}/stat").st_uid == owner
            assert libc.ptrace(7, pid, None, int(sig)) == 0  # PTRACE_CONT
        _, ended = os.waitpid(pid, WALL)
        assert os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == sig
    finally:
        libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
    gone(unmounted.image)
    run(*USER, "fusermount3", "-uz", unmounted.dir)


def test_keeper_has_what_it_needs(vol):
    (keeper,) = keepers(vol.image)
    s = status(keeper)
    assert s["NoNewPrivs"] == "1" and s["Threads"] == "1"
    assert int(s["CapEff"], 16) == int(s["CapPrm"], 16) == int(s["CapBnd"], 16) == 1 << CAP_SYS_ADMIN | 1 << CAP_DAC_READ_SEARCH
    vol.umount()
    gone(vol.image)


def test_keeper_of_a_read_only_mount(unmounted):
    """It opens the image when that is to be written, and has not got it before or after.  The daemon can still open nothing."""
    os.chown(unmounted.image, 1234, 1234)
    unmounted.mount("ro")
    (pid,) = daemons(unmounted.image)
    (keeper,) = keepers(unmounted.image)
    wanted = 1 << CAP_SYS_ADMIN | 1 << CAP_DAC_READ_SEARCH | 1 << CAP_DAC_OVERRIDE
    assert int(status(keeper)["CapEff"], 16) == int(status(keeper)["CapBnd"], 16) == wanted

    def how(p):
        """The access modes of a process's descriptors of the image."""
        modes = []
        for fd in os.listdir(f"/proc/{p}/fd"):
            if os.readlink(f"/proc/{p}/fd/{fd}") == unmounted.image:
                with open(f"/proc/{p}/fdinfo/{fd}", encoding="ascii") as f:
                    modes.append(int(re.search(r"flags:\s+(\d+)", f.read())[1], 8) & os.O_ACCMODE)
        return modes

    assert how(pid) == [os.O_RDONLY] and how(keeper) == []
    run(MOUNT, unmounted.image, unmounted.dir, "-o", "remount,rw")
    assert how(pid) == [os.O_RDWR] and how(keeper) == []
    s = status(pid)
    assert s["NoNewPrivs"] == "1" and int(s["CapEff"], 16) == 0
    os.mkdir(unmounted.path("d"))
    unmounted.umount()
    gone(unmounted.image)


def test_nosandbox(unmounted):
    unmounted.mount("nosandbox")
    (pid,) = daemons(unmounted.image)
    s = status(pid)
    assert s["NoNewPrivs"] == "0" and s["Seccomp"] == "0" and int(s["CapEff"], 16) == int(status(os.getpid())["CapEff"], 16)
    assert sandbox_of(unmounted.dir) == "off"
    os.kill(pid, signal.SIGTERM)
    gone(unmounted.image)
    assert not is_mounted(unmounted.dir) and "clean" in unmounted.fsck()


# System calls by number: x86-64 and the generic table (all that are tested on) differ in older ones only.
LANDLOCK_CREATE_RULESET, SECCOMP, IO_URING_SETUP, IO_URING_REGISTER, REGISTER_RESTRICTIONS = 444, 317, 425, 427, 11


@pytest.mark.parametrize("denied,missing,engine", [
    ([(LANDLOCK_CREATE_RULESET, None)], "Landlock", "uring"),
    ([(IO_URING_REGISTER, REGISTER_RESTRICTIONS)], "io_uring limits", "uring"),
    ([(IO_URING_SETUP, None)], "io_uring limits", "threads"),
])
def test_what_the_kernel_lacks(unmounted, denied, missing, engine):
    """A part that cannot be had is said, and the others hold."""
    with subprocess.Popen([MOUNT, "-v", unmounted.image, unmounted.dir, "-o", "foreground"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=deny(*denied)) as daemon:
        wait_for(lambda: is_mounted(unmounted.dir) or daemon.poll() is not None, what="the mount")
        write_synced(unmounted.path("f"), b"x" * 100000)
        active = sandbox_of(unmounted.dir)
        assert missing not in active and "no capabilities" in active and "seccomp" in active
        daemon.send_signal(signal.SIGTERM)
        out = daemon.communicate(timeout=30)[0]
        assert daemon.returncode == 0, out
    assert f"{engine} engine, sandbox: {active}" in out
    if missing == "Landlock":
        assert 'sandbox without "Landlock"' in out
    assert "clean" in unmounted.fsck()


# --- the end, in all ways ---

@pytest.fixture(params=["root", "user"])
def mounted(request, folder):
    """A volume mounted by root, and by somebody with no privilege: (command prefix, image, directory)."""
    home = os.path.join(folder, "home")
    mnt = os.path.join(home, "mnt")
    os.makedirs(mnt)
    prefix = []
    mode = os.stat("/dev/fuse").st_mode
    if request.param == "user":
        prefix = USER
        for path in (home, mnt):
            os.chown(path, 65534, 65534)
        # Debian's udev lets everybody open /dev/fuse; a bare container's may not.
        os.chmod("/dev/fuse", 0o666)
    image = os.path.join(home, "disk.img")
    run(*prefix, MKFS, "-q", image, "--size", "32M")
    try:
        run(*prefix, MOUNT, image, mnt)
        run(*prefix, "sh", "-c", f"echo mine > {mnt}/f")
        yield prefix, image, mnt
    finally:
        os.chmod("/dev/fuse", mode)
        run("umount", "-l", mnt, check=False)
        for pid in daemons(image):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["umount", "fusermount3", "TERM"])
def test_unmounting(mounted, how):
    prefix, image, mnt = mounted
    if how == "TERM":
        run(*prefix, "kill", "-TERM", daemons(image)[0])
    elif how == "fusermount3":
        run(*prefix, "fusermount3", "-u", mnt)
    elif prefix:
        run("umount", mnt)  # root may unmount what users have mounted
    else:
        run("umount", mnt)
    gone(image)
    assert not is_mounted(mnt)
    run(*prefix, FSCK, "-n", "-f", image)


def test_daemon_killed(vol):
    """The keeper goes with it, and leaves the mount to the next one to take away, as before."""
    (pid,) = daemons(vol.image)
    os.kill(pid, signal.SIGKILL)
    gone(vol.image)
    assert is_mounted(vol.dir)
    vol.mount()
    open(vol.path("f"), "w", encoding="ascii").close()


def test_signal_to_the_group(vol):
    """As a service manager or a terminal does: the keeper is still there to unmount."""
    (pid,) = daemons(vol.image)
    write_synced(vol.path("f"), b"x")
    os.killpg(pid, signal.SIGTERM)
    gone(vol.image)
    assert not is_mounted(vol.dir) and "clean" in vol.fsck()


def test_keeper_killed(vol):
    """Then nobody can unmount on a signal; but the volume is closed as it should be, and umount(8) takes the rest away."""
    write_synced(vol.path("f"), b"x")
    os.kill(keepers(vol.image)[0], signal.SIGKILL)
    os.kill(daemons(vol.image)[0], signal.SIGTERM)
    gone(vol.image)
    assert "clean" in vol.fsck()
    vol.mount()
    os.kill(keepers(vol.image)[0], signal.SIGKILL)
    vol.umount()
    assert not is_mounted(vol.dir) and "clean" in vol.fsck()


def test_only_its_own_mount(vol):
    """What was mounted on the directory later is not the keeper's to unmount."""
    (pid,) = daemons(vol.image)
    with open(vol.path("f"), "wb"):
        run("umount", "-l", vol.dir)
        run("mount", "-t", "tmpfs", "-o", "size=64k", "none", vol.dir)
        os.kill(pid, signal.SIGTERM)
        gone(vol.image)
        assert is_mounted(vol.dir)
        run("umount", vol.dir)
    assert "clean" in vol.fsck()
