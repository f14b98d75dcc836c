"""One application with its shoppers, in a process: ``python -m testproject.lab.application``.

Prints one JSON object a line: what was answered, what failed, what was logged. Ends when its
standard input does, so that it never outlives the lab.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

import django
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command

from testproject.lab.shoppers import Buyer, Shopper, Tally

TICK = 0.2  # seconds between two lines
SHOPPERS = 8
BUYERS = 3


class Relay(logging.Handler):
    """Hands the lines of the engine on, with the time at which their event happened."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        self._tally.log.put([record.created, record.levelname, record.getMessage()])


def heed(tally: Tally) -> None:
    """Count what the engine heals, and take what it logs; Django's has nothing of the kind."""
    from django_resilient_pg.signals import connection_lost

    def lost(record: Any, **_: object) -> None:
        if record.healed:
            tally.healed.put(record.alias)

    connection_lost.connect(lost, weak=False)
    logging.getLogger("django_resilient_pg").addHandler(Relay(tally))


def drained(queue: SimpleQueue[Any]) -> list[Any]:
    """What has come in since the last time."""
    return [queue.get_nowait() for _ in range(queue.qsize())]


def report(tally: Tally) -> dict[str, Any]:
    """What has happened since the last report."""
    return {
        "done": drained(tally.done),
        "log": drained(tally.log),
        "healed": len(drained(tally.healed)),
        "waiting": sum(shopper.is_waiting() for shopper in tally.shoppers),
    }


def end_with_the_lab() -> None:
    """Wait until nobody holds the other end of the pipe, then end at once."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Create the tables, send the shoppers in, and report until the lab is over."""
    threading.Thread(target=end_with_the_lab, daemon=True).start()
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.lab.storefront_settings"
    django.setup()
    from testproject.lab.storefront import shop

    call_command("migrate", verbosity=0)
    retries = shop().retries
    tally = Tally(WSGIHandler())
    if retries:
        heed(tally)
    tally.shoppers += [Shopper(tally) for _ in range(SHOPPERS)]
    tally.shoppers += [Buyer(tally) for _ in range(BUYERS)]
    for shopper in tally.shoppers:
        shopper.start()
    while True:
        print(json.dumps(report(tally)), flush=True)
        time.sleep(TICK)


if __name__ == "__main__":
    main()
