"""Run ``python -m scripts.django_suite [--full] [LABEL...]``.

The tests are those of the sdist of the Django that is installed: those of the labels, by default
the ones that are about databases, with ``--full`` all there are. The exit status is 1 if this
engine fails, or skips, a test that the stock one does not. ``DATABASE_ENGINE`` puts another engine
in the place of this one, ``PG_VERSION`` another PostgreSQL in that of 18.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import django

from scripts.outcomes import Outcome, compare
from scripts.sdists import unpacked
from testproject.postgres import Server

STOCK = "django.db.backends.postgresql"
RESILIENT = os.environ.get("DATABASE_ENGINE") or "django_resilient_pg"
LABELS = [
    "backends",
    "transactions",
    "transaction_hooks",
    "queries",
    "db_utils",
    "select_for_update",
]
#: Not counted, and why.
KNOWN = {
    "backends.postgresql.tests.Tests.test_pooling_health_checks": "it wants Django's check in a"
    " private attribute of psycopg_pool, which then sleeps after each dead connection; here"
    " connections are looked at as they are taken, and nothing sleeps (docs/servers.rst)",
    "backends.postgresql.tests.Tests.test_pool_check_can_be_overridden": "it wants the user's check"
    " in a private attribute of psycopg_pool, which then sleeps after each dead connection; here"
    " the check is asked all the same, and nothing sleeps (docs/servers.rst)",
}
ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "django"


def tests_of_django() -> Path:
    """Return the folder of Django's tests, of the version installed; fetch the sdist if need be."""
    version = django.get_version()
    return unpacked(f"Django=={version}", CACHE / version) / "tests"


def run(engine: str, labels: list[str], tests: Path, parallel: int) -> Outcome:
    """Run the tests with this engine on a new server; SystemExit if they got to no end."""
    with (
        Server(settings={"max_connections": "200"}) as server,
        tempfile.TemporaryDirectory() as work,
    ):
        _check(server)
        databases = {
            alias: server.database(alias, engine=engine, user=server.superuser)
            for alias in ("default", "other")
        }
        record = Path(work) / "record.json"
        environ = {
            **os.environ,
            "DJANGO_SUITE_DATABASES": json.dumps(databases),
            "DJANGO_SUITE_RECORD": str(record),
            "PYTHONPATH": os.pathsep.join(_paths(tests)),
        }
        options = [
            "--settings=scripts.django_suite.settings",
            f"--parallel={parallel}",
            "--noinput",
        ]
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "runtests.py", *options, *labels], cwd=tests, env=environ, check=False
        )
        if not record.exists():
            raise SystemExit(f"Django's tests did not get to the end on {engine}; see above.")
        told = json.loads(record.read_text())
    print(f"{engine}: {time.monotonic() - start:.0f} s")
    return Outcome.of(engine, told["ran"], told["failed"], told["skipped"])


def _check(server: Server) -> None:
    """Without ICU the models of Django's tests cannot be made."""
    if not server.execute("SELECT 1 FROM pg_collation WHERE collname = 'sv-x-icu'"):
        raise SystemExit(
            f"PostgreSQL {server.version} was built without ICU, which Django's tests need. Set"
            " PG_BIN to the programs of another one, such as /usr/lib/postgresql/15/bin (on Debian:"
            " apt-get install postgresql-15)."
        )


def _paths(tests: Path) -> list[str]:
    """Where runtests.py finds the tests, and this package where it is not installed (see tox)."""
    tree = [] if os.environ.get("TEST_INSTALLED") else [str(ROOT)]
    return [str(tests), *tree, *filter(None, [os.environ.get("PYTHONPATH")])]


def main() -> int:
    """Run both engines and compare them."""
    parser = argparse.ArgumentParser(prog="python -m scripts.django_suite")
    parser.add_argument("labels", nargs="*", help="tests, as runtests.py takes them")
    parser.add_argument("--full", action="store_true", help="all tests of Django")
    parser.add_argument("--parallel", type=int, default=1, help="processes per engine")
    given = parser.parse_args()
    labels = given.labels or ([] if given.full else LABELS)
    tests = tests_of_django()
    stock, resilient = (run(each, labels, tests, given.parallel) for each in (STOCK, RESILIENT))
    version = os.environ.get("PG_VERSION") or "18"
    print(f"\nDjango {django.get_version()}, PostgreSQL {version}")
    return 0 if compare(stock, resilient, KNOWN) else 1


if __name__ == "__main__":
    sys.exit(main())
