# SPDX-License-Identifier: Apache-2.0
"""Compilers and large source trees on Holdfast."""
import glob
import os
import shutil
import subprocess
import sys
import time

import pytest

from conftest import TOP, run, sha256
from programs import missing, need


@pytest.fixture
def large(make_volume):
    v = make_volume("6G").mkfs()
    v.mount()
    return v


def objects(top):
    return {os.path.relpath(os.path.join(d, name), top): sha256(os.path.join(d, name))
            for d, _, names in os.walk(top) for name in names if name.endswith(".o")}


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_ccache(large):
    """A build with ccache, whose cache is on the mount too: the second comes from the cache and is the same; so is the one after a kill."""
    need("ccache", "meson", "ninja")
    src, build = large.path("src"), large.path("src", "build")
    shutil.copytree(TOP, src, ignore=shutil.ignore_patterns("build", "build-*", ".git", "mnt", "*.img", "__pycache__"))
    env = dict(os.environ, CC="ccache gcc", CCACHE_DIR=large.path("cache"), CCACHE_TEMPDIR=large.path("cache", "tmp"))

    def compile_all():
        shutil.rmtree(build, ignore_errors=True)
        run("ccache", "-z", env=env)
        run("meson", "setup", "-Dtests=false", "build", cwd=src, env=env, timeout=200)
        run("ninja", "-C", "build", cwd=src, env=env, timeout=600)
        counters = dict(line.split("\t") for line in run("ccache", "--print-stats", env=env).stdout.splitlines())
        return objects(build), {name: int(value) for name, value in counters.items()}

    first, cold = compile_all()
    assert len(first) > 50 and cold["cache_miss"] >= len(first)
    second, warm = compile_all()
    assert second == first and warm["cache_miss"] <= cold["cache_miss"] // 10 and warm["direct_cache_hit"] >= len(first)
    shutil.rmtree(build)
    run("ccache", "-C", env=env)
    run("meson", "setup", "-Dtests=false", "build", cwd=src, env=env, timeout=200)
    with subprocess.Popen(["ninja", "-C", build], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as ninja:
        time.sleep(8)
        large.kill()
        ninja.wait(60)
    large.mount()
    # Where it was interrupted, make's and ninja's users begin anew; the cache stays, and nothing in it may be wrong.
    third, _ = compile_all()
    assert third == first
    run(os.path.join(build, "mkfs", "mkfs.holdfast"), "--version")
    large.umount()
    large.fsck("-n", "-f", "--data")


def used(vol):
    st = os.statvfs(vol.dir)
    return (st.f_blocks - st.f_bfree) * st.f_frsize, st.f_files - st.f_ffree


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_kernel(large):
    """The Linux kernel's sources are unpacked, compared with the archive, built by four jobs and removed, and then the volume is empty again."""
    need("make", "gcc", "flex", "bison", "bc", "xz")
    archives = glob.glob("/usr/src/linux-source-*.tar.xz")
    if not archives:
        missing("package linux-source-6.1")
    before = used(large)
    run("tar", "-C", large.dir, "-xf", archives[0], timeout=1200)
    run("tar", "-C", large.dir, "--compare", "-f", archives[0], timeout=1200)
    (top,) = glob.glob(large.path("linux-source-*"))
    assert sum(len(names) for _, _, names in os.walk(top)) > 60000
    env = dict(os.environ, KBUILD_BUILD_TIMESTAMP="Thu Jan  1 00:00:00 UTC 1970", KBUILD_BUILD_USER="u", KBUILD_BUILD_HOST="h")
    run("make", "-s", "-C", top, "tinyconfig", env=env, timeout=600)
    run("make", "-s", "-C", top, "-j4", "vmlinux", env=env, timeout=2400)
    large.kill()
    large.mount()
    # Nothing of the build was synced.  What is there is a moment of it, from which make goes on; and the archive is what it was.
    run("tar", "-C", large.dir, "--compare", "-f", archives[0], timeout=1200)
    run("make", "-s", "-C", top, "-j4", "vmlinux", env=env, timeout=2400)
    with open(os.path.join(top, "vmlinux"), "rb") as f:
        assert f.read(4) == b"\x7fELF"
    run("rm", "-rf", top, timeout=900)
    run("sync", "-f", large.dir)
    for _ in range(100):
        if used(large)[0] <= before[0] + (4 << 20):
            break
        time.sleep(1)
    assert os.listdir(large.dir) == [] and used(large)[0] <= before[0] + (4 << 20)
    large.umount()
    large.fsck("-n", "-f", "--data")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_python(large):
    """The standard library, byte-compiled here and elsewhere with the same result; a virtual environment that works, also after a kill."""
    lib = os.path.dirname(os.__file__)
    trees = [large.path("lib"), os.path.join(large.folder, "lib")]
    for tree in trees:
        shutil.copytree(lib, tree, ignore=shutil.ignore_patterns("__pycache__", "test", "dist-packages", "lib2to3"))
        run(sys.executable, "-m", "compileall", "-q", "-j4", "-f", "-s", tree, "-p", "/lib", "--invalidation-mode", "checked-hash", tree, timeout=400)
    assert sum(name.endswith(".pyc") for _, _, names in os.walk(trees[0]) for name in names) > 400
    run("diff", "-r", *trees)
    env = large.path("env")
    done = run(sys.executable, "-m", "venv", env, check=False, timeout=400)
    if done.returncode:
        missing("package python3-venv")
    python = os.path.join(env, "bin", "python")
    run("sync", "-f", large.dir)
    for _ in range(2):
        assert "pip" in run(python, "-m", "pip", "list", "--disable-pip-version-check", timeout=200).stdout
        run(python, "-c", f"import sys, pip; assert sys.prefix == {env!r} and pip.__file__.startswith({env!r})")
        run("diff", "-r", *trees)
        large.kill()
        large.mount()
    large.umount()
    large.fsck("-n", "-f", "--data")
