# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL on Holdfast: whatever it acknowledged before a kill -9 of the daemon is there after its recovery, whole, and nothing else is."""
import os
import pwd
import random
import signal
import subprocess
import time

import pytest

from conftest import run, wait_for
from programs import Client, missing, need, need_module

CLIENTS, ACCOUNTS = 8, 200

SCHEMA = f"""
create table account(id int primary key, balance bigint not null);
insert into account select g, 1000 from generate_series(0, {ACCOUNTS - 1}) g;
create table last(client int primary key, n int not null);
insert into last select g, 0 from generate_series(0, {CLIENTS - 1}) g;
create table done(client int, n int, half int, account int, delta bigint, filler text, sum text, primary key(client, n, half));
create index on done(sum);
"""

# Each thread is a client.  It moves money from one account to another, notes both halves, and says so once commit has returned.
LOAD = r"""
import hashlib, os, random, sys, threading
import psycopg2
socket, seed, clients, accounts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def client(me):
    rnd = random.Random(seed * 100 + me)
    db = psycopg2.connect(host=socket, dbname='bench', user='postgres')
    c = db.cursor()
    c.execute('select n from last where client = %s', (me,))
    n = c.fetchone()[0]
    while True:
        n += 1
        pair = sorted(rnd.sample(range(accounts), 2))
        delta = rnd.randrange(1, 100)
        for half, (account, change) in enumerate(zip(pair, (delta, -delta))):
            filler = rnd.randbytes(rnd.choice([10, 300, 1500, 9000])).hex()
            c.execute('update account set balance = balance + %s where id = %s', (change, account))
            c.execute('insert into done values(%s, %s, %s, %s, %s, %s, %s)',
                      (me, n, half, account, change, filler, hashlib.md5(filler.encode()).hexdigest()))
        c.execute('update last set n = %s where client = %s', (n, me))
        db.commit()
        os.write(1, b'%d %d\n' % (me, n))

def until_it_fails(me):
    try:
        client(me)
    except psycopg2.Error:
        pass

threads = [threading.Thread(target=until_it_fails, args=(i,)) for i in range(clients)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


class Server:
    """A cluster on a volume, with socket and log elsewhere."""

    def __init__(self, vol):
        names = ["initdb", "postgres", "psql", "pg_isready", "pg_amcheck", "pg_dumpall", "pg_checksums", "pgbench"]
        self.programs = dict(zip(names, need(*names)))
        try:
            self.user = pwd.getpwnam("postgres")
        except KeyError:
            missing("a user named postgres")
        self.vol, self.process = vol, None
        self.data = vol.path("pg", "data")
        self.socket = os.path.join(vol.folder, "socket")
        os.mkdir(self.socket)
        os.chown(self.socket, self.user.pw_uid, self.user.pw_gid)
        os.mkdir(vol.path("pg"))
        os.chown(vol.path("pg"), self.user.pw_uid, self.user.pw_gid)
        self.log = os.path.join(vol.folder, "postgres.log")
        self.call("initdb", "-D", self.data, "--data-checksums", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")

    def run_as(self):
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": [], "cwd": "/",
                "env": dict(os.environ, PGHOST=self.socket, PGUSER="postgres", HOME="/")}

    def call(self, name, *args, **kwargs):
        return run(self.programs[name], *args, **self.run_as(), **kwargs).stdout

    def sql(self, text, database="bench"):
        return self.call("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text).strip()

    def rows(self, text):
        return [tuple(int(x) for x in line.split("|")) for line in self.sql(text).splitlines()]

    def dump(self):
        """All of it as lines, without the two that hold a random number."""
        return sorted(line for line in self.call("pg_dumpall").splitlines() if "restrict " not in line)

    def start(self, *settings):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                [self.programs["postgres"], "-D", self.data, "-k", self.socket, "-c", "listen_addresses="]
                + [w for s in settings for w in ("-c", s)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.run_as())
        wait_for(self.is_ready, 100, "start of PostgreSQL")

    def is_ready(self):
        assert self.process.poll() is None, self.tail()
        return run(self.programs["pg_isready"], "-q", check=False, **self.run_as()).returncode == 0

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-3000:]

    def children(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            return [int(pid) for pid in f.read().split()]

    def stop(self, how=signal.SIGINT):
        """SIGINT: in order.  SIGQUIT: at once, as on a crash."""
        if not self.process or self.process.poll() is not None:
            return
        children = self.children()
        self.process.send_signal(how)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
            assert how != signal.SIGINT, self.tail()
        # They go when it goes; the next server would not start beside them.
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children), 30, "end of PostgreSQL's children")


@pytest.fixture
def server(make_volume):
    need_module("psycopg2")
    vol = make_volume("2G").mkfs()
    vol.mount()
    s = Server(vol)
    try:
        yield s
    finally:
        s.stop(signal.SIGQUIT)


def judge(server, acked):
    """Every row of a transaction or none of it; all those that were acknowledged, and at most one more for each client."""
    assert server.sql("select count(*) from done where md5(filler) <> sum") == "0"
    last = dict(server.rows("select client, n from last"))
    for client, n in last.items():
        assert n >= acked.get(client, 0), f"client {client}: {acked[client]} were acknowledged, {n} are there"
        assert n <= acked.get(client, 0) + 1, f"client {client}: {acked.get(client, 0)} were acknowledged, {n} are there"
    for client, rows, transactions, highest in server.rows("select client, count(*), count(distinct n), max(n) from done group by 1"):
        assert (rows, transactions, highest) == (2 * last[client], last[client], last[client]), f"client {client}"
    assert server.rows("select sum(delta), count(*) from done") == [(0, 2 * sum(last.values()))]
    assert server.rows("select sum(balance), count(*) from account") == [(1000 * ACCOUNTS, ACCOUNTS)]
    # Each balance is what the transactions made of it.
    assert server.rows("select count(*) from account a left join (select account, sum(delta) s from done group by 1) d "
                       "on d.account = a.id where a.balance <> 1000 + coalesce(d.s, 0)") == [(0,)]
    assert server.rows("select (select sum(abalance) from pgbench_accounts) - (select coalesce(sum(delta), 0) from pgbench_history), "
                       "(select sum(bbalance) from pgbench_branches) - (select sum(tbalance) from pgbench_tellers)") == [(0, 0)]


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("full_page_writes", ["on", "off"])
def test_killed(server, full_page_writes):
    """With full_page_writes off nothing but the filesystem keeps a page from being torn."""
    settings = ["full_page_writes=" + full_page_writes, "checkpoint_timeout=30s", "max_wal_size=64MB", "min_wal_size=32MB",
                "autovacuum_naptime=2s", "shared_buffers=16MB", "max_connections=40"]
    rnd = random.Random(os.environ.get("HOLDFAST_SEED", full_page_writes))
    server.start(*settings)
    server.call("psql", "-q", "-d", "postgres", "-c", "create database bench")
    server.sql(SCHEMA)
    server.call("pgbench", "-i", "-q", "-s", "2", "bench")
    acked = {}
    # The moments are by the clock, so that some of them fall into a checkpoint, and one round is long enough for some of these.
    for seconds in [60] + [rnd.uniform(1, 8) for _ in range(7)]:
        load = Client(LOAD, args=[server.socket, rnd.randrange(1 << 20), CLIENTS, ACCOUNTS])
        noise = subprocess.Popen([server.programs["pgbench"], "-n", "-c", "4", "-T", "300", "bench"], stdin=subprocess.DEVNULL,  # pylint: disable=consider-using-with
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **server.run_as())
        load.wait_for(1)
        time.sleep(seconds)
        server.vol.kill()
        server.stop(signal.SIGQUIT)
        for line in load.end():
            client, n = map(int, line.split())
            acked[client] = n
        noise.kill()
        noise.wait()
        server.vol.mount()
        server.start(*settings)
        judge(server, acked)
        acked = dict(server.rows("select client, n from last"))
    total = sum(acked.values())
    assert total > 100 * CLIENTS, "too little was done to prove anything"
    run(server.programs["pg_amcheck"], "--all", "--install-missing", "--heapallindexed", "--rootdescend", timeout=300, **server.run_as())
    dump = server.dump()
    assert len(dump) > 2 * total and "-- PostgreSQL database cluster dump complete" in dump
    server.stop()
    server.vol.remount()
    server.call("pg_checksums", "--check", "-D", server.data, timeout=600)
    server.start(*settings)
    judge(server, acked)
    assert server.dump() == dump
    server.stop()
    server.vol.umount()
    server.vol.fsck("-n", "-f", "--data")
