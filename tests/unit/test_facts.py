"""What server and socket say, from plain values and from real sockets of this host."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_resilient_pg import facts as facts_module
from django_resilient_pg.facts import (
    QUERY,
    Endpoint,
    Facts,
    Path,
    ServerView,
    SocketOptions,
    SocketView,
    classify,
    gather,
    socket_options,
    tcp_info,
)
from django_resilient_pg.facts.paths import endpoint
from django_resilient_pg.facts.sockets import endpoints, is_unix, parse_tcp_info, plain_address

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO is Linux's")

HERE, THERE = Endpoint("10.0.0.1", 40000), Endpoint("10.0.0.2", 5432)
TCP = SocketView(77, HERE, THERE, unix=False, host="10.0.0.2", port=5432)
UNIX = SocketView(77, None, None, unix=True, host="/run")

# As PostgreSQL 18 answered an unprivileged role over TCP.
ANSWER: dict[str, Any] = {
    "server_version_num": "180006",
    "transaction_read_only": "off",
    "tcp_keepalives_count": "9",
    "idle_session_timeout": "3s",
    "idle_in_session_timeout": None,
    "idle_in_transaction_session_timeout": "1min",
    "transaction_timeout": "0",
    "statement_timeout": "1500ms",
    "tcp_keepalives_idle": "7200",
    "tcp_keepalives_interval": "75",
    "tcp_user_timeout": "30000",
    "backend_pid": 77,
    "client_address": HERE.address,
    "client_port": HERE.port,
    "server_address": THERE.address,
    "server_port": THERE.port,
    "in_recovery": False,
    "settings": None,
    "functions": None,
}


def gathered(link: SocketView = TCP, **differently: Any) -> Facts:
    row = tuple((ANSWER | differently).values())
    return gather(lambda sql: row, link)


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection on this host."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        yield client, accepted


# -- the path ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "seen", "path", "evidence"),
    [
        (TCP, ServerView(77, HERE, THERE), Path.DIRECT, "10.0.0.1:40000 to 10.0.0.2:5432"),
        (TCP, ServerView(78, HERE, THERE), Path.POOLER, "process is 78, but 77 was named"),
        # PgBouncer on the server's host, towards it over a Unix socket, or over TCP.
        (TCP, ServerView(78, None, None), Path.POOLER, "78"),
        (TCP, ServerView(78, Endpoint("10.0.0.2", 50000), THERE), Path.POOLER, "78"),
        # Older PgBouncers and pgcat send a negative one.
        (TCP._replace(backend_pid=-5), ServerView(77, HERE, THERE), Path.POOLER, "-5"),
        (UNIX, ServerView(78, None, None), Path.POOLER, "78"),
        (
            TCP,
            ServerView(77, Endpoint("192.0.2.9", 40000), THERE),
            Path.NAT_OR_PROXY,
            "sees the client at 192.0.2.9:40000, but this socket is 10.0.0.1:40000",
        ),
        (TCP, ServerView(77, Endpoint("10.0.0.1", 40001), THERE), Path.NAT_OR_PROXY, "40001"),
        (TCP, ServerView(77, None, None), Path.NAT_OR_PROXY, "the server sees a Unix socket"),
        (UNIX, ServerView(77, HERE, THERE), Path.NAT_OR_PROXY, "This end is a Unix socket"),
        (
            TCP,
            ServerView(77, HERE, Endpoint("10.244.1.3", 5432)),
            Path.VIRTUAL_IP,
            "made to 10.0.0.2:5432, but 10.244.1.3:5432 answers",
        ),
        (TCP, ServerView(77, HERE, Endpoint("10.0.0.2", 5433)), Path.VIRTUAL_IP, "5433"),
        (UNIX, ServerView(77, None, None), Path.UNIX_SOCKET, "Unix socket"),
        # No cancel key, or no process number: the addresses decide.
        (TCP._replace(backend_pid=0), ServerView(77, HERE, THERE), Path.DIRECT, "same"),
        (TCP, ServerView(None, HERE, THERE), Path.DIRECT, "same"),
        (TCP, ServerView(-1, HERE, THERE), Path.DIRECT, "same"),
        # CockroachDB's "not told".
        (TCP, ServerView(77, Endpoint("::", 0), Endpoint("::", 0)), Path.UNKNOWN, "not tell"),
        (TCP, ServerView(77, HERE, Endpoint("::", 0)), Path.DIRECT, "same"),
        (TCP, ServerView(77, Endpoint("words", 9), THERE), Path.UNKNOWN, "not tell"),
        (TCP._replace(local=None, peer=None), ServerView(77, HERE, THERE), Path.UNKNOWN, "not"),
    ],
)
def test_path(link: SocketView, seen: ServerView, path: Path, evidence: str) -> None:
    found, sentence = classify(link, seen)
    assert found is path
    assert evidence in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:10.0.0.1", "::ffff:a00:1"),
        ("fe80::1%eth0", "fe80::1"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("2001:DB8::1/128", "2001:db8:0:0::1"),
    ],
)
def test_spellings_of_one_address(one: str, other: str) -> None:
    assert plain_address(one) == plain_address(other)


def test_addresses_that_are_not_the_same() -> None:
    assert plain_address("::1") != plain_address("127.0.0.1")
    assert plain_address("nonsense") == "nonsense"


def test_a_mapped_address_is_the_same_path() -> None:
    link = TCP._replace(local=Endpoint(plain_address("::ffff:10.0.0.1"), 40000))
    assert gathered(link).path is Path.DIRECT


def test_ends_in_words() -> None:
    assert str(Endpoint("::1", 5432)) == "[::1]:5432"
    assert endpoint(None, None) is None
    assert endpoint("10.0.0.1", None) == Endpoint("10.0.0.1", 0)


# -- the answer -------------------------------------------------------------------------------


def test_facts_of_an_answer() -> None:
    found = gathered()
    assert found == Facts(
        server_version=180006,
        path=Path.DIRECT,
        path_evidence=found.path_evidence,
        provider=None,
        socket=TCP,
        idle_session_timeout=3.0,
        idle_in_transaction_session_timeout=60.0,
        transaction_timeout=None,
        statement_timeout=1.5,
        tcp_keepalives_idle=7200.0,
        tcp_keepalives_interval=75.0,
        tcp_keepalives_count=9,
        tcp_user_timeout=30.0,
        in_recovery=False,
        read_only=False,
        client=HERE,
        server=THERE,
    )


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [
        ("0", None),
        (None, None),
        ("", None),
        ("250ms", 0.25),
        ("2500", 2.5),
        ("3s", 3.0),
        ("90min", 5400.0),
        ("1h", 3600.0),
        ("2d", 172_800.0),
        ("1.5 s", 1.5),
        ("-1", None),
        ("soon", None),
        ("3 fortnights", None),
    ],
)
def test_times(shown: str | None, seconds: float | None) -> None:
    assert gathered(idle_session_timeout=shown).idle_session_timeout == seconds


def test_a_bare_number_has_the_unit_of_its_setting() -> None:
    found = gathered(tcp_keepalives_idle="120", tcp_user_timeout="120")
    assert (found.tcp_keepalives_idle, found.tcp_user_timeout) == (120.0, 0.12)


def test_cockroachdb() -> None:
    link = TCP._replace(markers=frozenset({"crdb_version"}))
    nothing = dict.fromkeys(ANSWER)
    found = gathered(link, **nothing | {"idle_in_session_timeout": "10000"})
    assert found.provider is not None
    assert found.provider.name == "CockroachDB (self-hosted)"
    assert found.idle_session_timeout == 10.0
    assert (found.server_version, found.in_recovery, found.read_only) == (0, None, None)


def test_a_standby() -> None:
    found = gathered(in_recovery=True, transaction_read_only="on")
    assert (found.in_recovery, found.read_only) == (True, True)


def test_provider_by_host_comes_before_the_servers_own() -> None:
    link = TCP._replace(host="p.proxy-abc123.eu-west-1.rds.amazonaws.com")
    found = gathered(link, settings="rds.extensions", functions=None)
    assert found.provider is not None
    assert found.provider.name == "Amazon RDS Proxy"


def test_provider_by_what_the_server_has() -> None:
    found = gathered(settings="rds.extensions", functions="aurora_version,aurora_replica_status")
    assert found.provider is not None
    assert found.provider.name == "Aurora PostgreSQL"


class RefusedError(Exception):
    """As a driver's Error."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RefusedError("permission denied\nHINT: ask"), "permission denied"),
        (RefusedError(), "RefusedError"),
        (IndexError("no row"), "no row"),
    ],
)
def test_a_refusal_is_a_fact(error: Exception, said: str) -> None:
    def ask(sql: str) -> tuple[object, ...]:
        raise error

    found = gather(ask, TCP._replace(host="x.neon.tech"), errors=(RefusedError,))
    assert found.path is Path.UNKNOWN
    assert found.refusal == said
    assert found.path_evidence == f"The server did not answer the question: {said}"
    assert found.provider is not None
    assert found.provider.name == "Neon (direct endpoint)"


