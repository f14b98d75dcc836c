"""Fixtures of the tests of transactions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.server.scenarios import Stage
from tests.server.state.losing import Stages


@pytest.fixture
def manual(stage_of: Stages) -> Callable[[str], Stage]:
    """A stage on which transactions begin by themselves, none of them begun."""

    def make(off: str) -> Stage:
        if off == "set_autocommit":
            stage = stage_of()
            stage.connection.set_autocommit(False)
        else:
            stage = stage_of(AUTOCOMMIT=False)
            stage.connection.rollback()
        return stage

    return make
