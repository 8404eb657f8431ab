# SPDX-License-Identifier: Apache-2.0
"""What Holdfast is to reach, as ratios in one run: computed from bench.py's results, and shown so that one sees at a glance what is missing."""

THREADS = (1, 4, 16)
FUSE_PEERS = ("fuse2fs", "ntfs-3g")
HOT = ("stat", "large directory: lookup, hot", "open + read + close, hot", "small files: read, hot", "sequential read, hot", "random 4 KiB reads, hot")


class Results:
    """Medians by row and peer."""

    def __init__(self, lines):
        self.median = {(line["row"], name): peer["median"] for line in lines for name, peer in line["peers"].items()}

    def over(self, row, ours, theirs):
        """Ours by the best of theirs; None: not measured."""
        figures = [self.median[row, name] for name in theirs if (row, name) in self.median]
        return self.median[row, ours] / max(figures) if figures and (row, ours) in self.median else None

    def between(self, row, other, name, other_name=None):
        """Two rows of one peer, or of two."""
        a, b = self.median.get((row, name)), self.median.get((other, other_name or name))
        return a / b if a and b else None


def goals(r):
    """row, what is looked at, the value or None, the bound, and whether it is an upper one"""
    beside = lambda row, ours, theirs, least: (row, f"{ours} / {' or '.join(theirs)}", r.over(row, ours, theirs), least, False)
    both = lambda row, ext4, fuse: (beside(row, "holdfast", ["ext4"], ext4), beside(row, "holdfast", FUSE_PEERS, fuse))

    for t, least in zip(THREADS, (1.0, 1.2, 1.5)):
        yield from both(f"512-byte append + fdatasync, {t} threads", least, 2)
        yield from both(f"4 KiB overwrite + fdatasync, {t} threads", least, 2)
    for t in THREADS:
        yield from both(f"atomic replace, {t} threads", 1.5, 3)
        yield from both(f"create + write + fsync, {t} threads", 1.5, 3)
    for row in ("sqlite3 commits, WAL", "sqlite3 commits, rollback journal", "pgbench, 8 clients"):
        yield beside(row, "holdfast", ["ext4"], 1.0)

    one, many = "write or append + flush, 1 threads", "write or append + flush, 16 threads"
    yield beside(one, "journal", ["disk"], 0.9)
    yield many, "journal / journal with 1 thread", r.between(many, one, "journal"), 8, False
    yield "append without flush", "journal, per second", r.median.get(("append without flush", "journal")), 2e6, False

    for row in ("create", "mkdir", "rename", "unlink", "rmdir", *(f"create + unlink, {t} threads" for t in THREADS)):
        yield beside(row, "holdfast", ["empty"], 0.9)
        yield beside(row, "holdfast-dev", ["empty-dev"], 0.9)
        yield beside(row, "holdfast-dev", ["fuse2fs"], 2)
        yield beside(row, "holdfast-dev", ["ntfs-3g"], 1.5)
    for row in HOT:
        yield beside(row, "holdfast", ["ext4"], 0.9)
    yield beside("large directory: ls -l, cold", "holdfast", ["ext4"], 1.0)
    for row in ("sequential write + fsync", "sequential overwrite + fsync", "sequential read, cold"):
        yield beside(row, "holdfast", ["ext4"], 0.9)
    yield beside("random 4 KiB reads, cold", "holdfast", ["ext4"], 0.8)
    yield beside("direct: random 4 KiB reads, 1 threads", "holdfast", ["ext4"], 0.8)
    yield beside("direct: random 4 KiB reads, 16 threads", "holdfast", ["ext4"], 0.9)

    for what in ("create", "lookup, cold"):
        yield (f"directory of 10,000,000: {what}", "holdfast / as many in directories of 1,000",
               r.between(f"directory of 10,000,000: {what}", f"10,000 directories of 1,000: {what}", "holdfast"), 0.5, False)
    for row, what, most in (("mount, clean, of 1 TiB", "holdfast, ms", 50), ("mount after a crash with a full journal", "holdfast, ms", 1000),
                            ("memory per inode", "holdfast, bytes", 400),
                            ("512-byte append + fdatasync beside checkpoints, p99.9 / median", "holdfast", 5)):
        yield row, what, r.median.get((row, "holdfast")), most, True


def look(lines):
    """Those of the rows that were asked for."""
    rows = {line["row"] for line in lines}
    return [{"row": row, "what": what, "value": value, "bound": bound, "at_most": at_most,
             "reached": None if value is None else value <= bound if at_most else value >= bound}
            for row, what, value, bound, at_most in goals(Results(lines)) if row in rows]


def show(looked):
    measured = [g for g in looked if g["value"] is not None]
    if not measured:
        return
    width = max(len(g["row"]) for g in measured) + 2
    print(f"\nTo reach{'':<{width - 8}}{'':<40}{'required':>12}{'measured':>12}")
    number = lambda x: f"{x:.3g}" if x < 1000 else f"{x:,.0f}"
    for g in measured:
        bound = ("<= " if g["at_most"] else ">= ") + number(g["bound"])
        print(f"{g['row']:<{width}}{g['what']:<40}{bound:>12}{number(g['value']):>12}  {'reached' if g['reached'] else 'NOT reached'}")
    reached = sum(g["reached"] for g in measured)
    print(f"{reached} of {len(measured)} reached, {len(looked) - len(measured)} not measured")
