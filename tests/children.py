"""Python in a process of its own, with the modules of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300.0  # of a busy machine


def python(
    *arguments: str,
    cwd: Path = ROOT,
    before: Path | None = None,
    environ: Mapping[str, str] = {},
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments; what it printed, complained of, and its exit status.

    ``before``: a folder whose modules come first. ``environ``: added to this process's own.
    """
    paths = [*([str(before)] if before else []), *filter(None, sys.path)]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
