# SPDX-License-Identifier: Apache-2.0
"""A process of test_race.py: threads that do everything to the same few names, until the time is up or the mount goes away.

race_load.py DIR SEED SECONDS.  What fails because another thread was faster is nothing; anything else ends it with a message.
"""
import errno
import mmap
import os
import random
import sys
import threading
import time

THREADS = 4
NAMES = 12
FASTER = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ENODATA, errno.ENOSPC, errno.EMLINK,
          errno.EBUSY, errno.EINVAL, errno.ESTALE, errno.ELOOP, errno.EPERM, errno.ENXIO}
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.EIO}


class Load:
    def __init__(self, seed, seconds):
        self.seed, self.end = seed, time.monotonic() + seconds
        self.random = random.Random(seed)
        self.count = 0

    def path(self):
        """A name in one of three folders, so that operations meet."""
        return os.path.join(self.random.choice(["", "a", "b"]), f"n{self.random.randrange(NAMES)}")

    def open(self, flags):
        return os.open(self.path(), flags | os.O_NOFOLLOW, 0o644)

    def write(self):
        fd = self.open(os.O_RDWR | os.O_CREAT)
        try:
            for _ in range(self.random.randrange(1, 5)):
                size = self.random.choice([1, 100, 4096, 5000, 70000, 300000])
                os.pwrite(fd, bytes([self.random.randrange(256)]) * size, self.random.randrange(0, 1 << 20))
            if self.random.random() < 0.5:
                self.random.choice([os.fsync, os.fdatasync])(fd)
        finally:
            os.close(fd)

    def direct(self):
        fd = self.open(os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 256 << 10) as buf:
                os.pwritev(fd, [buf], self.random.randrange(16) << 16)
                os.preadv(fd, [buf], self.random.randrange(16) << 16)
        finally:
            os.close(fd)

    def append(self):
        fd = self.open(os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(fd, b"x" * self.random.randrange(1, 9000))
        finally:
            os.close(fd)

    def shared_map(self):
        # A file that nobody truncates: that would be SIGBUS.
        fd = os.open(f"mapped{self.seed}", os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(fd, 1 << 20)
            with mmap.mmap(fd, 1 << 20) as m:
                for _ in range(5):
                    m[self.random.randrange(1 << 20)] = 7
                if self.random.random() < 0.5:
                    m.flush()
        finally:
            os.close(fd)

    def read(self):
        fd = self.open(os.O_RDONLY)
        try:
            os.pread(fd, 1 << 19, self.random.randrange(1 << 20))
        finally:
            os.close(fd)

    def truncate(self):
        os.truncate(self.path(), self.random.choice([0, 10, 4096, 50000, 3 << 20]))

    def unlink(self):
        self.random.choice([os.unlink, os.unlink, os.rmdir])(self.path())

    def rename(self):
        os.rename(self.path(), self.path())

    def link(self):
        os.link(self.path(), self.path(), follow_symlinks=False)

    def symlink(self):
        os.symlink("n/" * self.random.randrange(1, 1000), self.path())

    def mkdir(self):
        os.mkdir(self.path())

    def xattr(self):
        path = self.path()
        os.setxattr(path, "user.a", b"v" * self.random.randrange(3000), follow_symlinks=False)
        os.listxattr(path, follow_symlinks=False)
        os.removexattr(path, "user.a", follow_symlinks=False)

    def attributes(self):
        path = self.path()
        os.chmod(path, self.random.randrange(0o1000) | 0o600)
        os.utime(path, follow_symlinks=False)
        os.stat(path, follow_symlinks=False)

    def listing(self):
        with os.scandir(self.random.choice([".", "a", "b"])) as entries:
            for e in entries:
                e.stat(follow_symlinks=False)

    def space(self):
        os.statvfs(".")

    def sync(self):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def run(self):
        ops = [self.write] * 6 + [self.read] * 4 + [self.unlink, self.rename] * 3 + [self.truncate, self.append] * 2 + [
            self.direct, self.shared_map, self.link, self.symlink, self.mkdir, self.xattr, self.attributes, self.listing,
            self.space, self.sync]
        while time.monotonic() < self.end:
            try:
                self.random.choice(ops)()
                self.count += 1
            except OSError as e:
                if e.errno in GONE:
                    return
                if e.errno not in FASTER:
                    raise


def main():
    seed, seconds = int(sys.argv[2]), float(sys.argv[3])
    failed = []

    # Relative names: they stay in the mount when it has been detached.
    os.chdir(sys.argv[1])

    def run(load):
        try:
            load.run()
        except Exception as e:  # pylint: disable=broad-except
            failed.append(repr(e))

    loads = [Load(seed * THREADS + i, seconds) for i in range(THREADS)]
    threads = [threading.Thread(target=run, args=[load]) for load in loads]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(sum(load.count for load in loads), *failed, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
