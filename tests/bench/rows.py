# SPDX-License-Identifier: Apache-2.0
"""What bench.py has each filesystem do."""
import json
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time

from peers import BUILD, Failed, run

WORK = os.path.join(BUILD, "tests", "bench", "work")
STEP_SECONDS = 600  # then it hangs


class Row:
    """
    `do(peer)` is what is measured; it returns ops, seconds and perhaps bytes, latencies, and cpu if only a part of it counts.
    needs   names of the rows that make what it works on
    cold    it begins with a new mount and empty caches
    warm    is done before, and takes no part: reads all that a hot row is to find in the cache
    disk    the disk itself can do it, too
    remounts    it mounts anew, and what was there must be there again
    only    names of the filesystems that can, if not all
    """

    def __init__(self, name, do, unit="op/s", needs=(), cold=False, warm=None, disk=False, remounts=False, only=None):
        self.name, self.do, self.unit = name, do, unit
        self.needs, self.cold, self.warm, self.disk, self.remounts, self.only = needs, cold, warm, disk, remounts, only

    def runs_on(self, peer):
        if not peer.is_filesystem:
            return self.disk and peer.name == "disk"
        if self.remounts and not peer.lasts:
            return False
        return self.only is None or peer.name in self.only


def chosen(table, texts):
    """The rows with one of these texts in their names (a whole name means that row only), and what they need."""
    names = {row.name: row for row in table}
    wanted = []
    for text in texts:
        found = [names[text]] if text in names else [row for row in table if text in row.name]
        if not found:
            raise Failed(f"no row has \"{text}\" in its name")
        wanted += found
    needed, todo = set(), list(wanted)
    while todo:
        row = todo.pop()
        needed.add(row.name)
        todo += [names[name] for name in row.needs]
    return [row for row in table if row.name in needed], {row.name for row in wanted}


def busy_seconds():
    """Of all processors, what others on the same host took away not counted."""
    with open("/proc/stat", encoding="ascii") as f:
        t = [int(x) for x in f.readline().split()[1:]]
    return (t[0] + t[1] + t[2] + t[5] + t[6]) / os.sysconf("SC_CLK_TCK")


def work(workload, *args):
    def do(peer):
        out = json.loads(run(WORK, workload, peer.dir, *args, timeout=STEP_SECONDS))
        return {"ops": out["ops"], "seconds": out["seconds"], "bytes": out["bytes"], "p50_us": out["p50_us"], "p999_us": out["p999_us"]}
    return do


def timed(function):
    """A step that is one operation."""
    def do(peer):
        start = time.monotonic()
        function(peer)
        return {"ops": 1, "seconds": time.monotonic() - start}
    return do


# --- a real tree --------------------------------------------------------------------------------------

class Tree:
    """A git repository of C headers in two versions, and an archive of it."""

    def __init__(self, folder, files):
        self.top, self.files = folder, files
        self.folder = os.path.join(folder, "tree")
        self.archive = os.path.join(folder, "tree.tar")

    def make(self):
        """Not before somebody wants it: it takes its time."""
        if os.path.exists(self.archive):
            return
        os.makedirs(self.folder)
        r, n = random.Random(1), 0
        for top, dirs, names in os.walk("/usr/include"):
            dirs.sort()
            for name in sorted(names):
                source = os.path.join(top, name)
                if n < self.files and os.path.isfile(source):
                    target = os.path.join(self.folder, os.path.relpath(source, "/usr/include"))
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copyfile(source, target)
                    n += 1
        self.git("init", "-q", "-b", "main")
        self.commit("one")
        self.git("checkout", "-q", "-b", "other")
        for top, dirs, names in os.walk(self.folder):
            if ".git" in dirs:
                dirs.remove(".git")
            for name in names:
                if r.random() < 0.3:
                    with open(os.path.join(top, name), "a", encoding="utf-8") as f:
                        f.write("/* other */\n")
        self.commit("two")
        self.git("checkout", "-q", "main")
        run("tar", "cf", self.archive, "-C", self.top, "tree")

    def git(self, *args, where=None):
        return run("git", "-C", where or self.folder, "-c", "safe.directory=*", "-c", "user.name=bench", "-c", "user.email=bench@localhost",
                   "-c", "gc.auto=0", *args, timeout=STEP_SECONDS)

    def commit(self, text):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", text)

    def rows(self):
        there = lambda peer: os.path.join(peer.dir, "tree")

        def untar(peer):
            run("tar", "xf", self.archive, "-C", peer.dir)
            run("sync", "-f", peer.dir)

        def status(peer):
            self.git("status", "--porcelain", where=there(peer))

        def checkout(peer):
            self.git("checkout", "-q", "other", where=there(peer))
            run("sync", "-f", peer.dir)

        def remove(peer):
            shutil.rmtree(there(peer))
            run("sync", "-f", peer.dir)

        return [Row("untar", timed(untar), "1/s", warm=lambda peer: self.make()),
                Row("git status, cold", timed(status), "1/s", ["untar"], cold=True),
                Row("git checkout", timed(checkout), "1/s", ["untar"]),
                Row("du, cold", timed(lambda peer: run("du", "-s", there(peer))), "1/s", ["untar"], cold=True),
                Row("grep -r, cold", timed(lambda peer: run("sh", "-c", f"grep -r no_such_word {there(peer)} || true")), "1/s", ["untar"], cold=True),
                Row("rm -rf", timed(remove), "1/s", ["untar"])]


