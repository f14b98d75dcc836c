"""``checkdbconn`` gives no password away, nor what peers send to a terminal."""

from __future__ import annotations

import logging
import struct
from contextlib import suppress
from typing import Any

import pytest
from django.core import checks

from django_resilient_pg import signals
from testproject.postgres import Server
from tests.engines import RESILIENT, STOCK, Connections
from tests.server.diagnosis.command import run, words
from tests.server.impostors import Asker

pytestmark = pytest.mark.once_per_driver


# -- what it costs, what it gives away -------------------------------------------------------------


PASSWORD = "uncommon-secret-of-this-test"


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_no_password_is_ever_shown(make_connection: Connections, engine: str) -> None:
    connection = make_connection(engine)
    own = str(connection.settings_dict["PASSWORD"])
    wrong = make_connection(engine, PASSWORD=PASSWORD)
    for alias in (connection.alias, wrong.alias):
        for shape in ("text", "json"):
            said, complaints, _ = run(
                alias, format=shape, sslmodes=True, drill=True, fix=True, verbosity=3
            )
            assert own not in said + complaints
            assert PASSWORD not in said + complaints
            assert "password=" not in said + complaints


PEM = f"-----BEGIN PRIVATE KEY-----\n{PASSWORD}\n-----END PRIVATE KEY-----\n"
PASTED: dict[str, dict[str, Any]] = {
    "URL as HOST": {"HOST": f"postgres://app:{PASSWORD}@localhost:5432/app"},
    "login in HOST": {"HOST": f"app:{PASSWORD}@localhost"},
    "path behind HOST": {"HOST": f"localhost/app?password={PASSWORD}"},
    "parameters as HOST": {"HOST": f"localhost password={PASSWORD}"},
    "URL as hostaddr": {"OPTIONS": {"hostaddr": f"postgres://app:{PASSWORD}@127.0.0.1"}},
    "path behind PORT": {"PORT": f"5432/app?password={PASSWORD}"},
    "password as PORT": {"PORT": PASSWORD},
    "parameters as NAME": {"NAME": f"dbname=app password={PASSWORD}"},
    "long parameters as NAME": {"NAME": f"host=db.internal.example dbname=app password={PASSWORD}"},
    "URL as NAME": {"NAME": f"postgres://app:{PASSWORD}@localhost:5432/app"},
    "login as USER": {"USER": f"app:{PASSWORD}@localhost"},
    "URL as service": {"OPTIONS": {"service": f"postgres://app:{PASSWORD}@localhost/app"}},
    "URL as sslmode": {"OPTIONS": {"sslmode": f"postgres://app:{PASSWORD}@localhost/app"}},
    "parameters as timeout": {"OPTIONS": {"connect_timeout": f"5 password={PASSWORD}"}},
    "URL as sslrootcert": {"OPTIONS": {"sslrootcert": f"postgres://app:{PASSWORD}@db/app"}},
    "key as sslkey": {"OPTIONS": {"sslkey": PEM}},
    "certificate as sslcert": {"OPTIONS": {"sslcert": PEM.replace("PRIVATE KEY", "CERTIFICATE")}},
    "key in one line": {"OPTIONS": {"sslrootcert": PEM.replace("\n", "\\n")}},
    "parameters behind NAME": {"NAME": f"app;Pwd={PASSWORD}"},
    "parameters as assumed role": {"OPTIONS": {"assume_role": f"password={PASSWORD}"}},
    "parameters as role": {"OPTIONS": {"target_session_attrs": f"any password={PASSWORD}"}},
}


@pytest.mark.parametrize("what", PASTED)
@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_what_was_pasted_into_the_wrong_place_is_not_shown(
    make_connection: Connections, engine: str, what: str
) -> None:
    """A URL or a connection string instead of its parts: refused at once, and never repeated."""
    alias = make_connection(engine, **PASTED[what]).alias
    for shape in ("text", "json"):
        said, complaints, status = run(
            alias, format=shape, sslmodes=True, drill=True, fix=True, verbosity=3, wait=5.0
        )
        assert PASSWORD not in said + complaints
        assert "not reachable yet" not in complaints
        assert status == 3
    for databases in (None, [alias]):
        messages = checks.run_checks(databases=databases)
        assert PASSWORD not in str([(each.msg, each.hint) for each in messages])
        own = [each for each in messages if alias in str(each.obj)]
        assert {"resilient_pg.E001", "resilient_pg.E002"} & {str(each.id) for each in own}


