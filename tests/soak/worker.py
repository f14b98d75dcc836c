"""One process of the application: works with the shop for as long as it is told, round by round.

Orders come as lines of standard input: ``prepare`` creates the tables, a number is the seconds of a
round. Each is answered with a line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import django
from django.core.management import call_command
from django.db import connections

from testproject import load
from testproject.witness import independent
from tests.soak.timed import Timed

#: The port of the server itself, without the proxy: what the database has is counted there.
DIRECT_PORT = "SOAK_DIRECT_PORT"
#: Of a read or a transaction: none is to fail because faults come faster than they are retried.
RETRIES, DEADLINE = 50, 60.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer orders until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.worker", description=__doc__)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--retry-atomic", action="store_true")
    given = parser.parse_args(arguments)
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    django.setup()
    shop = None
    for number, order in enumerate(map(str.strip, sys.stdin)):
        if order == "prepare":
            shop = _prepare(retries=given.retry_atomic)
            answer: dict[str, Any] = {}
        else:
            answer = _round(shop, float(order), given.threads, number)
        gc.collect()  # what is held is measured now
        print(json.dumps(answer), flush=True)


def _prepare(*, retries: bool) -> Timed:
    # Imported late: models can be imported only when Django is set up.
    from testproject.shop import operations

    operations.RETRIES = RETRIES
    connections.settings["direct"] = {
        **connections.settings["default"],
        "PORT": os.environ[DIRECT_PORT],
    }
    with closing(connections["default"]):
        call_command("migrate", verbosity=0)
        shop = operations.stock_up("default", retries=retries, deadline=DEADLINE)
        return Timed(shop, DEADLINE, retries=retries)


def _round(shop: Timed | None, seconds: float, threads: int, number: int) -> dict[str, Any]:
    assert shop is not None, "the first order is to prepare"
    shop.late = 0
    with independent("direct") as ask:
        result = load.run(shop=shop, seconds=seconds, threads=threads, seed=number, ask=ask)
    return {"late": shop.late, "result": result.as_json()}


if __name__ == "__main__":
    main()
