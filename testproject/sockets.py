"""What the kernel knows of TCP connections on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

_TABLE = Path("/proc/net/tcp")
_ESTABLISHED = "01"


def wait_ended(locals_: Iterable[int], remote: int, timeout: float) -> bool:
    """Wait until the ends of connections at these local ports know that the other end is gone.

    What is sent over loopback arrives at once, but for a machine that is busy. Where there is no
    table of connections (not Linux) nothing is waited for.

    Args:
        locals_: ports of the ends that are to learn of it.
        remote: the port they are connected to.
        timeout: in seconds.

    Returns:
        False if one has not learned of it.
    """
    wanted = {f":{port:04X}" for port in locals_}
    if not wanted or not _TABLE.exists():
        return True
    deadline = time.monotonic() + timeout
    while _open(f":{remote:04X}") & wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _open(remote: str) -> set[str]:
    """The local ports of connections to a remote port that count as established."""
    lines = (line.split(None, 4) for line in _TABLE.read_text(encoding="ascii").splitlines()[1:])
    return {
        local[-5:]
        for _, local, other, state, *_ in lines
        if state == _ESTABLISHED and other.endswith(remote)
    }
