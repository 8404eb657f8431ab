# SPDX-License-Identifier: Apache-2.0
"""What takes a capability, asked for by root without it, by somebody else with it, and by root of a namespace of users below; and what becomes of it when
nobody can tell (fs/caller.h)."""
import errno
import os
import signal
import struct
import time

import pytest

from conftest import BUILD, LONG, MKFS, MOUNT, daemons, kernel_offers_uring, run, wait_for, write_synced
from idmap import user_namespace
from test_flags import ext4, get  # pylint: disable=unused-import
from test_ioctl import EXT4_SHUTDOWN, FITRIM, HOLDFAST_SHUTDOWN, IOC_READ, IOC_WRITE, NOLOGFLUSH, SETLABEL, ioc, label, state

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
SCRUB_START = ioc(IOC_READ | IOC_WRITE, 0xe7, 2, 32)
REMOUNT = ioc(IOC_READ | IOC_WRITE, 0xe7, 7, 320)

# Beside the head, zeros change nothing: scrubbing begins, which does no harm, and of the options none is to be set.
REQUESTS = {"trim": (FITRIM, struct.pack("QQQ", 0, 1 << 40, 0)), "label": (SETLABEL, b"new".ljust(256, b"\0")), "remount": (REMOUNT, bytes(320)),
            "scrub": (SCRUB_START, bytes(32)), "shutdown as ext4": (EXT4_SHUTDOWN, bytes(4)),
            "shutdown": (HOLDFAST_SHUTDOWN, struct.pack("QIIII", 0, 0, 0, NOLOGFLUSH, 0))}
LAST = ("shutdown as ext4", "shutdown")

ROOT = []


def without(*caps):
    """Root who has not got these."""
    return ["setpriv", "--inh-caps=" + ",".join("-" + c for c in caps), "--bounding-set=" + ",".join("-" + c for c in caps)]


def user(*caps, uid=1234):
    """Somebody else, who has these and no others."""
    some = ",".join("+" + c for c in caps)
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *([f"--inh-caps=-all,{some}", f"--ambient-caps={some}"] if caps else ["--inh-caps=-all"])]


# Who has a name, for fusermount3.
OWNER = user(uid=65534)


@pytest.fixture(name="identity", scope="module")
def fixture_identity():
    """Root of a namespace in which all users have the numbers that they have outside."""
    fd = user_namespace([(0, 0, 2**32 - 1)])
    yield ["nsenter", f"--user=/proc/{os.getpid()}/fd/{fd}"]
    os.close(fd)


def ask(who, path, name):
    """The errno of one of REQUESTS, 0 for none."""
    cmd, arg = REQUESTS[name]
    code = f"""
import fcntl, os
fd = os.open({path!r}, os.O_RDONLY)
try:
    fcntl.ioctl(fd, {cmd}, bytearray({arg!r}))
except OSError as e:
    print(e.errno)
else:
    print(0)
"""
    return int(run(*who, "/usr/bin/python3", "-c", code).stdout.splitlines()[-1])


def wait_for_scrub(path):
    wait_for(lambda: "running" not in run(HOLDFAST, "scrub", "--status", path, check=False).stdout, what="the scrub's end")


def refused(who, path, names=REQUESTS):
    assert {name: ask(who, path, name) for name in names} == {name: errno.EPERM for name in names}


def allowed(who, path, names=REQUESTS):
    for name in names:
        if name not in LAST:
            assert ask(who, path, name) == 0, name
            wait_for_scrub(path)


def teller(vol):
    """The process that knows callers."""
    (pid,) = daemons(vol.image)
    return int(run("pgrep", "-P", str(pid), "-x", "holdfast-caller").stdout)


# --- privileged requests ---

@pytest.mark.parametrize("transport", ["dev", "uring"])
def test_requests(unmounted, identity, transport):
    with kernel_offers_uring(transport == "uring"):
        if unmounted.mount(f"engine=uring,transport={transport}", check=False).returncode:
            pytest.skip("no requests over io_uring here")
    for who in (without("sys_admin"), user(), user("linux_immutable", "sys_ptrace"), identity, ["unshare", "-Ur"], [*user(), "unshare", "-Ur"],
                [*identity, *user("sys_admin")]):
        refused(who, unmounted.dir)
    assert label(unmounted.dir) == "" and state(unmounted.dir)["state"] == "ok"
    for who in (ROOT, user("sys_admin"), without("sys_ptrace", "linux_immutable", "dac_override")):
        allowed(who, unmounted.dir)
    assert label(unmounted.dir) == "new"
    unmounted.umount()
    unmounted.fsck()


