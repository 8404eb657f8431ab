# SPDX-License-Identifier: Apache-2.0
"""Every row of the benchmark runs, with next to no work in it.  What it says of time means nothing here, and is not looked at."""
import json
import os
import subprocess
import sys

import pytest

from conftest import BUILD, LONG, SANITIZED, TOP

BENCH = os.path.join(TOP, "tests", "bench")


@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(SANITIZED), reason="only the plain build has the benchmark's programs")
def test_every_row_runs(folder):
    """On a volume, on the filesystem in memory, on the journal alone and on the file beside them: nothing fails, and every row that can be has a figure."""
    sys.path.insert(0, BENCH)
    try:
        import peers  # pylint: disable=import-outside-toplevel
        import rows  # pylint: disable=import-outside-toplevel
    finally:
        sys.path.remove(BENCH)
    names = ["holdfast-dev", "empty-dev", "disk", "journal"]
    # PostgreSQL takes seconds to be set up, and is not installed for the short tests.  It is a user of its own, and pytest's folders are root's alone.
    skip = "" if LONG else "pgbench"
    out = os.path.join(folder, "out.json")
    with subprocess.Popen([sys.executable, os.path.join(BENCH, "bench.py"), "--rounds", "1", "--scale", "0.001", "--seconds", "0.02", "--long",
                           "--keep-caches", "--dir", folder, "--peers", ",".join(names), "--json", out, *(["--skip", skip] if skip else [])],
                          env=dict(os.environ, HOLDFAST_BUILD=BUILD), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as bench:
        try:
            text = bench.communicate()[0]
        finally:
            # It unmounts then.
            bench.terminate()
    assert bench.returncode == 0, text
    with open(out, encoding="utf-8") as f:
        said = json.load(f)
    assert said["failed"] == [] and len(said["goals"]) > 60
    figures = {(line["row"], name): peer["median"] for line in said["rows"] for name, peer in line["peers"].items()}
    assert all(f > 0 for f in figures.values())
    kinds = [kind for kind in peers.ALL if kind.name in names]
    table = rows.all_rows(rows.Tree(folder, 20), rows.Sizes(0.001, 0.02, True))
    expected = {(row.name, kind.name) for row in table for kind in kinds if row.runs_on(kind) and not (skip and skip in row.name)}
    assert set(figures) == expected and len(expected) > 110


@pytest.mark.skipif(bool(SANITIZED), reason="only the plain build has the benchmark's programs")
def test_locks(tmp_path):
    """Operations that change something are seen to hold the volume lock, and those that read to share it, by one thread and by two; and the
    contents that they read are right."""
    image = tmp_path / "image"
    said = subprocess.run([os.path.join(TOP, BUILD, "tests", "bench", "locks"), image, "-s", "0.01", "-n", "1", "-t", "2"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    lines = [line.rsplit(maxsplit=8) for line in said.splitlines()[3:]]
    assert len(lines) == 16 and not image.exists()
    for name, _, rate, _, _, locks, _, _, _ in lines:
        assert float(rate) > 0, said
        if name.split()[0] in ("overwrite", "overwrite,", "create"):
            assert float(locks) >= 0.99, said
        elif name in ("getattr", "lookup") or name.startswith("read"):
            assert float(locks) < 0.01, said


@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(SANITIZED), reason="only the plain build has the benchmark's programs")
def test_aging(folder):
    """Both filesystems are filled and written over, nothing fails, and both have the files that the plan says, in at least one piece each."""
    with subprocess.Popen([sys.executable, os.path.join(BENCH, "aging.py"), "--quick", "--dir", folder], env=dict(os.environ, HOLDFAST_BUILD=BUILD),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as aging:
        try:
            said = aging.communicate()[0]
        finally:
            # It unmounts then.
            aging.terminate()
    assert aging.returncode == 0, said
    lines = [line.split() for line in said.splitlines()[1:-2]]
    assert [line[0] for line in lines] == ["Holdfast", "ext4"] * 2, said
    for ours, theirs in zip(lines[::2], lines[1::2]):
        assert ours[2:5] == theirs[2:5], said
        for _, _, _, _, files, pieces, _, _, old, copy in (ours, theirs):
            assert 20 < int(files) <= int(pieces) and int(old) > 0 and int(copy) > 0, said
    assert float(lines[2][2][:-1]) >= 1, said
    assert os.listdir(folder) == []
