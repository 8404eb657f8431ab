#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every test and ends with 'N passed, N failed'.

The unit tests run three times: as they are, with AddressSanitizer and UndefinedBehaviorSanitizer, and (those with threads) with
ThreadSanitizer.  Between them, some deliberate mistakes that must be found; after them the simulation, and the tests on real mounts.
meson and pytest leave JUnit files, which are what is counted; of the simulation, the lines that tell of a test.  A suite that leaves
no file, or has no test in it, counts as a failure.
"""
import os
import subprocess
import sys
import time
import xml.etree.ElementTree

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LONG = os.environ.get("HOLDFAST_LONG") == "1"

SANITIZED = [
    # directory, b_sanitize, suite
    ("build-asan", "address,undefined", "unit"),
    ("build-tsan", "thread", "threads"),
]
SIMULATED = "build-asan"	# in which the simulation runs, too
# What a mount needs, and which tests run on mounts of daemons with a sanitizer.
PROGRAMS = ["fs/mount.holdfast", "mkfs/mkfs.holdfast", "fsck/fsck.holdfast", "tools/holdfast"]
SANITIZED_MOUNTS = {
    "build-asan": ["tests/mount/test_race.py"] + [f"tests/mount/test_posix.py::test_{name}" for name in (
        "names_of_any_bytes", "links", "rename", "directories", "attributes")],
    "build-tsan": ["tests/mount/test_race.py"],
}
SANITIZER_ENV = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=1:allocator_may_return_null=1:quarantine_size_mb=32",
    "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:abort_on_error=1",
}


class Totals:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def fail(self, name):
        self.failed += 1
        self.failures.append(name)

    def read(self, path, label):
        """Adds a JUnit file's cases."""
        try:
            cases = list(xml.etree.ElementTree.parse(path).getroot().iter("testcase"))
        except (OSError, xml.etree.ElementTree.ParseError):
            cases = []
        if not cases:
            self.fail(f"{label}: no test ran")
        for case in cases:
            name = f"{label}: {case.get('classname') or ''} {case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                self.fail(name)
            elif case.find("skipped") is not None:
                self.skipped += 1
                print(f"skipped: {name}: {case.find('skipped').get('message') or ''}")
            else:
                # A unit test's program is one case to meson; its own tests are lines of its output.
                self.passed += max(1, (case.findtext("system-out") or "").count("[       OK ]"))


def run(argv, env=None, log=None):
    """Exit status; with `log` the output goes there."""
    out = open(log, "wb") if log else None
    try:
        return subprocess.run(argv, cwd=TOP, env=dict(os.environ, **(env or {})), stdin=subprocess.DEVNULL,
                              stdout=out, stderr=subprocess.STDOUT if out else None, check=False).returncode
    finally:
        if out:
            out.close()


def unit(totals, build, suite, label):
    """meson test of one suite in one build directory."""
    start = time.time()
    junit = os.path.join(TOP, build, "meson-logs", "testlog.junit.xml")
    if os.path.exists(junit):
        os.unlink(junit)
    log = os.path.join(TOP, build, "unit.log")
    argv = ["meson", "test", "-C", build, "--suite", suite, "--print-errorlogs", "--no-rebuild"]
    # Limits are there to end a hang, and the machine may have other work.
    status = run(argv + ["-t", "20" if LONG else "3"], SANITIZER_ENV, log)
    before = totals.failed
    totals.read(junit, label)
    if status and totals.failed == before:
        totals.fail(f"{label}: meson test ended with {status}")
    if totals.failed != before:
        with open(log, errors="replace") as f:
            print(f.read()[-20000:])
    print(f"{label}: {time.time() - start:.0f} s", flush=True)


def sanitized(totals):
    for build, sanitize, suite in SANITIZED:
        if not os.path.exists(os.path.join(TOP, build, "build.ninja")):
            status = run(["meson", "setup", build, f"-Db_sanitize={sanitize}", "-Db_lundef=false", "-Dmount_tests=false"],
                         log=os.path.join(TOP, f"{build}.log"))
            if status:
                totals.fail(f"{build}: meson setup failed, see {build}.log")
                continue
            os.unlink(os.path.join(TOP, f"{build}.log"))
        log = os.path.join(TOP, build, "ninja.log")
        targets = ["unit-tests", *PROGRAMS] + (["tests/sim/sim"] if build == SIMULATED else [])
        if run(["ninja", "-C", build, *targets], log=log):
            totals.fail(f"{build}: does not build, see {build}/ninja.log")
            continue
        unit(totals, build, suite, f"unit tests ({sanitize})")


