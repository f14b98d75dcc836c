"""What the first query of a process costs its processor beyond that of the stock engine.

Run: ``make benchmark-first`` or ``python -m benchmarks.first_query``. Fresh processes of both
engines take turns; in each the time of the processor (user and system) is read of Django's set-up,
and from the first use of the connection to its first rows, with what is imported on the way. The
third kind has the app installed, whose checks are imported by the set-up. The difference is given
twice: of the least that each engine took, to which what else the machine has to do only adds, and
the median of the pairs with its 95 % interval, which shows how far this run is to be trusted. Exits
with status 1 if the first is more than ``BOUND``.

A process begins the query with the garbage collector's counts at 0. Else it is chance in which of
them a full collection comes due (20 ms where Django is loaded), which all have sooner or later.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.copies import ROOT
from benchmarks.healthy import ENGINES, pin
from benchmarks.intervals import interval

#: Milliseconds.
BOUND = 15.0
_STOCK, _RESILIENT = ENGINES
#: name -> engine, installed apps.
KINDS: dict[str, tuple[str, list[str]]] = {
    "stock": (_STOCK, []),
    "resilient": (_RESILIENT, []),
    "resilient, with the app": (_RESILIENT, ["django_resilient_pg"]),
}
_QUERY = """
import gc, json, sys, time
import django
from django.conf import settings
entry, apps = json.loads(sys.argv[1])
settings.configure(
    DATABASES={"default": entry}, INSTALLED_APPS=apps, USE_TZ=True, SECRET_KEY="x"
)
began = time.process_time()
django.setup()
from django.db import connection
ready = time.process_time()
gc.collect()
first = time.process_time()
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    cursor.fetchall()
print(json.dumps([ready - began, time.process_time() - first]))
"""


def main() -> int:
    """Print what each kind takes; 1 if the bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25, help="processes of each kind")
    arguments = parser.parse_args()
    from testproject.postgres import Server

    pin()
    took: dict[str, list[list[float]]] = {name: [] for name in KINDS}
    with Server() as server, tempfile.TemporaryDirectory() as compiled:
        for number in range(1 + arguments.runs):
            for name, (engine, apps) in KINDS.items():
                milliseconds = _measure([server.database(engine=engine), apps], compiled)
                if number:  # the first ones have compiled what they import
                    took[name].append(milliseconds)
    print(f"load {os.getloadavg()[0]:.1f}; milliseconds of the processor: least, median")
    for name, runs in took.items():
        setups, queries = zip(*runs, strict=True)
        print(f"{name:24} set-up {_shown(setups)}   first query {_shown(queries)}")
    stock, ours = ([query for _, query in took[name]] for name in ("stock", "resilient"))
    pairs = interval([[one - other for one, other in zip(ours, stock, strict=True)]])
    print(f"median of the pairs {pairs.median:+.1f} ms [{pairs.low:+.1f}, {pairs.high:+.1f}]")
    least = min(ours) - min(stock)
    print(f"{least:+.1f} ms (at most {BOUND:g})")
    return int(least > BOUND)


def _measure(given: list[Any], compiled: str) -> list[float]:
    """What the set-up and the first query of a process take, in milliseconds."""
    # As where a package is installed: modules are compiled once.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", _QUERY, json.dumps(given)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return [1000 * seconds for seconds in json.loads(done.stdout)]


def _shown(values: tuple[float, ...]) -> str:
    return f"{min(values):6.1f} {statistics.median(values):6.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
