#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Holdfast beside other filesystems: the same work on each in turn, in several rounds, on the same disk.

    ./setup bench [--rounds N] [--peers A,B] [--rows TEXT] [--quick] [--dir FOLDER] [--json FILE] [--svg FILE]

Peers: holdfast (requests over io_uring), holdfast-dev (/dev/fuse), ext4 and xfs (loop devices with direct I/O), fuse2fs, ntfs-3g; and disk, the file below all of
them, written without the page cache.  A row is a workload; its figure is the median of the rounds, shown with its ratio to ext4 and
with the spread, (most - least) / median.  CPU is that of the whole machine, client, kernel and daemon, per operation: it means something only
where nothing else runs.  Cold rows begin with a new mount and empty caches.  Nothing is asserted about time; the exit status says
whether everything could be done.  Run it as root on a disk with 20 GB to spare, and on nothing else than a quiet machine if the figures are to be believed.
"""
import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import peers as peer_list
from peers import BUILD, Failed, run

WORK = os.path.join(BUILD, "tests", "bench", "work")
STEP_SECONDS = 600  # then it hangs
GIB = 1 << 30


class Row:
    """`do(peer)` returns (operations, seconds); `cold`: begins with empty caches; `disk`: the disk itself can do it."""

    def __init__(self, name, do, unit="op/s", cold=False, disk=False):
        self.name, self.do, self.unit, self.cold, self.disk = name, do, unit, cold, disk


def work(workload, *args):
    def do(peer):
        out = json.loads(run(WORK, workload, peer.dir, *args, timeout=STEP_SECONDS))
        return {"ops": out["ops"], "seconds": out["seconds"], "bytes": out["bytes"], "p50_us": out["p50_us"], "p999_us": out["p999_us"]}
    return do


def timed(function):
    """A step that is one operation."""
    def do(peer):
        start = time.monotonic()
        ops = function(peer)
        return {"ops": ops or 1, "seconds": time.monotonic() - start}
    return do


# --- a real tree --------------------------------------------------------------------------------------

class Tree:
    """A git repository of C headers in two versions, and an archive of it."""

    def __init__(self, folder, files):
        self.folder = os.path.join(folder, "tree")
        self.archive = os.path.join(folder, "tree.tar")
        os.makedirs(self.folder)
        r, n = random.Random(1), 0
        for top, dirs, names in os.walk("/usr/include"):
            dirs.sort()
            for name in sorted(names):
                source = os.path.join(top, name)
                if n < files and os.path.isfile(source):
                    target = os.path.join(self.folder, os.path.relpath(source, "/usr/include"))
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copyfile(source, target)
                    n += 1
        self.files = n
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
        run("tar", "cf", self.archive, "-C", folder, "tree")

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

        def checkout(peer):
            self.git("checkout", "-q", "other", where=there(peer))
            run("sync", "-f", peer.dir)

        def remove(peer):
            shutil.rmtree(there(peer))
            run("sync", "-f", peer.dir)

        return [Row("untar", timed(untar), "1/s"),
                Row("git status, cold", timed(lambda peer: self.git("status", "--porcelain", where=there(peer)) and None), "1/s", cold=True),
                Row("git checkout", timed(checkout), "1/s"),
                Row("du, cold", timed(lambda peer: run("du", "-s", there(peer)) and None), "1/s", cold=True),
                Row("grep -r, cold", timed(lambda peer: run("sh", "-c", f"grep -r no_such_word {there(peer)} || true") and None), "1/s", cold=True),
                Row("rm -rf", timed(remove), "1/s")]


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
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        os.makedirs(data)
        shutil.chown(data, "postgres", "postgres")
        shutil.chown(sock, "postgres", "postgres")
        try:
            run(*user, f"{bins}/initdb", "-D", data, "-A", "trust", "-N", timeout=STEP_SECONDS)
            run(*user, f"{bins}/pg_ctl", "-D", data, "-w", "-l", f"{sock}/log", "-o", f"-k {sock} -c listen_addresses=''", "start", timeout=60)
            try:
                run(*user, f"{bins}/pgbench", "-h", sock, "-i", "-q", "postgres", timeout=STEP_SECONDS)
                out = run(*user, f"{bins}/pgbench", "-h", sock, "-n", "-N", "-c", clients, "-T", seconds, "postgres", timeout=STEP_SECONDS)
            finally:
                run(*user, f"{bins}/pg_ctl", "-D", data, "-w", "-m", "fast", "stop", timeout=60)
        finally:
            shutil.rmtree(sock, ignore_errors=True)
        shutil.rmtree(data)
        tps = float(next(line for line in out.splitlines() if line.startswith("tps")).split()[2])
        return {"ops": int(tps * seconds), "seconds": float(seconds)}
    return do


# --- mounts --------------------------------------------------------------------------------------------

def mount_clean(peer):
    peer.umount()
    start = time.monotonic()
    peer.mount()
    return {"ops": 1, "seconds": time.monotonic() - start}


# --- the rows ------------------------------------------------------------------------------------------------

def rows(tree, scale):
    n = lambda count: int(count * scale)
    names, big, small, large, seconds = n(20000), n(100000), n(5000), max(1, n(512)) << 20, max(0.3, 3 * scale)
    made = [
        Row("create", work("create", "-n", names)),
        Row("stat", work("stat", "-n", names)),
        Row("rename", work("rename", "-n", names)),
        Row("unlink", work("unlink", "-n", names)),
        Row("mkdir", work("mkdir", "-n", names)),
        Row("rmdir", work("rmdir", "-n", names)),
    ]
    made += [Row(f"create + unlink, {t} threads", work("churn", "-n", names, "-t", t)) for t in (1, 4, 16)]
    made += [
        Row("large directory: create", work("big-create", "-n", big)),
        Row("large directory: lookup", work("big-lookup", "-n", n(20000), "-p", big)),
        Row("large directory: lookup, cold", work("big-lookup", "-n", n(20000), "-p", big), cold=True),
        Row("large directory: readdir, cold", work("big-readdir"), cold=True),
        Row("large directory: ls -l, cold", work("big-ls"), cold=True),
        Row("small files: write", work("small-write", "-n", small)),
        Row("small files: read, cold", work("small-read", "-n", small), cold=True),
        Row("small files: read, hot", work("small-read", "-n", small)),
        Row("open + read + close, hot", work("open", "-n", small)),
        Row("small files: remove", work("small-unlink", "-n", small)),
        Row("sequential write + fsync", work("seq-write", "-S", large), "MB/s"),
        Row("sequential overwrite + fsync", work("seq-overwrite", "-S", large), "MB/s"),
        Row("sequential read, cold", work("seq-read", "-S", large), "MB/s", cold=True),
        Row("sequential read, hot", work("seq-read", "-S", large), "MB/s"),
        Row("random 4 KiB reads, cold", work("random-read", "-S", large, "-s", seconds), cold=True),
        Row("random 4 KiB reads, hot", work("random-read", "-S", large, "-s", seconds)),
        Row("random 4 KiB overwrites, one fsync", work("random-write", "-S", large, "-n", n(20000))),
        Row("direct: sequential write", work("seq-write", "-d", "-S", large), "MB/s", disk=True),
        Row("direct: sequential read", work("seq-read", "-d", "-S", large), "MB/s", disk=True),
    ]
    made += [Row(f"direct: random 4 KiB reads, {t} threads", work("random-read", "-d", "-S", large, "-t", t, "-s", seconds), disk=True) for t in (1, 16)]
    made += [Row("direct: random 4 KiB overwrites, fdatasync each", work("random-write-synced", "-d", "-S", large, "-s", seconds), disk=True),
             Row("random 4 KiB overwrites, fdatasync each", work("random-write-synced", "-S", large, "-s", seconds))]
    for t in (1, 4, 16):
        made += [
            Row(f"512-byte append + fdatasync, {t} threads", work("append-synced", "-t", t, "-s", seconds)),
            Row(f"4 KiB overwrite + fdatasync, {t} threads", work("overwrite-synced", "-t", t, "-s", seconds)),
            Row(f"atomic replace, {t} threads", work("replace", "-t", t, "-s", seconds)),
            Row(f"create + write + fsync, {t} threads", work("create-synced", "-t", t, "-s", seconds)),
        ]
    made += tree.rows()
    made += [Row("sqlite3 commits, WAL", sqlite("WAL", seconds)), Row("sqlite3 commits, rollback journal", sqlite("DELETE", seconds))]
    pg = pgbench(8, max(2, int(10 * scale)))
    made += [Row("pgbench, 8 clients", pg)] if pg else []
    made += [Row("mount, clean", mount_clean, "1/s")]
    return made


# --- running ---------------------------------------------------------------------------------------------------

def busy_seconds():
    """Of all processors, what others on the same host took away not counted."""
    with open("/proc/stat", encoding="ascii") as f:
        t = [int(x) for x in f.readline().split()[1:]]
    return (t[0] + t[1] + t[2] + t[5] + t[6]) / os.sysconf("SC_CLK_TCK")


class Progress:
    def __init__(self, steps):
        self.steps, self.done, self.start, self.took = steps, 0, time.monotonic(), {}

    def show(self, text):
        if sys.stderr.isatty():
            left = (time.monotonic() - self.start) / self.done * (self.steps - self.done) if self.done else 0
            print(f"\r\033[K{self.done}/{self.steps}, {int(left) // 60} min {int(left) % 60:02d} s left: {text}", end="", file=sys.stderr, flush=True)

    def step(self, text):
        self.show(text)
        self.done += 1

    def end(self):
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)


def figure(row, out):
    if row.unit == "MB/s":
        return out["bytes"] / out["seconds"] / 1e6
    return out["ops"] / out["seconds"]


def run_round(peer, table, results, progress, trouble):
    peer.create()
    peer.mount()
    try:
        for row in table:
            if isinstance(peer, peer_list.Disk) and not row.disk:
                continue
            progress.step(f"{peer.name}: {row.name}")
            try:
                if row.cold:
                    peer.cold()
                busy = busy_seconds()
                out = row.do(peer)
                out["cpu"] = busy_seconds() - busy
            except (Failed, OSError, sqlite3.Error, subprocess.TimeoutExpired) as e:
                trouble.append(f"{peer.name}: {row.name}: {str(e).strip()[-300:]}")
                continue
            results.setdefault((peer.name, row.name), []).append(dict(out, figure=figure(row, out)))
        peer.umount()
    finally:
        peer.clean_up()


def median(runs, key="figure"):
    return statistics.median(r[key] for r in runs)


def spread(runs):
    values = [r["figure"] for r in runs]
    return (max(values) - min(values)) / statistics.median(values)


def summary(table, names, results):
    out = []
    for row in table:
        line = {"row": row.name, "unit": row.unit, "peers": {}}
        base = results.get(("ext4", row.name))
        for name in names:
            runs = results.get((name, row.name))
            if runs:
                line["peers"][name] = {
                    "median": median(runs), "spread": spread(runs), "runs": [r["figure"] for r in runs],
                    "ratio_to_ext4": median(runs) / median(base) if base else None,
                    "cpu_us_per_op": statistics.median(r["cpu"] / r["ops"] * 1e6 for r in runs),
                    **({"p50_us": median(runs, "p50_us"), "p999_us": median(runs, "p999_us")} if "p50_us" in runs[0] else {}),
                }
        out.append(line)
    return out


def short(x):
    return f"{x:.3g}" if x < 1000 else f"{x / 1000:.3g}k" if x < 1e6 else f"{x / 1e6:.3g}M"


def show(lines, names):
    width = max(len(line["row"]) for line in lines) + 1
    print(" " * width + "".join(f"{name:>22}" for name in names))
    for line in lines:
        text = f"{line['row']:<{width}}"
        for name in names:
            p = line["peers"].get(name)
            if not p:
                text += f"{'-':>22}"
                continue
            ratio = f" x{p['ratio_to_ext4']:.2f}" if p["ratio_to_ext4"] and name != "ext4" else ""
            cell = f"{short(p['median'])}{ratio} ±{p['spread'] * 50:.0f}%"
            text += f"{cell:>22}"
        print(f"{text}  {line['unit']}")
    print("\nCPU microseconds per operation, the whole machine's:")
    for line in lines:
        cells = "".join(f"{line['peers'][n]['cpu_us_per_op']:>22.1f}" if n in line["peers"] else f"{'-':>22}" for n in names)
        print(f"{line['row']:<{width}}{cells}")


def svg(lines, names, path):
    """Bars of the ratio to ext4, on a logarithmic scale from 1/16 to 16."""
    import math
    colours = ["#1b6ca8", "#6aaed6", "#444444", "#999999", "#d98c3a", "#b35a5a"]
    shown = [n for n in names if n not in ("ext4", "disk")]
    lines = [line for line in lines if any(line["peers"].get(n, {}).get("ratio_to_ext4") for n in shown)]
    bar, left, wide, top = 9, 330, 560, 50
    each = bar * len(shown) + 8
    height = top + each * len(lines) + 20
    x = lambda ratio: left + wide * (min(4, max(-4, math.log2(ratio))) + 4) / 8
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 60}" height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="100%" height="100%" fill="white"/>']
    for i, n in enumerate(shown):
        out += [f'<rect x="{left + i * 110}" y="8" width="10" height="10" fill="{colours[i % 6]}"/>',
                f'<text x="{left + 14 + i * 110}" y="17">{n}</text>']
    for e in range(-4, 5):
        at = x(2 ** e)
        label = str(2 ** e) if e >= 0 else f"1/{2 ** -e}"
        out += [f'<line x1="{at}" x2="{at}" y1="{top - 8}" y2="{height - 10}" stroke="{"#000" if e == 0 else "#ddd"}"/>',
                f'<text x="{at}" y="{top - 12}" text-anchor="middle">{label}</text>']
    for k, line in enumerate(lines):
        y = top + k * each
        out.append(f'<text x="{left - 8}" y="{y + each / 2}" text-anchor="end">{line["row"]}</text>')
        for i, n in enumerate(shown):
            ratio = line["peers"].get(n, {}).get("ratio_to_ext4")
            if ratio:
                a, b = sorted((x(1), x(ratio)))
                out.append(f'<rect x="{a:.1f}" y="{y + i * bar}" width="{max(1, b - a):.1f}" height="{bar - 1}" fill="{colours[i % 6]}"/>')
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")


def choose(args, folder):
    chosen, absent = [], []
    wanted = args.peers.split(",") if args.peers else [c.name for c in peer_list.ALL]
    unknown = set(wanted) - {c.name for c in peer_list.ALL}
    if unknown:
        raise Failed(f"unknown peers: {', '.join(sorted(unknown))}")
    for cls in peer_list.ALL:
        if cls.name in wanted:
            peer = cls(folder, 8 * GIB if not args.quick else 2 * GIB)
            why = peer.missing()
            (absent if why else chosen).append(peer if not why else f"{cls.name}: {why}")
    return chosen, absent


def main():
    parser = argparse.ArgumentParser(prog="./setup bench", description="Holdfast beside other filesystems.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="one or more of " + ",".join(c.name for c in peer_list.ALL))
    parser.add_argument("--rows", help="only rows with this text in their name; what they need runs, too")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: whether it runs, not how fast")
    parser.add_argument("--dir", default="/var/tmp", help="where images are made")
    parser.add_argument("--json", help="results to this file")
    parser.add_argument("--svg", help="a chart to this file")
    args = parser.parse_args()
    # As after Ctrl-C: what is mounted is unmounted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="holdfast-bench-", dir=args.dir)
    trouble, results = [], {}
    try:
        chosen, absent = choose(args, folder)
        tree = Tree(folder, 500 if args.quick else 6000)
        table = rows(tree, 0.1 if args.quick else 1)
        if args.rows:
            last = max((i for i, row in enumerate(table) if args.rows in row.name), default=-1)
            if last < 0:
                raise Failed(f"no row has \"{args.rows}\" in its name")
            table = table[:last + 1]
        names = [p.name for p in chosen]
        progress = Progress(args.rounds * sum(len([r for r in table if r.disk or p.name != "disk"]) for p in chosen))
        for _ in range(args.rounds):
            for peer in chosen:
                run_round(peer, table, results, progress, trouble)
        progress.end()
        lines = [line for line in summary(table, names, results) if not args.rows or args.rows in line["row"]]
        show(lines, names)
        for text in absent:
            print(f"not compared: {text}")
        for text in trouble:
            print(f"FAILED: {text}")
        if args.json:
            with open(args.json, "w", encoding="utf-8") as f:
                json.dump({"rounds": args.rounds, "kernel": os.uname().release, "cpus": os.cpu_count(), "rows": lines, "failed": trouble}, f, indent=1)
        if args.svg:
            svg(lines, names, args.svg)
    except Failed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
