# SPDX-License-Identifier: Apache-2.0
"""Everything at once on one volume for a minute, then a kill -9 of the daemon, and each program's own judgement; twice."""
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import run
from programs import Client, need, need_module
from test_git import git_judge, git_start
from test_maildir import Mail
from test_postgresql import ACCOUNTS, CLIENTS, LOAD, SCHEMA, Server, judge
from test_stores import LMDB_WRITER, WRITERS, lmdb_judge, sqlite_judge, sqlite_start
from tree import differences, snapshot

# Shell commands that are repeated until the end, each in a folder of its own.
LOOPS = {
    "compile": "mkdir o && for i in 1 2 3 4 5 6 7 8; do "
               "printf '#include <stdio.h>\\n#include <stdlib.h>\\nint f%d(void) { return printf(\"x\"); }\\n' $i >o/$i.c; done && "
               "make -s -j2 -f - <<< $'all: $(patsubst %,o/%.o,1 2 3 4 5 6 7 8)\\no/%.o: o/%.c; gcc -c -o $@ $<' && rm -r o",
    "rsync": "rsync -a --delete /usr/include/linux . && rsync -anci --delete /usr/include/linux . | wc -l | grep -qx 0 && rm -r linux/netfilter*",
    "tar": "tar -C /usr/include -cf t.tar asm-generic && tar -xf t.tar && tar -df t.tar && rm -r asm-generic",
    "sparse": "truncate -s 300M f && fallocate -p -o 1M -l 7M f && cp --sparse=always f g && cmp f g && rm f g",
    "names": "mkdir -p a/b && for i in {1..300}; do : >a/$i; ln a/$i a/b/l$i; mv a/$i a/b/$i; done && find . | wc -l | grep -qx 603 && rm -r a",
}
FIO = ["--name=v", "--size=64m", "--rw=randwrite", "--bs=512-64k", "--blockalign=512", "--ioengine=psync", "--verify=crc32c", "--do_verify=1",
       "--verify_fatal=1", "--fsync=64", "--loops=1000", "--time_based=0", "--randrepeat=1", "--serialize_overlap=1", "--verify_state_save=0",
       "--output=/dev/null"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_everything(make_volume):
    need_module("psycopg2")
    need("rsync", "fio", "gcc", "make")
    vol = make_volume("6G").mkfs()
    vol.mount("commit=2,cache=64M")
    os.mkdir(vol.path("kept"))
    run("cp", "-a", "/usr/include/linux", vol.path("kept"))
    kept = snapshot(vol.path("kept"))
    mail, server = Mail(vol), Server(vol)
    server.start("max_wal_size=64MB", "min_wal_size=32MB", "checkpoint_timeout=30s")
    try:
        server.call("psql", "-q", "-d", "postgres", "-c", "create database bench")
        server.sql(SCHEMA)
        server.call("pgbench", "-i", "-q", "-s", "1", "bench")
        acked = {"sqlite": [0] * WRITERS, "lmdb": 0, "postgresql": {}}
        for round_ in range(2):
            minute(vol, mail, server, acked, round_)
            assert not differences(kept, snapshot(vol.path("kept")))
        assert sum(acked["sqlite"]) > 20 and acked["lmdb"] > 20 and len(mail.sent) > 100
    finally:
        server.stop()
    vol.umount()
    vol.fsck("-n", "-f", "--data")


def minute(vol, mail, server, acked, round_):
    loops = {}
    for name, command in LOOPS.items():
        shutil.rmtree(vol.path(name), ignore_errors=True)
        os.mkdir(vol.path(name))
        # A failure before the end would be seen as a missing process; what it says comes last.
        loops[name] = Client(["bash", "-c", f"set -o pipefail; cd '{vol.path(name)}' && while {command}; do echo done; done; echo failed"],
                             stderr=subprocess.STDOUT)
    loops["fio"] = Client(["fio", f"--filename={vol.path('fio')}", *FIO], stderr=subprocess.STDOUT)
    postgresql = Client(LOAD, args=[server.socket, round_, CLIENTS, ACCOUNTS])
    sqlite, lmdb = sqlite_start(vol, "wal"), Client(LMDB_WRITER, args=[vol.path("lmdb"), "write"])
    git = git_start(vol, round_)
    mail.start(round_)
    time.sleep(60)
    for name, loop in loops.items():
        assert loop.process.poll() is None, f"{name}: {loop.lines[-10:]}"
        assert name == "fio" or loop.lines.count("done") + 1 >= len(loop.lines), f"{name}: {loop.lines[-10:]}"
    vol.kill()
    for client in [postgresql, lmdb, git, *sqlite, *mail.clients, *loops.values()]:
        client.end()
    server.stop(signal.SIGQUIT)
    vol.mount("commit=2,cache=64M")
    for line in postgresql.lines:
        client, n = map(int, line.split())
        acked["postgresql"][client] = n
    server.start("max_wal_size=64MB", "min_wal_size=32MB", "checkpoint_timeout=30s")
    judge(server, acked["postgresql"])
    acked["postgresql"] = dict(server.rows("select client, n from last"))
    sqlite_judge(vol, sqlite, acked["sqlite"])
    acked["lmdb"] = lmdb_judge(vol, lmdb, acked["lmdb"])
    mail.judge()
    git_judge(vol, git)
