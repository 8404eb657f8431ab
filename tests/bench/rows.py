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
JOURNAL = os.path.join(BUILD, "tests", "bench", "journal")
MANY = os.path.join(BUILD, "tests", "bench", "many")
GIB = 1 << 30
OURS = ("holdfast", "holdfast-dev")
LASTING = (*OURS, "ext4", "xfs")  # those that are compared where it takes a long time
STEP_SECONDS = 1800  # then it hangs


class Row:
    """
    `do(peer)` is what is measured; it returns ops, seconds and perhaps bytes, latencies, and cpu if only a part of it counts; or what is
    measured itself: figure.
    needs   names of the rows that make what it works on
    cold    it begins with a new mount and empty caches
    warm    is done before, and takes no part: reads all that a hot row is to find in the cache
    floors  what is no filesystem and can do it, too
    lower   less is better
    remounts    it mounts anew, and what was there must be there again
    once    in the first round only, because it takes so long
    only    names of the filesystems that can, if not all
    """

    def __init__(self, name, do, unit="op/s", needs=(), cold=False, warm=None, floors=(), lower=False, remounts=False, once=False, only=None):
        self.name, self.do, self.unit, self.needs, self.cold, self.warm = name, do, unit, needs, cold, warm
        self.floors, self.lower, self.remounts, self.once, self.only = floors, lower, remounts, once, only

    def runs_on(self, peer, number=0):
        """In round `number`?"""
        if self.once and number:
            return False
        if not peer.is_filesystem:
            return peer.name in self.floors
        if self.remounts and not peer.lasts:
            return False
        return self.only is None or peer.name in self.only

    def figure(self, out):
        if "figure" in out:
            return out["figure"]
        return out["bytes"] / out["seconds"] / 1e6 if self.unit == "MB/s" else out["ops"] / out["seconds"]


def chosen(table, texts, without=()):
    """The rows with one of these texts in their names (a whole name means that row only), and what they need; `without`: not those."""
    names = {row.name: row for row in table}
    wanted = []
    for text in texts:
        found = [names[text]] if text in names else [row for row in table if text in row.name]
        if not found:
            raise Failed(f"no row has \"{text}\" in its name")
        wanted += found

    def needed(row):
        return {row.name}.union(*(needed(names[name]) for name in row.needs))

    wanted = [row for row in wanted if not any(text in name for text in without for name in needed(row))]
    todo = set().union(*(needed(row) for row in wanted))
    return [row for row in table if row.name in todo], {row.name for row in wanted}


def busy_seconds():
    """Of all processors, what others on the same host took away not counted."""
    with open("/proc/stat", encoding="ascii") as f:
        t = [int(x) for x in f.readline().split()[1:]]
    return (t[0] + t[1] + t[2] + t[5] + t[6]) / os.sysconf("SC_CLK_TCK")


def work(workload, *args, timeout=STEP_SECONDS):
    def do(peer):
        out = json.loads(run(WORK, workload, peer.dir, *args, timeout=timeout))
        if not out["ops"]:
            raise Failed("not one operation ended in the time that it had")
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

def mount_ms(peer):
    start = time.monotonic()
    peer.mount()
    seconds = time.monotonic() - start
    return {"ops": 1, "seconds": seconds, "figure": seconds * 1000}


def mount_clean(peer):
    peer.umount()
    return mount_ms(peer)


def mount_tebibyte(journal):
    def do(peer):
        other = peer.beside("tebibyte", 1 << 40, journal=journal)
        # The first mount after mkfs may have something of its own to do.
        other.mount()
        other.umount()
        out = mount_ms(other)
        peer.take_away("tebibyte")
        return out
    return do


