# SPDX-License-Identifier: Apache-2.0
"""System calls that Python does not have, for tests and for the clients that they start."""
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 0x10

off_t = ctypes.c_long


def checked(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old, new, flags):
    checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(fd, mode, off, length):
    checked(libc.fallocate(fd, mode, off_t(off), off_t(length)))


# A program: a page is dirty whenever the file is made immutable, and its write waits for a group of the log.
SETTLE = r"""
import fcntl, mmap, os, struct, sys, time
SETFLAGS, SYNC, IMMUTABLE = 0x40086602, 0x8, 0x10
f = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.ftruncate(f, 4096)
m = mmap.mmap(f, 4096)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    fcntl.ioctl(f, SETFLAGS, struct.pack("l", SYNC))
    m[0] = m[0] + 1 & 255
    fcntl.ioctl(f, SETFLAGS, struct.pack("l", SYNC | IMMUTABLE))
fcntl.ioctl(f, SETFLAGS, struct.pack("l", 0))
"""
