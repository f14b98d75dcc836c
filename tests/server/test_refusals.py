"""Refused connections: what is waited out, what is final, and what decides where it is unknown."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from testproject import binaries
from testproject.cluster import free_port
from testproject.postgres import Server
from tests import needs
from tests.engines import DRIVER, PATIENCE, RESILIENT, STOCK, Connections, backend_pid, run, until
from tests.faults.proxy import Proxy
from tests.server.impostors import Gate
from tests.server.test_shortages import alone

pytestmark = pytest.mark.once_per_driver

NEVER = "has not connected to"
# Of services and languages; the last ones are in no table.
WORDS = {
    "neon": "Failed to acquire permit to connect to the database.",
    "neon control plane": "Control plane request failed",
    "supavisor": "MaxClientsInSessionMode: max clients reached - in Session mode max clients are",
    "odyssey": "too many tcp connections",
    "cockroach": "server is not accepting clients",
    "memory": "out of memory",
    "login timeout": "canceling authentication due to timeout",
    "german": "tut mir leid, schon zu viele Verbindungen",
    "french": "désolé, trop de clients sont déjà connectés",
    "japanese": "現在クライアント数が多すぎます",
    "of tomorrow": "please come back tomorrow",
}
UNKNOWN = ("german", "french", "japanese", "of tomorrow")
PLAIN = {"sslmode": "disable", "gssencmode": "disable"}

Connect = Callable[..., BaseDatabaseWrapper]


def notes_of(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", []))


@pytest.fixture
def gate(server: Server) -> Iterator[Gate]:
    with Gate(server.port) as made:
        yield made


@pytest.fixture
def through(gate: Gate, make_connection: Connections) -> Connect:
    """Make a connection that leads through the gate."""

    def make(engine: str = RESILIENT, **given: Any) -> BaseDatabaseWrapper:
        options = {**PLAIN, **given.pop("options", {})}
        return make_connection(engine, HOST="127.0.0.1", PORT=gate.port, options=options, **given)

    return make


@pytest.mark.parametrize("words", WORDS)
def test_who_has_connected_before_waits_out_a_refusal_in_any_words(
    gate: Gate, through: Connect, server: Server, words: str
) -> None:
    connection = through()
    run(connection)
    gate.refuse(WORDS[words], times=2)
    server.terminate_all()
    assert run(connection) == [(1,)]
    assert gate.refused == 2


def test_the_stock_engine_fails(gate: Gate, through: Connect, server: Server) -> None:
    connection = through(STOCK)
    run(connection)
    gate.refuse(WORDS["german"])
    connection.close()
    with pytest.raises(OperationalError, match="zu viele"):
        run(connection)


@pytest.mark.parametrize("words", WORDS)
def test_who_never_has_connected_waits_for_words_that_are_known(
    gate: Gate, through: Connect, words: str
) -> None:
    connection = through()
    gate.refuse(WORDS[words], times=2)
    if words not in UNKNOWN:
        assert run(connection) == [(1,)]
        return
    with pytest.raises(OperationalError, match=WORDS[words][:10]) as caught:
        run(connection)
    assert gate.refused == 1
    assert NEVER in notes_of(caught.value)


def test_other_settings_have_never_connected(gate: Gate, through: Connect, server: Server) -> None:
    connection = through()
    run(connection)
    connection.close()
    gate.refuse(WORDS["of tomorrow"])
    connection.settings_dict["OPTIONS"]["application_name"] = "other"
    with pytest.raises(OperationalError, match="tomorrow") as caught:
        run(connection)
    assert gate.refused == 1
    assert NEVER in notes_of(caught.value)


def test_unknown_words_are_waited_for_no_longer_than_the_deadline(
    gate: Gate, through: Connect
) -> None:
    connection = through(retry_deadline=1.0)
    run(connection)
    connection.close()
    gate.refuse(WORDS["german"])
    began = time.monotonic()
    with pytest.raises(OperationalError, match="zu viele") as caught:
        run(connection)
    assert 0.5 < time.monotonic() - began < PATIENCE
    assert gate.refused > 1
    assert "deadline" in notes_of(caught.value)


FINAL = {
    "wrong password": ('password authentication failed for user "app"', "28P01"),
    "missing database": ('database "app" does not exist', "3D000"),
    "pg_hba.conf": ("no pg_hba.conf entry for host", "28000"),
    "login": ('role "app" is not permitted to log in', "28000"),
}


@pytest.mark.parametrize("words", FINAL)
def test_a_final_refusal_is_one_attempt_whoever_connected_before(
    gate: Gate, through: Connect, words: str
) -> None:
    connection = through()
    run(connection)
    connection.close()
    gate.refuse(*FINAL[words])
    with pytest.raises(OperationalError) as caught:
        run(connection)
    assert gate.refused == 1
    assert FINAL[words][0] in str(caught.value)
    assert NEVER not in notes_of(caught.value)


def test_a_host_that_is_useless_for_good_does_not_stand_for_the_other_one(
    gate: Gate, make_connection: Connections, server: Server
) -> None:
    """Of a process that starts during a restart, too: it has never connected."""
    with Gate(server.port) as useless:
        useless.refuse('database "app" does not exist', "3D000")
        gate.refuse("the database system is starting up", "57P03", times=2)
        connection = make_connection(
            HOST="127.0.0.1,127.0.0.1", PORT=f"{gate.port},{useless.port}", options=PLAIN
        )
        assert run(connection) == [(1,)]
        assert gate.refused == 2
        useless.refuse('password authentication failed for user "app"', "28P01")
        gate.refuse("the database system is starting up", "57P03")
        connection.close()
        with pytest.raises(OperationalError):
            run(connection)
        assert (useless.refused, gate.refused) == (1, 1)


# -- sessions that are ended at their first statement ----------------------------------------------

STALE = 'password authentication failed for user "app"'


def test_a_pooler_with_an_old_password_is_not_asked_again_and_again(
    gate: Gate, through: Connect, server: Server
) -> None:
    """It lets clients log in; psycopg2 shows its words on the second connection alone."""
    connection = through()
    run(connection)
    gate.refuse_statements(STALE)
    accepted = gate.accepted
    server.terminate_all()
    began = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        run(connection)
    assert time.monotonic() - began < PATIENCE / 2
    assert gate.accepted - accepted <= (1 if DRIVER == "psycopg" else 3)
    assert STALE in f"{caught.value} {notes_of(caught.value)}"


def test_its_words_are_raised_where_a_process_connects_for_the_first_time(
    gate: Gate, through: Connect
) -> None:
    gate.refuse_statements(STALE)
    with pytest.raises(OperationalError, match=STALE):
        run(through())
    assert gate.accepted == (1 if DRIVER == "psycopg" else 2)


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("words", ["pgbouncer cannot connect to server", "out of words"])
def test_a_pooler_without_a_server_is_waited_for_and_quoted(
    gate: Gate, through: Connect, server: Server, connected: bool, words: str
) -> None:
    connection = through()
    if connected:
        run(connection)
    gate.refuse_statements(words, times=3)
    server.terminate_all()
    assert run(connection) == [(1,)]
    assert gate.refused == 3
    gate.refuse_statements(words)
    other = through(retry_deadline=1.0)
    with pytest.raises(OperationalError) as caught:
        run(other)
    assert words in f"{caught.value} {notes_of(caught.value)}"


def test_twenty_threads_before_a_server_that_refuses_statements_are_paced_together(
    gate: Gate, through: Connect, server: Server
) -> None:
    connection = through()
    run(connection)
    gate.refuse_statements("no server today")
    opening = threading.Timer(2.0, gate.refuse_statements, ["", "", 0])
    opening.start()
    server.terminate_all()

    def ask() -> list[tuple[Any, ...]]:
        try:
            return run(connections[connection.alias])
        finally:
            connections[connection.alias].close()

    before, began = gate.accepted, time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        found = [each.result() for each in [pool.submit(ask) for _ in range(20)]]
    took = time.monotonic() - began
    opening.join()
    assert found == [[(1,)]] * 20
    # Those that began before it was known, some at short intervals, then four a second, and one for
    # each thread in the end.
    assert gate.accepted - before <= 2 * 20 + 28 + 4 * took + 20


# -- TLS without asking for it --------------------------------------------------------------------


def test_direct_tls_with_a_server_that_does_not_know_it_is_one_attempt() -> None:
    """It takes the handshake for nonsense, and closes: as a proxy without a server would."""
    with Server("15") as old, Proxy(old.port) as way, closing(Connections(old)) as made:
        direct = {"sslnegotiation": "direct"}
        with pytest.raises(OperationalError):
            run(made(STOCK, PORT=way.port, options=direct))
        before = way.accepted
        with pytest.raises(OperationalError) as caught:
            run(made(PORT=way.port, options=direct))
        assert way.accepted == before + 1
        assert "before PostgreSQL 17" in notes_of(caught.value)


def test_direct_tls_is_waited_for_where_it_has_worked() -> None:
    with (
        Server("18") as server,
        Proxy(server.port) as way,
        closing(Connections(server)) as made,
    ):
        connection = made(PORT=way.port, options={"sslnegotiation": "direct"})
        run(connection)
        way.set_mode("cut")
        opening = threading.Timer(1.0, way.set_mode, ["pass"])
        opening.start()
        assert run(connection) == [(1,)]
        opening.join()


# -- the system's errors --------------------------------------------------------------------------

GERMAN = """
    import locale, time
    from django.db import OperationalError
    locale.setlocale(locale.LC_ALL, "")
    began = time.monotonic()
    try:
        run("SELECT 1")
    except OperationalError as error:
        print(time.monotonic() - began, str(error).partition("\\n")[0])
