"""Disks in memory that become full, or on which nothing may be made or removed."""

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path


class Disk:
    """A file system in memory on a folder."""

    def __init__(self, place):
        self.place = place

    def _remount(self, options):
        return subprocess.run(
            ["mount", "-o", f"remount,{options}", str(self.place)], capture_output=True, check=False
        ).returncode

    def resize(self, size):
        """Give it so many bytes."""
        assert self._remount(f"size={max(size, 4096)}") == 0

    def protect(self):
        """Let nobody, not even root, make or remove a file in its folders; to make the disk read-only, no file may be open."""
        self._attribute("+i")

    def allow(self):
        """Let them again."""
        self._attribute("-i")

    def _attribute(self, sign):
        for _ in range(20):  # a folder may go while it is looked for
            if (
                subprocess.run(["chattr", "-R", sign, str(self.place)], capture_output=True, check=False).returncode
                == 0
            ):
                break


@contextlib.contextmanager
def small_disk(place):
    """A disk on a folder for the block, as root alone may mount it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield Disk(place)
    finally:
        for _ in range(100):  # processes that read ahead may live a moment longer
            if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)


def may_mount():
    """Whether this user may mount a file system."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False
