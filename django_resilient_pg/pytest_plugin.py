"""The fixture ``outage`` of pytest, which finds it by the package's entry point.

It is imported by every run of pytest, of whatever project: so it imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import Outage


@pytest.fixture
def outage() -> Outage:
    """Outages of the alias "default": ``with outage.during("INSERT"): ...``.

    The test needs ``@pytest.mark.django_db(transaction=True)``.
    """
    from .testing import Outage

    return Outage()
