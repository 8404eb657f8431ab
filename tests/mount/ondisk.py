# SPDX-License-Identifier: Apache-2.0
"""Where things are in an image, by docs/format.md: enough of a second reader to aim at what is to be destroyed."""
import os
import struct
from collections import namedtuple

BLOCK = 4096
Node = namedtuple("Node", "blkno level first items")


class Disk:
    """An unmounted image.  Everything is read when asked for."""

    def __init__(self, image):
        self.image = image
        sb = self.block(16)
        assert sb[48:56] == b"HOLDFAST"
        self.ngroups, self.nblocks, self.journal_blkno, self.journal_nblocks = struct.unpack_from("<IQQQ", sb, 76)
        self.table_blkno = struct.unpack_from("<QQ", sb, 104)
        self.bitmap_blkno = struct.unpack_from("<QQ", sb, 120)
        (self.ntables,) = struct.unpack_from("<I", sb, 136)

    def block(self, blkno):
        with open(self.image, "rb") as f:
            f.seek(blkno * BLOCK)
            return f.read(BLOCK)

    def destroy(self, *blknos):
        """All copies that are named hold noise from now on."""
        with open(self.image, "r+b") as f:
            for blkno in blknos:
                f.seek(blkno * BLOCK)
                f.write(os.urandom(BLOCK))

    supers = property(lambda self: [16, 32, self.nblocks - 1])
    roots = property(lambda self: [17, 18, self.nblocks - 3, self.nblocks - 2])
    tables = property(lambda self: [at + i for at in self.table_blkno for i in range(2 * self.ntables)])
    bitmaps = property(lambda self: [at + i for at in self.bitmap_blkno for i in range(2 * self.ngroups)])

    def root(self):
        """The newest one's block."""
        return max((self.block(b) for b in self.roots), key=lambda r: struct.unpack_from("<Q", r, 24))

    def node(self, blkno):
        b = self.block(blkno[0])
        nitems, _, level = struct.unpack_from("<HHB", b, 48)
        items = []
        for i in range(nitems):
            key, pos, size = slot(b, i)
            items.append((key, b[pos:pos + size]))
        return Node(blkno, level, items[0][0] if items else None, items)

    def nodes(self):
        """Of the newest root's tree, root node first, each level from left to right."""
        level, out = [struct.unpack_from("<QQ", self.root(), 128)], []
        while level:
            nodes = [self.node(blkno) for blkno in level]
            out += nodes
            level = [struct.unpack_from("<QQ", val) for n in nodes if n.level for _, val in n.items]
        return out

    def old_nodes(self, level):
        """Blocks of all nodes of at least this level that are there, of older trees too."""
        with open(self.image, "rb") as f:
            image = f.read()
        return [at // BLOCK for at in range(0, len(image), BLOCK) if image[at + 4:at + 8] == b"HLFN" and image[at + 52] >= level]


def slot(block, i):
    obj, off, kind, _, pos, size = struct.unpack_from("<QQBBHH", block, 64 + 24 * i)
    return (obj, kind, off), pos, size
