# SPDX-License-Identifier: Apache-2.0
"""Ten processes deliver into one maildir while others take the messages from new/ to cur/ and delete some.  None is lost, none comes twice."""
import hashlib
import os
import random
import time

import pytest

from conftest import LONG
from programs import Client

# Says "sent ID DIGEST" when the message's contents and its name are durable.  Half of them link, as qmail does, half rename, as dovecot does.
DELIVER = r"""
import hashlib, os, random, sys
top, me = sys.argv[1:3]
rnd = random.Random(me)
new = os.open(os.path.join(top, 'new'), os.O_RDONLY | os.O_DIRECTORY)
n = 0
while True:
    n += 1
    name = f'{me}-{n}'
    tmp = os.path.join(top, 'tmp', name)
    data = f'Message-Id: {name}\n'.encode() + rnd.randbytes(rnd.choice([100, 3000, 4096, 20000, 150000]))
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:rnd.choice([700, 8192, 65536])]):]
    os.fsync(fd)
    os.close(fd)
    if n % 2:
        os.link(tmp, os.path.join(top, 'new', name))
        os.unlink(tmp)
    else:
        os.rename(tmp, os.path.join(top, 'new', name))
    os.fsync(new)
    os.write(1, f'sent {name} {hashlib.sha256(data).hexdigest()}\n'.encode())
"""

# Two of them, who compete for the same messages.  Says "seen ID DIGEST", and "gone ID" before it deletes.
READ = r"""
import hashlib, os, random, sys, time
top, me = sys.argv[1:3]
rnd = random.Random(me)
cur = os.open(os.path.join(top, 'cur'), os.O_RDONLY | os.O_DIRECTORY)
while True:
    for name in os.listdir(os.path.join(top, 'new')):
        there = os.path.join(top, 'cur', name + ':2,S')
        try:
            os.rename(os.path.join(top, 'new', name), there)
        except FileNotFoundError:
            continue
        with open(there, 'rb') as f:
            data = f.read()
        os.fsync(cur)
        os.write(1, f'seen {name} {hashlib.sha256(data).hexdigest()}\n'.encode())
        if rnd.randrange(5) == 0:
            os.write(1, f'gone {name}\n'.encode())
            os.unlink(there)
            os.fsync(cur)
            os.write(1, f'lost {name}\n'.encode())
    time.sleep(0.02)
"""


class Mail:
    """A maildir on a volume, and what has been said about it."""

    def __init__(self, vol):
        self.vol, self.clients = vol, []
        self.sent, self.seen, self.gone, self.lost = {}, {}, set(), set()
        for folder in ("tmp", "new", "cur"):
            os.makedirs(vol.path("mail", folder))

    def start(self, round_):
        self.clients = [Client(DELIVER, args=[self.vol.path("mail"), f"r{round_}p{i}"]) for i in range(10)]
        self.clients += [Client(READ, args=[self.vol.path("mail"), f"r{round_}r{i}"]) for i in range(2)]
        for c in self.clients[:10]:
            c.wait_for(2)

    def look(self):
        """{ID: contents' digest}, each in one place alone."""
        found = {}
        for folder in ("new", "cur"):
            for name in os.listdir(self.vol.path("mail", folder)):
                ident = name.partition(":")[0]
                assert ident not in found, f"{ident} is there twice"
                with open(self.vol.path("mail", folder, name), "rb") as f:
                    data = f.read()
                assert data.startswith(f"Message-Id: {ident}\n".encode()), ident
                found[ident] = hashlib.sha256(data).hexdigest()
        return found

    def judge(self):
        """After a kill: clients have ended, the volume is mounted again."""
        for client in self.clients:
            for line in client.end():
                words = line.split()
                if words[0] in ("sent", "seen"):
                    {"sent": self.sent, "seen": self.seen}[words[0]][words[1]] = words[2]
                else:
                    {"gone": self.gone, "lost": self.lost}[words[0]].add(words[1])
        found = self.look()
        for ident, digest in {**self.sent, **self.seen}.items():
            if ident not in self.gone:
                assert found.get(ident) == digest, f"{ident} was acknowledged"
            elif ident in self.lost:
                assert ident not in found, f"{ident} was deleted, and that was synced"
            assert self.seen.get(ident, digest) == digest == self.sent.get(ident, digest)
        there = set(os.listdir(self.vol.path("mail", "cur")))
        assert {ident + ":2,S" for ident in self.seen if ident not in self.gone} <= there


@pytest.mark.timeout(2400 if LONG else 600)
def test_maildir(make_volume):
    vol = make_volume("4G").mkfs()
    vol.mount()
    rnd = random.Random(os.environ.get("HOLDFAST_SEED", "maildir"))
    mail = Mail(vol)
    for round_ in range(12 if LONG else 1):
        mail.start(round_)
        time.sleep(rnd.uniform(0.2, 3) if LONG else 0.7)
        vol.kill()
        for client in mail.clients:
            client.end()
        vol.mount()
        mail.judge()
    assert len(mail.sent) >= 20 and mail.seen
    vol.umount()
    vol.fsck("-n", "-f", "--data")
