"""What an error means: lost or not, transient or not, what may be retried, and why.

:func:`judge` takes plain data and walks the one table (:data:`.reasons.TABLE`): the state of the
driver's connection decides first, SQLSTATE and severity second, the text last. What to do about
it is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from .reasons import ALL, NOTHING, READS, TABLE, Again, Entry, Phase, Reason
from .records import Record

__all__ = ["Failure", "Phase", "Reason", "Verdict", "code_in", "judge"]


class Failure(Record):
    """What is known of an error.

    Attributes:
        phase: what was under way.
        connection_lost: whether the driver's connection calls itself unusable; ``None`` when
            there is no connection to ask.
        exception: the name of the driver's exception class.
        sqlstate: as the driver exposes it (``None``: connection attempts, hidden FATALs).
        severity: the server's word, not localised: "ERROR", "FATAL" ...
        text: the message, in whatever language.
    """

    phase: Phase
    connection_lost: bool | None
    exception: str
    sqlstate: str | None
    severity: str | None
    text: str


class Verdict(Record):
    """What a failure means.

    A retry that is safe is so as far as the error tells; the caller knows the rest (whether the
    statement is a read, what else its transaction did).

    Attributes:
        lost: the connection is unusable, or there is none: it is to be replaced.
        transient: the cause is temporary.
        read_retry_safe: a read may be retried.
        write_retry_safe: any statement may. With ``lost``: it was not sent. Without: the
            server has undone the transaction it was in, which may be retried as a whole.
        reason: why the connection died.
        rule: the name of the table's entry that decided, for logs and tests.
        read_only: the server refused to write (SQLSTATE 25006): it may be a standby now. The
            statement had no effect.
    """

    lost: bool
    transient: bool
    read_retry_safe: bool
    write_retry_safe: bool
    reason: Reason
    rule: str
    read_only: bool = False


def judge(failure: Failure) -> Verdict:
    """The verdict on a failure. Never raises; what is unknown is never safe to retry."""
    if failure.phase is Phase.CONNECT and not failure.sqlstate:
        return _judge_attempts(failure)
    return _verdict(failure, _entry(failure))


def code_in(text: str) -> str | None:
    """The SQLSTATE that goes with a server's last message: psycopg2 passes on the text alone.

    Only of messages that the server sends with one code. In another language there is none.
    """
    said = text.lower()
    for entry in TABLE:
        if len(entry.codes) == 1 and entry.lost and _says(said, entry.texts):
            return entry.codes[0]
    return None


def _judge_attempts(failure: Failure) -> Verdict:
    """One message may report several attempts (hosts, addresses): one that is hopeless decides.

    So "localhost" with nothing on ::1 and a wrong password on 127.0.0.1 is not tried again,
    in whatever language the server refuses it.
    """
    attempts = _attempts(failure.text.lower())
    exception = failure.exception if len(attempts) == 1 else ""
    verdicts = [_verdict(failure, _by_text(failure.phase, text, exception)) for text in attempts]
    return next((verdict for verdict in verdicts if not verdict.transient), verdicts[-1])


def _attempts(text: str) -> list[str]:
    """The part of a connection error that belongs to each attempt."""
    # libpq joins them by new lines; psycopg lists them after repeating the last one.
    parts = text.replace("\n- host: ", "\0").replace("connection to server ", "\0").split("\0")
    # What psycopg puts before libpq's own words says nothing.
    empty = ("connection failed:", "connection is bad:")
    said = [part for part in map(str.strip, parts) if part and not part.endswith(empty)]
    return said or [text]


def _entry(failure: Failure) -> Entry | None:
    """The entry that fits: by SQLSTATE with text, by SQLSTATE, by text alone."""
    text, code = failure.text.lower(), failure.sqlstate
    if code:
        here = [entry for entry in TABLE if failure.phase in entry.phases]
        both = (e for e in here if code in e.under + e.codes and _says(text, e.texts))
        entry = _first(both) or _first(e for e in here if code in e.codes)
        # Under any other SQLSTATE the text is the application's (RAISE, a quoted query), unless
        # the session ended: no application can make a server say FATAL.
        if entry or not _fatal(failure):
            return entry
    return _by_text(failure.phase, text, failure.exception)


def _by_text(phase: Phase, text: str, exception: str) -> Entry | None:
    here = [entry for entry in TABLE if phase in entry.phases]
    said = _first(entry for entry in here if _says(text, entry.texts))
    return said or _first(entry for entry in here if exception in entry.exceptions)


def _verdict(failure: Failure, entry: Entry | None) -> Verdict:
    lost = _lost(failure, entry)
    if entry is None or (entry.lost and not lost):
        return _without_entry(failure, lost)
    again = _again(failure.phase, entry, lost)
    return Verdict(
        lost=lost,
        transient=entry.transient,
        read_retry_safe=again.read,
        write_retry_safe=again.write,
        reason=entry.reason,
        rule=entry.name,
        read_only=entry.read_only,
    )


def _without_entry(failure: Failure, lost: bool) -> Verdict:
    """Nothing known: a loss is a loss, and an error of a living connection is not our business."""
    connecting = failure.phase is Phase.CONNECT
    again = READS if lost and failure.phase in {Phase.IDLE, Phase.STATEMENT} else NOTHING
    return Verdict(
        lost=lost,
        transient=lost and not connecting,
        read_retry_safe=again.read,
        write_retry_safe=again.write,
        reason=Reason.UNKNOWN,
        rule="unknown connection error" if connecting else "unknown loss" if lost else "not ours",
    )


def _lost(failure: Failure, entry: Entry | None) -> bool:
    if failure.connection_lost:
        return True
    if failure.phase is Phase.CONNECT:
        return entry is None or entry.lost
    if _fatal(failure):
        # The server ends the session after it; the driver may not have read the end yet.
        return True
    if failure.connection_lost is False or failure.severity == "ERROR":
        return entry is not None and entry.unnoticed
    return entry is not None and entry.lost


def _again(phase: Phase, entry: Entry, lost: bool) -> Again:
    if phase is Phase.CONNECT:
        return ALL if entry.transient else NOTHING
    if phase in {Phase.FETCH, Phase.COMMIT}:
        return NOTHING
    if lost and not entry.lost:
        # An error on a living connection proves nothing about what a dead one had sent.
        return Again(read=entry.again.read, write=False)
    return entry.again


def _fatal(failure: Failure) -> bool:
    return failure.severity in {"FATAL", "PANIC"}


def _says(text: str, parts: Iterable[str]) -> bool:
    return any(part in text for part in parts)


def _first(entries: Iterable[Entry]) -> Entry | None:
    return next(iter(entries), None)