@pytest.mark.parametrize("name", LAST)
def test_shutdown(vol, name):
    assert ask(without("sys_admin"), vol.dir, name) == errno.EPERM and state(vol.dir)["state"] == "ok"
    assert ask(user("sys_admin"), vol.dir, name) == 0 and state(vol.dir)["state"] == "failed"


def test_as_ext4(vol, ext4, identity):
    """Trimming and the label, by everybody."""
    people = {"root": ROOT, "root without": without("sys_admin"), "root of a namespace": identity, "user": user(), "user with": user("sys_admin"),
              "user with all others": user(*(c for c in ("chown", "fowner", "linux_immutable", "sys_ptrace", "dac_override")))}
    for name in ("trim", "label"):
        said = [{p: errno.errorcode.get(ask(who, path, name), "ok") for p, who in people.items()} for path in (ext4, vol.dir)]
        assert said[0] == said[1], name
        assert said[1]["user with"] == "ok" and said[1]["root without"] == "EPERM"


def test_flags_as_ext4(vol, ext4, identity):
    """chattr: immutable and append-only take a capability, somebody else's file another one."""
    people = {"root": ROOT, "root without immutable": without("linux_immutable"), "root without fowner": without("fowner"), "root of a namespace": identity,
              "owner": user(), "owner with": user("linux_immutable"), "other": user(uid=4321), "other with fowner": user("fowner", uid=4321),
              "other with immutable": user("linux_immutable", uid=4321), "other with both": user("fowner", "linux_immutable", uid=4321)}
    for change in ("i", "a", "d", "A"):
        said = []
        for top in (ext4, vol.dir):
            path = os.path.join(top, change)
            with open(path, "wb"):
                os.chown(path, 1234, 1234)
            did = []
            for name, who in people.items():
                for sign, before in (("+", "-"), ("-", "+")):
                    run("chattr", before + change, path)
                    code = run(*who, "chattr", sign + change, path, check=False).returncode
                    did.append((name, sign, code == 0, change in get(path)))
            run("chattr", "-" + change, path)
            said.append(did)
        assert said[0] == said[1]
    assert ("owner with", "+", True, True) in said[1]


def test_setuid_stays_as_on_ext4(vol, ext4):
    """What reserves room or copies takes setuid away from root's files as well, unless he has the capability."""
    act = """
import os, sys
fd = os.open("f", os.O_RDWR)
if sys.argv[1] == "reserve":
    os.posix_fallocate(fd, 0, 9000)
else:
    os.copy_file_range(os.open("g", os.O_RDONLY), fd, 100, 0, 0)
print(oct(os.fstat(fd).st_mode & 0o7000))
"""
    for how in ("reserve", "copy"):
        said = []
        for top in (ext4, vol.dir):
            write_synced(os.path.join(top, "f"), b"x" * 100)
            write_synced(os.path.join(top, "g"), b"y" * 100)
            modes = []
            for who in (ROOT, without("fsetid"), without("sys_admin")):
                os.chmod(os.path.join(top, "f"), 0o6755)
                modes.append(run(*who, "sh", "-c", f'cd {top} && exec /usr/bin/python3 -c "$0" {how}', act).stdout.strip())
            said.append(modes)
        assert said[0] == said[1] == ["0o6000", "0o0", "0o6000"]


# --- other kinds of mounts ---

def test_users_mount(folder):
    """Its owner may do what concerns his mount, and no more than before; so may somebody with the capability, who is let in only if that was asked for."""
    image, mnt = os.path.join(folder, "disk.img"), os.path.join(folder, "mnt")
    os.mkdir(mnt)
    for path in (folder, mnt):
        os.chown(path, 65534, 65534)
    os.chmod("/dev/fuse", 0o666)  # as udev does
    run(*OWNER, MKFS, "-q", image, "--size", "32M")
    conf = os.path.join(folder, "fuse.conf")
    with open(conf, "w", encoding="ascii") as f:
        f.write("user_allow_other\n")
    # In a namespace of mounts of its own the file may say so.
    pid = run("unshare", "-m", "--propagation", "private", "sh", "-c", f"mount --bind {conf} /etc/fuse.conf; sleep 60 >/dev/null 2>&1 & echo $!").stdout.strip()
    inside = ["nsenter", "-m", "-t", pid]
    try:
        run(*inside, *OWNER, MOUNT, image, mnt, "-o", "allow_other")
        own = ("scrub", "remount")
        allowed([*inside, *OWNER], mnt, own)
        refused([*inside, *OWNER], mnt, [n for n in REQUESTS if n not in own])
        refused([*inside, *user(uid=4321)], mnt)
        refused([*inside, *without("sys_admin")], mnt)
        refused([*inside, "unshare", "-Ur"], mnt)
        allowed([*inside, *ROOT], mnt)
        run(*inside, *OWNER, "fusermount3", "-u", mnt)
        wait_for(lambda: not daemons(image), what="the daemon's end")
        run(os.path.join(BUILD, "fsck", "fsck.holdfast"), "-n", "-f", image)
    finally:
        os.kill(int(pid), signal.SIGKILL)
        for p in daemons(image):
            os.kill(p, signal.SIGKILL)