"""


@pytest.mark.needs("de_DE.UTF-8")
def test_a_refused_connection_is_waited_out_in_the_clients_own_language(server: Server) -> None:
    options = {**PLAIN, "resilience": {"retry_deadline": 1.0}}
    entry = server.database(HOST="127.0.0.1", PORT=free_port(), options=options)
    entry["OPTIONS"].pop("sslrootcert", None)
    said = alone(GERMAN, entry, environ={"LC_ALL": "de_DE.UTF-8"})
    seconds, _, text = said.partition(" ")
    assert "Verbindungsaufbau abgelehnt" in text
    assert float(seconds) > 0.5


@pytest.mark.parametrize("tls", [True, False])
def test_a_server_that_cannot_fork_is_waited_for(
    own_server: Server, own_connections: Connections, tls: bool
) -> None:
    """As when its machine is short of processes; libpq hides what it says before TLS begins."""
    options = {} if tls else PLAIN
    before = limit_of_processes(own_server, "--output=SOFT", "--noheadings")
    limit_of_processes(own_server, limit="0:")
    with pytest.raises(OperationalError, match=r"fork|during SSL"):
        run(own_connections(STOCK, options=options))
    failed = failures_to_fork(own_server)

    def relieve() -> None:
        until(lambda: failures_to_fork(own_server) >= failed + 2, "nobody tried again")
        limit_of_processes(own_server, limit=f"{before}:")

    relieving = threading.Thread(target=relieve)
    relieving.start()
    try:
        assert run(own_connections(options=options)) == [(1,)]
    finally:
        relieving.join()


def limit_of_processes(server: Server, *asking: str, limit: str = "") -> str:
    """Ask for the limit of a server, or set it: as the account that the server has."""
    account = binaries.server_account()
    done = subprocess.run(
        ["prlimit", f"--pid={server.pid}", f"--nproc={limit}" if limit else "--nproc", *asking],
        capture_output=True,
        text=True,
        check=True,
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
    )
    return done.stdout.strip()


def failures_to_fork(server: Server) -> int:
    return server.log_text().count("could not fork new")


# -- servers that do not speak English -------------------------------------------------------------


@pytest.fixture(params=["de_DE.UTF-8", "fr_FR.UTF-8"])
def foreign(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Debian's PostgreSQL, which has translations, with few slots."""
    folder = needs.postgres_with("postgres_fdw")
    settings = {"lc_messages": request.param, "max_connections": "6"}
    with Server(pg_bin=folder, settings=settings) as running:
        yield running


