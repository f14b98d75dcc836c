"""What an error means: lost or not, transient or not, what may be retried, and why.

:func:`judge` takes plain data and walks the one table (:data:`.error_table.TABLE`): the state of
the driver's connection decides first, SQLSTATE and severity second, the text last. What to do about
it is decided elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from ..conf.records import Record
from .error_table import ALL, NOTHING, READS, TABLE, WRONG_PASSWORD, Again, Entry, Phase, Reason

__all__ = ["Failure", "Phase", "Reason", "Verdict", "code_in", "judge"]

# Of a report without a reason (pgpool whose server is starting): nobody said anything.
_SILENT: Final = "server closed the connection unexpectedly"


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
        transient: the cause is known to pass by itself.
        final: trying again is known to change nothing. A refused connection attempt that is
            neither is *unknown*: whether it is worth another one depends on the alias' past.
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
    final: bool = False


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
        if len(entry.codes) == 1 and entry.lost and any(part in said for part in entry.texts):
            return entry.codes[0]
    return None


class _Attempt(Record):
    """What one message says about one address."""

    host: str
    verdict: Verdict


def _judge_attempts(failure: Failure) -> Verdict:
    """One message may report several attempts: on several hosts, or addresses of one host.

    A wrong password is final for all of them, since every attempt with it counts towards the
    account's lockout. Anything else is final for the host that said it.
    """
    reports = _reports(failure.text.lower())
    exception = failure.exception if len(reports) == 1 else ""
    attempts = [
        _Attempt(host, _verdict(failure, _by_text(failure.phase, text, exception)))
        for host, text in reports
    ]
    for one in attempts:
        if one.verdict.rule == WRONG_PASSWORD:
            return one.verdict
    by_host: dict[str, list[Verdict]] = {}
    for one in attempts:
        by_host.setdefault(one.host, []).append(one.verdict)
    return _together([_of_one_host(verdicts) for verdicts in by_host.values()])


def _of_one_host(verdicts: list[Verdict]) -> Verdict:
    """What an address says outweighs that another one cannot be reached, without deciding it:
    nothing ever listens on ``::1`` of many a "localhost".
    """
    refused = [one for one in verdicts if not one.transient]
    if not refused:
        return verdicts[-1]
    same = len(refused) == len(verdicts) and all(one.final for one in refused)
    return refused[0] if same else _unknown(refused[0])


def _together(hosts: list[Verdict]) -> Verdict:
    """Transient if one host's is; final if all are; else unknown."""
    for one in reversed(hosts):
        if one.transient:
            return one
    return hosts[0] if all(one.final for one in hosts) else _unknown(hosts[0])


def _unknown(verdict: Verdict) -> Verdict:
    return Verdict(
        lost=verdict.lost,
        transient=False,
        read_retry_safe=False,
        write_retry_safe=False,
        reason=verdict.reason,
        rule=verdict.rule,
    )


@cache
def _report() -> re.Pattern[str]:
    """Where libpq's report on one address begins; elsewhere a message is one report.

    Compiled with the first refusal: it takes as long as importing several modules.
    """
    return re.compile(
        r"""connection\ to\ server\ (?:
            at\ "(?P<host>[^"]*)"(?:\ \([^)]*\))?,\ port\ (?P<port>\d+)
            |on\ socket\ "(?P<socket>[^"]*)"
        )\ failed:
        |could\ not\ translate\ host\ name\ "(?P<name>[^"]*)"
        """,
        re.VERBOSE,
    )


@cache
def _listed() -> re.Pattern[str]:
    """psycopg 3 lists its attempts behind the last one's error."""
    return re.compile(
        r"\n- host: (?P<host>'[^']*'|none)(?:, port: (?P<port>'[^']*'|none))?, hostaddr: [^\n]*?: "
    )


def _reports(text: str) -> list[tuple[str, str]]:
    """The host and the part of a connection error that belongs to each attempt."""
    found = list(_listed().finditer(text)) or list(_report().finditer(text))
    if not found:
        return [("", text)]
    ends = [*(match.start() for match in found[1:]), len(text)]
    # What the driver puts before the first of libpq's reports says nothing.
    said = [text[match.start() : ends[n]].rstrip() for n, match in enumerate(found)]
    return [
        (_host(match), _SILENT if said[n].endswith("failed:") else said[n])
        for n, match in enumerate(found)
    ]


def _host(match: re.Match[str]) -> str:
    return repr(match.groups())


def _entry(failure: Failure) -> Entry | None:
    """The entry that fits: by SQLSTATE with text, by SQLSTATE, by text alone."""
    text, code = failure.text.lower(), failure.sqlstate
    if code:
        here = [entry for entry in TABLE if failure.phase in entry.phases]
        both = (e for e in here if code in e.under + e.codes and _says(text, e))
        entry = _first(both) or _first(e for e in here if code in e.codes)
        # Under any other SQLSTATE the text is the application's (RAISE, a quoted query), unless
        # the session ended: no application can make a server say FATAL.
        if entry or not _fatal(failure):
            return entry
    return _by_text(failure.phase, text, failure.exception)


def _by_text(phase: Phase, text: str, exception: str) -> Entry | None:
    here = [entry for entry in TABLE if phase in entry.phases]
    said = _first(entry for entry in here if _says(text, entry))
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
        final=entry.final or (failure.phase is Phase.CONNECT and not entry.transient),
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


def _says(text: str, entry: Entry) -> bool:
    return any(part in text for part in entry.texts) or _says_system(text, entry)


def _says_system(text: str, entry: Entry) -> bool:
    """Whether it quotes one of the system's errors, in the language that this process has now."""
    return any(os.strerror(number).lower() in text for number in entry.errnos) or any(
        f"failed: {os.strerror(number).lower()}" in text for number in entry.failed
    )


def _first(entries: Iterable[Entry]) -> Entry | None:
    return next(iter(entries), None)
