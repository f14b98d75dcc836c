"""The faults themselves, seen from the stock engine: each does what its name says."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

import pytest
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.postgres import Server
from tests import needs
from tests.engines import STOCK, Connections, ask, until
from tests.faults.namespace import Namespace
from tests.faults.proxy import End, Mode, Proxy


@pytest.fixture
def through(proxy: Proxy, make_connection: Connections) -> BaseDatabaseWrapper:
    return make_connection(STOCK, PORT=proxy.port, options={"connect_timeout": 2})


def test_proxy_passes_large_answers(through: BaseDatabaseWrapper, proxy: Proxy) -> None:
    assert ask(through, "SELECT length(repeat('x', 9000000))") == 9000000
    assert len(str(ask(through, "SELECT repeat('x', 9000000)"))) == 9000000
    assert (proxy.open, proxy.accepted) == (1, 1)


def test_proxy_hands_on_the_end_of_a_connection(
    through: BaseDatabaseWrapper, proxy: Proxy, server: Server
) -> None:
    ask(through)
    through.close()
    until(lambda: not proxy.open, "the proxy holds it")
    until(lambda: not server.backends("app"), "the server has not seen the end")


def test_proxy_takes_the_time_of_a_longer_path(
    make_proxy: Callable[..., Proxy], make_connection: Connections
) -> None:
    """Also where a large answer comes in many pieces: the delays of pieces do not add up."""
    proxy = make_proxy(delay=0.05)
    connection = make_connection(STOCK, PORT=proxy.port)
    ask(connection)
    began = time.monotonic()
    assert ask(connection, "SELECT length(repeat('x', 9000000))") == 9000000
    assert time.monotonic() - began >= 0.1
    began = time.monotonic()
    assert len(str(ask(connection, "SELECT repeat('x', 9000000)"))) == 9000000
    assert time.monotonic() - began < 5.0  # the pieces are 64 kB at most: 138 of them
    connection.close()
    until(lambda: not proxy.open, "the proxy holds it")


@pytest.mark.parametrize("how", ["reset", "close"])
def test_proxy_cuts_both_sides(
    through: BaseDatabaseWrapper, proxy: Proxy, server: Server, how: End
) -> None:
    ask(through)
    assert proxy.cut(how) == 1
    with pytest.raises(OperationalError):
        ask(through)
    until(lambda: not server.backends("app"), "the server has not seen the end")


@pytest.mark.parametrize(("mode", "pattern"), [("refuse", "refused"), ("cut", "closed|EOF")])
def test_proxy_turns_away(
    through: BaseDatabaseWrapper, proxy: Proxy, mode: Mode, pattern: str
) -> None:
    with proxy.during(mode), pytest.raises(OperationalError, match=pattern):
        through.ensure_connection()
    assert ask(through) == 1


def test_proxy_down_and_back_on_the_same_port(through: BaseDatabaseWrapper, proxy: Proxy) -> None:
    ask(through)
    with proxy.down():
        with pytest.raises(OperationalError):
            ask(through)
        through.close()
        with pytest.raises(OperationalError, match="refused"):
            ask(through)
    assert ask(through) == 1


def test_deaf_proxy_answers_nothing_then_everything(
    through: BaseDatabaseWrapper, proxy: Proxy, make_connection: Connections
) -> None:
    ask(through)
    new = make_connection(STOCK, PORT=proxy.port, options={"connect_timeout": 2})
    with proxy.during("deaf"), pytest.raises(OperationalError, match="time"):
        new.ensure_connection()
    assert ask(through) == 1


def test_mute_proxy_lets_the_write_happen(
    proxy: Proxy, make_connection: Connections, server: Server
) -> None:
    """What makes a lost answer different from a lost statement."""
    through = make_connection(STOCK, PORT=proxy.port)
    server.execute("CREATE TABLE mute AS SELECT 0 AS number", database="app")
    server.execute("GRANT ALL ON mute TO app", database="app")
    ask(through)
    seen: list[object] = []

    def cut_when_written() -> None:
        deadline = time.monotonic() + 5
        while not seen and time.monotonic() < deadline:
            seen.extend(server.execute("SELECT * FROM mute WHERE number = 7", database="app"))
        proxy.cut()

    hand = threading.Thread(target=cut_when_written)
    with proxy.during("mute"):
        hand.start()
        with pytest.raises(OperationalError), through.cursor() as cursor:
            cursor.execute("UPDATE mute SET number = 7")
        hand.join()
    assert seen == [(7,)]
    server.execute("DROP TABLE mute", database="app")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_proxy_ends_idle_connections(
    make_proxy: Callable[..., Proxy], make_connection: Connections, end: End
) -> None:
    proxy = make_proxy(idle_timeout=1.5, idle_end=end)
    through = make_connection(STOCK, PORT=proxy.port)
    for _ in range(3):
        time.sleep(0.6)
        assert ask(through) == 1
    until(lambda: not proxy.open, "the proxy keeps it")
    with pytest.raises(OperationalError):
        ask(through)


def test_proxy_loses_packets_in_silence(
    proxy: Proxy, make_connection: Connections, server: Server
) -> None:
    """Not even the kernel acknowledges anything, which is what tells it from a deaf proxy."""
    through = make_connection(STOCK, PORT=proxy.port, options={"tcp_user_timeout": 1000})
    ask(through)
    assert proxy.drop() == 1
    with pytest.raises(OperationalError, match="timed out"):
        ask(through)
    through.close()
    assert ask(through) == 1, "a new connection is forwarded"
    assert len(server.backends("app")) == 2, "the server has not heard of the first one's end"
    proxy.let_go()
    until(lambda: len(server.backends("app")) == 1, "the server has not seen the end")


def test_proxy_cuts_at_the_message_that_contains_a_text(
    proxy: Proxy, make_connection: Connections
) -> None:
    plain = {"sslmode": "disable", "sslrootcert": ""}
    through, other = (make_connection(STOCK, PORT=proxy.port, options=plain) for _ in range(2))
    ask(other)
    proxy.cut_at(1, "answer", containing=b"the one")
    assert ask(through, "SELECT 'another'") == "another"
    assert proxy.messages_left == 1
    with pytest.raises(OperationalError):
        ask(through, "SELECT 'the one'")
    assert ask(other) == 1, "only the connection that sent it is cut"


def test_namespace_holds_a_server_over_tls(
    far_server: Server, make_far_connection: Connections, namespace: Namespace
) -> None:
    connection = make_far_connection(STOCK)
    assert ask(connection, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
    assert ask(connection, "SELECT host(inet_client_addr())") == namespace.outer
    assert ask(connection, "SELECT host(inet_server_addr())") == namespace.inner


def test_dropped_flow_is_silence(
    far_server: Server, make_far_connection: Connections, namespace: Namespace
) -> None:
    connection = make_far_connection(STOCK, options={"tcp_user_timeout": 1500})
    ask(connection)
    before = namespace.dropped()
    with namespace.fault(far_server.port):
        start = time.monotonic()
        with pytest.raises(OperationalError):
            ask(connection)
        assert 1.4 < time.monotonic() - start < 10
        connection.close()
        assert namespace.dropped() > before
    assert ask(connection) == 1


def test_dropped_flow_goes_on_after_it(
    far_server: Server, make_far_connection: Connections, namespace: Namespace
) -> None:
    connection = make_far_connection(STOCK)
    pid = ask(connection, "SELECT pg_backend_pid()")
    namespace.begin("drop", far_server.port)
    timer = threading.Timer(0.5, namespace.end, ["drop", far_server.port])
    timer.start()
    start = time.monotonic()
    assert ask(connection, "SELECT pg_backend_pid()") == pid
    assert time.monotonic() - start > 0.4
    timer.join()


def test_reset_flow_fails_at_once(
    far_server: Server, make_far_connection: Connections, namespace: Namespace
) -> None:
    connection = make_far_connection(STOCK)
    ask(connection)
    with namespace.fault(far_server.port, "reset"):
        start = time.monotonic()
        with pytest.raises(OperationalError):
            ask(connection)
        assert time.monotonic() - start < 5
    connection.close()
    assert ask(connection) == 1


@pytest.mark.needs(*needs.NAMESPACE)
def test_namespace_goes_away_with_its_rules() -> None:
    with Namespace() as made:
        made.begin("drop", 5432)
        assert made.name in subprocess.check_output(["ip", "netns"], text=True)
    assert made.name not in subprocess.check_output(["ip", "netns"], text=True)
    assert made.link not in subprocess.check_output(["ip", "link"], text=True)
