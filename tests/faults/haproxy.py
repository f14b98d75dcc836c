"""A real HAProxy before a PostgreSQL, forwarding TCP."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from testproject.cluster import free_port

ADDRESS: Final = "127.0.0.1"
_START: Final = 10.0
_CONFIGURATION: Final = """
global
    maxconn 200
defaults
    mode tcp
    timeout connect {connect}
    timeout client {client}
    timeout server {server}
listen postgresql
    bind {address}:{port}
    server only {address}:{target}
"""
_TIMEOUTS: Final = {"connect": "5s", "client": "1h", "server": "1h"}


def missing() -> str | None:
    """Return what stands in the way of HAProxy on this machine, or None."""
    return None if shutil.which("haproxy") else "not installed: haproxy"


@contextmanager
def haproxy(target: int, **timeouts: str) -> Iterator[int]:
    """Run HAProxy before a port; the value is its own.

    ``timeouts``: ``client``, ``server``, ``connect``, as HAProxy writes them ("7s").
    """
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        port = free_port()
        file = Path(folder) / "haproxy.cfg"
        file.write_text(_configuration(port, target, timeouts))
        # In the foreground, as one process: it ends with us.
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(file)], stderr=subprocess.PIPE, text=True
        )
        try:
            _wait(process, port)
            yield port
        finally:
            process.kill()
            process.communicate()


def _configuration(port: int, target: int, timeouts: Mapping[str, str]) -> str:
    unknown = timeouts.keys() - _TIMEOUTS.keys()
    if unknown:
        raise ValueError(f"HAProxy has no timeout {sorted(unknown)} here")
    values = {**_TIMEOUTS, **timeouts}
    return _CONFIGURATION.format(address=ADDRESS, port=port, target=target, **values)


def _wait(process: subprocess.Popen[str], port: int) -> None:
    """Until it listens."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"haproxy ended: {process.communicate()[1]}")
        with socket.socket() as probe:
            if probe.connect_ex((ADDRESS, port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"haproxy does not listen after {_START:g} s")
