"""The command, against real servers in the state it describes."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections


def report(alias: str) -> str:
    out = io.StringIO()
    call_command("checkdbconn", databases=[alias], stdout=out, no_color=True)
    return re.sub(r"[ \t]+", " ", out.getvalue())


def test_it_says_what_lies_between(make_connection: Connections) -> None:
    connection = make_connection(CONN_MAX_AGE=600)
    said = report(connection.alias)
    assert f'"{connection.alias}": connected.' in said
    assert "a primary" in said
    assert "path direct" in said
    assert "TLS TLSv1." in said
    assert "idle 20 s, interval 5.0 s, count 3, user timeout 30 s" in said
    assert "600 s at most" in said
    assert connection.settings_dict["PASSWORD"] not in said


def test_it_finds_the_servers_idle_timeout(
    own_connections: Connections, own_server: Server
) -> None:
    own_server.configure(idle_session_timeout="3s")
    said = report(own_connections(CONN_MAX_AGE=600).alias)
    assert "idle_session_timeout of the server (3 s)" in said
    assert "connection age 1.5 s at most (CONN_MAX_AGE: 600 s" in said


def test_it_works_with_djangos_own_engine(make_connection: Connections) -> None:
    said = report(make_connection(STOCK).alias)
    assert "not clamped by Django's own engine" in said
    assert "user timeout not set" in said


def test_it_reads_keepalives_back_from_the_socket(make_connection: Connections) -> None:
    options = {"keepalives_idle": 77, "tcp_user_timeout": 41000}
    said = report(make_connection(RESILIENT, options=options).alias)
    assert "idle 77 s" in said
    assert "user timeout 41 s" in said


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_a_server_that_is_down_is_exit_status_1(
    own_connections: Connections, own_server: Server, engine: str
) -> None:
    given: dict[str, Any] = {} if engine == STOCK else {"retry_deadline": 0.5}
    alias = own_connections(engine, **given).alias
    own_server.stop("fast")
    with pytest.raises(CommandError, match=f'Not reachable: "{alias}"') as caught:
        report(alias)
    assert caught.value.returncode == 1
