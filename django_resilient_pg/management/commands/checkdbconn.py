"""``manage.py checkdbconn``: can this project reach its databases, and what lies between?"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.db.utils import Error

from ...diagnosis.summary import lines, summarise


class Command(BaseCommand):
    """Connects as the application would and says what it found."""

    help = "Connects to PostgreSQL as the application would and says what lies between."
    # It must run while the database is down, whatever the other apps' checks want.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare ``--database``."""
        parser.add_argument(
            "--database",
            action="append",
            choices=tuple(connections),
            dest="databases",
            help="alias to check; may be given several times (default: all PostgreSQL ones)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Check each alias.

        Raises:
            CommandError: at least one cannot be reached (exit status 1).
        """
        aliases = options["databases"] or list(connections)
        unreachable = [alias for alias in aliases if not self._check(alias)]
        if unreachable:
            names = ", ".join(f'"{alias}"' for alias in unreachable)
            raise CommandError(f"Not reachable: {names}.")

    def _check(self, alias: str) -> bool:
        connection = connections[alias]
        if connection.vendor != "postgresql":
            self.stderr.write(f'"{alias}" is not PostgreSQL ({connection.vendor}): skipped.')
            return True
        try:
            summary = summarise(connection)
        except Error as error:
            self.stdout.write(self.style.ERROR(f'"{alias}": cannot connect.'))
            notes = getattr(error, "__notes__", [])
            for line in [*str(error).strip().splitlines(), *notes]:
                self.stdout.write(f"  {line.strip()}")
            return False
        self.stdout.write(self.style.SUCCESS(f'"{alias}": connected.'))
        for label, text in lines(summary):
            self.stdout.write(f"  {label:15} {text}")
        return True
