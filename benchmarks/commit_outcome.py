"""What the option ``commit_outcome`` costs a transaction, beside a round trip.

Run: ``make benchmark-commit`` or ``python -m benchmarks.commit_outcome``. Pairs in one process, as
in ``benchmarks.healthy``: the engine without the option, and with it. The embedded server does not
wait for its disk (``fsync`` is off) and is on loopback: what is added is shown in microseconds and
in round trips of this path. Exits with status 1 if more than ``ROUND_TRIPS`` are added.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

from . import healthy

#: The most that may be added, in times of a ``SELECT 1``.
ROUND_TRIPS = 2.5
ALIASES = ("default", "asking")


def configure(server: Any) -> None:
    """Set Django up with one alias without the option and one with it."""
    import django
    from django.conf import settings

    asking = {"resilience": {"commit_outcome": True}}
    databases = {
        alias: server.database(engine="django_resilient_pg", CONN_MAX_AGE=None, options=options)
        for alias, options in zip(ALIASES, ({}, asking), strict=True)
    }
    settings.configure(DATABASES=databases, USE_TZ=True, SECRET_KEY="benchmark")
    django.setup()


def write(connection: Any) -> None:
    """A transaction that writes one row."""
    from django.db.transaction import atomic

    with atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("INSERT INTO written (value) VALUES (1)")


def read(connection: Any) -> None:
    """A transaction that only reads: nothing is asked for."""
    from django.db.transaction import atomic

    with atomic(using=connection.alias):
        healthy.query(connection)


def main() -> int:
    """Print the table; 1 if the bound was missed."""
    from testproject.postgres import Server

    healthy.pin()
    with Server() as server:
        server.execute("CREATE TABLE written (value integer)", database="app")
        server.execute("GRANT ALL ON written TO app", database="app")
        configure(server)
        gc.disable()
        rows = {job.__name__: healthy.measure(job, 300, ALIASES) for job in (write, read)}
        trip, _, _ = healthy.measure(healthy.query, 300, ALIASES)
    print(f"{'':14}{'off':>10}{'on':>12}{'added':>12}{'round trips':>14}")
    missed = False
    for name, (off, on, _) in rows.items():
        trips = (on - off) / trip
        missed |= trips > ROUND_TRIPS
        print(f"{name:14}{off:>7.1f} us{on:>9.1f} us{on - off:>9.1f} us{trips:>14.2f}")
    print(f"a round trip (SELECT 1) takes {trip:.1f} us; at most {ROUND_TRIPS} may be added")
    if missed:
        print("commit_outcome: above its bound", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
