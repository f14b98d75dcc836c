"""Run the tests that need something of the system where it is hidden: each has to be skipped.

It is hidden in a mount namespace of this process, by /dev/null in the place of each program and
library; nothing outside of it changes. So CI, which has everything installed, sees what somebody
sees who has cloned the repository and installed nothing. Run it as root, in the repository, with an
environment's Python: ``python -m scripts.bare_machine``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tests import needs

ROOT = Path(__file__).resolve().parent.parent

LIMIT = 60.0  # seconds
PROGRAMS = (
    "ip",
    "iptables",
    "sysctl",
    "pgbouncer",
    "pgpool",
    "haproxy",
    "unshare",
    "uwsgi_python3",
)
LIBRARIES = ("libgdal", "libgeos_c")
EXTENSIONS = ("postgis", "postgres_fdw")
LANGUAGES = ("de", "fr")
LINKER_CACHE = Path("/etc/ld.so.cache")


def main(arguments: list[str]) -> None:
    """Go into a namespace of its own, hide everything, and run the tests."""
    if arguments != ["--inside"]:
        inside = [sys.executable, "-m", "scripts.bare_machine", "--inside"]
        os.execvp("unshare", ["unshare", "--mount", *inside])
    with tempfile.TemporaryDirectory() as folder:
        hide(Path(folder))
        left = [name for name in needs.NEEDS if not needs.lacking(name)]
        if left:
            raise SystemExit(f"could not be hidden: {', '.join(left)}")
        began = time.monotonic()
        run(Path(folder) / "result.xml")
        took = time.monotonic() - began
    if took > LIMIT:
        raise SystemExit(f"that took {took:.0f} s, more than {LIMIT:g} s")


def hide(folder: Path) -> None:
    """Hide all programs and libraries that a test may name as its need."""
    for path in (*programs(), *libraries(), *extensions(), *languages()):
        mount("/dev/null", path)
    cache = folder / "ld.so.cache"
    subprocess.run(["ldconfig", "-X", "-C", str(cache)], check=True, stderr=subprocess.DEVNULL)
    mount(cache, LINKER_CACHE)


def programs() -> Iterator[Path]:
    """Yield every copy of the programs."""
    folders = {*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/usr/local/sbin", "/sbin"}
    seen = {Path(folder, name).resolve() for folder in folders for name in PROGRAMS}
    # A link may lead to a program of many names, such as busybox: that one stays.
    yield from (path for path in seen if path.is_file() and path.name != "busybox")


def libraries() -> Iterator[Path]:
    """Yield the files of the libraries that the linker knows."""
    known = subprocess.run(["ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    paths = (line.rpartition(" => ")[2] for line in known.splitlines() if " => " in line)
    yield from {Path(path).resolve() for path in paths if Path(path).name.startswith(LIBRARIES)}


def extensions() -> Iterator[Path]:
    """Yield what PostgreSQL knows of the extensions."""
    for folder in Path("/usr/share/postgresql").glob("*/extension"):
        yield from (folder / f"{name}.control" for name in EXTENSIONS)


def languages() -> Iterator[Path]:
    """Yield the system's messages in other languages."""
    yield from (Path("/usr/share/locale", one, "LC_MESSAGES/libc.mo") for one in LANGUAGES)


def mount(what: str | Path, where: Path) -> None:
    """Put a file in the place of another one, unless that is not there."""
    if where.exists():
        subprocess.run(["mount", "--bind", str(what), str(where)], check=True)


def run(result: Path) -> None:
    """Run the tests that have needs; raises SystemExit unless all are skipped for want of them."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environ = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [*pytest, "tests", "-m", "needs", f"--junitxml={result}"],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    skips = [case.find("skipped") for case in ElementTree.parse(result).iter("testcase")]
    reasons = [skip is not None and needs.reason([]) in skip.get("message", "") for skip in skips]
    if done.returncode or not reasons or not all(reasons):
        raise SystemExit(f"not every test was skipped:\n{done.stdout}{done.stderr}")
    closing = done.stdout.splitlines()[-1]
    if needs.INSTALL not in closing:
        raise SystemExit(f"the last line does not say how to get what is missing: {closing}")
    sys.stdout.write(f"Without anything of the system, as it should be: {closing}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
