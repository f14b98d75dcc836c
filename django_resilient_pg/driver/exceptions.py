"""From an exception to a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import CommitOutcomeUnknown
from ..policy.verdicts import Failure, Phase, Reason, Verdict, judge
from .link import Link


def judge_error(link: Link | None, error: BaseException, phase: Phase) -> Verdict:
    """The verdict on an error, by the connection's state first."""
    lost = None if link is None else link.lost()
    return judge(failure(error, phase, connection_lost=lost))


def reason_of(link: Link) -> Reason:
    """Why a session ended, by the server's last message on its connection."""
    if link.inherited:
        return Reason.FORK
    word = link.last_word
    if word is None:
        return Reason.UNKNOWN
    failed = Failure(
        phase=Phase.IDLE,
        connection_lost=True,
        exception="",
        sqlstate=word.sqlstate,
        severity=word.severity,
        text=word.text,
    )
    return judge(failed).reason


def chain_of(
    error: BaseException | None, *, but: BaseException | None = None
) -> Iterator[BaseException]:
    """The error, what caused it, and those that a group of errors (of tasks) is made of.

    Args:
        error: where to begin.
        but: an error that was being handled before, with all of its own: an error raised within an
            ``except`` block has it for its context and is none of its doing.
    """
    seen = set() if but is None else {id(one) for one in chain_of(but)}
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        yield one
        seen.add(id(one))
        left.append(one.__cause__ or one.__context__)
        if isinstance(one, BaseExceptionGroup):
            left.extend(one.exceptions)


def tells_of(error: BaseException | None, mark: str, *, but: BaseException | None = None) -> bool:
    """Whether an error, or its cause, has a mark: ``connection_lost``, ``transaction_lost``.

    Not if the outcome of a COMMIT is unknown: then nothing may be retried. For ``but`` see
    :func:`chain_of`.
    """
    chain = list(chain_of(error, but=but))
    if any(isinstance(one, CommitOutcomeUnknown) for one in chain):
        return False
    return any(getattr(one, mark, False) for one in chain)


def alias_of(error: BaseException | None, *, but: BaseException | None = None) -> str | None:
    """The alias of the connection that an error is about; for ``but`` see :func:`chain_of`."""
    aliases = (getattr(one, "database_alias", None) for one in chain_of(error, but=but))
    return next((alias for alias in aliases if alias), None)


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of an error, from whichever driver and through Django's translation."""
    cause = error.__cause__ if error.__cause__ is not None else error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def failure(error: BaseException, phase: Phase, *, connection_lost: bool | None) -> Failure:
    """Plain data of a driver's exception, or of Django's translation of it."""
    cause = error.__cause__ if error.__cause__ is not None else error
    diagnostic = getattr(cause, "diag", None)
    severity = getattr(diagnostic, "severity_nonlocalized", None)
    return Failure(
        phase=phase,
        connection_lost=connection_lost,
        exception=type(cause).__name__,
        sqlstate=sqlstate_of(error),
        severity=severity or getattr(diagnostic, "severity", None),
        text=str(cause),
    )


def first_line(said: object, entry: Mapping[str, Any]) -> str:
    """Return the first line of an error as it may be logged: no secret, no control characters.

    A driver repeats the host that it cannot find, whatever was pasted into HOST, and what a peer
    sends.

    Args:
        said: an error, the driver's or Django's translation of it; or its text.
        entry: of DATABASES, whose values the text may repeat.
    """
    from ..conf.secrets import scrubbed  # only now: it compiles patterns
    from ..policy.plain import plain

    return plain(scrubbed(str(said).partition("\n")[0], entry))