LOGGED = [*PASTED, "URL as PGHOST"]


@pytest.mark.parametrize("what", LOGGED)
def test_what_was_pasted_into_the_wrong_place_is_neither_logged_nor_sent(
    make_connection: Connections,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """The driver's own message repeats the host that it cannot find."""
    entry = PASTED.get(what, {"HOST": ""})
    if "PGHOST" in what:
        monkeypatch.setenv("PGHOST", str(PASTED["URL as HOST"]["HOST"]))
    told: list[str] = []

    def receive(record: object, **given: object) -> None:
        told.append(repr(record))

    connection = make_connection(retry_deadline=0.3, **entry)
    signals.connect_retried.connect(receive)
    try:
        with caplog.at_level(logging.DEBUG, "django_resilient_pg"), suppress(Exception):
            connection.ensure_connection()
    finally:
        signals.connect_retried.disconnect(receive)
    lines = [record.getMessage() for record in caplog.records if record.name != "django.db"]
    assert PASSWORD not in " ".join([*lines, *told])
    if what.startswith("URL as HOST"):
        assert lines or told


@pytest.mark.parametrize("engine", [STOCK, RESILIENT])
def test_what_stands_behind_the_user_is_not_shown(
    make_connection: Connections, server: Server, engine: str
) -> None:
    """It is no error: the name of a role may have a ":" in it."""
    wrong = make_connection(engine, USER=f"app:{PASSWORD}").alias
    for shape in ("text", "json"):
        said, complaints, status = run(wrong, format=shape, sslmodes=True, verbosity=3)
        assert PASSWORD not in said + complaints
        assert ("app:***" in said, status) == (True, 3)
    server.execute(f"CREATE ROLE \"app:read\" LOGIN PASSWORD '{server.password}'")
    try:
        alias = make_connection(engine, USER="app:read").alias
        said, _, status = run(alias)
        assert status == 0
        assert "credentials" not in said
    finally:
        server.execute('DROP ROLE "app:read"')


# -- what peers send -------------------------------------------------------------------------------


NASTY = "\x1b[2J\x1b]0;owned\x07 \u202eterces\u202c \x9b31m \x08\x08"


@pytest.mark.parametrize("options", [{}, {"verbosity": 2}, {"sslmodes": True}, {"format": "json"}])
def test_nothing_that_a_peer_sends_reaches_the_terminal_raw(
    make_connection: Connections, options: dict[str, Any]
) -> None:
    said = f"{NASTY}{'x' * 20_000}".encode()
    body = b"SFATAL\0VFATAL\0C57P99\0M" + said + b"\0\0"
    with Asker(b"E" + struct.pack("!I", 4 + len(body)) + body) as peer:
        alias = make_connection(
            HOST="127.0.0.1", PORT=peer.port, options={"sslmode": "prefer"}
        ).alias
        report, complaints, status = run(alias, **options)
    assert status in {1, 3}
    shown = report + complaints
    assert [each for each in set(shown) - {"\n"} if not each.isprintable()] == []
    assert len(shown) < 20_000
    assert "xxx" in shown


def test_a_name_of_the_database_is_shown_escaped(
    make_connection: Connections, server: Server
) -> None:
    name = f"odd {NASTY}"
    server.execute(f'CREATE DATABASE "{name}" OWNER {server.user}')
    try:
        report, complaints, _ = run(make_connection(database=name).alias, verbosity=2)
    finally:
        server.terminate_all(name)
        server.drop_database(name)
    raw = [line for line in (report + complaints).splitlines() if not line.isprintable()]
    assert raw == []
    assert r"\x1b[2J" in words(report)
