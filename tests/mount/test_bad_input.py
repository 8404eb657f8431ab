# SPDX-License-Identifier: Apache-2.0
"""Bad input: one line that names path and cause, the right exit status, and not a byte of the image changed."""
import os
import re
import stat
import struct
import subprocess

import pytest

from conftest import BUILD, FSCK, MKFS, MOUNT, Volume, run, sha256

BLOCK = 4096
MAGIC = {"super": b"HLFS", "root": b"HLFR", "node": b"HLFN", "bitmap": b"HLFB", "table": b"HLFT"}


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def reseal(block):
    """The block with a checksum that fits its contents."""
    return struct.pack("<I", crc32c(block[4:])) + block[4:]


def refused(vol, *words, status=32, argv=None):
    """The command fails as it should, and leaves everything alone."""
    exists = os.path.isfile(vol.image)
    before = sha256(vol.image) if exists else None
    done = run(*(argv or (MOUNT, vol.image, vol.dir)), check=False)
    lines = (done.stdout or "").strip().splitlines()
    assert done.returncode == status, done.stdout
    assert len(lines) == 1, done.stdout
    for word in words:
        assert word in lines[0], done.stdout
    if exists:
        assert sha256(vol.image) == before
    assert not os.path.ismount(vol.dir)


def test_missing_image(make_volume):
    v = make_volume()
    refused(v, v.image, "No such file")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * (1 << 20), b"\0" * (16 << 20), os.urandom(16 << 20)],
                         ids=["empty", "tiny", "zeros", "more zeros", "random"])
def test_not_a_volume(make_volume, content):
    v = make_volume()
    with open(v.image, "wb") as f:
        f.write(content)
    refused(v, v.image, "not a Holdfast volume")
    refused(v, v.image, "not a Holdfast volume", status=8, argv=(FSCK, v.image))


def test_another_filesystem(make_volume):
    v = make_volume()
    run("truncate", "-s", "16M", v.image)
    run("/sbin/mkfs.ext4", "-q", v.image)
    refused(v, v.image, "not a Holdfast volume")
    refused(v, v.image, "ext4", status=1, argv=(MKFS, v.image))


def test_truncated_image(unmounted):
    size = os.path.getsize(unmounted.image)
    os.truncate(unmounted.image, size - (1 << 20))
    refused(unmounted, unmounted.image)
    refused(unmounted, unmounted.image, status=8, argv=(FSCK, "-n", unmounted.image))


def edit(path, blkno, change):
    with open(path, "r+b") as f:
        f.seek(blkno * BLOCK)
        block = bytearray(f.read(BLOCK))
        change(block)
        f.seek(blkno * BLOCK)
        f.write(block)


