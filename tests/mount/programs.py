# SPDX-License-Identifier: Apache-2.0
"""For tests that run other people's programs on a mount and kill the daemon in the middle of it."""
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import LONG

# Debian keeps the programs of the server out of the path.
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/lib/postgresql/15/bin"])


def missing(what):
    """Ends the test: without --long it is skipped, with it that is a failure, as `setup` has installed everything."""
    (pytest.fail if LONG else pytest.skip)("not there: " + what)


def need(*names):
    """The full path of a program, or of several.  Without one of them there is no test."""
    found = [shutil.which(name, path=PLACES) for name in names]
    if None in found:
        missing(names[found.index(None)])
    return found if len(found) > 1 else found[0]


def need_module(name):
    """The same for a module of Python, which is returned."""
    try:
        return __import__(name)
    except ImportError:
        return missing(f"Python's {name}")


class Client:
    """A program at work on a mount that says on its standard output, a line each time, what has been acknowledged to it."""

    def __init__(self, argv, **kwargs):
        if isinstance(argv, str):
            argv = [sys.executable, "-c", argv]
        argv += kwargs.pop("args", [])
        self.lines = []
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,  # pylint: disable=consider-using-with
                                        text=True, errors="replace", start_new_session=True, **kwargs)
        # Read all the time, or a full pipe would stop it.
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def wait_for(self, count, seconds=60):
        """Until so many lines have come: it is at work."""
        end = time.monotonic() + seconds
        while len(self.lines) < count:
            assert self.process.poll() is None, f"ended with {self.process.returncode} after {self.lines[-3:]}"
            assert time.monotonic() < end, f"{len(self.lines)} of {count} lines within {seconds} s"
            time.sleep(0.01)

    def end(self, seconds=20):
        """All that it said, once it has ended, of itself or not."""
        try:
            self.process.wait(0 if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(20)
        self.reader.join(20)
        self.process.stdout.close()
        return self.lines
