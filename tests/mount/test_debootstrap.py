# SPDX-License-Identifier: Apache-2.0
"""A whole Debian system on Holdfast, installed by debootstrap and used with chroot."""
import os
import platform

import pytest

from conftest import run
from programs import missing, need


def mirror():
    """Address and suite of the first archive that this machine's apt uses."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages", check=False)
    for line in targets.stdout.splitlines():
        uri, suite, component = (line.split() + ["", "", ""])[:3]
        if component == "main" and suite and "-" not in suite:
            return uri, suite
    return missing("an archive of Debian in apt's configuration")


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_debian(make_volume):
    need("apt-get", "dpkg")
    debootstrap, chroot = need("debootstrap", "chroot")
    uri, suite = mirror()
    vol = make_volume("4G").mkfs()
    vol.mount()
    root = vol.path("debian")
    run(debootstrap, "--variant=minbase", suite, root, uri, timeout=2400)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}

    def inside(*argv, **kwargs):
        return run(chroot, root, *argv, env=env, timeout=600, **kwargs).stdout

    def judge():
        assert inside("/usr/bin/apt-get", "--version").startswith("apt ")
        assert inside("dpkg", "--verify") == "" and inside("dpkg", "--audit") == ""
        assert len(inside("dpkg-query", "-W").splitlines()) > 70
        assert inside("perl", "-e", "print 6 * 7").strip() == "42"
        assert inside("stat", "-c", "%a %U", "/usr/bin/su").strip() == "4755 root"
        assert inside("stat", "-c", "%F", "/dev/null").strip() == "character special file"
        assert inside("uname", "-m").strip() == platform.machine()

    judge()
    # dpkg syncs what it unpacks, so a package that it said is installed stays so.
    archives = inside("sh", "-c", "ls /var/cache/apt/archives/*.deb | head -n 40").split()
    inside("apt-get", "remove", "-y", "--allow-remove-essential", "e2fsprogs", check=False)
    vol.kill()
    vol.mount()
    judge()
    if archives:
        inside("dpkg", "-i", "--force-all", *archives[:15])
        vol.kill()
        vol.mount()
        judge()
    vol.remount()
    judge()
    assert not os.path.exists(os.path.join(root, "debootstrap"))
    vol.umount()
    vol.fsck("-n", "-f", "--data")
