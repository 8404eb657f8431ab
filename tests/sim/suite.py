#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The simulation as ./setup test runs it: fixed seeds, new ones, the same ones twice, some with sanitizers, and the command line.

    tests/sim/suite.py [--build DIR] [--sanitized DIR]

Each line that begins with [       OK ] or [  FAILED  ] is one test.  Numbers of new seeds are printed, and of a failure everything
that the simulation says of it.  HOLDFAST_LONG=1: ten times as many seeds and more.
"""
import argparse
import os
import random
import re
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LONG = os.environ.get("HOLDFAST_LONG") == "1"
JOBS = 2
MINUTES = 60 if LONG else 8	# for one range of seeds

# [first, last] of the fixed seeds: with power cuts only, with other faults too, both with sanitizers
CUTS, FAULTS = (20000, 10000) if LONG else (2000, 500)
NEW_CUTS, NEW_FAULTS = (4000, 2000) if LONG else (500, 200)
SANITIZED_CUTS, SANITIZED_FAULTS = (2000, 1000) if LONG else (200, 100)
# Beyond these, and once found something.
FOUND = [("31768..31768", []), ("210515..210515", []), ("30468..30468", ["--faults"]), ("39204..39204", ["--faults"]), ("40695..40695", ["--faults"]),
         ("42072..42072", ["--faults"]), ("49723..49723", ["--faults"])]
TWICE = [("11..60", []), ("11..60", ["--faults"]), ("7..7", ["--profile", "journal"]), ("8..8", ["--profile", "full"])]

# Of each thing, so many in the fixed seeds with power cuts: a simulation that does not get there finds nothing.
LEAST = {
    "cuts during recovery": 500,
    "cuts during a checkpoint": 500,
    "cuts while closing": 100,
    "cuts with writes in flight": 100,
    "cuts with unlinked open files": 100,
    "cuts that took unsynced changes": 1000,
    "cuts that kept unsynced changes": 1000,
    "torn tails": 100,
    "laps of the journal": 500,
    "operations amid a checkpoint": 1000,
    "operations without space": 500,
    "short writes": 100,
    "fsck runs": 1000,
    "read-only mounts": 100,
    "changes of flags": 300,
    "writes that a flag forbids": 150,
    "truncations and fallocates that a flag forbids": 50,
    "changes of attributes that a flag forbids": 30,
    "changes of xattrs that a flag forbids": 80,
    "new names that a flag forbids": 50,
    "links that a flag forbids": 20,
    "removals that a flag forbids": 80,
    "renames that a flag forbids": 80,
    "appends to append-only files": 5,
    "changes made durable for a flag": 150,
    "trims": 150,
    "labels set": 250,
    "cuts while a label is set": 30,
    "shutdowns": 100,
    "shutdowns that took unsynced changes": 40,
    "operations refused after a shutdown": 2000,
    "times of access kept in memory": 300,
    "of them stored later": 250,
    "of them lost with the power or a shutdown": 10,
    "writes acknowledged before they came": 300,
    "of them that came when others had less than 100 blocks": 20,
    "of them that came to a file with a forbidding flag": 5,
}

# What is wrong, and what the message names.
BAD = [
    ([], "usage:"),
    (["--seeds", "1"], "'1'"),
    (["--seeds", "5..4"], "'4'"),
    (["--seeds", "1..x"], "'x'"),
    (["--seed", "-1"], "'-1'"),
    (["--seed", "99999999999999999999"], "'99999999999999999999'"),
    (["--seed", "1", "--jobs", "0"], "'0'"),
    (["--seed", "1", "--jobs", "65"], "'65'"),
    (["--seed", "1", "--profile", "none"], "'none'"),
    (["--seed", "1", "--minutes", "soon"], "'soon'"),
    (["--seed", "1", "more"], "'more'"),
    (["--seed", "1", "--bug", "crc-without-lsn"], "sim_bugs"),
    (["--sed", "1"], "--sed"),
]


class Suite:
    def __init__(self):
        self.failed = 0

    def show(self, ok, text):
        print(f"{'[       OK ]' if ok else '[  FAILED  ]'} {text}", flush=True)
        self.failed += not ok

    def run(self, sim, args):
        """Exit status and everything that it says; a hang is a failure."""
        try:
            done = subprocess.run([sim, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, errors="replace", timeout=60 * MINUTES, check=False)
        except subprocess.TimeoutExpired as e:
            return None, f"{(e.stdout or b'').decode(errors='replace')}\nsim: not done after {MINUTES} minutes"
        return done.returncode, done.stdout

    def seeds(self, what, sim, first, last, *more):
        """They pass, which takes that there were so many of them.  Returns what is said."""
        status, said = self.run(sim, ["--seeds", f"{first}..{last}", "--jobs", str(JOBS), *more])
        total = re.search(r"^(\d+) seeds, (\d+ power cuts, \d+ faults; .* s, \d+ seeds/s, \d+ cuts/s); \d+ failed$", said, re.M)
        ok = status == 0 and total is not None and int(total[1]) == last - first + 1
        self.show(ok, f"{what}: seeds {' '.join([f'{first}..{last}', *more])}: {total[2] if ok else f'status {status}'}")
        if not ok:
            print(said, flush=True)
        return said

    def coverage(self, said):
        for what, least in LEAST.items():
            found = re.search(rf"^ *(\d+) {what}$", said, re.M)
            n = int(found[1]) if found else 0
            self.show(n >= least, f"fixed: {n} {what}{'' if n >= least else f', not {least}'}")

    def digest(self, sim, seeds, more, jobs):
        said = self.run(sim, ["--seeds", seeds, "--digest", "--jobs", str(jobs), *more])[1]
        found = re.search(r"^digest ([0-9a-f]{16})$", said, re.M)
        return found[1] if found else None

    def twice(self, sim):
        """One seed is one history, whatever else the process has done."""
        seen = set()
        for seeds, more in TWICE:
            a, b = self.digest(sim, seeds, more, 1), self.digest(sim, seeds, more, JOBS)
            ok = a is not None and a == b and a not in seen
            seen.add(a)
            self.show(ok, f"the same history twice: seeds {' '.join([seeds, *more])}: {a}{'' if ok else f', {b}'}")

    def command_line(self, sim):
        for args, word in BAD:
            status, said = self.run(sim, args)
            ok = status == 2 and word in said and "usage: sim" in said
            self.show(ok, f"refused: sim {' '.join(args)}" + ("" if ok else f": status {status}: {said}"))
        status, said = self.run(sim, ["--help"])
        self.show(status == 0 and "usage: sim" in said, "sim --help")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(TOP, "build"))
    parser.add_argument("--sanitized", metavar="DIR", help="a build directory with sanitizers")
    args = parser.parse_args()
    sim = os.path.join(args.build, "tests", "sim", "sim")
    s = Suite()
    start = time.time()
    s.coverage(s.seeds("fixed", sim, 1, CUTS))
    s.seeds("fixed", sim, 1, FAULTS, "--faults")
    for seeds, more in FOUND:
        s.seeds("found", sim, *map(int, seeds.split("..")), *more)
    # Far from the fixed ones, and short enough to be typed.
    first = random.SystemRandom().randrange(1000000, 1000000000)
    s.seeds("new", sim, first, first + NEW_CUTS - 1)
    s.seeds("new", sim, first, first + NEW_FAULTS - 1, "--faults")
    s.twice(sim)
    s.command_line(sim)
    if args.sanitized:
        sanitized = os.path.join(args.sanitized, "tests", "sim", "sim")
        s.seeds("sanitized", sanitized, 1, SANITIZED_CUTS)
        s.seeds("sanitized", sanitized, 1, SANITIZED_FAULTS, "--faults")
    print(f"simulation: {time.time() - start:.0f} s: {f'{s.failed} FAILED' if s.failed else 'all passed'}")
    return 1 if s.failed else 0


if __name__ == "__main__":
    sys.exit(main())
