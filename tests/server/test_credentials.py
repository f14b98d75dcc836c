"""The ``credentials`` option: asked before every physical connection, and never shown."""

from __future__ import annotations

import gc
import io
import logging
import threading
import time
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import Error, OperationalError, connections

import django_resilient_pg
from django_resilient_pg.diagnosis.survey.gather import survey
from django_resilient_pg.errors import CredentialsUnavailable
from django_resilient_pg.state.logins import ROTATES
from testproject.postgres import Server
from tests.engines import DRIVER, PATIENCE, RESILIENT, STOCK, Connections, ask, until
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.once_per_driver

SECRET = "a-token-that-must-not-be-seen"
POOLS: dict[str, dict[str, Any]] = {"alone": {}}
if DRIVER == "psycopg":
    POOLS["pooled"] = {"pool": {"min_size": 1, "max_size": 4}}

# Where secrets are kept, what it will know once it has been asked once more, and who asked.
vault: dict[str, str] = {}
coming: dict[str, str] = {}
asked: list[str] = []
#: A thread that is overtaken by others, and that they have been accepted meanwhile.
SLOW = "slow"
others_answered = threading.Event()


def current(alias: str) -> dict[str, str]:
    asked.append(alias)
    known = dict(vault)
    vault.update(coming)
    return known


def overtaken(alias: str) -> dict[str, str]:
    """The slow thread gets three passwords that others have changed before it uses them."""
    name = threading.current_thread().name
    asked.append(name)
    if name != SLOW or asked.count(SLOW) == 4:
        return dict(vault)
    if asked.count(SLOW) == 2:
        assert others_answered.wait(PATIENCE)
    return {"password": f"changed-{asked.count(SLOW)}"}


def broken(alias: str) -> dict[str, str]:
    asked.append(alias)
    raise KeyError(SECRET)


def unreachable_twice(alias: str) -> dict[str, str]:
    asked.append(alias)
    if len(asked) < 3:
        raise ConnectionRefusedError(SECRET)
    return dict(vault)


def a_string(alias: str) -> str:
    return SECRET


def too_much(alias: str) -> dict[str, str]:
    return {"user": "app", "password": SECRET, SECRET: "x"}


def no_strings(alias: str) -> dict[str, object]:
    return {"password": [SECRET]}


def with_nul(alias: str) -> dict[str, str]:
    return {"user": "app", "password": f"{SECRET}\0"}


def with_surrogate(alias: str) -> dict[str, str]:
    return {"user": f"{SECRET}\ud800", "password": SECRET}


NOT_CALLABLE = 3


def path(name: str) -> str:
    return f"{__name__}.{name}"


def shown(error: BaseException | None) -> str:
    """What an error reporter goes through."""
    chain = []
    while error is not None:
        chain.append(f"{error!r} {error} {getattr(error, '__notes__', '')}")
        error = error.__cause__ or error.__context__
    return "\n".join(chain)


@pytest.fixture(autouse=True)
def secrets(server: Server) -> Iterator[None]:
    for each in (vault, coming):
        each.clear()
    asked.clear()
    others_answered.clear()
    vault["password"] = server.password
    yield
    vault.clear()
    coming.clear()


@pytest.mark.parametrize("pool", POOLS)
def test_asked_for_every_connection(
    pool: str, make_connection: Connections, server: Server
) -> None:
    connection: Any = make_connection(
        options=POOLS[pool], PASSWORD="out of date", credentials=path("current")
    )
    assert ask(connection, "SELECT 1") == 1
    assert ask(connection, "SELECT 2") == 2
    if pool != "alone":
        connection.pool.wait(PATIENCE)  # one still under way would outlive the others
    assert set(asked) == {connection.alias}
    before = len(asked)
    assert before == 1 or pool != "alone"
    server.terminate_all()
    assert ask(connection, "SELECT 3") == 3
    assert len(asked) > before


def test_the_user_too(make_connection: Connections, server: Server) -> None:
    server.execute("DROP ROLE IF EXISTS rotated")
    server.execute("CREATE ROLE rotated LOGIN PASSWORD 'other' IN ROLE app")
    vault.update(user="rotated", password="other")
    connection = make_connection(credentials=path("current"))
    try:
        assert ask(connection, "SELECT current_user") == "rotated"
    finally:
        connection.close()
        server.execute("DROP ROLE rotated")


# -- under load ---------------------------------------------------------------------------------