def test_what_only_recognises_the_provider_is_left_out_where_it_is_refused() -> None:
    asked: list[str] = []

    def ask(sql: str) -> tuple[object, ...]:
        asked.append(sql)
        if "pg_settings" in sql:
            raise RefusedError("permission denied for view pg_settings")
        return tuple(ANSWER.values())[:-2]

    found = gather(ask, TCP, errors=(RefusedError,))
    assert len(asked) == 2
    assert found == gather(lambda sql: (*tuple(ANSWER.values())[:-2], None, None), TCP)
    assert (found.refusal, found.path) == ("", Path.DIRECT)


def test_an_answer_of_another_shape_is_a_refusal() -> None:
    found = gather(lambda sql: (1,), TCP)
    assert found.refusal == f"1 columns instead of {len(ANSWER)}"


def test_an_interruption_passes() -> None:
    class SoftTimeLimitError(Exception):
        pass

    def ask(sql: str) -> tuple[object, ...]:
        raise SoftTimeLimitError

    with pytest.raises(SoftTimeLimitError):
        gather(ask, TCP, errors=(RefusedError,))


@given(
    row=st.lists(
        st.none() | st.text() | st.integers() | st.booleans(),
        min_size=len(ANSWER),
        max_size=len(ANSWER),
    )
)
def test_no_answer_is_an_error(row: list[object]) -> None:
    assert gather(lambda sql: row, TCP).refusal == ""


