"""Test your application against outages: lose its connection exactly where you say.

:class:`Outage` breaks one alias, on any PostgreSQL engine of Django's, with either driver.
:class:`OutageMixin` is for ``unittest``; the fixture ``outage`` for pytest comes with the package.
"""

from .errors import FaultNotReached, OutageError
from .mixin import OutageMixin
from .outage import Outage

__all__ = ["FaultNotReached", "Outage", "OutageError", "OutageMixin"]
