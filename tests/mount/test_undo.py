# SPDX-License-Identifier: Apache-2.0
"""fsck.holdfast --undo and --truncate-journal, and holdfast undo, as a user types them."""
import json
import os

from conftest import BUILD, FSCK, run, sha256, write_synced

HOLDFAST = os.path.join(BUILD, "tools", "holdfast")


def crashed(vol):
    write_synced(vol.path("file"), b"x" * 100000)
    vol.kill()
    return sha256(vol.image)


def test_replay_and_undo(vol):
    before, undo = crashed(vol), os.path.join(vol.folder, "undo")
    assert "holdfast undo" in vol.fsck("-y", "--undo", undo, expect=1)
    assert sha256(vol.image) != before
    run(HOLDFAST, "undo", undo, vol.image)
    assert sha256(vol.image) == before
    # The same once more, and used: then no undo.
    text = vol.fsck("-y", "--json", "--undo", undo + "2", expect=1)
    assert json.loads(text)["undo_file"] == undo + "2"
    vol.mount()
    done = run(HOLDFAST, "undo", undo + "2", vol.image, check=False)
    assert done.returncode == 1 and "is in use" in done.stdout
    vol.umount()
    after = sha256(vol.image)
    done = run(HOLDFAST, "undo", undo + "2", vol.image, check=False)
    assert done.returncode == 1 and "changed after the repair" in done.stdout
    assert sha256(vol.image) == after


def test_refused_and_nothing_changed(vol):
    before, there = crashed(vol), os.path.join(vol.folder, "there")
    write_synced(there, b"something")
    for undo, why in ((there, "exists already"), ("/nosuch/undo", "cannot be made"), ("/dev/full", "exists already")):
        assert why in vol.fsck("-y", "--undo", undo, expect=8)
    assert "nothing to undo" in run(FSCK, "-n", "--undo", there + "2", vol.image, check=False).stdout
    assert sha256(vol.image) == before
    # On the volume's own mount: the image is in use.
    vol.mount()
    assert "is in use" in vol.fsck("-y", "--undo", vol.path("undo"), expect=8)
    assert not os.path.exists(vol.path("undo"))


def test_nothing_to_do_leaves_no_file(unmounted):
    undo = os.path.join(unmounted.folder, "undo")
    unmounted.fsck("-y", "-f", "--undo", undo)
    assert not os.path.exists(undo)


def test_usage(unmounted):
    for args in ([], ["one"], ["a", "b", "c"], ["--nosuch", "a", "b"]):
        assert run(HOLDFAST, "undo", *args, check=False).returncode == 2
    for args in (["/nosuch", unmounted.image], [unmounted.image, unmounted.image], ["/etc/passwd", unmounted.image],
                 ["/etc/passwd", "/nosuch"], ["/etc/passwd", "/dev/null"]):
        done = run(HOLDFAST, "undo", *args, check=False)
        assert done.returncode == 1 and len(done.stdout.splitlines()) == 1, done.stdout


# --- a damaged journal ---

def damage_journal(vol):
    """Three files, each synced; the place of the second one's name in the journal is overwritten."""
    for name in ("before", "lost", "behind"):
        os.mkdir(vol.path("dir-" + name))
        write_synced(vol.path("dir-" + name, "file"), name.encode() * 50)
        run("sync", "-f", vol.dir)
    vol.kill()
    with open(vol.image, "r+b") as f:
        at = f.read(64 * 4096 + (8 << 20)).find(b"dir-lost", 64 * 4096)
        assert at > 0
        f.seek(at)
        f.write(b"DIR")


def test_truncate_journal(vol):
    damage_journal(vol)
    before, undo = sha256(vol.image), os.path.join(vol.folder, "undo")
    done = vol.mount(check=False)
    assert done.returncode != 0 and len(done.stdout.splitlines()) == 1
    assert "whole transactions among them, of inodes" in done.stdout
    text = vol.fsck("-n", "-f", expect=4)
    assert "FS701 log-damaged" in text and "at stake: /dir-behind (inode" in text and "--truncate-journal" in text
    found = json.loads(vol.fsck("-n", "-f", "--json", expect=4))["findings"]
    assert any(f["code"] == "FS713" and f.get("inode") and "dir-behind/file" in f["text"] for f in found)
    # Not without the word.
    vol.fsck("-y", "-f", expect=4)
    assert sha256(vol.image) == before
    assert "journal truncated at LSN" in vol.fsck("--truncate-journal", "--undo", undo, expect=1)
    vol.fsck()
    vol.mount()
    assert os.listdir(vol.dir) == ["dir-before"]
    with open(vol.path("dir-before", "file"), "rb") as f:
        assert f.read() == b"before" * 50
    vol.umount()
    run(HOLDFAST, "undo", "--force", undo, vol.image)
    vol.fsck("-n", "-f", expect=4)


def test_truncate_journal_refuses(vol):
    assert "is in use" in vol.fsck("--truncate-journal", expect=8)
    before = crashed(vol)
    assert "is not damaged" in vol.fsck("--truncate-journal", expect=8)
    assert "-n changes nothing" in vol.fsck("-n", "--truncate-journal", expect=16)
    assert sha256(vol.image) == before