def test_made_without_the_right_to_see_namespaces(unmounted, identity):
    """Then what numbers users in another way is another namespace."""
    run(*without("sys_ptrace"), MOUNT, unmounted.image, unmounted.dir)
    with open(f"/proc/{teller(unmounted)}/status", encoding="ascii") as f:
        assert "CapEff:\t" + "0" * 16 in f.read()
    # Root sees what root has made all the same, but not what others have.
    for who in (without("sys_admin"), user(), identity, ["unshare", "-Ur"], [*user(), "unshare", "-Ur"]):
        refused(who, unmounted.dir, ("trim", "remount"))
    for who in (ROOT, user("sys_admin")):
        allowed(who, unmounted.dir, ("trim", "remount"))


def test_in_another_mount_namespace(unmounted):
    """-N: what is on /proc there says nothing, neither to who has the capability nor to who has not."""
    pid = run("unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t tmpfs none /proc; sleep 60 >/dev/null 2>&1 & echo $!").stdout.strip()
    inside = ["nsenter", "-m", "-t", pid]
    try:
        run(MOUNT, "-N", pid, unmounted.image, unmounted.dir)
        refused([*inside, *without("sys_admin")], unmounted.dir, ("trim", "remount"))
        allowed([*inside, *user("sys_admin")], unmounted.dir, ("trim",))
        run(*inside, "fstrim", unmounted.dir)
        run(*inside, "umount", unmounted.dir)
        wait_for(lambda: not daemons(unmounted.image), what="the daemon's end")
    finally:
        os.kill(int(pid), signal.SIGKILL)


# --- who tells ---

@pytest.mark.parametrize("end", ["umount", "kill"])
def test_teller(vol, end):
    """It has the one capability that it needs, and the one descriptor, and goes with the daemon."""
    pid = teller(vol)
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        s = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    assert [int(s[n], 16) for n in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0, 1 << 19, 1 << 19, 1 << 19, 0]
    assert s["NoNewPrivs"] == "1" and s["Threads"] == "1"
    files = {int(n): os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
    assert sorted(files) == [0, 1, 2, 3] and files[3].startswith("socket:") and files[0] == "/dev/null"
    os.kill(pid, signal.SIGTERM)
    allowed(ROOT, vol.dir, ("trim",))
    vol.umount() if end == "umount" else vol.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="its end")


def test_teller_killed(vol):
    """Nobody has a capability then; all else goes on."""
    os.kill(teller(vol), signal.SIGKILL)
    for _ in range(2):
        refused(ROOT, vol.dir)
    write_synced(vol.path("f"), b"x")
    os.chmod(vol.path("f"), 0o6755)
    run("chattr", "+d", vol.path("f"))
    with open(vol.path("f"), "r+b") as f:
        os.posix_fallocate(f.fileno(), 0, 9000)
    assert os.stat(vol.path("f")).st_mode & 0o7000 == 0
    vol.umount()
    vol.fsck()


@pytest.mark.skipif(not LONG, reason="slow; ./setup test --long runs it")
def test_teller_stopped(vol):
    """One request waits for a while, others do not wait then; when it goes on all is as before, and no answer is taken for another's."""
    pid = teller(vol)
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert ask(ROOT, vol.dir, "trim") == errno.EPERM
        waited = time.monotonic() - begun
        assert waited > 5
        for _ in range(5):
            refused(ROOT, vol.dir, ("trim", "label"))
        write_synced(vol.path("f"), b"x")
        assert time.monotonic() - begun - waited < waited
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: ask(ROOT, vol.dir, "trim") == 0, what="an answer")
    refused(without("sys_admin"), vol.dir, ("trim",))
    allowed(ROOT, vol.dir, ("trim", "label"))
