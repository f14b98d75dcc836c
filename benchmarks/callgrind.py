"""Machine instructions that an operation executes in its process, counted by valgrind.

Those of the interpreter, the driver, libpq and TLS; not the kernel's. No neighbour on the machine
disturbs them, and they change by less than a tenth of a percent from run to run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.compare import Worker

_LOOPS = 40


def command(folder: str) -> list[str]:
    """What to put before the command of a process that is to be counted.

    Raises:
        SystemExit: there is no valgrind.
    """
    if not (shutil.which("valgrind") and shutil.which("callgrind_control")):
        raise SystemExit("machine instructions are counted by valgrind, which is not installed")
    options = ("--quiet", "--tool=callgrind", "--instr-atstart=no")
    return ["valgrind", *options, f"--callgrind-out-file={folder}/callgrind.%p"]


def count(worker: Worker, alias: str, job: str, folder: str) -> float:
    """Instructions of one operation: those of some, without those of being asked for them."""
    worker.ask("repeat", alias, job, 10)  # valgrind translates what it sees for the first time
    of_asking = _of(worker, alias, job, 0, folder)
    return (_of(worker, alias, job, _LOOPS, folder) - of_asking) / _LOOPS


def start(worker: Worker) -> None:
    """From now on."""
    _control(worker, "--instr=on")


def _of(worker: Worker, alias: str, job: str, loops: int, folder: str) -> int:
    _control(worker, "--zero")
    worker.ask("repeat", alias, job, loops)
    _control(worker, "--dump")
    [dump] = Path(folder).glob("callgrind.*.*")
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    dump.unlink()
    if found is None:
        raise SystemExit(f"valgrind says nothing that is understood: {dump}")
    return int(found[1])


def _control(worker: Worker, order: str) -> None:
    command = ["callgrind_control", order, str(worker.process.pid)]
    subprocess.run(command, check=True, capture_output=True)
