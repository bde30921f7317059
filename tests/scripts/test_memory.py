import sys

import numpy as np
import pytest

from scripts import memory


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back():
    pieces = [np.ones(12_000) for _ in range(2000)]  # some 190 MB, each too small for a mapping of its own
    last = pieces.pop()  # lies above all others
    full = resident()
    pieces.clear()
    memory.release()
    assert full - resident() > 100e6
    assert last.sum() == 12_000


def test_other_c_libraries(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.release()
