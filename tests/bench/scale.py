#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Very many files, a very sparse file, a full journal: Holdfast beside ext4, in turn, on the same disk.

Prints a table and asserts nothing about time; the exit status says only whether every step could be done.  Run it as root:

    tests/bench/scale.py [--quick] [--only NAME] [--dir FOLDER]

    files   creates 10,000, 100,000 and 1,000,000 files in one directory, lists and stats all of them cold, looks 10,000 up cold,
            deletes all.  A second table shows how the rates change with the number: nothing may be quadratic
    sparse  writes 4 KiB at 200,000 random places of a file of 100 GiB, reads 20,000 of them back cold, deletes it
    mount   kills the daemon under load, again and again, and takes the time of the mounts that replay the journal (of 32 MiB),
            and of a clean one

Cold means: mounted anew.  ext4 has a loop device with direct I/O over an image beside Holdfast's, and is crashed by its shutdown
ioctl.  Whatever changes something ends with syncfs(), which is part of its time.  HOLDFAST_BUILD names the build directory.
"""
import argparse
import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("HOLDFAST_BUILD", "build"))
MKFS = os.path.join(BUILD, "mkfs", "mkfs.holdfast")
MOUNT = os.path.join(BUILD, "fs", "mount.holdfast")
MANY = os.path.join(BUILD, "tests", "bench", "many")

STEP_SECONDS = 1200  # then a step counts as hung
EXT4_IOC_SHUTDOWN, EXT4_NOLOGFLUSH = 0x8004587D, 2
GIB = 1 << 30
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A step that could not be done."""


def die_with_us():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class System:
    """A filesystem in an image of its own."""

    name = ""

    def __init__(self, folder):
        self.image = os.path.join(folder, f"{self.name}.img")
        self.dir = os.path.join(folder, self.name)
        os.mkdir(self.dir)

    def remove_image(self):
        if os.path.exists(self.image):
            os.unlink(self.image)

    def run(self, *argv):
        """Standard output and error, and the seconds it took."""
        start = time.monotonic()
        with subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace") as proc:
            try:
                out = proc.communicate(timeout=STEP_SECONDS)[0]
            except BaseException as e:
                # Only a dead daemon lets go of who waits for its answer.
                proc.kill()
                self.let_go()
                if isinstance(e, subprocess.TimeoutExpired):
                    raise Failed(f"{os.path.basename(argv[0])}: not done within {STEP_SECONDS} s") from None
                raise
        if proc.returncode:
            raise Failed(f"{os.path.basename(argv[0])}: exit {proc.returncode}: {out.strip()}")
        return out, time.monotonic() - start

    def many(self, action, *args):
        """What tests/bench/many did: (count, seconds)."""
        count, seconds = self.run(MANY, action, *args)[0].split()
        return int(count), float(seconds)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def remount(self):
        """Cold; what the mount took."""
        self.umount()
        return self.mount()[1]

    def let_go(self):
        """Whoever waits for it gets an error."""

    def clean_up(self):
        """As if it had never been, whatever state it is in."""
        self.let_go()
        for _ in range(3):
            if is_mounted(self.dir):
                subprocess.run(["umount", "-l", self.dir], check=False, stderr=subprocess.DEVNULL, timeout=60)


