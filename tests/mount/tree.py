# SPDX-License-Identifier: Apache-2.0
"""What a directory tree is: everything that a copy must preserve, in a form that can be compared."""
import os
import stat

from conftest import sha256


LARGE = 1 << 30


def ends(path, size):
    """Stands for the contents of a sparse file that takes too long to read: what is not a hole, by SEEK_DATA."""
    found, off = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while off < size:
            try:
                off = os.lseek(fd, off, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, off, os.SEEK_HOLE)
            data = os.pread(fd, min(end - off, 1 << 20), off)
            found.append((off + len(data) - len(data.lstrip(b"\0")), data.strip(b"\0")))
            off = end
    finally:
        os.close(fd)
    return tuple(found)


def snapshot(top):
    """{relative path: (type and mode, owner, group, links, size, st.st_mtime_ns, xattrs, contents)}; hard links as groups of names."""
    top = str(top)
    tree, inodes = {}, {}
    for folder, dirs, files in os.walk(top):
        for name in [""] * (folder == top) + dirs + files:
            path = os.path.join(folder, name) if name else folder
            st = os.lstat(path)
            rel = os.path.relpath(path, top)
            xattrs = tuple((x, os.getxattr(path, x, follow_symlinks=False))
                           for x in sorted(os.listxattr(path, follow_symlinks=False)))
            if stat.S_ISREG(st.st_mode) and st.st_size > LARGE:
                content = ends(path, st.st_size)
            elif stat.S_ISREG(st.st_mode):
                content = sha256(path)
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
            else:
                content = st.st_rdev if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode) else None
            size = st.st_size if not stat.S_ISDIR(st.st_mode) else None
            nlink = st.st_nlink if not stat.S_ISDIR(st.st_mode) else None
            tree[rel] = (st.st_mode, st.st_uid, st.st_gid, nlink, size, st.st_mtime_ns, xattrs, content)
            if stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
                inodes.setdefault(st.st_ino, set()).add(rel)
    groups = frozenset(frozenset(names) for names in inodes.values())
    return tree, groups


def differences(a, b, most=10):
    """Human-readable, for assertion messages; empty if equal."""
    out = []
    for path in sorted(set(a[0]) | set(b[0])):
        if a[0].get(path) != b[0].get(path):
            out.append(f"{path}: {a[0].get(path)} != {b[0].get(path)}")
        if len(out) >= most:
            break
    if a[1] != b[1]:
        out.append("hard links differ")
    return out