def fill_journal(peer, seconds):
    """Small changes of all kinds until a checkpoint is about to begin, with half of the journal in use; elsewhere for a third of the time."""
    with subprocess.Popen([MANY, "churn", peer.dir], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as load:
        try:
            end = time.monotonic() + (seconds if peer.name in OURS else seconds / 3)
            full = False
            while time.monotonic() < end and not full and load.poll() is None:
                if peer.name in OURS:
                    now = peer.stats()["journal"]
                    full = now["journal_used"] > now["journal_size"] * 0.48
                time.sleep(0.02)
            if load.poll() is not None:
                raise Failed(f"churn ended by itself: {load.stderr.read().strip()}")
            peer.crash()
        finally:
            load.kill()


def mount_unclean(size, seconds):
    def do(peer):
        other = peer.beside("unclean", size)
        other.mount()
        fill_journal(other, seconds)
        out = mount_ms(other)
        if other.name in OURS:
            out["replayed_bytes"] = other.stats()["volume"]["replayed_bytes"]
        peer.take_away("unclean")
        return out
    return do


# --- a checkpoint beside ----------------------------------------------------------------------------------

def append_beside_checkpoints(bytes_of_journal, seconds):
    """Another process creates files at a modest rate, so that checkpoints have nodes to write; the journal is small, so that there are many."""
    def do(peer):
        other = peer.beside("checkpoints", GIB, journal=bytes_of_journal)
        other.mount()
        checkpoints = lambda: other.stats()["volume"]["checkpoints"] if other.name in OURS else 0
        with subprocess.Popen([WORK, "create", other.dir, "-n", "10000000", "-r", "2000"], stdin=subprocess.DEVNULL) as load:
            try:
                for i in range(8):
                    before = checkpoints()
                    out = work("append-synced", "-s", seconds * 1.5 ** i)(other)
                    out["checkpoints"] = checkpoints() - before
                    if out["checkpoints"] >= 3 or other.name not in OURS:
                        break
                else:
                    raise Failed("there was no checkpoint")
            finally:
                load.kill()
        peer.take_away("checkpoints")
        return dict(out, figure=out["p999_us"] / out["p50_us"])
    return do


# --- memory -------------------------------------------------------------------------------------------------

def memory_of(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        return {line.split(":")[0]: int(line.split()[1]) << 10 for line in f if line.startswith(("VmRSS", "VmHWM"))}


def memory_per_inode(peer):
    """What the daemon takes for each inode that the kernel remembers, beyond its cache, which has a limit."""
    peer.umount()
    peer.mount("cache=4M")
    with open(f"/proc/{peer.pid()}/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # the peak begins anew
    before, cache = memory_of(peer.pid()), peer.stats()["cache"]["cache_bytes"]
    start = time.monotonic()
    run("sh", "-c", f"exec ls -lR {peer.dir} >/dev/null", timeout=STEP_SECONDS)
    seconds = time.monotonic() - start
    stats = peer.stats()
    inodes = stats["files"]["inodes"]
    grown = memory_of(peer.pid())["VmHWM"] - before["VmRSS"] - max(0, stats["cache"]["cache_bytes"] - cache)
    peer.umount()
    peer.mount()
    return {"ops": inodes, "seconds": seconds, "bytes": grown, "figure": grown / inodes}


# --- a directory that is too large to be remembered ---------------------------------------------------------

def huge_create(name, n, *more):
    """n empty files on a volume of their own, which is there until they have been looked up."""
    def do(peer):
        other = peer.beside(name, max(1, 32 * n // 10**7) * GIB, inodes=n + n // 10)
        other.mount()
        return work("big-create", "-n", n, *more, timeout=8 * STEP_SECONDS)(other)
    return do


def huge_lookup(name, n, picks, *more):
    def do(peer):
        other = peer.others[name]
        other.cold()
        out = work("big-lookup", "-n", picks, "-p", n, *more)(other)
        peer.take_away(name)
        return out
    return do


# --- the rows ------------------------------------------------------------------------------------------------

class Sizes:
    """How much each row does.  `seconds`: how long those take that go on for a time."""

    def __init__(self, scale, seconds, long=False):
        n = lambda count: max(40, int(count * scale))
        self.scale, self.long = scale, long
        self.huge = n(10**7)
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
        Row("direct: sequential write", work("seq-write", "-d", "-S", z.large), "MB/s", floors=["disk"]),
        Row("direct: sequential read", work("seq-read", "-d", "-S", z.large), "MB/s", needs, floors=["disk"]),
    ]
    made += [Row(f"direct: random 4 KiB reads, {t} threads", work("random-read", "-d", "-S", z.large, "-t", t, "-s", z.seconds), needs=needs, floors=["disk"])
             for t in (1, 16)]
    return made + [Row("direct: random 4 KiB overwrites, fdatasync each", work("random-write-synced", "-d", "-S", z.large, "-s", z.seconds), needs=needs,
                       floors=["disk"])]


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


def thousand_rows(z):
    """Many directories of 1,000 entries; with z.long ten million entries in such directories, and in one."""
    made = [
        Row("directories of 1,000: create", work("big-create", "-k", 1000, "-n", z.big)),
        Row("directories of 1,000: lookup, cold", work("big-lookup", "-k", 1000, "-n", z.names, "-p", z.big), needs=["directories of 1,000: create"], cold=True),
    ]
    for name, dirs, more in (("huge-many", "10,000 directories of 1,000", ["-k", 1000]), ("huge", "directory of 10,000,000", [])) if z.long else ():
        made += [Row(f"{dirs}: create", huge_create(name, z.huge, *more), once=True, only=LASTING),
                 Row(f"{dirs}: lookup, cold", huge_lookup(name, z.huge, z.names, *more), needs=[f"{dirs}: create"], once=True, only=LASTING)]
    return made


def journal_rows(z):
    def on(threads):
        def do(peer):
            if peer.name == "disk":
                return work("write-through", "-d", "-S", z.large, "-t", threads, "-s", z.seconds)(peer)
            return journal(peer, "synced", threads)
        return do

    def journal(peer, what, threads):
        return json.loads(run(JOURNAL, what, os.path.join(peer.dir, "log"), "-t", threads, "-s", z.seconds, "-b", 512 if what == "synced" else 128, timeout=STEP_SECONDS))

    made = [Row(f"write or append + flush, {t} threads", on(t), needs=["direct: sequential write"], floors=["disk", "journal"], only=()) for t in (1, 4, 16)]
    return made + [Row("append without flush", lambda peer: journal(peer, "unsynced", 1), floors=["journal"], only=())]


def mount_rows(z):
    small = z.scale < 1
    return [
        Row("512-byte append + fdatasync beside checkpoints, p99.9 / median",
            append_beside_checkpoints((4 if small else 16) << 20, max(0.3, 2 * z.seconds)), "x", lower=True, only=LASTING),
        Row("memory per inode", memory_per_inode, "bytes", needs=["large directory: create"], lower=True, only=OURS),
        Row("mount, clean", mount_clean, "ms", lower=True, remounts=True),
        Row("mount, clean, of 1 TiB", mount_tebibyte(4 << 20 if small else None), "ms", lower=True, only=LASTING),
        Row("mount after a crash with a full journal", mount_unclean(GIB if small else 8 * GIB, max(1, 60 * min(1, z.scale))), "ms", lower=True, only=LASTING),
    ]


def all_rows(tree, z):
    return (names_rows(z) + directory_rows(z) + thousand_rows(z) + small_rows(z) + large_rows(z) + journal_rows(z) + synced_rows(z) + tree.rows() +
            database_rows(z) + mount_rows(z))
