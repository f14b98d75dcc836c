"""A data folder that is made once, kept beside the programs, and copied for every server.

``initdb`` takes a second of a processor's time, a copy a tenth of that, and a test run starts
hundreds of servers. Each copy gets a system identifier of its own, as from ``initdb``: the engine
tells servers apart by it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from testproject import binaries

# Small segments: an empty log of the usual size would be as large as everything else.
_OPTIONS: Final = ("--no-sync", "--locale=C", "--encoding=UTF8", "--auth=trust", "--wal-segsize=1")
_POLYNOMIAL: Final = 0x82F63B78  # of CRC-32C, its bits in reverse order
Run = Callable[..., None]


def copy(programs: Path, superuser: str, user: str, data: Path, run: Run) -> None:
    """Make the data folder of a new server, with a user and a database of the user's name.

    Nobody has a password yet. ``run``: runs a command as the server's account, and raises if it
    fails; it takes ``input``, what the command reads.
    """
    original = _home(programs, superuser, user)
    if not original.exists():
        _make(original, programs, superuser, user, run)
    run(["cp", "-a", str(original / "data"), str(data)])
    control = data / "global" / "pg_control"
    content = with_identifier(control.read_bytes(), secrets.randbits(63))
    with control.open("r+b") as file:  # in place: it belongs to the server's account
        file.write(content)
    # What was logged so far bears the other identifier.
    run([str(programs / "pg_resetwal"), "--pgdata", str(data)])


def with_identifier(control: bytes, identifier: int) -> bytes:
    """Return the content of pg_control with another system identifier, and its checksum right.

    The identifier comes first, the checksum last; how long it is depends on the version, and
    zeros follow.
    """
    start = (len(control.rstrip(b"\0")) - 1) // 4 * 4
    if _crc32c(control[:start]) != control[start : start + 4]:
        raise ValueError("pg_control has no checksum where it was expected")
    changed = identifier.to_bytes(8, sys.byteorder) + control[8:start]
    return changed + _crc32c(changed) + control[start + 4 :]


def _crc32c(data: bytes) -> bytes:
    """The checksum as PostgreSQL writes it, in the byte order of this machine."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, sys.byteorder)


@cache
def _home(programs: Path, superuser: str, user: str) -> Path:
    """Where the original is: another one for every build, account, and way to make it."""
    said = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    account = binaries.server_account()
    owner = os.geteuid() if account is None else account.pw_uid
    made_by = repr((str(programs), said.stdout, superuser, user, owner, _OPTIONS))
    digest = hashlib.sha256(made_by.encode()).hexdigest()[:16]
    return binaries.cache_dir() / f"data-{digest}"


def _make(original: Path, programs: Path, superuser: str, user: str, run: Run) -> None:
    account = binaries.server_account()
    binaries.make_open(original.parent)
    with tempfile.TemporaryDirectory(dir=original.parent, prefix="initdb-") as work:
        made = Path(work) / "made"
        made.mkdir()
        Path(work).chmod(0o755)
        if account is not None:
            os.chown(made, account.pw_uid, account.pw_gid)
        command = [str(programs / "initdb"), "-D", str(made / "data"), f"--username={superuser}"]
        run([*command, *_OPTIONS])
        alone = [str(programs / "postgres"), "--single", "-F", "-D", str(made / "data"), "postgres"]
        run(alone, input=f"CREATE ROLE {user} LOGIN\nCREATE DATABASE {user} OWNER {user}\n")
        try:
            made.rename(original)
        except OSError:
            if not original.exists():  # else another process was faster, and its copy is as good
                raise
