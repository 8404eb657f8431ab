# SPDX-License-Identifier: Apache-2.0
"""holdfast scrub: on mounts whose image is damaged behind their back, under load, and on images."""
import json
import os
import random
import signal
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD, MKFS, MOUNT, daemons, run, sha256, wait_for, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")
USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
BLOCK = 4096


def holdfast(*args, expect=0):
    done = run(HOLDFAST, *args, check=False)
    assert expect is None or done.returncode == expect, done.stdout
    return done.stdout


def scrub(path, *options, expect=0):
    return json.loads(holdfast("scrub", "--json", *options, path, expect=expect))


def fill(vol, files=300):
    """A tree of several levels on the volume, all of it in a checkpoint."""
    for d in range(3):
        os.makedirs(vol.path(f"d{d}", "e"))
        for i in range(files // 3):
            with open(vol.path(f"d{d}", "e", f"a name that is not too short, number {i}"), "wb") as f:
                f.write(os.urandom(random.choice((10, 900, 5000, 70000))))
    write_synced(vol.path("large"), os.urandom(5 << 20))
    vol.remount()


def blocks_of(image, magic):
    """(block, copy) of everything on an image that has this magic and its own address."""
    with open(image, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        for b in range(size // BLOCK):
            head = os.pread(f.fileno(), 24, b * BLOCK)
            if head[4:8] == magic:
                at = struct.unpack_from("<QQ", head, 8)
                if b in at:
                    yield b, at.index(b)


def flip(image, blocks, at=2000):
    with open(image, "r+b") as f:
        for b in blocks:
            byte = os.pread(f.fileno(), 1, b * BLOCK + at)
            os.pwrite(f.fileno(), bytes([byte[0] ^ 4]), b * BLOCK + at)
        os.fsync(f.fileno())


def find_block(image, data):
    """The block that has these contents; behind the journal, which may have them as well."""
    info = json.loads(run(HOLDFAST, "info", "--json", image).stdout)
    with open(image, "rb") as f:
        whole = f.read()
    at = whole.index(data[:BLOCK], info["journal_first_block"] * BLOCK + info["journal_size"])
    assert at % BLOCK == 0
    return at // BLOCK


# --- nothing wrong ---

def test_clean(make_volume):
    vol = make_volume("64M").mkfs()
    vol.mount()
    fill(vol)
    got = scrub(vol.dir)
    assert got["state"] == "done" and got["findings"] == [] and got["done_bytes"] == got["total_bytes"] > 5 << 20
    assert got["data_blocks"] >= 5 << 20 >> 12 and got["meta_blocks"] > 20
    assert got["bad_copies"] == got["repaired"] == got["lost_meta"] == got["lost_data"] == 0
    text = holdfast("scrub", vol.path("d0"))
    assert len(text.splitlines()) == 1 and "nothing wrong" in text
    stats = json.loads(holdfast("stats", "--json", vol.dir))["scrub"]
    assert stats["scrub_running"] == 0 and stats["scrub_done_bytes"] == got["done_bytes"]
    vol.remount("ro")
    assert "has not been scrubbed" in holdfast("scrub", "--status", vol.dir)
    # The last unmount has placed a few changes in the meantime.
    assert abs(scrub(vol.dir)["data_blocks"] - got["data_blocks"]) < 10
    vol.umount()
    before = sha256(vol.image)
    assert scrub(vol.image, "-n")["data_blocks"] >= 5 << 20 >> 12
    assert sha256(vol.image) == before
    assert "nothing wrong" in holdfast("scrub", vol.image)
    vol.fsck("-n", "-f", "--data")


def test_not_a_volume(folder):
    path = os.path.join(folder, "f")
    with open(path, "wb") as f:
        f.write(b"x" * 10000000)
    before = sha256(path)
    for args in ([path], [folder], ["/nosuch"], ["--status", path], ["--cancel", folder], ["-n", path]):
        text = holdfast("scrub", *args, expect=1)
        assert len(text.splitlines()) == 1 and text.startswith(f"holdfast: {args[-1]}: ")
    for args in ([], ["--rate", "0", folder], ["--rate", "fast", folder], ["--start", "--cancel", folder], [folder, folder]):
        assert "holdfast help scrub" in holdfast("scrub", *args, expect=2)
    assert sha256(path) == before


# --- damage ---

MAGICS = {b"HLFS": "superblocks", b"HLFR": "roots", b"HLFT": "tables", b"HLFB": "bitmaps", b"HLFN": "nodes"}


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("mounted", [True, False])
def test_copies_are_repaired(make_volume, copy, mounted):
    """One copy of everything on the volume is bad, old and current blocks alike."""
    vol = make_volume("64M").mkfs()
    vol.mount()
    fill(vol)
    holdfast("scrub", vol.dir)
    if not mounted:
        vol.umount()
    for magic in MAGICS:
        blocks = [b for b, c in blocks_of(vol.image, magic) if magic == b"HLFS" or c == copy]
        assert blocks, MAGICS[magic]
        # A superblock names its address and 0: of the three, the first, or the other two.
        flip(vol.image, blocks if magic != b"HLFS" else blocks[:1] if copy == 0 else blocks[1:])
    where = vol.dir if mounted else vol.image
    got = scrub(where)
    # Opening an image repairs what it reads on its way.
    assert got["bad_copies"] >= (10 if mounted else 5) and got["bad_copies"] == got["repaired"]
    assert all(f["kind"] == "copy" and f["repaired"] for f in got["findings"])
    if mounted:
        text = " ".join(f["text"] for f in got["findings"])
        for what in ("superblock", "checkpoint root", "allocation table", "allocation bitmap", "tree node"):
            assert what in text
    got = scrub(where)
    assert got["findings"] == [] and got["bad_copies"] == 0
    if mounted:
        vol.umount()
    assert "FS" not in vol.fsck("-n", "-f", "--data")


def test_only_looking(make_volume):
    vol = make_volume("64M").mkfs()
    vol.mount()
    fill(vol, 30)
    vol.umount()
    flip(vol.image, [b for b, c in blocks_of(vol.image, b"HLFN") if c == 1])
    before = sha256(vol.image)
    got = scrub(vol.image, "-n", expect=1)
    assert got["bad_copies"] > 0 and got["repaired"] == 0
    assert sha256(vol.image) == before
    vol.mount("ro")
    got = scrub(vol.dir, expect=1)
    assert got["bad_copies"] > 0 and got["repaired"] == 0
    vol.umount()
    assert sha256(vol.image) == before
    vol.mount()
    assert scrub(vol.dir, "--no-repair", expect=1)["repaired"] == 0
    got = scrub(vol.dir)
    assert got["repaired"] == got["bad_copies"] > 0


def test_lost_data_is_named(make_volume):
    vol = make_volume("64M").mkfs()
    vol.mount()
    fill(vol, 30)
    deep = vol.path("d1", "x", "y", "z z")
    os.makedirs(deep)
    contents = {os.path.join(deep, "bad\nname"): os.urandom(10 * BLOCK), vol.path("top"): os.urandom(3 * BLOCK),
                vol.path("d2", "good"): os.urandom(10 * BLOCK)}
    for path, data in contents.items():
        write_synced(path, data)
    os.link(vol.path("top"), vol.path("d0", "other name"))
    vol.remount()
    bad, top, _ = contents
    flip(vol.image, [find_block(vol.image, contents[bad][n * BLOCK:]) for n in (2, 3, 7)])
    flip(vol.image, [find_block(vol.image, contents[top])])
    for _ in range(2):
        got = scrub(vol.dir, expect=1)
        found = sorted((f.get("file"), f["offset"], f["length"]) for f in got["findings"])
        assert all(f["kind"] == "data" for f in got["findings"])
        name = [f for f, _, _ in found if f in ("top", "d0/other name")]
        assert len(name) == 1
        assert [x for x in found if x[0] not in name] == [("d1/x/y/z z/bad\nname", 2 * BLOCK, 2 * BLOCK),
                                                         ("d1/x/y/z z/bad\nname", 7 * BLOCK, BLOCK)]
        assert got["lost_data"] == 4 and got["lost_files"] == 2 and got["lost_meta"] == 0
    text = holdfast("scrub", vol.dir, expect=1)
    assert "d1/x/y/z z/bad\\012name" in text and "4 blocks of data lost, in 2 files" in text
    assert len(holdfast("scrub", "--status", vol.dir, expect=1).splitlines()) == 4
    # What is good is served, what is lost is an error; once it is overwritten or gone, all is well.
    with open(vol.path("d2", "good"), "rb") as f:
        assert f.read() == contents[vol.path("d2", "good")]
    with pytest.raises(OSError):
        with open(bad, "rb") as f:
            f.read()
    write_synced(bad, b"x" * 10 * BLOCK)
    os.unlink(vol.path("top"))
    os.unlink(vol.path("d0", "other name"))
    scrub(vol.dir)
    # On an image the same names.
    vol.umount()
    flip(vol.image, [find_block(vol.image, contents[vol.path("d2", "good")])])
    (finding,) = scrub(vol.image, expect=1)["findings"]
    assert finding["file"] == "d2/good" and finding["offset"] == 0


def test_lost_metadata(make_volume):
    """Both copies of a leaf: said, with the inodes; the rest is looked at all the same."""
    vol = make_volume("64M").mkfs()
    vol.mount()
    fill(vol)
    vol.umount()
    nodes = [b for b, c in blocks_of(vol.image, b"HLFN") if c == 0]
    with open(vol.image, "rb") as f:
        leaves = [b for b in nodes if os.pread(f.fileno(), 1, b * BLOCK + 52) == b"\0"]
        heads = {b: struct.unpack("<QQ", os.pread(f.fileno(), 16, b * BLOCK + 8)) for b in leaves}
    whole = scrub(vol.image)
    # One that is current: flip until the scrub sees it.
    for b in leaves[::-1]:
        flip(vol.image, heads[b])
        got = scrub(vol.image, "-n", expect=None)
        if got["lost_meta"]:
            break
        flip(vol.image, heads[b])
    assert got["lost_meta"] == 1 and got["data_blocks"] > whole["data_blocks"] // 2
    (finding,) = [f for f in got["findings"] if f["kind"] == "metadata"]
    assert "inodes" in finding["text"]


# --- while it is in use ---

def test_under_load(make_volume):
    """Nothing is called damaged, or 'repaired', while files are made, overwritten, cut and removed."""
    vol = make_volume("12M").mkfs("-J", "1M")
    vol.mount("commit=1")
    # Small, so that blocks that are freed are soon in use again.
    write_synced(vol.path("base"), os.urandom(4 << 20))
    stop = threading.Event()
    failed = []

    def work(n):
        rnd = random.Random(n)
        os.makedirs(vol.path(f"w{n}"), exist_ok=True)
        try:
            while not stop.is_set():
                path = vol.path(f"w{n}", f"f{rnd.randrange(6)}")
                what = rnd.randrange(10)
                if what == 0 and os.path.exists(path):
                    os.unlink(path)
                elif what == 1 and os.path.exists(path):
                    os.truncate(path, rnd.randrange(100000))
                else:
                    fd = os.open(path, os.O_RDWR | os.O_CREAT)
                    os.pwrite(fd, bytes([rnd.randrange(256)]) * rnd.choice((100, 4096, 8192, 200000)),
                              rnd.choice((0, 4096, 8192, rnd.randrange(100000))))
                    if what == 2:
                        os.fsync(fd)
                    os.close(fd)
        except OSError as e:
            failed.append(e)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    try:
        end = time.monotonic() + 4
        rounds = 0
        while time.monotonic() < end:
            got = scrub(vol.dir)
            assert got["findings"] == [] and got["bad_copies"] == 0 and got["repaired"] == 0
            rounds += 1
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not failed and rounds >= 2
    stats = json.loads(holdfast("stats", "--json", vol.dir))
    assert stats["state"] == "ok" and stats["files"]["csum_errors"] == 0 and stats["volume"]["checkpoints"] > 3
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_rate_and_cancel(vol):
    write_synced(vol.path("f"), os.urandom(20 << 20))
    begun = time.monotonic()
    got = scrub(vol.dir, "--rate", "20M")
    took = time.monotonic() - begun
    assert got["rate_limit"] == 20 << 20 and 0.8 < took < 10
    # Ctrl-C ends it in the daemon too.
    slow = subprocess.Popen([HOLDFAST, "scrub", "--rate", "100K", vol.dir], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: json.loads(holdfast("stats", "--json", vol.dir))["scrub"]["scrub_running"], what="the scrub")
    assert "is being scrubbed already" in holdfast("scrub", vol.dir, expect=1)
    slow.send_signal(signal.SIGINT)
    said = slow.communicate(timeout=5)[0]
    assert slow.returncode == 1 and "cancelled" in said
    assert scrub(vol.dir, "--status", expect=1)["state"] == "cancelled"
    holdfast("scrub", "--cancel", vol.dir, expect=1)
    # In the background.
    holdfast("scrub", "--start", "--rate", "100K", vol.dir)
    assert scrub(vol.dir, "--status")["state"] == "running"
    holdfast("scrub", "--cancel", vol.dir)
    wait_for(lambda: scrub(vol.dir, "--status", expect=None)["state"] == "cancelled", seconds=3, what="the end")
    # umount does not wait for it; who watches is told.
    slow = subprocess.Popen([HOLDFAST, "scrub", "--rate", "100K", vol.dir], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: scrub(vol.dir, "--status", expect=None)["state"] == "running", what="the scrub")
    begun = time.monotonic()
    for _ in range(50):
        if run("umount", vol.dir, check=False).returncode == 0:
            break
        time.sleep(0.05)
    assert time.monotonic() - begun < 5
    slow.communicate(timeout=10)
    assert slow.returncode == 1
    wait_for(lambda: not daemons(vol.image), what="the daemon's end")
    # An image's scrub is cancelled as well, and leaves a clean volume.
    slow = subprocess.Popen([HOLDFAST, "scrub", "--rate", "100K", vol.image], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    slow.send_signal(signal.SIGTERM)
    assert "cancelled" in slow.communicate(timeout=5)[0] and slow.returncode == 1
    vol.fsck("-n", "-f")


def test_an_image_in_use(vol):
    assert f"mounted at {vol.dir}" in holdfast("scrub", vol.image, expect=1)
    assert f"mounted at {vol.dir}" in holdfast("scrub", "-n", vol.image, expect=1)


def test_who_may(vol):
    """Others may see how far it is, and nothing else."""
    write_synced(vol.path("f"), b"x" * 100000)
    for args in (["scrub", vol.dir], ["scrub", "--start", vol.dir], ["scrub", "--cancel", vol.dir]):
        done = run(*USER, HOLDFAST, *args, check=False)
        assert done.returncode == 1 and "only root (CAP_SYS_ADMIN) and the user who mounted" in done.stdout
    scrub(vol.dir)
    flip(vol.image, [b for b, c in blocks_of(vol.image, b"HLFN") if c == 0])
    assert scrub(vol.dir)["findings"]
    done = json.loads(run(*USER, HOLDFAST, "scrub", "--status", "--json", vol.dir).stdout)
    assert done["state"] == "done" and done["repaired"] > 0 and done["findings"] == []


def test_mount_of_an_ordinary_user(folder):
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
        run(*USER, "sh", "-c", f"head -c 100000 /dev/urandom > {mnt}/f")
        assert "nothing wrong" in run(*USER, HOLDFAST, "scrub", mnt).stdout
        run(*USER, "fusermount3", "-u", mnt)
        wait_for(lambda: not daemons(image), what="the daemon's end")
        assert "nothing wrong" in run(*USER, HOLDFAST, "scrub", image).stdout
    finally:
        os.chmod("/dev/fuse", mode)
        run("umount", "-l", mnt, check=False)
        for pid in daemons(image):
            os.kill(pid, signal.SIGKILL)