LANGUAGES = ("postgres_fdw", "de_DE.UTF-8", "fr_FR.UTF-8")
TOO_MANY = r"zu viele|trop de clients|reserviert|r.serv.s"


@pytest.mark.needs(*LANGUAGES)
def test_a_foreign_servers_refusals_are_waited_out(foreign: Server) -> None:
    with closing(Connections(foreign)) as made:
        connection = made()
        run(connection)
        fillers: list[Any] = []

        def fill() -> None:
            with pytest.raises(OperationalError, match=TOO_MANY):
                while True:
                    filler = made(STOCK)
                    filler.ensure_connection()
                    fillers.append(filler.connection)

        fill()
        foreign.terminate(backend_pid(connection))
        fill()
        began = refusals(foreign)

        def relieve() -> None:
            until(lambda: refusals(foreign) >= began + 2, "nobody tried again")
            fillers[0].close()

        relieving = threading.Thread(target=relieve)
        relieving.start()
        try:
            assert run(connection) == [(1,)]
        finally:
            relieving.join()
        foreign.stop("immediate")
        back = threading.Timer(0.5, foreign.start)
        back.start()
        try:
            assert run(connection) == [(1,)]
        finally:
            back.join()


def refusals(server: Server) -> int:
    return len(re.findall(rf"FATAL:.*(?:{TOO_MANY})", server.log_text()))


@pytest.mark.needs(*LANGUAGES)
def test_a_foreign_servers_final_refusal_is_one_attempt_of_who_never_connected(
    foreign: Server,
) -> None:
    with closing(Connections(foreign)) as made:
        connection = made(PASSWORD="a-wrong-secret")
        with pytest.raises(OperationalError, match=r"Passwort|mot de passe") as caught:
            run(connection)
        assert NEVER in notes_of(caught.value)
        assert len(re.findall(r"FATAL:.*(?:Passwort|mot de passe)", foreign.log_text())) == 1


# -- errors that are no refusal --------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["SELECT no_such_column", "SELECT 1 / 0"])
def test_an_error_of_a_receiver_is_raised_at_once(make_connection: Connections, sql: str) -> None:
    connection = make_connection()
    run(connection)
    connection.close()
    calls: list[int] = []

    def receive(connection: BaseDatabaseWrapper, **_: Any) -> None:
        calls.append(1)
        run(connection, sql)

    connection_created.connect(receive)
    try:
        with pytest.raises(DatabaseError):
            run(connection)
    finally:
        connection_created.disconnect(receive)
    assert calls == [1]
