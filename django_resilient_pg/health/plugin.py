"""A check for django-health-check (4.0 or later). Nothing else here needs that package."""

from __future__ import annotations

import dataclasses

from django.conf import settings
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable

from ..conf import request_settings
from . import words
from .asking import aliases, ask


@dataclasses.dataclass
class Reachable(HealthCheck):  # type: ignore[misc]  # it has no types
    """Databases can be reached within ``RESILIENT_PG_READY_DEADLINE``, as ``ready/`` has it.

    Args:
        alias: of the database; ``None``: all of them.
    """

    alias: str | None = None

    def run(self) -> None:
        """Ask them.

        Raises:
            ServiceUnavailable: which of them cannot be reached, and why.
        """
        wanted = aliases() if self.alias is None else [self.alias]
        answers = ask(wanted, request_settings.ready_deadline(settings))
        gone = [
            f'"{alias}": {words.public(one.reason)}'
            for alias, one in answers.items()
            if not one.reachable
        ]
        if gone:
            raise ServiceUnavailable("; ".join(gone))