def super_blocks(path):
    return [16, 32, os.path.getsize(path) // BLOCK - 1]


def test_wrong_magic(unmounted):
    def change(block):
        block[4:8] = b"XXXX"
        block[48:56] = b"NOTHOLDF"
    for blkno in super_blocks(unmounted.image):
        edit(unmounted.image, blkno, change)
    refused(unmounted, unmounted.image, "not a Holdfast volume")


@pytest.mark.parametrize("name,offset,options,words", [
    ("incompat", 72, [], ["incompatible features"]),
    ("ro_compat", 68, [], ["read-only"]),
    ("version", 56, [], ["version"]),
])
def test_future(unmounted, name, offset, options, words):
    """Offsets as in docs/format.md: version at 56, ro_compat at 68, incompat at 72."""
    def change(block):
        block[offset : offset + 4] = struct.pack("<I", 0x80 if name != "version" else 99)
        block[:] = reseal(bytes(block))
    for blkno in super_blocks(unmounted.image):
        edit(unmounted.image, blkno, change)
    refused(unmounted, unmounted.image, *words)
    if name == "ro_compat":
        unmounted.mount("ro")
        unmounted.umount()


def test_unknown_option(unmounted):
    refused(unmounted, "nosuchoption", status=1, argv=(MOUNT, unmounted.image, unmounted.dir, "-o", "nosuchoption"))
    run(MOUNT, "-s", unmounted.image, unmounted.dir, "-o", "nosuchoption")
    unmounted.umount()


@pytest.mark.parametrize("options", ["context=a", 'context="a,b",fscontext="c,d"', 'plain,context="a,b"'])
def test_security_context(unmounted, options):
    """The kernel has the last word on it, commas included."""
    if os.path.exists("/sys/fs/selinux"):
        pytest.skip("this kernel knows contexts")
    done = run(MOUNT, unmounted.image, unmounted.dir, "-o", options, check=False)
    assert done.returncode == 32 and len(done.stdout.splitlines()) == 1, done.stdout
    assert f"cannot be mounted on {unmounted.dir}: Invalid argument" in done.stdout


def test_usage(unmounted):
    refused(unmounted, status=1, argv=(MOUNT, unmounted.image))
    assert run(FSCK, check=False).returncode == 16
    assert run(FSCK, "--nonsense", unmounted.image, check=False).returncode == 16
    assert run(MKFS, check=False).returncode == 1


def test_missing_mount_point(unmounted):
    gone = unmounted.dir + "-gone"
    refused(unmounted, gone, "does not exist", argv=(MOUNT, unmounted.image, gone))
    refused(unmounted, unmounted.image, "directory", argv=(MOUNT, unmounted.image, unmounted.image))


def test_already_mounted(vol):
    other = vol.dir + "2"
    os.mkdir(other)
    done = run(MOUNT, vol.image, other, check=False)
    assert done.returncode == 32 and "in use" in done.stdout and vol.image in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    done = run(FSCK, "-p", vol.image, check=False)
    assert done.returncode == 8 and "in use" in done.stdout
    done = run(MKFS, "-f", vol.image, check=False)
    assert done.returncode == 1 and "is mounted" in done.stdout
    open(vol.path("still"), "w", encoding="ascii").close()
    assert os.listdir(vol.dir) == ["still"]


def test_no_permission(unmounted):
    os.chmod(unmounted.image, stat.S_IRUSR)
    refused(unmounted, unmounted.image, "Permission denied",
            argv=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", MOUNT, unmounted.image, unmounted.dir))


def blocks_of(path, magic):
    """Addresses of all blocks of a kind (the image is small)."""
    found = []
    with open(path, "rb") as f:
        data = f.read()
    for blkno in range(len(data) // BLOCK):
        if data[blkno * BLOCK + 4 : blkno * BLOCK + 8] == magic:
            found.append(blkno)
    return found


@pytest.mark.parametrize("kind", sorted(MAGIC))
def test_one_flipped_byte(make_volume, kind):
    """In one copy: fsck names it and the volume works; in all copies: an error, never a wrong answer."""
    v = make_volume("16M").mkfs()
    v.mount()
    for i in range(50):
        with open(v.path(f"f{i}"), "wb") as f:
            f.write(b"%d" % i * 2000)
    v.umount()
    pristine = open(v.image, "rb").read()
    blocks = blocks_of(v.image, MAGIC[kind])
    assert len(blocks) >= 2
    caught = 0
    for blkno in blocks:
        edit(v.image, blkno, lambda b: b.__setitem__(1000, b[1000] ^ 0x10))
        done = run(FSCK, "-n", "-f", v.image, check=False)
        assert done.returncode in (0, 4), done.stdout  # 0: an outdated version of a block that nothing names any more
        caught += done.returncode == 4
        v.mount()
        for i in range(50):
            with open(v.path(f"f{i}"), "rb") as f:
                assert f.read() == b"%d" % i * 2000
        v.umount()
        with open(v.image, "wb") as f:
            f.write(pristine)
    assert caught >= 2
    for blkno in blocks:
        edit(v.image, blkno, lambda b: b.__setitem__(1000, b[1000] ^ 0x10))
    before = sha256(v.image)
    done = run(FSCK, "-n", "-f", v.image, check=False)
    assert done.returncode in (4, 8, 12), done.stdout
    assert sha256(v.image) == before
    done = v.mount(check=False)
    if done.returncode == 0:
        # Only what was read at mount is known to be good; the rest answers with an error when it is needed.
        try:
            for i in range(50):
                with open(v.path(f"f{i}"), "rb") as f:
                    assert f.read() == b"%d" % i * 2000
        except OSError:
            pass
        run("umount", v.dir)
    else:
        assert done.returncode == 32 and len(done.stdout.strip().splitlines()) == 1, done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(make_volume, closed):
    """Who has no standard error gets no message; the image that took its number must not get it either."""
    vol = make_volume()
    foreign = vol.path("..", "foreign.img")
    run("truncate", "-s", "16M", foreign)
    run("/sbin/mkfs.ext4", "-q", foreign)
    # A journal that cannot be replayed is nothing for -p, which says so.
    run(os.path.join(BUILD, "tests", "images", "build_image"), "damaged log", vol.image)
    before = [sha256(path) for path in (foreign, vol.image)]

    def quietly(*argv):
        return run("sh", "-c", f'exec "$@" {closed}', "-", *argv, check=False).returncode

    assert quietly(MKFS, foreign) == 1
    assert quietly(FSCK, "-p", vol.image) == 4
    assert quietly(FSCK, "-p", foreign) == 8
    assert quietly(MOUNT, vol.image, vol.dir) == 32
    assert quietly(os.path.join(BUILD, "tools", "holdfast"), "scrub", vol.image) == 1
    assert [sha256(path) for path in (foreign, vol.image)] == before


def test_full_output(make_volume):
    """A result that has not arrived is none: the status says so, and a message why."""
    v = make_volume().mkfs()
    holdfast = os.path.join(BUILD, "tools", "holdfast")
    with open("/dev/full", "w", encoding="ascii") as full:
        for argv, status in (((MKFS, "-f", v.image), 1), ((MKFS, "--help"), 1), ((FSCK, "-n", "-f", v.image), 8), ((FSCK, "--help"), 8),
                             ((holdfast, "info", v.image), 1), ((holdfast, "help"), 1)):
            done = run(*argv, check=False, stdout=full, stderr=subprocess.PIPE)
            assert done.returncode == status, argv
            assert re.fullmatch(r"\S+: standard output: No space left on device\n", done.stderr), (argv, done.stderr)
    v.fsck()


def test_limit_of_file_sizes(folder):
    """ulimit -f is for files that a user makes: the programs raise it if they may, and else it is an error and no sudden death."""
    os.mkdir(os.path.join(folder, "home"))
    vol = Volume(os.path.join(folder, "home"), "32M")
    for path in (vol.folder, vol.dir):
        os.chown(path, 65534, 65534)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def limited(kind, *argv, status=0):
        done = run(*user, "sh", "-c", f'ulimit {kind} -f 1000; exec "$@"', "-", *argv, check=False)
        assert done.returncode == status, done.stdout
        return done.stdout

    try:
        assert "File too large" in limited("-S", MKFS, vol.image, "--size", "32M", status=1)
        assert not os.path.exists(vol.image)
        run(*user, MKFS, "-q", vol.image, "--size", "32M")
        mode = os.stat("/dev/fuse").st_mode
        os.chmod("/dev/fuse", 0o666)  # as udev does
        try:
            assert "ulimit -f" in limited("", MOUNT, vol.image, vol.dir, status=32)
            limited("-S", MOUNT, vol.image, vol.dir)
        finally:
            os.chmod("/dev/fuse", mode)
        run(*user, "dd", "if=/dev/zero", f"of={vol.path('f')}", "bs=1M", "count=16", "conv=fsync")
        vol.kill()
        assert "ulimit -f" in limited("", FSCK, "-p", vol.image, status=8)
        limited("-S", FSCK, "-p", vol.image, status=1)
    finally:
        vol.clean_up()