def is_mounted(path):
    """Dead mounts too, on which stat() fails."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split()[4] == path for line in f)


class Holdfast(System):
    name = "Holdfast"

    def mkfs(self, size, _inodes, journal=None):
        self.remove_image()
        self.run(MKFS, "-q", self.image, "--size", size, *(["-J", journal] if journal else []))

    def mount(self):
        return self.run(MOUNT, self.image, self.dir)

    def umount(self):
        self.run("umount", self.dir)
        self.wait_for_end()

    def daemons(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().split(b"\0")
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                    state = f.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z" and os.path.basename(argv[0]) == b"mount.holdfast" and os.fsencode(self.image) in argv:
                found.append(int(pid))
        return found

    def wait_for_end(self):
        end = time.monotonic() + 60
        while self.daemons():
            if time.monotonic() > end:
                raise Failed("the daemon does not end")
            time.sleep(0.01)

    def crash(self):
        self.let_go()

    def bury(self):
        self.run("umount", "-l", self.dir)

    def let_go(self):
        for pid in self.daemons():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.wait_for_end()

    @staticmethod
    def replayed(message):
        """What a mount says about its recovery."""
        m = re.search(r"replayed (\d+) transactions \((\d+) bytes\)", message)
        return f"{int(m[1]):,} transactions, {int(m[2]) / (1 << 20):.1f} MiB" if m else "nothing"


class Ext4(System):
    name = "ext4"
    loop = None

    def mkfs(self, size, inodes, journal=None):
        self.remove_image()
        with open(self.image, "wb") as f:
            f.truncate(size)
        # Nothing is left for a background thread to initialise while we measure.
        self.run("mkfs.ext4", "-q", "-F", "-N", inodes, "-E", "lazy_itable_init=0,lazy_journal_init=0",
                 *(["-J", f"size={journal >> 20}"] if journal else []), self.image)

    def mount(self):
        if not self.loop:
            self.loop = self.run("losetup", "-f", "--show", "--direct-io=on", self.image)[0].strip()
        return self.run("mount", "-t", "ext4", self.loop, self.dir)

    def umount(self):
        self.run("umount", self.dir)

    def crash(self):
        fd = os.open(self.dir, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_NOLOGFLUSH))
        finally:
            os.close(fd)

    def bury(self):
        self.run("umount", self.dir)

    @staticmethod
    def replayed(_message):
        return "not told"

    def clean_up(self):
        super().clean_up()
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], check=False, timeout=60)
            self.loop = None


# --- results ---------------------------------------------------------------------------------------------------------


class Table:
    """Rows of a step's result on each system."""

    def __init__(self, systems):
        self.names = [s.name for s in systems]
        self.rows = {}  # step -> {system: (count, seconds)}
        self.failures = []

    def add(self, step, system, result):
        self.rows.setdefault(step, {})[system.name] = result
        print(f"# {step}: {system.name}: {result[0]} in {result[1]:.3f} s", file=sys.stderr, flush=True)

    def fail(self, system, what):
        self.failures.append(f"{system.name}: {what}")
        print(f"# {system.name}: FAILED: {what}", file=sys.stderr, flush=True)

    @staticmethod
    def cell(result):
        if not result:
            return f"{'-':>10} {'':>11}"
        count, seconds = result
        return f"{seconds:>9.3f}s " + (f"{count / seconds:>9,.0f}/s" if count > 1 else f"{'':>11}")

    def show(self):
        ours, theirs = self.names
        print(f"{'':<40} {ours:>21}   {theirs:>21}   time ratio")
        for step, results in self.rows.items():
            a, b = results.get(ours), results.get(theirs)
            ratio = f"{a[1] / b[1]:>9.2f}x" if a and b else f"{'-':>10}"
            print(f"{step:<40} {self.cell(a)}   {self.cell(b)}   {ratio}")

    def show_growth(self, actions, sizes):
        """Rates by number of files: where they fall as the number grows, something is worse than linear."""
        print(f"\n{'operations per second':<40} " + " ".join(f"{n:>10,}" for n in sizes) + "  last to first")
        for action in actions:
            for name in self.names:
                rates = [self.rows.get(f"{action} {n:,}", {}).get(name) for n in sizes]
                if not all(rates):
                    continue
                rates = [count / seconds for count, seconds in rates]
                print(f"{action + ', ' + name:<40} " + " ".join(f"{r:>10,.0f}" for r in rates) +
                      f"  {rates[-1] / rates[0]:>12.2f}")


# --- what is measured ------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def failures_noted(table, system):
    """What goes wrong on one system does not keep the other from being measured."""
    try:
        yield
    except (Failed, OSError, subprocess.SubprocessError) as e:
        table.fail(system, e)


ACTIONS = ["create", "list cold", "lookup cold, of", "delete"]


def files_of(system, table, n, picks):
    folder = system.path(f"n{n}")
    os.mkdir(folder)
    table.add(f"create {n:,}", system, system.many("create", folder, n))
    start = time.monotonic()
    system.umount()
    table.add(f"umount after create {n:,}", system, (1, time.monotonic() - start))
    table.add(f"mount with {n:,} files", system, (1, system.mount()[1]))
    table.add(f"list cold {n:,}", system, system.many("list", folder, n))
    system.remount()
    table.add(f"lookup cold, of {n:,}", system, system.many("lookup", folder, n, picks))
    system.remount()
    table.add(f"delete {n:,}", system, system.many("delete", folder, n))
    system.umount()


