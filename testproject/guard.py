"""Ends a server and removes its folder when the process that started it is gone, however it went.

Run as ``python guard.py FOLDER`` with a pipe as standard input: a byte, or the end of the pipe
(which the kernel brings about even after SIGKILL), is the order. FOLDER/data is PostgreSQL's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    """Wait for the order, then end the server in this folder and remove the folder."""
    os.read(0, 1)
    pid = postmaster_pid(folder / "data")
    if pid is not None and _serves(pid, folder / "data"):
        for each in (*children(pid), pid):
            send(each, signal.SIGCONT)  # a stopped process would not act on the next signal
        send(pid, signal.SIGQUIT)
        if not wait_gone([pid], timeout=10.0):
            for each in (pid, *children(pid)):
                send(each, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def postmaster_pid(data: Path) -> int | None:
    """Return the process id that PostgreSQL noted in its data folder."""
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def children(pid: int) -> list[int]:
    """Return the process ids of the direct children: all of a PostgreSQL server's are."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in listing.read_text().split()]
    except OSError:
        pass
    answer = subprocess.run(
        ["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False
    )
    pairs = (line.split() for line in answer.stdout.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def alive(pid: int) -> bool:
    """Return whether the process runs; one that ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except FileNotFoundError:  # no /proc here, or gone meanwhile
        return not Path("/proc/self").exists()
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pids: list[int], timeout: float) -> bool:
    """Wait until the processes are gone; return False if one is left after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _serves(pid: int, data: Path) -> bool:
    """Return whether this process serves this folder, and is not one that got its number since."""
    if not Path("/proc").is_dir():
        return alive(pid)
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve(strict=True)
    except OSError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
