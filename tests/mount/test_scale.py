# SPDX-License-Identifier: Apache-2.0
"""Sizes that only --long has time for.  What they take is measured by tests/bench/scale.py; here it must only be right."""
import os
import random

import pytest

from conftest import run, write_synced

pytestmark = pytest.mark.long


@pytest.mark.timeout(1800)
def test_a_million_files_in_a_directory(make_volume):
    vol = make_volume("4G").mkfs()
    vol.mount()
    top = vol.path("d")
    os.mkdir(top)
    for i in range(10**6):
        os.close(os.open(os.path.join(top, f"{i}"), os.O_CREAT | os.O_WRONLY))
    vol.remount()
    seen = set(os.listdir(top))
    assert len(seen) == 10**6 and "999999" in seen
    for i in random.Random(1).sample(range(10**6), 5000):
        assert os.stat(os.path.join(top, str(i))).st_size == 0
    vol.umount()
    vol.fsck()
    vol.mount()
    run("rm", "-rf", top, timeout=1200)
    vol.umount()
    vol.fsck()


@pytest.mark.timeout(1200)
def test_a_sparse_file_of_100_gib(make_volume):
    vol = make_volume("4G").mkfs()
    vol.mount()
    rnd = random.Random(2)
    places = rnd.sample(range(100 << 18), 100000)
    fd = os.open(vol.path("sparse"), os.O_RDWR | os.O_CREAT)
    for n, block in enumerate(places):
        os.pwrite(fd, n.to_bytes(8, "little") * 512, block << 12)
    os.fsync(fd)
    os.close(fd)
    vol.kill()
    vol.mount()
    fd = os.open(vol.path("sparse"), os.O_RDONLY)
    assert os.fstat(fd).st_blocks == 8 * len(places)
    for n in rnd.sample(range(len(places)), 20000):
        assert os.pread(fd, 4096, places[n] << 12) == n.to_bytes(8, "little") * 512
    os.close(fd)
    os.unlink(vol.path("sparse"))
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.timeout(600)
def test_a_crash_with_a_well_filled_journal(make_volume):
    vol = make_volume("1G").mkfs("-J", "64M")
    vol.mount("commit=300")
    for i in range(20000):
        with open(vol.path(f"f{i}"), "wb") as f:
            f.write(b"%d" % i * 300)
    write_synced(vol.path("last"), b"synced")
    vol.kill()
    vol.mount()
    assert len(os.listdir(vol.dir)) == 20001
    for i in range(20000):
        with open(vol.path(f"f{i}"), "rb") as f:
            assert f.read() == b"%d" % i * 300
    vol.umount()
    vol.fsck("-n", "-f", "--data")