# --- databases ------------------------------------------------------------------------------------------

def sqlite(mode, seconds):
    def do(peer):
        path = os.path.join(peer.dir, f"{mode}.db")
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE t (i INTEGER PRIMARY KEY, v TEXT)")
        start, n = time.monotonic(), 0
        while time.monotonic() < start + seconds:
            db.execute("INSERT INTO t (v) VALUES (?)", ("x" * 100,))
            n += 1
        took = time.monotonic() - start
        db.close()
        os.unlink(path)
        return {"ops": n, "seconds": took}
    return do


def pgbench(clients, seconds):
    bins = "/usr/lib/postgresql/15/bin"
    if not os.path.exists(f"{bins}/initdb") or subprocess.run(["id", "postgres"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        return None

    def do(peer):
        data, sock = os.path.join(peer.dir, "pg"), tempfile.mkdtemp(prefix="bench-pg-", dir="/tmp")
        # ntfs-3g's root belongs to root alone at first.
        os.chmod(peer.dir, 0o755)
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        os.makedirs(data)
        shutil.chown(data, "postgres", "postgres")
        shutil.chown(sock, "postgres", "postgres")
        try:
            run(*user, f"{bins}/initdb", "-D", data, "-A", "trust", "-N", timeout=STEP_SECONDS)
            run(*user, f"{bins}/pg_ctl", "-D", data, "-w", "-l", f"{sock}/log", "-o", f"-k {sock} -c listen_addresses=''", "start", timeout=60)
            try:
                run(*user, f"{bins}/pgbench", "-h", sock, "-i", "-q", "postgres", timeout=STEP_SECONDS)
                busy = busy_seconds()
                out = run(*user, f"{bins}/pgbench", "-h", sock, "-n", "-N", "-c", clients, "-T", seconds, "postgres", timeout=STEP_SECONDS)
                busy = busy_seconds() - busy
            finally:
                run(*user, f"{bins}/pg_ctl", "-D", data, "-w", "-m", "fast", "stop", timeout=60)
        finally:
            shutil.rmtree(sock, ignore_errors=True)
        shutil.rmtree(data)
        tps = float(next(line for line in out.splitlines() if line.startswith("tps")).split()[2])
        return {"ops": int(tps * seconds), "seconds": float(seconds), "cpu": busy}
    return do


# --- mounts --------------------------------------------------------------------------------------------

def mount_clean(peer):
    peer.umount()
    start = time.monotonic()
    peer.mount()
    return {"ops": 1, "seconds": time.monotonic() - start}


# --- the rows ------------------------------------------------------------------------------------------------

class Sizes:
    """How much each row does.  `seconds`: how long those take that go on for a time."""

    def __init__(self, scale, seconds):
        n = lambda count: max(40, int(count * scale))
        self.names, self.big, self.small = n(20000), n(100000), n(5000)
        self.large = max(1, int(512 * scale)) << 20
        self.seconds = seconds or max(0.3, 3 * scale)


def names_rows(z):
    made = [
        Row("create", work("create", "-n", z.names)),
        Row("stat", work("stat", "-n", z.names), needs=["create"], warm=work("stat-all", "-n", z.names)),
        Row("rename", work("rename", "-n", z.names), needs=["create"]),
        Row("unlink", work("unlink", "-n", z.names), needs=["rename"]),
        Row("mkdir", work("mkdir", "-n", z.names)),
        Row("rmdir", work("rmdir", "-n", z.names), needs=["mkdir"]),
    ]
    return made + [Row(f"create + unlink, {t} threads", work("churn", "-n", z.names, "-t", t)) for t in (1, 4, 16)]


def directory_rows(z):
    needs = ["large directory: create"]
    lookup = work("big-lookup", "-n", z.names, "-p", z.big)
    return [
        Row("large directory: create", work("big-create", "-n", z.big)),
        Row("large directory: lookup, hot", lookup, needs=needs, warm=work("big-lookup-all", "-n", z.big)),
        Row("large directory: lookup, cold", lookup, needs=needs, cold=True),
        Row("large directory: readdir, cold", work("big-readdir"), needs=needs, cold=True),
        Row("large directory: ls -l, cold", work("big-ls"), needs=needs, cold=True),
    ]


def small_rows(z):
    needs, read = ["small files: write"], work("small-read", "-n", z.small)
    return [
        Row("small files: write", work("small-write", "-n", z.small)),
        Row("small files: read, cold", read, needs=needs, cold=True),
        Row("small files: read, hot", read, needs=needs, warm=read),
        Row("open + read + close, hot", work("open", "-n", z.small), needs=needs, warm=read),
        Row("small files: remove", work("small-unlink", "-n", z.small), needs=needs),
    ]


def large_rows(z):
    needs, read = ["sequential write + fsync"], work("seq-read", "-S", z.large)
    random_read = work("random-read", "-S", z.large, "-s", z.seconds)
    made = [
        Row("sequential write + fsync", work("seq-write", "-S", z.large), "MB/s"),
        Row("sequential overwrite + fsync", work("seq-overwrite", "-S", z.large), "MB/s", needs),
        Row("sequential read, cold", read, "MB/s", needs, cold=True),
        Row("sequential read, hot", read, "MB/s", needs, warm=read),
        Row("random 4 KiB reads, cold", random_read, needs=needs, cold=True),
        Row("random 4 KiB reads, hot", random_read, needs=needs, warm=read),
        Row("random 4 KiB overwrites, one fsync", work("random-write", "-S", z.large, "-n", z.names), needs=needs),
        Row("random 4 KiB overwrites, fdatasync each", work("random-write-synced", "-S", z.large, "-s", z.seconds), needs=needs),
    ]
    needs = ["direct: sequential write"]
    made += [
        Row("direct: sequential write", work("seq-write", "-d", "-S", z.large), "MB/s", disk=True),
        Row("direct: sequential read", work("seq-read", "-d", "-S", z.large), "MB/s", needs, disk=True),
    ]
    made += [Row(f"direct: random 4 KiB reads, {t} threads", work("random-read", "-d", "-S", z.large, "-t", t, "-s", z.seconds), needs=needs, disk=True)
             for t in (1, 16)]
    return made + [Row("direct: random 4 KiB overwrites, fdatasync each", work("random-write-synced", "-d", "-S", z.large, "-s", z.seconds), needs=needs,
                       disk=True)]


def synced_rows(z):
    made = []
    for t in (1, 4, 16):
        for name, workload in (("512-byte append + fdatasync", "append-synced"), ("4 KiB overwrite + fdatasync", "overwrite-synced"),
                               ("atomic replace", "replace"), ("create + write + fsync", "create-synced")):
            made.append(Row(f"{name}, {t} threads", work(workload, "-t", t, "-s", z.seconds)))
    return made


def database_rows(z):
    made = [Row("sqlite3 commits, WAL", sqlite("WAL", z.seconds)), Row("sqlite3 commits, rollback journal", sqlite("DELETE", z.seconds))]
    pg = pgbench(8, max(1, int(3 * z.seconds)))
    return made + ([Row("pgbench, 8 clients", pg)] if pg else [])


def all_rows(tree, z):
    return (names_rows(z) + directory_rows(z) + small_rows(z) + large_rows(z) + synced_rows(z) + tree.rows() + database_rows(z) +
            [Row("mount, clean", mount_clean, "1/s", remounts=True)])
