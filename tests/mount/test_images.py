# SPDX-License-Identifier: Apache-2.0
"""Broken images, made by tests/images: fsck.holdfast names what is wrong with each, repairs it, and then finds nothing more."""
import functools
import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, FSCK, run

BUILDER = os.path.join(BUILD, "tests", "images", "build_image")


@functools.cache
def cases():
    """name -> (what a repair can do, codes to be found)"""
    lines = run(BUILDER, "LIST").stdout.splitlines()
    return {name: (mend, set(codes.split())) for name, mend, codes in (line.split("|") for line in lines)}


# Of these the findings are worth knowing, and no damage.
INFO = {"FS103", "FS114", "FS124", "FS512", "FS711", "FS712", "FS801"}


def build(vol, name):
    run(BUILDER, name, vol.image)
    return vol


def fsck(vol, *options):
    done = run(FSCK, "--json", *options, vol.image, check=False)
    out = json.loads(done.stdout[done.stdout.index("{"):])
    assert out["exit_status"] == done.returncode
    return done.returncode, out


def found(out, section="findings"):
    return {f["code"] for f in out[section]}


@pytest.fixture
def broken(make_volume):
    return lambda name: build(make_volume(), name)


@pytest.mark.parametrize("part", range(4))
def test_every_case(broken, part):
    names = sorted(cases())
    for name in names[part::4]:
        mend, codes = cases()[name]
        vol = broken(name)
        before = open(vol.image, "rb").read()
        status, out = fsck(vol, "-n", "-f", "--data")
        assert found(out) == codes, name
        assert status == (4 if codes - INFO else 0), name
        assert open(vol.image, "rb").read() == before, f"{name}: -n wrote"

        status, out = fsck(vol, "-y", "-f", "--data")
        # Without a root the newest tree on the device takes its place: which one, is told as what may have been lost.
        if mend in ("mends", "loses", "root"):
            assert not status & ~1, (name, status)
            assert any(note["lost"] for note in out.get("repairs", [])) == (mend != "mends"), name
            status, out = fsck(vol, "-n", "-f", "--data")
            assert status == 0 and not found(out) - INFO, (name, out)
        else:
            assert status & 4, name
        os.unlink(vol.image)


def test_preen_stops_where_something_would_be_lost(broken):
    vol = broken("dangling")
    before = open(vol.image, "rb").read()
    done = run(FSCK, "-p", "-f", vol.image, check=False)
    assert done.returncode == 4
    assert "lost: /dir/fifo: " in done.stdout and "run fsck.holdfast -y" in done.stdout
    assert open(vol.image, "rb").read() == before


def test_preen_mends_the_rest(broken):
    vol = broken("unreachable")
    done = run(FSCK, "-p", "-f", vol.image, check=False)
    assert done.returncode == 1
    assert "repaired: /lost+found/#" in done.stdout and "1 problem repaired, clean" in done.stdout
    assert "clean" in vol.fsck("-n", "-f", "--data")


def test_nothing_replayed_is_not_called_a_recovery_of_something(broken):
    vol = broken("superblock copy")
    done = run(FSCK, "-p", vol.image, check=False)
    assert done.returncode == 1, done.stdout
    assert "0 transactions" not in done.stdout
    assert "no transaction had to be replayed" in done.stdout and "superblock copy 1 repaired" in done.stdout
    assert "clean" in vol.fsck("-n", "-f", "--data")


def test_damage_that_was_met_is_looked_for(broken):
    """However cleanly it was unmounted: a check is due, once."""
    vol = broken("root errors")
    before = open(vol.image, "rb").read()
    status, out = fsck(vol, "-n")
    assert status == 0 and found(out) == {"FS124"} and out["full_check"] and out["mount_errors"] == 3
    assert open(vol.image, "rb").read() == before
    said = run(FSCK, "-p", vol.image).stdout
    assert "met 3 times" in said and "none is found now" in said
    status, out = fsck(vol, "-p")
    assert status == 0 and not out["full_check"] and out["mount_errors"] == 0

    # A mount forgets nothing.
    os.unlink(vol.image)
    build(vol, "root errors")
    vol.mount()
    with open(vol.path("dir", "x"), "wb") as f:
        f.write(b"x" * 10)
    vol.umount()
    assert fsck(vol, "-n")[1]["mount_errors"] == 3


