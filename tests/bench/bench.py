#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Holdfast beside other filesystems: the same work on each in turn, in several rounds, on the same disk.

    ./setup bench [--rounds N] [--peers A,B] [--rows A|B] [--seconds S] [--quick] [--dir FOLDER] [--json FILE] [--svg FILE]

docs/performance.md says what the peers and the rows are (peers.py, rows.py).  A row's figure is the median of the rounds, shown with its
ratio to ext4 and with the spread, half of (most - least) / median.  CPU is that of the whole machine, client, kernel and daemon, per
operation: it means something only where nothing else runs.  Cold rows begin with a new mount and empty caches; before hot ones everything
that they read is read.  Nothing is asserted about time; the exit status says whether everything could be done.  Run it as root on a disk with
20 GB to spare, and on nothing else than a quiet machine if the figures are to be believed.
"""
import argparse
import json
import math
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import goals
import peers as peer_list
import rows as row_list
from peers import Failed

GIB = 1 << 30
TELL_SECONDS = 30  # between lines of progress that nobody watches


# --- running ---------------------------------------------------------------------------------------------------

class Progress:
    def __init__(self, steps):
        self.steps, self.done, self.start = steps, 0, time.monotonic()
        self.told = self.start
        self.watched = sys.stderr.isatty()

    def show(self, text):
        now = time.monotonic()
        if not self.watched and now < self.told + TELL_SECONDS:
            return
        self.told = now
        left = (now - self.start) / self.done * (self.steps - self.done) if self.done else 0
        line = f"{self.done}/{self.steps}, {int(left) // 60} min {int(left) % 60:02d} s left: {text}"
        print(f"\r\033[K{line}" if self.watched else line, end="" if self.watched else "\n", file=sys.stderr, flush=True)

    def step(self, text):
        self.show(text)
        self.done += 1

    def end(self):
        if self.watched:
            print("\r\033[K", end="", file=sys.stderr)


def run_round(number, peer, table, results, progress, trouble):
    try:
        peer.create()
        peer.mount()
        for row in table:
            if not row.runs_on(peer, number):
                continue
            progress.step(f"{peer.name}: {row.name}")
            try:
                # Else the disk below would be measured.
                if peer.is_filesystem and not peer_list.is_mounted(peer.dir):
                    raise Failed("is not mounted any more")
                if row.cold:
                    peer.cold()
                if row.warm:
                    row.warm(peer)
                busy = row_list.busy_seconds()
                out = row.do(peer)
                out.setdefault("cpu", row_list.busy_seconds() - busy)
            except (Failed, OSError, sqlite3.Error, subprocess.TimeoutExpired) as e:
                trouble.append(f"{peer.name}: {row.name}: {str(e).strip()[-300:]}")
                continue
            results.setdefault((peer.name, row.name), []).append(dict(out, figure=row.figure(out)))
        peer.umount()
    except Failed as e:
        trouble.append(f"{peer.name}: {e}")
    finally:
        peer.clean_up()


def median(runs, key="figure"):
    return statistics.median(r[key] for r in runs)


def spread(runs):
    values = [r["figure"] for r in runs]
    return (max(values) - min(values)) / statistics.median(values)


def ratio(row, runs, base):
    """Above 1 is better."""
    return median(base) / median(runs) if row.lower else median(runs) / median(base)


def summary(table, names, results):
    out = []
    for row in table:
        line = {"row": row.name, "unit": row.unit, "lower_is_better": row.lower, "peers": {}}
        base = results.get(("ext4", row.name))
        for name in names:
            runs = results.get((name, row.name))
            if runs:
                line["peers"][name] = {
                    "median": median(runs), "spread": spread(runs), "runs": [r["figure"] for r in runs],
                    "ratio_to_ext4": ratio(row, runs, base) if base else None,
                    "cpu_us_per_op": statistics.median(r["cpu"] / r["ops"] * 1e6 for r in runs),
                    **{key: [r[key] for r in runs] for key in ("checkpoints", "replayed_bytes") if key in runs[0]},
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
    colours = ["#1b6ca8", "#6aaed6", "#444444", "#999999", "#d98c3a", "#b35a5a"]
    shown = [n for n in names if n != "ext4" and any(line["peers"].get(n, {}).get("ratio_to_ext4") for line in lines)]
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
            peer = cls(folder, 8 * GIB if args.scale >= 1 else 2 * GIB if args.scale >= 0.1 else GIB // 2)
            peer.keep_caches = args.keep_caches
            why = peer.missing()
            (absent if why else chosen).append(peer if not why else f"{cls.name}: {why}")
    return chosen, absent


def texts(option):
    return option.split("|") if option else []


def main():
    parser = argparse.ArgumentParser(prog="./setup bench", description="Holdfast beside other filesystems.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="one or more of " + ",".join(c.name for c in peer_list.ALL))
    parser.add_argument("--rows", help="only rows with one of these texts (A|B|C) in their names, or of these names; what they need runs, too")
    parser.add_argument("--seconds", type=float, help="how long rows take that go on for a time; default 3")
    parser.add_argument("--skip", help="not those with one of these texts (A|B|C) in their names, nor what needs them")
    parser.add_argument("--long", action="store_true", help="a directory of ten million entries, too")
    parser.add_argument("--scale", type=float, default=1.0, help="of the work; default 1")
    parser.add_argument("--quick", action="store_true", help="--scale 0.1: whether it runs, not how fast")
    parser.add_argument("--keep-caches", action="store_true", help="cold rows only mount anew, and leave the machine's caches alone")
    parser.add_argument("--dir", default="/var/tmp", help="where images are made")
    parser.add_argument("--json", help="results to this file")
    parser.add_argument("--svg", help="a chart to this file")
    args = parser.parse_args()
    args.scale = 0.1 if args.quick else args.scale
    # As after Ctrl-C: what is mounted is unmounted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="holdfast-bench-", dir=args.dir)
    os.chmod(folder, 0o755)  # PostgreSQL does not run as root
    trouble, results = [], {}
    try:
        chosen, absent = choose(args, folder)
        tree = row_list.Tree(folder, max(20, int(6000 * args.scale)))
        table = row_list.all_rows(tree, row_list.Sizes(args.scale, args.seconds, args.long))
        table, wanted = row_list.chosen(table, texts(args.rows) or [""], texts(args.skip))
        names = [p.name for p in chosen]
        progress = Progress(sum(row.runs_on(p, i) for i in range(args.rounds) for p in chosen for row in table))
        try:
            for i in range(args.rounds):
                for peer in chosen:
                    run_round(i, peer, table, results, progress, trouble)
        except KeyboardInterrupt:
            trouble.append("interrupted; the table has what was measured until then")
        progress.end()
        lines = summary([row for row in table if row.name in wanted], names, results)
        show(lines, names)
        reached = goals.look(lines)
        goals.show(reached)
        for text in absent:
            print(f"not compared: {text}")
        for text in trouble:
            print(f"FAILED: {text}")
        if args.json:
            with open(args.json, "w", encoding="utf-8") as f:
                json.dump({"rounds": args.rounds, "kernel": os.uname().release, "cpus": os.cpu_count(), "rows": lines, "goals": reached, "failed": trouble}, f, indent=1)
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