class Load:
    """Readers in threads of their own, each of which makes a connection for every read."""

    def __init__(self, alias: str, threads: int = 4) -> None:
        self.answered = 0
        self.failed: list[Error] = []
        self._over, self._alias = threading.Event(), alias
        self._threads = [threading.Thread(target=self._read) for _ in range(threads)]

    def _read(self) -> None:
        connection = connections[self._alias]
        while not self._over.is_set():
            try:
                assert ask(connection, "SELECT 42") == 42
                self.answered += 1  # losing one to another thread does no harm
            except Error as error:
                self.failed.append(error)
            connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def rotate(server: Server, times: int, load: Load) -> None:
    """Change the password, let the vault lag behind by one answer, and end the old sessions.

    Between two changes there are answers: on a busy machine a login may take longer than that.
    """
    for number in range(times):
        before = load.answered
        until(lambda: load.answered >= before + 5, "no read was answered")  # noqa: B023  at once
        password = f"password-{number}"
        server.execute(f"ALTER ROLE app PASSWORD '{password}'")
        coming["password"] = password
        server.terminate_all()


@pytest.mark.parametrize("pool", POOLS)
def test_a_password_rotated_under_load_fails_no_read(
    pool: str, own_connections: Connections, own_server: Server
) -> None:
    connection = own_connections(options=POOLS[pool], credentials=path("current"))
    vault["password"] = own_server.password
    with Load(connection.alias) as load:
        rotate(own_server, 8, load)
        before = load.answered
        until(lambda: load.failed != [] or load.answered > before, "no read was answered")
    assert load.failed == []


def test_a_login_that_overtakes_changes_is_asked_for_again(
    make_connection: Connections, server: Server
) -> None:
    """A busy machine takes longer for a login than a vault lags; others are accepted meanwhile."""
    connection = make_connection(credentials=path("overtaken"))
    alias = connection.alias
    read: list[object] = []

    def slow() -> None:
        try:
            read.append(ask(connections[alias], "SELECT 42"))
        except Error as error:
            read.append(error)
        connections[alias].close()

    reader = threading.Thread(target=slow, name=SLOW)
    reader.start()
    until(lambda: asked.count(SLOW) == 2, "it was not asked for again")
    time.sleep(ROTATES)
    assert ask(connection, "SELECT 1") == 1
    others_answered.set()
    reader.join()
    assert read == [42]
    assert asked.count(SLOW) == 4


def test_with_a_fixed_password_the_stock_engine_fails(
    own_connections: Connections, own_server: Server
) -> None:
    connection = own_connections(STOCK)
    with Load(connection.alias, threads=1) as load:
        rotate(own_server, 1, load)
        until(lambda: load.failed != [], "nothing failed")
    assert "authentication failed" in str(load.failed[-1])


# -- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_an_error_of_the_callable_is_named_without_values(
    pool: str, make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    connection = make_connection(options=POOLS[pool], credentials=path("broken"))
    began = time.monotonic()
    with pytest.raises(CredentialsUnavailable) as caught:
        ask(connection, "SELECT 1")
    assert time.monotonic() - began < 5.0
    text = str(caught.value)
    assert path("broken") in text
    assert "KeyError in line" in text
    assert "test_credentials.py" in text
    assert SECRET not in shown(caught.value) + caplog.text


@pytest.mark.parametrize("pool", POOLS)
def test_a_vault_that_is_away_for_a_moment_is_asked_again(
    pool: str, make_connection: Connections
) -> None:
    connection = make_connection(options=POOLS[pool], credentials=path("unreachable_twice"))
    assert ask(connection, "SELECT 1") == 1
    assert len(asked) >= 3