def simulation(totals):
    """What it says is shown as it comes: the numbers of new seeds, and all about a failure."""
    argv = [os.path.join(TOP, "tests", "sim", "suite.py"), "--sanitized", os.path.join(TOP, SIMULATED)]
    before = totals.passed, totals.failed
    with subprocess.Popen(argv, cwd=TOP, env=dict(os.environ, **SANITIZER_ENV), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace") as suite:
        for line in suite.stdout:
            if line.startswith("[       OK ]"):
                totals.passed += 1
            elif line.startswith("[  FAILED  ]"):
                totals.fail(line[12:].strip())
            if not line.startswith("[       OK ] refused"):
                print(line, end="", flush=True)
    if totals.passed == before[0] or (suite.returncode and totals.failed == before[1]):
        totals.fail(f"simulation: no test passed, or it ended with {suite.returncode}")


def build_fuzz():
    """The fuzz targets, with clang; what went wrong, or None."""
    build = "build-fuzz"
    if not os.path.exists(os.path.join(TOP, build, "build.ninja")):
        log = os.path.join(TOP, f"{build}.log")
        if run(["meson", "setup", build, "-Dfuzz=true", "-Dtests=false", "-Db_sanitize=address,undefined", "-Db_lundef=false"],
               {"CC": "clang"}, log):
            return f"{build}: meson setup failed, see {build}.log"
        os.unlink(log)
    if run(["ninja", "-C", build, "fuzz-targets"], log=os.path.join(TOP, build, "ninja.log")):
        return f"{build}: does not build, see {build}/ninja.log"
    return None


def fuzz(totals):
    """Each target for a moment, the same inputs every time."""
    start = time.time()
    trouble = build_fuzz()
    junit = os.path.join(TOP, "build-fuzz", "fuzz.xml")
    if trouble:
        totals.fail(trouble)
        return
    if os.path.exists(junit):
        os.unlink(junit)
    before = totals.failed
    status = run(["/usr/bin/python3", "tests/fuzz/run.py", "build-fuzz", "short"])
    totals.read(junit, "fuzz")
    if status and totals.failed == before:
        totals.fail(f"fuzz: ended with {status}")
    print(f"fuzz targets: {time.time() - start:.0f} s", flush=True)


def mounts(totals, build, tests, label):
    """Tests on real mounts, with the programs of one build directory."""
    start = time.time()
    junit = os.path.join(TOP, build, "pytest.xml")
    if os.path.exists(junit):
        os.unlink(junit)
    argv = ["/usr/bin/python3", "-m", "pytest", "-q", "--durations=8", f"--junitxml={junit}", *tests]
    before = totals.failed
    status = run(argv, {"HOLDFAST_BUILD": build})
    totals.read(junit, label)
    if status and totals.failed == before:
        totals.fail(f"{label}: pytest ended with {status}")
    print(f"{label}: {time.time() - start:.0f} s", flush=True)


def main():
    totals = Totals()
    unit(totals, "build", "unit", "unit tests")
    unit(totals, "build", "bugs", "deliberate mistakes")
    sanitized(totals)
    simulation(totals)
    fuzz(totals)
    mounts(totals, "build", ["tests/mount"], "mount tests")
    for build, sanitize, _ in SANITIZED:
        if os.path.exists(os.path.join(TOP, build, PROGRAMS[0])):
            mounts(totals, build, SANITIZED_MOUNTS[build], f"mount tests ({sanitize})")
    for name in totals.failures:
        print(f"FAILED: {name}")
    print(f"{totals.passed} passed, {totals.failed} failed" + (f", {totals.skipped} skipped" if totals.skipped else ""))
    return 1 if totals.failed or not totals.passed else 0


if __name__ == "__main__":
    sys.exit(build_fuzz() if sys.argv[1:] == ["--build-fuzz"] else main())