def test_no_question_without_a_terminal(broken):
    vol = broken("link count")
    before = open(vol.image, "rb").read()
    done = run(FSCK, "-f", vol.image, check=False)
    assert done.returncode == 4 and "-p or -y repairs" in done.stdout
    assert open(vol.image, "rb").read() == before


def test_what_a_user_finds_afterwards(broken):
    """A leaf with names and inodes is gone; what can be had is in lost+found, and the volume works."""
    vol = broken("leaf lost")
    done = run(FSCK, "-y", "-f", vol.image, check=False)
    assert done.returncode == 1, done.stdout
    vol.mount()
    names = os.listdir(vol.path())
    assert "lost+found" in names
    assert os.stat(vol.path("lost+found")).st_mode & 0o7777 == 0o700
    for name in os.listdir(vol.path("lost+found")):
        assert name.startswith("#") and os.lstat(vol.path("lost+found", name))
    with open(vol.path("new"), "w", encoding="ascii") as f:
        f.write("works")
    vol.umount()
    assert "clean" in vol.fsck("-n", "-f", "--data")


def test_contents_survive_a_repair(broken):
    vol = broken("bitmap lost")
    assert run(FSCK, "-p", "-f", vol.image, check=False).returncode == 1
    vol.mount()
    with open(vol.path("dir", "data"), "rb") as f:
        assert f.read() == b"d" * 3 * 4096
    assert os.readlink(vol.path("dir", "sym")) == "t" * 1500
    assert os.getxattr(vol.path("dir", "attrs"), "user.big") == b"value".ljust(3000, b"\0")
    assert os.path.samefile(vol.path("dir", "attrs"), vol.path("dir", "sub", "again"))
    vol.umount()


def test_bad_contents_stay_an_error(broken):
    vol = broken("data")
    done = run(FSCK, "-y", "--data", vol.image, check=False)
    assert done.returncode == 4 and "restore these files" in done.stdout
    vol.mount()
    with pytest.raises(OSError):
        open(vol.path("dir", "data"), "rb").read()
    vol.umount()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_one_question_on_a_terminal(broken, answer):
    vol = broken("link count")
    before = open(vol.image, "rb").read()
    ours, theirs = os.openpty()
    os.write(ours, (answer + "\n").encode())
    done = run(FSCK, "-f", vol.image, check=False, stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.stdout.count("(y/N)") == 1 and "1 problem found. Repair" in done.stdout
    assert done.returncode == (1 if answer == "y" else 4)
    assert (open(vol.image, "rb").read() == before) == (answer == "n")


@pytest.mark.parametrize("name", ["link count", "torn log"])
def test_signal_instead_of_an_answer(broken, name):
    """Ctrl-C at the question: signals are held, as a repair must not be torn, but who waits for an answer waits for them too."""
    vol = broken(name)
    before = open(vol.image, "rb").read()
    ours, theirs = os.openpty()
    with subprocess.Popen([FSCK, "-f", vol.image], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        said = b""
        try:
            while b"(y/N)" not in said:
                said += os.read(p.stdout.fileno(), 1000)
            p.send_signal(signal.SIGINT)
            said += p.communicate(timeout=20)[0]
        finally:
            p.kill()
    os.close(ours)
    os.close(theirs)
    assert p.returncode == 32 and b"cancelled" in said
    assert open(vol.image, "rb").read() == before


@pytest.mark.parametrize("stream", ["stdout", "stderr", "progress"])
def test_repair_for_nobody(broken, stream):
    """Who was to read what it says has gone: the repair goes on to its end."""
    vol = broken("leaf lost")
    ours, theirs = os.pipe()
    os.close(ours)
    options = ["-C", str(theirs)] if stream == "progress" else []
    done = subprocess.run([FSCK, "-f", "-y", "-v", *options, vol.image], check=False, pass_fds=[theirs], stdin=subprocess.DEVNULL,
                          **({stream: theirs} if not options else {}))
    os.close(theirs)
    assert done.returncode == (1 | 8 if stream == "stdout" else 1)
    vol.fsck("-n", "-f")


def test_undo_of_a_repair(broken, folder):
    """What was there before comes back, byte by byte."""
    vol = broken("leaf lost")
    before = open(vol.image, "rb").read()
    undo = os.path.join(folder, "undo")
    assert run(FSCK, "-y", "-f", "--undo", undo, vol.image, check=False).returncode == 1
    assert open(vol.image, "rb").read() != before
    run(os.path.join(BUILD, "tools", "holdfast"), "undo", undo, vol.image)
    assert open(vol.image, "rb").read() == before
