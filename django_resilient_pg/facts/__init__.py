"""What the server and the socket say of a connection; the only place that asks them.

One statement (:data:`QUERY`, one round trip, no privileges, PostgreSQL 14 to 18) and a few system
calls; where it is refused a second one, without what only tells whose server it is. Whatever the
server refuses or does not know becomes ``None`` or UNKNOWN, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Final

from ..conf.records import Record
from ..providers import MARKERS, Provider, recognise_host, recognise_markers
from . import sockets
from .paths import Path, ServerView, SocketView, classify, endpoint
from .sockets import Endpoint, SocketOptions, TcpInfo, socket_options, tcp_info

if TYPE_CHECKING:
    from typing import Protocol

    class Asked(Protocol):
        """What :func:`gather_from` needs of a link to a connection (``link.Link``)."""

        connection: Any
        fd: int

        def ask(self, sql: str) -> list[tuple[Any, ...]]: ...
        def backend_pid(self) -> int: ...
        def parameter(self, name: str) -> str | None: ...
        def lost(self) -> bool: ...


__all__ = [
    "QUERY",
    "Endpoint",
    "Facts",
    "Path",
    "ServerView",
    "SocketOptions",
    "SocketView",
    "TcpInfo",
    "classify",
    "first_answer",
    "gather",
    "gather_from",
    "socket_options",
    "socket_view",
    "tcp_info",
]

# Settings that are times, with the unit of a bare number (pg_settings.unit). PostgreSQL shows the
# tcp_ ones without their unit. idle_in_session_timeout is CockroachDB's idle_session_timeout.
_TIMES: Final = {
    "idle_session_timeout": "ms",
    "idle_in_session_timeout": "ms",
    "idle_in_transaction_session_timeout": "ms",
    "transaction_timeout": "ms",
    "statement_timeout": "ms",
    "tcp_keepalives_idle": "s",
    "tcp_keepalives_interval": "s",
    "tcp_user_timeout": "ms",
}
_SETTINGS: Final = (
    "server_version_num",
    "transaction_read_only",
    "tcp_keepalives_count",
    *_TIMES,
)
_NAMES: Final = ", ".join(f"'{name}'" for name in MARKERS)
_AMONG: Final = f"OPERATOR(pg_catalog.=) ANY (ARRAY[{_NAMES}])"
# Everything is named with its schema: the application's may come before pg_catalog.
_ESSENTIALS: Final = {
    **{name: f"pg_catalog.current_setting('{name}', true)" for name in _SETTINGS},
    "backend_pid": "pg_catalog.pg_backend_pid()",
    # host(): as text without the prefix length, whatever loaders the driver has.
    "client_address": "pg_catalog.host(pg_catalog.inet_client_addr())",
    "client_port": "pg_catalog.inet_client_port()",
    "server_address": "pg_catalog.host(pg_catalog.inet_server_addr())",
    "server_port": "pg_catalog.inet_server_port()",
    "in_recovery": "pg_catalog.pg_is_in_recovery()",
}
_MARKERS: Final = {
    # By way of the catalogues: current_setting() and to_regproc() are errors where the role may
    # not look, and one error would cost us everything.
    "settings": "(SELECT pg_catalog.string_agg(s.name, ',')"
    f" FROM pg_catalog.pg_settings AS s WHERE s.name {_AMONG})",
    "functions": "(SELECT pg_catalog.string_agg(p.proname, ',')"
    f" FROM pg_catalog.pg_proc AS p WHERE p.proname {_AMONG})",
}
_COLUMNS: Final = _ESSENTIALS | _MARKERS
#: One row, unprivileged, valid on PostgreSQL 14 to 18; a setting that a server lacks is NULL.
QUERY: Final = "SELECT " + ", ".join(_COLUMNS.values())
# Hardened servers close the catalogues to ordinary roles, and large ones are slow to read.
_WITHOUT_CATALOGUES: Final = "SELECT " + ", ".join(_ESSENTIALS.values())

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


class Facts(Record):
    """What is known of an alias' server and of the path to it. Times are in seconds.

    A timeout of ``None`` is off or not known; any other ``None`` is not known.

    Attributes:
        server_version: as 180006 for 18.6; 0: not known.
        path: what lies between.
        path_evidence: a sentence that says how that is known.
        provider: recognised by host name, or by the server's own settings and functions.
        tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count, tcp_user_timeout:
            the server's own, towards its client.
        in_recovery: whether it is a standby.
        read_only: whether a transaction may not write.
        socket: the connection as this process sees it.
        client, server: its ends as the server sees them.
        refusal: the first line of what the server answered instead, "" if all went well.
        refusal_code: its SQLSTATE, "" if there was none.
    """

    server_version: int
    path: Path
    path_evidence: str
    provider: Provider | None
    socket: SocketView
    idle_session_timeout: float | None = None
    idle_in_transaction_session_timeout: float | None = None
    transaction_timeout: float | None = None
    statement_timeout: float | None = None
    tcp_keepalives_idle: float | None = None
    tcp_keepalives_interval: float | None = None
    tcp_keepalives_count: int | None = None
    tcp_user_timeout: float | None = None
    in_recovery: bool | None = None
    read_only: bool | None = None
    client: Endpoint | None = None
    server: Endpoint | None = None
    refusal: str = ""
    refusal_code: str = ""


def gather_from(link: Asked, settings: Mapping[str, Any]) -> Facts | None:
    """Ask the server and the socket of an idle connection in autocommit.

    Args:
        link: the connection.
        settings: the entry of DATABASES, for a host name that the driver does not tell.

    Returns:
        None if the connection was lost meanwhile: ask the next one.
    """
    facts = first_answer(link, settings)
    return None if facts.refusal and link.lost() else facts


def first_answer(link: Asked, settings: Mapping[str, Any]) -> Facts:
    """As :func:`gather_from`; ``refusal`` has what a server said that closed the connection."""
    view = socket_view(link, str(settings.get("HOST") or ""))
    return gather(lambda sql: _ask(link, sql), view, errors=(link.connection.Error,))


def _ask(link: Asked, sql: str) -> tuple[Any, ...]:
    try:
        return link.ask(sql)[0]
    except link.connection.Error:
        # With AUTOCOMMIT=False the question began a transaction, in which none is answered now.
        if not link.lost() and not link.connection.autocommit:
            link.connection.rollback()
        raise


def socket_view(link: Asked, host: str = "") -> SocketView:
    """Return what this process sees of a connection, without a round trip."""
    info = link.connection.info
    local, peer = sockets.endpoints(link.fd)
    # psycopg 3 keeps what libpq knows of TLS in pgconn, psycopg2 in info.
    in_use = getattr(getattr(link.connection, "pgconn", info), "ssl_in_use", None)
    attribute = getattr(info, "ssl_attribute", lambda name: None) if in_use else lambda name: None
    return SocketView(
        backend_pid=link.backend_pid(),
        local=local,
        peer=peer,
        unix=sockets.is_unix(link.fd),
        host=info.host or host,
        port=int(info.port) if info.port else None,
        keepalives=socket_options(link.fd),
        markers=frozenset(name for name in MARKERS if link.parameter(name) is not None),
        tls=None if in_use is None else bool(in_use),
        tls_version=attribute("protocol"),
        cipher=attribute("cipher"),
    )


def gather(
    ask: Callable[[str], Sequence[object]],
    link: SocketView,
    *,
    errors: tuple[type[Exception], ...] = (Exception,),
) -> Facts:
    """Return the facts.

    Args:
        ask: runs one statement and returns its one row; called again where it is refused.
        link: what is known without asking.
        errors: how a refusal shows. Anything else (a signal handler's exception) passes.
    """
    # The last two: an answer that cannot be read.
    refusals: tuple[type[Exception], ...] = (*errors, ValueError, LookupError)
    first: Exception | None = None
    for question, columns in ((QUERY, _COLUMNS), (_WITHOUT_CATALOGUES, _ESSENTIALS)):
        try:
            row = ask(question)
            if len(row) != len(columns):
                raise ValueError(f"{len(row)} columns instead of {len(columns)}")
        except refusals as error:
            first = first or error
        else:
            return _facts(dict.fromkeys(_COLUMNS) | dict(zip(columns, row, strict=True)), link)
    assert first is not None
    return _unknown(link, first)


def _unknown(link: SocketView, error: Exception) -> Facts:
    """What is known without an answer."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Facts(
        server_version=0,
        path=Path.UNKNOWN,
        path_evidence=f"The server did not answer the question: {said}",
        provider=_provider(link, ""),
        socket=link,
        refusal=said,
        # psycopg 3, psycopg2
        refusal_code=getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "",
    )


