"""Copies of the package under names of their own, so that several can be imported side by side."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "django_resilient_pg"
ROOT: Final = Path(__file__).resolve().parent.parent


def copy(source: str, name: str, folder: Path) -> None:
    """Put the package of a source tree or of a git revision into ``folder`` as ``name``.

    Raises:
        SystemExit: there is neither a package in such a folder nor such a revision.
    """
    target = folder / name
    tree = Path(source) / PACKAGE
    if tree.is_dir():
        shutil.copytree(tree, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        _of_revision(source, folder / f"{name}-archive").rename(target)
    for module in target.rglob("*.py"):
        module.write_text(module.read_text("utf-8").replace(PACKAGE, name), "utf-8")


def _of_revision(revision: str, folder: Path) -> Path:
    # git archive has no "--" before a revision; an option is none.
    command = ["git", "archive", "--format=tar", f"{revision}^{{commit}}", PACKAGE]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if revision.startswith("-") or archive.returncode:
        raise SystemExit(
            f'"{revision}" is neither a folder with {PACKAGE} in it nor a revision that git knows: '
            f"{archive.stderr.decode(errors='replace').strip()}"
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / PACKAGE
