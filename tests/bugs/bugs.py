#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Shows that the simulation finds every deliberate mistake of core/bug.h, and within how many seeds.

    tests/bugs/bugs.py                 all of them
    tests/bugs/bugs.py NAME...         these
    tests/bugs/bugs.py --quick         a few that are found at once: what ./setup test runs; all with HOLDFAST_LONG=1
    tests/bugs/bugs.py --table         prints rows for docs/testing.md

Each mistake is switched on alone, and seeds run from 1 on until one of them fails: that is the number reported.  The same seeds must
pass when no mistake is active, else the find would be worth nothing.  What the simulation cannot see is left to a unit test,
likewise with and without.  Exit status 0: every mistake was found, and nothing where there was none.
"""
import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIMIT = 20000
SECONDS = 1800	# for the seeds of one mistake

QUICK = ["data-flush-left-out", "home-not-verified", "crc-without-lsn", "root-before-nodes", "csum-before-bytes", "nlink-not-lowered",
         "frozen-page-changed", "applied-lsn-ignored", "data-not-verified", "label-not-durable", "flags-not-in-rename", "lazy-time-dropped"]

# Seeds of which kind find it; default: power cuts, any profile.
HOW = {
    "data-takes-promised": ["--profile", "full"],
    "cached-room-not-kept": ["--profile", "cached"],
    "damage-taken-for-tail": ["--faults"],
    "second-copy-not-tried": ["--faults"],
    "data-error-swallowed": ["--faults"],
    "data-not-verified": ["--faults"],
}

# What no seed has met so far: the unit test that does.
UNIT = {
    "journal-overrun": ("test_volume_bugs", "test_laps_of_the_journal"),
    "default-acl-stale": ("test_fs_acl_bugs", "default_comes_and_goes"),
}


def all_bugs():
    with open(os.path.join(TOP, "core", "bug.h"), encoding="utf-8") as f:
        return dict(re.findall(r'^\tX\(\w+, "([a-z0-9-]+)", "([^"]+)"\)', f.read(), re.M))


def uncovered():
    """Files that have a mistake in them and are not compiled with it: there none would ever be found."""
    with open(os.path.join(TOP, "tests", "bugs", "meson.build"), encoding="utf-8") as f:
        compiled = set(re.findall(r"'\.\./\.\./(\w+/\w+\.c)'", f.read()))
    sources = [os.path.join(d, f) for d in ("core", "journal", "fs", "fsck") for f in os.listdir(os.path.join(TOP, d))]
    having = set()
    for name in sources:
        with open(os.path.join(TOP, name), encoding="utf-8") as f:
            if name.endswith(".c") and re.search(r"\bBUG\(", f.read()):
                having.add(name)
    return having ^ compiled


class Search:
    def __init__(self, args):
        self.directory = os.path.join(args.build, "tests", "bugs")
        self.limit = args.limit

    def seeds(self, last, how, jobs=1, bug=None):
        """None: seeds 1 to `last` pass.  Else the first that does not, and what it said."""
        argv = [os.path.join(self.directory, "sim_bugs"), "--seeds", f"1..{last}", "--jobs", str(jobs), "--first",
                "--shrink", "0", *how]
        done = subprocess.run(argv + (["--bug", bug] if bug else []), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS, check=False)
        if done.returncode == 0:
            return None
        hit = re.search(r"seed (\d+): (.*)", done.stdout)
        if done.returncode != 1 or not hit:
            raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-2000:]}")
        return int(hit[1]), hit[2]

    def unit(self, program, test, bug=None):
        """None: the test passes.  Else how it fails."""
        env = {k: v for k, v in os.environ.items() if k != "HOLDFAST_BUG"}
        if bug:
            env["HOLDFAST_BUG"] = bug
        done = subprocess.run([os.path.join(self.directory, program)], env=env, stdin=subprocess.DEVNULL, timeout=SECONDS,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        if re.search(rf"^\[       OK \] {test}$", done.stdout, re.M):
            return None
        return f"{program[:-5]}.c::{test} fails, exit {done.returncode}"

    def find(self, bug):
        """What found it: a number of seeds (0: a unit test) and what was said; None: nothing."""
        if bug not in UNIT:
            return self.seeds(self.limit, HOW.get(bug, []), bug=bug)
        said = self.unit(*UNIT[bug], bug=bug)
        return (0, said) if said else None


def show(ok, text):
    """As a line that tests/run.py counts."""
    print(f"{'[       OK ]' if ok else '[  FAILED  ]'} {text}", flush=True)
    return 0 if ok else 1


def search(s, args, wanted, what):
    """Returns how many were missed, and the seeds that it took: kind of seeds -> how many."""
    missed, needed = 0, {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for bug, found in zip(wanted, pool.map(s.find, wanted)):
            how = HOW.get(bug, [])
            n, said = found or (s.limit, f"not found within {s.limit} seeds")
            missed += show(found, f"{bug}: {f'seed {n}: ' if found and n else ''}{said[:160]}")
            if bug not in UNIT:
                needed[tuple(how)] = max(needed.get(tuple(how), 0), n)
            if args.table and found:
                where = f"{n} {' '.join(how)}".strip() if n else f"unit test {UNIT[bug][0][:-5]}.c::{UNIT[bug][1]}"
                print(f"| {bug} | {what[bug]} | {where} |")
    return missed, needed


def control(s, args, wanted, needed):
    """The same without a mistake."""
    missed = 0
    for how, last in needed.items():
        found = s.seeds(last, how, jobs=args.jobs)
        said = f"seed {found[0]}: {found[1][:160]}" if found else "pass"
        missed += show(not found, f"no mistake active: seeds {' '.join([f'1..{last}', *how])}: {said}")
    for program, test in sorted({UNIT[bug] for bug in wanted if bug in UNIT}):
        said = s.unit(program, test)
        missed += show(not said, f"no mistake active: {said or f'{program[:-5]}.c::{test} passes'}")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bugs", nargs="*", metavar="NAME")
    parser.add_argument("--build", default=os.path.join(TOP, "build"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seeds to try for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    what = all_bugs()
    wanted = args.bugs or (QUICK if args.quick and os.environ.get("HOLDFAST_LONG") != "1" else list(what))
    for bug in wanted:
        if bug not in what:
            parser.error(f"no deliberate mistake is called '{bug}'")
    start = time.time()
    s = Search(args)
    astray = uncovered()
    missed = show(not astray, f"tests/bugs/meson.build compiles what has mistakes: {' '.join(sorted(astray)) or 'yes'}")
    not_found, needed = search(s, args, wanted, what)
    missed += not_found
    missed += control(s, args, wanted, needed)
    print(f"{len(wanted)} deliberate mistakes, {time.time() - start:.0f} s: {f'{missed} FAILED' if missed else 'all found'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