def _facts(row: Mapping[str, Any], link: SocketView) -> Facts:
    """Make the facts of the server's answer."""
    times: dict[str, Any] = {name: _seconds(row[name], unit) for name, unit in _TIMES.items()}
    cockroach = times.pop("idle_in_session_timeout")
    times["idle_session_timeout"] = times["idle_session_timeout"] or cockroach
    client = endpoint(row["client_address"], row["client_port"])
    server = endpoint(row["server_address"], row["server_port"])
    path, evidence = classify(link, ServerView(_whole(row["backend_pid"]), client, server))
    read_only, standby = row["transaction_read_only"], row["in_recovery"]
    return Facts(
        server_version=_whole(row["server_version_num"]) or 0,
        path=path,
        path_evidence=evidence,
        provider=_provider(link, f"{row['settings'] or ''},{row['functions'] or ''}"),
        socket=link,
        tcp_keepalives_count=_whole(row["tcp_keepalives_count"]) or None,
        # What only looks like PostgreSQL answers in texts.
        in_recovery=standby if isinstance(standby, bool) else None,
        read_only=None if read_only is None else read_only == "on",
        client=client,
        server=server,
        **times,
    )


def _provider(link: SocketView, markers: str) -> Provider | None:
    """Return who it is: a host name says more than a server, which may be behind a pooler."""
    found = link.markers.union(markers.split(","))
    return recognise_host(link.host, link.port) or recognise_markers(found)


def _seconds(shown: object, unit: str) -> float | None:
    """Return a time as PostgreSQL shows it ("0", "3s", "90min", "7200") in seconds.

    ``None`` for one that is off (0), missing, or in words that are not known.
    """
    text = "" if shown is None else str(shown).strip()
    number = text.rstrip(ascii_lowercase)
    factor = _UNITS.get(text[len(number) :] or unit)
    if factor is None or not number.rstrip().replace(".", "", 1).isdecimal():
        return None
    return float(number) * factor or None


def _whole(shown: object) -> int | None:
    try:
        return int(str(shown))
    except ValueError:
        return None
