"""A proxy that takes the time of a longer path, in a process of its own.

Each piece of the conversation is stamped when it comes and passed on so much later. So pieces that
follow each other closely do so on the other side too: their delays do not add up.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from benchmarks.copies import ROOT
from tests.faults.proxy import Proxy

_PR_SET_TIMERSLACK: Final = 29


@contextmanager
def delayed(port: int, round_trip: float) -> Iterator[int]:
    """The port of a proxy before ``port`` on which a round trip takes so many seconds longer."""
    command = [sys.executable, "-m", "benchmarks.peers.delayed", str(port), str(round_trip / 2)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()  # the end of its input is its order to end


def main(port: int, delay: float) -> None:
    """Serve until standard input ends."""
    if hasattr(os, "sched_setaffinity"):  # beside the processes that are measured, not among them
        last = max(os.sched_getaffinity(0))
        others = set(range(os.cpu_count() or 1)) - {last}
        with suppress(OSError):
            os.sched_setaffinity(0, others or {last})
    with suppress(AttributeError, OSError):  # Linux wakes a process up to 50 us late
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    with Proxy(port, delay=delay) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
