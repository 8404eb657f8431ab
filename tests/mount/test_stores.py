# SPDX-License-Identifier: Apache-2.0
"""Embedded stores on Holdfast, by their own tools: SQLite, LMDB, RocksDB.  The daemon is killed while they write."""
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import LONG, run
from programs import Client, need, need_module

WRITERS = 3
RND = random.Random(os.environ.get("HOLDFAST_SEED", "stores"))


def sqlite(program, path, text, check=True):
    return run(program, "-batch", "-bail", path, ".timeout 20000", text, check=check).stdout.strip()


def sqlite_script(path, mode, writer, extra):
    """Endless for our purposes: transactions, each with two statements about one row and one about a counter; then its number."""
    with open(path, "w", encoding="ascii") as f:
        f.write(f".timeout 20000\n.output /dev/null\npragma journal_mode={mode};\npragma synchronous=extra;\n{extra}\n.output stdout\n")
        for _ in range(20000):
            f.write(f"begin immediate;insert into t(w, b) values({writer}, randomblob({RND.choice([1, 100, 3000, 40000])}));"
                    f"update t set h = sha3(b) where k = last_insert_rowid();update total set n = n + 1 where w = {writer};commit;"
                    f"select n from total where w = {writer};\n")


def sqlite_start(vol, mode, extra=""):
    """A database, and its writers' command lines."""
    program, unbuffered = need("sqlite3", "stdbuf")
    if not os.path.exists(vol.path("db")):
        page = RND.choice([512, 4096, 8192, 65536])
        sqlite(program, vol.path("db"), f"pragma page_size={page};pragma journal_mode={mode};create table t(k integer primary key, w, b, h);"
               "create index i on t(h);create table total(w integer primary key, n);"
               + "".join(f"insert into total values({w}, 0);" for w in range(WRITERS)))
    clients = []
    for w in range(WRITERS):
        script = os.path.join(vol.folder, f"script{w}")
        sqlite_script(script, mode, w, extra)
        clients.append(Client([unbuffered, "-oL", program, "-batch", "-bail", vol.path("db"), ".read " + script]))
    return clients


def sqlite_judge(vol, clients, acked):
    """Each writer's transactions are there, but for the last, which may be if it was not acknowledged."""
    program = need("sqlite3")
    for w, client in enumerate(clients):
        acked[w] = max([acked[w]] + [int(line) for line in client.end()])
    assert sqlite(program, vol.path("db"), "pragma integrity_check;") == "ok"
    assert sqlite(program, vol.path("db"), "select count(*) from t where h is not sha3(b);") == "0"
    rows = json.loads(run(program, "-json", vol.path("db"),
                          "select w, n, (select count(*) from t where t.w = total.w) as c from total order by w").stdout)
    for w, row in enumerate(rows):
        assert row["n"] == row["c"]
        assert acked[w] <= row["n"] <= acked[w] + 1, f"writer {w}: {acked[w]} were acknowledged"
        acked[w] = row["n"]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode,extra", [
    ("truncate", ""), ("wal", ""),
    *[pytest.param(*p, marks=pytest.mark.long) for p in (
        ("persist", ""), ("truncate", "pragma mmap_size=67108864;"), ("wal", "pragma mmap_size=67108864;"),
        ("wal", "pragma wal_autocheckpoint=5;"), ("persist", "pragma cache_size=5;pragma cache_spill=1;"))]])
def test_sqlite(vol, mode, extra):
    """Some processes with the command line's program, each told of its commits; not mode delete, which test_programs.py has."""
    acked = [0] * WRITERS
    for _ in range(8 if LONG else 1):
        clients = sqlite_start(vol, mode, extra)
        clients[0].wait_for(3)
        time.sleep(RND.uniform(0.1, 2.0) if LONG else 0.7)
        vol.kill()
        for client in clients:
            client.end()
        vol.mount()
        sqlite_judge(vol, clients, acked)
    assert sum(acked) >= 3
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def lmdb_input(path, count):
    """What mdb_load -T reads: keys in random order, values of all sizes, some in pages of their own."""
    keys = [b"%08d" % i for i in range(count)]
    RND.shuffle(keys)
    with open(path, "wb") as f:
        f.write(b"VERSION=3\nformat=print\ntype=btree\nmapsize=134217728\nHEADER=END\n")
        for key in keys:
            f.write(b" %s\n %s\n" % (key, key * RND.choice([1, 10, 100, 600])))
        f.write(b"DATA=END\n")
    return keys


def lmdb_dump(mdb_dump, path):
    lines = run(mdb_dump, "-p", path).stdout.splitlines()
    body = lines[lines.index("HEADER=END") + 1:-1]
    return dict(zip(body[::2], body[1::2]))


