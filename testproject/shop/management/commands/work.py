"""A worker: busy with the shop for a long time, without Django's request signals."""

from __future__ import annotations

import random
import time
import uuid
from argparse import ArgumentParser
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from testproject.ledger import Kind, Ledger, Result, judge
from testproject.shop.operations import Shop, stock_up
from testproject.witness import count, independent


class Command(BaseCommand):
    """``manage.py work --seconds 60 --pause 0.1``."""

    help = (
        "Reads, writes in autocommit and buys in transactions, unit after unit, for a given time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="Alias to work with.")
        parser.add_argument("--seconds", type=float, default=60.0, help="How long to work.")
        parser.add_argument("--pause", type=float, default=0.05, help="Seconds between units.")
        parser.add_argument("--seed", type=int, default=1, help="Of what is read and bought.")

    def handle(self, *args: Any, **options: Any) -> None:
        using = options["database"]
        prefix = uuid.uuid4().hex[:8]
        ledger = Ledger()
        start = time.monotonic()
        rng = random.Random(options["seed"])
        shop = stock_up(using)
        while time.monotonic() - start < options["seconds"]:
            self._unit(shop, rng, ledger, prefix)
            time.sleep(options["pause"])
        with independent(using) as ask:
            found = count(ask, prefix)
        seconds = time.monotonic() - start
        self._report(judge([ledger], found, engine=using, seconds=seconds))

    def _unit(self, shop: Shop, rng: random.Random, ledger: Ledger, prefix: str) -> None:
        """A read, a write in autocommit and a transaction; an error does not end the work."""
        token = f"{prefix}-{ledger.operations[Kind.READ]}"
        ledger.attempt(Kind.READ, partial(shop.read, rng))
        ledger.attempt(Kind.WRITE, partial(shop.write, rng, token), token)
        ledger.attempt(Kind.TRANSACTION, partial(shop.buy, rng, token), token)

    def _report(self, result: Result) -> None:
        done = ", ".join(f"{number} {kind}s" for kind, number in result.operations.items())
        self.stdout.write(f"Worked for {result.seconds:.1f} s: {done}.")
        failed = {
            "failed reads": result.failed_reads,
            "writes with unknown outcome": result.write_errors,
            "failed transactions": result.failed_transactions,
            "lost": result.lost,
            "doubled": result.doubled,
            "half committed": result.half_committed,
        }
        if any(failed.values()):
            counts = ", ".join(f"{number} {what}" for what, number in failed.items() if number)
            errors = "".join(f"\n{number} x {text}" for text, number in result.errors.items())
            raise CommandError(f"Not everything went well: {counts}.{errors}")
        self.stdout.write("Everything went well.")
