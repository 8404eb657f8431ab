#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets: run.py BUILD-DIR short | run.py BUILD-DIR long [TARGET] [--minutes N]

short: what was found earlier (regressions/TARGET) and a fixed number of runs from a fixed seed, so that it is the same every time; writes
BUILD-DIR/fuzz.xml.  long: for as long as is said, the targets in turn; inputs worth keeping are kept in BUILD-DIR/corpus/TARGET.  What
fails lies in BUILD-DIR/findings/TARGET; the program takes such a file as its argument.
"""
import argparse
import glob
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

HERE = os.path.dirname(os.path.abspath(__file__))
# target: runs when short; each a second or two on an idle core
TARGETS = {"format": 20000, "node": 10000, "replay": 400, "fsck": 200, "repair": 60, "mount": 120}
LIMITS = ["-timeout=60", "-rss_limit_mb=1024", "-max_len=1540", "-print_final_stats=1"]
ENV = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=1:allocator_may_return_null=1:handle_abort=1",
    "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
}
ROUND = 120  # seconds for a target before the next one's turn


def folder(build, kind, target):
    path = os.path.join(build, kind, target)
    os.makedirs(path, exist_ok=True)
    return path


def fuzz(build, target, args, log):
    """Exit status of one libFuzzer run."""
    exe = os.path.join(build, "tests", "fuzz", "fuzz_" + target)
    argv = [exe, *LIMITS, f"-artifact_prefix={folder(build, 'findings', target)}/", *args]
    with open(log, "wb") as out:
        try:
            return subprocess.run(argv, env=dict(os.environ, **ENV), stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.STDOUT, check=False).returncode
        except OSError as e:
            out.write(f"{exe}: {e.strerror}\n".encode())
            return 1


def executions(log):
    with open(log, errors="replace") as f:
        counts = [line.split()[-1] for line in f if line.startswith("stat::number_of_executed_units")]
    return int(counts[-1]) if counts else 0


def tail(log):
    with open(log, errors="replace") as f:
        return f.read()[-6000:]


def short(build):
    suite = xml.Element("testsuite", name="fuzz")
    failed = 0
    for target, runs in TARGETS.items():
        old = sorted(glob.glob(os.path.join(HERE, "regressions", target, "*")))
        for name, args in (("regressions", old), ("runs", [f"-runs={runs}", "-seed=1"])):
            if not args:
                continue
            log = os.path.join(build, f"fuzz-{target}-{name}.log")
            status = fuzz(build, target, args, log)
            case = xml.SubElement(suite, "testcase", classname=target, name=name)
            # Fewer runs than asked for would be no test.
            if status or (name == "runs" and executions(log) < runs):
                failed += 1
                xml.SubElement(case, "failure", message=f"status {status}, see {log}")
                print(f"{target}: {name}:\n{tail(log)}")
    xml.ElementTree(suite).write(os.path.join(build, "fuzz.xml"))
    return 1 if failed else 0


def long(build, targets, minutes):
    end = time.time() + 60 * minutes
    total = dict.fromkeys(targets, 0)
    failed = []
    while not failed and time.time() < end:
        for target in targets:
            seconds = int(min(ROUND if len(targets) > 1 else 60 * minutes, end - time.time()))
            if seconds < 1:
                break
            log = os.path.join(build, f"fuzz-{target}-long.log")
            status = fuzz(build, target, [f"-max_total_time={seconds}", folder(build, "corpus", target)], log)
            total[target] += executions(log)
            print(f"{target}: {total[target]} executions" + (f", FAILED, see {log}" if status else ""), flush=True)
            failed += [target] if status else []
    for target in failed:
        print(f"findings: {folder(build, 'findings', target)}")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(prog="./setup fuzz", description="Runs the fuzz targets for a while.")
    parser.add_argument("build", help=argparse.SUPPRESS)
    parser.add_argument("way", choices=["short", "long"], help=argparse.SUPPRESS)
    parser.add_argument("target", nargs="?", choices=list(TARGETS), help="one of " + ", ".join(TARGETS) + "; none: all in turn")
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    if args.way == "short":
        return short(args.build)
    return long(args.build, [args.target] if args.target else list(TARGETS), args.minutes)


if __name__ == "__main__":
    sys.exit(main())
