# SPDX-License-Identifier: Apache-2.0
"""Processes with the credentials of several users, that do on request what a user does, and say how it ended.

Everything is done twice, on a mount and in a directory of ext4, and must end in the same way: see Pair.
"""
import ctypes
import errno
import mmap
import os
import pickle
import signal
import socket
import stat
import struct

import calls

libc = calls.libc

# name: (user, group, further groups)
PEOPLE = {
    "root": (0, 0, []),
    "ann": (31001, 31001, [32001]),
    "bob": (31002, 31002, [32001, 32002]),
    "eve": (31003, 31003, []),
}
GROUPS = [31001, 31002, 31003, 32001, 32002, 0]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF


def acl(*entries):
    """(tag, permissions[, id])..."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", e[0], e[1], e[2] if len(e) > 2 else NO_ID) for e in entries)


def full_acl(owner, group, other, mask=None, users=(), groups=()):
    return acl((OWNER, owner), *((USER, p, i) for i, p in users), (GROUP_OBJ, group), *((GROUP, p, i) for i, p in groups),
               *([(MASK, mask)] if mask is not None else []), (OTHER, other))


# --- what can be asked for; each raises OSError or returns something that can be compared ---

def create(path, mode, umask, data=b""):
    os.umask(umask)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        return os.write(fd, data) if data else 0
    finally:
        os.close(fd)


def mkdir(path, mode, umask):
    os.umask(umask)
    os.mkdir(path, mode)


def mknod(path, mode, umask):
    os.umask(umask)
    os.mknod(path, mode)


def symlink(path, target):
    os.symlink(target, path)


def openat(path, flags):
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.close(fd)


def read(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 100) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def append(path, data, flags=0):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | flags)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def overwrite_direct(path):
    """A block, past the page cache."""
    block = mmap.mmap(-1, 4096)
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        return os.write(fd, block)
    finally:
        os.close(fd)


def fallocate(path, mode, off, length):
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        calls.fallocate(fd, mode, off, length)
    finally:
        os.close(fd)


def access(path, how):
    return os.access(path, how, effective_ids=True)


def getxattr(path, name):
    return os.getxattr(path, name, follow_symlinks=False)


def setxattr(path, name, value, flags=0):
    os.setxattr(path, name, value, flags, follow_symlinks=False)


def removexattr(path, name):
    os.removexattr(path, name, follow_symlinks=False)


def listxattr(path):
    return sorted(os.listxattr(path, follow_symlinks=False))


def chown(path, uid, gid):
    os.chown(path, uid, gid, follow_symlinks=False)


def attributes(path):
    st = os.lstat(path)
    return oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0


def listdir(path):
    return sorted(os.listdir(path))


ASK = {f.__name__: f for f in (create, mkdir, mknod, symlink, openat, read, append, overwrite_direct, fallocate, access, getxattr, setxattr,
                               removexattr, listxattr, chown, attributes, listdir)}
ASK.update(chmod=os.chmod, truncate=os.truncate, unlink=os.unlink, rmdir=os.rmdir, rename=os.rename, link=os.link, utime=os.utime,
           chdir=os.chdir)


class Person:
    """A process of its own: credentials belong to processes."""

    def __init__(self, name, uid, gid, groups, drop=()):
        self.name, self.uid, self.gid = name, uid, gid
        self.sock, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.sock.close()
                os.chdir("/")
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                if drop:
                    drop_capabilities(drop)
                os.setresuid(uid, uid, uid)
                self.serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    @staticmethod
    def serve(sock):
        pipe = sock.makefile("rwb")
        while True:
            try:
                name, args, kwargs = pickle.load(pipe)
            except EOFError:
                return
            try:
                result = "ok", ASK[name](*args, **kwargs)
            except OSError as e:
                result = "error", "EOPNOTSUPP" if e.errno == errno.EOPNOTSUPP else errno.errorcode[e.errno]
            pickle.dump(result, pipe)
            pipe.flush()

    def ask(self, name, *args, **kwargs):
        """("ok", what it returned) or ("error", "EACCES")."""
        pipe = self.sock.makefile("rwb")
        pickle.dump((name, args, kwargs), pipe)
        pipe.flush()
        return pickle.load(pipe)

    def end(self):
        self.sock.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def drop_capabilities(numbers):
    """From all sets that matter of a process of user 0."""
    header = struct.pack("<Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    head = ctypes.create_string_buffer(header, len(header))
    if libc.capget(head, data):
        raise OSError(ctypes.get_errno(), "capget")
    sets = list(struct.unpack("<6I", data.raw))
    for n in numbers:
        for k in range(3):
            sets[3 * (n // 32) + k] &= ~(1 << n % 32)
    if libc.capset(head, struct.pack("<6I", *sets)):
        raise OSError(ctypes.get_errno(), "capset")


class Pair:
    """Two directories in which the same people do the same."""

    def __init__(self, ours, reference, people):
        self.roots = [str(ours), str(reference)]
        self.people = people
        self.history = []

    def do(self, who, what, path, *args, **kwargs):
        """The result, which must be the same on both sides.  `path` and arguments that begin with "./" are within the directory."""
        self.history.append((who, what, path, *args))
        results = []
        for root in self.roots:
            mapped = [os.path.join(root, a[2:]) if isinstance(a, str) and a.startswith("./") else a for a in args]
            results.append(self.people[who].ask(what, os.path.join(root, path), *mapped, **kwargs))
        assert results[0] == results[1], f"{who}: {what} {path} {args}: {results[0]}, on ext4 {results[1]}"
        return results[0]

    def ok(self, who, what, path, *args, **kwargs):
        result = self.do(who, what, path, *args, **kwargs)
        assert result[0] == "ok", f"{who}: {what} {path} {args}: {result}"
        return result[1]

    def refused(self, error, who, what, path, *args, **kwargs):
        assert self.do(who, what, path, *args, **kwargs) == ("error", error)

    def paths(self):
        found = [""]
        for root, dirs, files in os.walk(self.roots[0]):
            found += [os.path.relpath(os.path.join(root, n), self.roots[0]) for n in dirs + files]
        return sorted(found)

    def same_tree(self, everybody=True):
        """Names, modes, owners, attributes; and what each may do with each."""
        paths = self.paths()
        for path in paths:
            self.do("root", "attributes", path)
            self.do("root", "listdir", path)
            for name in self.ok("root", "listxattr", path):
                self.do("root", "getxattr", path, name)
            if not everybody:
                continue
            for who in self.people:
                self.do(who, "attributes", path)
                for how in (os.R_OK, os.W_OK, os.X_OK):
                    self.do(who, "access", path, how)
                self.do(who, "listxattr", path)
        return len(paths)
