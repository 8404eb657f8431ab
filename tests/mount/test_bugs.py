# SPDX-License-Identifier: Apache-2.0
"""The deliberate mistakes of core/bug.h are in the test program that is there to find them, and in nothing that is installed."""
import glob
import json
import os
import re
import subprocess

from conftest import BUILD, TOP


def bug_names():
    with open(os.path.join(TOP, "core", "bug.h")) as f:
        names = re.findall(r'^\tX\(\w+, "([a-z0-9-]+)"', f.read(), re.M)
    assert len(names) >= 24 and len(set(names)) == len(names)
    return names


def traces(path, names):
    """What of the mistakes is in a program: their names, and the variable that says which one is active."""
    with open(path, "rb") as f:
        image = f.read()
    return [n for n in names + ["bug_active"] if n.encode() + b"\0" in image]


def test_no_installed_program_has_them():
    names = bug_names()
    targets = json.loads(subprocess.run(["meson", "introspect", "--targets", BUILD], stdout=subprocess.PIPE, check=True).stdout)
    installed = [t["filename"][0] for t in targets if t["installed"] and t["type"] == "executable"]
    assert len(installed) >= 4
    for path in installed:
        assert traces(path, names) == [], path
    # The search does find them where they are.
    test_program = [t["filename"][0] for t in targets if t["name"] == "sim_bugs"]
    assert len(traces(test_program[0], names)) == len(names) + 1


def test_every_file_with_one_is_compiled_for_the_search():
    with open(os.path.join(TOP, "tests", "bugs", "meson.build")) as f:
        listed = set(re.findall(r"'\.\./\.\./((?:core|journal|fs)/\w+\.c)'", f.read()))
    used, files = set(), set()
    for path in glob.glob(os.path.join(TOP, "*", "*.c")):
        with open(path) as f:
            found = re.findall(r"\bBUG\((\w+)\)", f.read())
        used.update(found)
        if found:
            files.add(os.path.relpath(path, TOP))
    assert files == listed
    with open(os.path.join(TOP, "core", "bug.h")) as f:
        assert used == set(re.findall(r"^\tX\((\w+),", f.read(), re.M))
