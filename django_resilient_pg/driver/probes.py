"""One question on a connection of its own, step by step, so that it can be left at any moment.

The drivers' own ways to connect take two seconds for each address at least. Here the caller waits:
each step yields what it waits for, and :meth:`close` of the generator ends the connection. No
driver is imported: both are given as the module that a wrapper has (``Database``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final

#: What a probe waits for (a descriptor, and whether to write to it), and what it tells in the end:
#: whether the server is a standby, ``None`` where it does not say.
Probe = Generator[tuple[int, bool], None, bool | None]

#: The server is reached once it has answered this, whatever the answer.
QUESTION: Final = "SELECT pg_catalog.pg_is_in_recovery()"
_ENDS: Final = frozenset({b"FATAL", b"PANIC"})
# PG_DIAG_SEVERITY_NONLOCALIZED, PG_DIAG_MESSAGE_PRIMARY.
_SEVERITY, _MESSAGE = ord("V"), ord("M")
_SILENT_END: Final = "the server closed the connection without a word"


class Refused(Exception):
    """No session came about, or it was terminated at the question. The text is the driver's."""


def probe(driver: Any, params: Mapping[str, Any]) -> Probe:
    """Connect, ask, close.

    Args:
        driver: the module ``psycopg`` or ``psycopg2``.
        params: for its ``connect()``.

    Raises:
        Refused: see there.
    """
    return _by_psycopg3(driver, params) if hasattr(driver, "pq") else _by_psycopg2(driver, params)


def _by_psycopg3(driver: Any, params: Mapping[str, Any]) -> Probe:
    pq = driver.pq
    # psycopg's own keywords (row_factory, context ...) are none of libpq's.
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    own = {name: value for name, value in params.items() if name in known}
    try:
        pgconn = pq.PGconn.connect_start(driver.conninfo.make_conninfo(**own).encode())
    except driver.Error as error:
        raise Refused(str(error)) from None
    try:
        yield from _connected(pq, pgconn)
        return (yield from _asked(pq, pgconn))
    except driver.Error as error:
        raise Refused(str(error)) from None
    finally:
        pgconn.finish()


def _connected(pq: Any, pgconn: Any) -> Generator[tuple[int, bool], None, None]:
    # A new connection waits to be written to, before it is asked anything (libpq manual).
    state = pq.PollingStatus.WRITING
    while state != pq.PollingStatus.OK:
        if state == pq.PollingStatus.FAILED or pgconn.status == pq.ConnStatus.BAD:
            raise Refused(_said(pgconn))
        yield pgconn.socket, state == pq.PollingStatus.WRITING
        state = pgconn.connect_poll()


def _asked(pq: Any, pgconn: Any) -> Probe:
    pgconn.nonblocking = 1
    pgconn.send_query(QUESTION.encode())
    while pgconn.flush():
        yield pgconn.socket, True
    while pgconn.is_busy():
        yield pgconn.socket, False
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None:
        raise Refused(_said(pgconn))
    if text := result.error_field(_MESSAGE):
        if result.error_field(_SEVERITY) in _ENDS or pgconn.status == pq.ConnStatus.BAD:
            raise Refused(text.decode(errors="replace"))
        return None
    value = result.get_value(0, 0) if result.ntuples else None
    return None if value is None else {b"t": True, b"f": False}.get(value)


def _said(pgconn: Any) -> str:
    return pgconn.error_message.decode(errors="replace").strip() or _SILENT_END


def _by_psycopg2(driver: Any, params: Mapping[str, Any]) -> Probe:
    connection = None
    try:
        connection = driver.connect(**params, async_=1)
        yield from _polled(driver, connection)
        with connection.cursor() as cursor:
            try:
                cursor.execute(QUESTION)
                yield from _polled(driver, connection)
                value = cursor.fetchone()[0]
            except driver.Error:
                if connection.closed or not _answered(connection):
                    raise
                return None  # an answer all the same: it does not know the function
        return value if isinstance(value, bool) else None
    except driver.Error as error:
        raise Refused(str(error).strip() or _SILENT_END) from None
    finally:
        if connection is not None:
            connection.close()


def _polled(driver: Any, connection: Any) -> Generator[tuple[int, bool], None, None]:
    while (state := connection.poll()) != driver.extensions.POLL_OK:
        yield connection.fileno(), state == driver.extensions.POLL_WRITE


def _answered(connection: Any) -> bool:
    """Whether the session goes on after an error."""
    return bool(connection.get_transaction_status() == 0)  # idle