def test_columns_are_in_the_order_of_the_answer_above() -> None:
    assert list(facts_module._COLUMNS) == list(ANSWER)
    assert "%" not in QUERY  # no driver may see a placeholder


# -- the socket -------------------------------------------------------------------------------


@on_linux
def test_options_are_read_back(tcp: tuple[socket.socket, socket.socket]) -> None:
    client, _ = tcp
    before = socket_options(client.fileno())
    assert before is not None
    assert before.keepalives is False
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_500)
    assert socket_options(client.fileno()) == SocketOptions(True, 20.0, 5.0, 3, 30.5)


def test_a_unix_socket_has_no_keepalives() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert socket_options(one.fileno()) == SocketOptions(False, None, None, None, None)
        assert tcp_info(one.fileno()) is None
        assert endpoints(one.fileno()) == (None, None)
        assert is_unix(one.fileno())


def test_ends_of_a_tcp_socket(tcp: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = tcp
    local, peer = endpoints(client.fileno())
    assert local == Endpoint(*client.getsockname())
    assert (peer, local) == endpoints(accepted.fileno())
    assert not is_unix(client.fileno())


def test_what_is_no_socket() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    for _ in range(2):  # once with, once without the descriptor
        assert socket_options(reading) is None
        assert tcp_info(reading) is None
        assert endpoints(reading) == (None, None)
        assert not is_unix(reading)
        with contextlib.suppress(OSError):
            os.close(reading)


@on_linux
def test_tcp_info_of_a_live_connection(tcp: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = tcp
    client.sendall(b"ping")
    accepted.recv(4)
    accepted.sendall(b"pong")
    client.recv(4)
    info = tcp_info(client.fileno())
    assert info is not None
    assert info.state == "ESTABLISHED"
    assert (info.retransmits, info.probes, info.backoff) == (0, 0, 0)
    for since in (info.last_data_sent, info.last_data_recv, info.last_ack_recv):
        assert 0 <= since < 5
    assert 0 < info.rtt < 1


@on_linux
def test_tcp_info_of_a_connection_that_the_peer_has_left(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    client, accepted = tcp
    accepted.close()
    assert select.select([client], [], [], 5)[0], "the end of the stream did not arrive"
    info = tcp_info(client.fileno())
    assert info is not None
    assert info.state == "CLOSE_WAIT"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_the_descriptor_stays_open_and_none_is_left(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    client, accepted = tcp
    reading, writing = os.pipe()
    before = sorted(os.listdir("/proc/self/fd"))
    for fd in (client.fileno(), reading):
        for look in (tcp_info, socket_options, endpoints, is_unix):
            look(fd)
    assert sorted(os.listdir("/proc/self/fd")) == before
    client.sendall(b"still here")
    assert accepted.recv(10) == b"still here"
    os.close(reading)
    os.close(writing)


def test_layout_of_tcp_info() -> None:
    """Every field at its offset in linux/tcp.h, so that the test does not share our indices."""
    raw = bytearray(104)
    raw[0], raw[2], raw[3], raw[4] = 8, 1, 2, 3
    for offset, value in {24: 4, 44: 5000, 52: 6000, 56: 7000, 68: 8_000_000}.items():
        struct.pack_into("I", raw, offset, value)
    info = parse_tcp_info(bytes(raw))
    assert (info.state, info.retransmits, info.probes, info.backoff) == ("CLOSE_WAIT", 1, 2, 3)
    assert (info.unacked, info.last_data_sent, info.last_data_recv) == (4, 5.0, 6.0)
    assert (info.last_ack_recv, info.rtt) == (7.0, 8.0)
    raw[0] = 99
    assert parse_tcp_info(bytes(raw)).state == "99"
