"""docs/quickstart.rst, executed: an empty environment, and nothing but what the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testproject.postgres import Server
from tests.unit.pages import ROOT, blocks

pytestmark = [pytest.mark.once, pytest.mark.slow]

PAGE = "docs/quickstart.rst"
STOCK = "django.db.backends.postgresql"
OURS = "django_resilient_pg"


def execute(steps: list[str], folder: Path, environ: dict[str, str], *, fails: bool = False) -> str:
    """Run blocks of shell one after the other, in one shell; returns what they print."""
    done = subprocess.run(
        ["sh", "-e", "-s"],
        input="\n".join(steps),
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert bool(done.returncode) is fails, done.stdout
    return done.stdout


@pytest.fixture
def environ(server: Server, tmp_path: Path) -> dict[str, str]:
    """What somebody has who begins: a server, and this interpreter as ``python``."""
    server.create_database("quickstart")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(getattr(sys, "_base_executable", sys.executable))
    told = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": server.user,
        "PGPASSWORD": server.password,
        "PGDATABASE": "quickstart",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_COMPILE": "1",  # Django has many modules, and few are used here
        "PIP_QUIET": "1",
    }
    hidden = ("PYTHON", "VIRTUAL_ENV", "DJANGO", "PG", "DATABASE_", "TEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return kept | told


def from_this_tree(step: str) -> str:
    """Not what was released before: this tree, or the wheel that `make release` has built of it."""
    place = os.environ.get("TEST_WHEEL", str(ROOT))
    return step.replace("django-resilient-pg[psycopg]", f"{place}[psycopg]")


def test_who_follows_the_page_survives_a_terminated_session(
    environ: dict[str, str], tmp_path: Path
) -> None:
    install, make, begin, lose, ask = blocks(PAGE, "shell")
    (settings,) = blocks(PAGE, "python")
    again = ". .venv/bin/activate; cd mysite"

    execute([from_this_tree(install), make], tmp_path, environ)
    file = tmp_path / "mysite" / "mysite" / "settings.py"
    file.write_text(f"{file.read_text()}\n{settings}\n")
    said = execute([again, begin, lose], tmp_path, environ)
    assert "0 users, after the session was terminated" in said
    assert 'Connection "default" lost after ' in said
    assert 'Reconnected "default" in ' in said
    assert "OK: no problems found" in execute([again, ask], tmp_path, environ)

    # Django's own engine does not survive it: otherwise all this would prove nothing.
    file.write_text(file.read_text().replace(OURS, STOCK, 1))
    said = execute([again, lose], tmp_path, environ, fails=True)
    assert "OperationalError: terminating connection due to administrator command" in said
    assert "0 users, after" not in said
