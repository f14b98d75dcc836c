"""``django_resilient_pg.resilience_of``: what the engine knows, for type checkers too."""

from __future__ import annotations

import pytest
from django.db import connection, connections

from django_resilient_pg import resilience_of
from django_resilient_pg.state.shared import Resilience
from tests.engines import STOCK

pytestmark = pytest.mark.once_per_driver


def test_it_takes_a_connection_its_proxy_or_an_alias() -> None:
    found = resilience_of(connections["default"])
    assert isinstance(found, Resilience)
    assert resilience_of(connection) is found
    assert resilience_of("default") is found


def test_another_engine_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**connections.settings["default"], "ENGINE": STOCK}
    monkeypatch.setitem(connections.settings, "stock", settings)
    try:
        with pytest.raises(TypeError, match=rf'^The connection "stock" has the engine "{STOCK}"'):
            resilience_of("stock")
    finally:
        del connections["stock"]
