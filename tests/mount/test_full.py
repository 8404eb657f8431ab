# SPDX-License-Identifier: Apache-2.0
"""A full volume: write(2) says ENOSPC, nothing acknowledged is lost, deleting makes room again."""
import errno
import hashlib
import mmap
import os

import pytest


def fill(path, chunk=1 << 20):
    """Writes until ENOSPC; (bytes accepted, digest of them).  Every accepted byte is synced."""
    h, done, piece = hashlib.sha256(), 0, os.urandom(chunk)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        while True:
            try:
                n = os.write(fd, piece)
            except OSError as e:
                assert e.errno == errno.ENOSPC
                if len(piece) > 512:
                    piece = piece[: len(piece) // 2]
                    continue
                break
            h.update(piece[:n])
            done += n
        os.fsync(fd)
    finally:
        os.close(fd)
    return done, h.hexdigest()


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(f.read()).hexdigest()


@pytest.mark.timeout(300)
def test_twenty_rounds(make_volume):
    vol = make_volume("64M").mkfs()
    vol.mount()
    first = None
    for round_ in range(20):
        done, want = fill(vol.path("big"))
        first = first or done
        assert done > first * 0.97, f"round {round_}: space was lost"
        if round_ % 5 == 0:
            vol.remount()
        assert os.stat(vol.path("big")).st_size == done
        assert digest(vol.path("big")) == want
        os.unlink(vol.path("big"))
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_direct(make_volume):
    """O_DIRECT has no short writes: it is ENOSPC, or all of it.  What is there can be overwritten in a full volume."""
    size = 1 << 20
    vol = make_volume("64M").mkfs()
    vol.mount()
    fd = os.open(vol.path("f"), os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    bufs = [mmap.mmap(-1, size) for _ in range(3)]
    for i, buf in enumerate(bufs):
        buf[:] = bytes([i + 1]) * size
    done = 0
    with pytest.raises(OSError) as e:
        while True:
            assert os.pwrite(fd, bufs[0], done) == size
            done += size
    assert e.value.errno == errno.ENOSPC and done > 50 * size
    assert os.fstat(fd).st_size == done
    fill(vol.path("rest"))
    for off in range(0, done, 4 * size):
        assert os.pwrite(fd, bufs[1], off) == size
    for off in range(0, done, size):
        assert os.preadv(fd, [bufs[2]], off) == size and bufs[2][:] == bufs[0 if off % (4 * size) else 1][:]
    os.close(fd)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.timeout(300)
def test_many_small_files(make_volume):
    vol = make_volume("32M").mkfs()
    vol.mount()
    names = []
    with pytest.raises(OSError) as e:
        for i in range(10**6):
            with open(vol.path(f"f{i}"), "wb") as f:
                names.append(i)
                f.write(b"%d" % i * 400)
    assert e.value.errno == errno.ENOSPC
    assert len(names) > 1000
    for i in names[:-1]:
        with open(vol.path(f"f{i}"), "rb") as f:
            assert f.read() == b"%d" % i * 400
    # On a full volume things can be removed and renamed.
    os.rename(vol.path("f0"), vol.path("g"))
    for i in names[1:-1]:
        os.unlink(vol.path(f"f{i}"))
    vol.remount()
    with open(vol.path("new"), "wb") as f:
        f.write(b"x" * (8 << 20))
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def test_overwrite_on_a_full_volume(make_volume):
    """Overwriting needs no new room."""
    vol = make_volume("32M").mkfs()
    vol.mount()
    with open(vol.path("db"), "wb") as f:
        f.write(b"a" * (1 << 20))
    fill(vol.path("big"))
    fd = os.open(vol.path("db"), os.O_RDWR)
    for off in range(0, 1 << 20, 65536):
        assert os.pwrite(fd, b"b" * 4096, off) == 4096
    os.fsync(fd)
    os.close(fd)
    vol.remount()
    with open(vol.path("db"), "rb") as f:
        data = f.read()
    for off in range(0, 1 << 20, 65536):
        assert data[off : off + 4096] == b"b" * 4096
        assert data[off + 4096 : off + 65536] == b"a" * 61440


def test_fallocate_promises_room(make_volume):
    vol = make_volume("32M").mkfs()
    vol.mount()
    fd = os.open(vol.path("promised"), os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 4 << 20)
    fill(vol.path("big"))
    for off in range(0, 4 << 20, 1 << 18):
        assert os.pwrite(fd, b"p" * (1 << 18), off) == 1 << 18
    os.fsync(fd)
    os.close(fd)
    with open(vol.path("promised"), "rb") as f:
        assert f.read() == b"p" * (4 << 20)
    with pytest.raises(OSError) as e:
        fd = os.open(vol.path("more"), os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(fd, 0, 16 << 20)
    assert e.value.errno == errno.ENOSPC


def test_shared_mapping_on_a_full_volume(make_volume):
    """Stores ask nobody for room: who made them hears of it, and never that all is well."""
    vol = make_volume("32M").mkfs()
    vol.mount()
    size = 1 << 20
    fd = os.open(vol.path("mapped"), os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    fill(vol.path("big"))
    # About half of what the one WRITE will want.
    os.truncate(vol.path("big"), os.stat(vol.path("big")).st_size - (600 << 10))
    with mmap.mmap(fd, size) as m:
        for off in range(0, size, 4096):
            m[off : off + 8] = off.to_bytes(8, "little")
        with pytest.raises(OSError) as e:
            m.flush()
        assert e.value.errno in (errno.ENOSPC, errno.EIO)
    os.close(fd)
    vol.umount()
    vol.fsck("-n", "-f", "--data")
