"""What tests need of the system beyond Python, how it is looked for, and what is said without it.

A test names it: ``@pytest.mark.needs("pgbouncer")``. Where it is missing the test is skipped, and
the run ends with one line that says how many were and how to get it. A test that uses what it did
not name fails on every machine (:func:`check_named`), so that the mark is not forgotten on a
machine that happens to have everything.

``python -m tests.needs missing`` prints what is missing, ``told FOLDER`` the closing line of runs
that wrote their skips there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

INSTALL: Final = "sudo make system-packages"
# Where `make` wants the skips of all its environments to be written; it prints the line itself.
FOLDER: Final = "NEEDS_FOLDER"
# /usr/sbin is not in everybody's PATH.
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _has_program(name: str) -> bool:
    return shutil.which(name, path=_PATH) is not None


def _has_library(name: str) -> bool:
    """Look for it as Django does."""
    return find_library(name) is not None


def _may_make_namespaces() -> bool:
    """Root may, but not in every container."""
    command = [program("unshare"), "--mount", "--net", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _has_extension(name: str) -> bool:
    return bool(_servers_with(name))


def _speaks(locale: str) -> bool:
    """Whether this machine has a locale, and the system's messages in its language."""
    try:
        said = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    language, name = locale.partition("_")[0], locale.replace("UTF-8", "utf8")
    messages = Path("/usr/share/locale", language, "LC_MESSAGES/libc.mo")
    return name in said.stdout.split() and messages.is_file()


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a machine has or lacks.

    ``package``: of Debian and Ubuntu, which brings it; None: no package does.
    """

    name: str
    package: str | None
    is_there: Callable[[], bool]


# The package of PostGIS brings the libraries of GeoDjango, and a PostgreSQL with all that belongs
# to it: the embedded one has no extensions.
_POSTGIS: Final = "postgresql-postgis"
NEEDS: Final = {
    need.name: need
    for need in (
        Need("CAP_SYS_ADMIN", None, _may_make_namespaces),
        Need("ip", "iproute2", partial(_has_program, "ip")),
        Need("iptables", "iptables", partial(_has_program, "iptables")),
        Need("sysctl", "procps", partial(_has_program, "sysctl")),
        Need("pgbouncer", "pgbouncer", partial(_has_program, "pgbouncer")),
        Need("haproxy", "haproxy", partial(_has_program, "haproxy")),
        Need("pgpool", "pgpool2", partial(_has_program, "pgpool")),
        Need("uwsgi", "uwsgi-plugin-python3", partial(_has_program, "uwsgi_python3")),
        Need("de_DE.UTF-8", "locales", partial(_speaks, "de_DE.UTF-8")),
        Need("fr_FR.UTF-8", "locales", partial(_speaks, "fr_FR.UTF-8")),
        Need("GDAL", _POSTGIS, partial(_has_library, "gdal")),
        Need("GEOS", _POSTGIS, partial(_has_library, "geos_c")),
        Need("PostGIS", _POSTGIS, partial(_has_extension, "PostGIS")),
        Need("postgres_fdw", _POSTGIS, partial(_has_extension, "postgres_fdw")),
    )
}
NAMESPACE: Final = ("CAP_SYS_ADMIN", "ip", "iptables")
# A test that asks for one of these fixtures needs what the fixture needs.
OF_FIXTURES: Final = {
    "namespace": NAMESPACE,
    "bouncer": ("pgbouncer",),
    "postgis_server": ("GDAL", "GEOS", "PostGIS"),
    "full_server": ("postgres_fdw",),
}

# What the running test has named.
_named: set[str] = set()


@cache
def lacking(name: str) -> bool:
    """Return whether this machine lacks it; raises ValueError if nobody knows what it is."""
    if name not in NEEDS:
        raise ValueError(f'"{name}" is not one of the needs {", ".join(NEEDS)}')
    return not NEEDS[name].is_there()


def reason(names: Iterable[str]) -> str:
    """Return why a test is skipped that lacks these."""
    return f"for want of {', '.join(names)}"


def name_those_of_a_test(names: Iterable[str]) -> None:
    """Let the test that runs now use these, and nothing else."""
    _named.clear()
    _named.update(names)


def check_named(*names: str) -> None:
    """Raise LookupError if the running test did not name all of these."""
    for name in names:
        if name not in _named:
            raise LookupError(f'this test has to say @pytest.mark.needs("{name}")')


def program(name: str) -> str:
    """Return the path of a program, or its mere name if it is not there."""
    return shutil.which(name, path=_PATH) or name


def postgres_with(extension: str) -> str:
    """Return the folder of programs of a PostgreSQL with this extension (the name of a need)."""
    check_named(extension)
    return str(_servers_with(extension)[0])


def _servers_with(extension: str) -> list[Path]:
    file = f"{extension.lower()}.control"
    return [one for one in _servers() if _extensions(one).joinpath(file).is_file()]


def _servers() -> list[Path]:
    """The folders of programs to look at: POSTGIS_BIN, or those of Debian, the newest first."""
    chosen = os.environ.get("POSTGIS_BIN")
    if chosen:
        return [Path(chosen)]
    found = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    return sorted(found, key=lambda folder: float(folder.parent.name), reverse=True)


@cache
def _extensions(programs: Path) -> Path:
    """Where a PostgreSQL has the descriptions of its extensions; a path of nothing if unknown."""
    try:
        said = subprocess.run(
            [programs / "pg_config", "--sharedir"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return programs / "nowhere"
    return Path(said.stdout.strip()) / "extension"


# -- what is said in the end ------------------------------------------------------------------


def note(skipped: dict[str, list[str]]) -> str:
    """Note the skips of one run (test -> names of what it lacks); return the line to print, or "".

    Under ``make test`` the line is printed once, for all environments, by the Makefile.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return closing_line(skipped)
    Path(folder).mkdir(parents=True, exist_ok=True)
    lines = [f"{test}\t{' '.join(names)}\n" for test, names in skipped.items()]
    Path(folder, str(os.getpid())).write_text("".join(lines), encoding="utf-8")
    return ""


def told(folder: Path) -> dict[str, list[str]]:
    """Return what the runs have noted in this folder, each test once."""
    lines = (
        line.split("\t")
        for file in folder.glob("*")
        for line in file.read_text(encoding="utf-8").splitlines()
    )
    return {test: names.split() for test, names in lines}


def closing_line(skipped: dict[str, list[str]]) -> str:
    """Return how many tests were skipped for want of what, and how to get it; "" for none."""
    if not skipped:
        return ""
    counted = Counter(name for names in skipped.values() for name in names)
    wanting = ", ".join(f"{name} ({number})" for name, number in counted.most_common())
    tests = "1 test was" if len(skipped) == 1 else f"{len(skipped)} tests were"
    remedies = list(_remedies(counted))
    return f"{tests} skipped for want of {wanting}. To run them too: {', and '.join(remedies)}"


def _remedies(names: Iterable[str]) -> Iterator[str]:
    names = set(names)
    if any(NEEDS[name].package for name in names):
        yield INSTALL
    if "CAP_SYS_ADMIN" in names:
        yield "root, or a container with its rights (--privileged)"


def main(arguments: list[str]) -> None:
    """See the head of this file."""
    match arguments:
        case ["missing"]:
            said = " ".join(name for name in NEEDS if lacking(name))
        case ["told", folder]:
            said = closing_line(told(Path(folder)))
        case _:
            raise SystemExit(__doc__)
    if said:
        sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
