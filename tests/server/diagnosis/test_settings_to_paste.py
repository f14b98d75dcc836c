"""Settings to paste are those that differ, and leave nothing to paste."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections

from tests.engines import STOCK, Connections
from tests.server.diagnosis.command import document, run

pytestmark = pytest.mark.once_per_driver


def test_settings_to_paste_are_only_those_that_differ(make_connection: Connections) -> None:
    healthy = make_connection(CONN_MAX_AGE=60)
    assert "# No settings to change." in run(healthy.alias, fix=True)[0]
    flawed = make_connection(STOCK, CONN_MAX_AGE=60)
    block = run(flawed.alias, fix=True)[0].split("Settings to paste\n")[1].split("\n\n")[0]
    kept = {"sslmode": "verify-full"}
    entry: dict[str, Any] = {"CONN_MAX_AGE": 60, "OPTIONS": dict(kept)}
    code = "\n".join(line[2:] for line in block.splitlines())
    exec(code, {"DATABASES": {flawed.alias: entry}})
    (database,) = document(flawed.alias)["databases"]
    assert entry["OPTIONS"] == {**kept, **database["fix"]["OPTIONS"]}
    assert entry["OPTIONS"]["tcp_user_timeout"] == 30000


ONCE_PASTED = [
    pytest.param({}, id="kept by threads"),
    pytest.param({"pool": True}, marks=pytest.mark.psycopg3, id="a pool as it comes"),
    pytest.param(
        {"pool": {"name": "web", "min_size": 2}}, marks=pytest.mark.psycopg3, id="a pool of its own"
    ),
]


@pytest.mark.parametrize("own", ONCE_PASTED)
def test_settings_once_pasted_leave_nothing_to_paste(
    make_connection: Connections, own: dict[str, Any]
) -> None:
    """The command itself, run again on what it said."""
    options = {"options": "-c idle_session_timeout=30s", **own}
    flawed = make_connection(STOCK, options=options, CONN_MAX_AGE=0)
    entry = connections.settings[flawed.alias]
    before = run(flawed.alias, fix=True, fail_level="warning")
    block = before[0].split("Settings to paste\n")[1].split("\n\n")[0]
    assert before[2] == 1
    exec("\n".join(line[2:] for line in block.splitlines()), {"DATABASES": {flawed.alias: entry}})
    assert entry["CONN_MAX_AGE"] == (0 if own else 15)
    if isinstance(own.get("pool"), dict):
        assert entry["OPTIONS"]["pool"]["name"] == "web"
    del connections[flawed.alias]
    said, _, status = run(flawed.alias, fix=True, fail_level="warning")
    assert status == 0, said
    assert "# No settings to change." in said
