"""What the first query of a process costs its processor beyond that of the stock engine.

Run: ``python -m benchmarks.first_query`` with either driver installed. Fresh processes of both
engines take turns; in each the time of the processor (user and system) from the first use of the
connection to its first rows is read, with what is imported and compiled on the way. Exits with
status 1 if the difference of the medians is above ``BOUND``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.copies import ROOT
from benchmarks.healthy import ENGINES

#: Milliseconds.
BOUND = 15.0
_QUERY = """
import json, resource, sys
import django
from django.conf import settings
settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, USE_TZ=True, SECRET_KEY="x")
django.setup()
from django.db import connection
began = resource.getrusage(resource.RUSAGE_SELF)
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
    cursor.fetchall()
ended = resource.getrusage(resource.RUSAGE_SELF)
print((ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) * 1000)
"""


def main() -> int:
    """Print both medians; 1 if the bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25, help="processes of each engine")
    arguments = parser.parse_args()
    from testproject.postgres import Server

    took: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    with Server() as server, tempfile.TemporaryDirectory() as compiled:
        # As where a package is installed: modules are compiled once.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONPATH": str(ROOT)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(1 + arguments.runs):
            for engine in ENGINES:
                entry = json.dumps(server.database(engine=engine))
                command = [sys.executable, "-c", _QUERY, entry]
                done = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                )
                if number:
                    took[engine].append(float(done.stdout))
    stock, ours = (statistics.median(took[engine]) for engine in ENGINES)
    print(f"load {os.getloadavg()[0]:.1f}; stock {stock:.0f} ms, resilient {ours:.0f} ms, ", end="")
    print(f"{ours - stock:+.0f} ms (at most {BOUND:g})")
    return int(ours - stock > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