@pytest.mark.parametrize("pool", POOLS)
def test_a_wrong_password_for_good_is_given_up_soon(
    pool: str, make_connection: Connections
) -> None:
    vault["password"] = "never right"
    connection = make_connection(options=POOLS[pool], credentials=path("current"))
    began = time.monotonic()
    with pytest.raises(OperationalError, match="authentication failed"):
        ask(connection, "SELECT 1")
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("threads", [1, 8])
def test_what_was_refused_is_not_tried_again_as_long_as_it_is_the_same(
    threads: int, pool: str, make_connection: Connections, server: Server
) -> None:
    """It may lock the account. The callable is asked on: it may have something else soon."""
    vault["password"] = "never right"
    with Proxy(server.port) as proxy:
        alias = make_connection(
            options={**POOLS[pool], "sslmode": "require", "hostaddr": "127.0.0.1"},
            PORT=str(proxy.port),
            credentials=path("current"),
        ).alias
        refused: list[str] = []

        def request() -> None:
            for _ in range(3):
                try:
                    ask(connections[alias], "SELECT 1")
                except OperationalError as error:
                    refused.append(str(error))
                connections[alias].close()

        workers = [threading.Thread(target=request) for _ in range(threads)]
        began = time.monotonic()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        attempts, seconds = proxy.accepted, time.monotonic() - began
    assert len(refused) == 3 * threads
    assert all("authentication failed" in text for text in refused)
    assert len(asked) > attempts
    # All at the same moment once a second; never one after the other. A pool has three workers.
    assert attempts <= (threads if pool == "alone" else 3) * (seconds + 1), (attempts, seconds)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing_there", "cannot be imported"),
        ("NOT_CALLABLE", "is a int"),
        ("a_string", "returned a str"),
        ("too_much", "returned a dict of 3 keys"),
        ("no_strings", "values that are not strings"),
        ("with_nul", "a character that no user or password can have"),
        ("with_surrogate", "a character that no user or password can have"),
    ],
)
@pytest.mark.parametrize("pool", POOLS)
def test_a_wrong_setting_is_said_without_values(
    name: str, said: str, pool: str, make_connection: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    connection = make_connection(options=POOLS[pool], credentials=path(name))
    with pytest.raises(ImproperlyConfigured, match=said) as caught:
        ask(connection, "SELECT 1")
    assert f'"{connection.alias}"' in str(caught.value)
    assert path(name) in str(caught.value)
    assert SECRET not in shown(caught.value) + caplog.text


FAILING = ["current", "broken", "a_string", "too_much", "no_strings", "with_nul", "with_surrogate"]


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("pool", POOLS)
def test_no_frame_of_the_engine_shows_them(
    name: str, pool: str, make_connection: Connections
) -> None:
    """Error trackers record the local variables of every frame of a traceback."""
    vault["password"] = SECRET
    connection = make_connection(options=POOLS[pool], credentials=path(name))
    for _ in range(2 if name == "current" else 1):  # what was refused is raised once more
        with pytest.raises((OperationalError, ImproperlyConfigured)) as caught:
            ask(connection, "SELECT 1")
        frames = list(engine_frames(caught.value))
        assert frames
        for frame in frames:
            assert SECRET not in repr(frame.f_locals), frame


def engine_frames(error: BaseException | None) -> Iterator[types.FrameType]:
    """The frames of this package in the tracebacks of an error and of what has caused it."""
    home = str(Path(str(django_resilient_pg.__file__)).parent)
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(home):
                yield frame
        error = error.__cause__ or error.__context__


def reachable(roots: list[Any], beyond: type[Any]) -> Iterator[Any]:
    """Every object to be got at from ``roots``, without what ``beyond`` leads to, and modules."""
    seen: set[int] = set()
    found = list(roots)
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, (type, types.ModuleType, beyond)):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, types.FunctionType):  # not its module's globals
            found += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        elif isinstance(one, types.FrameType):
            found += [one.f_locals, one.f_back]
        elif isinstance(one, types.TracebackType):
            found += [one.tb_frame.f_locals, one.tb_next]
        else:
            found += gc.get_referents(one)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_nothing_remembers_them(pool: str, refused: bool, make_connection: Connections) -> None:
    if refused:
        vault["password"] = SECRET
    connection: Any = make_connection(
        options=POOLS[pool], credentials=path("current"), PASSWORD="out of date"
    )
    if refused:
        with pytest.raises(OperationalError, match="authentication failed"):
            ask(connection, "SELECT 1")
    else:
        ask(connection, "SELECT 1")
    assert RESILIENT in connection.settings_dict["ENGINE"]
    # The driver has its connection string; it and what it leads to are the driver's.
    drivers = connection.Database.extensions.connection if DRIVER == "psycopg2" else None
    beyond = drivers or connection.Database.Connection
    roots = [connection, connection.resilience.shared, connection.pool]
    # Not a constant of this function, which the list of frames would lead to.
    kept = [one for one in reachable(roots, beyond) if isinstance(one, str)]
    assert "out of date" in kept, "this finds what is kept"
    assert vault["password"] not in kept
    assert not any(vault["password"] in one for one in kept)


def test_the_command_asks_for_them_too(make_connection: Connections) -> None:
    rotated = make_connection(PASSWORD="out of date", credentials=path("current"))
    walk = survey(rotated.alias).walk
    assert walk is not None
    assert walk.failed is None
    assert asked == [rotated.alias]


def test_the_command_says_that_there_are_none(make_connection: Connections) -> None:
    out = io.StringIO()
    alias = make_connection(credentials=path("broken")).alias
    with pytest.raises(CommandError) as caught:
        call_command("checkdbconn", database=[alias], stdout=out, no_color=True)
    assert caught.value.returncode == 3
    assert "broken raised KeyError" in " ".join(out.getvalue().split())
    assert SECRET not in out.getvalue()