def test_lmdb_tools(vol):
    """Load, dump, copy and statistics agree; and a load that is killed leaves the first so many of its transactions."""
    mdb_load, mdb_dump, mdb_copy, mdb_stat = need("mdb_load", "mdb_dump", "mdb_copy", "mdb_stat")
    text, count = os.path.join(vol.folder, "text"), 2500
    keys = lmdb_input(text, count)
    for name in ("whole", "compact", "killed"):
        os.mkdir(vol.path(name))
    run(mdb_load, "-f", text, vol.path("whole"))
    first = lmdb_dump(mdb_dump, vol.path("whole"))
    assert sorted(first) == [" %08d" % i for i in range(count)]
    assert all(v.replace(k[1:], "") == " " for k, v in first.items())
    run(mdb_copy, "-c", vol.path("whole"), vol.path("compact"))
    with subprocess.Popen([mdb_load, "-f", text, vol.path("killed")], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        time.sleep(0.15)
        vol.kill()
        load.send_signal(signal.SIGKILL)
    vol.mount()
    for name in ("whole", "compact"):
        assert lmdb_dump(mdb_dump, vol.path(name)) == first
        assert f"Entries: {count}" in run(mdb_stat, "-ae", vol.path(name)).stdout
    if os.path.exists(vol.path("killed", "data.mdb")) and os.path.getsize(vol.path("killed", "data.mdb")):
        left = lmdb_dump(mdb_dump, vol.path("killed"))
        assert len(left) % 100 == 0 or len(left) == count
        assert set(left) == {" " + key.decode() for key in keys[:len(left)]}
    vol.umount()
    vol.fsck("-n", "-f", "--data")


LMDB_WRITER = r"""
import hashlib, os, random, sys
import lmdb
env = lmdb.open(sys.argv[1], map_size=128 << 20, writemap=sys.argv[2] == 'map', map_async=False, sync=True, metasync=True)
with env.begin() as t:
    n = int(t.get(b'last', b'0'))
rnd = random.Random(n)
while True:
    n += 1
    with env.begin(write=True) as t:
        t.put(b'last', b'%d' % n)
        for part in range(3):
            value = rnd.randbytes(rnd.choice([10, 900, 5000, 30000]))
            t.put(b'%d-%d' % (n % 700, part), b'%d ' % n + hashlib.sha256(value).hexdigest().encode() + b' ' + value)
    os.write(1, b'%d\n' % n)
"""


def lmdb_judge(vol, client, acked):
    """The number of the last transaction: all parts of the newest of each key are there, and of no later one."""
    lmdb, mdb_stat = need_module("lmdb"), need("mdb_stat")
    acked = max([acked] + [int(line) for line in client.end()])
    with lmdb.open(vol.path("lmdb"), map_size=128 << 20, readonly=True) as env, env.begin() as t:
        last = int(t.get(b"last"))
        assert acked <= last <= acked + 1
        for n in range(max(1, last - 699), last + 1):
            for part in range(3):
                number, digest, value = t.get(b"%d-%d" % (n % 700, part)).split(b" ", 2)
                assert int(number) == n
                assert digest.decode() == hashlib.sha256(value).hexdigest()
        assert t.stat()["entries"] == 3 * min(last, 700) + 1
    assert f"Last transaction ID: {last}" in run(mdb_stat, "-e", vol.path("lmdb")).stdout
    return last


@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["write", "map"])
def test_lmdb_killed(vol, how):
    """Written with write(2) and read through a map, or written through the map as well."""
    need_module("lmdb")
    acked = 0
    for _ in range(10 if LONG else 2):
        client = Client(LMDB_WRITER, args=[vol.path("lmdb"), how])
        client.wait_for(2)
        time.sleep(RND.uniform(0.1, 1.5) if LONG else 0.4)
        vol.kill()
        client.end()
        vol.mount()
        acked = lmdb_judge(vol, client, acked)
    vol.umount()
    vol.fsck("-n", "-f", "--data")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_rocksdb_killed(make_volume):
    """db_bench writes keys in order, each synced, and tells how many; small buffers make it flush and compact all the time."""
    db_bench, ldb = need("db_bench", "ldb")
    vol = make_volume("1G").mkfs()
    vol.mount()
    for _ in range(6):
        db = vol.path("db")
        client = Client([db_bench, f"--db={db}", "--benchmarks=fillseq", "--sync=1", "--num=10000000", "--stats_interval=1",
                         "--value_size=300", "--write_buffer_size=65536", "--target_file_size_base=65536",
                         "--max_bytes_for_level_base=262144", "--compression_type=none"], stderr=subprocess.STDOUT)
        client.wait_for(50)
        time.sleep(RND.uniform(0.5, 6))
        vol.kill()
        # "... thread 0: (1,57) ops and ...": the second number is the sum.
        told = [int(m[1]) for m in (re.search(r"thread 0: \(\d+,(\d+)\) ops", line) for line in client.end()) if m]
        assert told and told[-1] > 20
        vol.mount()
        check = [ldb, f"--db={db}"]
        run(*check, "checkconsistency")
        keys = [int(line.split()[0][2:18], 16) for line in run(*check, "scan", "--hex", "--no_value").stdout.splitlines() if line.startswith("0x")]
        assert keys == list(range(len(keys)))
        assert len(keys) >= told[-1], f"{told[-1]} were acknowledged"
        run(*check, "compact")
        run(db_bench, f"--db={db}", "--use_existing_db=1", "--benchmarks=verifychecksum,readseq", f"--num={len(keys)}")
        shutil.rmtree(db)
    vol.umount()
    vol.fsck("-n", "-f", "--data")
