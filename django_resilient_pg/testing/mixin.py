"""``unittest``: ``self.outage`` in a test case."""

from __future__ import annotations

from functools import cached_property

from django.db import DEFAULT_DB_ALIAS
from django.test import TestCase

from .errors import OutageError
from .outage import Outage


class OutageMixin:
    """Adds ``self.outage`` to a ``TransactionTestCase``.

    Attributes:
        outage_alias: the database alias that is broken.
    """

    outage_alias = DEFAULT_DB_ALIAS

    @cached_property
    def outage(self) -> Outage:
        """The outage of this test."""
        return Outage(self.outage_alias)

    @classmethod
    def setUpClass(cls) -> None:
        """Refuse a TestCase, whose transaction a lost connection ends."""
        if issubclass(cls, TestCase):
            raise OutageError(
                f"{cls.__name__} is a TestCase, whose transaction a lost connection ends. "
                "Use TransactionTestCase"
            )
        super().setUpClass()  # type: ignore[misc]  # of the TransactionTestCase beside it
