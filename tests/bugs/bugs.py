#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Shows that the simulation finds every deliberate mistake of core/bug.h, and within how many seeds.

    tests/bugs/bugs.py                 all of them
    tests/bugs/bugs.py NAME...         these
    tests/bugs/bugs.py --quick         a few that are found at once: what ./setup test runs
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

QUICK = ["data-flush-left-out", "crc-without-lsn", "root-before-nodes", "csum-before-bytes", "nlink-not-lowered", "rename-in-two"]

# Seeds of which kind find it; default: power cuts, any profile.
HOW = {
    "data-error-swallowed": ["--faults"],
    "log-error-ignored": ["--faults"],
    "damage-taken-for-tail": ["--faults"],
    "data-not-verified": ["--faults"],
    "second-copy-not-tried": ["--faults"],
}


def all_bugs():
    with open(os.path.join(TOP, "core", "bug.h"), encoding="utf-8") as f:
        return dict(re.findall(r'^\tX\(\w+, "([a-z0-9-]+)", "([^"]+)"\)', f.read(), re.M))


class Sim:
    def __init__(self, build, limit):
        self.program = os.path.join(build, "tests", "bugs", "sim_bugs")
        self.limit = limit

    def run(self, first, last, how, jobs=1, bug=None):
        """None: all seeds pass.  Else (seed, what it said) of the first that does not."""
        argv = [self.program, "--seeds", f"{first}..{last}", "--jobs", str(jobs), "--first", "--shrink", "0", *how]
        done = subprocess.run(argv + (["--bug", bug] if bug else []), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS, check=False)
        if done.returncode == 0:
            return None
        hit = re.search(r"seed (\d+): (.*)", done.stdout)
        if done.returncode != 1 or not hit:
            raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-2000:]}")
        return int(hit[1]), hit[2].split("\n")[0]

    def find(self, bug):
        return self.run(1, self.limit, HOW.get(bug, []), bug=bug)


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
    wanted = args.bugs or (QUICK if args.quick else list(what))
    for bug in wanted:
        if bug not in what:
            parser.error(f"no deliberate mistake is called '{bug}'")
    sim = Sim(args.build, args.limit)
    start = time.time()
    missed = 0
    seeds = {}	# kind of seeds -> how many were needed
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for bug, found in zip(wanted, pool.map(sim.find, wanted)):
            how = tuple(HOW.get(bug, []))
            if found:
                seeds[how] = max(seeds.get(how, 0), found[0])
                print(f"[       OK ] {bug}: seed {found[0]}: {found[1][:150]}", flush=True)
                if args.table:
                    print(f"| {bug} | {what[bug]} | {found[0]}{' (faults)' if how else ''} |")
            else:
                missed += 1
                seeds[how] = args.limit
                print(f"[  FAILED  ] {bug}: not found within {args.limit} seeds", flush=True)
    for how, last in seeds.items():
        found = sim.run(1, last, how, jobs=args.jobs)
        kind = " ".join(["seeds", f"1..{last}", *how])
        if found:
            missed += 1
            print(f"[  FAILED  ] no mistake active: {kind}: seed {found[0]}: {found[1][:150]}")
        else:
            print(f"[       OK ] no mistake active: {kind} pass")
    print(f"{len(wanted)} deliberate mistakes, {time.time() - start:.0f} s: {f'{missed} FAILED' if missed else 'all found'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
