#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How fragmented a volume becomes that is filled, deleted from and refilled for long: Holdfast beside ext4, in turn, on the same disk.

Prints lines as it goes and asserts nothing about time; the exit status says only whether every step could be done.  Run it as root:

    tests/bench/aging.py [--quick] [--minutes N] [--every N] [--seed N] [--size BYTES] [--dir FOLDER]

The volume is filled to 80 % with files of 4 KiB to 64 MiB (a 64th of the volume, if that is less), as many of each power of two.  Then files are deleted
at random and new ones written for --minutes, such that between 60 and 85 % are in use, until the time is over.  Of the files

    half     are written in one go
    a quarter are written four at a time, by four threads, in pieces of 64 KiB
    a quarter grow by a 32nd (16 KiB at least) each time that something else is done, with fdatasync()

The seed decides what is done, so both filesystems get the same, a part each in turn.  After the fill, every few minutes and at the end it says

    written   how often the volume's size has been written so far
    pieces    runs of blocks that continue in the file and on the device, per file and per GiB (fsck.holdfast -n -f --json; filefrag)
    read      MB/s of reading all files one after the other, cold: mounted anew.  Next to it that of a copy, made file by file on a new volume.
              The better of two each, in turn

ext4 has a loop device with direct I/O over an image beside Holdfast's.  HOLDFAST_BUILD names the build directory.
"""
import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time

import scale

FSCK = os.path.join(scale.BUILD, "fsck", "fsck.holdfast")
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE, PARTS, TOGETHER, GROWING = 64 * KIB, 32, 4, 8
FULL, LOW, HIGH = 0.80, 0.60, 0.85


# --- what is done ----------------------------------------------------------------------------------------------------


class Plan:
    """Operations, the same for the same seed: ("write", [(number, size), ...]), ("append", number, at, size), ("delete", number)."""

    def __init__(self, seed, size):
        self.random = random.Random(seed)
        self.size, self.largest = size, min(64 * MIB, size // 64)
        self.sizes = {}  # of files that are there
        self.growing = {}  # number: [size so far, size in the end]
        self.next = 0
        self.used = self.written = 0
        self.rising = True

    def draw(self):
        return int(4 * KIB * (self.largest / (4 * KIB)) ** self.random.random())

    def add(self, number, size):
        self.sizes[number] = self.sizes.get(number, 0) + size
        self.used += size
        self.written += size

    def grow(self):
        for number, (now, end) in list(self.growing.items()):
            step = min(max(end // PARTS, 16 * KIB), end - now)
            if self.used + step > HIGH * self.size:
                return
            self.add(number, step)
            self.growing[number][0] += step
            if now + step == end:
                del self.growing[number]
            yield "append", number, now, step

    def create(self, limit):
        """A file or several, or nothing if they would not fit."""
        kind = self.random.randrange(4)
        sizes = [self.draw() for _ in range(TOGETHER if kind == 1 else 1)]
        if self.used + sum(sizes) > limit * self.size:
            return False
        numbers = range(self.next, self.next + len(sizes))
        self.next += len(sizes)
        if kind == 2 and len(self.growing) < GROWING:
            self.growing[numbers[0]] = [0, sizes[0]]
            yield from ()
            return True
        for number, size in zip(numbers, sizes):
            self.add(number, size)
        yield "write", list(zip(numbers, sizes))
        return True

    def delete(self):
        candidates = [n for n in self.sizes if n not in self.growing]
        if candidates:
            number = self.random.choice(candidates)
            self.used -= self.sizes.pop(number)
            yield "delete", number

    def fill(self):
        while (yield from self.create(FULL)):
            yield from self.grow()

    def churn(self, nbytes):
        """Until so much has been written.  What is in use goes up and down between the bounds."""
        end = self.written + nbytes
        while self.written < end:
            if self.random.random() < (0.75 if self.rising else 0.25):
                if not (yield from self.create(HIGH)):
                    self.rising = False
                    yield from self.delete()
            elif self.used > LOW * self.size:
                yield from self.delete()
            else:
                self.rising = True
            yield from self.grow()


# --- doing it --------------------------------------------------------------------------------------------------------


class Worker:
    """Does a plan's operations in a folder."""

    def __init__(self, system):
        self.system = system
        self.bytes = memoryview(random.Random(1).randbytes(MIB))

    def path(self, number):
        return self.system.path(f"{number:08}")

    def put(self, number, at, size, piece, sync=False):
        fd = os.open(self.path(number), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            end = at + size
            while at < end:
                at += os.pwrite(fd, self.bytes[:min(piece, end - at)], at)
            if sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def put_several(self, files):
        failed = []

        def one(number, size):
            try:
                self.put(number, 0, size, PIECE)
            except OSError as e:
                failed.append(e)

        threads = [threading.Thread(target=one, args=f) for f in files]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failed:
            raise failed[0]

    def do(self, op):
        what, *args = op
        if what == "delete":
            os.unlink(self.path(args[0]))
        elif what == "append":
            self.put(*args, MIB, sync=True)
        elif len(args[0]) == 1:
            self.put(args[0][0][0], 0, args[0][0][1], MIB)
        else:
            self.put_several(args[0])


def read_all(folder):
    """(bytes, seconds)"""
    buf, total = bytearray(MIB), 0
    start = time.monotonic()
    for name in sorted(os.listdir(folder)):
        if name == "lost+found":
            continue
        with open(os.path.join(folder, name), "rb", buffering=0) as f:
            while n := f.readinto(buf):
                total += n
    return total, time.monotonic() - start


class Holdfast(scale.Holdfast):
    def layout(self):
        """(files with blocks, pieces)"""
        self.umount()
        said = json.loads(self.run(FSCK, "-n", "-f", "--json", self.image)[0])
        self.mount()
        return said["files_with_blocks"], said["pieces"]


class HoldfastCopy(scale.Holdfast):
    name = "Holdfast-copy"


class Ext4(scale.Ext4):
    def layout(self):
        self.remount()
        names = [self.path(n) for n in sorted(os.listdir(self.dir)) if n != "lost+found"]
        pieces = [int(n) for n in re.findall(r": (\d+) extents? found$", self.run("filefrag", *names)[0], re.MULTILINE)]
        if len(pieces) != len(names):
            raise scale.Failed("filefrag: not all files are listed")
        return sum(n > 0 for n in pieces), sum(pieces)


class Ext4Copy(scale.Ext4):
    name = "ext4-copy"


class Side:
    """A volume that ages, and one for its copies."""

    def __init__(self, system, copy, size):
        self.system, self.copy, self.size = system, copy, size
        self.worker = Worker(system)
        self.seconds = 0.0

    def begin(self):
        self.system.mkfs(self.size, 20_000)
        self.system.mount()

    def do(self, ops):
        start = time.monotonic()
        for op in ops:
            self.worker.do(op)
        self.seconds += time.monotonic() - start

    def read_rates(self, expected):
        """MB/s, of the old volume and of the copy."""
        try:
            self.copy.mkfs(self.size, 20_000)
            self.copy.mount()
            for name in sorted(os.listdir(self.system.dir)):
                if name != "lost+found":
                    shutil.copyfile(self.system.path(name), self.copy.path(name))
            best = [0.0, 0.0]
            for _ in range(2):
                for i, system in enumerate((self.system, self.copy)):
                    system.remount()
                    total, seconds = read_all(system.dir)
                    if total != expected:
                        raise scale.Failed(f"{system.name}: {total} bytes were read instead of {expected}")
                    best[i] = max(best[i], total / seconds / 1e6)
            self.copy.umount()
            return best
        finally:
            self.copy.clean_up()
            self.copy.remove_image()


HEAD = f"{'':<10} {'minutes':>7} {'written':>8} {'in use':>6} {'files':>6} {'pieces':>7} {'a file':>7} {'per GiB':>8}   {'read':>6} {'copy':>6}"


def report(side, plan, minutes):
    files, pieces = side.system.layout()
    old, new = side.read_rates(plan.used)
    print(f"{side.system.name:<10} {minutes:>7.1f} {plan.written / plan.size:>7.1f}x {plan.used / plan.size:>6.0%} {files:>6} {pieces:>7} "
          f"{pieces / max(1, files):>7.2f} {pieces / (plan.used / GIB):>8.1f}   {old:>6.0f} {new:>6.0f}", flush=True)


def measure(folder, args):
    plan = Plan(args.seed, args.size)
    sides = [Side(Holdfast(folder), HoldfastCopy(folder), args.size), Side(Ext4(folder), Ext4Copy(folder), args.size)]
    with contextlib.ExitStack() as stack:
        for side in sides:
            stack.callback(side.system.clean_up)
            stack.callback(side.copy.clean_up)
            side.begin()
        print(HEAD)
        start = time.monotonic()
        said, ops = start, list(plan.fill())
        while True:
            for side in sides:
                side.do(ops)
            now = time.monotonic()
            over = now - start >= args.minutes * 60 and plan.written > FULL * 1.25 * plan.size
            if over or said == start or now - said >= args.every * 60:
                for side in sides:
                    report(side, plan, (now - start) / 60)
                said = time.monotonic()
            if over:
                break
            ops = list(plan.churn(plan.size // 8))
        for side in sides:
            print(f"{side.system.name}: {plan.written / side.seconds / 1e6:.0f} MB/s written, deletions included")
            side.system.umount()
    return 0


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="128 MiB, written over about once: whether it runs")
    p.add_argument("--minutes", type=float, default=60, metavar="N", help="how long; default 60")
    p.add_argument("--every", type=float, default=10, metavar="N", help="minutes from one line to the next; default 10")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of what is done; default 1")
    p.add_argument("--size", type=int, default=4 * GIB, metavar="BYTES", help="of a volume; default 4 GiB")
    p.add_argument("--dir", default="/var/tmp", metavar="FOLDER", help="for the images, on a real disk; default /var/tmp")
    args = p.parse_args()
    if args.quick:
        args.size, args.minutes = 128 * MIB, 0
    return args


def main():
    args = arguments()
    if os.geteuid() != 0:
        sys.exit("aging.py: must be run as root: ext4 needs a loop device")
    for program in (scale.MKFS, scale.MOUNT, FSCK):
        if not os.access(program, os.X_OK):
            sys.exit(f"aging.py: {program} is not there; build first, or set HOLDFAST_BUILD")
    if shutil.disk_usage(args.dir).free < 3 * args.size:
        sys.exit(f"aging.py: {args.dir}: three times the volume must be free")
    # So that what is mounted goes away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="holdfast-aging-", dir=args.dir)
    try:
        return measure(folder, args)
    except (scale.Failed, OSError) as e:
        print(f"FAILED: {e}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