def bench_files(systems, table, quick):
    sizes = [1000, 10_000, 100_000] if quick else [10_000, 100_000, 1_000_000]
    for n in sizes:
        for system in systems:
            with failures_noted(table, system):
                system.mkfs((4 if quick else 16) * GIB, 2 * n + 100_000)
                system.mount()
                files_of(system, table, n, 1000 if quick else 10_000)
            system.clean_up()
    return lambda: table.show_growth(ACTIONS, sizes)


def bench_sparse(systems, table, quick):
    writes, reads, size = (20_000, 2000, 100 * GIB) if quick else (200_000, 20_000, 100 * GIB)
    for system in systems:
        with failures_noted(table, system):
            system.mkfs((4 if quick else 16) * GIB, 100_000)
            system.mount()
            # The name is the one that `delete` knows.
            path = system.path("f00000000")
            table.add(f"sparse: write {writes:,} x 4 KiB", system, system.many("scatter", path, writes, 0, size))
            system.remount()
            table.add(f"sparse: read {reads:,} x 4 KiB cold", system, system.many("gather", path, writes, reads, size))
            system.remount()
            table.add("sparse: delete", system, system.many("delete", system.dir, 1))
            start = time.monotonic()
            system.umount()
            # Holdfast frees a deleted file's blocks in the background, and an unmount interrupts that.
            table.add("sparse: umount after delete", system, (1, time.monotonic() - start))
        system.clean_up()


def crash_under_load(system, folder, seconds):
    os.mkdir(folder)
    with subprocess.Popen([MANY, "churn", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, preexec_fn=die_with_us) as churn:
        try:
            time.sleep(seconds)
            if churn.poll() is not None:
                raise Failed(f"churn ended by itself: {churn.stderr.read().strip()}")
            system.crash()
            churn.wait(60)
        finally:
            churn.kill()
    system.bury()


# With one of the default size, a checkpoint would come first because of its dirty nodes.
JOURNAL = 32 << 20


def bench_mount(systems, table, quick):
    kills = [2.0] if quick else [4.0, 4.7, 5.4, 6.1, 6.8, 7.5]
    notes = []
    for system in systems:
        with failures_noted(table, system):
            system.mkfs((4 if quick else 16) * GIB, 1_000_000, JOURNAL)
            for i, seconds in enumerate(kills):
                system.mount()
                crash_under_load(system, system.path(f"d{i}"), seconds)
                message, took = system.mount()
                table.add(f"mount after crash {i + 1}", system, (1, took))
                notes.append(f"mount after crash {i + 1}, {system.name}: replayed {system.replayed(message)}")
                system.umount()
            table.add("mount, clean", system, (1, system.mount()[1]))
            system.umount()
        system.clean_up()
    return lambda: print("\n" + "\n".join(notes))


BENCHES = {"files": bench_files, "sparse": bench_sparse, "mount": bench_mount}


def measure(folder, names, quick):
    systems = [Holdfast(folder), Ext4(folder)]
    table = Table(systems)
    endings = []
    with contextlib.ExitStack() as stack:
        for system in systems:
            stack.callback(system.clean_up)
        for name in names:
            endings.append(BENCHES[name](systems, table, quick))
    table.show()
    for ending in filter(None, endings):
        ending()
    for failure in table.failures:
        print(f"FAILED: {failure}")
    return 1 if table.failures else 0


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="a tenth of everything")
    p.add_argument("--only", choices=BENCHES, help="one of the three")
    p.add_argument("--dir", default="/var/tmp", metavar="FOLDER", help="for the images, on a real disk; default /var/tmp")
    return p.parse_args()


def main():
    args = arguments()
    if os.geteuid() != 0:
        sys.exit("scale.py: must be run as root: ext4 needs a loop device")
    for program in (MKFS, MOUNT, MANY):
        if not os.access(program, os.X_OK):
            sys.exit(f"scale.py: {program} is not there; build first, or set HOLDFAST_BUILD")
    if shutil.disk_usage(args.dir).free < 12 * GIB:
        sys.exit(f"scale.py: {args.dir}: 12 GiB must be free")
    # So that what is mounted goes away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="holdfast-scale-", dir=args.dir)
    try:
        return measure(folder, [args.only] if args.only else list(BENCHES), args.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
